//! Many requests on one connection, however they are cut into packets: answered in order, as one
//! store would.

use fastrand::Rng;
use gridkv_net::resp::Value;
use gridkv_tests::client::{Client, End, bulk, encode, ok, value};
use gridkv_tests::model::{Model, any_value, request};
use gridkv_tests::node::{Node, SHAPES, builder, with};
use gridkv_tests::seed;

/// Sends requests in pieces of random length while another thread reads, and compares each reply.
fn run_pipeline(node: &Node, rng: &mut Rng, model: &mut Model, count: usize) {
    let requests: Vec<_> = (0..count).map(|_| request(rng, 60)).collect();
    let bytes: Vec<u8> = requests.iter().flat_map(|words| encode(words)).collect();
    let mut client = node.connect();
    let writer = client.stream().try_clone().expect("a descriptor is free");
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let len_max = if rng.bool() { 60_000 } else { 400 };
        let len = rng.usize(1..len_max).min(bytes.len() - at);
        pieces.push(bytes[at..at + len].to_vec());
        at += len;
    }
    let sender = std::thread::spawn(move || {
        for piece in pieces {
            std::io::Write::write_all(&mut (&writer), &piece).expect("the node reads");
        }
    });
    for (index, words) in requests.iter().enumerate() {
        let reply = client.reply();
        let expected = model.answer(words);
        let shown: Vec<_> = words.iter().take(4).map(|it| it.escape_ascii().to_string()).collect();
        assert!(
            reply == expected,
            "reply {index} to {shown:?}: {:.300} instead of {:.300}",
            format!("{reply:?}"),
            format!("{expected:?}")
        );
    }
    sender.join().expect("all was sent");
    assert!(client.is_quiet());
}

#[test]
fn random_pipelines_are_answered_in_order_as_one_store_would() {
    for (index, shape) in SHAPES.into_iter().enumerate() {
        let seed = seed(0x9176_0001 + index as u64);
        gridkv_tests::process::say(&format!("{shape:?}: SEED={seed:#x}"));
        let mut rng = Rng::with_seed(seed);
        let node = Node::start(shape);
        let mut model = Model::default();
        for _ in 0..6 {
            run_pipeline(&node, &mut rng, &mut model, 700);
        }
        node.stop();
    }
}

#[test]
fn a_request_may_be_cut_anywhere() {
    let node = Node::on_two_cores();
    let keys = node.key_of_each_shard();
    let requests: Vec<Vec<u8>> = vec![
        encode(&["SET", &keys[0], "a\r\nb"]),
        encode(&["SET", &keys[1], ""]),
        encode(&["MGET", &keys[0], &keys[1], "none"]),
        b"\r\n".to_vec(),
        b"  echo \"in line\\x21\"  \r\n".to_vec(),
        b"*0\r\n".to_vec(),
        encode(&["DBSIZE"]),
        b"EXISTS none\n".to_vec(),
    ];
    let expected = [
        ok(),
        ok(),
        Value::Array(vec![bulk("a\r\nb"), bulk(""), Value::Null]),
        bulk("in line!"),
        Value::Integer(2),
        Value::Integer(0),
    ];
    let bytes = requests.concat();
    for cut in 1..bytes.len() {
        let mut client = node.connect();
        client.send_raw(&bytes[..cut]);
        if cut % 3 == 0 {
            // So that the node has certainly seen the first part by itself.
            client.stream().set_nodelay(true).unwrap();
            std::thread::yield_now();
        }
        client.send_raw(&bytes[cut..]);
        for reply in &expected {
            assert_eq!(client.reply(), *reply, "cut at {cut}");
        }
    }
    let mut client = node.connect();
    for byte in &bytes {
        client.send_raw(&[*byte]);
    }
    for reply in &expected {
        assert_eq!(client.reply(), *reply, "byte by byte");
    }
    node.stop();
}

#[test]
fn a_client_that_has_finished_sending_gets_all_replies_and_then_the_end() {
    let node = Node::open(with(builder(SHAPES[1]), "debug_commands", "true"));
    let many: Vec<String> = (0..3_000).map(|number| format!("key:{number}")).collect();
    let all = |name: &str| -> Vec<u8> {
        encode(&std::iter::once(name).chain(many.iter().map(String::as_str)).collect::<Vec<_>>())
    };
    let value = "v".repeat(3_000);
    let pairs: Vec<&str> = many.iter().flat_map(|key| [key.as_str(), &value]).collect();
    let mut client = node.connect();
    client.send(&[&["MSET"][..], &pairs].concat());
    assert_eq!(client.reply(), ok());

    // Commands over many keys, tasks, and more output than is held at a time, with requests behind.
    let cases: [(&str, Vec<u8>, usize); 5] = [
        ("requests behind few", [encode(&["GET", "key:1"]), encode(&["PING"])].concat(), 2),
        ("behind a task", [encode(&["DEBUG", "SLEEP", "0.05"]), encode(&["PING"])].concat(), 2),
        ("behind many keys", [all("EXISTS"), encode(&["PING"]), encode(&["DBSIZE"])].concat(), 3),
        ("behind much output", [all("MGET"), all("MGET"), encode(&["PING"])].concat(), 3),
        ("half a request at the end", [encode(&["PING"]), b"*2\r\n$3\r\nGE".to_vec()].concat(), 1),
    ];
    for (name, bytes, reply_count) in cases {
        let mut client = node.connect();
        client.send_raw(&bytes);
        client.finish_sending();
        for index in 0..reply_count {
            let reply = client.try_reply_bytes();
            let reply = reply.unwrap_or_else(|end| panic!("{name}: {end:?} at reply {index}"));
            assert_ne!(reply[0], b'-', "{name}: {}", reply.escape_ascii());
        }
        assert_eq!(client.rest(), (Vec::new(), End::Closed), "{name}");
    }
    node.stop();
}

#[test]
fn replies_turned_off_stay_off_across_cores() {
    let node = Node::on_two_cores();
    let mut client = node.connect();
    let mut bytes = encode(&["CLIENT", "REPLY", "OFF"]);
    for number in 0..500 {
        let key = format!("key:{number}");
        bytes.extend(encode(&["SET", &key, "value"]));
        bytes.extend(encode(&["GET", &key]));
        bytes.extend(encode(&["MGET", &key, "key:0", "key:1"]));
        bytes.extend(encode(&["RENAME", &key, &key]));
    }
    bytes.extend(encode(&["CLIENT", "REPLY", "ON"]));
    bytes.extend(encode(&["DBSIZE"]));
    client.send_raw(&bytes);
    assert_eq!(client.reply(), ok());
    assert_eq!(client.reply(), Value::Integer(500));

    let mut bytes = Vec::new();
    for number in 0..500 {
        let key = format!("key:{number}");
        bytes.extend(encode(&["CLIENT", "REPLY", "SKIP"]));
        bytes.extend(encode(&["GET", &key]));
        bytes.extend(encode(&["ECHO", &key]));
    }
    client.send_raw(&bytes);
    for number in 0..500 {
        assert_eq!(client.reply(), bulk(format!("key:{number}")));
    }
    node.stop();
}

#[test]
fn the_third_protocol_may_begin_in_the_middle_of_a_pipeline() {
    let node = Node::on_two_cores();
    let keys = node.key_of_each_shard();
    let mut client = node.connect();
    let get = encode(&["MGET", &keys[0], &keys[1]]);
    let bytes = [&get[..], &encode(&["HELLO", "3"]), &get, &encode(&["HELLO", "2"]), &get].concat();
    client.send_raw(&bytes);
    assert_eq!(client.reply_bytes(), b"*2\r\n$-1\r\n$-1\r\n");
    assert!(matches!(client.reply(), Value::Map(_)));
    assert_eq!(client.reply_bytes(), b"*2\r\n_\r\n_\r\n");
    assert!(matches!(client.reply(), Value::Array(_)));
    assert_eq!(client.reply_bytes(), b"*2\r\n$-1\r\n$-1\r\n");
    node.stop();
}

#[test]
fn a_whole_walk_returns_each_key_once_whatever_the_step() {
    for shape in SHAPES {
        let node = Node::start(shape);
        let mut client = node.connect();
        for number in 0..2_000 {
            client.send(&["SET", &format!("key:{number}"), "value"]);
        }
        for _ in 0..2_000 {
            assert_eq!(client.reply(), ok());
        }
        for (options, expected) in [
            ("COUNT 1", 2_000),
            ("COUNT 7", 2_000),
            ("COUNT 100000", 2_000),
            ("MATCH key:1? COUNT 50", 10),
            ("TYPE string COUNT 333", 2_000),
            ("TYPE hash COUNT 333", 0),
        ] {
            let found = walk(&mut client, options);
            let mut distinct = found.clone();
            distinct.sort_unstable();
            distinct.dedup();
            assert_eq!((found.len(), distinct.len()), (expected, expected), "{shape:?} {options}");
        }
        let Value::Array(all) = client.ask("KEYS key:*") else { panic!("an array") };
        assert_eq!(all.len(), 2_000);
        node.stop();
    }
}

fn walk(client: &mut Client, options: &str) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut cursor = "0".to_owned();
    loop {
        client.send(&format!("SCAN {cursor} {options}").split(' ').collect::<Vec<_>>());
        let Value::Array(reply) = value(&client.reply_bytes()) else { panic!("an array") };
        let [Value::Bulk(next), Value::Array(keys)] = &reply[..] else { panic!("a pair") };
        for key in keys {
            let Value::Bulk(key) = key else { panic!("a key") };
            found.push(key.clone());
        }
        cursor = String::from_utf8(next.clone()).expect("a number");
        if cursor == "0" {
            return found;
        }
    }
}

#[test]
fn values_of_all_bytes_and_sizes_come_back_as_they_were() {
    let seed = seed(0x5151);
    let mut rng = Rng::with_seed(seed);
    let node = Node::on_two_cores();
    let mut client = node.connect();
    let sizes =
        [0, 1, 100, 4_095, 4_096, 16_383, 16_384, 16_385, 65_536, 262_144, 1 << 20, 16 << 20];
    for size in sizes {
        let value: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(size).collect();
        for key in [b"one".to_vec(), b"two".to_vec(), any_value(&mut rng)] {
            assert_eq!(client.call(&[b"SET", &key[..], &value]), ok(), "SEED={seed:#x} {size}");
            let reply = client.call(&[b"GET", &key[..]]);
            assert!(reply == Value::Bulk(value.clone()), "SEED={seed:#x} {size}");
            assert_eq!(client.call(&[b"DEL", &key[..]]), Value::Integer(1));
        }
    }
    node.stop();
}
