//! Clients that read slowly or not at all, that say nothing, that are too many: bounded, and
//! nobody else waits for them.

use std::time::{Duration, Instant};

use gridkv_net::resp::Value;
use gridkv_tests::client::{Client, End, bulk, encode, ok, text};
use gridkv_tests::node::{Node, SHAPES, builder, with};
use gridkv_tests::program::Program;
use gridkv_tests::{DEADLINE, until};

fn pong() -> Value {
    Value::Simple(b"PONG".to_vec())
}

/// The value of a line of INFO.
fn info(client: &mut Client, name: &str) -> u64 {
    let report = text(&client.ask("INFO"));
    let line = report.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|value| value.parse().ok()).expect("a figure of that name")
}

#[test]
fn a_client_that_asks_for_gigabytes_and_reads_nothing_costs_little() {
    let program = Program::start(&["--output-limit", "64MiB"]);
    let mut other = program.connect();
    let value = "v".repeat(4 << 20);
    let keys: Vec<String> = (0..8).map(|number| format!("key:{number}")).collect();
    for key in &keys {
        assert_eq!(other.call(&["SET", key, &value]), ok());
    }
    let before = program.resident_bytes();
    let mut greedy: Vec<Client> = Vec::new();
    for number in 0..6 {
        let mut client = program.connect();
        let mut words = vec!["MGET"];
        words.extend((0..1_000).map(|it| keys[it % keys.len()].as_str()));
        // Half of them in one reply of 4 GB, half in a thousand of 4 MB.
        let bytes: Vec<u8> = if number % 2 == 0 {
            encode(&words)
        } else {
            words[1..].iter().flat_map(|key| encode(&["GET", key])).collect()
        };
        client.send_raw(&bytes);
        greedy.push(client);
    }
    let mut most = 0;
    for number in 0..300 {
        assert_eq!(other.call(&["SET", "other", &number.to_string()]), ok());
        most = most.max(program.resident_bytes().saturating_sub(before));
    }
    // For each at most what may wait for a client, and as much on its way between the cores.
    assert!(most < 6 * 2 * (64 << 20), "{} MiB more", most >> 20);
    // They wait rather than being cut off: whoever reads after all gets all of it.
    assert_eq!(info(&mut other, "connected_clients"), 7);
    let mut late = greedy.swap_remove(0);
    let header = late.receive();
    assert!(header.is_ok(), "it is still served");
    drop((late, greedy));
    until("they are gone", || info(&mut other, "connected_clients") == 1);
}

#[test]
fn a_single_reply_beyond_the_output_limit_ends_the_connection() {
    let node = Node::open(with(builder(SHAPES[1]), "output_limit", "1MiB"));
    let mut other = node.connect();
    for number in 0..3_000 {
        let key = format!("{number}:{}", "k".repeat(1_000));
        assert_eq!(other.call(&["SET", &key, ""]), ok());
    }
    let error = "ERR more keys than output_limit allows: use SCAN";
    assert_eq!(other.ask_error("KEYS *"), error);
    let Value::Array(all) = other.ask("MGET a b c") else { panic!("an array") };
    assert_eq!(all.len(), 3);
    node.stop();
}

#[test]
fn a_slow_reader_gets_everything_in_the_end() {
    let node = Node::open(with(builder(SHAPES[1]), "output_timeout", "1s"));
    let mut client = node.connect();
    let value = "v".repeat(8 << 20);
    for key in node.key_of_each_shard() {
        assert_eq!(client.call(&["SET", &key, &value]), ok());
    }
    let keys = node.key_of_each_shard();
    let requests: Vec<u8> =
        (0..8).flat_map(|it| encode(&["GET", &keys[it % keys.len()]])).collect();
    client.send_raw(&requests);
    // Reads a little at a time, for longer than the time-out: it is slow, but it reads.
    let mut left = 8 * (value.len() + "$8388608\r\n\r\n".len());
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(2_500) {
        left -= client.drop_received().expect("it is served as long as it reads");
        std::thread::sleep(Duration::from_millis(25));
    }
    while left > 0 {
        left -= client.drop_received().expect("the rest comes too");
    }
    client.finish_sending();
    assert_eq!(client.rest(), (Vec::new(), End::Closed));
    node.stop();
}

#[test]
fn a_client_that_stops_reading_is_cut_off_after_the_output_timeout() {
    let node = Node::open(with(builder(SHAPES[1]), "output_timeout", "300ms"));
    let mut client = node.connect();
    let value = "v".repeat(16 << 20);
    assert_eq!(client.call(&["SET", "key", &value]), ok());
    let mut stuck = node.connect();
    stuck.send(&["GET", "key"]);
    let mut observer = node.connect();
    until("it is disconnected", || info(&mut observer, "connected_clients") == 2);
    assert_eq!(client.ask("PING"), pong());
    let (received, _) = stuck.rest();
    assert!(received.len() < value.len());
    node.stop();
}

#[test]
fn a_silent_client_is_cut_off_after_the_client_timeout_and_a_busy_one_is_not() {
    let node = Node::open(with(builder(SHAPES[1]), "client_timeout", "1s"));
    let mut silent: Vec<Client> = (0..4).map(|_| node.connect()).collect();
    let mut half = node.connect();
    half.send_raw(b"*2\r\n$3\r\nGET\r\n");
    let mut busy = node.connect();
    let deadline = Instant::now() + DEADLINE;
    while info(&mut busy, "connected_clients") > 1 {
        assert!(Instant::now() < deadline, "the silent ones are cut off");
    }
    for client in silent.iter_mut().chain([&mut half]) {
        assert_eq!(client.rest(), (Vec::new(), End::Closed));
    }
    assert_eq!(busy.ask("PING"), pong());
    node.stop();
}

#[test]
fn one_client_too_many_is_told_so() {
    let node = Node::open(with(builder(SHAPES[1]), "max_clients", "5"));
    let mut clients: Vec<Client> = (0..5).map(|_| node.connect()).collect();
    clients.iter_mut().for_each(|client| assert_eq!(client.ask("PING"), pong()));
    for _ in 0..3 {
        let (reply, _) = node.connect().rest();
        assert_eq!(reply, b"-ERR max number of clients reached\r\n");
    }
    assert_eq!(info(&mut clients[0], "rejected_connections"), 3);
    drop(clients.pop());
    until("there is room for one again", || {
        let mut client = node.connect();
        client.send_raw(b"PING\r\n");
        client.try_reply_bytes().is_ok_and(|reply| reply == b"+PONG\r\n")
    });
    // CONFIG SET reaches all cores.
    assert_eq!(clients[0].ask("CONFIG SET maxclients 50"), ok());
    let more: Vec<Client> = (0..40).map(|_| node.connect()).collect();
    for mut client in more {
        assert_eq!(client.ask("PING"), pong());
    }
    node.stop();
}

#[test]
fn a_client_that_waits_holds_up_nobody() {
    let node = Node::open(with(builder(SHAPES[0]), "debug_commands", "true"));
    let mut waiting: Vec<Client> = (0..20).map(|_| node.connect()).collect();
    for client in &mut waiting {
        client.send(&["DEBUG", "SLEEP", "0.3"]);
        client.send(&["GET", "key"]);
    }
    let mut client = node.connect();
    for number in 0..100 {
        assert_eq!(client.call(&["SET", "key", &number.to_string()]), ok());
    }
    for client in &mut waiting {
        assert_eq!(client.reply(), ok());
        assert_eq!(client.reply(), bulk("99"));
    }
    node.stop();
}

#[test]
fn idle_clients_cost_little_memory_and_no_processor_time() {
    let program = Program::start(&[]);
    let mut first = program.connect();
    assert_eq!(first.ask("PING"), pong());
    let before = program.resident_bytes();
    let mut idle: Vec<Client> = (0..1_000).map(|_| program.connect()).collect();
    idle.iter_mut().for_each(|client| assert_eq!(client.ask("PING"), pong()));
    let grown = program.resident_bytes().saturating_sub(before);
    assert!(grown < 1_000 * (8 << 10), "{grown} bytes for 1000 idle clients");
    // Two ticks of timers later: of those, not one hundredth of a second of two cores.
    let ticks = gridkv_tests::process::cpu_ticks(program.id());
    std::thread::sleep(Duration::from_millis(500));
    let used = gridkv_tests::process::cpu_ticks(program.id()) - ticks;
    assert!(used < 25, "{used} hundredths of a second in half a second of nothing to do");
}
