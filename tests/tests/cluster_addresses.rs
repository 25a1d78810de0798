//! Where nodes and clients are told to connect: addresses and host names that are announced.

use gridkv_tests::cluster::{Cluster, Member, Spec};
use gridkv_tests::program::{command, run};

/// The place of an option's value among a node's arguments.
fn value<'a>(member: &'a mut Member, option: &str) -> Option<&'a mut String> {
    let at = member.arguments.iter().position(|it| it == option)?;
    member.arguments.get_mut(at + 1)
}

#[test]
fn members_are_found_by_host_names_in_any_order() {
    let mut cluster = Cluster::planned(3, &Spec::memory());
    let seed = format!("nobody.invalid:7380,localhost:{}", cluster.members[0].address.port());
    for member in &mut cluster.members {
        let port = member.address.port();
        *value(member, "--cluster").expect("it has one") = format!("0.0.0.0:{port}");
        member.arguments.extend(["--cluster-announce".to_owned(), format!("localhost:{port}")]);
        if let Some(join) = value(member, "--join") {
            join.clone_from(&seed);
        }
    }
    for joiner in [2, 1] {
        cluster.members[joiner].start();
        let unknown = ["a host name cannot be resolved", "nobody.invalid"];
        cluster.members[joiner].wait_for_log(&unknown);
    }
    cluster.start_all();
    let expected: Vec<String> =
        cluster.members.iter().map(|it| format!("127.0.0.1:{}", it.address.port())).collect();
    for member in &mut cluster.members {
        let status = member.status();
        let members = status["members"].as_array().expect("members").iter();
        let mut addresses: Vec<&str> = members.filter_map(|it| it["address"].as_str()).collect();
        addresses.sort_by_key(|it| expected.iter().position(|other| other == it));
        assert_eq!(addresses, expected);
    }
    // Once, however often it is tried.
    assert_eq!(cluster.members[1].count_in_log(&["a host name cannot be resolved"]), 1);
}

#[test]
fn what_nobody_can_connect_to_is_not_announced() {
    let such_as = "such as 10.0.0.1:7379 or node-1.example:7379";
    for (arguments, option, why) in [
        ("--cluster 0.0.0.0:1", "cluster", "cluster_announce"),
        ("--cluster [::]:1", "cluster", "cluster_announce"),
        ("--announce node-1:7379", "announce", "needs `cluster`"),
        ("--cluster-announce node-1:7380", "cluster_announce", "needs `cluster`"),
        (
            "--cluster 127.0.0.1:1 --cluster-announce nobody.invalid:7380",
            "cluster_announce",
            "nobody.invalid:7380",
        ),
        ("--cluster 127.0.0.1:1 --announce node-1:7379 --listen off", "announce", "needs `listen`"),
        ("--announce 0.0.0.0:7379", "announce", such_as),
        ("--cluster 127.0.0.1:1 --cluster-announce [::]:1", "cluster-announce", such_as),
        ("--cluster 127.0.0.1:1 --join node-1", "join", such_as),
    ] {
        let place = tempfile::tempdir().expect("a directory");
        let data = place.path().to_str().expect("a text");
        let mut words = vec!["--data", data, "--admin", "off"];
        words.extend(arguments.split(' '));
        let ended = run(command(&words));
        let said = ended.err.lines().last().unwrap_or_default();
        assert!(!ended.status.success() && said.contains(option), "{arguments}: {ended:?}");
        assert!(said.contains(why), "{arguments}: {said}");
    }
}
