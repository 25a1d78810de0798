//! The program's `check`, `snapshot`, `restore` and `keygen`.

use std::path::Path;

use gridkv_tests::client::{bulk, ok};
use gridkv_tests::data::log_files;
use gridkv_tests::program::{Ended, Program, command, run};

/// A node on disk in `data`.
fn start(data: &Path, arguments: &[&str]) -> Program {
    let data = data.to_str().expect("a path that is a text");
    let mut all = vec!["--storage", "file", "--data", data, "--segment", "1MiB", "--cores", "1"];
    all.extend(arguments);
    Program::start(&all)
}

/// Fills `data` with a hundred keys in three shards.
fn fill(data: &Path) {
    let mut program = start(data, &["--shards", "3"]);
    let mut client = program.connect();
    for number in 0..100 {
        assert_eq!(client.ask(&format!("SET key:{number} value-{number}")), ok());
    }
    assert_eq!(program.terminate().code(), Some(0));
}

fn check(data: &Path, arguments: &[&str]) -> Ended {
    let mut check = command(&["check", "--data", data.to_str().expect("a path that is a text")]);
    check.args(arguments);
    run(check)
}

/// Flips a bit of the record of `key`, in the first of the files that has it.
fn damage(data: &Path, key: &str) {
    for path in log_files(data) {
        let mut bytes = std::fs::read(&path).expect("it can be read");
        let found = bytes.windows(key.len()).position(|window| window == key.as_bytes());
        if let Some(at) = found {
            bytes[at] ^= 1;
            return std::fs::write(&path, bytes).expect("it can be written");
        }
    }
    panic!("{key} is in none of the files");
}

#[test]
fn check_tells_a_sound_directory_from_a_damaged_one() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("data");
    fill(&data);
    let sound = check(&data, &[]);
    assert_eq!(sound.status.code(), Some(0), "{sound:?}");
    assert_eq!(sound.out.lines().filter(|it| it.contains(": sound; ")).count(), 3, "{sound:?}");
    assert!(sound.out.contains("sound: 100 keys in 3 shards"), "{sound:?}");
    let json: serde_json::Value = serde_json::from_str(&check(&data, &["--json"]).out).unwrap();
    assert_eq!(json["sound"], true);
    let keys = |shard: &serde_json::Value| shard["keys"].as_u64().unwrap();
    assert_eq!(json["shards"].as_array().unwrap().iter().map(keys).sum::<u64>(), 100);

    damage(&data, "value-42");
    let damaged = check(&data, &[]);
    assert_eq!(damaged.status.code(), Some(1), "{damaged:?}");
    let mut places = damaged.out.lines().filter(|it| it.contains("damage in "));
    let line = places.next().unwrap();
    assert!(
        line.contains("segment ") && line.contains("offset ") && line.contains(".log"),
        "{line}"
    );
    assert!(damaged.out.contains("DAMAGED: 1 places"), "{damaged:?}");
    let json = check(&data, &["--json"]);
    assert_eq!(json.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(json["sound"], false);
}

#[test]
fn check_says_in_one_line_why_it_cannot_read() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("data");
    let refused = |data: &Path| {
        let ended = check(data, &[]);
        assert_eq!(ended.status.code(), Some(2), "{ended:?}");
        assert_eq!(ended.err.lines().count(), 1, "{ended:?}");
        ended.err
    };
    assert!(refused(&data).contains("is not a GridKV directory"));
    let program = start(&data, &[]);
    let said = refused(&data);
    assert!(said.contains(&format!("in use by process {}", program.id())), "{said}");
}

#[test]
fn a_snapshot_of_a_running_node_is_checked_and_restored_by_the_program() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("data");
    let mut program = start(&data, &["--shards", "3", "--password", "secret"]);
    let mut client = program.connect();
    assert_eq!(client.ask("AUTH secret"), ok());
    for number in 0..100 {
        assert_eq!(client.ask(&format!("SET key:{number} value-{number}")), ok());
    }
    let address = program.address.to_string();
    let refused = run(command(&["snapshot", "--listen", &address, "first"]));
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(refused.err.starts_with("gridkv: the node refuses: NOAUTH"), "{refused:?}");
    let mut snapshot = command(&["snapshot", "--listen", &address, "first"]);
    snapshot.env("GRIDKV_PASSWORD", "secret");
    let taken = run(snapshot);
    assert_eq!(taken.status.code(), Some(0), "{taken:?}");
    let path = data.join("snapshots").join("first");
    assert_eq!(taken.out.trim(), path.to_str().unwrap());
    assert_eq!(client.ask("FLUSHALL"), ok());

    // While the node runs.
    assert_eq!(check(&path, &[]).status.code(), Some(0));
    let (from, to) = (path.to_str().unwrap(), place.path().join("restored"));
    let restore = || {
        let to = to.to_str().unwrap();
        run(command(&["restore", "--from", from, "--data", to, "--shards", "2"]))
    };
    let restored = restore();
    assert_eq!(restored.status.code(), Some(0), "{restored:?}");
    assert!(restored.out.contains("restored 100 keys"), "{restored:?}");
    let again = restore();
    assert_eq!(again.status.code(), Some(1), "{again:?}");
    assert!(again.err.contains("not empty: restore into a new one"), "{again:?}");
    assert_eq!(program.terminate().code(), Some(0));

    let mut program = start(&to, &[]);
    let mut client = program.connect();
    for number in 0..100 {
        let value = client.ask(&format!("GET key:{number}"));
        assert_eq!(value, bulk(format!("value-{number}")));
    }
    assert_eq!(program.terminate().code(), Some(0));
    assert_eq!(check(&to, &[]).status.code(), Some(0));
}

#[test]
fn a_restore_that_fails_leaves_no_directory() {
    let place = tempfile::tempdir().unwrap();
    let (from, to) = (place.path().join("nothing"), place.path().join("restored"));
    let restore = |from: &Path, more: &[&str]| {
        let mut restore = command(&["restore", "--from", from.to_str().unwrap()]);
        restore.args(["--data", to.to_str().unwrap()]).args(more);
        let ended = run(restore);
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        assert_eq!(ended.err.lines().count(), 1, "{ended:?}");
        assert!(!to.exists());
        ended.err
    };
    assert!(restore(&from, &[]).contains("is not a snapshot"));
    let data = place.path().join("data");
    let mut program = start(&data, &[]);
    assert_eq!(program.connect().ask("SET key value"), ok());
    assert_eq!(program.connect().ask("SAVE"), ok());
    assert_eq!(program.terminate().code(), Some(0));
    let entry = std::fs::read_dir(data.join("snapshots")).unwrap().next().unwrap().unwrap();
    let snapshot = entry.path();
    assert!(restore(&snapshot, &["--shards", "none"]).contains("--shards"));
    std::fs::remove_file(&log_files(&snapshot)[0]).unwrap();
    assert!(restore(&snapshot, &[]).contains("it is missing"));
    // A node does not run on it either.
    let mut node = command(&["--storage", "file", "--data", snapshot.to_str().unwrap()]);
    node.args(["--listen", "127.0.0.1:0", "--admin", "off"]);
    let refused = run(node);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(refused.err.contains("is a snapshot: restore it into a new directory"), "{refused:?}");
}

#[test]
fn an_identity_is_made_once_shown_and_certified() {
    let place = tempfile::tempdir().unwrap();
    let (data, cluster_key) = (place.path().join("data"), place.path().join("cluster.key"));
    let (data, cluster_key) = (data.to_str().unwrap(), cluster_key.to_str().unwrap());
    let keygen = |arguments: &[&str], status: i32| {
        let mut keygen = command(&["keygen"]);
        keygen.args(arguments);
        let ended = run(keygen);
        assert_eq!(ended.status.code(), Some(status), "{ended:?}");
        ended
    };
    let made = keygen(&[data], 0).out;
    assert!(made.starts_with("public key "), "{made}");
    assert_eq!(keygen(&[data, "--show"], 0).out, made);
    assert!(keygen(&[data], 1).err.contains("a key is not replaced"));
    assert!(keygen(&["--new-cluster-key", cluster_key], 0).out.starts_with("cluster key "));
    let certify = ["--cluster-key", cluster_key, "--cluster-name", "blue"];
    let certified = keygen(&[&[data], &certify[..]].concat(), 0).out;
    assert!(certified.starts_with(&made), "{certified}");
    assert!(certified.contains("identity.cert"), "{certified}");
    assert_eq!(keygen(&[], 1).err.lines().count(), 1);

    // A node starts where an identity was made before.
    let mut program = start(Path::new(data), &[]);
    assert_eq!(program.terminate().code(), Some(0));
    assert_eq!(keygen(&[data, "--show"], 0).out.lines().next(), made.lines().next());
}
