//! What GridKV nodes agree on: the nouns that every room shares, and (as the cluster grows) the
//! protocol between nodes as state machines.
//!
//! Nothing in this crate does I/O, reads a clock, starts a thread or draws a random number: events
//! come in as arguments, and what is to be done leaves as return values. `clippy.toml` beside this
//! crate refuses the types with which that could be got round.
//!
//! - [`model`]: [`NodeId`], [`MemberId`], [`Version`]
//! - [`token`]: [`Slot`], [`Token`], [`ShardRange`]: where a key lies
//! - [`mutation`]: [`Mutation`], the one form in which a write travels and is kept
//! - [`time`]: [`Instant`] and [`WallTime`], time as values that are handed in
//! - [`topology`]: who is a member, how members agree on it, and who keeps which token's copies
//! - [`wire`]: all bytes between nodes, and their version
//! - [`replication`]: coordinators and replicas: writes, reads and agreed changes of one key
//! - [`hlc`]: [`HybridClock`], the source of versions
//! - [`identity`]: who a node is, whom it believes, and how both are proved
//! - [`swim`]: [`Swim`](swim::Swim), who is there
//! - [`member`]: [`Member`](member::Member), who is there and who belongs, composed

#![forbid(unsafe_code)]

#[cfg(test)]
mod fuzz;
pub mod hlc;
pub mod identity;
pub mod member;
pub mod model;
pub mod mutation;
pub mod probe;
pub mod replication;
pub mod swim;
pub mod time;
pub mod token;
pub mod topology;
pub mod wire;

pub use hlc::HybridClock;
pub use model::{MemberId, NodeId, Timestamp, Version};
pub use mutation::{Draft, Mutation};
pub use time::{Instant, Now, WallTime};
pub use token::{ShardId, ShardRange, Slot, Token, TokenKey};
