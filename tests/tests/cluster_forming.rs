//! Who forms a cluster, who joins one, and who does neither: decided, and told.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::Instant;

use gridkv_cluster::identity::{Handshake, Hello, Identity, Local, Security};
use gridkv_cluster::wire::VERSION;
use gridkv_cluster::wire::frame::{FrameWriter, Kind};
use gridkv_cluster::wire::preamble::Preamble;
use gridkv_net::resp::Value;
use gridkv_tests::client::{bulk, ok};
use gridkv_tests::cluster::{Cluster, Spec, free_address};
use gridkv_tests::process::say;
use gridkv_tests::program::{command, run};

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

/// The same command on a new disk. With nothing but that command nobody could tell it from a first
/// start; the others, who dial and probe the address of their member, can.
fn loses_its_directory(spec: &Spec, is_given_up: bool) {
    let mut cluster = Cluster::planned(3, spec);
    let first = &mut cluster.members[0];
    first.arguments = without(&first.arguments, &["--bootstrap"]);
    cluster.start_all();
    assert_eq!(cluster.members[1].connect_at("all").ask("SET key value"), ok());
    cluster.members[0].kill();
    if is_given_up {
        cluster.wait_for_state(1, 0, "dead");
        cluster.wait_for_state(2, 0, "dead");
    }
    std::fs::remove_dir_all(&cluster.members[0].data).expect("it was there");
    cluster.members[0].start();
    cluster.members[0].wait_for_log(&["not let into the cluster", "no second one is formed"]);
    cluster.members[0].wait_for_status("why it is in no cluster", |status| {
        let why = status["refused"].as_str().unwrap_or_default();
        why.contains("a member of another identity has this address")
    });
    let (code, why) = cluster.members[0].program().page("/readyz");
    assert_eq!((code, why.starts_with("not let into the cluster")), (503, true), "{why}");
    for level in ["one", "quorum", "linearizable"] {
        let mut client = cluster.members[0].connect_at(level);
        for request in ["SET key other", "GET key", "INCR count"] {
            client.ask_error(request);
        }
    }
    assert_eq!(cluster.members[0].status()["standing"], "joining");
    for member in [1, 2] {
        let mut client = cluster.members[member].connect();
        assert_eq!(client.ask("GET key"), bulk("value"));
        assert_eq!(client.ask("SET key value"), ok());
        assert_eq!(client.ask("EXISTS count"), Value::Integer(0));
    }
}

#[test]
fn a_first_node_that_has_lost_its_directory_acknowledges_nothing() {
    loses_its_directory(&Spec::file(), false);
}

#[test]
fn nor_does_one_that_the_others_have_given_up() {
    loses_its_directory(&Spec::memory(), true);
}

/// Where they all name each other, the one that is told to form a cluster joins one that is there.
#[test]
fn a_node_that_may_form_a_cluster_and_knows_members_of_one_joins_it() {
    let mut cluster = Cluster::start(2, &Spec::memory().with("--replicas 2"));
    let third = cluster.plan(Some(cluster.members[0].address));
    let arguments = &mut cluster.members[third].arguments;
    // The flag alone says yes.
    arguments.push("--bootstrap".to_owned());
    cluster.members[third].start();
    cluster.wait_until_whole();
    assert_eq!(cluster.members[third].status()["epoch"], 3);
}

#[test]
fn only_a_node_of_a_cluster_forms_one() {
    let ended = run(command(&["--bootstrap", "--listen", "off", "--admin", "off"]));
    assert!(!ended.status.success());
    assert!(ended.err.contains("bootstrap: needs `cluster`"), "{}", ended.err);
}

/// The three lines that a stranger copies, with other addresses and directories.
#[test]
fn the_three_commands_of_the_readme_form_a_cluster() {
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    let lines = readme.lines().filter(|line| line.contains("--release -- --node-id"));
    let lines: Vec<&str> = lines.collect();
    let mut cluster = Cluster::planned(lines.len(), &Spec::memory());
    let seed = cluster.members[0].address.to_string();
    assert_eq!(lines.len(), 3);
    for (line, member) in lines.iter().zip(&mut cluster.members) {
        let (_, options) = line.split_once(" -- ").unwrap();
        let words: Vec<String> = options.split(' ').map(str::to_owned).collect();
        // The tests' programs are told where clients connect.
        let mut words = without(&words, &["--listen", "--admin"]);
        for at in (0..words.len()).step_by(2) {
            words[at + 1] = match words[at].as_str() {
                "--node-id" => member.name.clone(),
                "--data" => member.data.display().to_string(),
                "--cluster" => member.address.to_string(),
                "--join" => seed.clone(),
                other => panic!("{other} in {line}"),
            };
        }
        member.arguments = words;
    }
    let started = Instant::now();
    cluster.start_all();
    say(&format!("a whole cluster after {:?}", started.elapsed()));
    assert_eq!(cluster.members[0].connect().ask("SET greeting hello"), ok());
    assert_eq!(cluster.members[2].connect().ask("GET greeting"), bulk("hello"));
}

/// One message is all that a member says that finds another node than its own at an address: it ends
/// the connection as soon as it knows who has answered.
#[test]
fn what_a_member_says_when_it_dials_is_enough_to_form_no_second_cluster() {
    let mut cluster = Cluster::planned(1, &Spec::memory());
    let node = &mut cluster.members[0];
    node.arguments = without(&node.arguments, &["--bootstrap"]);
    node.start();
    let local = Local {
        identity: Identity::from_secret([7; 32]),
        security: Security::Off,
        cluster: "gridkv".to_owned(),
    };
    let hello = Hello { address: free_address(), store: 1, epoch: 3, run: 1, cluster_id: 5 };
    let (_, introduction) = Handshake::initiate(&local, hello, [7; 32], 0);
    let len = u32::try_from(introduction.len()).unwrap();
    let mut body = [&len.to_le_bytes()[..], &introduction].concat();
    body.resize(body.len().next_multiple_of(8), 0);
    let mut bytes = Preamble { version: VERSION, target: 0 }.encode().to_vec();
    FrameWriter::default().write(Kind::Handshake, 0, &body, &mut bytes);
    let mut stream = TcpStream::connect(node.address).unwrap();
    stream.write_all(&bytes).unwrap();
    node.wait_for_log(&["not let into the cluster", "no second one is formed"]);
    let status = node.status();
    assert_eq!((&status["standing"], &status["epoch"]), (&"joining".into(), &0.into()));
    assert!(node.connect().ask_error("SET key value").starts_with("NOQUORUM "));
}
