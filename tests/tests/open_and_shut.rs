//! Opening and shutting down leaves nothing behind. Alone in its process, whose descriptors, threads
//! and memory it counts.

use gridkv_net::resp::Value;
use gridkv_tests::node::{Node, SHAPES, builder, with};
use gridkv_tests::process::{descriptor_count, resident_bytes, thread_count};
use gridkv_tests::until;

/// One life of a node, with clients and keys.
fn live(round: usize) {
    let node = Node::open(with(builder(SHAPES[round % 3]), "admin", "127.0.0.1:0"));
    let store = node.engine.handle().blocking();
    let mut clients: Vec<_> = (0..4).map(|_| node.connect()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        let value = "v".repeat(10_000);
        client.send(&["SET", &format!("key:{number}"), &value]);
        assert_ne!(client.reply(), Value::Null);
    }
    assert_eq!(store.stats().expect("it is open").key_count, 4);
    // Some clients leave first, some are left to the node.
    drop(clients.split_off(2));
    node.stop();
}

#[test]
fn many_lives_of_a_node_leave_no_descriptor_no_thread_and_no_memory() {
    // What is set up once in a process is set up by then.
    (0..6).for_each(live);
    let (descriptors, threads) = (descriptor_count(), thread_count());
    let before = resident_bytes(std::process::id());
    (0..60).for_each(live);
    until("the threads are gone", || thread_count() <= threads);
    until("the descriptors are closed", || descriptor_count() <= descriptors);
    let grown = resident_bytes(std::process::id()).saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes more after 60 lives");
}
