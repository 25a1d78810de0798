//! Where records live: one trait, [`Storage`], and its backends.
//!
//! | backend | for | module |
//! |---|---|---|
//! | `memory` | volatile, fastest | own table |
//!
//! A store belongs to one shard and to one thread: nothing in it is shared or locked. It reads no
//! clock: the wall time is handed in. It is told what to do in [`Mutation`]s, which it merges: the
//! larger [`Version`] wins, so repeats and reordering are harmless.
//!
//! [`Mutation`]: gridkv_cluster::Mutation
//! [`Version`]: gridkv_cluster::Version

pub mod backend;

pub use backend::{
    Applied, Entry, Error, Eviction, Lookup, OpenError, OpenFn, Options, Record, Registry, Stats,
    Storage, Tombstones,
};
