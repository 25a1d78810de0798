//! What it costs nodes to know each other, [`gridkv_cluster::identity`]. What it costs that they stay
//! known is in the bench `frames`: the same frames with a checksum and with a key.
//!
//! ```text
//! cargo bench -p gridkv-bench --bench signatures -- handshake
//! ```
//!
//! | measured | is |
//! |---|---|
//! | `handshake` | both ends of a handshake, from the first message to the keys |
//! | `datagram/seal`, `datagram/open` | a datagram of 64 B or 1,200 B, at its sender and its receiver |
//!
//! Handshakes and datagrams are measured in each security: `off`, where nothing is signed; `listed`,
//! where nodes have each other's keys; `certified`, where each shows the word of the cluster's key.
//! Compare each with `off`. A receiver has heard the sender of a datagram before, so it verifies one
//! signature (Ed25519) for each, and no certificate.

mod common;

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use gridkv::WallTime;
use gridkv_cluster::identity::{
    Certificate, DatagramSeal, Handshake, Hello, Identity, Local, Security, Step, Trust,
};

const WALL_MS: u64 = 1_700_000_000_000;
/// A receiver verifies so many datagrams a second of one sender and no more, by the time that it is
/// told: datagrams come far enough apart.
const DATAGRAM_INTERVAL_MS: u64 = 10;
const CLUSTER: &str = "bench";
const TARGET: u16 = 3;

fn main() {
    let mut criterion = common::brief();
    handshakes(&mut criterion);
    datagrams(&mut criterion);
    criterion.final_summary();
}

fn identity(seed: u8) -> Identity {
    Identity::from_secret([seed; 32])
}

/// Two nodes that believe each other.
fn pairs() -> [(&'static str, [Local; 2]); 3] {
    let nodes = |security: &dyn Fn(u8) -> Security| {
        [1, 2].map(|seed| Local {
            identity: identity(seed),
            security: security(seed),
            cluster: CLUSTER.to_owned(),
        })
    };
    let keys = || [1, 2].map(|seed| identity(seed).public()).to_vec();
    let certified = |seed| {
        let certificate = Certificate::issue(&identity(9), identity(seed).public(), CLUSTER);
        Security::Sign(Trust::ClusterKey { key: identity(9).public(), certificate })
    };
    [
        ("off", nodes(&|_| Security::Off)),
        ("listed", nodes(&|_| Security::Sign(Trust::Keys(keys())))),
        ("certified", nodes(&certified)),
    ]
}

fn hello() -> Hello {
    let address = ([10, 0, 0, 1], 7_000).into();
    Hello { address, store: 1, epoch: 2, run: WALL_MS, cluster_id: 1 }
}

fn handshakes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("signatures/handshake");
    group.throughput(Throughput::Elements(1));
    for (name, [initiator, responder]) in pairs() {
        group.bench_function(name, |bencher| bencher.iter(|| shake(&initiator, &responder)));
    }
    group.finish();
}

/// A handshake at both its ends.
fn shake(initiator: &Local, responder: &Local) {
    let (mut asking, first) = Handshake::initiate(initiator, hello(), [11; 32], TARGET);
    let mut answering = Handshake::respond(responder, hello(), [22; 32], TARGET);
    let Ok(Step::Send(second)) = answering.on_message(responder, &first) else {
        panic!("the responder answers")
    };
    let Ok(Step::Finished { send: Some(third), peer }) = asking.on_message(initiator, &second)
    else {
        panic!("the initiator proves")
    };
    let Ok(Step::Finished { peer: other, .. }) = answering.on_message(responder, &third) else {
        panic!("the responder believes")
    };
    black_box((peer, other));
}

fn datagrams(criterion: &mut Criterion) {
    for (name, nodes) in pairs() {
        seal(criterion, name, &nodes[0]);
        open(criterion, name, &nodes);
    }
}

const PAYLOAD_BYTES: [usize; 2] = [64, 1_200];

fn seal(criterion: &mut Criterion, name: &str, sender: &Local) {
    let mut group = criterion.benchmark_group(format!("signatures/datagram/seal/{name}"));
    for bytes in PAYLOAD_BYTES {
        let payload = vec![7; bytes];
        let mut sealing = DatagramSeal::new(WALL_MS);
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::from_parameter(bytes), |bencher| {
            let wall = WallTime::from_millis(WALL_MS);
            bencher.iter(|| sealing.seal(sender, wall, black_box(&payload)));
        });
    }
    group.finish();
}

fn open(criterion: &mut Criterion, name: &str, [sender, receiver]: &[Local; 2]) {
    let mut group = criterion.benchmark_group(format!("signatures/datagram/open/{name}"));
    for bytes in PAYLOAD_BYTES {
        let payload = vec![7; bytes];
        let (mut sealing, mut opening) = (DatagramSeal::new(WALL_MS), DatagramSeal::new(WALL_MS));
        let mut wall_ms = WALL_MS;
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::from_parameter(bytes), |bencher| {
            let arrival = || {
                wall_ms += DATAGRAM_INTERVAL_MS;
                let wall = WallTime::from_millis(wall_ms);
                (wall, sealing.seal(sender, wall, &payload))
            };
            let take = |(wall, bytes): (WallTime, Vec<u8>)| {
                let opened = opening.open(receiver, wall, &bytes);
                black_box(opened.expect("the sender is believed"));
            };
            bencher.iter_batched(arrival, take, BatchSize::SmallInput);
        });
    }
    group.finish();
}
