//! What a node on disk keeps over its end, and which directories it takes.

use std::path::Path;

use gridkv::{Engine, OpenError};
use gridkv_net::resp::Value;
use gridkv_tests::client::{bulk, ok, text};
use gridkv_tests::data::{on_disk, reopened};
use gridkv_tests::node::{Node, Shape};
use gridkv_tests::program::Program;

/// The message of a node that does not open, which is one line.
fn refusal(opened: Result<Engine, OpenError>) -> String {
    let message = opened.expect_err("it cannot be used").to_string();
    assert!(!message.contains('\n'), "{message}");
    message
}

fn key_count(node: &Node) -> Value {
    node.connect().ask("DBSIZE")
}

#[test]
fn everything_is_there_after_a_restart_on_more_or_fewer_cores() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("data");
    let node = Node::open(on_disk(Shape { cores: 2, shards: 3 }, &data));
    let mut client = node.connect();
    for number in 0..300 {
        assert_eq!(client.ask(&format!("SET key:{number} value-{number}")), ok());
    }
    for number in 0..100 {
        assert_eq!(client.ask(&format!("DEL key:{number}")), Value::Integer(1));
    }
    assert_eq!(client.ask("INCRBY counter 41"), Value::Integer(41));
    assert_eq!(client.ask("SET session open EX 1000"), ok());
    assert_eq!(client.ask("SET brief x PX 1"), ok());
    let expires_at = client.ask("PEXPIRETIME session");
    node.stop();

    // More cores than shards: some own none, and forward what their clients ask.
    for cores in [4, 1, 2, 3] {
        let node = Node::open(reopened(cores, &data));
        assert_eq!(node.engine.handle().shard_count(), 3);
        let mut clients: Vec<_> = (0..node.engine.core_count()).map(|_| node.connect()).collect();
        for (number, client) in (0..300).zip((0..clients.len()).cycle()) {
            let value = clients[client].ask(&format!("GET key:{number}"));
            let expected = if number < 100 { Value::Null } else { bulk(format!("value-{number}")) };
            assert_eq!(value, expected, "{cores} cores, key {number}");
        }
        for client in &mut clients {
            assert_eq!(client.ask("PEXPIRETIME session"), expires_at);
            assert_eq!(client.ask("GET brief"), Value::Null);
            let pairs = "MSET key:100 value-100 key:101 value-101 key:102 value-102";
            assert_eq!(client.ask(pairs), ok());
            assert!(text(&client.ask("INFO persistence")).contains("aof_last_write_status:ok"));
        }
        assert_eq!(clients[0].ask("INCR counter"), Value::Integer(42));
        assert_eq!(clients[0].ask("DECR counter"), Value::Integer(41));
        assert_eq!(key_count(&node), Value::Integer(202));
        node.stop();
    }
}

#[test]
fn what_was_flushed_stays_away_after_a_restart() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("data");
    let node = Node::open(on_disk(Shape { cores: 1, shards: 2 }, &data));
    let mut client = node.connect();
    for number in 0..100 {
        assert_eq!(client.ask(&format!("SET key:{number} before")), ok());
    }
    assert_eq!(client.ask("FLUSHALL"), ok());
    assert_eq!(client.ask("SET key:1 after"), ok());
    node.stop();
    let node = Node::open(reopened(1, &data));
    assert_eq!(key_count(&node), Value::Integer(1));
    assert_eq!(node.connect().ask("GET key:1"), bulk("after"));
    node.stop();
}

#[test]
fn a_directory_that_cannot_be_used_is_refused_with_what_to_do() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("data");
    let shape = Shape { cores: 1, shards: 2 };
    let node = Node::open(on_disk(shape, &data));
    node.engine.handle().blocking().snapshot(Some("first")).unwrap();
    let said = refusal(on_disk(shape, &data).open());
    let holder = format!("in use by process {}", std::process::id());
    assert!(said.contains(&holder) && said.contains("stop it, or use another"), "{said}");
    node.stop();

    let said = refusal(on_disk(Shape { cores: 1, shards: 3 }, &data).open());
    assert!(said.contains("was made with 2 shards") && said.contains("restore"), "{said}");
    let said = refusal(reopened(1, &data.join("snapshots/first")).open());
    assert!(said.contains("is a snapshot: restore it into a new directory"), "{said}");
    let said = refusal(reopened(1, place.path()).open());
    assert!(said.contains("is not a GridKV directory") && said.contains("new or empty"), "{said}");

    let shard = data.join("shard-0001");
    std::fs::rename(&shard, place.path().join("elsewhere")).unwrap();
    let said = refusal(reopened(1, &data).open());
    assert!(said.contains("shard-0001 is missing: bring it back"), "{said}");
    std::fs::rename(place.path().join("elsewhere"), &shard).unwrap();

    let manifest = data.join("MANIFEST");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, text.replace("shards = 2", "shards = 1")).unwrap();
    let said = refusal(reopened(1, &data).open());
    assert!(said.contains("MANIFEST is damaged"), "{said}");
    std::fs::write(&manifest, &text).unwrap();
    Node::open(reopened(1, &data)).stop();
}

/// A small file system of its own; `None` where none can be mounted. Gone when dropped.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(path: &'a Path) -> Option<Self> {
        std::fs::create_dir_all(path).expect("a directory can be made");
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"]).arg(path);
        mount.output().is_ok_and(|it| it.status.success()).then(|| Self(path))
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        // Lazily, should a node of a test that has failed still use it.
        let _ = std::process::Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn a_full_disk_refuses_writes_until_there_is_room() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("disk");
    let Some(_disk) = SmallDisk::mount(&path) else {
        gridkv_tests::process::say("SKIPPED: no file system can be mounted here");
        return;
    };
    let data = path.join("data");
    let node = Node::open(on_disk(Shape { cores: 1, shards: 1 }, &data));
    let mut client = node.connect();
    let value = "v".repeat(100 << 10);
    let mut written = 0;
    let refused = loop {
        match client.call(&["SET", &format!("key:{written}"), &value]) {
            reply if reply == ok() => written += 1,
            refused => break refused,
        }
        assert!(written < 100, "more than the disk holds");
    };
    assert!(text(&refused).starts_with("DISKFULL the disk is full"), "{refused:?}");
    assert!(written > 20, "{written}");
    let report = text(&client.ask("INFO persistence"));
    assert!(report.contains("gridkv_log_full_shards:1"), "{report}");
    assert!(report.contains("aof_last_write_status:err"), "{report}");
    assert_eq!(client.call(&["GET", "key:0"]), bulk(&value));
    assert_eq!(client.call(&["SET", "another", &value]), refused);
    for number in 0..written - 2 {
        // One that comes while files of dead records are being freed may be refused, not for long.
        let delete = format!("DEL key:{number}");
        gridkv_tests::until("a deletion is taken", || client.ask(&delete) == Value::Integer(1));
    }
    let again = || client.call(&["SET", "another", &value]) == ok();
    gridkv_tests::until("writes are taken again", again);
    let kept = written - 1;
    assert_eq!(client.ask(&format!("GET key:{kept}")), bulk(&value));
    node.stop();
    let node = Node::open(reopened(1, &data));
    let mut client = node.connect();
    assert_eq!(client.ask("GET another"), bulk(&value));
    assert_eq!(client.ask(&format!("GET key:{kept}")), bulk(&value));
    assert_eq!(client.ask("GET key:0"), Value::Null);
    node.stop();
}

#[test]
fn whatever_ends_the_program_in_order_leaves_all_of_it() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("data");
    let data = data.to_str().unwrap();
    let arguments =
        ["--storage", "file", "--data", data, "--segment", "1MiB", "--durability", "none"];
    for (round, ends_by_command) in [(0, true), (1, false), (2, true)] {
        let mut program = Program::start(&arguments);
        let mut client = program.connect();
        assert_eq!(client.ask("DBSIZE"), Value::Integer(round * 200));
        for number in 0..200 {
            assert_eq!(client.ask(&format!("SET key:{round}:{number} {number}")), ok());
        }
        if ends_by_command {
            client.send(&["SHUTDOWN"]);
            assert_eq!(program.wait().code(), Some(0));
        } else {
            assert_eq!(program.terminate().code(), Some(0));
        }
    }
}

#[test]
fn the_program_keeps_its_keys_on_disk_unless_told_otherwise() {
    let config = gridkv::Config::default();
    assert_eq!(config.storage, "file");
    assert_eq!(config.durability, gridkv::Durability::Commit);
    let warning = "storage is memory: all keys are gone when this process ends";
    let mut volatile = Program::start(&["--storage", "memory"]);
    volatile.terminate();
    assert!(volatile.lines.iter().any(|line| line.contains(warning)), "{:#?}", volatile.lines);
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("data");
    let mut durable = Program::start(&["--storage", "file", "--data", data.to_str().unwrap()]);
    durable.terminate();
    assert!(!durable.lines.iter().any(|line| line.contains("gone")), "{:#?}", durable.lines);
}
