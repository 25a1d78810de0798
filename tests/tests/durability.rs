//! An answer says that a write is durable: it leaves when that is true, and not before.

use futures_lite::future::block_on;
use gridkv::{
    Builder, Durability, Error, NodeId, Outcome, SetOptions, SetOutcome, Timestamp, Version,
};
use gridkv_net::resp::Value;
use gridkv_tests::client::{Client, bulk, encode, ok, text};
use gridkv_tests::node::{Node, SHAPES, Shape, builder, with};
use gridkv_tests::slow::Control;
use gridkv_tests::until;

const LOST: &str = "UNKNOWN the log could not be made durable: the write may be lost";

fn start(shape: Shape) -> (Node, Control) {
    open(builder(shape))
}

fn open(builder: Builder) -> (Node, Control) {
    let control = Control::default();
    (Node::open(control.install(builder)), control)
}

fn error(text: &str) -> Value {
    Value::Error(text.as_bytes().to_vec())
}

/// Has every core do, and send, whatever it was asked before.
fn pass_a_turn(node: &Node) {
    let mut clients: Vec<Client> = (0..4).map(|_| node.connect()).collect();
    for _ in 0..3 {
        for client in &mut clients {
            assert_eq!(client.ask("PING"), Value::Simple(b"PONG".to_vec()));
        }
    }
}

fn until_applied(control: &Control, count: usize) {
    until("the writes are applied", || control.applied_count() >= count);
}

#[test]
fn a_set_is_answered_when_it_is_durable() {
    for shape in SHAPES {
        let (node, control) = start(shape);
        control.hold_commits();
        // On its own core and on another, whichever the client is on.
        let keys = node.key_of_each_shard();
        let mut clients: Vec<Client> = (0..2).map(|_| node.connect()).collect();
        for client in &mut clients {
            keys.iter().for_each(|key| client.send(&["SET", key, "value"]));
        }
        until_applied(&control, 2 * keys.len());
        pass_a_turn(&node);
        assert!(clients.iter_mut().all(Client::hears_nothing));
        control.commit();
        for client in &mut clients {
            keys.iter().for_each(|_| assert_eq!(client.reply(), ok()));
        }
        node.stop();
    }
}

#[test]
fn commands_over_many_keys_are_answered_when_all_of_it_is_durable() {
    for shape in SHAPES {
        let (node, control) = start(shape);
        let keys = node.key_of_each_shard();
        let mut client = node.connect();
        control.hold_commits();
        let pairs: Vec<String> = keys.iter().flat_map(|key| [key.clone(), "1".into()]).collect();
        client.send(&[vec!["MSET".to_owned()], pairs].concat());
        until_applied(&control, keys.len());
        pass_a_turn(&node);
        assert!(client.hears_nothing());
        control.commit();
        assert_eq!(client.reply(), ok());
        control.hold_commits();
        let before = control.applied_count();
        client.send(&[vec!["DEL".to_owned()], keys.clone()].concat());
        until_applied(&control, before + keys.len());
        pass_a_turn(&node);
        assert!(client.hears_nothing());
        control.commit();
        assert_eq!(client.reply(), Value::Integer(i64::try_from(keys.len()).unwrap()));
        node.stop();
    }
}

#[test]
fn calls_of_the_api_return_when_they_are_durable() {
    for shape in SHAPES {
        let (node, control) = start(shape);
        let handle = node.engine.handle();
        for key in node.key_of_each_shard() {
            control.hold_commits();
            let before = control.applied_count();
            let (one, key) = (handle.clone(), key.clone());
            let calls = [
                std::thread::spawn({
                    let (one, key) = (one.clone(), key.clone());
                    move || one.blocking().set(key, "value")
                }),
                std::thread::spawn({
                    let (one, key) = (one.clone(), key.clone());
                    move || {
                        let results = one.batch().set(key.clone(), "value").get(key).run_blocking();
                        results.into_iter().find_map(Result::err).map_or(Ok(()), Err)
                    }
                }),
                std::thread::spawn(move || {
                    let bytes = key.clone().into_bytes();
                    let set = move |shard: &mut gridkv::Shard| shard.set(&bytes, b"value");
                    one.blocking().run_on(key, set)?
                }),
            ];
            until_applied(&control, before + 3);
            pass_a_turn(&node);
            assert!(calls.iter().all(|call| !call.is_finished()));
            control.commit();
            for call in calls {
                assert_eq!(call.join().unwrap(), Ok(()));
            }
        }
        node.stop();
    }
}

#[test]
fn a_value_is_shown_when_its_write_is_durable_and_others_at_once() {
    for shape in SHAPES {
        let (node, control) = start(shape);
        let keys = node.keys_of(0, 2);
        let (fresh, settled) = (&keys[0], &keys[1]);
        let [mut writer, mut reader, mut other] = [(); 3].map(|()| node.connect());
        assert_eq!(other.call(&["SET", settled, "old"]), ok());
        control.hold_commits();
        let before = control.applied_count();
        writer.send(&["SET", fresh, "new"]);
        until_applied(&control, before + 1);
        reader.send(&["GET", fresh]);
        assert_eq!(other.call(&["GET", settled]), bulk("old"));
        assert_eq!(other.call(&["SET", settled, "x", "NX"]), Value::Null);
        pass_a_turn(&node);
        assert!(reader.hears_nothing());
        assert!(writer.hears_nothing());
        control.commit();
        assert_eq!(reader.reply(), bulk("new"));
        assert_eq!(writer.reply(), ok());
        // So is a deletion.
        control.hold_commits();
        writer.send(&["DEL", fresh]);
        until_applied(&control, before + 2);
        reader.send(&["GET", fresh]);
        pass_a_turn(&node);
        assert!(reader.hears_nothing());
        control.commit();
        assert_eq!(reader.reply(), Value::Null);
        assert_eq!(writer.reply(), Value::Integer(1));
        node.stop();
    }
}

#[test]
fn a_held_reply_holds_back_what_follows_it_on_its_connection_only() {
    for shape in SHAPES {
        let (node, control) = start(shape);
        let keys = node.key_of_each_shard();
        let (mut client, mut other) = (node.connect(), node.connect());
        control.hold_commits();
        let mut pipeline = encode(&["PING", "first"]);
        for key in &keys {
            pipeline.extend(encode(&["SET", key, "value"]));
            pipeline.extend(encode(&["PING", key]));
            pipeline.extend(encode(&["GET", "absent"]));
        }
        client.send_raw(&pipeline);
        until_applied(&control, keys.len());
        assert_eq!(client.reply(), bulk("first"));
        pass_a_turn(&node);
        assert!(client.hears_nothing());
        assert_eq!(other.call(&["GET", "absent"]), Value::Null);
        control.commit();
        for key in &keys {
            assert_eq!(client.reply(), ok());
            assert_eq!(client.reply(), bulk(key));
            assert_eq!(client.reply(), Value::Null);
        }
        node.stop();
    }
}

#[test]
fn long_pipelines_of_writes_are_answered_in_full() {
    const COUNT: usize = 100_000;
    for shape in SHAPES {
        let (node, control) = start(shape);
        let mut client = node.connect();
        control.hold_commits();
        let mut sender = client.sender();
        let sending = std::thread::spawn(move || {
            for chunk in 0..COUNT / 1_000 {
                let one = |number: usize| encode(&["INCR", &format!("key:{}", number % 64)]);
                let bytes: Vec<u8> =
                    (0..1_000).flat_map(|number| one(chunk * 1_000 + number)).collect();
                sender(&bytes);
            }
        });
        until_applied(&control, 10);
        assert!(client.hears_nothing());
        control.commit();
        for number in 0..COUNT {
            let expected = i64::try_from(number / 64 + 1).unwrap();
            assert_eq!(client.reply(), Value::Integer(expected), "{number}");
        }
        sending.join().unwrap();
        node.stop();
    }
}

#[test]
fn when_the_log_fails_held_writes_are_unknown_and_later_ones_refused() {
    for shape in SHAPES {
        let (node, control) = start(shape);
        let keys = node.keys_of(0, 3);
        let (settled, lost, fresh) = (&keys[0], &keys[1], &keys[2]);
        let store = node.engine.handle().blocking();
        let [mut near, mut far] = [(); 2].map(|()| node.connect());
        assert_eq!(near.call(&["SET", settled, "old"]), ok());
        control.hold_commits();
        let before = control.applied_count();
        for client in [&mut near, &mut far] {
            client.send(&["PING"]);
            client.send(&["SET", lost, "1"]);
            client.send(&["SET", lost, "2"]);
            client.send(&["MSET", lost, "3"]);
            client.send(&["GET", lost]);
            client.send(&["GET", settled]);
        }
        let call = std::thread::spawn({
            let (store, lost) = (store.clone(), lost.clone());
            move || store.set(lost, "3")
        });
        until_applied(&control, before + 7);
        pass_a_turn(&node);
        control.fail_log();
        for client in [&mut near, &mut far] {
            assert_eq!(client.reply(), Value::Simple(b"PONG".to_vec()));
            (0..4).for_each(|_| assert_eq!(client.reply(), error(LOST)));
            assert_eq!(client.reply(), bulk("old"));
        }
        assert_eq!(call.join().unwrap(), Err(Error::NotDurable));
        assert_eq!(Error::NotDurable.outcome(), Outcome::Unknown);
        for client in [&mut near, &mut far] {
            let refused = client.call(&["SET", fresh, "value"]);
            assert!(text(&refused).starts_with("MISCONF the log has failed"), "{refused:?}");
            assert_eq!(client.call(&["GET", settled]), bulk("old"));
            assert_eq!(client.call(&["GET", lost]), error(LOST));
        }
        assert_eq!(store.set(fresh, "value"), Err(Error::LogFailed));
        assert_eq!(store.get(settled), Ok(Some(b"old".to_vec())));
        node.stop();
    }
}

#[test]
fn a_full_disk_refuses_writes_and_serves_reads_and_deletions() {
    let (node, control) = start(SHAPES[1]);
    let mut client = node.connect();
    for key in node.key_of_each_shard() {
        assert_eq!(client.call(&["SET", &key, "value"]), ok());
    }
    control.fill_disk();
    for key in node.key_of_each_shard() {
        let refused = client.call(&["SET", &key, "other"]);
        assert!(text(&refused).starts_with("DISKFULL the disk is full"), "{refused:?}");
        assert_eq!(client.call(&["GET", &key]), bulk("value"));
        assert_eq!(client.call(&["DEL", &key]), Value::Integer(1));
    }
    let store = node.engine.handle().blocking();
    assert_eq!(store.set("key", "value"), Err(Error::DiskFull));
    assert_eq!(Error::DiskFull.outcome(), Outcome::NotApplied);
    node.stop();
}

#[test]
fn flushing_waits_for_room_in_every_log_and_is_answered_when_all_is_durable() {
    for shape in SHAPES {
        let (node, control) = start(shape);
        let mut client = node.connect();
        let keys = node.key_of_each_shard();
        for key in &keys {
            assert_eq!(client.call(&["SET", key, "value"]), ok());
        }
        // One has no room; one that is cleared before it, by the same core where it has two, is slow.
        control.fill_log_of(shape.shards - 1);
        control.hold_commits_of(shape.shards.saturating_sub(2));
        client.send(&["FLUSHALL"]);
        until("a shard has no room", || control.waiting_for_room() == 1);
        pass_a_turn(&node);
        assert!(client.hears_nothing());
        // The others are empty. What is written to them now is no business of the flush.
        let (mut other, mut looking) = (node.connect(), node.connect());
        for key in &keys[..keys.len() - 1] {
            until("it is cleared", || looking.call(&["EXISTS", key]) == Value::Integer(0));
            other.send(&["SET", key, "later"]);
        }
        assert_eq!(looking.call(&["EXISTS", &keys[keys.len() - 1]]), Value::Integer(1));
        control.make_room();
        pass_a_turn(&node);
        assert!(client.hears_nothing(), "it is not durable yet");
        control.commit();
        assert_eq!(client.reply(), ok());
        keys[1..].iter().for_each(|_| assert_eq!(other.reply(), ok()));
        for key in &keys[..keys.len() - 1] {
            assert_eq!(other.call(&["GET", key]), bulk("later"));
        }
        assert_eq!(client.call(&["DBSIZE"]), Value::Integer(i64::from(shape.shards) - 1));
        node.stop();
    }
}

#[test]
fn a_write_can_be_more_or_less_durable_than_the_node_is_told() {
    let set = |node: &Node, key: &str, durability| {
        let options = SetOptions { durability: Some(durability), ..SetOptions::default() };
        let (store, key) = (node.engine.handle().blocking(), key.to_owned());
        std::thread::spawn(move || store.set_with(key, "value", options))
    };
    for shape in SHAPES {
        let (node, control) = start(shape);
        control.hold_commits();
        for key in node.key_of_each_shard() {
            let answered = set(&node, &key, Durability::None).join().unwrap();
            assert!(matches!(answered, Ok(SetOutcome::Written(_))), "{answered:?}");
        }
        assert_eq!(control.commit_requests(), 0);
        control.commit();
        node.stop();

        let (node, control) = open(with(builder(shape), "durability", "interval:1h"));
        control.hold_commits();
        let mut client = node.connect();
        for key in node.key_of_each_shard() {
            assert_eq!(client.call(&["SET", &key, "value"]), ok());
            assert_eq!(client.call(&["GET", &key]), bulk("value"));
            let (applied, requests) = (control.applied_count(), control.commit_requests());
            let waiting = set(&node, &key, Durability::Commit);
            until_applied(&control, applied + 1);
            pass_a_turn(&node);
            assert!(!waiting.is_finished());
            assert_eq!(control.commit_requests(), requests + 1);
            control.commit();
            assert!(waiting.join().unwrap().is_ok());
            control.hold_commits();
        }
        node.stop();
    }
}

#[test]
fn durability_can_be_changed_as_far_as_the_stores_can_follow() {
    let (node, control) = open(with(builder(SHAPES[1]), "durability", "interval:2s"));
    let mut client = node.connect();
    let appendfsync = |client: &mut Client| match client.ask("CONFIG GET appendfsync") {
        Value::Array(pair) => text(&pair[1]),
        other => panic!("an array, not {other:?}"),
    };
    assert_eq!(appendfsync(&mut client), "everysec");
    let refused = client.ask("CONFIG SET appendfsync everysec");
    assert!(text(&refused).contains("durability = interval:2s"), "{refused:?}");
    assert_eq!(client.ask("CONFIG SET appendfsync always"), ok());
    assert_eq!(appendfsync(&mut client), "always");
    control.hold_commits();
    client.send(&["SET", "key", "value"]);
    until_applied(&control, 1);
    pass_a_turn(&node);
    assert!(client.hears_nothing());
    assert_eq!(control.commit_requests(), 1);
    control.commit();
    assert_eq!(client.reply(), ok());
    assert_eq!(client.ask("CONFIG SET appendfsync no"), ok());
    control.hold_commits();
    assert_eq!(client.call(&["SET", "key", "other"]), ok());
    node.stop();
}

#[test]
fn held_replies_leave_before_the_node_ends() {
    for shape in SHAPES {
        let (node, control) = start(shape);
        let keys = node.key_of_each_shard();
        let mut client = node.connect();
        control.hold_commits();
        keys.iter().for_each(|key| client.send(&["SET", key, "value"]));
        until_applied(&control, keys.len());
        let handle = node.engine.handle().blocking();
        let stopping = std::thread::spawn(move || node.engine.shutdown());
        until("the engine takes no calls", || handle.exists("x") == Err(Error::Closed));
        assert!(client.hears_nothing());
        control.commit();
        keys.iter().for_each(|_| assert_eq!(client.reply(), ok()));
        assert_eq!(stopping.join().unwrap(), Ok(()));
        assert_eq!(control.closed_count(), keys.len());
    }
}

/// A clock that went back while the node was down.
#[test]
fn new_writes_win_over_what_a_store_had_before() {
    let control = Control::default();
    let before = Version { timestamp: Timestamp(u64::MAX >> 1), node: NodeId(0) };
    control.set_version_max(before);
    let node = Node::open(control.install(builder(SHAPES[1])));
    for key in node.key_of_each_shard() {
        let handle = node.engine.handle();
        block_on(handle.set(&key, "value")).unwrap();
        let written = block_on(handle.get_versioned(&key)).unwrap().unwrap();
        assert!(written.version > before);
    }
    node.stop();
}
