//! Bytes that are no requests, and requests that announce more than they may: the error that Redis
//! gives, the connection closed, and memory for no more than what has arrived.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use gridkv_net::resp::Value;
use gridkv_tests::client::{Client, End, bulk, ok};
use gridkv_tests::node::{Node, SHAPES, builder, with};
use gridkv_tests::program::Program;
use gridkv_tests::seed;

/// Sends bytes and returns all that comes back until the node closes the connection.
fn refusal(mut client: Client, bytes: &[u8]) -> String {
    client.send_raw(bytes);
    let (reply, end) = client.rest();
    assert_eq!(end, End::Closed, "after {}", reply.escape_ascii());
    String::from_utf8_lossy(&reply).into_owned()
}

#[test]
fn what_is_no_request_gets_redis_error_and_the_end() {
    let node = Node::on_two_cores();
    let long = "x".repeat(70_000);
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"*abc\r\n".to_vec(), "invalid multibulk length"),
        (b"*1048577\r\n".to_vec(), "invalid multibulk length"),
        (b"*2147483648\r\n".to_vec(), "invalid multibulk length"),
        (b"*99999999999999999999\r\n".to_vec(), "invalid multibulk length"),
        (b"*1\r\n:5\r\n".to_vec(), "expected '$', got ':'"),
        (b"*1\r\n$abc\r\n".to_vec(), "invalid bulk length"),
        (b"*1\r\n$-1\r\n".to_vec(), "invalid bulk length"),
        (b"*1\r\n$-5\r\n".to_vec(), "invalid bulk length"),
        (b"*2\r\n$3\r\nGET\r\n$99999999999\r\n".to_vec(), "invalid bulk length"),
        (b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$16777217\r\n".to_vec(), "invalid bulk length"),
        (b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$4294967296\r\n".to_vec(), "invalid bulk length"),
        (b"get \"key\r\n".to_vec(), "unbalanced quotes in request"),
        (b"get 'key\r\n".to_vec(), "unbalanced quotes in request"),
        (b"get \"a\"b\r\n".to_vec(), "unbalanced quotes in request"),
        (long.into_bytes(), "too big inline request"),
        (format!("*{}", "1".repeat(70_000)).into_bytes(), "too big mbulk count string"),
        (format!("*1\r\n${}", "1".repeat(70_000)).into_bytes(), "too big bulk count string"),
    ];
    for (bytes, error) in cases {
        let shown = bytes[..bytes.len().min(60)].escape_ascii().to_string();
        let reply = refusal(node.connect(), &bytes);
        assert_eq!(reply, format!("-ERR Protocol error: {error}\r\n"), "{shown}");
        // What was asked before is answered before, what comes after is not looked at.
        let more = [b"PING\r\n", &bytes[..], b"\r\nPING\r\n"].concat();
        let reply = refusal(node.connect(), &more);
        assert!(reply.starts_with("+PONG\r\n-ERR Protocol error: "), "{shown}: {reply}");
        assert_eq!(reply.matches("PONG").count(), 1, "{shown}");
    }
    // None of this is an error: nothing was asked.
    let mut client = node.connect();
    client.send_raw(b"\r\n   \r\n*0\r\n*-1\r\n*-5\r\nPING\r\n");
    assert_eq!(client.reply(), Value::Simple(b"PONG".to_vec()));
    node.stop();
}

#[test]
fn noise_never_stops_the_node() {
    let seed = seed(0xbad);
    gridkv_tests::process::say(&format!("SEED={seed:#x}"));
    let mut rng = Rng::with_seed(seed);
    let node = Node::on_two_cores();
    let pieces: [&[u8]; 14] = [
        b"*3\r\n",
        b"$3\r\n",
        b"SET\r\n",
        b"$1\r\n",
        b"k\r\n",
        b"\r\n",
        b"GET k",
        b"*1\r\n$4\r\nPING\r\n",
        b"*-1\r\n",
        b"$0\r\n\r\n",
        b"\"",
        b"'",
        b"*",
        b"\0",
    ];
    for _ in 0..400 {
        let mut client = node.connect();
        let mut bytes = Vec::new();
        for _ in 0..rng.usize(1..60) {
            if rng.bool() {
                bytes.extend_from_slice(pieces[rng.usize(..pieces.len())]);
            } else {
                bytes.extend(std::iter::repeat_with(|| rng.u8(..)).take(4));
            }
        }
        client.send_raw(&bytes);
        client.finish_sending();
        let (_, end) = client.rest();
        assert_ne!(end, End::Silent);
    }
    assert_eq!(node.connect().ask("PING"), Value::Simple(b"PONG".to_vec()));
    node.stop();
}

#[test]
fn a_key_or_value_that_is_too_long_is_refused_by_its_header() {
    let node = Node::open(with(builder(SHAPES[1]), "max_value", "1MiB"));
    let key_error = "-ERR key of 65537 bytes is longer than the 65536 allowed\r\n";
    for header in [
        "*2\r\n$3\r\nGET\r\n$65537\r\n",
        "*3\r\n$3\r\nset\r\n$65537\r\n",
        "*3\r\n$6\r\nRENAME\r\n$1\r\na\r\n$65537\r\n",
        "*4\r\n$3\r\nDEL\r\n$1\r\na\r\n$1\r\nb\r\n$65537\r\n",
        "*5\r\n$4\r\nMSET\r\n$1\r\na\r\n$1\r\nb\r\n$65537\r\n",
    ] {
        // Only the header is sent: the answer cannot have waited for the rest.
        assert_eq!(refusal(node.connect(), header.as_bytes()), key_error, "{header:?}");
    }
    let value = "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1048577\r\n";
    let value_error = "-ERR Protocol error: invalid bulk length\r\n";
    assert_eq!(refusal(node.connect(), value.as_bytes()), value_error);

    // What is just short enough is taken.
    let mut client = node.connect();
    let (key, value) = ("k".repeat(65_536), "v".repeat(1 << 20));
    assert_eq!(client.call(&["SET", &key, &value]), ok());
    assert_eq!(client.call(&["GET", &key]), bulk(&value));
    assert_eq!(client.call(&["STRLEN", &key]), Value::Integer(1 << 20));
    assert_eq!(
        client.call(&["APPEND", &key, "x"]),
        Value::Error(b"ERR string exceeds maximum allowed size (max_value)".to_vec())
    );
    assert_eq!(client.call(&["STRLEN", &key]), Value::Integer(1 << 20));
    node.stop();
}

#[test]
fn a_stranger_may_say_little_before_the_password() {
    let node = Node::open(with(builder(SHAPES[1]), "password", "secret"));
    let mut client = node.connect();
    assert_eq!(client.ask_error("GET k"), "NOAUTH Authentication required.");
    assert_eq!(client.ask_error("DBSIZE"), "NOAUTH Authentication required.");
    assert!(client.ask_error("HELLO 3").starts_with("NOAUTH HELLO must be called"));
    assert_eq!(
        client.ask_error("AUTH wrong"),
        "WRONGPASS invalid username-password pair or user is disabled."
    );
    assert!(client.ask_error("AUTH other secret").starts_with("WRONGPASS"));
    assert_eq!(
        refusal(node.connect(), b"*11\r\n"),
        "-ERR Protocol error: unauthenticated multibulk length\r\n"
    );
    assert_eq!(
        refusal(node.connect(), b"*2\r\n$4\r\nAUTH\r\n$16385\r\n"),
        "-ERR Protocol error: unauthenticated bulk length\r\n"
    );
    // In one packet: what comes behind AUTH is read with the wider limits.
    let value = "v".repeat(20_000);
    let mut bytes = gridkv_tests::client::encode(&["AUTH", "secret"]);
    bytes.extend(gridkv_tests::client::encode(&["SET", "k", &value]));
    client.send_raw(&bytes);
    assert_eq!(client.reply(), ok());
    assert_eq!(client.reply(), ok());
    assert_eq!(client.ask("RESET"), Value::Simple(b"RESET".to_vec()));
    assert_eq!(client.ask_error("GET k"), "NOAUTH Authentication required.");
    assert!(matches!(client.ask("HELLO 2 AUTH default secret"), Value::Array(_)));
    assert_eq!(client.ask("GET k"), bulk(&value));
    node.stop();
}

#[test]
fn memory_follows_what_has_arrived_not_what_was_announced() {
    let program = Program::start(&["--max-value", "512MiB"]);
    let mut first = program.connect();
    assert_eq!(first.ask("PING"), Value::Simple(b"PONG".to_vec()));
    let before = program.resident_bytes();
    let mut clients = Vec::new();
    for number in 0..300 {
        let mut client = program.connect();
        let header = match number % 3 {
            0 => "*1048576\r\n",
            1 => "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$536870912\r\n",
            _ => "*1048576\r\n$3\r\nDEL\r\n$60000\r\n",
        };
        client.send_raw(header.as_bytes());
        client.send_raw(&[b'x'; 100]);
        clients.push(client);
    }
    // A reply on each later connection says that the bytes before it were taken.
    assert_eq!(program.connect().ask("DBSIZE"), Value::Integer(0));
    let grown = program.resident_bytes().saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes for 300 headers");
}

#[test]
fn many_half_written_requests_hold_up_nobody() {
    // Each is a descriptor here too: what the limit allows, up to this.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let count = usize::try_from(limit.unwrap_or(u64::MAX) / 3).unwrap_or(usize::MAX).min(2_000);
    gridkv_tests::process::say(&format!("{count} half-written requests"));
    let program = Program::start(&[]);
    let before = program.resident_bytes();
    let mut halves: Vec<Client> = (0..count).map(|_| program.connect()).collect();
    for (number, client) in halves.iter_mut().enumerate() {
        let request = gridkv_tests::client::encode(&["SET", &format!("key:{number}"), "value"]);
        client.send_raw(&request[..20]);
    }
    let mut client = program.connect();
    for number in 0..200 {
        assert_eq!(client.call(&["SET", "other", &number.to_string()]), ok());
    }
    let grown = program.resident_bytes().saturating_sub(before);
    assert!(grown < (count as u64) * (16 << 10), "{grown} bytes for {count} connections");
    // Each can still be finished.
    for (number, client) in halves.iter_mut().enumerate() {
        let request = gridkv_tests::client::encode(&["SET", &format!("key:{number}"), "value"]);
        client.send_raw(&request[20..]);
    }
    for client in &mut halves {
        assert_eq!(client.reply(), ok());
    }
    assert_eq!(client.ask("DBSIZE"), Value::Integer(i64::try_from(count).unwrap() + 1));
}

#[test]
fn unfinished_requests_of_all_clients_together_are_bounded() {
    let node = Node::open(with(builder(SHAPES[0]), "input_limit", "4MiB"));
    let piece = vec![b'x'; 1 << 20];
    let (sender, refusals) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..8 {
            let mut client = node.connect();
            let sender = sender.clone();
            client.send_raw(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$3000000\r\n");
            client.send_raw(&piece);
            scope.spawn(move || {
                let (reply, _) = client.rest();
                sender.send(String::from_utf8_lossy(&reply).contains("input_limit")).unwrap();
            });
        }
        // Three fit, whichever: each of the others is one too many while they are held.
        for _ in 0..5 {
            assert!(refusals.recv_timeout(Duration::from_secs(20)).unwrap());
        }
        assert_eq!(node.connect().ask("PING"), Value::Simple(b"PONG".to_vec()));
        node.stop();
        assert!((0..3).all(|_| !refusals.recv().unwrap()));
    });
}
