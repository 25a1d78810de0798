//! The [`Storage`] trait, and the [`Registry`] that finds a backend by its name.
//!
//! # Why the trait is synchronous
//!
//! A lookup that is answered from memory must not cost a future. A command runs to its end on its
//! core without waiting; what it borrows from the store it copies into the client's reply before
//! the store is touched again. Where the store has to wait for something (a record on disk, room in
//! the log) it says so and changes nothing; the caller takes a [`Ticket`], and tries again once
//! [`Storage::poll_ready`] has named it.
//!
//! # What makes a write durable
//!
//! [`Storage::apply`] puts a mutation into the store's log, at [`Storage::appended`]. The log goes
//! to disk in [`Storage::turn`], which its core calls once a turn: everything that was appended
//! while the last write was in flight, in one write. An answer that says that the write is durable
//! waits until [`Storage::durable`] has come that far; so does one that shows a record which is
//! not yet durable ([`Storage::unsettled`]). A store without a log is always durable.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::disk::{IoPort, SyncMethod};
use gridkv_cluster::{Instant, Mutation, ShardRange, Token, TokenKey, Version, WallTime};

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
    /// A tombstone with its version stays; of an expired record, also its expiry. For data with
    /// replicas.
    Keep,
}

/// How a store is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// The tokens the store is for.
    pub range: ShardRange,
    /// What tokens are made with.
    pub token_key: TokenKey,
    /// Where a store that is on disk lives, and how it gets there.
    pub disk: Option<DiskOptions>,
    /// Bound on the memory of records and index; `None` for no bound.
    pub memory_bytes_max: Option<u64>,
    /// What happens at the bound.
    pub eviction: Eviction,
    /// What becomes of the deleted.
    pub tombstones: Tombstones,
    /// Seed of the store's random choices (victims, random keys), for replay.
    pub seed: u64,
}

/// What a store on disk needs.
#[derive(Clone, Debug)]
pub struct DiskOptions {
    /// The shard's directory: it exists.
    pub directory: PathBuf,
    /// Carries out the shard's reads and writes.
    pub io: IoPort,
    /// Bound on the memory of records kept in memory, in bytes.
    pub cache_bytes_max: u64,
    /// When a write counts as done.
    pub durability: Durability,
    /// Size of a file of the log in bytes, for a directory that is new.
    pub segment_bytes: u32,
    /// How a write is made durable.
    pub sync_method: SyncMethod,
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
    /// The key has a value, on disk: [`Storage::load`] brings it in.
    OnDisk,
}

/// What a store has accepted for a key, deletions included: what replicas compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted<'a> {
    /// Nothing that it knows of: never written, or forgotten. See [`Storage::floor`].
    Nothing,
    /// A value, as it was accepted: its expiry may have passed.
    Value(Record<'a>),
    /// A deletion of this version.
    Deleted(Version),
    /// A value of this version with this expiry, which was freed after it had expired.
    Ended(Version, WallTime),
    /// A value of this version, on disk: [`Storage::load`] brings it in.
    OnDisk(Version),
}

impl Accepted<'_> {
    /// The version that was accepted.
    #[must_use]
    pub const fn version(&self) -> Option<Version> {
        match self {
            Self::Nothing => None,
            Self::Value(record) => Some(record.version),
            Self::Deleted(version) | Self::Ended(version, _) | Self::OnDisk(version) => {
                Some(*version)
            }
        }
    }
}

/// The answer is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnDisk;

impl<'a> Lookup<'a> {
    /// The record, if there is one.
    ///
    /// # Errors
    ///
    /// [`OnDisk`] when it has to be brought in first.
    #[inline]
    pub const fn record(self) -> Result<Option<Record<'a>>, OnDisk> {
        match self {
            Self::Found(record) => Ok(Some(record)),
            Self::Absent => Ok(None),
            Self::OnDisk => Err(OnDisk),
        }
    }
}

/// Something that a store waits for. Unique within a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// How far a store's log has come. A mutation's position is that of the write that carries it to
/// disk, so many mutations share one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogPosition(pub u64);

/// A record could not be read. Others can.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The disk refused.
    #[error("cannot read {file} at {offset}: {reason}")]
    Disk {
        /// The file.
        file: String,
        /// Where in it, in bytes.
        offset: u64,
        /// What the disk said.
        reason: String,
    },
    /// The bytes are not what was written.
    #[error("the record in {file} at {offset} is damaged")]
    Damaged {
        /// The file.
        file: String,
        /// Where in it, in bytes.
        offset: u64,
    },
}

/// What a walk, or a draw, has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<T> {
    /// This.
    Done(T),
    /// Nothing yet: records are being brought in. Call again, with the same arguments, when the
    /// ticket is ready, and release it after that.
    Loading(Ticket),
}

/// When a write counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// When it is on disk.
    Commit,
    /// At once; it is on disk at most this much later.
    Interval(Duration),
    /// At once; it is on disk when the operating system or the store happens to write it there.
    None,
}

/// A key that a walk has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Where the key lies.
    pub token: Token,
    /// The key.
    pub key: &'a [u8],
    /// The version of its record.
    pub version: Version,
    /// When it stops to exist.
    pub expires_at: Option<WallTime>,
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

/// Counters and sizes of a store's log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Bytes that the log's files take on disk.
    pub disk_bytes: u64,
    /// Bytes in them that are records which still count.
    pub live_bytes: u64,
    /// Files.
    pub segment_count: u64,
    /// Records written for clients.
    pub record_count: u64,
    /// Writes that carried them: a write is one group commit.
    pub commit_count: u64,
    /// Writes that were made durable.
    pub sync_count: u64,
    /// Bytes written for clients, padding included.
    pub written_bytes: u64,
    /// Bytes that compaction wrote again.
    pub compacted_bytes: u64,
    /// Records read from disk for clients.
    pub read_count: u64,
    /// Places found damaged, at start or since.
    pub damaged_count: u64,
    /// Reads that the disk refused.
    pub read_error_count: u64,
    /// Time of the last durable write, from its start to its end, in nanoseconds.
    pub sync_nanos_last: u64,
    /// The longest such time.
    pub sync_nanos_max: u64,
    /// Bytes of memory of the index.
    pub index_bytes: u64,
    /// Bytes of memory of the records kept in memory.
    pub cache_bytes: u64,
    /// Bytes of memory of what is on its way to disk, and from it for compaction.
    pub buffer_bytes: u64,
    /// Stores that take no writes any more, because a write to their log has failed.
    pub failed_count: u64,
    /// Stores that refuse writes because the disk is full.
    pub full_count: u64,
}

impl LogStats {
    /// Adds another store's.
    pub fn add(&mut self, other: &Self) {
        self.disk_bytes += other.disk_bytes;
        self.live_bytes += other.live_bytes;
        self.segment_count += other.segment_count;
        self.record_count += other.record_count;
        self.commit_count += other.commit_count;
        self.sync_count += other.sync_count;
        self.written_bytes += other.written_bytes;
        self.compacted_bytes += other.compacted_bytes;
        self.read_count += other.read_count;
        self.damaged_count += other.damaged_count;
        self.read_error_count += other.read_error_count;
        self.sync_nanos_last = self.sync_nanos_last.max(other.sync_nanos_last);
        self.sync_nanos_max = self.sync_nanos_max.max(other.sync_nanos_max);
        self.index_bytes += other.index_bytes;
        self.cache_bytes += other.cache_bytes;
        self.buffer_bytes += other.buffer_bytes;
        self.failed_count += other.failed_count;
        self.full_count += other.full_count;
    }
}

/// Why a mutation was not applied. Each variant says what it leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The log has no room at the moment. The key is as it was; try again when the ticket is ready.
    #[error("the log is being extended")]
    Busy(Ticket),
    /// The disk is full. The key is as it was; deletions are still taken.
    #[error("the disk is full")]
    DiskFull,
    /// A write to the log has failed, so the store takes no more. The key is as it was. What was
    /// applied before and is not durable by now never will be.
    #[error("the log has failed: reads are served, writes are not")]
    LogFailed,
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
/// Every `token` is that of the key beside it, made with [`Options::token_key`], and lies in the store's range: computed once
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

    /// What the store has accepted for a key: expiry is data here, and no clock judges it. Leaves no
    /// trace, as [`Storage::peek`].
    fn accepted(&mut self, token: Token, key: &[u8]) -> Accepted<'_>;

    /// For a key that the store does not know, it refuses versions at or below this one.
    fn floor(&self) -> Version;

    /// Promises to accept nothing at or below `through`, for any key, from anybody but who was
    /// promised it: raises the mark that [`Storage::promised`] tells. A mark that is as high is left
    /// as it is. The store keeps the mark and heeds it in nothing: that is its caller's part. The
    /// mark is as durable as what was appended by the end of the call, and survives whatever a
    /// mutation survives.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`], [`Error::DiskFull`], [`Error::LogFailed`]; the mark is as it was.
    fn promise(&mut self, through: Version) -> Result<(), Error>;

    /// The highest promise, also of former runs; [`Version::ZERO`] before the first. It counts
    /// neither in [`Storage::version_max`] nor in [`Storage::floor`].
    fn promised(&self) -> Version;

    /// Brings what lookups of `tokens` will touch into the processor's cache: all index buckets
    /// first, then all records. A hint; best with 8 to 32 tokens at a time.
    fn prefetch(&self, tokens: &[Token]);

    /// Starts to bring in the record of a key for which a lookup said [`Lookup::OnDisk`]. When the
    /// ticket is ready, lookups find it, until the ticket is released; unless it was moved at that
    /// very moment: then they say [`Lookup::OnDisk`] again.
    fn load(&mut self, token: Token, key: &[u8]) -> Ticket {
        unreachable!("{token:?} {key:?}: a store that says `OnDisk` can load")
    }

    /// Brings in a record as [`Storage::load`] does, holding up the caller meanwhile.
    ///
    /// # Errors
    ///
    /// [`ReadError`].
    fn load_now(&mut self, token: Token, key: &[u8]) -> Result<Ticket, ReadError> {
        unreachable!("{token:?} {key:?}: a store that says `OnDisk` can load")
    }

    /// The next ticket that has become ready. Every ticket becomes ready once, in
    /// [`Storage::turn`].
    fn poll_ready(&mut self) -> Option<(Ticket, Result<(), ReadError>)> {
        None
    }

    /// What was brought in for a ticket may go again.
    fn release(&mut self, ticket: Ticket) {
        let _ = ticket;
    }

    /// Takes in what the disk has done and hands it more to do. Called often: in each turn of the
    /// core, after the commands of the turn.
    fn turn(&mut self, now: Instant) {
        let _ = now;
    }

    /// When to call [`Storage::turn`] if nothing else happens first.
    fn turn_due_at(&self) -> Option<Instant> {
        None
    }

    /// The position of the latest mutation.
    fn appended(&self) -> LogPosition {
        LogPosition::default()
    }

    /// The position up to which the log is on disk.
    fn durable(&self) -> LogPosition {
        LogPosition::default()
    }

    /// The position that must be durable before the key's record may be shown: `None` if it is.
    fn unsettled(&self, token: Token, key: &[u8]) -> Option<LogPosition> {
        let _ = (token, key);
        None
    }

    /// Has all that was appended made durable with the next write, whatever the store's own
    /// [`Durability`] is.
    fn request_commit(&mut self) {}

    /// Whether the log has failed: what is not durable by now never will be.
    fn has_failed(&self) -> bool {
        false
    }

    /// The highest version that the store has ever applied, also before it was opened.
    fn version_max(&self) -> Version {
        Version::ZERO
    }

    /// Makes all that was appended durable, and the next opening fast. Holds up the caller. Call it
    /// last.
    fn close(&mut self) {}

    /// Keeps all files of the log from now on, until [`Storage::unpin`]: a snapshot is being taken.
    fn pin(&mut self) {}

    /// Ends what [`Storage::pin`] has begun.
    fn unpin(&mut self) {}

    /// Sees to it that what was appended so far is in files of the log that are not written to any
    /// more, but for what makes them quick to open.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`], [`Error::DiskFull`], [`Error::LogFailed`].
    fn roll(&mut self) -> Result<(), Error> {
        Ok(())
    }

    /// The names of those files, in the store's directory.
    fn record_files(&self) -> Vec<String> {
        Vec::new()
    }

    /// The counters and sizes of the log; `None` for a store without one.
    fn log_stats(&self) -> Option<LogStats> {
        None
    }

    /// Visits live records in token order, from `from` on, until about `budget` index slots were
    /// looked at; always whole buckets, so a walk makes progress whatever the budget. Returns the
    /// token to go on from; `None` at the end of the range. Where records must be brought in first,
    /// nothing is visited.
    ///
    /// A `from` before the store's range begins at its start, one behind it is the end.
    ///
    /// A record that is there from the first to the last call of a walk is visited, whatever is
    /// written in between; none is visited twice.
    fn walk(
        &mut self,
        from: Token,
        budget: usize,
        now: WallTime,
        visit: &mut dyn FnMut(Entry<'_>),
    ) -> Step<Option<Token>>;

    /// As [`Storage::walk`], for whole mutations, tombstones among them: what another store has to
    /// apply to have accepted the same. A record that has expired is visited as it was accepted; one
    /// whose value was freed since, as a tombstone with an expiry.
    ///
    /// A record that cannot be read because it is damaged is left out, once a ticket has told of it.
    fn walk_accepted(
        &mut self,
        from: Token,
        budget: usize,
        visit: &mut dyn FnMut(&Mutation<'_>),
    ) -> Step<Option<Token>>;

    /// Collects records that had expired by `now`, looking at about `budget` index slots: with
    /// [`Tombstones::Keep`] their values are freed, and versions and expiries stay; else they are
    /// forgotten. A replica passes a `now` by which they are over for everybody. Returns how many it
    /// collected. Calls go round the whole store; parts where nothing is due cost nearly nothing.
    fn collect_expired(&mut self, budget: usize, now: WallTime) -> usize;

    /// A live record drawn (nearly) at random; `None` when none was found.
    fn random(&mut self, now: WallTime) -> Step<Option<Entry<'_>>>;

    /// Time since the last [`Storage::get`] or write of the key, in whole seconds; at least eight
    /// hours can be told, more reads as the longest time there is. Relies on
    /// [`Storage::collect_expired`] to go round the store every eight minutes. `None` without a
    /// value.
    fn idle_time(&self, token: Token, key: &[u8], now: WallTime) -> Option<Duration>;

    /// How often the key was used of late, 0 to 15; `None` where the store does not keep track.
    fn frequency(&self, token: Token) -> Option<u8>;

    /// Bytes of memory that the record of `key` takes, index slot and allocator rounding included.
    fn record_bytes(&self, token: Token, key: &[u8], now: WallTime) -> Option<u64>;

    /// Removes everything whose version is at most `version`, which becomes the floor. Takes time
    /// for what is newer and stays, not for what is removed: that memory may be freed in steps, in
    /// later calls of [`Storage::apply`] and [`Storage::collect_expired`], and counts until then.
    ///
    /// # Errors
    ///
    /// [`Error`]; nothing was removed.
    fn clear(&mut self, version: Version) -> Result<(), Error>;

    /// The counters and sizes.
    fn stats(&self) -> Stats;

    /// Sets the counters "since the last reset" to zero.
    fn reset_stats(&mut self);

    /// Changes the bound and what happens at it. Takes effect with the next write.
    fn set_memory_limit(&mut self, memory_bytes_max: Option<u64>, eviction: Eviction);

    /// Takes tokens from here on to be made with another key. Whether it does: only a store that has
    /// no keys, nor tombstones, can. One on disk takes any key when it is opened.
    fn rekey(&mut self, token_key: &TokenKey) -> bool {
        let _ = token_key;
        false
    }
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
            not(any(feature = "memory", feature = "file")),
            expect(unused_mut, reason = "without a feature there is nothing to register")
        )]
        let mut registry = Self { backends: BTreeMap::new() };
        #[cfg(feature = "memory")]
        registry.register(
            "memory",
            Arc::new(|options| Ok(Box::new(crate::MemoryStorage::new(options)))),
        );
        #[cfg(feature = "file")]
        registry.register("file", Arc::new(crate::file::open_backend));
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
