//! A node that has nothing to do does nothing.
//!
//! This is the one place where a fixed time is measured and not a condition waited for: nothing is
//! what has to happen for three seconds. A core that spins uses 100 % of a processor, one that sleeps
//! far below 1 %; the bound between them is 10 %, which the load of a machine does not move, since what is
//! measured is the time that the process was given. `idle = poll` spins by definition.

use std::time::{Duration, Instant};

use gridkv_net::resp::Value;
use gridkv_tests::client::ok;
use gridkv_tests::process::{cpu_ticks, say};
use gridkv_tests::program::Program;
use gridkv_tests::until;

/// For how long nothing happens.
const MEASURED: Duration = Duration::from_secs(3);

/// Hundredths of a second of a processor in that time: 10 %.
const TICKS_MAX: u64 = 30;

/// What a store does by itself, it does within a second: `none` writes after so long.
const STILL: Duration = Duration::from_millis(1_500);

/// The figures of the log that change when a node does something.
fn figures(program: &Program) -> Vec<String> {
    let (_, metrics) = program.page("/metrics");
    let names = ["commits_total", "syncs_total", "written_bytes_total", "disk_bytes", "segments"];
    let is_wanted =
        |line: &&str| names.iter().any(|name| line.starts_with(&format!("gridkv_log_{name} ")));
    let found: Vec<String> = metrics.lines().filter(is_wanted).map(str::to_owned).collect();
    assert_eq!(found.len(), names.len(), "{metrics}");
    found
}

/// Waits until the figures of all nodes have stood still for a while.
fn wait_until_still(programs: &[&Program]) {
    let all = || programs.iter().flat_map(|program| figures(program)).collect::<Vec<_>>();
    let (mut seen, mut since) = (all(), Instant::now());
    until("nothing is written any more", || {
        let found = all();
        if found != seen {
            (seen, since) = (found, Instant::now());
        }
        since.elapsed() > STILL
    });
}

#[test]
fn an_idle_node_leaves_the_processor_alone_whatever_its_durability_and_its_way_to_sleep() {
    let place = tempfile::tempdir().unwrap();
    let mut programs = Vec::new();
    for durability in ["commit", "interval:200ms", "none"] {
        for idle in ["park", "spin:50us"] {
            let data = place.path().join(format!("{durability} {idle}"));
            let data = data.to_str().unwrap();
            let mut arguments = vec!["--storage", "file", "--data", data, "--cores", "1"];
            arguments.extend(["--segment", "1MiB", "--durability", durability, "--idle", idle]);
            let program = Program::start(&arguments);
            let mut client = program.connect();
            for number in 0..100 {
                assert_eq!(client.ask(&format!("SET key:{number} value")), ok());
            }
            assert_eq!(client.ask("DEL key:0"), Value::Integer(1));
            programs.push((durability, idle, program, client));
        }
    }
    wait_until_still(&programs.iter().map(|(_, _, program, _)| program).collect::<Vec<_>>());
    let used = || -> Vec<u64> {
        programs.iter().map(|(_, _, program, _)| cpu_ticks(program.id())).collect()
    };
    let before = used();
    std::thread::sleep(MEASURED);
    let after = used();
    let mut busy = Vec::new();
    for (index, (durability, idle, _, _)) in programs.iter().enumerate() {
        let ticks = after[index] - before[index];
        say(&format!("{durability}, {idle}: {ticks} hundredths of a second in {MEASURED:?}"));
        if ticks > TICKS_MAX {
            busy.push(format!("{durability}, {idle}: {ticks} ticks"));
        }
    }
    assert!(busy.is_empty(), "{busy:?} in {MEASURED:?} of nothing");
}
