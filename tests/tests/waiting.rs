//! What waits in a core, for a disk or for a client that does not read, is bounded in bytes; what was
//! begun is brought to its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gridkv_net::resp::Value;
use gridkv_tests::client::{Client, bulk, encode, ok, text};
use gridkv_tests::node::{Node, SHAPES, builder, with};
use gridkv_tests::slow::Control;
use gridkv_tests::until;

const MIB: u64 = 1 << 20;

/// The value of a line of INFO.
fn info(client: &mut Client, name: &str) -> u64 {
    let report = text(&client.ask("INFO"));
    let line = report.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|value| value.parse().ok()).expect("a figure of that name")
}

/// Looks at INFO again and again until it says the same often, and returns the most that it said of
/// each name.
fn most(client: &mut Client, names: [&str; 2]) -> [u64; 2] {
    let (mut most, mut same) = ([0; 2], 0);
    while same < 200 {
        let now = names.map(|name| info(client, name));
        let higher = [most[0].max(now[0]), most[1].max(now[1])];
        same = if higher == most { same + 1 } else { 0 };
        most = higher;
    }
    most
}

#[test]
fn writes_that_wait_for_a_disk_stay_within_their_bound_and_are_all_answered() {
    for shape in SHAPES {
        let control = Control::default();
        let options = with(builder(shape), "waiting_limit", "16MiB");
        let node = Node::open(control.install(options));
        let cores = node.engine.core_count() as u64;
        let mut watching = node.connect();
        let before = info(&mut watching, "used_memory");
        control.fill_log();
        let value = "v".repeat(1 << 20);
        let writers: Vec<_> = (0..200)
            .map(|number| {
                let (mut client, value) = (node.connect(), value.clone());
                std::thread::spawn(move || {
                    let key = format!("key:{number}");
                    client.send(&["SET", &key, &value]);
                    assert_eq!(client.reply(), ok());
                    assert_eq!(client.call(&["STRLEN", &key]), Value::Integer(1 << 20));
                })
            })
            .collect();
        until("all that may wait does", || info(&mut watching, "gridkv_waiting_bytes") >= 16 * MIB);
        let [waiting, used] = most(&mut watching, ["gridkv_waiting_bytes", "used_memory"]);
        // A core begins no more when it has passed its bound, by one value; what it has asked of another
        // core is counted where it was asked and where it waits.
        let bound = cores * cores * (17 * MIB + 64 * 1_024);
        assert!(waiting <= bound, "{waiting} bytes wait");
        // Requests that have arrived and were not begun are bounded by `input_limit`; the buffers they
        // are in have grown by doubling.
        assert!(used - before < bound + 2 * 210 * MIB, "{used} after {before}");
        control.make_room();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        assert_eq!(info(&mut watching, "gridkv_waiting_bytes"), 0);
        node.stop();
    }
}

#[test]
fn one_request_of_many_large_values_waits_in_pieces() {
    for shape in SHAPES {
        let control = Control::default();
        let node = Node::open(control.install(with(builder(shape), "waiting_limit", "4MiB")));
        let cores = node.engine.core_count() as u64;
        let (mut client, mut watching) = (node.connect(), node.connect());
        let value = "v".repeat(1 << 20);
        let keys: Vec<String> = (0..64).map(|number| format!("key:{number}")).collect();
        let mut words = vec!["MSET"];
        keys.iter().for_each(|key| words.extend([key.as_str(), value.as_str()]));
        control.fill_log();
        let mut send = client.sender();
        let bytes = [encode(&words), encode(&["GET", "key:63"])].concat();
        let sending = std::thread::spawn(move || send(&bytes));
        until("it waits", || info(&mut watching, "gridkv_waiting_bytes") >= 4 * MIB);
        let [waiting, _] = most(&mut watching, ["gridkv_waiting_bytes", "used_memory"]);
        assert!(waiting <= cores * 8 * MIB, "{waiting} bytes wait");
        control.make_room();
        assert_eq!(client.reply(), ok());
        assert_eq!(client.reply(), bulk(&value));
        sending.join().unwrap();
        node.stop();
    }
}

#[test]
fn replies_that_nobody_reads_stay_within_their_bound_and_hold_up_nobody() {
    let node = Node::open(with(builder(SHAPES[1]), "waiting_limit", "16MiB"));
    let cores = node.engine.core_count() as u64;
    let mut client = node.connect();
    let value = "v".repeat(8 << 20);
    assert_eq!(client.call(&["SET", "key", &value]), ok());
    let requests = encode(&["GET", "key"]).repeat(10);
    // Who reads is not disconnected, whatever it asks while others are being cut off.
    let is_over = Arc::new(AtomicBool::new(false));
    let readers = [(); 4].map(|()| {
        let (mut reader, is_over) = (node.connect(), Arc::clone(&is_over));
        std::thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                assert_eq!(reader.call(&["PING"]), Value::Simple("PONG".into()));
            }
        })
    });
    let (mut deaf, mut most) = (Vec::new(), 0);
    for number in 0..32 {
        let mut client_that_reads_nothing = node.connect();
        client_that_reads_nothing.send_raw(&requests);
        deaf.push(client_that_reads_nothing);
        until("it is served", || info(&mut client, "total_commands_processed") > 2 * number);
        most = info(&mut client, "gridkv_unread_bytes").max(most);
    }
    is_over.store(true, Ordering::Relaxed);
    readers.into_iter().for_each(|reader| reader.join().unwrap());
    // Twice the bound, and what is added before it is looked at.
    assert!(most < cores * (2 * 16 + 3 * 8) * MIB, "{most} bytes are unread");
    assert_eq!(client.call(&["GET", "key"]), bulk(&value));
    assert!(info(&mut client, "client_output_buffer_limit_disconnections") > 0);
    drop(deaf);
    until("they are gone", || info(&mut client, "connected_clients") == 1);
    assert!(info(&mut client, "gridkv_unread_bytes") < MIB);
    node.stop();
}

#[test]
fn a_scan_that_asks_for_everything_gets_it_in_replies_of_bounded_size() {
    let node = Node::on_two_cores();
    let mut client = node.connect();
    let key = |number: usize| format!("{number}:{}", "k".repeat(1_000));
    for number in 0..5_000 {
        client.send(&["SET", &key(number), ""]);
    }
    (0..5_000).for_each(|_| assert_eq!(client.reply(), ok()));
    let (mut cursor, mut seen) = ("0".to_owned(), std::collections::BTreeSet::new());
    loop {
        client.send(&["SCAN", &cursor, "COUNT", "1000000000"]);
        let reply = client.reply_bytes();
        // A bound, and what one step of the walk finds.
        assert!(reply.len() < 4 << 20, "{} bytes", reply.len());
        let (Value::Array(parts), _) = gridkv_net::resp::parse_reply(&reply).unwrap().unwrap()
        else {
            panic!("an array")
        };
        let [next, Value::Array(keys)] = &parts[..] else { panic!("a cursor and keys") };
        keys.iter().for_each(|key| assert!(seen.insert(text(key)), "no key twice"));
        cursor = text(next);
        if cursor == "0" {
            break;
        }
    }
    assert_eq!(seen.len(), 5_000);
    node.stop();
}

#[test]
fn a_table_too_large_for_lcs_is_refused() {
    let node = Node::on_two_cores();
    let mut client = node.connect();
    assert_eq!(client.call(&["MSET", "a", &"a".repeat(5_000), "b", &"b".repeat(5_000)]), ok());
    let refused = client.ask_error("LCS a b");
    assert!(refused.starts_with("ERR Insufficient memory"), "{refused}");
    assert_eq!(client.call(&["SET", "b", &"a".repeat(1_000)]), ok());
    assert_eq!(client.ask("LCS a b LEN"), Value::Integer(1_000));
    node.stop();
}
