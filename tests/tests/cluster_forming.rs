//! Who forms a cluster, who joins one, and who does neither: decided, and told.

use gridkv_tests::client::{bulk, ok};
use gridkv_tests::cluster::{Cluster, Spec};

/// The arguments without these options and their values.
fn without(arguments: &[String], options: &[&str]) -> Vec<String> {
    let pairs = arguments.chunks(2).filter(|pair| !options.contains(&pair[0].as_str()));
    pairs.flatten().cloned().collect()
}

/// It was a node alone: its keys would be on one of four nodes, and be read or not as it happens.
#[test]
fn a_node_that_holds_keys_of_its_own_is_not_let_in_and_keeps_them() {
    let mut cluster = Cluster::start(3, &Spec::file());
    let newcomer = cluster.plan(Some(cluster.members[0].address));
    let joining = cluster.members[newcomer].arguments.clone();
    let alone = without(&joining, &["--cluster", "--join"]);
    cluster.members[newcomer].arguments.clone_from(&alone);
    cluster.members[newcomer].start();
    assert_eq!(cluster.members[newcomer].connect().ask("SET own value"), ok());
    assert!(cluster.members[newcomer].terminate().success());

    cluster.members[newcomer].arguments = joining;
    cluster.members[newcomer].start();
    let why = "the newcomer holds keys of its own";
    cluster.members[newcomer].wait_for_log(&["this node is not let into the cluster", why]);
    cluster.members[newcomer].wait_for_status("why it is not let in", |status| {
        status["refused"].as_str().is_some_and(|text| text.contains(why))
    });
    // It asks on, and that disturbs nobody.
    let mut client = cluster.members[1].connect();
    for number in 0..300 {
        assert_eq!(client.ask(&format!("SET key:{number} value")), ok());
    }
    let error = cluster.members[newcomer].connect().ask_error("GET own");
    assert!(error.starts_with("NOQUORUM "), "{error}");
    let status = cluster.members[newcomer].status();
    assert_eq!((&status["standing"], &status["epoch"]), (&"joining".into(), &0.into()));
    assert_eq!(cluster.members[0].status()["epoch"], 3);
    assert!(cluster.members[newcomer].terminate().success());

    cluster.members[newcomer].arguments = alone;
    cluster.members[newcomer].start();
    assert_eq!(cluster.members[newcomer].connect().ask("GET own"), bulk("value"));
}
