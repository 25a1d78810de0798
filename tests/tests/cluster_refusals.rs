//! Nodes that are started wrong, or where they do not belong: each has one clear outcome.

use std::net::TcpListener;

use gridkv_tests::client::{bulk, ok};
use gridkv_tests::cluster::{Cluster, Spec, free_address};
use gridkv_tests::program::{command, run};
use gridkv_tests::until;

#[test]
fn a_node_without_an_address_for_others_cannot_join() {
    let data = tempfile::tempdir().unwrap();
    let data = data.path().to_str().unwrap();
    let ended = run(command(&[
        "--data",
        data,
        "--join",
        "127.0.0.1:9",
        "--listen",
        "off",
        "--admin",
        "off",
    ]));
    assert!(!ended.status.success());
    assert!(ended.err.contains("join: needs `cluster`"), "{}", ended.err);
}

#[test]
fn a_node_of_another_cluster_name_is_refused() {
    let mut cluster = Cluster::start(1, &Spec::memory());
    let other = cluster.plan(Some(cluster.members[0].address));
    cluster.members[other].arguments.extend(["--cluster-name", "other"].map(str::to_owned));
    cluster.members[other].start();
    cluster.members[other].wait_for_log(&["it belongs to a cluster of another name"]);
    assert!(cluster.members[other].connect().ask_error("GET key").starts_with("NOQUORUM "));
    assert_eq!(cluster.members[0].status()["members"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_cluster_that_holds_data_takes_nobody_in_and_goes_on() {
    let mut cluster = Cluster::start(3, &Spec::memory());
    assert_eq!(cluster.members[0].connect().ask("SET key value"), ok());
    let newcomer = cluster.plan(Some(cluster.members[0].address));
    cluster.members[newcomer].start();
    let why = ["this node is not let into the cluster", "the cluster holds data"];
    cluster.members[newcomer].wait_for_log(&why);
    // It asks on, and stops nobody's writes.
    let mut client = cluster.members[1].connect();
    for number in 0..300 {
        assert_eq!(client.ask(&format!("SET key:{number} value")), ok());
        assert_eq!(client.ask(&format!("GET key:{number}")), bulk("value"));
    }
    let sent =
        |cluster: &mut Cluster| cluster.members[3].metric("gridkv_cluster_link_frames_out_total");
    let before = sent(&mut cluster);
    until("it has asked a few times more", || sent(&mut cluster) >= before + 6);
    assert_eq!(cluster.members[newcomer].count_in_log(&why), 1, "one clear line");
    assert_eq!(cluster.members[0].status()["epoch"], 3);
    // Once there is nothing left, it is let in.
    until("the keys are gone", || client.ask("FLUSHALL") == ok());
    cluster.wait_until_whole();
    assert_eq!(cluster.members[newcomer].connect().ask("SET key value"), ok());
}

/// Its members vote on it, so that it is asked for at one that none of the others answers: nobody could
/// vote, and what was there stays there.
#[test]
fn a_flush_that_no_majority_was_asked_for_is_refused_and_never_happens() {
    let mut cluster = Cluster::start(3, &Spec::file());
    let mut client = cluster.members[0].connect_at("all");
    assert_eq!(client.ask("SET key value"), ok());
    cluster.members[1].kill();
    cluster.members[2].kill();
    let error = client.ask_error("FLUSHALL");
    assert!(error.starts_with("NOQUORUM "), "{error}");
    cluster.start_all();
    assert_eq!(cluster.members[2].connect_at("all").ask("GET key"), bulk("value"));
}

#[test]
fn copies_for_which_there_are_no_nodes_are_refused_until_they_have_joined() {
    let mut cluster = Cluster::planned(3, &Spec::memory());
    cluster.members[0].start();
    let mut client = cluster.members[0].connect();
    let error = client.ask_error("SET key value");
    assert!(error.starts_with("NOQUORUM "), "{error}");
    cluster.start_all();
    assert_eq!(client.ask("SET key value"), ok());
    assert_eq!(cluster.members[2].connect_at("all").ask("GET key"), bulk("value"));
}

#[test]
fn a_seed_that_does_not_answer_is_tried_until_it_does() {
    let mut cluster = Cluster::planned(2, &Spec::memory().with("--replicas 2"));
    cluster.members[1].start();
    let address = cluster.members[0].address.to_string();
    cluster.members[1].wait_for_log(&["a peer cannot be reached", &address]);
    let mut client = cluster.members[1].connect();
    for request in ["SET key value", "GET key", "DBSIZE"] {
        let error = client.ask_error(request);
        assert!(error.starts_with("NOQUORUM "), "{request}: {error}");
    }
    assert_eq!(cluster.members[1].status()["standing"], "joining");
    cluster.start_all();
    assert_eq!(client.ask("SET key value"), ok());
}

#[test]
fn a_node_of_another_protocol_is_named() {
    let mut cluster = Cluster::start(1, &Spec::memory().with("--replicas 1"));
    let theirs = gridkv_cluster::wire::preamble::Preamble { version: 77, target: 0 }.encode();
    let mut stream = std::net::TcpStream::connect(cluster.members[0].address).unwrap();
    std::io::Write::write_all(&mut stream, &theirs).unwrap();
    let mut answer = Vec::new();
    std::io::Read::read_to_end(&mut stream, &mut answer).unwrap();
    let answer = gridkv_cluster::wire::preamble::Preamble::decode(answer[..].try_into().unwrap());
    assert_eq!(answer.map(|it| it.version), Ok(gridkv_cluster::wire::VERSION));
    cluster.members[0].wait_for_log(&["a peer speaks another version", "77"]);

    // The other way round: the seed is the one that is newer.
    let seed = free_address();
    let listener = TcpListener::bind(seed).unwrap();
    let newer = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut first = [0; 16];
        std::io::Read::read_exact(&mut stream, &mut first).unwrap();
        std::io::Write::write_all(&mut stream, &theirs).unwrap();
    });
    let joiner = cluster.plan(Some(seed));
    cluster.members[joiner].start();
    newer.join().unwrap();
    cluster.members[joiner].wait_for_log(&["speaks version 77", &seed.to_string()]);
}

/// A copy of a data directory, started beside the original, ends and says why; the original goes on.
#[test]
fn of_two_nodes_with_one_identity_the_later_one_ends() {
    let mut cluster = Cluster::start(3, &Spec::file());
    assert_eq!(cluster.members[0].connect().ask("SET key value"), ok());
    assert!(cluster.members[2].terminate().success());
    let copy = cluster.plan(Some(cluster.members[0].address));
    let (from, to) = (cluster.members[2].data.clone(), cluster.members[copy].data.clone());
    let copied = std::process::Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
    cluster.members[2].start();
    cluster.wait_for_state(0, 2, "alive");
    cluster.members[copy].launch();
    let (status, said) = cluster.members[copy].wait_for_end();
    assert!(!status.success(), "{said}");
    assert!(said.contains("another process with this node's identity is running"), "{said}");
    cluster.members.truncate(3);
    cluster.wait_until_whole();
    assert_eq!(cluster.members[2].connect().ask("GET key"), bulk("value"));
    assert_eq!(cluster.members[0].status()["members"].as_array().map(Vec::len), Some(3));
}
