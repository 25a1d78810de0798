//! A client library that people use works unchanged.

use gridkv_tests::node::{Node, SHAPES, builder, with};
use redis::{Commands, Connection, ConnectionLike, ExistenceCheck, SetExpiry, SetOptions, Value};

fn connect(node: &Node, options: &str) -> Connection {
    let client = redis::Client::open(format!("redis://{options}{}", node.address));
    client.expect("an address").get_connection().expect("a connection")
}

#[test]
fn the_rust_client_reads_and_writes() {
    let node = Node::on_two_cores();
    let mut client = connect(&node, "");
    let _: () = client.set("key", "value").unwrap();
    assert_eq!(client.get::<_, String>("key").unwrap(), "value");
    assert_eq!(client.get::<_, Option<String>>("none").unwrap(), None);
    assert_eq!(client.incr::<_, _, i64>("counter", 5).unwrap(), 5);
    let _: () = client.mset(&[("a", 1), ("b", 2), ("c", 3)]).unwrap();
    assert_eq!(
        client.mget::<_, Vec<Option<i32>>>(&["a", "none", "c"]).unwrap(),
        [Some(1), None, Some(3)]
    );
    let options = SetOptions::default()
        .conditional_set(ExistenceCheck::NX)
        .with_expiration(SetExpiry::EX(100))
        .get(true);
    assert_eq!(client.set_options::<_, _, Option<String>>("fresh", "x", options).unwrap(), None);
    assert!(client.ttl::<_, i64>("fresh").unwrap() > 90);
    let mut keys: Vec<String> = client.scan_match("[abc]").unwrap().map(Result::unwrap).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["a", "b", "c"]);
    assert_eq!(client.del::<_, usize>(&["a", "b", "none"]).unwrap(), 2);
    let error = client.incr::<_, _, i64>("key", 1).unwrap_err();
    assert!(error.to_string().contains("not an integer"), "{error}");
    assert!(client.check_connection());
    node.stop();
}

#[test]
fn pipelines_of_the_rust_client_are_answered_in_order() {
    let node = Node::start(SHAPES[2]);
    let mut client = connect(&node, "");
    let mut pipe = redis::pipe();
    for number in 0..1_000 {
        pipe.set(format!("key:{number}"), number).ignore().get(format!("key:{number}"));
    }
    let replies: Vec<usize> = pipe.query(&mut client).unwrap();
    assert_eq!(replies, (0..1_000).collect::<Vec<_>>());
    node.stop();
}

#[test]
fn the_rust_client_authenticates_and_speaks_the_third_protocol() {
    let node = Node::open(with(builder(SHAPES[1]), "password", "secret"));
    let address = format!("redis://:secret@{}/?protocol=resp3", node.address);
    let mut client = redis::Client::open(address).unwrap().get_connection().unwrap();
    let settings: Value =
        redis::cmd("CONFIG").arg("GET").arg("maxmemory").query(&mut client).unwrap();
    assert!(matches!(settings, Value::Map(_)), "{settings:?}");
    let wrong = redis::Client::open(format!("redis://:wrong@{}", node.address)).unwrap();
    assert!(wrong.get_connection().is_err());
    node.stop();
}
