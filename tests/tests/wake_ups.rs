//! No wake-up is lost: one message at a time between cores that have nothing else to do.
//!
//! Each count would take minutes if a core had to wait for its next tick (100 ms) to find its mail,
//! and the deadline of the kit is seconds: so a failure is a wake-up lost, not a slow machine.

use std::time::Instant;

use gridkv_net::resp::Value;
use gridkv_tests::DEADLINE;
use gridkv_tests::client::{Client, bulk, ok};
use gridkv_tests::node::{Node, SHAPES, builder, with};

/// Repeats, and fails when that takes so long that something must have slept through a message.
fn soak(count: usize, mut step: impl FnMut(usize)) {
    let deadline = Instant::now() + DEADLINE;
    for number in 0..count {
        step(number);
        assert!(Instant::now() < deadline, "{number} of {count} steps before the deadline");
    }
}

/// A key on each of two cores, and a client of each core.
fn two_sides(node: &Node) -> (Vec<String>, [Client; 2]) {
    (node.key_of_each_shard(), [node.connect(), node.connect()])
}

#[test]
fn each_request_to_the_other_core_is_answered_at_once() {
    let node = Node::on_two_cores();
    let (keys, mut clients) = two_sides(&node);
    soak(2_000, |number| {
        let value = number.to_string();
        let key = &keys[number / 2 % 2];
        assert_eq!(clients[number % 2].call(&["SET", key, &value]), ok());
        assert_eq!(clients[number % 2].call(&["GET", key]), bulk(&value));
    });
    node.stop();
}

#[test]
fn each_command_in_several_steps_goes_on_at_once() {
    for shape in SHAPES {
        let node = Node::start(shape);
        let mut client = node.connect();
        let keys = node.key_of_each_shard();
        let (from, to) = (&keys[0], &keys[keys.len() - 1]);
        let other = format!("{from}:other");
        let to = if from == to { &other } else { to };
        soak(700, |_| {
            assert_eq!(client.call(&["SET", from, "value"]), ok());
            assert_eq!(client.call(&["RENAME", from, to]), ok());
            assert_eq!(client.call(&["LCS", from, to]), bulk(""));
            assert_eq!(client.call(&["MSETNX", from, "1", to, "2"]), Value::Integer(0));
        });
        node.stop();
    }
}

#[test]
fn each_call_of_the_embedded_api_is_answered_at_once() {
    let node = Node::on_two_cores();
    let keys = node.key_of_each_shard();
    let store = node.engine.handle().blocking();
    soak(2_000, |number| {
        store.set(&keys[number % 2], number.to_string()).unwrap();
        assert_eq!(store.get(&keys[number % 2]).unwrap(), Some(number.to_string().into_bytes()));
    });
    node.stop();
}

#[test]
fn a_core_that_waits_for_a_task_still_hears_its_clients() {
    let node = Node::open(with(builder(SHAPES[0]), "debug_commands", "true"));
    let (mut sleeper, mut other) = (node.connect(), node.connect());
    sleeper.send(&["DEBUG", "SLEEP", "3600"]);
    let store = node.engine.handle().blocking();
    soak(1_000, |number| {
        assert_eq!(other.call(&["SET", "key", &number.to_string()]), ok());
        assert_eq!(store.get("key").unwrap(), Some(number.to_string().into_bytes()));
    });
    assert!(sleeper.is_quiet());
    node.stop();
}

#[test]
fn a_core_that_spins_before_it_sleeps_loses_no_message_either() {
    for idle in ["spin:50us", "poll"] {
        let node = Node::open(with(builder(SHAPES[1]), "idle", idle));
        let (keys, mut clients) = two_sides(&node);
        soak(500, |number| {
            let key = &keys[number / 2 % 2];
            assert_eq!(clients[number % 2].call(&["SET", key, "value"]), ok());
        });
        node.stop();
    }
}
