//! Nodes that are killed, paused and restarted while clients write.

use gridkv_tests::client::{bulk, ok};
use gridkv_tests::cluster::load::{Account, Load, Options};
use gridkv_tests::cluster::{Cluster, Endpoint, Spec};
use gridkv_tests::process::say;
use gridkv_tests::seed;

/// Four clients, two at each of these nodes, which go to the other when they are refused.
fn options(cluster: &Cluster, nodes: [usize; 2], seed: u64) -> Options {
    say(&format!("SEED={seed:#x}"));
    let all = cluster.endpoints();
    let one = |first: usize, second: usize| -> Vec<Endpoint> {
        vec![all[nodes[first]].clone(), all[nodes[second]].clone()]
    };
    Options { endpoints: vec![one(0, 1), one(1, 0), one(0, 1), one(1, 0)], key_count: 60, seed }
}

/// Every node has what was acknowledged.
fn verify(cluster: &mut Cluster, accounts: &mut [Account], level: &str, nodes: &[usize]) {
    for node in nodes {
        let mut connection = cluster.members[*node].connect_at(level);
        for account in &mut *accounts {
            let verified = account.verify(&mut connection, level == "linearizable");
            verified.unwrap_or_else(|wrong| panic!("n{} at {level}: {wrong}", node + 1));
        }
    }
}

fn tell(accounts: &[Account]) {
    let sum = |figure: fn(&Account) -> u64| accounts.iter().map(figure).sum::<u64>();
    let outage = accounts.iter().map(Account::longest_outage).max().unwrap_or_default();
    say(&format!(
        "{} writes done, {} refused, {} unknown; longest without a good answer {outage:.2?}",
        sum(|it| it.book.done_count),
        sum(|it| it.book.refused_count),
        sum(|it| it.book.unknown_count),
    ));
}

#[test]
fn a_killed_node_comes_back_and_catches_up() {
    let mut cluster = Cluster::start(3, &Spec::file());
    let options = options(&cluster, [0, 1], seed(0xc1));
    let load = Load::start(&options);
    load.wait_for_row("the load runs", 30);
    cluster.members[2].kill();
    load.wait_for_row("the two others serve", 50);
    cluster.wait_for_state(0, 2, "dead");
    load.wait_for_row("they still do", 30);
    cluster.members[2].start();
    cluster.wait_until_whole();
    load.wait_for_row("all serve", 30);
    let mut accounts = load.stop().unwrap();
    tell(&accounts);
    cluster.wait_until_caught_up();
    verify(&mut cluster, &mut accounts, "one", &[2]);
    verify(&mut cluster, &mut accounts, "quorum", &[0, 1, 2]);
    verify(&mut cluster, &mut accounts, "linearizable", &[2, 0]);
}

#[test]
fn a_paused_node_comes_back_and_has_lost_nothing() {
    let mut cluster = Cluster::start(3, &Spec::memory());
    let options = options(&cluster, [0, 1], seed(0xc2));
    let load = Load::start(&options);
    load.wait_for_row("the load runs", 30);
    cluster.members[2].pause();
    cluster.wait_for_state(0, 2, "dead");
    cluster.wait_for_state(1, 2, "dead");
    load.wait_for_row("the two others serve", 50);
    cluster.members[2].resume();
    cluster.wait_until_whole();
    load.wait_for_row("all serve", 30);
    let mut accounts = load.stop().unwrap();
    tell(&accounts);
    cluster.wait_until_caught_up();
    verify(&mut cluster, &mut accounts, "one", &[2]);
    verify(&mut cluster, &mut accounts, "quorum", &[0, 1, 2]);
    verify(&mut cluster, &mut accounts, "linearizable", &[2, 0]);
}

#[test]
fn a_node_that_ends_in_order_says_that_it_leaves() {
    let mut cluster = Cluster::start(3, &Spec::file());
    let options = options(&cluster, [0, 1], seed(0xc3));
    let load = Load::start(&options);
    load.wait_for_row("the load runs", 30);
    assert!(cluster.members[2].terminate().success());
    cluster.wait_for_state(0, 2, "left");
    cluster.wait_for_state(1, 2, "left");
    load.wait_for_row("the two others serve", 50);
    cluster.members[2].start();
    cluster.wait_until_whole();
    let mut accounts = load.stop().unwrap();
    tell(&accounts);
    cluster.wait_until_caught_up();
    verify(&mut cluster, &mut accounts, "one", &[2]);
    verify(&mut cluster, &mut accounts, "quorum", &[0, 1, 2]);
    verify(&mut cluster, &mut accounts, "linearizable", &[2, 0]);
    assert_eq!(cluster.members[0].count_in_log(&["does not answer: dead"]), 0);
}

#[test]
fn what_was_acknowledged_outlives_all_three() {
    let mut cluster = Cluster::start(3, &Spec::file());
    let options = options(&cluster, [0, 2], seed(0xc4));
    let load = Load::start(&options);
    load.wait_for_row("the load runs", 100);
    for member in &mut cluster.members {
        member.program().signal(rustix::process::Signal::KILL);
    }
    for member in &mut cluster.members {
        member.wait();
    }
    let mut accounts = load.stop().unwrap();
    tell(&accounts);
    cluster.start_all();
    verify(&mut cluster, &mut accounts, "quorum", &[0, 1, 2]);
    verify(&mut cluster, &mut accounts, "linearizable", &[2, 0]);
}

#[test]
fn one_node_of_three_refuses_until_another_is_back() {
    let mut cluster = Cluster::start(3, &Spec::file());
    assert_eq!(cluster.members[0].connect_at("all").ask("SET key value"), ok());
    cluster.members[1].kill();
    cluster.members[2].kill();
    cluster.wait_for_state(0, 1, "dead");
    cluster.wait_for_state(0, 2, "dead");
    let mut client = cluster.members[0].connect();
    for request in ["SET key other", "GET key", "DEL key", "INCR count", "SET key other NX"] {
        let error = client.ask_error(request);
        assert!(error.starts_with("NOQUORUM "), "{request}: {error}");
    }
    let mut one = cluster.members[0].connect_at("one");
    assert_eq!(one.ask("GET key"), bulk("value"));
    cluster.members[2].start();
    cluster.wait_for_state(0, 2, "alive");
    gridkv_tests::until("two of three serve", || client.ask("SET key other") == ok());
    assert_eq!(client.ask("GET key"), bulk("other"));
    assert_eq!(cluster.members[2].connect().ask("GET key"), bulk("other"));
}

#[test]
fn a_node_that_has_lost_its_memory_says_so_and_harms_nobody() {
    let mut cluster = Cluster::start(3, &Spec::memory());
    let options = options(&cluster, [0, 1], seed(0xc5));
    let load = Load::start(&options);
    load.wait_for_row("the load runs", 50);
    cluster.members[2].kill();
    load.wait_for_row("the two others serve", 30);
    cluster.members[2].start();
    cluster.members[2].wait_for_status("empty", |status| status["standing"] == "empty");
    cluster.members[2].wait_for_log(&["this node has lost its data"]);
    cluster.wait_for_state(0, 2, "alive");
    load.wait_for_row("the two others still serve", 50);
    let mut accounts = load.stop().unwrap();
    tell(&accounts);
    // It knows where the others are: through it, too, what was acknowledged is found.
    verify(&mut cluster, &mut accounts, "quorum", &[0, 1, 2]);
    verify(&mut cluster, &mut accounts, "linearizable", &[2, 0]);
    let status = cluster.members[2].status();
    assert_eq!(status["standing"], "empty");
}
