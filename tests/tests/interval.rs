//! `interval:T` syncs while writes keep coming.
//!
//! The promise: what is acknowledged is durable T later, or no more is acknowledged. So when a write is
//! acknowledged that was sent more than T after the answer to another, a sync has ended in between.
//! Such pairs, one behind the other, are counted with twice that time: however slow the machine, there are
//! as many syncs.

use std::collections::VecDeque;
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gridkv_tests::DEADLINE;
use gridkv_tests::client::{Client, encode};
use gridkv_tests::process::say;
use gridkv_tests::program::Program;

/// What a write is answered with.
const OK: &[u8] = b"+OK\r\n";

/// For how long there are pairs, at least.
const LOADED: Duration = Duration::from_secs(3);

fn figure(program: &Program, name: &str) -> u64 {
    let (_, metrics) = program.page("/metrics");
    let value = metrics.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    value.and_then(|it| it.parse().ok()).unwrap_or_else(|| panic!("{name} is not in {metrics}"))
}

fn start(data: &Path, interval: Duration) -> Program {
    let data = data.to_str().expect("a path that is a text");
    let interval = format!("interval:{}ms", interval.as_millis());
    let durability = ["--durability", &interval, "--cores", "1"];
    Program::start(&[&["--storage", "file", "--data", data][..], &durability].concat())
}

/// How a client writes.
#[derive(Clone, Copy)]
struct Load {
    /// What the node is told.
    interval: Duration,
    /// Writes sent at once.
    batch: usize,
    /// From one batch to the next, whenever answers come.
    pause: Duration,
    /// Batches under way at most.
    window: usize,
}

/// Reads so many answers, all `OK`, without looking at each: that would hold up who sends.
fn read(client: &mut Client, count: usize) {
    let mut left = count * OK.len();
    let mut buffer = [0; 16 << 10];
    while left > 0 {
        let len = left.min(buffer.len());
        let read = client.stream().read(&mut buffer[..len]).expect("the node answers");
        assert!(read > 0, "the node has closed the connection");
        assert!(!buffer[..read].contains(&b'-'), "{}", buffer[..read].escape_ascii());
        left -= read;
    }
}

impl Load {
    /// The pairs of the whole time.
    fn pairs(&self) -> u64 {
        u64::try_from(LOADED.as_millis() / (self.interval * 2).as_millis()).expect("a few")
    }
}

/// Writes until there are pairs enough, or `is_over`. Returns how many pairs there were.
fn write(client: &mut Client, load: Load, is_over: &AtomicBool) -> u64 {
    let value = "v".repeat(100);
    let set = |number| encode(&["SET", &format!("key:{number}"), &value]);
    let request: Vec<u8> = (0..load.batch).flat_map(set).collect();
    let begun_at = Instant::now();
    let (mut under_way, mut answered_at, mut pair_count) = (VecDeque::new(), None, 0);
    for round in 0.. {
        if pair_count == load.pairs() || is_over.load(Ordering::Relaxed) {
            break;
        }
        assert!(begun_at.elapsed() < DEADLINE, "{pair_count} pairs in {DEADLINE:?}");
        let due_at = begun_at + load.pause * round;
        std::thread::sleep(due_at.saturating_duration_since(Instant::now()));
        under_way.push_back(Instant::now());
        client.send_raw(&request);
        if under_way.len() < load.window {
            continue;
        }
        let sent_at = under_way.pop_front().expect("the window is full");
        read(client, load.batch);
        let first = *answered_at.get_or_insert_with(Instant::now);
        if sent_at > first + load.interval * 2 {
            pair_count += 1;
            answered_at = Some(Instant::now());
        }
    }
    is_over.store(true, Ordering::Relaxed);
    read(client, under_way.len() * load.batch);
    assert!(client.is_quiet());
    pair_count
}

/// Writes on two connections, and fails if there were fewer syncs than the promise takes.
fn assert_syncs(load: Load) {
    let place = tempfile::tempdir().expect("a directory for files");
    let program = start(&place.path().join("data"), load.interval);
    let (syncs, records) = ("gridkv_log_syncs_total", "gridkv_log_records_total");
    let before = (figure(&program, syncs), figure(&program, records));
    let is_over = AtomicBool::new(false);
    let clients = [program.connect(), program.connect()];
    let pair_count = std::thread::scope(|scope| {
        let is_over = &is_over;
        let writers =
            clients.map(|mut client| scope.spawn(move || write(&mut client, load, is_over)));
        writers.map(|writer| writer.join().expect("it writes")).into_iter().max()
    });
    let sync_count = figure(&program, syncs) - before.0;
    let record_count = figure(&program, records) - before.1;
    say(&format!("{record_count} writes, {sync_count} syncs"));
    assert_eq!(pair_count, Some(load.pairs()));
    assert!(sync_count >= load.pairs(), "{sync_count} syncs for {} pairs", load.pairs());
}

#[test]
fn a_smooth_load_is_synced_at_least_once_an_interval() {
    let (interval, pause) = (Duration::from_millis(200), Duration::from_millis(4));
    assert_syncs(Load { interval, batch: 1, pause, window: 1 });
}

#[test]
fn writes_back_to_back_are_synced_at_least_once_an_interval() {
    // Shorter: a file that is full is synced too, and these fill some.
    let (interval, pause) = (Duration::from_millis(50), Duration::ZERO);
    assert_syncs(Load { interval, batch: 100, pause, window: 16 });
}
