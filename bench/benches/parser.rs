//! RESP at both ends, [`gridkv_net::resp`]: requests found by a server, replies by a client.
//!
//! ```text
//! cargo bench -p gridkv-bench --bench parser -- requests/set
//! ```
//!
//! | measured | is |
//! |---|---|
//! | `requests/get`, `requests/set` | all requests of what a connection has received, in place |
//! | `replies/ok`, `replies/bulk` | all replies of what a client has received, found and skipped |
//!
//! Elements are requests or replies, 1 or 64 of them received together, named `count`. Values have
//! 64 B or 1 KiB. Compare 64 with 1: what a single one costs beside its parsing. Values are not
//! looked at, so the two sizes differ by a longer header, and by how far apart headers lie.

mod common;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use gridkv_net::resp::{Arguments, Limits, Parser, ReplyScanner, Step, encode_command};

const COUNTS: [usize; 2] = [1, 64];
const VALUE_BYTES: [usize; 2] = [64, 1 << 10];
const KEY: &[u8] = b"key:000000000001";

fn main() {
    let mut criterion = common::brief();
    requests(&mut criterion, "get", &[b"GET", KEY]);
    for bytes in VALUE_BYTES {
        let value = vec![b'7'; bytes];
        requests(&mut criterion, &format!("set-{bytes}"), &[b"SET", KEY, &value]);
    }
    replies(&mut criterion, "ok", b"+OK\r\n");
    for bytes in VALUE_BYTES {
        let reply = format!("${bytes}\r\n{}\r\n", "7".repeat(bytes));
        replies(&mut criterion, &format!("bulk-{bytes}"), reply.as_bytes());
    }
    criterion.final_summary();
}

fn requests(criterion: &mut Criterion, name: &str, command: &[&[u8]]) {
    let mut group = criterion.benchmark_group(format!("parser/requests/{name}"));
    let limits = Limits::new(16 << 20, 64 << 20);
    for count in COUNTS {
        let mut input = Vec::new();
        (0..count).for_each(|_| encode_command(&mut input, command));
        let (mut parser, mut arguments) = (Parser::new(), Arguments::new());
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            bencher.iter(|| {
                let mut rest = black_box(input.as_slice());
                while !rest.is_empty() {
                    let step = parser.parse(rest, &limits, &mut arguments);
                    let Ok(Step::Request { consumed }) = step else { panic!("{step:?}") };
                    black_box(arguments.get(1, rest));
                    rest = &rest[consumed..];
                }
            });
        });
    }
    group.finish();
}

fn replies(criterion: &mut Criterion, name: &str, reply: &[u8]) {
    let mut group = criterion.benchmark_group(format!("parser/replies/{name}"));
    for count in COUNTS {
        let input = reply.repeat(count);
        let mut scanner = ReplyScanner::new();
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            bencher.iter(|| {
                let mut rest = black_box(input.as_slice());
                while !rest.is_empty() {
                    let reply = scanner.scan(rest).expect("these are replies");
                    let reply = black_box(reply.expect("they are whole"));
                    rest = &rest[reply.len..];
                }
            });
        });
    }
    group.finish();
}
