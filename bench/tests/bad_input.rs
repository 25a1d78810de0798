//! What the program says to what it cannot do: one line, and a status that is not zero.

#![expect(clippy::unwrap_used, reason = "this is a test, with helpers outside its functions")]

mod program;
mod responder;

use program::{Run, await_load, bench, started};
use responder::command;
use rustix::process::{Signal, kill_process};

/// A few small measurements.
const SMALL: &str = "--keys 100 --warmup 10ms --duration 50ms -c 2 --server-start-timeout 5s";

fn run(line: &str) -> Run {
    bench("none", &[], line)
}

#[test]
fn options_that_make_no_sense_are_one_line() {
    for (line, expected) in [
        ("run in-core --workload ycsb-g", "unknown workload: there are ycsb-a, ycsb-b"),
        ("run in-core --rate 0", "expected requests a second, from 0.001 to 1e9"),
        ("run resp://127.0.0.1:1 --rate 1e12", "expected requests a second, from 0.001 to 1e9"),
        ("run resp://127.0.0.1:1 --rate NaN", "expected requests a second, from 0.001 to 1e9"),
        ("run in-core --rate 100", "in-core has no open loop: leave out --rate"),
        ("run http://127.0.0.1:1", "expected resp://HOST:PORT"),
        ("run in-core --duration 1", "invalid value '1' for '--duration"),
        ("run in-core --mix get=1,fly=1", "unknown operation \"fly\""),
        ("run in-core --mix get=0.4", "shares add up to 0.4, not to 1 or 100"),
        ("run in-core --mix scan=1", "in-core cannot be asked this: a shard has no scan"),
        ("run embedded --mix append=1", "embedded cannot be asked this: its API has no append"),
        ("run in-core --keys 1000 --key-size 6", "--key-size 6 has digits for 100 keys"),
        ("run in-core --colour blue", "unexpected argument '--colour' found"),
        ("compare in-core embedded --pairs 4", "invalid value '4' for '--pairs"),
        ("run in-core --client-cpus 9999", "invalid value '9999' for '--client-cpus"),
    ] {
        run(line).fails_with(expected);
    }
    for line in ["fly", "sweep in-core --knob fly=1", "cluster --fault 1s:melt:1 --nodes 3"] {
        assert!(!run(line).output.status.success(), "{line}");
        assert_eq!(run(line).stderr().lines().count(), 1, "{line}");
    }
}

#[test]
fn servers_that_cannot_be_reached_are_told() {
    run("run resp://127.0.0.1:1").fails_with("cannot connect to 127.0.0.1:1: Connection refused");
    run("run resp://no-such-host.invalid:1").fails_with("cannot resolve no-such-host.invalid:1");
    run("run resp://me:secret@127.0.0.1:1?x=1").fails_with("cannot resolve resp://me:***@127");
}

#[test]
fn a_server_of_another_protocol_is_told() {
    // A responder speaks RESP, which is not what memcached does.
    let server = command("other", "");
    let arguments = ["run", "memcached://127.0.0.1:{port}", "--cmd", &server];
    bench("other", &arguments, SMALL).fails_with("127.0.0.1:");
}

#[test]
fn errors_above_the_bound_fail_the_run_and_keep_its_figures() {
    // WAIT is answered by no number, so every write counts as refused.
    let server = command("errors", "");
    let arguments = ["run", "resp://127.0.0.1:{port}?wait=1", "--cmd", &server];
    // Long enough for some requests, however busy the machine is.
    let line = format!("{SMALL} --reads 0.5 --json -").replace("50ms", "1s");
    let failed = bench("errors", &arguments, &line);
    failed.fails_with("of the requests failed, --errors-max is 1.0000 %");
    let figures = &failed.json()["figures"];
    assert!(figures["errors"]["error_replies"].as_u64().unwrap() > 0);
    assert!(figures["rate"].as_f64().unwrap() > 0.0);
    bench("errors", &arguments, &format!("{line} --errors-max 1")).succeeds();
}

#[test]
fn a_server_that_dies_under_way_leaves_a_partial_result() {
    let server = command("dying", "die-after=3000");
    let arguments = ["run", "--cmd", &server];
    let line = format!("{SMALL} --json -").replace("50ms", "20s");
    let failed = bench("dying", &arguments, &line);
    failed.fails_with("died under way");
    let report = failed.json();
    let reason = report["figures"]["partial"].as_str().unwrap();
    assert!(reason.contains("died under way"), "{reason}");
    assert!(report["figures"]["requests"].as_u64().unwrap() > 1000);
}

#[test]
fn a_signal_ends_a_measurement_with_what_there_is() {
    let server = command("long", "");
    let line = format!("{SMALL} --json -").replace("50ms", "600s");
    let failed = started("long", &["run", "--cmd", &server], &line, |program| {
        await_load("long");
        kill_process(program, Signal::INT).unwrap();
    });
    failed.fails_with("interrupted by a signal");
    assert_eq!(failed.json()["figures"]["partial"], "interrupted by a signal");
}
