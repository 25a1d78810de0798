//! The program with servers that it starts itself: what it prints, how it ends, what it leaves.
//!
//! The servers are this very test, run again as `responder` says.

#![expect(clippy::unwrap_used, reason = "this is a test, with helpers outside its functions")]

mod program;
mod responder;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use program::{await_load, bench, started};
use responder::{command, running};
use rustix::process::{Signal, kill_process};

/// Waits until `count` responders of a mark run.
fn await_running(mark: &str, count: usize) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while running(mark).len() < count {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A few small measurements.
const SMALL: &str = "--keys 100 --warmup 10ms --duration 50ms -c 2 --server-start-timeout 5s";

#[test]
fn a_server_is_started_loaded_and_stopped() {
    let run = bench(
        "plain",
        &["run", "--cmd", &command("plain", "")],
        &format!("{SMALL} --load --json -"),
    );
    run.succeeds();
    let report = run.json();
    assert_eq!(report["preparation"]["loading"]["keys"], 100);
    assert!(report["figures"]["requests"].as_u64().unwrap() > 0);
    assert_eq!(report["figures"]["server"]["process_ids"].as_array().unwrap().len(), 1);
}

#[test]
fn the_time_of_all_processes_of_a_side_counts() {
    let (first, second) =
        (command("several", ""), command("several", "").replace("{port}", "{port2}"));
    let run =
        bench("several", &["run", "--cmd", &first, "--cmd", &second], &format!("{SMALL} --json -"));
    run.succeeds();
    let figures = &run.json()["figures"];
    assert_eq!(figures["server"]["process_ids"].as_array().unwrap().len(), 2);
}

#[test]
fn both_sides_of_a_comparison_are_started_and_stopped() {
    let server = command("sides", "");
    let arguments = ["compare", "--a-cmd", &server, "--b-cmd", &server];
    let run = bench("sides", &arguments, &format!("{SMALL} --json -"));
    run.succeeds();
    let report = run.json();
    let comparison = &report["comparison"];
    assert_eq!(comparison["a"].as_array().unwrap().len(), 5);
    assert_eq!(comparison["ratios"]["rate"]["pairs"], 5);
    assert_ne!(report["targets"][0], report["targets"][1]);
}

#[test]
fn bad_input_is_one_line() {
    let run = |line: &str| bench("none", &[], line);
    run("run").fails_with("nothing to load: name a target, or a command that starts one (--cmd)");
    run("compare").fails_with("nothing to load as A");
    run("run --cmd server-{prot}").fails_with("has the placeholder {prot}; known are {port},");
    run("run --cmd no-such-program-{port}").fails_with("cannot start `no-such-program-");
    run("run in-core --cmd x").fails_with("in-core is in this process: it takes no command");
    run("run resp://127.0.0.1:1").fails_with("cannot connect to 127.0.0.1:1");
    run("run --server-cpus 4000 --cmd no-{port}").fails_with("cannot start `no-");
}

#[test]
fn a_server_that_ends_at_once_is_told_with_its_last_words() {
    let run = bench("exits", &["run", "--cmd", &command("exits", "exit")], SMALL);
    run.fails_with("ended before it was ready (exit status: 3); it said: ");
    run.fails_with("out of luck");
}

#[test]
fn a_server_that_never_listens_is_stopped() {
    let line =
        format!("{SMALL} --server-start-timeout 300ms").replace("--server-start-timeout 5s", "");
    bench("deaf", &["run", "--cmd", &command("deaf", "deaf")], &line)
        .fails_with("was not ready within 0.3 s");
    let mute = bench("mute", &["run", "--cmd", &command("mute", "mute")], &line);
    mute.fails_with("no answer to a PING");
}

#[test]
fn a_second_side_that_fails_takes_the_first_with_it() {
    let (good, bad) = (command("second", ""), command("second", "exit"));
    bench("second", &["compare", "--a-cmd", &good, "--b-cmd", &bad], SMALL)
        .fails_with("out of luck");
}

#[test]
fn a_server_that_dies_under_way_leaves_a_partial_comparison() {
    let (good, bad) = (command("dies", ""), command("dies", "die-after=3000"));
    let line = format!("{SMALL} --pairs 100 --rate 5000 --arrivals fixed");
    let run = bench("dies", &["compare", "--a-cmd", &good, "--b-cmd", &bad], &line);
    run.fails_with("ended (exit status: 4); it said: ");
    run.fails_with("had enough");
    assert!(run.stdout().contains("\nPARTIAL "), "{}", run.stdout());
    assert!(run.stdout().contains("\nA / B req/s "), "{}", run.stdout());
}

#[test]
fn a_signal_ends_a_comparison_with_what_there_is() {
    for (mark, signal) in [("term", Signal::TERM), ("int", Signal::INT)] {
        let server = command(mark, "");
        let arguments = ["compare", "--a-cmd", &server, "--b-cmd", &server];
        let run = started(mark, &arguments, &format!("{SMALL} --pairs 10000"), |program| {
            await_load(mark);
            kill_process(program, signal).unwrap();
        });
        run.fails_with("interrupted by a signal");
        assert!(run.stdout().contains("\nPARTIAL       interrupted"), "{}", run.stdout());
    }
}

#[test]
fn a_signal_ends_the_wait_for_a_server() {
    let server = command("wait", "deaf");
    let run = started("wait", &["run", "--cmd", &server], SMALL, |program| {
        await_running("wait", 1);
        kill_process(program, Signal::TERM).unwrap();
    });
    run.fails_with("interrupted by a signal");
}

#[test]
fn a_server_that_ignores_the_request_to_end_is_killed_with_what_it_forked() {
    let script =
        format!("trap '' TERM; {} & {}", command("stubborn", "deaf"), command("stubborn", ""));
    let directory = tempfile::tempdir().unwrap();
    let path: PathBuf = directory.path().join("server.sh");
    std::fs::write(&path, script.replace("{port}", "$1")).unwrap();
    let run =
        bench("stubborn", &["run", "--cmd", &format!("sh {} {{port}}", path.display())], SMALL);
    run.succeeds();
}

#[test]
fn a_server_that_makes_itself_a_daemon_is_refused_and_ended() {
    let script = format!("setsid {} &", command("daemon", ""));
    let directory = tempfile::tempdir().unwrap();
    let path: PathBuf = directory.path().join("server.sh");
    std::fs::write(&path, script.replace("{port}", "$1")).unwrap();
    let line = format!("sh {} {{port}}", path.display());
    let run = bench("daemon", &["run", "--cmd", &line], SMALL);
    run.fails_with("ended before it was ready (exit status: 0)");
    let twice =
        bench("daemon", &["compare", "--a-cmd", &command("daemon", ""), "--b-cmd", &line], SMALL);
    twice.fails_with("ended before it was ready (exit status: 0)");
}
