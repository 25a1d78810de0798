//! The log of the backend `file`, [`gridkv::storage::file`]: what it costs to make some writes
//! durable as one commit.
//!
//! ```text
//! GRIDKV_BENCH_DIR=DIR cargo bench -p gridkv-bench --bench group_commit
//! ```
//!
//! | measured | is |
//! |---|---|
//! | `simulated` | 1, 16 or 256 mutations of 100 B applied and made durable on the simulated disk |
//! | `file` | the same on real files in a new directory in `GRIDKV_BENCH_DIR`, if that is given |
//!
//! The simulated disk is a program: its figures are the work of the store, of which the disk's own
//! bookkeeping is a part, and no time of any device. They are for comparison with themselves. Those
//! of `file` are what a client waits for, with `durability=commit` and the way to sync that is
//! quicker there. Elements are mutations: compare 256 with 1 to see what a commit costs by itself.
//!
//! There are 10,000 keys, so what is overwritten is compacted under way, as in a node.

mod common;

use std::hint::black_box;
use std::path::Path;
use std::time::Instant as Clock;

use criterion::{BenchmarkId, Criterion, Throughput};
use gridkv::storage::disk::{Faults, IoPort, SimulatedDisk, probe};
use gridkv::storage::file::{FileStorage, Setup};
use gridkv::storage::{
    DiskOptions, Durability, Error, Eviction, Options, Registry, Storage, Tombstones,
};
use gridkv::{Instant, Mutation, NodeId, ShardRange, Timestamp, Version, WallTime};

const MUTATION_COUNTS: [u64; 3] = [1, 16, 256];
const KEY_COUNT: u64 = 10_000;
/// With a key of 16 bytes, a mutation of 100.
const VALUE: [u8; 84] = [7; 84];
const NOW: WallTime = WallTime::from_millis(1_700_000_000_000);
const SEGMENT_BYTES: u32 = 16 << 20;
const CACHE_BYTES: u64 = 16 << 20;

fn main() {
    let mut criterion = common::brief();
    measure(&mut criterion, "simulated", simulated);
    if let Some(directory) = std::env::var_os("GRIDKV_BENCH_DIR") {
        let directory =
            tempfile::tempdir_in(directory).expect("GRIDKV_BENCH_DIR can be written to");
        measure(&mut criterion, "file", || on_disk(directory.path()));
    }
    criterion.final_summary();
}

fn measure(criterion: &mut Criterion, name: &str, open: impl FnOnce() -> Shard) {
    let mut shard = open();
    let mut group = criterion.benchmark_group(format!("group_commit/{name}"));
    for count in MUTATION_COUNTS {
        group.throughput(Throughput::Elements(count));
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            bencher.iter(|| {
                (0..count).for_each(|_| shard.write_next());
                shard.commit();
            });
        });
    }
    group.finish();
    shard.store.close();
}

/// A store and what makes its disk go on.
struct Shard {
    store: Box<dyn Storage>,
    /// The way to the kernel, of a store on real files.
    io: Option<IoPort>,
    opened_at: Clock,
    version: u64,
}

impl Shard {
    fn new(store: Box<dyn Storage>, io: Option<IoPort>) -> Self {
        Self { store, io, opened_at: Clock::now(), version: 0 }
    }

    fn write_next(&mut self) {
        self.version += 1;
        let key = format!("key:{:012}", self.version % KEY_COUNT);
        let version = Version { timestamp: Timestamp(self.version), node: NodeId(1) };
        let mutation =
            Mutation { key: key.as_bytes(), value: Some(&VALUE), version, expires_at: None };
        let token = common::token_of(key.as_bytes());
        loop {
            match self.store.apply(token, black_box(&mutation), NOW) {
                Ok(_) => return,
                Err(Error::Busy(_)) => self.turn(),
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn commit(&mut self) {
        let position = self.store.appended();
        while self.store.durable() < position {
            self.turn();
        }
    }

    fn turn(&mut self) {
        let nanos = u64::try_from(self.opened_at.elapsed().as_nanos()).expect("a short run");
        self.store.turn(Instant::from_nanos(nanos));
        while self.store.poll_ready().is_some() {}
        assert!(!self.store.has_failed(), "the disk is sound");
        if let Some(io) = &self.io
            && (io.has_submissions() || io.in_flight() > 0)
        {
            io.drive(true).expect("the kernel takes operations");
        }
    }
}

fn options(disk: Option<DiskOptions>) -> Options {
    Options {
        token_key: common::token_key(),
        range: ShardRange::WHOLE,
        disk,
        memory_bytes_max: None,
        eviction: Eviction::Refuse,
        tombstones: Tombstones::Drop,
        seed: 1,
    }
}

fn simulated() -> Shard {
    let setup = Setup {
        cache_bytes_max: CACHE_BYTES,
        durability: Durability::Commit,
        segment_bytes: SEGMENT_BYTES,
        directory: "simulated".to_owned(),
    };
    let disk = SimulatedDisk::new(1, Faults::NONE);
    let opened = FileStorage::open(disk, setup, &options(None), NOW);
    Shard::new(Box::new(opened.expect("the disk is sound").0), None)
}

fn on_disk(directory: &Path) -> Shard {
    let sync_method = probe(directory).expect("the directory takes durable writes");
    let io = IoPort::new();
    let disk = DiskOptions {
        directory: directory.to_owned(),
        io: io.clone(),
        cache_bytes_max: CACHE_BYTES,
        durability: Durability::Commit,
        segment_bytes: SEGMENT_BYTES,
        sync_method,
    };
    let store = Registry::default().open("file", &options(Some(disk)));
    Shard::new(store.expect("the directory is empty"), Some(io))
}
