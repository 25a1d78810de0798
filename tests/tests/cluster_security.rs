//! Who is let into a cluster that signs, and what the others notice of it.

use std::path::Path;

use gridkv_tests::client::{bulk, ok};
use gridkv_tests::cluster::member::keygen;
use gridkv_tests::cluster::{Cluster, Spec};
use gridkv_tests::program::{command, run};

/// Runs `gridkv keygen` with these arguments, and returns what follows `name` in what it prints.
fn keygen_line(arguments: &[&str], name: &str) -> String {
    let mut words = vec!["keygen"];
    words.extend(arguments);
    let ended = run(command(&words));
    assert!(ended.status.success(), "{ended:?}");
    let line = ended.out.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("{name} in {}", ended.out)).trim().to_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path that is a text")
}

/// Three nodes that trust the keys of each other.
fn with_trusted_keys() -> Cluster {
    let mut cluster = Cluster::planned(3, &Spec::memory().with("--cluster-security sign"));
    let keys: Vec<String> = cluster.members.iter().map(|member| member.keygen()).collect();
    for member in &mut cluster.members {
        member.arguments.extend(["--trusted-keys".to_owned(), keys.join(",")]);
    }
    cluster.start_all();
    cluster
}

/// Has a node try to join, waits for the line that says why it is not let in, and compares what the
/// members know before and after.
fn is_refused(cluster: &mut Cluster, index: usize, why: &[&str]) {
    let before = cluster.members[0].status();
    cluster.members[index].start();
    let line = cluster.members[index].wait_for_log(why);
    assert!(line.contains("WARN"), "{line}");
    let error = cluster.members[index].connect().ask_error("SET key value");
    assert!(error.starts_with("NOQUORUM "), "{error}");
    assert_eq!(cluster.members[index].status()["standing"], "joining");
    for member in 0..3 {
        let after = cluster.members[member].status();
        assert_eq!(after["epoch"], before["epoch"]);
        assert_eq!(after["members"].as_array().map(Vec::len), Some(3), "{after:#}");
    }
    assert_eq!(cluster.members[0].connect().ask("SET after refusal"), ok());
    assert_eq!(cluster.members[1].connect().ask("GET after"), bulk("refusal"));
    assert_eq!(cluster.members[index].count_in_log(why), 1, "one clear line");
    cluster.members[index].kill();
    cluster.members.truncate(3);
}

#[test]
fn a_list_of_keys_says_who_is_let_in() {
    let mut cluster = with_trusted_keys();
    assert_eq!(cluster.members[2].connect().ask("SET key value"), ok());
    assert_eq!(cluster.members[1].connect().ask("GET key"), bulk("value"));
    let keys: Vec<String> = cluster
        .members
        .iter()
        .map(|member| keygen_line(&[text(&member.data), "--show"], "public key"))
        .collect();

    let seed = Some(cluster.members[0].address);
    let stranger = cluster.plan(seed);
    let own = cluster.members[stranger].keygen();
    let trusted = format!("{},{own}", keys.join(","));
    cluster.members[stranger].arguments.extend(["--trusted-keys".to_owned(), trusted]);
    is_refused(&mut cluster, stranger, &["does not trust this node's key"]);

    let unsigned = cluster.plan(seed);
    for word in &mut cluster.members[unsigned].arguments {
        if word == "sign" {
            "off".clone_into(word);
        }
    }
    is_refused(&mut cluster, unsigned, &["one signs and the other does not"]);
}

#[test]
fn the_key_of_the_cluster_says_who_is_let_in() {
    let place = tempfile::tempdir().unwrap();
    let (ours, other) = (place.path().join("ours.key"), place.path().join("other.key"));
    let key = keygen_line(&["--new-cluster-key", text(&ours)], "cluster key");
    let other_key = keygen_line(&["--new-cluster-key", text(&other)], "cluster key");
    let certify = |data: &Path, file: &Path| {
        let arguments = [text(data), "--cluster-key", text(file), "--cluster-name", "gridkv"];
        keygen_line(&arguments, "certificate")
    };
    let spec = Spec::memory().with(&format!("--cluster-security sign --cluster-key {key}"));
    let mut cluster = Cluster::planned(3, &spec);
    for member in &cluster.members {
        certify(&member.data, &ours);
    }
    cluster.start_all();
    assert_eq!(cluster.members[2].connect().ask("SET key value"), ok());
    assert_eq!(cluster.members[1].connect().ask("GET key"), bulk("value"));

    // One that has its key certified by another's cluster, and believes in that.
    let stranger = cluster.plan(Some(cluster.members[0].address));
    certify(&cluster.members[stranger].data, &other);
    for word in &mut cluster.members[stranger].arguments {
        if *word == key {
            word.clone_from(&other_key);
        }
    }
    is_refused(&mut cluster, stranger, &["certificate"]);

    // What a node can know by itself, it is told at its start.
    let uncertified = cluster.plan(Some(cluster.members[0].address));
    let _key = keygen(&cluster.members[uncertified].data);
    cluster.members[uncertified].launch();
    let (status, said) = cluster.members[uncertified].wait_for_end();
    assert!(!status.success());
    assert!(said.contains("this node's key is not certified"), "{said}");
}
