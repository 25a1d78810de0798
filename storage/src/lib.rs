//! Where records live: one trait, [`Storage`], and its backends.
//!
//! | backend | for | made with |
//! |---|---|---|
//! | `memory` | volatile, fastest | own table: [`MemoryStorage`] |
//!
//! A store belongs to one shard and to one thread: nothing in it is shared or locked. It reads no
//! clock: the wall time is handed in. It is told what to do in [`Mutation`]s, which it merges: the
//! larger [`Version`] wins, so repeats and reordering are harmless.
//!
//! Each backend is a cargo feature, on by default. [`contract`] is what all of them must pass.
//!
//! [`Mutation`]: gridkv_cluster::Mutation
//! [`Version`]: gridkv_cluster::Version

pub mod backend;
pub mod contract;
#[cfg(feature = "memory")]
mod lfu;
#[cfg(feature = "memory")]
pub mod memory;
#[cfg(feature = "memory")]
mod table;

pub use backend::{
    Applied, Entry, Error, Eviction, Lookup, OpenError, OpenFn, Options, Record, Registry, Stats,
    Storage, Tombstones,
};
#[cfg(feature = "memory")]
pub use memory::MemoryStorage;
