//! The log of a shard: appended to in memory, carried to disk one commit at a time.
//!
//! ```text
//!   append -> open commit -> closed commits -> in flight -> written -> durable
//!             (memory)       (memory)          (memory)     (disk)
//! ```
//!
//! # Invariants
//!
//! - One commit is written at a time, each from a block of its own on: a block that holds records is
//!   never written again.
//! - A record is given a place only in a file that is ready for it, so what was appended always has
//!   somewhere to go.
//! - After a write or a sync has failed, nothing more is written and nothing more becomes durable.
//!   What is in memory stays there to be read.
//! - A segment is sealed only when all of its commits are durable.
//! - Whoever is not compaction goes on to the next file only where another one is free after that: so
//!   compaction has a whole file to move records to, however full the disk is.
//!
//! # Why files are filled with zeros first, and used again
//!
//! A write to blocks that were written before changes data only; else the file system has to record
//! that the blocks are in use, in its own journal, with each sync. Measured on ext4: 8,000 durable
//! writes of 4 KiB a second against 5,500. Filling one of 64 MiB takes long where it is the first, and
//! a store that holds little does not need it: files begin small, and each is twice the last.
//!
//! # What `interval` promises
//!
//! At half of the time what is not durable begins to be made so, before anything else is written. If it
//! is not by the whole of it, clients wait. So what a crash takes was acknowledged within that time
//! before the last acknowledgement, whatever the load and however slow the disk.

mod closing;
mod files;
mod room;
mod schedule;
mod staged;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::time::Duration;

use gridkv_cluster::mutation::payload_bytes;
use gridkv_cluster::{Instant, Mutation, Token, Version};

use self::closing::Closing;
pub(super) use self::files::{Ages, File, State};
use self::room::{fits, reserve_bytes};
use super::contents::Contents;
use super::format::{
    COMMIT_HEADER_BYTES, CommitHeader, DATA_START, Entry, Kind, RecordHeader, SegmentId,
    append_record, contents_bytes, record_bytes, record_bytes_max,
};
use super::index::Place;
use crate::backend::{Durability, LogPosition};
use crate::disk::{BLOCK_BYTES, Buffer, Disk, FileId, Op, OpId};

/// A commit takes no further record beyond this.
const COMMIT_BYTES_MAX: usize = 512 << 10;
/// Where nobody waits for durability, a commit is written at this size.
const COMMIT_BYTES_LAZY: usize = 128 << 10;
/// Closed commits that wait take at most about this much memory.
const QUEUE_BYTES_MAX: usize = 16 << 20;
/// After a disk was found full, how long until the next try.
const FULL_RETRY: Duration = Duration::from_millis(500);
/// A lazy commit is written after this long, whatever its size.
const LAZY_INTERVAL: Duration = Duration::from_secs(1);
/// A directory's first file has at most this size.
const FIRST_FILE_BYTES: usize = 4 << 20;

/// The segment that is appended to.
struct Active {
    file: FileId,
    id: SegmentId,
    /// Size of the file.
    bytes: usize,
    /// Where the next commit begins.
    end: usize,
    commit_index: u32,
    contents: Contents,
}

/// Records on their way to disk.
struct Commit {
    file: FileId,
    id: SegmentId,
    offset: usize,
    index: u32,
    record_count: u32,
    bytes: Buffer,
    position: LogPosition,
    /// When it was opened: its oldest record waits since then.
    since: Instant,
}

/// The operation that the log waits for.
enum InFlight {
    Commit { commit: Commit, is_durable: bool, started_at: Instant },
    Sync { covers: LogPosition, started_at: Instant },
}

/// What an operation that is under way is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Log,
    Contents,
    Create(FileId),
    Header(FileId),
    Free(FileId),
    Delete(FileId),
}

/// Why nothing was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// There will be room.
    Busy,
    /// The disk is full.
    Full,
    /// The log has failed.
    Failed,
}

/// Who appends. Where the disk is full, a part of the last segment is kept for those who make room, and
/// a whole file for compaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Priority {
    /// A client's write.
    Ordinary,
    /// A deletion.
    MakesRoom,
    /// A record that is moved, so that the file it was in can go.
    Compaction,
}

/// What is appended.
pub(super) struct Append<'a> {
    pub(super) kind: Kind,
    pub(super) origin: Option<SegmentId>,
    pub(super) mutation: &'a Mutation<'a>,
    pub(super) token: Token,
    pub(super) fingerprint: u32,
    pub(super) priority: Priority,
}

/// What the log counts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    pub(super) commit_count: u64,
    pub(super) sync_count: u64,
    pub(super) record_count: u64,
    pub(super) written_bytes: u64,
    pub(super) sync_nanos_last: u64,
    pub(super) sync_nanos_max: u64,
}

/// What recovery has found of a log.
pub(super) struct FoundLog {
    pub(super) files: Vec<Option<File>>,
    /// The highest segment that any file names.
    pub(super) segment_max: SegmentId,
    pub(super) version_max: Version,
    pub(super) floor: Version,
}

/// The log of a shard.
pub(super) struct Log<D> {
    pub(super) disk: D,
    pub(super) segment_bytes: usize,
    durability: Durability,
    pub(super) files: Vec<Option<File>>,
    operations: BTreeMap<OpId, Purpose>,
    active: Option<Active>,
    spare: Option<FileId>,
    /// Files that may be used again.
    free: Vec<FileId>,
    /// Files that are free, which has still to be written into their headers.
    pub(super) half_free: Vec<FileId>,
    is_preparing: bool,
    /// A record of so many bytes did not fit: the next segment is needed, however little is in this
    /// one.
    wanted_bytes: Option<usize>,
    /// Size of the next file that is made.
    next_file_bytes: usize,
    next_id: SegmentId,
    open: Option<Commit>,
    queue: VecDeque<Commit>,
    queue_bytes: usize,
    in_flight: Option<InFlight>,
    closing: VecDeque<Closing>,
    /// The position of the latest commit that was opened.
    position: LogPosition,
    written: LogPosition,
    durable: LogPosition,
    /// Where the durable part of the log ends.
    durable_end: (SegmentId, u32),
    written_end: (SegmentId, u32),
    /// Files with writes that were not synced.
    unsynced: Vec<FileId>,
    /// Positions up to this are wanted durable at once.
    wanted: LogPosition,
    /// Since when something waits that is written and not durable.
    written_since: Option<Instant>,
    pub(super) version_max: Version,
    pub(super) floor: Version,
    pub(super) promised: Version,
    /// The segment with the latest promise.
    promise_in: SegmentId,
    /// Names the key with which tokens are made.
    pub(super) token_key: u64,
    /// Where the log before this run ends, until a header says so durably.
    pub(super) before: Option<(SegmentId, u32)>,
    /// The floor and the promise that the header being written says, and those that the last one
    /// said which is durable.
    stating: (Version, Version),
    stated: (Version, Version),
    full_until: Option<Instant>,
    /// Compaction is about to free files.
    expects_room: bool,
    /// What clients may append before compaction has to catch up, if it is behind.
    credit: Option<u64>,
    has_failed: bool,
    /// Nothing more is appended.
    has_ended: bool,
    now: Instant,
    pub(super) counters: Counters,
    pool: Vec<Buffer>,
    /// The file that was marked free last.
    freed_last: Option<FileId>,
    /// When a free file was last removed.
    deleted_at: Instant,
    /// Hardly anybody reads or writes.
    is_unused: bool,
}

impl<D: Disk> Log<D> {
    /// A log of the files that recovery has found. It has no active segment yet.
    pub(super) fn new(
        disk: D,
        segment_bytes: usize,
        durability: Durability,
        found: FoundLog,
        token_key: u64,
    ) -> Self {
        let FoundLog { files, segment_max, version_max, floor } = found;
        let numbered = (0..).map(FileId).zip(&files);
        let is_free = |file: &Option<File>| file.is_some_and(|it| it.state == State::Free);
        let free = numbered.filter(|(_, file)| is_free(file)).map(|(number, _)| number).collect();
        let largest = files.iter().flatten().map(|file| file.bytes as usize).max();
        let next_file_bytes = largest.map_or(FIRST_FILE_BYTES, |bytes| bytes * 2);
        Self {
            disk,
            segment_bytes,
            durability,
            files,
            operations: BTreeMap::new(),
            active: None,
            spare: None,
            free,
            half_free: Vec::new(),
            is_preparing: false,
            wanted_bytes: None,
            next_file_bytes: next_file_bytes.min(segment_bytes),
            next_id: SegmentId(segment_max.0 + 1),
            open: None,
            queue: VecDeque::new(),
            queue_bytes: 0,
            in_flight: None,
            closing: VecDeque::new(),
            position: LogPosition(0),
            written: LogPosition(0),
            durable: LogPosition(0),
            durable_end: (SegmentId(0), 0),
            written_end: (SegmentId(0), 0),
            unsynced: Vec::new(),
            wanted: LogPosition(0),
            written_since: None,
            version_max,
            floor,
            promised: Version::ZERO,
            promise_in: SegmentId(0),
            token_key,
            before: None,
            stating: (Version::ZERO, Version::ZERO),
            stated: (Version::ZERO, Version::ZERO),
            full_until: None,
            expects_room: false,
            credit: None,
            has_failed: false,
            has_ended: false,
            now: Instant::ZERO,
            counters: Counters::default(),
            pool: Vec::new(),
            freed_last: None,
            deleted_at: Instant::ZERO,
            is_unused: false,
        }
    }

    pub(super) fn appended(&self) -> LogPosition {
        self.position
    }

    pub(super) fn durable(&self) -> LogPosition {
        self.durable
    }

    pub(super) fn has_failed(&self) -> bool {
        self.has_failed
    }

    pub(super) fn is_full(&self) -> bool {
        self.full_until.is_some()
    }

    pub(super) fn file(&self, file: FileId) -> &File {
        self.files[file.0 as usize].as_ref().expect("a place is in a file that is there")
    }

    pub(super) fn file_mut(&mut self, file: FileId) -> &mut File {
        self.files[file.0 as usize].as_mut().expect("a place is in a file that is there")
    }

    /// Largest payload that fits into a segment.
    pub(super) fn payload_bytes_max(&self) -> usize {
        let taken = DATA_START + COMMIT_HEADER_BYTES + contents_bytes(1) + record_bytes_max(0);
        (self.segment_bytes - reserve_bytes(self.segment_bytes))
            .saturating_sub(taken + 2 * BLOCK_BYTES)
    }

    /// Appends a record. Returns its place.
    pub(super) fn append(&mut self, append: &Append<'_>) -> Result<Place, Refusal> {
        if self.has_failed {
            return Err(Refusal::Failed);
        }
        let payload = payload_bytes(append.mutation);
        let bytes = match append.origin {
            Some(_) => record_bytes_max(payload),
            None => record_bytes(payload),
        };
        if append.priority != Priority::Compaction && self.is_late() {
            return Err(Refusal::Busy);
        }
        if append.priority == Priority::Ordinary {
            if self.queue_bytes > QUEUE_BYTES_MAX || self.credit == Some(0) {
                return Err(Refusal::Busy);
            }
            if let Some(credit) = &mut self.credit {
                *credit = credit.saturating_sub(bytes as u64);
            }
        }
        if self.open.as_ref().is_some_and(|open| open.bytes.len() + bytes > COMMIT_BYTES_MAX) {
            self.close_commit();
        }
        if !self.has_room(bytes, append.priority) {
            self.roll(append.priority, bytes)?;
        }
        if self.open.is_none() {
            self.open_commit();
        }
        let active = self.active.as_mut().expect("there is room");
        let open = self.open.as_mut().expect("it was just opened");
        let offset = open.offset + open.bytes.len();
        let origin = append.origin.unwrap_or(active.id);
        let header = RecordHeader { kind: append.kind, origin };
        append_record(active.id, header, append.mutation, &mut open.bytes);
        assert!(open.offset + open.bytes.len() <= offset + bytes);
        let offset = u32::try_from(offset).expect("a segment has at most 64 MiB");
        let payload = u32::try_from(payload).expect("it is in a segment");
        let Mutation { version, expires_at, .. } = *append.mutation;
        active.contents.push(&Entry {
            token: append.token,
            fingerprint: append.fingerprint,
            version,
            expires_at,
            kind: append.kind,
            origin,
            offset,
            payload_bytes: payload,
        });
        open.record_count += 1;
        if append.kind == Kind::Promise {
            self.promised = self.promised.max(version);
            self.promise_in = active.id;
        } else {
            self.version_max = self.version_max.max(version);
        }
        let place = Place { file: active.file, offset };
        if append.kind.covers() {
            let file = self.file_mut(place.file);
            file.tombstone_bytes += bytes as u64;
            file.tombstone_origin = file.tombstone_origin.max(origin);
        }
        Ok(place)
    }

    fn open_commit(&mut self) {
        let active = self.active.as_ref().expect("a commit is opened in the active segment");
        let mut bytes = self.pool.pop().unwrap_or_else(|| Buffer::with_capacity(BLOCK_BYTES * 4));
        bytes.clear();
        bytes.resize(COMMIT_HEADER_BYTES, 0);
        self.position.0 += 1;
        self.open = Some(Commit {
            file: active.file,
            id: active.id,
            offset: active.end,
            index: active.commit_index,
            record_count: 0,
            bytes,
            position: self.position,
            since: self.now,
        });
    }

    fn close_commit(&mut self) {
        let Some(commit) = self.open.take() else { return };
        let active = self.active.as_mut().expect("an open commit is in the active segment");
        assert_eq!(commit.file, active.file);
        active.end += commit.bytes.len().next_multiple_of(BLOCK_BYTES);
        active.commit_index += 1;
        let end = u32::try_from(active.end).expect("a segment has at most 64 MiB");
        let file = active.file;
        self.queue_bytes += commit.bytes.len();
        self.queue.push_back(commit);
        self.file_mut(file).data_end = end;
    }

    /// Goes on to the next segment, for a record of so many bytes.
    fn roll(&mut self, priority: Priority, bytes: usize) -> Result<(), Refusal> {
        let spare = self.spare.filter(|_| self.may_roll(priority));
        let fits = |spare: &FileId| fits(self.file(*spare).bytes as usize, bytes);
        let Some(spare) = spare.filter(fits) else {
            self.wanted_bytes = Some(self.wanted_bytes.unwrap_or(0).max(bytes));
            // Who makes room waits for what compaction is about to make.
            let waits = priority != Priority::Ordinary && self.expects_room;
            let is_full = self.full_until.is_some() && !waits;
            return Err(if is_full { Refusal::Full } else { Refusal::Busy });
        };
        self.spare = None;
        self.wanted_bytes = None;
        self.close_commit();
        if let Some(before) = self.active.take() {
            self.begin_closing(before);
        }
        self.activate(spare);
        Ok(())
    }

    fn activate(&mut self, file: FileId) {
        let File { id, bytes, .. } = *self.file(file);
        *self.file_mut(file) = File::new(State::Active, id, bytes);
        self.file_mut(file).data_end = DATA_START as u32;
        self.active = Some(Active {
            file,
            id,
            bytes: bytes as usize,
            end: DATA_START,
            commit_index: 0,
            contents: Contents::new(bytes as usize),
        });
    }

    /// Goes on to the next segment even if there is room, so that what is there stays as it is.
    pub(super) fn force_roll(&mut self) -> Result<(), Refusal> {
        if self.has_failed {
            return Err(Refusal::Failed);
        }
        match &self.active {
            Some(active) if active.contents.count() == 0 => Ok(()),
            _ => self.roll(Priority::Ordinary, 0),
        }
    }

    /// Whether the segment that is appended to has the latest promise.
    pub(super) fn has_promise(&self) -> bool {
        self.active.as_ref().is_some_and(|active| active.id == self.promise_in)
    }

    /// Ends the log: nothing more is appended, and the last segment is sealed too.
    pub(super) fn end(&mut self) {
        self.has_ended = true;
        self.close_commit();
        if let Some(active) = self.active.take() {
            if active.contents.count() == 0 {
                self.file_mut(active.file).state = State::Spare;
            } else {
                self.begin_closing(active);
            }
        }
    }

    /// Has all that was appended made durable with the next write.
    pub(super) fn request_commit(&mut self) {
        self.wanted = self.position;
    }

    /// Hands the disk what is due.
    pub(super) fn turn(&mut self, now: Instant) {
        self.now = now;
        if self.has_failed {
            return;
        }
        self.prepare_files();
        self.delete_free();
        self.write_contents();
        if self.in_flight.is_some() {
            return;
        }
        if self.needs_sync_first() {
            return self.sync();
        }
        if self.wants_commit() {
            if self.queue.is_empty() {
                self.close_commit();
            }
            if let Some(commit) = self.queue.pop_front() {
                return self.write_commit(commit);
            }
        }
        if self.wants_sync() {
            self.sync();
        }
    }

    fn write_commit(&mut self, mut commit: Commit) {
        self.queue_bytes -= commit.bytes.len();
        let bytes = u32::try_from(commit.bytes.len()).expect("a commit is in a segment");
        let header = CommitHeader {
            index: commit.index,
            bytes,
            record_count: commit.record_count,
            durable: self.durable_end,
            version_max: self.version_max,
            sealed_before: self.closing.front().map_or(commit.id, |closing| closing.id),
        };
        header.write(commit.id, &mut commit.bytes);
        commit.bytes.resize(commit.bytes.len().next_multiple_of(BLOCK_BYTES), 0);
        // Whoever has to wait for more than this commit waits for a sync of all.
        let is_durable = self.durability == Durability::Commit && self.unsynced.is_empty();
        let mut copy = self.pool.pop().unwrap_or_default();
        copy.clear();
        copy.extend_from_slice(&commit.bytes);
        let (file, offset) = (commit.file, commit.offset as u64);
        self.counters.commit_count += 1;
        self.counters.written_bytes += copy.len() as u64;
        self.start(Purpose::Log, Op::Write { file, offset, buffer: copy, is_durable });
        let started_at = self.now;
        self.in_flight = Some(InFlight::Commit { commit, is_durable, started_at });
    }

    fn sync(&mut self) {
        // All files but the last were synced before the next was written to, or are synced first.
        let file = self.unsynced[0];
        let covers = if self.unsynced.len() == 1 { self.written } else { self.durable };
        self.start(Purpose::Log, Op::Sync { file });
        self.in_flight = Some(InFlight::Sync { covers, started_at: self.now });
    }

    fn start(&mut self, purpose: Purpose, op: Op) {
        let id = self.disk.start(op);
        self.operations.insert(id, purpose);
    }

    /// Takes in the end of one of the log's operations. `false` if it is none of them.
    pub(super) fn complete(
        &mut self,
        id: OpId,
        result: &io::Result<()>,
        buffer: Option<Buffer>,
    ) -> bool {
        let Some(purpose) = self.operations.remove(&id) else { return false };
        match purpose {
            Purpose::Log => self.complete_log(result, buffer),
            Purpose::Contents => self.complete_contents(result),
            Purpose::Create(file) => self.complete_create(file, result),
            Purpose::Header(file) => self.complete_header(file, result),
            Purpose::Free(file) => self.complete_free(file, result),
            Purpose::Delete(file) => {
                if let Err(error) = result {
                    // Its number is not given to another: a snapshot may have it too.
                    tracing::warn!(file = self.disk.name(file), %error, "a file stays behind");
                } else if file != FileId::CHECKPOINT {
                    self.files[file.0 as usize] = None;
                }
            }
        }
        true
    }

    fn complete_log(&mut self, result: &io::Result<()>, buffer: Option<Buffer>) {
        let in_flight = self.in_flight.take().expect("the log waited for an operation");
        if let Err(error) = result {
            // Its commit may be read until the end.
            self.in_flight = Some(in_flight);
            return self.fail(error);
        }
        let started_at = match in_flight {
            InFlight::Commit { commit, is_durable, started_at } => {
                self.written = commit.position;
                let end = (commit.offset + commit.bytes.len()) as u32;
                self.written_end = (commit.id, end);
                if is_durable {
                    self.set_durable(commit.position, self.written_end);
                } else {
                    self.written_since.get_or_insert(commit.since);
                    if !self.unsynced.contains(&commit.file) {
                        self.unsynced.push(commit.file);
                    }
                }
                self.recycle(commit.bytes);
                buffer.into_iter().for_each(|buffer| self.recycle(buffer));
                if !is_durable {
                    return;
                }
                started_at
            }
            InFlight::Sync { covers, started_at } => {
                self.unsynced.remove(0);
                if self.unsynced.is_empty() {
                    self.set_durable(covers, self.written_end);
                }
                started_at
            }
        };
        let nanos = self.now.saturating_since(started_at).as_nanos();
        self.counters.sync_count += 1;
        self.counters.sync_nanos_last = u64::try_from(nanos).unwrap_or(u64::MAX);
        self.counters.sync_nanos_max =
            self.counters.sync_nanos_max.max(self.counters.sync_nanos_last);
    }

    fn recycle(&mut self, buffer: Buffer) {
        if self.pool.len() < 4 && buffer.capacity() <= COMMIT_BYTES_MAX * 2 {
            self.pool.push(buffer);
        }
    }

    fn set_durable(&mut self, position: LogPosition, end: (SegmentId, u32)) {
        assert!(position >= self.durable);
        self.durable = position;
        self.durable_end = end;
        // One write at a time: what is written is durable, or still to be synced.
        self.written_since = None;
    }

    /// No more is written: what the kernel has made of the pages is unknown, and a second sync would
    /// not tell.
    fn fail(&mut self, error: &io::Error) {
        self.has_failed = true;
        let directory = self.active.as_ref().map(|active| self.disk.name(active.file));
        tracing::error!(
            file = directory.unwrap_or_default(),
            %error,
            "a write to the log has failed: the shard takes no more writes"
        );
    }

    /// Whether an operation of the log is under way.
    pub(super) fn is_busy(&self) -> bool {
        !self.operations.is_empty()
    }

    /// Whether all that was appended is on disk, and each segment but the last sealed.
    pub(super) fn is_quiet(&self) -> bool {
        self.has_failed
            || (self.durable == self.position && self.closing.is_empty() && !self.is_busy())
    }

    pub(super) fn has_active(&self) -> bool {
        self.active.is_some()
    }

    /// The time of the present turn.
    pub(super) fn now(&self) -> Instant {
        self.now
    }

    pub(super) fn set_now(&mut self, now: Instant) {
        self.now = now;
    }
}
