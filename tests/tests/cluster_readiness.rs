//! `/readyz` is 200 when requests at `quorum` would be served, and says why when not.

use gridkv_tests::client::{bulk, ok};
use gridkv_tests::cluster::{Cluster, Spec, free_address};
use gridkv_tests::until;

fn ready(cluster: &mut Cluster, member: usize) -> (u16, String) {
    cluster.members[member].program().page("/readyz")
}

/// Waits until a member is not ready, for this reason.
fn wait_until_unready(cluster: &mut Cluster, member: usize, why: &str) {
    until(&format!("it says: {why}"), || {
        let (code, lines) = ready(cluster, member);
        code == 503 && lines.lines().any(|line| line.contains(why))
    });
}

#[test]
fn who_is_ready_serves_requests_at_quorum_at_once() {
    let mut cluster = Cluster::start(3, &Spec::file());
    for member in 0..3 {
        until("it is ready", || ready(&mut cluster, member) == (200, "ready\n".to_owned()));
    }
    for round in 0..5 {
        let member = round % 3;
        cluster.members[member].kill();
        cluster.members[member].start();
        until("it is ready again", || ready(&mut cluster, member).0 == 200);
        let mut client = cluster.members[member].connect_at("quorum");
        for number in 0..200 {
            assert_eq!(client.ask(&format!("SET key:{number} {round}")), ok());
            assert_eq!(client.ask(&format!("GET key:{number}")), bulk(round.to_string()));
        }
    }
}

#[test]
fn who_lacks_a_majority_is_not_ready() {
    let mut cluster = Cluster::start(3, &Spec::file());
    cluster.members[1].kill();
    cluster.members[2].kill();
    wait_until_unready(&mut cluster, 0, "too few replicas of 16384 of 16384 slots");
    assert_eq!(cluster.members[0].program().page("/healthz").0, 200);
    cluster.members[1].start();
    until("two of three are enough", || ready(&mut cluster, 0).0 == 200);
}

#[test]
fn who_is_no_member_or_has_lost_its_data_is_not_ready() {
    let mut cluster = Cluster::start(3, &Spec::memory());
    let mut client = cluster.members[0].connect();
    for number in 0..50 {
        assert_eq!(client.ask(&format!("SET key:{number} value")), ok());
    }
    cluster.members[2].kill();
    cluster.members[2].start();
    wait_until_unready(&mut cluster, 2, "lost its data");
    until("the others are ready", || {
        ready(&mut cluster, 0).0 == 200 && ready(&mut cluster, 1).0 == 200
    });
    let nowhere = cluster.plan(Some(free_address()));
    cluster.members[nowhere].start();
    wait_until_unready(&mut cluster, nowhere, "not a member of the cluster yet");
}

#[test]
fn what_peers_missed_before_a_restart_is_unknown_and_not_none() {
    let mut cluster = Cluster::start(3, &Spec::file());
    let status = cluster.members[0].status();
    assert_eq!(status["lag_unknown"].as_array().map(Vec::len), Some(0));
    cluster.members[2].kill();
    cluster.wait_for_state(0, 2, "dead");
    let mut client = cluster.members[0].connect();
    assert_eq!(client.ask("SET key value"), ok());
    cluster.members[0].kill();
    cluster.members[0].start();
    cluster.members[2].start();
    cluster.wait_until_whole();
    let status = cluster.members[0].status();
    let names = status["lag_unknown"].as_array().into_iter().flatten();
    let mut names: Vec<&str> = names.filter_map(|name| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["n2", "n3"]);
    assert_eq!(cluster.members[0].metric("gridkv_cluster_lag_unknown"), 2);
    cluster.members[0].wait_for_log(&["what other members missed before this start is not known"]);
}
