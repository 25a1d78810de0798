//! The [`Storage`] trait, and the [`Registry`] that finds a backend by its name.
//!
//! # Why the trait is synchronous
//!
//! A lookup that is answered from memory must not cost a future. A command runs to its end on its
//! core without waiting; what it borrows from the store it copies into the client's reply before
//! the store is touched again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use gridkv_cluster::{Mutation, ShardRange, Token, Version, WallTime};

/// What happens when a write does not fit into `memory_bytes_max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eviction {
    /// The write is refused with [`Error::OutOfMemory`].
    Refuse,
    /// Seldom used records make room (TinyLFU admission).
    Lfu,
}

/// What becomes of a deleted or expired record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tombstones {
    /// Its memory is freed; the store remembers only the highest version removed, its *floor*, and
    /// refuses older mutations of keys it does not have. For data without replicas.
    Drop,
    /// A tombstone with its version stays. For data with replicas.
    Keep,
}

/// How a store is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The tokens the store is for.
    pub range: ShardRange,
    /// Bound on the memory of records and index; `None` for no bound.
    pub memory_bytes_max: Option<u64>,
    /// What happens at the bound.
    pub eviction: Eviction,
    /// What becomes of the deleted.
    pub tombstones: Tombstones,
    /// Seed of the store's random choices (victims, random keys), for replay.
    pub seed: u64,
}

/// What a store has under a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The value.
    pub value: &'a [u8],
    /// The version of the mutation that wrote it.
    pub version: Version,
    /// When it stops to exist.
    pub expires_at: Option<WallTime>,
}

/// The answer to a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup<'a> {
    /// The key has a value.
    Found(Record<'a>),
    /// The key has none: never written, deleted or expired.
    Absent,
}

impl<'a> Lookup<'a> {
    /// The record, if there is one.
    #[must_use]
    pub const fn record(self) -> Option<Record<'a>> {
        match self {
            Self::Found(record) => Some(record),
            Self::Absent => None,
        }
    }
}

/// A step of a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Where the key lies.
    pub token: Token,
    /// The key.
    pub key: &'a [u8],
    /// What is under it.
    pub record: Record<'a>,
}

/// What a mutation did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It won. `replaced` tells whether a live value was there before.
    Won {
        /// Whether the key had a live value.
        replaced: bool,
    },
    /// The store has this version or a newer one; nothing changed.
    Superseded,
}

/// Counters and sizes of a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Live keys, those included that have expired but were not collected.
    pub key_count: u64,
    /// Keys with an expiry.
    pub expiring_key_count: u64,
    /// Tombstones kept.
    pub tombstone_count: u64,
    /// Bytes of the live keys and values.
    pub payload_bytes: u64,
    /// Memory of records and index, allocator rounding included.
    pub memory_bytes: u64,
    /// Lookups that found a value, since the last reset.
    pub hit_count: u64,
    /// Lookups that found none, since the last reset.
    pub miss_count: u64,
    /// Records that died of their expiry, since the last reset.
    pub expired_count: u64,
    /// Records evicted to make room, since the last reset.
    pub evicted_count: u64,
}

impl Stats {
    /// Adds another store's.
    pub const fn add(&mut self, other: &Self) {
        self.key_count += other.key_count;
        self.expiring_key_count += other.expiring_key_count;
        self.tombstone_count += other.tombstone_count;
        self.payload_bytes += other.payload_bytes;
        self.memory_bytes += other.memory_bytes;
        self.hit_count += other.hit_count;
        self.miss_count += other.miss_count;
        self.expired_count += other.expired_count;
        self.evicted_count += other.evicted_count;
    }
}

/// Why a mutation was not applied. Each variant says what it leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bound is reached and nothing may be evicted, or evicting was not enough. The key is
    /// as it was.
    #[error("out of memory: {used_bytes} of {max_bytes} bytes in use, {needed_bytes} more needed")]
    OutOfMemory {
        /// In use by the store.
        used_bytes: u64,
        /// The store's bound.
        max_bytes: u64,
        /// What the write would have added.
        needed_bytes: u64,
    },
    /// Key or value is longer than a record can say. The key is as it was.
    #[error("record too large: key of {key_bytes} bytes, value of {value_bytes} bytes")]
    TooLarge {
        /// Length of the key.
        key_bytes: usize,
        /// Length of the value.
        value_bytes: usize,
    },
}

/// The store of one shard.
///
/// Every `token` is [`Token::of`] the key beside it and lies in the store's range: computed once
/// by the caller, who needed it to find the shard.
pub trait Storage {
    /// The live value under `key`. Counts a hit or a miss, and as a use of the record.
    fn get(&mut self, token: Token, key: &[u8], now: WallTime) -> Lookup<'_>;

    /// As [`Storage::get`], without a trace in the statistics or in the record's history.
    fn peek(&self, token: Token, key: &[u8], now: WallTime) -> Lookup<'_>;

    /// Merges a mutation: it wins if its version is larger than what the store has.
    ///
    /// # Errors
    ///
    /// [`Error`]; nothing about the key has changed then.
    fn apply(
        &mut self,
        token: Token,
        mutation: &Mutation<'_>,
        now: WallTime,
    ) -> Result<Applied, Error>;

    /// Brings what lookups of `tokens` will touch into the processor's cache: all index buckets
    /// first, then all records. A hint; best with 8 to 32 tokens at a time.
    fn prefetch(&self, tokens: &[Token]);

    /// Visits live records in token order, from `from` on, until about `budget` index slots were
    /// looked at; always whole buckets, so a walk makes progress whatever the budget. Returns the
    /// token to go on from; `None` at the end of the range.
    ///
    /// A `from` before the store's range begins at its start, one behind it is the end.
    ///
    /// A record that is there from the first to the last call of a walk is visited, whatever is
    /// written in between; none is visited twice.
    fn walk(
        &self,
        from: Token,
        budget: usize,
        now: WallTime,
        visit: &mut dyn FnMut(Entry<'_>),
    ) -> Option<Token>;

    /// Collects expired records, looking at about `budget` index slots. Returns how many it
    /// collected. Calls go round the whole store; parts where nothing is due cost nearly nothing.
    fn collect_expired(&mut self, budget: usize, now: WallTime) -> usize;

    /// A live record drawn (nearly) at random; `None` when none was found.
    fn random(&mut self, now: WallTime) -> Option<Entry<'_>>;

    /// Time since the last [`Storage::get`] or write of the key, in whole seconds; at least eight
    /// hours can be told, more reads as the longest time there is. Relies on
    /// [`Storage::collect_expired`] to go round the store every eight minutes.
    fn idle_time(&self, token: Token, key: &[u8], now: WallTime) -> Option<Duration>;

    /// How often the key was used of late, 0 to 15; `None` where the store does not keep track.
    fn frequency(&self, token: Token) -> Option<u8>;

    /// Bytes of memory that the record of `key` takes, index slot and allocator rounding included.
    fn record_bytes(&self, token: Token, key: &[u8], now: WallTime) -> Option<u64>;

    /// Removes everything whose version is at most `version`, which becomes the floor. Takes time
    /// for what is newer and stays, not for what is removed: that memory may be freed in steps, in
    /// later calls of [`Storage::apply`] and [`Storage::collect_expired`], and counts until then.
    fn clear(&mut self, version: Version);

    /// The counters and sizes.
    fn stats(&self) -> Stats;

    /// Sets the counters "since the last reset" to zero.
    fn reset_stats(&mut self);

    /// Changes the bound and what happens at it. Takes effect with the next write.
    fn set_memory_limit(&mut self, memory_bytes_max: Option<u64>, eviction: Eviction);
}

/// Makes the store of one shard.
pub type OpenFn = dyn Fn(&Options) -> Result<Box<dyn Storage>, OpenError> + Send + Sync;

/// A store could not be opened. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No backend of that name.
    #[error("unknown storage backend `{name}`: one of {known} is needed")]
    Unknown {
        /// The name asked for.
        name: String,
        /// The names there are, with commas.
        known: String,
    },
    /// The backend refused.
    #[error("storage backend failed to open")]
    Backend(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Backends by name. The built-in ones are there from the start; a user's own crate adds others.
#[derive(Clone)]
pub struct Registry {
    backends: BTreeMap<String, Arc<OpenFn>>,
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

impl Registry {
    /// The built-in backends: those whose cargo feature is on.
    #[must_use]
    pub fn new() -> Self {
        #[cfg_attr(
            not(feature = "memory"),
            expect(unused_mut, reason = "without a feature there is nothing to register")
        )]
        let mut registry = Self { backends: BTreeMap::new() };
        #[cfg(feature = "memory")]
        registry.register(
            "memory",
            Arc::new(|options| Ok(Box::new(crate::MemoryStorage::new(options)))),
        );
        registry
    }

    /// Adds a backend, or replaces the one of that name.
    pub fn register(&mut self, name: &str, open: Arc<OpenFn>) {
        self.backends.insert(name.to_owned(), open);
    }

    /// Opens a store with the backend called `name`.
    ///
    /// # Errors
    ///
    /// [`OpenError::Unknown`] when there is none of that name, else whatever the backend says.
    pub fn open(&self, name: &str, options: &Options) -> Result<Box<dyn Storage>, OpenError> {
        let Some(open) = self.backends.get(name) else {
            let known = self.backends.keys().cloned().collect::<Vec<_>>().join(", ");
            return Err(OpenError::Unknown { name: name.to_owned(), known });
        };
        open(options)
    }
}
