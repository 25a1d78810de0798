//! What GridKV nodes agree on: the nouns that every room shares, and (as the cluster grows) the
//! protocol between nodes as state machines.
//!
//! Nothing in this crate does I/O, reads a clock, starts a thread or draws a random number: events
//! come in as arguments, and what is to be done leaves as return values. `clippy.toml` beside this
//! crate refuses the types with which that could be got round.
//!
//! - [`model`]: [`Token`], [`ShardRange`], [`NodeId`], [`Version`]
//! - [`mutation`]: [`Mutation`], the one form in which a write travels and is kept
//! - [`time`]: [`Instant`] and [`WallTime`], time as values that are handed in
//! - [`hlc`]: [`HybridClock`], the source of versions

#![forbid(unsafe_code)]

pub mod hlc;
pub mod model;
pub mod mutation;
pub mod time;

pub use hlc::HybridClock;
pub use model::{NodeId, ShardId, ShardRange, Timestamp, Token, Version};
pub use mutation::Mutation;
pub use time::{Instant, WallTime};
