//! The stores of a node's shards.

use gridkv::simulation::range_of;
use gridkv_cluster::WallTime;
use gridkv_storage::disk::SimulatedDisk;
use gridkv_storage::file::{FileStorage, OpenFailure, Setup};
use gridkv_storage::{Durability, Eviction, MemoryStorage, Options, Storage, Tombstones};

/// One of a node's shards: its number, and how many there are.
pub(super) type Shard = (u16, u16);

/// Size of a file of the log.
const SEGMENT_BYTES: u32 = 1 << 17;

/// The store of a shard whose records are in memory.
pub(super) fn in_memory(shard: Shard, seed: u64) -> Box<dyn Storage> {
    Box::new(MemoryStorage::new(&options(shard, seed)))
}

/// The store of a shard whose records are on a disk.
pub(super) fn on_disk(
    shard: Shard,
    disk: SimulatedDisk,
    (cache_bytes_max, durability): (u64, Durability),
    seed: u64,
    now: WallTime,
) -> Result<Box<dyn Storage>, OpenFailure> {
    let setup = Setup {
        cache_bytes_max,
        durability,
        segment_bytes: SEGMENT_BYTES,
        directory: "simulated".to_owned(),
    };
    let (store, recovered) = FileStorage::open(disk, setup, &options(shard, seed), now)?;
    assert!(recovered.damages.is_empty(), "{:?}", recovered.damages);
    Ok(Box::new(store))
}

fn options((index, count): Shard, seed: u64) -> Options {
    Options {
        token_key: crate::sim::token_key(),
        range: range_of(index, count),
        disk: None,
        memory_bytes_max: None,
        eviction: Eviction::Refuse,
        tombstones: Tombstones::Keep,
        seed,
    }
}
