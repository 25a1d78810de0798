//! The backend `file`: a log on direct I/O, an index in memory, a cache of records.
//!
//! ```text
//!   get ---> cache --(miss)--> index --> staged in memory? --> on disk: load, then get again
//!   apply -> index says who wins -> log (append) -> index -> cache
//!   turn --> log: one commit after the other to disk; reads that have ended; compaction
//! ```
//!
//! | module | has |
//! |---|---|
//! | `format` | the bytes of a segment |
//! | `log` | appending, group commit, files |
//! | `index` | where each key's record is, in 26 bytes a key |
//! | `accepted` | what replicas ask: deletions too, whole mutations, promises |
//! | `reads` | bringing records into memory |
//! | `recover` | from the files of a directory to a store |
//! | `begin` | the first segment of a run, also on a full disk |
//! | `checkpoint` | the index on disk, for opening after a clean stop |
//! | `compact` | moving live records out of files that have few |
//!
//! # Invariants
//!
//! - The index points at the newest record of each key; the cache holds newest records only.
//! - A file is used again only when none of its records is pointed at, when all that was appended
//!   before that became so is durable, and when its header says durably that it is free.
//! - A tombstone is dropped only when no file is left that is older than it: nothing it covers can
//!   come back.
//!
//! # What is kept of the deleted
//!
//! With [`Tombstones::Keep`] an expired record is what it was until it is collected, by its caller's
//! judgement; then its value goes, and the index knows it as a tombstone that has an expiry.
//! With [`Tombstones::Drop`] the index forgets an expired key, and a deleted one as soon as that is
//! durable; the floor keeps older mutations out. The log keeps the tombstone, or makes one of the expired record, for as long as
//! an older file may hold a record of the key.

mod accepted;
mod begin;
mod checkpoint;
mod compact;
mod contents;
pub(crate) mod format;
pub(crate) mod index;
mod log;
mod offline;
mod old;
mod reads;
mod recover;
mod scan;
mod store;
mod survey;

#[cfg(test)]
mod crash;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};

use fastrand::Rng;
use gridkv_cluster::mutation::payload_bytes;
use gridkv_cluster::{Instant, Mutation, ShardRange, Token, TokenKey, Version, WallTime};

use self::compact::Compaction;
use self::format::{Kind, record_bytes};
pub use self::format::{SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, is_segment_size};
use self::index::{Ident, Index, Known, Place};
use self::log::{Append, Log, Priority, Refusal};
pub use self::offline::{OfflineError, Restored, ShardReport, check_shard, restore};
pub use self::old::restore_old;
use self::reads::Reads;
pub use self::recover::{Damage, OpenFailure, Recovered};
use crate::backend::{
    DiskOptions, Durability, Entry, Error, LogPosition, Lookup, OpenError, Options, Record,
    Storage, Tombstones,
};
use crate::disk::{DirectDisk, Disk};
use crate::memory::MemoryStorage;

/// Records brought in for one step of a walk.
const WALK_LOADS_MAX: usize = 256;
/// Draws for a random record before it is searched for.
const DRAW_COUNT_MAX: usize = 64;
/// Parts and entries of the index searched for a random record.
const RANDOM_PARTS: usize = 4_096;
/// Bytes of a tombstone, with a key of usual length.
const TOMBSTONE_BYTES: u64 = record_bytes(32) as u64;
/// Parts of a cleared index that are freed at once.
const PARTS_FREED_PER_STEP: usize = 64;
/// What a new key needs at least: most of it is for what an entry has no room for.
const ENTRY_BYTES: u64 = 64;

/// How a store is set up, beyond what all stores are told.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Bound on the memory of the cache, in bytes.
    pub cache_bytes_max: u64,
    /// When a write counts as done.
    pub durability: Durability,
    /// Largest size of a file of the log in bytes: a power of two, at most [`SEGMENT_BYTES_MAX`].
    pub segment_bytes: u32,
    /// How the directory is called, for messages.
    pub directory: String,
}

/// A store on disk.
pub struct FileStorage<D> {
    log: Log<D>,
    index: Index,
    cache: MemoryStorage,
    reads: Reads,
    compaction: Compaction,
    range: ShardRange,
    tombstones: Tombstones,
    token_key: TokenKey,
    directory: String,
    memory_bytes_max: Option<u64>,
    cache_bytes_max: u64,
    /// Memory is above its bound, or some was cleared: turns free more.
    is_giving_way: bool,
    floor: Version,
    rng: Rng,
    /// A random draw that has come to a record on disk.
    draw: Option<Ident>,
    now: WallTime,
    counters: Counters,
    damaged_count: u64,
    /// Records found damaged by reads: each counts once.
    damaged_places: BTreeSet<Place>,
    compacted_bytes: u64,
    /// Snapshots being taken: no file may go meanwhile.
    pin_count: u32,
    /// Tombstones that the index forgets once they are durable, oldest first.
    fading: VecDeque<(LogPosition, Ident)>,
    /// Where the latest removal of everything was appended.
    cleared_at: LogPosition,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    hit_count: u64,
    miss_count: u64,
    expired_count: u64,
}

/// Opens the backend for a registry.
pub(crate) fn open_backend(options: &Options) -> Result<Box<dyn Storage>, OpenError> {
    let backend = |error: Box<dyn std::error::Error + Send + Sync>| OpenError::Backend(error);
    let Some(disk_options) = &options.disk else {
        return Err(backend("the backend `file` needs a data directory".into()));
    };
    let DiskOptions { directory, io, sync_method, .. } = disk_options;
    let disk = DirectDisk::open(directory, io.clone(), *sync_method)
        .map_err(|error| backend(format!("{}: {error}", directory.display()).into()))?;
    let setup = Setup {
        cache_bytes_max: disk_options.cache_bytes_max,
        durability: disk_options.durability,
        segment_bytes: disk_options.segment_bytes,
        directory: directory.display().to_string(),
    };
    let opened = FileStorage::open(disk, setup, options, WallTime::EPOCH);
    let (store, recovered) = opened.map_err(|error| backend(error.into()))?;
    if recovered.segment_count > 0 {
        tracing::info!(
            directory = %directory.display(),
            keys = store.stats().key_count,
            segments = recovered.segment_count,
            scanned = recovered.scanned_count,
            torn_bytes = recovered.torn_bytes,
            damages = recovered.damages.len(),
            "recovered"
        );
    }
    io.stop_driving();
    Ok(Box::new(store))
}

impl<D: Disk> FileStorage<D> {
    /// Tells the key from others.
    fn ident(&self, token: Token, key: &[u8]) -> Ident {
        let fingerprint = recover::fingerprint(&self.token_key, key);
        Ident { position: self.range.position(token), fingerprint }
    }

    /// What is known of the key's live record.
    fn find_live(&self, ident: Ident, now: WallTime) -> Option<Known> {
        let known = self.index.find(ident)?;
        let is_live = !known.is_tombstone && !is_past(known.expires_at, now);
        is_live.then_some(known)
    }

    /// The record that the index means, if it is in memory outside the cache.
    fn in_memory(&self, ident: Ident, key: &[u8], known: &Known) -> Lookup<'_> {
        let record = if let Some(loaded) = self.reads.loaded(ident, known.place) {
            match loaded.record() {
                Some(record) => Some(record),
                // Only its key was read.
                None => return Lookup::OnDisk,
            }
        } else if let Some(staged) = self.log.staged(known.place) {
            format::read_record(self.log.file(known.place.file).id, staged)
        } else {
            return Lookup::OnDisk;
        };
        match record {
            Some(record) if record.mutation.key == key => Lookup::Found(Record {
                value: record.mutation.value.unwrap_or_default(),
                version: known.version,
                expires_at: known.expires_at,
            }),
            // Another key that only looks like this one.
            _ => Lookup::Absent,
        }
    }

    fn apply_won(
        &mut self,
        ident: Ident,
        mutation: &Mutation<'_>,
        token: Token,
        now: WallTime,
    ) -> Result<Option<Known>, Error> {
        let is_kept = self.tombstones == Tombstones::Keep;
        let is_dead = mutation.value.is_none() || (is_past(mutation.expires_at, now) && !is_kept);
        let expires_at = mutation.expires_at.filter(|_| is_kept);
        let tombstone = Mutation { value: None, expires_at, ..*mutation };
        let written = if is_dead { &tombstone } else { mutation };
        let place = self.append(&Append {
            kind: Kind::of_mutation(written),
            origin: None,
            mutation: written,
            token,
            fingerprint: ident.fingerprint,
            priority: if is_dead { Priority::MakesRoom } else { Priority::Ordinary },
        })?;
        let payload = u32::try_from(payload_bytes(written)).expect("it was checked");
        let known = Known {
            place,
            version: mutation.version,
            expires_at: written.expires_at,
            payload_bytes: payload,
            is_tombstone: is_dead,
        };
        if is_dead {
            self.cache.forget(token, mutation.key);
        } else {
            self.cache.keep(token, mutation, now);
        }
        if is_dead && self.tombstones == Tombstones::Drop {
            self.floor = self.floor.max(mutation.version);
            // Until it is durable, an answer that shows the absence waits for it.
            self.fading.push_back((self.log.appended(), ident));
        }
        let before = self.index.put(ident, &known);
        before.iter().for_each(|before| self.forsake(before));
        self.adopt(&known);
        Ok(before)
    }

    /// Has the index forget tombstones that are durable.
    fn fade(&mut self) {
        let durable = self.log.durable();
        while let Some(&(at, ident)) = self.fading.front() {
            if at > durable {
                return;
            }
            self.fading.pop_front();
            let known = self.index.find(ident).filter(|known| known.is_tombstone);
            // What was deleted again since has a later turn.
            let Some(known) = known.filter(|it| self.log.unsettled(it.place).is_none()) else {
                continue;
            };
            self.index.remove(ident);
            self.forsake(&known);
            let bytes = record_bytes(known.payload_bytes as usize) as u64;
            self.log.file_mut(known.place.file).tombstone_bytes += bytes;
        }
    }

    fn append(&mut self, append: &Append<'_>) -> Result<Place, Error> {
        let place = self.log.append(append);
        let place = place.map_err(|refusal| self.refused(refusal, append.priority))?;
        // What compaction moves was counted when a client wrote it.
        self.log.counters.record_count += 1;
        Ok(place)
    }

    fn refused(&mut self, refusal: Refusal, priority: Priority) -> Error {
        match refusal {
            Refusal::Busy => Error::Busy(self.reads.wait_for_room()),
            // Who makes room waits for compaction, which now minds how little a file gains.
            Refusal::Full if priority == Priority::MakesRoom && self.can_gain() => {
                self.hurry_compaction();
                Error::Busy(self.reads.wait_for_room())
            }
            Refusal::Full => Error::DiskFull,
            Refusal::Failed => Error::LogFailed,
        }
    }

    /// A record that was just appended, or found, is pointed at.
    fn adopt(&mut self, known: &Known) {
        self.count_live(known);
        let bytes = record_bytes(known.payload_bytes as usize) as u64;
        let file = self.log.file_mut(known.place.file);
        if known.is_tombstone && known.expires_at.is_none() {
            // The index knows it: it is live, and not one of those that only the log knows.
            file.tombstone_bytes = file.tombstone_bytes.saturating_sub(bytes);
        }
    }

    /// A record is live.
    fn count_live(&mut self, known: &Known) {
        let bytes = record_bytes(known.payload_bytes as usize) as u64;
        self.log.file_mut(known.place.file).live_bytes += bytes;
    }

    /// A record is no longer pointed at.
    fn forsake(&mut self, known: &Known) {
        let bytes = record_bytes(known.payload_bytes as usize) as u64;
        let file = self.log.file_mut(known.place.file);
        assert!(file.live_bytes >= bytes, "what is live is counted");
        file.live_bytes -= bytes;
    }

    /// What becomes of a record that has expired.
    fn expire(&mut self, ident: Ident) {
        self.counters.expired_count += 1;
        let Some(known) = self.index.find(ident) else { return };
        match self.tombstones {
            Tombstones::Drop => {
                self.floor = self.floor.max(known.version);
                self.index.remove(ident);
                self.forsake(&known);
                // It covers what came before it, and compaction makes a tombstone of it.
                let file = self.log.file_mut(known.place.file);
                file.tombstone_bytes += TOMBSTONE_BYTES;
                file.tombstone_origin = file.tombstone_origin.max(file.id);
            }
            Tombstones::Keep => {
                let ended = Known { is_tombstone: true, ..known };
                self.index.put(ident, &ended);
                // Its value goes when compaction comes to it.
                let bytes = record_bytes(known.payload_bytes as usize) as u64;
                let file = self.log.file_mut(known.place.file);
                file.buried_bytes += bytes.saturating_sub(TOMBSTONE_BYTES);
            }
        }
    }

    fn memory_bytes(&self) -> u64 {
        self.index.memory_bytes() + self.cache.bytes()
    }

    /// Sees to it that a new key's entry fits into memory: the cache gives way.
    fn make_room(&mut self, ident: Ident, now: WallTime) -> Result<(), Error> {
        let Some(max_bytes) = self.memory_bytes_max else { return Ok(()) };
        let needed_bytes = ENTRY_BYTES + self.index.growth_bytes_max(ident.position);
        if self.memory_bytes() + needed_bytes <= max_bytes || self.give_way(needed_bytes, now) {
            return Ok(());
        }
        Err(Error::OutOfMemory { used_bytes: self.memory_bytes(), max_bytes, needed_bytes })
    }

    /// Frees what was cleared, and has the cache give way where memory and `added_bytes` are above
    /// the bound: a bounded amount of work, which turns continue. Returns whether memory is within
    /// the bound after that, or will be.
    fn give_way(&mut self, added_bytes: u64, now: WallTime) -> bool {
        self.index.free_some(PARTS_FREED_PER_STEP);
        let max_bytes = self.memory_bytes_max.unwrap_or(u64::MAX);
        let index_bytes = self.index.bytes() + added_bytes;
        let has_more = self.cache.trim(max_bytes.saturating_sub(index_bytes), now);
        self.is_giving_way = has_more || self.index.is_freeing();
        let is_within = self.memory_bytes() + added_bytes <= max_bytes;
        is_within || (self.is_giving_way && index_bytes <= max_bytes)
    }

    /// When to go on with what [`Self::give_way`] has left to do.
    fn way_due_at(&self) -> Option<Instant> {
        self.is_giving_way.then(|| self.log.now())
    }

    /// A live record at random.
    fn draw_live(&mut self, now: WallTime) -> Option<(Ident, Known)> {
        let is_live = |known: &Known| !known.is_tombstone && !is_past(known.expires_at, now);
        for _ in 0..DRAW_COUNT_MAX {
            let drawn = self.index.draw(self.rng.u64(..), self.rng.u64(..));
            if let Some((ident, known)) = drawn.filter(|(_, known)| is_live(known)) {
                return Some((ident, known));
            }
        }
        self.index.entry_from(self.rng.u64(..), self.rng.u64(..), RANDOM_PARTS, is_live)
    }

    fn entry<'a>(&self, token: Token, key: &'a [u8], known: &Known) -> Entry<'a> {
        Entry { token, key, version: known.version, expires_at: known.expires_at }
    }

    /// The parts of the trait that the log and the reads do: what the disk has done since.
    fn reap(&mut self) {
        while let Some(completion) = self.log.disk.poll() {
            let (id, result) = (completion.id, completion.result);
            if self.compaction.is_for(id) {
                self.complete_compaction(&result, completion.buffer);
            } else if self.reads.contains(id) {
                self.complete_read(id, &result, completion.buffer);
            } else {
                self.log.complete(id, &result, completion.buffer);
            }
        }
    }

    /// Waits until all that was appended is durable and nothing is under way.
    fn quiesce(&mut self) {
        self.log.request_commit();
        loop {
            self.reap();
            self.log.request_commit();
            self.log.turn(self.log.now());
            if self.log.is_quiet() && !self.is_reading() && !self.compaction.is_reading() {
                return;
            }
            if self.log.disk.wait().is_err() {
                return;
            }
        }
    }
}

impl<D: Disk> FileStorage<D> {
    /// Whether a record's key is in memory.
    fn has_key(&self, ident: Ident, known: &Known) -> bool {
        self.key_of(ident, known).is_some()
    }

    /// A record's key, if it is in memory.
    fn key_of(&self, ident: Ident, known: &Known) -> Option<&[u8]> {
        if let Some(loaded) = self.reads.loaded(ident, known.place) {
            return loaded.key();
        }
        if let Some(staged) = self.log.staged(known.place) {
            return format::read_key(staged);
        }
        let token = self.range.token_at(ident.position)?;
        let key = self.cache.key_of_token(token)?;
        (self.ident(token, key) == ident).then_some(key)
    }

    fn with_key(&self, ident: Ident, known: &Known, visit: impl FnOnce(&[u8])) {
        if let Some(key) = self.key_of(ident, known) {
            visit(key);
        }
    }
}

fn is_past(expires_at: Option<WallTime>, now: WallTime) -> bool {
    expires_at.is_some_and(|at| at <= now)
}
