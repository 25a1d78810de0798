//! Values that are on disk: who waits for them, and who does not.

use futures_lite::future::block_on;
use gridkv::{BatchResult, Condition, Error, Expiry, SetOptions, SetOutcome};
use gridkv_net::resp::Value;
use gridkv_tests::client::{Client, bulk, encode, ok, text};
use gridkv_tests::node::{Node, SHAPES, Shape, builder};
use gridkv_tests::slow::Control;
use gridkv_tests::until;

fn start(shape: Shape) -> (Node, Control) {
    let control = Control::default();
    (Node::open(control.install(builder(shape))), control)
}

/// Has every core do whatever it was asked before.
fn pass_a_turn(node: &Node) {
    for _ in 0..3 {
        block_on(node.engine.handle().run_on_all(|_| ())).expect("the cores run");
    }
}

fn until_read(control: &Control, key: &str) {
    until("the read is begun", || control.reads().iter().any(|it| it == key));
}

#[test]
fn commands_on_a_key_keep_their_order_while_the_first_waits_for_the_disk() {
    for shape in SHAPES {
        let (node, control) = start(shape);
        for key in node.key_of_each_shard() {
            let (mut first, mut second) = (node.connect(), node.connect());
            assert_eq!(first.call(&["SET", &key, "1"]), ok());
            control.put_on_disk(&key);
            first.send(&["INCR", &key]);
            until_read(&control, &key);
            first.send(&["SET", &key, "5"]);
            first.send(&["INCR", &key]);
            first.send(&["PING"]);
            pass_a_turn(&node);
            second.send(&["APPEND", &key, "0"]);
            second.send(&["GET", &key]);
            pass_a_turn(&node);
            assert!(first.hears_nothing());
            assert!(second.hears_nothing());
            control.read(&key);
            let replies = [Value::Integer(2), ok(), Value::Integer(6)];
            replies.into_iter().for_each(|reply| assert_eq!(first.reply(), reply));
            assert_eq!(first.reply(), Value::Simple(b"PONG".to_vec()));
            // Its client has been served by whatever core: it came after the INCR that waits.
            let len = second.reply();
            let value = second.reply();
            assert!(len == Value::Integer(2), "{len:?}");
            assert!(["20", "50", "60"].map(bulk).contains(&value), "{value:?}");
        }
        node.stop();
    }
}

#[test]
fn other_keys_are_served_while_one_waits() {
    for shape in SHAPES {
        let (node, control) = start(shape);
        let (slow, quick) = (&node.keys_of(0, 2)[0], &node.keys_of(0, 2)[1]);
        let (mut waiting, mut other) = (node.connect(), node.connect());
        assert_eq!(waiting.call(&["MSET", slow, "slow", quick, "quick"]), ok());
        control.put_on_disk(slow);
        waiting.send(&["GET", slow]);
        waiting.send(&["GET", quick]);
        until_read(&control, slow);
        assert_eq!(other.call(&["GET", quick]), bulk("quick"));
        assert_eq!(other.call(&["SET", quick, "quicker"]), ok());
        let store = node.engine.handle().blocking();
        assert_eq!(store.get(quick), Ok(Some(b"quicker".to_vec())));
        // Whether a key is there is known without its value.
        assert_eq!(store.set("fresh", "value"), Ok(()));
        control.put_on_disk("fresh");
        assert_eq!(store.exists("fresh"), Ok(true));
        assert!(waiting.hears_nothing());
        control.read(slow);
        assert_eq!(waiting.reply(), bulk("slow"));
        assert!(["quick", "quicker"].map(bulk).contains(&waiting.reply()));
        node.stop();
    }
}

#[test]
fn answers_of_another_core_arrive_in_the_order_in_which_they_are_ready() {
    let (node, control) = start(SHAPES[1]);
    let keys = [node.keys_of(0, 20), node.keys_of(1, 20)].concat();
    let mut clients: Vec<Client> = (0..4).map(|_| node.connect()).collect();
    for key in &keys {
        assert_eq!(clients[0].call(&["SET", key, key]), ok());
    }
    for key in keys.iter().step_by(3) {
        control.put_on_disk(key);
    }
    for client in &mut clients {
        keys.iter().for_each(|key| client.send(&["GET", key]));
    }
    // From the last to the first, so that all but one come out of turn.
    for key in keys.iter().step_by(3).collect::<Vec<_>>().into_iter().rev() {
        control.read(key);
    }
    for client in &mut clients {
        keys.iter().for_each(|key| assert_eq!(client.reply(), bulk(key)));
    }
    node.stop();
}

#[test]
fn commands_over_many_keys_wait_for_those_on_disk() {
    for shape in SHAPES {
        let (node, control) = start(shape);
        let mut client = node.connect();
        let keys: Vec<String> = (0..600).map(|number| format!("key:{number}")).collect();
        let pairs: Vec<String> =
            keys.iter().flat_map(|key| [key.clone(), format!("{key}!")]).collect();
        assert_eq!(client.call(&[vec!["MSET".to_owned()], pairs].concat()), ok());
        let words = |name: &str| [vec![name.to_owned()], keys.clone()].concat();
        control.read_at_once();
        keys.iter().step_by(2).for_each(|key| control.put_on_disk(key));
        let values = keys.iter().map(|key| bulk(format!("{key}!"))).collect();
        assert_eq!(client.call(&words("MGET")), Value::Array(values));
        assert_eq!(client.call(&words("EXISTS")), Value::Integer(600));
        assert_eq!(client.call(&words("DEL")), Value::Integer(600));
        assert_eq!(client.call(&words("DEL")), Value::Integer(0));
        assert_eq!(control.reads().len(), 300, "only values that are asked for are read");
        assert_eq!(control.released_count(), 300);
        node.stop();
    }
}

#[test]
fn a_scan_over_keys_on_disk_is_complete() {
    for shape in SHAPES {
        let (node, control) = start(shape);
        let mut client = node.connect();
        let mut keys: Vec<String> = (0..500).map(|number| format!("key:{number}")).collect();
        for key in &keys {
            assert_eq!(client.call(&["SET", key, "value"]), ok());
            control.put_on_disk(key);
        }
        control.read_at_once();
        let (mut found, mut cursor) = (Vec::new(), "0".to_owned());
        loop {
            let Value::Array(reply) = client.call(&["SCAN", &cursor, "COUNT", "100"]) else {
                panic!("an array");
            };
            let Value::Array(part) = &reply[1] else { panic!("an array") };
            found.extend(part.iter().map(text));
            cursor = text(&reply[0]);
            if cursor == "0" {
                break;
            }
        }
        found.sort_unstable();
        keys.sort_unstable();
        assert_eq!(found, keys);
        let Value::Array(all) = client.ask("KEYS *") else { panic!("an array") };
        assert_eq!(all.len(), 500);
        assert_eq!(client.ask("FLUSHALL"), ok());
        assert_eq!(client.call(&["SET", "only", "value"]), ok());
        control.put_on_disk("only");
        assert_eq!(client.ask("RANDOMKEY"), bulk("only"));
        node.stop();
    }
}

#[test]
fn a_read_that_fails_is_an_error_for_one_command_and_others_go_on() {
    for shape in SHAPES {
        let (node, control) = start(shape);
        for key in node.key_of_each_shard() {
            let mut client = node.connect();
            assert_eq!(client.call(&["SET", &key, "value"]), ok());
            control.put_on_disk(&key);
            client.send_raw(
                &[
                    encode(&["GET", &key]),
                    encode(&["SET", &key, "new"]),
                    encode(&["GET", &key]),
                    encode(&["PING"]),
                ]
                .concat(),
            );
            until_read(&control, &key);
            control.fail_read(&key);
            let error = "ERR the record in 0000000001.log at 4096 is damaged";
            assert_eq!(client.reply(), Value::Error(error.as_bytes().to_vec()));
            assert_eq!(client.reply(), ok());
            assert_eq!(client.reply(), bulk("new"));
            assert_eq!(client.reply(), Value::Simple(b"PONG".to_vec()));
            let store = node.engine.handle().blocking();
            control.put_on_disk(&key);
            let failed = store.get(&key).unwrap_err();
            assert!(matches!(failed, Error::Read(_)), "{failed}");
            assert_eq!(store.get_versioned("absent"), Ok(None));
        }
        node.stop();
    }
}

#[test]
fn writes_wait_for_room_in_the_log() {
    for shape in SHAPES {
        let (node, control) = start(shape);
        let keys = node.key_of_each_shard();
        let (here, there) = (&keys[0], &keys[keys.len() - 1]);
        let mut client = node.connect();
        assert_eq!(client.call(&["SET", here, "old"]), ok());
        control.fill_log();
        client.send(&["SET", here, "1"]);
        client.send(&["MSET", here, "2", there, "3", "other", "4"]);
        client.send(&["DEL", here, "absent"]);
        client.send(&["GET", there]);
        until("a write has found no room", || control.waiting_for_room() > 0);
        pass_a_turn(&node);
        assert!(client.hears_nothing());
        assert_eq!(node.connect().call(&["GET", "absent"]), Value::Null);
        control.make_room();
        assert_eq!(client.reply(), ok());
        assert_eq!(client.reply(), ok());
        assert_eq!(client.reply(), Value::Integer(1));
        let value = if here == there { Value::Null } else { bulk("3") };
        assert_eq!(client.reply(), value);
        node.stop();
    }
}

/// Commands of several writes, of which each may have to wait.
#[test]
fn commands_of_several_writes_are_done_once_when_the_log_has_no_room() {
    for shape in SHAPES {
        let (node, control) = start(shape);
        let keys = node.keys_of(0, 4);
        let mut client = node.connect();
        assert_eq!(client.call(&["SET", &keys[0], "value"]), ok());
        control.fill_log();
        client.send(&["RENAMENX", &keys[0], &keys[1]]);
        until("the write has found no room", || control.waiting_for_room() > 0);
        control.make_room();
        assert_eq!(client.reply(), Value::Integer(1));
        let before = control.waiting_for_room();
        control.fill_log();
        client.send(&["MSETNX", &keys[2], "1", &keys[3], "2", &keys[2], "3"]);
        until("the write has found no room", || control.waiting_for_room() > before);
        control.make_room();
        assert_eq!(client.reply(), Value::Integer(1));
        let expected = [Value::Null, bulk("value"), bulk("3"), bulk("2")].to_vec();
        let get = [vec!["MGET".to_owned()], keys.clone()].concat();
        assert_eq!(client.call(&get), Value::Array(expected));
        node.stop();
    }
}

#[test]
fn calls_of_the_api_wait_for_the_disk() {
    for shape in SHAPES {
        let (node, control) = start(shape);
        let handle = node.engine.handle();
        let store = handle.blocking();
        for key in node.key_of_each_shard() {
            store.set(&key, "1").unwrap();
            control.put_on_disk(&key);
            let calls = std::thread::scope(|scope| {
                let waiting = scope.spawn(|| store.increment(&key, 1));
                until_read(&control, &key);
                assert!(!waiting.is_finished());
                control.read(&key);
                waiting.join().unwrap()
            });
            assert_eq!(calls, Ok(2));
            control.put_on_disk(&key);
            let options = SetOptions {
                condition: Condition::Equals(b"2".to_vec()),
                expiry: Expiry::Never,
                ..SetOptions::default()
            };
            let outcome = store.set_with(&key, "3", options).unwrap();
            assert!(matches!(outcome, SetOutcome::Written(_)));
            // Closures read at once.
            control.put_on_disk(&key);
            let value = store.run_on(&key, {
                let key = key.clone();
                move |shard| shard.get(key.as_bytes()).map(|it| it.map(<[u8]>::to_vec))
            });
            assert_eq!(value, Ok(Ok(Some(b"3".to_vec()))));
        }
        node.stop();
    }
}

#[test]
fn a_batch_waits_for_its_keys_together() {
    for shape in SHAPES {
        let (node, control) = start(shape);
        let handle = node.engine.handle();
        let keys = [node.keys_of(0, 5), node.key_of_each_shard()].concat();
        for key in &keys {
            handle.blocking().set(key.as_str(), "1").unwrap();
            control.put_on_disk(key);
        }
        let mut batch = handle.batch();
        for key in &keys {
            batch = batch.increment(key.as_str(), 1).get(key.as_str());
        }
        let running = std::thread::spawn(move || batch.set("fresh", "1").run_blocking());
        let mut distinct = keys.clone();
        distinct.sort_unstable();
        distinct.dedup();
        until("all reads are begun", || control.reads().len() == distinct.len());
        assert!(!running.is_finished());
        keys.iter().for_each(|key| control.read(key));
        let results = running.join().unwrap();
        assert_eq!(results.last(), Some(&Ok(BatchResult::Done)));
        assert!(matches!(results[0], Ok(BatchResult::Sum(2))), "{results:?}");
        assert_eq!(results[1], Ok(BatchResult::Value(Some(b"2".to_vec()))));
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        node.stop();
    }
}

#[test]
fn what_waits_for_the_disk_is_answered_before_the_node_ends() {
    for shape in SHAPES {
        let (node, control) = start(shape);
        let keys = node.key_of_each_shard();
        let mut client = node.connect();
        keys.iter().for_each(|key| assert_eq!(client.call(&["SET", key, "value"]), ok()));
        for key in &keys {
            control.put_on_disk(key);
            client.send(&["GET", key]);
            until_read(&control, key);
        }
        let shards = keys.len();
        let handle = node.engine.handle().blocking();
        let stopping = std::thread::spawn(move || node.engine.shutdown());
        until("the engine takes no calls", || handle.exists("x") == Err(Error::Closed));
        assert!(client.hears_nothing());
        keys.iter().for_each(|key| control.read(key));
        keys.iter().for_each(|_| assert_eq!(client.reply(), bulk("value")));
        assert_eq!(stopping.join().unwrap(), Ok(()));
        assert_eq!(control.closed_count(), shards);
    }
}
