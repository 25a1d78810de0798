//! The sync log, [`gridkv::storage::sync_log`]: what it costs a shard's core to keep a mutation for
//! its replicas, and a replica's reader to fetch it.
//!
//! ```text
//! cargo bench -p gridkv-bench --bench sync_log -- append
//! ```
//!
//! | measured | is |
//! |---|---|
//! | `append` | the core, with nobody reading |
//! | `append_and_read` | the same and a reader that follows, on one thread: their sum |
//! | `append_while_read` | the core, while a reader on another thread follows as fast as it can |
//!
//! Compare the last with the first: a reader may slow the core down by the cache lines they share,
//! and by nothing else. Where both threads have one CPU, it tells how the system shares it out.
//!
//! Entries are archives of mutations with values of 64 B and 1 KiB; bytes are those of the archives.

mod common;

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use criterion::{BenchmarkId, Criterion, Throughput};
use gridkv::storage::sync_log::{Read, Sequence, SyncReader, sync_log};
use gridkv::{Mutation, NodeId, Timestamp, Version};
use gridkv_cluster::mutation;

const LOG_BYTES: usize = 16 << 20;
const VALUE_BYTES: [usize; 2] = [64, 1 << 10];

fn main() {
    let mut criterion = common::brief();
    append(&mut criterion);
    append_and_read(&mut criterion);
    append_while_read(&mut criterion);
    criterion.final_summary();
}

/// An archive, as a shard's core has it.
fn archive(value_bytes: usize) -> impl std::ops::Deref<Target = [u8]> + Clone {
    let version = Version { timestamp: Timestamp(1), node: NodeId(1) };
    let value = vec![7; value_bytes];
    let mutation =
        Mutation { key: b"key:000000000001", value: Some(&value), version, expires_at: None };
    mutation::encode(&mutation)
}

fn throughput(bytes: usize) -> Throughput {
    Throughput::Bytes(bytes as u64)
}

fn append(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sync_log/append");
    for bytes in VALUE_BYTES {
        let entry = archive(bytes);
        let (mut log, _reader) = sync_log(LOG_BYTES);
        group.throughput(throughput(entry.len()));
        group.bench_function(BenchmarkId::from_parameter(bytes), |bencher| {
            bencher.iter(|| log.push(black_box(&entry)));
        });
    }
    group.finish();
}

fn append_and_read(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sync_log/append_and_read");
    for bytes in VALUE_BYTES {
        let entry = archive(bytes);
        let (mut log, reader) = sync_log(LOG_BYTES);
        let mut into = mutation::encode(&mutation::access(&entry).expect("it was encoded here"));
        group.throughput(throughput(entry.len()));
        group.bench_function(BenchmarkId::from_parameter(bytes), |bencher| {
            bencher.iter(|| {
                let sequence = log.push(black_box(&entry));
                let read = reader.read(sequence, &mut into);
                assert!(matches!(read, Read::Entry { .. }));
                black_box(&into);
            });
        });
    }
    group.finish();
}

fn append_while_read(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sync_log/append_while_read");
    for bytes in VALUE_BYTES {
        let entry = archive(bytes);
        let (mut log, reader) = sync_log(LOG_BYTES);
        let is_over = AtomicBool::new(false);
        group.throughput(throughput(entry.len()));
        thread::scope(|scope| {
            let following = scope.spawn(|| follow(&reader, &is_over));
            group.bench_function(BenchmarkId::from_parameter(bytes), |bencher| {
                bencher.iter(|| log.push(black_box(&entry)));
            });
            is_over.store(true, Ordering::Relaxed);
            let read_count = following.join().expect("a reader does not panic");
            assert!(read_count > 0, "the reader had its share");
        });
    }
    group.finish();
}

/// Reads what comes until it is over; says how many entries it got.
fn follow(reader: &SyncReader, is_over: &AtomicBool) -> u64 {
    let version = Version { timestamp: Timestamp(1), node: NodeId(1) };
    let mut into = mutation::encode(&Mutation { key: b"", value: None, version, expires_at: None });
    let (mut at, mut count) = (Sequence::FIRST, 0);
    while !is_over.load(Ordering::Relaxed) {
        match reader.read(at, &mut into) {
            Read::Entry { next, .. } => {
                black_box(&into);
                count += 1;
                at = next;
            }
            Read::Overrun { oldest } => at = oldest,
            Read::End => std::hint::spin_loop(),
        }
    }
    count
}
