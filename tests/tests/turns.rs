//! What holds up a core is shown, by cause, to whoever looks.

use std::time::Duration;

use gridkv_tests::client::text;
use gridkv_tests::node::{Node, SHAPES, builder, with};
use gridkv_tests::program::page;

/// The longest turn of a cause, in seconds, as the metrics show it.
fn longest(node: &Node, cause: &str) -> f64 {
    let (_, metrics) = page(node.engine.admin_address().expect("it was asked for"), "/metrics");
    let name = format!("gridkv_turn_seconds_max{{cause=\"{cause}\"}} ");
    let value = metrics.lines().find_map(|line| line.strip_prefix(&name));
    value.and_then(|value| value.parse().ok()).expect("a figure of that name")
}

#[test]
fn a_long_turn_is_shown_with_its_cause_to_all_who_look() {
    for shape in SHAPES {
        let node = Node::open(with(builder(shape), "admin", "127.0.0.1:0"));
        let store = node.engine.handle().blocking();
        let long = Duration::from_millis(200);
        store.run_on("key", move |_| std::thread::sleep(long)).unwrap();
        for _ in 0..3 {
            assert!(longest(&node, "mailbox") >= long.as_secs_f64());
            assert!(longest(&node, "turn") >= long.as_secs_f64());
        }
        let report = text(&node.connect().ask("INFO turns"));
        let line = report.lines().find_map(|it| it.strip_prefix("gridkv_turn_usec_max_mailbox:"));
        assert!(line.expect("it is told").parse::<u128>().unwrap() >= long.as_micros());
        // Nothing else has taken that long: the turn is not blamed on what had nothing to do with it.
        assert!(longest(&node, "timers") < long.as_secs_f64());
        node.stop();
    }
}

#[test]
fn a_command_that_takes_long_is_named() {
    let node = Node::open(with(builder(SHAPES[0]), "admin", "127.0.0.1:0"));
    let mut client = node.connect();
    // Two strings whose table takes many steps, one of which takes a millisecond for certain: it
    // allocates and fills 16 MiB.
    let (a, b) = ("a".repeat(2_000), "b".repeat(2_000));
    assert_eq!(client.call(&["MSET", "a", &a, "b", &b]), gridkv_tests::client::ok());
    assert_eq!(client.ask("LCS a b LEN"), gridkv_net::resp::Value::Integer(0));
    assert!(longest(&node, "command:lcs") >= 0.001);
    assert!(longest(&node, "tasks") >= 0.001);
    node.stop();
}
