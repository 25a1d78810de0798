//! Whole clusters, simulated: seeds that were found by chance and are kept, seeds that are always
//! the same, and, for a while, seeds that are new with each commit.
//!
//! ```text
//! SEED=0x2a cargo test -p gridkv-tests --test sim_cluster -- --nocapture    one run, again
//! SIM_SECONDS=60 cargo test -p gridkv-tests --test sim_cluster              more of the new ones
//! cargo run --release -p gridkv-tests --bin sim -- --seeds 10000            many
//! ```

use std::sync::Mutex;
use std::time::{Duration, Instant};

use gridkv_tests::process::say;
use gridkv_tests::sim::report::Report;
use gridkv_tests::sim::{Failure, assert_busy, run};

/// Seeds that have found something, and what it was. What a seed does changes when the simulator
/// does, so each has its unit test beside the machine, too.
const FOUND: [(u64, &str); 1] =
    [(0x49d, "who had heard once of a newer topology, and got no answer, never asked again")];

/// Seeds of every run.
const FIXED_COUNT: u64 = 40;

fn is_replay() -> Option<u64> {
    std::env::var_os("SEED").map(|_| gridkv_tests::seed(0))
}

/// Runs seeds on all processors until there are no more, or something does not hold.
fn run_all(seeds: impl Iterator<Item = u64> + Send) -> (Report, u64) {
    let seeds = Mutex::new(seeds);
    let failed: Mutex<Option<Failure>> = Mutex::new(None);
    let sum = Mutex::new((Report::default(), 0));
    let work = || {
        while failed.lock().expect("nobody panics with it").is_none() {
            let Some(seed) = seeds.lock().expect("nobody panics with it").next() else { return };
            match run(seed) {
                Ok(done) => {
                    let mut sum = sum.lock().expect("nobody panics with it");
                    sum.0.merge(&done.report);
                    sum.1 += 1;
                }
                Err(failure) => *failed.lock().expect("nobody panics with it") = Some(failure),
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    if let Some(Failure { seed, reason }) = failed.into_inner().expect("nobody panics with it") {
        panic!("seed {seed:#x}: {reason}");
    }
    sum.into_inner().expect("nobody panics with it")
}

/// A number that is another with each commit.
fn commit() -> u64 {
    let head = || {
        let git = std::process::Command::new("git").args(["rev-parse", "HEAD"]).output().ok()?;
        String::from_utf8(git.stdout).ok()
    };
    let text = std::env::var("GITHUB_SHA").ok().or_else(head).unwrap_or_default();
    let digits = text.get(..15).unwrap_or_default();
    u64::from_str_radix(digits, 16).unwrap_or(0x5eed)
}

#[test]
fn what_is_promised_holds_whatever_goes_wrong() {
    if let Some(seed) = is_replay() {
        let done = run(seed).unwrap_or_else(|failure| panic!("{}", failure.reason));
        say(&format!("{}", done.report));
        return;
    }
    let found = FOUND.iter().map(|(seed, _)| *seed);
    let (mut report, mut count) = run_all(found.chain(0..FIXED_COUNT));
    let seconds = std::env::var("SIM_SECONDS").ok().and_then(|it| it.parse().ok()).unwrap_or(20);
    let end = Instant::now() + Duration::from_secs(seconds);
    let first = commit() << 4;
    let fresh = (first..).take_while(move |_| Instant::now() < end);
    let (its_report, its_count) = run_all(fresh);
    report.merge(&its_report);
    count += its_count;
    say(&format!("{count} seeds, {its_count} of them from {first:#x} on\n{report}"));
    assert_busy(&report, count);
}

#[test]
fn the_same_seed_does_the_same() {
    if is_replay().is_some() {
        return;
    }
    for seed in 0..5 {
        let one = run(seed).unwrap_or_else(|failure| panic!("{}", failure.reason));
        let other = run(seed).unwrap_or_else(|failure| panic!("{}", failure.reason));
        assert_eq!(one, other, "seed {seed}");
    }
}
