//! Nodes that have lost what they held, one after another: what is gone is not told as absent before
//! somebody has said that it may be.

use gridkv_net::resp::Value;
use gridkv_tests::client::{bulk, ok, text};
use gridkv_tests::cluster::{Cluster, Spec};
use gridkv_tests::until;

/// Fails when any node tells of a key that was acknowledged that it is not there.
fn assert_nobody_says_nil(cluster: &mut Cluster) {
    for member in &mut cluster.members {
        for level in ["one", "quorum", "all", "linearizable"] {
            let mut client = member.connect_at(level);
            for request in ["GET key", "EXISTS key", "DBSIZE", "KEYS *", "SCAN 0 COUNT 1000"] {
                match client.ask(request) {
                    Value::Error(error) => assert!(error.starts_with(b"NOQUORUM"), "{request}"),
                    Value::Integer(count) => assert_eq!(count, 1, "{request} at {level}"),
                    Value::Array(items) if request.starts_with("SCAN") => {
                        assert_eq!(items[1], Value::Array(vec![bulk("key")]), "{level}");
                    }
                    Value::Array(items) => assert_eq!(items, [bulk("key")], "{level}"),
                    other => assert_eq!(other, bulk("value"), "{request} at {level}"),
                }
            }
        }
    }
}

/// Waits until a member that is started again knows why it is not let in, or is.
fn wait_until_judged(cluster: &mut Cluster, member: usize) {
    cluster.members[member].wait_for_status("a judgement", |status| {
        status["standing"] == "empty" && status["refused"].is_string()
    });
}

fn lose_one_after_another(end: impl Fn(&mut Cluster, usize)) {
    let mut cluster = Cluster::start(3, &Spec::memory());
    let mut client = cluster.members[0].connect_at("all");
    assert_eq!(client.ask("SET key value"), ok());
    for member in 0..3 {
        end(&mut cluster, member);
        cluster.members[member].start();
        wait_until_judged(&mut cluster, member);
        assert_nobody_says_nil(&mut cluster);
        // Whoever has a majority left is ready, and nobody else says so.
        for other in (0..3).filter(|other| *other > member) {
            let (code, state) = if member == 0 { (200, "ok") } else { (503, "fail") };
            until("it is told as it is", || {
                let program = cluster.members[other].program();
                let told = text(&program.connect().ask("CLUSTER INFO"));
                let is_told = told.contains(&format!("cluster_state:{state}\r"));
                is_told && program.page("/readyz").0 == code
            });
        }
        // And whoever has lost its copies leads no slots.
        let lost = format!("@{} ", cluster.members[member].address.port());
        for other in cluster.members.iter_mut().filter(|_| member < 2) {
            until("it leads nothing", || {
                let nodes = text(&other.connect().ask("CLUSTER NODES"));
                let mut lines = nodes.lines();
                let line = lines.find(|line| line.contains(&lost));
                line.is_some_and(|line| line.split(' ').count() == 8)
            });
        }
    }
    let lost = "so many members have lost their data";
    for member in 0..3 {
        cluster.members[member].wait_for_status("why", |status| {
            status["refused"].as_str().is_some_and(|why| why.contains(lost))
        });
        assert_eq!(cluster.members[member].program().page("/readyz").0, 503);
    }
    // However long they ask.
    assert_nobody_says_nil(&mut cluster);
    let epoch = cluster.members[0].status()["epoch"].clone();
    assert_eq!(epoch, 3, "nobody was taken in");
    // What is gone is gone.
    assert_eq!(cluster.members[1].connect().ask("FLUSHALL"), ok());
    cluster.wait_until_whole();
    for member in 0..3 {
        until("it is ready", || cluster.members[member].program().page("/readyz").0 == 200);
        let mut client = cluster.members[member].connect();
        assert_eq!(client.ask("GET key"), Value::Null);
        assert_eq!(client.ask(&format!("SET key:{member} value")), ok());
        assert_eq!(client.ask("DBSIZE"), Value::Integer(1 + member as i64));
    }
}

#[test]
fn memory_nodes_that_are_killed_one_after_another_do_not_form_an_empty_cluster() {
    lose_one_after_another(|cluster, member| cluster.members[member].kill());
}

#[test]
fn nor_do_those_that_are_restarted_in_order() {
    lose_one_after_another(|cluster, member| {
        assert!(cluster.members[member].terminate().success());
    });
}

#[test]
fn nor_do_those_that_are_killed_at_once() {
    let mut cluster = Cluster::start(3, &Spec::memory());
    assert_eq!(cluster.members[0].connect_at("all").ask("SET key value"), ok());
    cluster.members.iter_mut().for_each(|member| member.kill());
    cluster.members.iter_mut().for_each(|member| member.start());
    (0..3).for_each(|member| wait_until_judged(&mut cluster, member));
    assert_nobody_says_nil(&mut cluster);
}

/// Whatever was acknowledged would be known to the others, who know of nothing.
#[test]
fn one_that_has_lost_nothing_but_an_empty_store_is_taken_in() {
    let mut cluster = Cluster::start(3, &Spec::memory());
    for member in 0..3 {
        cluster.members[member].kill();
        cluster.members[member].start();
        cluster.wait_until_whole();
        assert_eq!(cluster.members[member].connect().ask("GET key"), Value::Null);
    }
}
