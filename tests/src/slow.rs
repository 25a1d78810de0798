//! A storage backend whose disk does nothing by itself: a store in memory that takes its values for
//! being on disk, reads them when the test says so, and is durable when the test says so.
//!
//! # What the control does
//!
//! | call | from then on |
//! |---|---|
//! | [`Control::put_on_disk`] | lookups of the key say that its value is on disk |
//! | [`Control::read`], [`Control::fail_read`] | reads that were begun end, well or not |
//! | [`Control::hold_commits`], [`Control::commit`] | the log stays where it is, moves on |
//! | [`Control::fail_log`] | the log has failed |
//! | [`Control::fill_log`], [`Control::fill_log_of`], [`Control::make_room`] | writes find no room, in one shard, find it again |
//! | [`Control::fill_disk`] | writes but deletions are refused |

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use gridkv::storage::{
    Accepted, Applied, Entry, Error, Eviction, LogPosition, LogStats, Lookup, MemoryStorage,
    OpenFn, Options, ReadError, Stats, Step, Storage, Ticket,
};
use gridkv::{Builder, Instant, Mutation, ShardRange, Token, TokenKey, Version, WallTime};

/// What all shards of a node share with the test.
#[derive(Default)]
struct State {
    on_disk: BTreeSet<Vec<u8>>,
    /// Reads that were begun, in their order.
    reads: Vec<Vec<u8>>,
    /// How reads end; a key that is not there waits.
    read_results: BTreeMap<Vec<u8>, Result<(), ReadError>>,
    /// Reads end by themselves.
    reads_at_once: bool,
    is_holding: bool,
    /// Of the shards' logs only this one stays where it is.
    held_shard: Option<u16>,
    has_failed: bool,
    is_log_full: bool,
    /// Of the shards' logs only this one is full.
    full_shard: Option<u16>,
    is_disk_full: bool,
    commit_requests: usize,
    waiting_for_room: usize,
    released_count: usize,
    closed_count: usize,
    applied_count: usize,
    version_max: Version,
}

impl State {
    /// Whether the log of a shard has no room.
    fn is_full(&self, range: ShardRange) -> bool {
        self.is_log_full || self.full_shard == Some(range.shard().0)
    }
}

/// The test's end of all stores of a node.
#[derive(Clone, Default)]
pub struct Control(Arc<Mutex<State>>);

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Control")
    }
}

impl Control {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nobody panics with it")
    }

    /// Registers the backend with a node, and has the node use it.
    #[must_use]
    pub fn install(&self, builder: Builder) -> Builder {
        let control = self.clone();
        let open: Arc<OpenFn> = Arc::new(move |options| Ok(Box::new(Slow::new(&control, options))));
        builder.register_backend("slow", open).storage("slow")
    }

    /// Takes the value of `key` out of memory.
    pub fn put_on_disk(&self, key: &str) {
        self.state().on_disk.insert(key.as_bytes().to_vec());
    }

    /// Ends the read of `key`, once it is begun.
    pub fn read(&self, key: &str) {
        self.state().read_results.insert(key.as_bytes().to_vec(), Ok(()));
    }

    /// Ends all reads as soon as they are begun.
    pub fn read_at_once(&self) {
        self.state().reads_at_once = true;
    }

    /// Fails the read of `key`, once it is begun.
    pub fn fail_read(&self, key: &str) {
        let error = ReadError::Damaged { file: "0000000001.log".to_owned(), offset: 4_096 };
        self.state().read_results.insert(key.as_bytes().to_vec(), Err(error));
    }

    /// The keys whose reads were begun, in their order.
    #[must_use]
    pub fn reads(&self) -> Vec<String> {
        let text = |key: &Vec<u8>| String::from_utf8_lossy(key).into_owned();
        self.state().reads.iter().map(text).collect()
    }

    /// Makes nothing durable from here on.
    pub fn hold_commits(&self) {
        self.state().is_holding = true;
    }

    /// Makes nothing of this shard durable from here on.
    pub fn hold_commits_of(&self, shard: u16) {
        self.state().held_shard = Some(shard);
    }

    /// Makes everything durable again.
    pub fn commit(&self) {
        let mut state = self.state();
        state.is_holding = false;
        state.held_shard = None;
    }

    /// Fails the log.
    pub fn fail_log(&self) {
        self.state().has_failed = true;
    }

    /// Leaves no room for writes.
    pub fn fill_log(&self) {
        self.state().is_log_full = true;
    }

    /// Leaves no room for writes to this shard.
    pub fn fill_log_of(&self, shard: u16) {
        self.state().full_shard = Some(shard);
    }

    /// Makes room for writes again.
    pub fn make_room(&self) {
        let mut state = self.state();
        state.is_log_full = false;
        state.full_shard = None;
    }

    /// Leaves no room for writes but deletions.
    pub fn fill_disk(&self) {
        self.state().is_disk_full = true;
    }

    /// How many writes have found no room.
    #[must_use]
    pub fn waiting_for_room(&self) -> usize {
        self.state().waiting_for_room
    }

    /// How many writes were applied.
    #[must_use]
    pub fn applied_count(&self) -> usize {
        self.state().applied_count
    }

    /// How often a commit was asked for.
    #[must_use]
    pub fn commit_requests(&self) -> usize {
        self.state().commit_requests
    }

    /// How many tickets were released.
    #[must_use]
    pub fn released_count(&self) -> usize {
        self.state().released_count
    }

    /// How many stores were closed.
    #[must_use]
    pub fn closed_count(&self) -> usize {
        self.state().closed_count
    }

    /// The version that stores say they had before they were opened.
    pub fn set_version_max(&self, version: Version) {
        self.state().version_max = version;
    }
}

/// What a ticket was given out for.
enum Waits {
    /// The values of these keys.
    Values(Vec<Vec<u8>>),
    Room,
}

/// One shard's store.
struct Slow {
    control: Control,
    range: ShardRange,
    memory: MemoryStorage,
    next_ticket: u64,
    waiting: BTreeMap<Ticket, Waits>,
    ready: Vec<(Ticket, Result<(), ReadError>)>,
    /// Values that were brought in, by the tickets that keep them.
    brought_in: BTreeMap<Ticket, Vec<Vec<u8>>>,
    appended: u64,
    durable: u64,
    has_failed: bool,
    /// Where the latest mutation of each key stands.
    positions: BTreeMap<Vec<u8>, u64>,
    turned_at: Instant,
}

impl Slow {
    fn new(control: &Control, options: &Options) -> Self {
        Self {
            control: control.clone(),
            range: options.range,
            memory: MemoryStorage::new(options),
            next_ticket: 0,
            waiting: BTreeMap::new(),
            ready: Vec::new(),
            brought_in: BTreeMap::new(),
            appended: 0,
            durable: 0,
            has_failed: false,
            positions: BTreeMap::new(),
            turned_at: Instant::ZERO,
        }
    }

    fn ticket(&mut self, waits: Waits) -> Ticket {
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        self.waiting.insert(ticket, waits);
        ticket
    }

    fn is_on_disk(&self, key: &[u8]) -> bool {
        let is_kept = self.brought_in.values().flatten().any(|it| it == key);
        !is_kept && self.control.state().on_disk.contains(key)
    }

    /// A ticket for the values of the keys that a walk or a draw would show; `None` when all are
    /// there.
    fn load_all(&mut self, keys: Vec<Vec<u8>>) -> Option<Ticket> {
        let missing: Vec<Vec<u8>> = keys.into_iter().filter(|key| self.is_on_disk(key)).collect();
        if missing.is_empty() {
            return None;
        }
        self.control.state().reads.extend(missing.iter().cloned());
        Some(self.ticket(Waits::Values(missing)))
    }
}

/// How the read of several values ends; `None` while one of them is under way.
fn read_result(state: &State, keys: &[Vec<u8>]) -> Option<Result<(), ReadError>> {
    if state.reads_at_once {
        return Some(Ok(()));
    }
    let mut result = Ok(());
    for key in keys {
        result = result.and(state.read_results.get(key)?.clone());
    }
    Some(result)
}

impl Storage for Slow {
    fn get(&mut self, token: Token, key: &[u8], now: WallTime) -> Lookup<'_> {
        if self.is_on_disk(key) && self.memory.peek(token, key, now) != Lookup::Absent {
            return Lookup::OnDisk;
        }
        self.memory.get(token, key, now)
    }

    fn peek(&self, token: Token, key: &[u8], now: WallTime) -> Lookup<'_> {
        let found = self.memory.peek(token, key, now);
        if found != Lookup::Absent && self.is_on_disk(key) { Lookup::OnDisk } else { found }
    }

    fn apply(
        &mut self,
        token: Token,
        mutation: &Mutation<'_>,
        now: WallTime,
    ) -> Result<Applied, Error> {
        {
            let mut state = self.control.state();
            if self.has_failed {
                return Err(Error::LogFailed);
            }
            if state.is_disk_full && mutation.value.is_some() {
                return Err(Error::DiskFull);
            }
            if state.is_full(self.range) {
                state.waiting_for_room += 1;
                drop(state);
                return Err(Error::Busy(self.ticket(Waits::Room)));
            }
            state.on_disk.remove(mutation.key);
        }
        let applied = self.memory.apply(token, mutation, now)?;
        self.appended += 1;
        self.positions.insert(mutation.key.to_vec(), self.appended);
        self.control.state().applied_count += 1;
        Ok(applied)
    }

    fn accepted(&mut self, token: Token, key: &[u8]) -> Accepted<'_> {
        let is_on_disk = self.is_on_disk(key);
        match self.memory.accepted(token, key) {
            Accepted::Value(record) if is_on_disk => Accepted::OnDisk(record.version),
            accepted => accepted,
        }
    }

    fn floor(&self) -> Version {
        self.memory.floor()
    }

    fn promise(&mut self, through: Version) -> Result<(), Error> {
        if through > self.memory.promised() {
            self.memory.promise(through)?;
            self.appended += 1;
        }
        Ok(())
    }

    fn promised(&self) -> Version {
        self.memory.promised()
    }

    fn prefetch(&self, tokens: &[Token]) {
        self.memory.prefetch(tokens);
    }

    fn load(&mut self, _: Token, key: &[u8]) -> Ticket {
        self.control.state().reads.push(key.to_vec());
        self.ticket(Waits::Values(vec![key.to_vec()]))
    }

    fn load_now(&mut self, token: Token, key: &[u8]) -> Result<Ticket, ReadError> {
        let ticket = self.load(token, key);
        self.waiting.remove(&ticket);
        self.brought_in.insert(ticket, vec![key.to_vec()]);
        Ok(ticket)
    }

    fn poll_ready(&mut self) -> Option<(Ticket, Result<(), ReadError>)> {
        self.ready.pop()
    }

    fn release(&mut self, ticket: Ticket) {
        assert!(!self.waiting.contains_key(&ticket), "what waits is not released");
        self.brought_in.remove(&ticket);
        self.control.state().released_count += 1;
    }

    fn turn(&mut self, now: Instant) {
        self.turned_at = now;
        let state = self.control.0.lock().expect("nobody panics with it");
        self.has_failed |= state.has_failed && self.durable < self.appended;
        let is_holding = state.is_holding || state.held_shard == Some(self.range.shard().0);
        if !is_holding && !self.has_failed {
            self.durable = self.appended;
        }
        let mut over = Vec::new();
        for (ticket, waits) in &self.waiting {
            let result = match waits {
                Waits::Values(keys) => read_result(&state, keys),
                Waits::Room => (!state.is_full(self.range)).then_some(Ok(())),
            };
            over.extend(result.map(|result| (*ticket, result)));
        }
        for (ticket, result) in over {
            if let Some(Waits::Values(keys)) = self.waiting.remove(&ticket) {
                self.brought_in.insert(ticket, keys);
            }
            self.ready.insert(0, (ticket, result));
        }
    }

    fn turn_due_at(&self) -> Option<Instant> {
        // What the test says is soon seen.
        Some(self.turned_at + Duration::from_millis(1))
    }

    fn appended(&self) -> LogPosition {
        LogPosition(self.appended)
    }

    fn durable(&self) -> LogPosition {
        LogPosition(self.durable)
    }

    fn unsettled(&self, _: Token, key: &[u8]) -> Option<LogPosition> {
        let position = self.positions.get(key).copied()?;
        (position > self.durable).then_some(LogPosition(position))
    }

    fn request_commit(&mut self) {
        self.control.state().commit_requests += 1;
    }

    fn has_failed(&self) -> bool {
        self.has_failed
    }

    fn version_max(&self) -> Version {
        self.control.state().version_max
    }

    fn close(&mut self) {
        self.control.state().closed_count += 1;
        if !self.has_failed {
            self.durable = self.appended;
        }
    }

    fn log_stats(&self) -> Option<LogStats> {
        Some(LogStats::default())
    }

    fn walk(
        &mut self,
        from: Token,
        budget: usize,
        now: WallTime,
        visit: &mut dyn FnMut(Entry<'_>),
    ) -> Step<Option<Token>> {
        let mut keys = Vec::new();
        let _ = self.memory.walk(from, budget, now, &mut |entry| keys.push(entry.key.to_vec()));
        match self.load_all(keys) {
            Some(ticket) => Step::Loading(ticket),
            None => self.memory.walk(from, budget, now, visit),
        }
    }

    fn walk_accepted(
        &mut self,
        from: Token,
        budget: usize,
        visit: &mut dyn FnMut(&Mutation<'_>),
    ) -> Step<Option<Token>> {
        let mut keys = Vec::new();
        let _ = self.memory.walk_accepted(from, budget, &mut |it| keys.push(it.key.to_vec()));
        match self.load_all(keys) {
            Some(ticket) => Step::Loading(ticket),
            None => self.memory.walk_accepted(from, budget, visit),
        }
    }

    fn collect_expired(&mut self, budget: usize, now: WallTime) -> usize {
        self.memory.collect_expired(budget, now)
    }

    fn random(&mut self, now: WallTime) -> Step<Option<Entry<'_>>> {
        let drawn = match self.memory.random(now) {
            Step::Done(entry) => entry.map(|entry| entry.key.to_vec()),
            Step::Loading(_) => unreachable!("it is in memory"),
        };
        match self.load_all(drawn.into_iter().collect()) {
            Some(ticket) => Step::Loading(ticket),
            None => self.memory.random(now),
        }
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
        let mut state = self.control.state();
        if state.is_full(self.range) {
            state.waiting_for_room += 1;
            drop(state);
            return Err(Error::Busy(self.ticket(Waits::Room)));
        }
        drop(state);
        self.memory.clear(version)?;
        self.appended += 1;
        Ok(())
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
