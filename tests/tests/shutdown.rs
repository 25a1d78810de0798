//! What was begun is brought to its end when a node stops.

use std::sync::mpsc::channel;

use gridkv::Error;
use gridkv_net::resp::Value;
use gridkv_tests::client::{encode, ok};
use gridkv_tests::node::{Node, SHAPES, builder, with};
use gridkv_tests::program::page;
use gridkv_tests::until;

/// The core that serves the only client.
fn core_of_client(node: &Node) -> u16 {
    let admin = node.engine.admin_address().expect("it was asked for");
    let mut core = None;
    until("the client is served", || {
        let (_, metrics) = page(admin, "/metrics?per_core=1");
        let mut counts = metrics.lines().filter(|it| it.starts_with("gridkv_core_clients{"));
        core = counts.position(|line| line.ends_with(" 1"));
        core.is_some()
    });
    u16::try_from(core.expect("found")).expect("few cores")
}

/// RENAME across cores takes three steps; the node is told to stop after the first.
#[test]
fn a_command_of_several_steps_is_not_cut_in_two_by_a_shutdown() {
    let node = Node::open(with(builder(SHAPES[1]), "admin", "127.0.0.1:0"));
    if node.engine.core_count() < 2 {
        return;
    }
    let mut client = node.connect();
    let here = core_of_client(&node);
    let (from, to) = (node.keys_of(here, 1).remove(0), node.keys_of(1 - here, 1).remove(0));
    assert_eq!(client.call(&["SET", &from, "value"]), ok());

    // The other core does nothing until it is let go.
    let store = node.engine.handle();
    let (blocked, is_blocked) = channel();
    let (release, released) = channel::<()>();
    let (blocking, key) = (store.blocking(), to.clone());
    let blocker = std::thread::spawn(move || {
        blocking.run_on(key, move |_| {
            blocked.send(()).expect("somebody waits");
            // An error says the same: go on.
            let _ = released.recv();
        })
    });
    is_blocked.recv().unwrap();
    client.send_raw(&[encode(&["PING"]), encode(&["RENAME", &from, &to])].concat());
    assert_eq!(client.reply(), Value::Simple(b"PONG".to_vec()));

    let stopping = std::thread::spawn(move || node.engine.shutdown());
    let here = from.clone();
    until("the engine takes no calls", || store.blocking().get(&here) == Err(Error::Closed));
    release.send(()).unwrap();
    assert_eq!(client.reply(), ok());
    blocker.join().unwrap().unwrap();
    assert!(stopping.join().unwrap());
}
