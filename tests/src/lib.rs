//! The kit of the whole-system tests: nodes in this process and as processes of their own, and a
//! client that sees every byte.
//!
//! | to | use |
//! |---|---|
//! | run a node in this process | [`node::Node`] |
//! | run the program `gridkv` | [`program::Program`] |
//! | give a node a disk of its own, or restore one | [`data`] |
//! | talk to a node byte by byte | [`client::Client`] |
//! | kill a node over and over | [`durability`] |
//! | run a cluster of processes and break it | [`cluster`] |
//! | give a node a disk that does nothing by itself | [`slow::Control`] |
//! | hold up the disk of a node as nodes are | [`gated::Gate`] |
//! | compare with Redis itself | [`redis::Redis`] |
//! | read a table of requests and replies | [`script`] |
//! | simulate whole clusters from a seed | [`sim`] |
//! | wait for something | [`until`] |
//!
//! Nothing here sleeps for luck: what a test waits for is a condition, and a deadline only bounds
//! how long a failure takes.

#![forbid(unsafe_code)]

pub mod client;
pub mod cluster;
pub mod data;
pub mod durability;
pub mod gated;
pub mod model;
pub mod node;
pub mod process;
pub mod program;
pub mod redis;
pub mod script;
pub mod sim;
pub mod slow;

use std::time::{Duration, Instant};

/// How long anything may take before it has failed. Far more than it takes on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Waits until `condition` holds.
///
/// # Panics
///
/// When it does not within [`DEADLINE`].
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A source of random numbers that can be started again: from `SEED` if that is set, else from
/// `default`. A failing test prints the seed it is given.
///
/// # Panics
///
/// When `SEED` is no number.
#[must_use]
pub fn seed(default: u64) -> u64 {
    std::env::var("SEED").map_or(default, |text| {
        let digits = text.trim_start_matches("0x");
        let radix = if digits.len() == text.len() { 10 } else { 16 };
        u64::from_str_radix(digits, radix).expect("SEED is a number")
    })
}
