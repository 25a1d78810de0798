//! Snapshots of a node that serves, and what is restored from them.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use gridkv::{Blocking, Error, SnapshotError};
use gridkv_net::resp::Value;
use gridkv_tests::client::{bulk, ok, text};
use gridkv_tests::data::{on_disk, reopened, restore};
use gridkv_tests::node::{Node, SHAPES};
use gridkv_tests::program::{command, run};
use gridkv_tests::until;

/// Keys that one thread counts up, one after the other, round after round.
const COUNTER_COUNT: usize = 40;

fn counter(writer: usize, index: usize) -> String {
    format!("counter:{writer}:{index}")
}

/// Counts up until told to stop. Each write begins when the one before was answered.
fn count_up(store: &Blocking, writer: usize, is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) {
        for index in 0..COUNTER_COUNT {
            store.increment(counter(writer, index), 1).expect("it counts");
        }
    }
}

/// The counters of a writer.
fn counters(store: &Blocking, writer: usize) -> Vec<i64> {
    let value = |index| {
        let value = store.get(counter(writer, index)).expect("it is read");
        value.map_or(0, |it| {
            String::from_utf8(it).ok().and_then(|it| it.parse().ok()).expect("a number")
        })
    };
    (0..COUNTER_COUNT).map(value).collect()
}

#[test]
fn a_snapshot_taken_while_writes_go_on_is_the_state_of_one_moment() {
    for (shape, restored_shards) in [(SHAPES[0], 3), (SHAPES[2], 1), (SHAPES[2], 5)] {
        let place = tempfile::tempdir().unwrap();
        let node = Node::open(on_disk(shape, &place.path().join("data")));
        let store = node.engine.handle().blocking();
        for number in 0..500 {
            store.set(format!("steady:{number}"), format!("value {number}")).unwrap();
            store.set(format!("gone:{number}"), "x").unwrap();
            store.delete(format!("gone:{number}")).unwrap();
        }
        let is_over = AtomicBool::new(false);
        let (info, before) = std::thread::scope(|scope| {
            for writer in 0..2 {
                let (store, is_over) = (&store, &is_over);
                scope.spawn(move || count_up(store, writer, is_over));
            }
            until("the counters have begun", || counters(&store, 1)[COUNTER_COUNT - 1] > 1);
            let before = [counters(&store, 0), counters(&store, 1)];
            let info = store.snapshot(Some("moment"));
            // What is changed, made and removed after the snapshot is not in it.
            store.set("steady:0", "changed").unwrap();
            store.delete("steady:1").unwrap();
            store.set("late", "x").unwrap();
            is_over.store(true, Ordering::Relaxed);
            (info.unwrap(), before)
        });
        let after = [counters(&store, 0), counters(&store, 1)];
        node.stop();

        let data = place.path().join("restored");
        let key_count = restore(&info.path, &data, restored_shards);
        assert_eq!(key_count, 500 + 2 * COUNTER_COUNT as u64);
        let node = Node::open(reopened(2, &data));
        assert_eq!(node.engine.handle().shard_count(), restored_shards);
        let store = node.engine.handle().blocking();
        for number in 0..500 {
            let value = store.get(format!("steady:{number}")).unwrap().unwrap();
            assert_eq!(value, format!("value {number}").into_bytes());
        }
        assert_eq!(store.get("late").unwrap(), None);
        assert_eq!(store.stats().unwrap().key_count, key_count);
        for writer in 0..2 {
            let found = counters(&store, writer);
            for (index, value) in found.iter().enumerate() {
                assert!((before[writer][index]..=after[writer][index]).contains(value));
            }
            // A write that is there has all before it beside it.
            assert!(found.is_sorted_by(|one, next| one >= next), "{found:?}");
            assert!(found[0] - found[COUNTER_COUNT - 1] <= 1, "{found:?}");
        }
        // It takes writes, and they win over what was restored.
        store.set("steady:5", "newer").unwrap();
        assert_eq!(store.get("steady:5").unwrap(), Some(b"newer".to_vec()));
        node.stop();
    }
}

#[test]
fn a_snapshot_stays_as_it_was_while_the_log_is_compacted() {
    let place = tempfile::tempdir().unwrap();
    let node = Node::open(on_disk(SHAPES[0], &place.path().join("data")));
    let store = node.engine.handle().blocking();
    for number in 0..100 {
        store.set(format!("key:{number}"), format!("old {number}")).unwrap();
    }
    let info = store.snapshot(Some("old")).unwrap();
    let compacted = || store.log_stats().unwrap().unwrap().compacted_bytes;
    let value = vec![b'v'; 100 << 10];
    until("the log is compacted", || {
        for number in 0..100 {
            store.set(format!("key:{number}"), value.clone()).unwrap();
        }
        compacted() > 0 || store.log_stats().unwrap().unwrap().written_bytes > 100 << 20
    });
    node.stop();
    let data = place.path().join("restored");
    assert_eq!(restore(&info.path, &data, 2), 100);
    let node = Node::open(reopened(1, &data));
    let store = node.engine.handle().blocking();
    for number in 0..100 {
        let value = store.get(format!("key:{number}")).unwrap().unwrap();
        assert_eq!(value, format!("old {number}").into_bytes());
    }
    node.stop();
}

/// A line of `INFO persistence`.
fn info(client: &mut gridkv_tests::client::Client, name: &str) -> String {
    let report = client.ask("INFO persistence");
    let report = text(&report);
    let found = report.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
    found.unwrap_or_else(|| panic!("{name} is not in {report}")).to_owned()
}

#[test]
fn bgsave_save_lastsave_and_info_tell_of_snapshots() {
    let place = tempfile::tempdir().unwrap();
    let data = place.path().join("data");
    let node = Node::open(on_disk(SHAPES[2], &data));
    let mut client = node.connect();
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let last_save = |client: &mut gridkv_tests::client::Client| match client.ask("LASTSAVE") {
        Value::Integer(time) => u64::try_from(time).unwrap(),
        other => panic!("a time, not {other:?}"),
    };
    let started_at = last_save(&mut client);
    assert!(started_at <= now() && started_at + 60 > now());
    assert_eq!(client.ask("SET key value"), ok());
    assert_eq!(info(&mut client, "rdb_changes_since_last_save"), "1");
    assert_eq!(info(&mut client, "rdb_saves"), "0");

    assert_eq!(client.ask("BGSAVE"), Value::Simple(b"Background saving started".to_vec()));
    until("it is done", || info(&mut client, "rdb_bgsave_in_progress") == "0");
    assert_eq!(info(&mut client, "rdb_last_bgsave_status"), "ok");
    assert_eq!(info(&mut client, "rdb_changes_since_last_save"), "0");
    assert_eq!(info(&mut client, "rdb_saves"), "1");
    assert!(last_save(&mut client) >= started_at);
    assert_eq!(client.ask("SAVE"), ok());
    assert_eq!(std::fs::read_dir(data.join("snapshots")).unwrap().count(), 2);

    until("a second one is refused while one is under way", || {
        client.send(&["BGSAVE"]);
        client.send(&["BGSAVE"]);
        let _ = client.reply();
        text(&client.reply()) == "ERR Background save already in progress"
    });
    until("it is done", || info(&mut client, "rdb_bgsave_in_progress") == "0");

    let path = data.join("snapshots").join("by-name");
    assert_eq!(client.ask("GRIDKV SNAPSHOT by-name"), bulk(path.to_str().unwrap()));
    let refused = client.ask("GRIDKV SNAPSHOT by-name");
    assert!(text(&refused).contains("is there already: choose another name"), "{refused:?}");
    assert_eq!(info(&mut client, "rdb_last_bgsave_status"), "err");
    let refused = client.ask("GRIDKV SNAPSHOT ../elsewhere");
    assert!(text(&refused).starts_with("ERR a snapshot's name has letters"), "{refused:?}");
    assert_eq!(client.ask("SAVE"), ok());
    assert_eq!(info(&mut client, "rdb_last_bgsave_status"), "ok");
    node.stop();
}

#[test]
fn a_store_in_memory_refuses_snapshots_and_says_why() {
    let node = Node::on_one_core();
    let mut client = node.connect();
    for command in ["BGSAVE", "SAVE", "GRIDKV SNAPSHOT"] {
        let refused = client.ask(command);
        let said = text(&refused);
        assert!(said.starts_with("ERR snapshots need a store on disk"), "{said}");
    }
    let store = node.engine.handle().blocking();
    let refused = store.snapshot(None).unwrap_err();
    assert!(matches!(refused, SnapshotError::NotOnDisk { .. }), "{refused}");
    node.stop();
    let closed = store.snapshot(None).unwrap_err();
    assert!(matches!(closed, SnapshotError::Shard(Error::Closed)), "{closed}");
}

/// Keys that are overwritten round after round, each with its round and much else.
const OVERWRITTEN: usize = 100;

fn overwritten(index: usize) -> String {
    format!("overwritten:{index}")
}

/// Overwrites all keys again and again, and counts the rounds of each that are acknowledged.
fn overwrite(store: &Blocking, acknowledged: &[AtomicU64], is_over: &AtomicBool) {
    let filler = "x".repeat(20_000);
    for round in 1_u64.. {
        for (index, rounds) in acknowledged.iter().enumerate() {
            if is_over.load(Ordering::Relaxed) {
                return;
            }
            store.set(overwritten(index), format!("{round} {filler}")).expect("it is written");
            rounds.store(round, Ordering::SeqCst);
        }
    }
}

/// Restores a snapshot with the program, and fails unless each key has been overwritten as often as
/// was acknowledged before it was asked for.
fn assert_restored(snapshot: &Path, data: &Path, acknowledged: &[u64]) {
    let text = |path: &Path| path.to_str().expect("a path that is a text").to_owned();
    let (from, to) = (text(snapshot), text(data));
    let restored = run(command(&["restore", "--from", &from, "--data", &to]));
    assert_eq!(restored.status.code(), Some(0), "{restored:?}");
    assert!(restored.out.contains(&format!("restored {OVERWRITTEN} keys")), "{restored:?}");
    let node = Node::open(reopened(2, data));
    let store = node.engine.handle().blocking();
    for (index, rounds) in acknowledged.iter().enumerate() {
        let value = store.get(overwritten(index)).expect("it is read");
        let value = String::from_utf8(value.expect("it was acknowledged")).expect("a text");
        let round = value.split(' ').next().and_then(|round| round.parse::<u64>().ok());
        let found = round.expect("a round");
        assert!(found >= *rounds, "key {index}: {found}, and {rounds} was acknowledged");
    }
    node.stop();
}

#[test]
fn snapshots_beside_files_that_are_freed_and_deleted_all_succeed_and_hold_what_was_acknowledged() {
    const SNAPSHOTS: u64 = 20;
    let place = tempfile::tempdir().unwrap();
    let node = Node::open(on_disk(SHAPES[2], &place.path().join("data")));
    let store = node.engine.handle().blocking();
    let acknowledged: Vec<AtomicU64> = (0..OVERWRITTEN).map(|_| AtomicU64::new(0)).collect();
    let is_over = AtomicBool::new(false);
    let written = || store.log_stats().unwrap().unwrap().written_bytes;
    let taken: Vec<_> = std::thread::scope(|scope| {
        let writer = node.engine.handle().blocking();
        let (rounds, is_over) = (&acknowledged, &is_over);
        scope.spawn(move || overwrite(&writer, rounds, is_over));
        let take = |number: u64| {
            // Not always at the same point of what happens to files.
            let before = written();
            until("files are emptied", || written() > before + (number << 19));
            let known: Vec<u64> = rounds.iter().map(|it| it.load(Ordering::SeqCst)).collect();
            (store.snapshot(Some(&format!("number-{number}"))), known)
        };
        let taken = (0..SNAPSHOTS).map(take).collect();
        is_over.store(true, Ordering::Relaxed);
        taken
    });
    node.stop();
    for (number, (taken, _)) in taken.iter().enumerate() {
        assert!(taken.is_ok(), "snapshot {number}: {taken:?}");
    }
    for number in [SNAPSHOTS / 2, SNAPSHOTS - 1] {
        let (taken, known) = &taken[number as usize];
        let path = &taken.as_ref().unwrap().path;
        assert_restored(path, &place.path().join(format!("restored-{number}")), known);
    }
}
