//! Sweeps with servers that the program starts itself.

#![expect(clippy::unwrap_used, reason = "this is a test, with helpers outside its functions")]

mod program;
mod responder;

use program::{await_load, bench, started};
use responder::{command, running};
use rustix::process::{Signal, kill_process};

/// A few small measurements.
const SMALL: &str = "--keys 100 --warmup 10ms --duration 100ms -c 2 --server-start-timeout 5s";

#[test]
fn each_combination_of_the_knobs_is_a_point() {
    let line = format!("{SMALL} --load --knob pipeline=1..4*2 --knob keys=50,100 --json -");
    let run = bench("grid", &["sweep", "--cmd", &command("grid", "")], &line);
    run.succeeds();
    let report = run.json();
    let points = report["points"].as_array().unwrap();
    let knobs: Vec<_> = points
        .iter()
        .map(|it| format!("{} {}", it["knobs"]["pipeline"], it["knobs"]["keys"]))
        .collect();
    let quoted = |a: u32, b: u32| format!("\"{a}\" \"{b}\"");
    let expected = [(1, 50), (1, 100), (2, 50), (2, 100), (4, 50), (4, 100)];
    assert_eq!(knobs, expected.map(|(a, b)| quoted(a, b)));
    let targets: Vec<_> = points.iter().map(|it| it["target"].to_string()).collect();
    assert!(targets.iter().all(|it| *it == targets[0]), "one server for all: {targets:?}");
    assert!(points.iter().all(|it| it["preparation"]["loading"].is_object()));
    assert!(report["best"].is_number());
    assert!(report["partial"].is_null());
}

#[test]
fn a_server_is_started_anew_when_its_command_line_changes() {
    let server = command("anew", "busy-us={cost}");
    let line = format!("{SMALL} --load --knob cost=1,300 --knob pipeline=1,2 --json -");
    let run = bench("anew", &["sweep", "--cmd", &server], &line);
    run.succeeds();
    let report = run.json();
    let target = |index: usize| report["points"][index]["target"].clone();
    let is_loaded = |index: usize| report["points"][index]["preparation"]["loading"].is_object();
    assert_eq!((target(0), target(2)), (target(1), target(3)));
    assert_ne!(target(0), target(2));
    assert_eq!([0, 1, 2, 3].map(is_loaded), [true, false, true, false]);
}

#[test]
fn the_knee_of_a_slow_server_is_found() {
    // Five milliseconds for each request: 200 a second, however they come.
    let server = command("knee", "busy-us=5000");
    let line = format!("{SMALL} --knee 50ms --knee-start 10 --arrivals fixed --json -")
        .replace("--duration 100ms", "--duration 500ms");
    let run = bench("knee", &["sweep", "--cmd", &server], &line);
    run.succeeds();
    let report = run.json();
    let knee = &report["knees"][0];
    assert!(["found", "generator_limit"].contains(&knee["end"].as_str().unwrap()), "{knee}");
    let rate = knee["knee"]["offered"].as_f64().unwrap();
    assert!(rate < 260.0, "{knee}");
    assert!(knee["failing"]["offered"].as_f64().unwrap() > rate);
    assert_eq!(knee["points"], report["points"].as_array().unwrap().len());
}

#[test]
fn what_cannot_be_swept_is_one_line() {
    let run = |line: &str| bench("nothing", &[], line);
    run("sweep resp://127.0.0.1:1").fails_with("nothing to sweep: give --knob NAME=LIST");
    run("sweep resp://127.0.0.1:1 --knob speed=1").fails_with("unknown knob speed: known are");
    run("sweep in-core --knob connections=1,2").fails_with("has no effect on in-core");
    run("sweep in-core --knee 5ms").fails_with("in-core has no open loop");
    run("sweep --knob pipeline=1").fails_with("nothing to load");
    run("sweep resp://127.0.0.1:1 --knob pipeline=1,2").fails_with("cannot connect");
    let list = run("sweep resp://127.0.0.1:1 --knob pipeline=8..1*2");
    assert!(list.stderr().contains("8..1*2 is empty"), "{}", list.stderr());
    assert!(!list.output.status.success());
}

#[test]
fn a_server_that_dies_under_way_leaves_a_partial_sweep() {
    let server = command("sweep-dies", "die-after=600");
    let line = format!("{SMALL} --rate 2000 --arrivals fixed --knob pipeline=1..100+1");
    let run = bench("sweep-dies", &["sweep", "--cmd", &server], &line);
    run.fails_with("had enough");
    assert!(run.stdout().contains("\nPARTIAL "), "{}", run.stdout());
}

#[test]
fn a_server_that_cannot_be_started_again_leaves_a_partial_sweep() {
    let server = command("sweep-exit", "{manner}");
    let line = format!("{SMALL} --knob manner=busy-us=1,exit,busy-us=2");
    let run = bench("sweep-exit", &["sweep", "--cmd", &server], &line);
    run.fails_with("ended before it was ready (exit status: 3)");
    assert!(run.stdout().contains("\nPARTIAL "), "{}", run.stdout());
    assert!(run.stdout().contains("busy-us=1"), "{}", run.stdout());
}

#[test]
fn a_signal_ends_a_sweep_with_what_there_is() {
    let server = command("sweep-term", "");
    let line = format!("{SMALL} --knob pipeline=1..200+1");
    let run = started("sweep-term", &["sweep", "--cmd", &server], &line, |program| {
        await_load("sweep-term");
        assert_eq!(running("sweep-term").len(), 1);
        kill_process(program, Signal::TERM).unwrap();
    });
    run.fails_with("interrupted by a signal");
    assert!(run.stdout().contains("\nPARTIAL       interrupted"), "{}", run.stdout());
}
