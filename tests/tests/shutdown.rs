//! What was begun is brought to its end when a node stops.

use std::sync::mpsc::channel;

use gridkv::{Error, ShutdownError};
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

/// Ends a closure that holds up a core, when it is dropped or told.
fn hold_up(node: &Node, key: String) -> std::sync::mpsc::Sender<()> {
    let store = node.engine.handle().blocking();
    let (blocked, is_blocked) = channel();
    let (release, released) = channel::<()>();
    std::thread::spawn(move || {
        store.run_on(key, move |_| {
            blocked.send(()).expect("somebody waits");
            // An error says the same: go on.
            let _ = released.recv();
        })
    });
    is_blocked.recv().expect("the core runs it");
    release
}

/// The other core ends; the program would exit with an error.
#[test]
fn a_core_that_hangs_is_named_and_holds_up_a_shutdown_no_longer_than_is_said() {
    let node = Node::on_two_cores();
    if node.engine.core_count() < 2 {
        return;
    }
    let store = node.engine.handle();
    let (hung, well) = (node.keys_of(0, 1).remove(0), node.keys_of(1, 1).remove(0));
    futures_lite::future::block_on(store.set(&well, "value")).unwrap();
    let release = hold_up(&node, hung.clone());
    // Its mailbox is full, so that it cannot even be told.
    let mut calls: Vec<_> = (0..2_000).map(|_| Box::pin(store.get(&hung))).collect();
    for call in &mut calls {
        let polled = futures_lite::future::block_on(futures_lite::future::poll_once(call));
        assert_eq!(polled, None);
    }
    let error = node.engine.shutdown().unwrap_err();
    assert_eq!(error, ShutdownError { panicked: Vec::new(), hung: vec![0] });
    assert_eq!(error.to_string(), "did not end in time: core 0");
    drop(release);
    // Left behind, it still ends when it can, and no caller waits for ever.
    for call in calls {
        let told = futures_lite::future::block_on(call);
        assert!(matches!(told, Ok(None) | Err(Error::Closed | Error::Interrupted)), "{told:?}");
    }
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
    let release = hold_up(&node, to.clone());
    client.send_raw(&[encode(&["PING"]), encode(&["RENAME", &from, &to])].concat());
    assert_eq!(client.reply(), Value::Simple(b"PONG".to_vec()));

    let stopping = std::thread::spawn(move || node.engine.shutdown());
    let here = from.clone();
    until("the engine takes no calls", || store.blocking().get(&here) == Err(Error::Closed));
    release.send(()).unwrap();
    assert_eq!(client.reply(), ok());
    assert_eq!(stopping.join().unwrap(), Ok(()));
}
