//! Whole clusters in one thread, from one seed: the real machines and the real log of a store, on a
//! simulated network, simulated disks and simulated clocks.
//!
//! What a core does about keys is the engine's own machine, over one or several cores and shards a node.
//! A run has two parts. While things go wrong, what a cluster promises about *safety* must hold. Then
//! nothing goes wrong any more, and it must come back to life: *liveness*. What must hold is in
//! [`properties`], one file for each sentence.
//!
//! | room | what it is |
//! |---|---|
//! | [`options`] | what a run is like: drawn from its seed |
//! | [`shrink`] | the least of it that fails with the same |
//! | `world` | the events |
//! | `life` | how nodes start, and how they end |
//! | `process` | one process of a node: its membership and its cores |
//! | `mail` | what its cores post to each other |
//! | `store` | the stores of its shards |
//! | `network` | what lies between nodes |
//! | `trouble` | what goes wrong |
//! | `clients`, `history` | what clients want, and what came of it |
//! | `linear` | whether a history is linearizable |
//! | `ending` | a run from start to end |
//! | `trace`, [`report`] | what a run has done |

mod clients;
mod ending;
mod history;
mod life;
mod linear;
mod mail;
mod network;
pub mod options;
mod process;
pub mod properties;
pub mod report;
pub mod shrink;
mod store;
mod stream;
mod trace;
mod trouble;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::LazyLock;

use gridkv_cluster::{Token, TokenKey, probe};

use self::report::Report;
use self::shrink::Reduction;
use self::world::World;
use crate::process::say;

/// What a run has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// A hash of all that has happened.
    pub hash: u64,
    /// What was done.
    pub report: Report,
}

/// A run in which something did not hold.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Its seed.
    pub seed: u64,
    /// What did not hold.
    pub reason: String,
}

/// Runs a seed. What it fails with is told with its options, with the least that fails with the same,
/// and with how to do it again; its event log is kept.
///
/// # Errors
///
/// [`Failure`].
pub fn run(seed: u64) -> Result<Done, Failure> {
    run_reduced(seed, &Reduction::default())
}

/// As [`run`], of less than the seed makes of it.
///
/// # Errors
///
/// [`Failure`].
pub fn run_reduced(seed: u64, reduction: &Reduction) -> Result<Done, Failure> {
    run_once(seed, reduction, None).map_err(|reason| {
        let again = |reduction: &Reduction| run_once(seed, reduction, None).err();
        let least = shrink::shrink(seed, (reduction, &reason), again);
        let log = log_path(seed);
        // The same again, with its log.
        let again = run_once(seed, &least, Some(log.clone()));
        let is_same = again.is_err();
        say(&format!(
            "seed {seed:#018x} failed: {reason}\n{:?}\nits events: {}{}\nThe same fails with less:\n    \
             cargo run --release -p gridkv-tests --bin sim -- --seed {seed:#x}{least}",
            least.options(seed),
            log.display(),
            if is_same { "" } else { " (and it did not fail when it was run again!)" },
        ));
        Failure { seed, reason }
    })
}

fn run_once(seed: u64, reduction: &Reduction, log: Option<PathBuf>) -> Result<Done, String> {
    // What a run that has failed has left.
    drop(probe::take());
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(reduction.options(seed), log.as_deref());
        world.run();
        for (name, count) in probe::take() {
            world.report.add(&format!("probe: {name}"), count);
        }
        Done { hash: world.trace.hash(), report: std::mem::take(&mut world.report) }
    }));
    outcome.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|it| (*it).to_owned()));
        text.unwrap_or_else(|| "a panic without words".to_owned())
    })
}

fn log_path(seed: u64) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from);
    target.join("sim").join(format!("{seed:016x}.log"))
}

/// What the nodes of a simulated cluster make tokens with.
const TOKEN_SECRET: [u8; TokenKey::BYTES] = [7; TokenKey::BYTES];

fn token_key() -> TokenKey {
    static KEY: LazyLock<TokenKey> = LazyLock::new(|| TokenKey::new(TOKEN_SECRET));
    KEY.clone()
}

fn token_of(key: &[u8]) -> Token {
    token_key().token(key)
}

/// What a batch of so many seeds must have done at least, that it be worth something.
///
/// # Panics
///
/// When it has not.
pub fn assert_busy(report: &Report, seed_count: u64) {
    let at_least = |what: &str, amount: u64| {
        let sum = report.sum(what);
        assert!(
            sum >= amount,
            "{what}: {sum} in {seed_count} runs, fewer than {amount}:\n{report}"
        );
    };
    at_least("operations", seed_count * 50);
    at_least("frames", seed_count * 200);
    at_least("simulated seconds", seed_count * 10);
    at_least("checked: ", seed_count * 20);
    at_least("commands handed over", seed_count * 5);
    if seed_count < 50 {
        return;
    }
    for fault in [
        "Crash",
        "Pause",
        "Partition",
        "Reset",
        "Stall",
        "Deaf",
        "HalfOpen",
        "Bounce",
        "Jump",
        "Disk",
        "SlowDisk",
        "Flush",
    ] {
        at_least(&format!("faults: {fault}"), seed_count / 50);
    }
    // Runs are short, and few of them lose a node's disk, or have a clock set far off.
    for fault in ["Erase", "WildJump"] {
        at_least(&format!("faults: {fault}"), seed_count / 1_000);
    }
    at_least("restarts during catch-up", seed_count / 50);
    for kind in ["Read", "Write", "Delete", "Increment", "Append", "SetIfAbsent", "CompareAndSet"] {
        at_least(&format!("operations: {kind}"), seed_count * 5);
    }
    let required = [
        "adopt",
        "two uncertain tries",
        "overtaken read",
        "overtaken accept",
        "raised floor",
        "unsure below the floor",
        "accept without a promise",
        "epoch change inside a round",
        "mark during an excerpt",
        "write made again",
    ];
    // As rare as they are: some of them come once in ten runs.
    for name in required.into_iter().filter(|_| seed_count >= 200) {
        at_least(&format!("probe: {name}"), 1);
    }
    for level in ["One", "Quorum", "All", "Count", "Linearizable"] {
        at_least(&format!("operations: Write at {level} acknowledged"), seed_count / 5);
    }
}
