//! Where records live: one trait, [`Storage`], and its backends.
//!
//! | backend | for | made with |
//! |---|---|---|
//! | `memory` | volatile, fastest | own table: [`MemoryStorage`] |
//! | `file` | durable | own log on direct I/O, index in memory: [`file::FileStorage`] |
//!
//! A store belongs to one shard and to one thread: nothing in it is shared or locked. It reads no
//! clock: the wall time is handed in. It is told what to do in [`Mutation`]s, which it merges: the
//! larger [`Version`] wins, so repeats and reordering are harmless.
//!
//! Each backend is a cargo feature, on by default. [`contract`] is what all of them must pass.
//! [`replicated`] is a store with the replica on it; [`sync_log`] keeps a shard's latest mutations for its replicas. [`directory`] is where those on disk keep their files.
//!
//! [`Mutation`]: gridkv_cluster::Mutation
//! [`Version`]: gridkv_cluster::Version

#![deny(unsafe_code)]

pub mod backend;
pub mod contract;
pub mod directory;
pub mod disk;
#[cfg(feature = "file")]
pub mod file;
#[cfg(feature = "memory")]
mod lfu;
#[cfg(feature = "memory")]
pub mod memory;
pub mod replicated;
pub mod sync_log;
#[cfg(feature = "memory")]
mod table;

pub use backend::{
    Accepted, Applied, DiskOptions, Durability, Entry, Error, Eviction, LogPosition, LogStats,
    Lookup, OnDisk, OpenError, OpenFn, Options, ReadError, Record, Registry, Stats, Step, Storage,
    Ticket, Tombstones,
};
#[cfg(feature = "memory")]
pub use memory::MemoryStorage;
