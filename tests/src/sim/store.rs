//! A node's one shard: its store, and the replica on it.

use gridkv_cluster::{ShardRange, WallTime};
use gridkv_storage::disk::SimulatedDisk;
use gridkv_storage::file::{FileStorage, OpenFailure, Setup};
use gridkv_storage::replicated::Replicated;
use gridkv_storage::{Durability, Eviction, MemoryStorage, Options, Tombstones};

use super::process::Source;

/// Size of a file of the log.
const SEGMENT_BYTES: u32 = 1 << 17;

/// A shard whose records are in memory.
pub(super) fn in_memory(seed: u64) -> Replicated<Source> {
    Replicated::new(Box::new(MemoryStorage::new(&options(seed))), Durability::None)
}

/// A shard whose records are on a disk.
pub(super) fn on_disk(
    disk: SimulatedDisk,
    cache_bytes_max: u64,
    seed: u64,
    now: WallTime,
) -> Result<Replicated<Source>, OpenFailure> {
    let setup = Setup {
        cache_bytes_max,
        durability: Durability::Commit,
        segment_bytes: SEGMENT_BYTES,
        directory: "simulated".to_owned(),
    };
    let (store, recovered) = FileStorage::open(disk, setup, &options(seed), now)?;
    assert!(recovered.damages.is_empty(), "{:?}", recovered.damages);
    Ok(Replicated::new(Box::new(store), Durability::Commit))
}

fn options(seed: u64) -> Options {
    Options {
        token_key: crate::sim::token_key(),
        range: ShardRange::WHOLE,
        disk: None,
        memory_bytes_max: None,
        eviction: Eviction::Refuse,
        tombstones: Tombstones::Keep,
        seed,
    }
}
