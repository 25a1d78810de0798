//! Nodes that answer before their logs are on disk: one that was killed may lack what it acknowledged, and
//! is not counted.

use gridkv_net::resp::Value;
use gridkv_tests::client::{bulk, ok};
use gridkv_tests::cluster::{Cluster, Spec};
use gridkv_tests::until;

fn file(durability: &str) -> Spec {
    let arguments = "--storage file --segment 1MiB --cache 1MiB --durability";
    Spec::default().with(&format!("{arguments} {durability}"))
}

#[test]
fn a_killed_node_that_answered_before_its_log_was_on_disk_is_behind_and_not_counted() {
    let mut cluster = Cluster::start(3, &file("none"));
    let mut client = cluster.members[0].connect_at("all");
    for number in 0..100 {
        assert_eq!(client.ask(&format!("SET key:{number} value")), ok());
    }
    cluster.members[2].kill();
    cluster.members[2].start();
    cluster.members[2].wait_for_status("behind", |status| status["standing"] == "behind");
    cluster.members[2].wait_for_log(&["may lack what it has acknowledged"]);
    assert_eq!(cluster.members[2].program().page("/readyz").0, 503);
    cluster.wait_for_state(0, 2, "alive");
    // Whoever is asked, and however many: what it lacks is nobody's answer.
    for level in ["one", "quorum", "linearizable"] {
        let mut client = cluster.members[2].connect_at(level);
        for number in 0..100 {
            assert_eq!(client.ask(&format!("GET key:{number}")), bulk("value"), "{level}");
        }
    }
    // It takes writes, in order to be of use again.
    let mut client = cluster.members[0].connect_at("all");
    assert_eq!(client.ask("SET new value"), ok());
    // Without one of the others there is no majority that remembers.
    cluster.members[1].kill();
    cluster.wait_for_state(0, 1, "dead");
    let mut client = cluster.members[0].connect_at("quorum");
    let refusal = client.ask_error("GET key:1");
    assert!(refusal.starts_with("NOQUORUM"), "{refusal}");
    cluster.members[1].start();
    cluster.wait_for_state(0, 1, "alive");
    // A start in order does not make it forget that it is.
    cluster.members[2].terminate();
    cluster.members[2].start();
    cluster.members[2].wait_for_status("behind", |status| status["standing"] == "behind");
}

#[test]
fn a_node_that_ends_in_order_is_not_behind() {
    let mut cluster = Cluster::start(3, &file("interval:1s"));
    let mut client = cluster.members[0].connect_at("all");
    assert_eq!(client.ask("SET key value"), ok());
    cluster.members[2].terminate();
    cluster.members[2].start();
    cluster.members[2].wait_for_status("serving", |status| status["standing"] == "serving");
    cluster.wait_until_whole();
    let mut client = cluster.members[2].connect_at("one");
    assert_eq!(client.ask("GET key"), bulk("value"));
}

/// Nobody is left who knows what there was: until somebody says that it is gone.
#[test]
fn nodes_that_are_all_behind_answer_nothing_until_all_is_flushed() {
    let mut cluster = Cluster::start(3, &file("none"));
    assert_eq!(cluster.members[0].connect_at("all").ask("SET key value"), ok());
    cluster.members.iter_mut().for_each(|member| member.kill());
    cluster.members.iter_mut().for_each(|member| member.start());
    for member in &mut cluster.members {
        member.wait_for_status("behind", |status| status["standing"] == "behind");
        assert_eq!(member.program().page("/readyz").0, 503);
        for level in ["one", "quorum", "linearizable"] {
            for request in ["GET key", "GET nothing", "DBSIZE"] {
                let refusal = member.connect_at(level).ask_error(request);
                assert!(refusal.starts_with("NOQUORUM"), "{request} at {level}: {refusal}");
            }
        }
    }
    until("a majority answers", || cluster.members[0].connect().ask("FLUSHALL") == ok());
    cluster.wait_until_whole();
    for number in 0..3 {
        let member = &mut cluster.members[number];
        until("it is ready", || member.program().page("/readyz").0 == 200);
        let mut client = member.connect();
        assert_eq!(client.ask("GET key"), Value::Null);
        assert_eq!(client.ask(&format!("SET key:{number} value")), ok());
        assert_eq!(client.ask(&format!("GET key:{number}")), bulk("value"));
    }
    // It ends in order, and is whole; it is killed, and is behind again.
    assert!(cluster.members[1].terminate().success());
    cluster.members[1].start();
    cluster.wait_until_whole();
    cluster.members[1].kill();
    cluster.members[1].start();
    cluster.members[1].wait_for_status("behind", |status| status["standing"] == "behind");
}

/// Nobody else has what it has: there is nothing to be behind of.
#[test]
fn a_killed_node_whose_copies_are_the_only_ones_serves_them() {
    let mut cluster = Cluster::start(1, &file("none").with("--replicas 1"));
    let mut client = cluster.members[0].connect();
    assert_eq!(client.ask("SET key value"), ok());
    cluster.members[0].kill();
    cluster.members[0].start();
    cluster.members[0].wait_for_status("serving", |status| status["standing"] == "serving");
    let mut client = cluster.members[0].connect();
    for level in ["one", "quorum", "linearizable"] {
        assert_eq!(client.ask(&format!("GRIDKV CONSISTENCY {level}")), ok());
        assert_eq!(client.ask("SET key other"), ok(), "{level}");
        assert_eq!(client.ask("GET key"), bulk("other"), "{level}");
    }
}
