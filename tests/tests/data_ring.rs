//! The stores' reads and writes go through the ring of their core, beside its clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use gridkv::storage::disk::{DirectDisk, Disk, FileId, Op, zeroed};
use gridkv::storage::{
    Accepted, Applied, Entry, Error, Eviction, LogPosition, LogStats, Lookup, MemoryStorage,
    OpenFn, Options, Stats, Step, Storage,
};
use gridkv::{Builder, Instant, Mutation, OpenError, Token, TokenKey, Version, WallTime};
use gridkv_net::resp::Value;
use gridkv_tests::client::{encode, ok};
use gridkv_tests::node::{Node, SHAPES, builder, with};

const FILE: FileId = FileId(1);

/// A store in memory with a log that says nothing: a block that is written again for each commit.
struct Blocks {
    memory: MemoryStorage,
    disk: DirectDisk,
    is_ready: bool,
    /// Up to where the write under way makes the log durable.
    writing: Option<u64>,
    appended: u64,
    durable: u64,
    write_count: Arc<AtomicUsize>,
}

impl Blocks {
    fn new(options: &Options, write_count: &Arc<AtomicUsize>) -> Self {
        let place = options.disk.as_ref().expect("a node gives a store on disk its place");
        let opened = DirectDisk::open(&place.directory, place.io.clone(), place.sync_method);
        let mut disk = opened.expect("the directory is there");
        disk.start(Op::Create { file: FILE, bytes: 4_096, is_written: true });
        Self {
            memory: MemoryStorage::new(options),
            disk,
            is_ready: false,
            writing: None,
            appended: 0,
            durable: 0,
            write_count: Arc::clone(write_count),
        }
    }
}

impl Storage for Blocks {
    fn get(&mut self, token: Token, key: &[u8], now: WallTime) -> Lookup<'_> {
        self.memory.get(token, key, now)
    }

    fn peek(&self, token: Token, key: &[u8], now: WallTime) -> Lookup<'_> {
        self.memory.peek(token, key, now)
    }

    fn apply(
        &mut self,
        token: Token,
        mutation: &Mutation<'_>,
        now: WallTime,
    ) -> Result<Applied, Error> {
        self.appended += 1;
        self.memory.apply(token, mutation, now)
    }

    fn accepted(&mut self, token: Token, key: &[u8]) -> Accepted<'_> {
        self.memory.accepted(token, key)
    }

    fn floor(&self) -> Version {
        self.memory.floor()
    }

    fn promise(&mut self, through: Version) -> Result<(), Error> {
        self.appended += 1;
        self.memory.promise(through)
    }

    fn promised(&self) -> Version {
        self.memory.promised()
    }

    fn prefetch(&self, tokens: &[Token]) {
        self.memory.prefetch(tokens);
    }

    fn turn(&mut self, _: Instant) {
        while let Some(ended) = self.disk.poll() {
            ended.result.expect("the disk does what it is told");
            self.is_ready = true;
            self.durable = self.writing.take().unwrap_or(0);
        }
        if self.is_ready && self.writing.is_none() && self.durable < self.appended {
            self.writing = Some(self.appended);
            let buffer = zeroed(4_096);
            self.disk.start(Op::Write { file: FILE, offset: 0, buffer, is_durable: true });
            self.write_count.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn appended(&self) -> LogPosition {
        LogPosition(self.appended)
    }

    fn durable(&self) -> LogPosition {
        LogPosition(self.durable)
    }

    fn log_stats(&self) -> Option<LogStats> {
        Some(LogStats::default())
    }

    fn close(&mut self) {
        assert_eq!(self.writing, None, "the ring has done all when a store is closed");
        assert_eq!(self.durable, self.appended, "everybody was answered");
    }

    fn walk(
        &mut self,
        from: Token,
        budget: usize,
        now: WallTime,
        visit: &mut dyn FnMut(Entry<'_>),
    ) -> Step<Option<Token>> {
        self.memory.walk(from, budget, now, visit)
    }

    fn walk_accepted(
        &mut self,
        from: Token,
        budget: usize,
        visit: &mut dyn FnMut(&Mutation<'_>),
    ) -> Step<Option<Token>> {
        self.memory.walk_accepted(from, budget, visit)
    }

    fn collect_expired(&mut self, budget: usize, now: WallTime) -> usize {
        self.memory.collect_expired(budget, now)
    }

    fn random(&mut self, now: WallTime) -> Step<Option<Entry<'_>>> {
        self.memory.random(now)
    }

    fn idle_time(&self, token: Token, key: &[u8], now: WallTime) -> Option<Duration> {
        self.memory.idle_time(token, key, now)
    }

    fn frequency(&self, token: Token) -> Option<u8> {
        self.memory.frequency(token)
    }

    fn rekey(&mut self, token_key: &TokenKey) -> bool {
        self.memory.rekey(token_key)
    }

    fn record_bytes(&self, token: Token, key: &[u8], now: WallTime) -> Option<u64> {
        self.memory.record_bytes(token, key, now)
    }

    fn clear(&mut self, version: Version) -> Result<(), Error> {
        self.memory.clear(version)
    }

    fn stats(&self) -> Stats {
        self.memory.stats()
    }

    fn reset_stats(&mut self) {
        self.memory.reset_stats();
    }

    fn set_memory_limit(&mut self, memory_bytes_max: Option<u64>, eviction: Eviction) {
        self.memory.set_memory_limit(memory_bytes_max, eviction);
    }
}

fn install(builder: Builder, data: &std::path::Path, write_count: &Arc<AtomicUsize>) -> Builder {
    let count = Arc::clone(write_count);
    let open: Arc<OpenFn> = Arc::new(move |options| Ok(Box::new(Blocks::new(options, &count))));
    let builder = builder.register_backend("file", open).storage("file");
    with(with(builder, "data", data.to_str().expect("a plain name")), "sync", "fdatasync")
}

#[test]
fn writes_are_answered_when_the_ring_says_that_they_are_on_disk() {
    for shape in SHAPES {
        let room = tempfile::tempdir().unwrap();
        let write_count = Arc::new(AtomicUsize::new(0));
        let node = Node::open(install(builder(shape), room.path(), &write_count));
        let keys = node.key_of_each_shard();
        let mut clients = [(); 4].map(|()| node.connect());
        for round in 0..50 {
            for client in &mut clients {
                for key in &keys {
                    client.send_raw(&encode(&["INCR", key]).repeat(20));
                }
            }
            for client in &mut clients {
                let is_number = |_| matches!(client.reply(), Value::Integer(_));
                assert!((0..20 * keys.len()).all(is_number), "{round}");
            }
        }
        let store = node.engine.handle().blocking();
        assert_eq!(store.get(&keys[0]), Ok(Some(b"4000".to_vec())));
        let commits = write_count.load(Ordering::Relaxed);
        assert!((50..4_000).contains(&commits), "{commits} commits for what came together");
        // Commands that take steps, while the executor sleeps.
        assert_eq!(clients[0].call(&["RENAME", &keys[0], "other"]), ok());
        node.stop();
    }
}

#[test]
fn a_data_directory_has_one_user_and_one_number_of_shards() {
    let room = tempfile::tempdir().unwrap();
    let write_count = Arc::new(AtomicUsize::new(0));
    let open = |shape| install(builder(shape), room.path(), &write_count).open();
    let engine = open(SHAPES[2]).unwrap();
    // Whoever still holds one when the engine has ended does not keep the directory.
    let _handle = engine.handle();
    let refused = open(SHAPES[2]).unwrap_err();
    assert!(matches!(refused, OpenError::Directory(_)), "{refused}");
    assert_eq!(engine.shutdown(), Ok(()));
    let refused = open(SHAPES[0]).unwrap_err();
    assert!(refused.to_string().contains("was made with 5 shards"), "{refused}");
    let again = open(SHAPES[2]).unwrap();
    assert_eq!(again.shutdown(), Ok(()));
}
