//! What holds up a core is shown, by cause, to whoever looks.

use std::time::Duration;

use gridkv_net::resp::Value;
use gridkv_tests::client::text;
use gridkv_tests::node::{Node, SHAPES, builder, with};
use gridkv_tests::program::page;
use gridkv_tests::until;

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
        // The closure is answered within its turn, which is counted at its end.
        until("the turn has ended", || longest(&node, "turn") >= long.as_secs_f64());
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
fn steps_of_commands_that_take_several_are_timed() {
    let node = Node::open(with(builder(SHAPES[0]), "admin", "127.0.0.1:0"));
    assert_eq!(node.connect().ask("KEYS *"), Value::Array(Vec::new()));
    assert!(longest(&node, "tasks") > 0.0);
    node.stop();
}
