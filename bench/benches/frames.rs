//! Frames between nodes, [`gridkv_cluster::wire::frame`], and what they carry: the archives of
//! mutations, [`gridkv_cluster::mutation`].
//!
//! ```text
//! cargo bench -p gridkv-bench --bench frames -- write
//! ```
//!
//! | measured | is |
//! |---|---|
//! | `write/checksum`, `write/key` | a frame's header, its check and its body into a buffer |
//! | `read/checksum`, `read/key` | the bytes of some frames pushed, each frame found and checked |
//! | `archive/encode` | a mutation archived into a buffer that has room |
//! | `archive/access` | an archive checked and given back as a mutation |
//!
//! Compare `key` with `checksum`: what it costs that nobody can forge a frame. Compare `encode` with
//! a copy of as many bytes, which is what `write` does beside its check. Bytes are those of bodies
//! and values; of `access`, which reads no value, archives are counted.

mod common;

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use gridkv::{Mutation, NodeId, Timestamp, Version};
use gridkv_cluster::mutation;
use gridkv_cluster::wire::frame::{FrameReader, FrameWriter, Kind, Seal};

const BODY_BYTES: [usize; 3] = [64, 1 << 10, 64 << 10];
const SEALS: [(&str, Seal); 2] = [("checksum", Seal::Checksum), ("key", Seal::Key([7; 32]))];
const WALL_MS: u64 = 1_700_000_000_000;

/// Bytes of the frames that arrive together.
const ARRIVAL_BYTES: usize = 64 << 10;

fn main() {
    let mut criterion = common::brief();
    write(&mut criterion);
    read(&mut criterion);
    archives(&mut criterion);
    criterion.final_summary();
}

fn write(criterion: &mut Criterion) {
    for (name, seal) in SEALS {
        let mut group = criterion.benchmark_group(format!("frames/write/{name}"));
        for bytes in BODY_BYTES {
            let body = vec![7; bytes];
            let mut writer = FrameWriter::default();
            writer.set_seal(seal);
            let mut out = Vec::with_capacity(2 * bytes);
            group.throughput(Throughput::Bytes(bytes as u64));
            group.bench_function(BenchmarkId::from_parameter(bytes), |bencher| {
                bencher.iter(|| {
                    out.clear();
                    writer.write(Kind::Messages, WALL_MS, black_box(&body), &mut out);
                    black_box(&out);
                });
            });
        }
        group.finish();
    }
}

fn read(criterion: &mut Criterion) {
    for (name, seal) in SEALS {
        let mut group = criterion.benchmark_group(format!("frames/read/{name}"));
        for bytes in BODY_BYTES {
            let count = (ARRIVAL_BYTES / bytes).min(64);
            let body = vec![7; bytes];
            let (mut writer, mut reader) = (FrameWriter::default(), FrameReader::default());
            writer.set_seal(seal);
            reader.admit(seal);
            group.throughput(Throughput::Bytes((bytes * count) as u64));
            group.bench_function(BenchmarkId::from_parameter(bytes), |bencher| {
                // Counters go on from frame to frame, so each arrival is written anew.
                let arrival = || {
                    let mut out = Vec::new();
                    for _ in 0..count {
                        writer.write(Kind::Messages, WALL_MS, &body, &mut out);
                    }
                    out
                };
                let take = |bytes: Vec<u8>| take_all(&mut reader, &bytes, count);
                bencher.iter_batched(arrival, take, BatchSize::PerIteration);
            });
        }
        group.finish();
    }
}

fn take_all(reader: &mut FrameReader, bytes: &[u8], count: usize) {
    reader.push(bytes);
    for _ in 0..count {
        let frame = reader.next_frame().expect("the frames are sound");
        black_box(frame.expect("the frames are whole").body);
    }
}

fn archives(criterion: &mut Criterion) {
    let version = Version { timestamp: Timestamp(1), node: NodeId(1) };
    let values = BODY_BYTES.map(|bytes| vec![7; bytes]);
    let mutations = values.each_ref().map(|value| Mutation {
        key: b"key:000000000001",
        value: Some(value),
        version,
        expires_at: None,
    });
    let mut group = criterion.benchmark_group("frames/archive/encode");
    for (bytes, mutation) in BODY_BYTES.into_iter().zip(&mutations) {
        let mut out = mutation::encode(mutation);
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::from_parameter(bytes), |bencher| {
            bencher.iter(|| {
                out.clear();
                mutation::encode_into(black_box(mutation), &mut out);
                black_box(&out);
            });
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group("frames/archive/access");
    for (bytes, mutation) in BODY_BYTES.into_iter().zip(&mutations) {
        let archive = mutation::encode(mutation);
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::from_parameter(bytes), |bencher| {
            bencher.iter(|| mutation::access(black_box(&archive)).is_ok());
        });
    }
    group.finish();
}
