//! Compaction: what is live in a file that has little of it is appended again, and the file is free.
//!
//! ```text
//!   choose -> read a chunk -> append its live records -> ... -> emptied -> all that durable -> free
//! ```
//!
//! # Why the wait
//!
//! A record counts as dead as soon as a newer one was appended. Until the newer one is durable, a
//! crash takes it away, and the older one is what was acknowledged.
//!
//! # What bounds it
//!
//! Space: the log may have a fifth more than what is live; while much is written, three fifths more:
//! a file that waits longer has less left in it to be moved. Its share of the disk:
//! after each chunk it rests for as long as the chunk took, unless space runs short. Its share of the
//! core: a bounded number of records a turn. Writes of clients go first: it appends nothing while
//! commits queue up. But where there is more dead data than live, clients write no more than
//! it has read, so space stays bounded whatever they do.

use std::io;
use std::time::Duration;

use gridkv_cluster::{Instant, Mutation};

use super::format::{
    COMMIT_HEADER_BYTES, CommitHeader, DATA_START, Kind, Record, SegmentId, read_record,
    record_bytes, record_key,
};
use super::index::Place;
use super::log::{Ages, Append, File, Priority, Refusal, State};
use super::{FileStorage, is_past};
use crate::backend::{LogPosition, Tombstones};
use crate::disk::{BLOCK_BYTES, Buffer, Disk, FileId, Op, OpId};

/// Read at once, unless a commit is longer.
const CHUNK_BYTES: usize = 128 << 10;
/// Records looked at in a turn.
const RECORDS_PER_TURN: usize = 64;
/// How often files are looked at.
const CHOOSE_INTERVAL: Duration = Duration::from_millis(10);
/// Dead bytes for each live one, in hundredths, beyond which files are compacted while little is
/// written.
const DEAD_PERCENT_CALM: u64 = 20;
/// The same while much is written: the longer a file waits, the less is left in it to be moved.
const DEAD_PERCENT_BUSY: u64 = 60;
/// The same, beyond which it no longer rests.
const DEAD_PERCENT_URGENT: u64 = 80;
/// The same, beyond which clients wait for it.
const DEAD_PERCENT_MAX: u64 = 120;
/// Much is what would fill a segment in so many of these intervals.
const CALM_INTERVAL: Duration = Duration::from_millis(500);
const CALM_INTERVALS_PER_SEGMENT: u64 = 64;
/// With fewer reads and writes in an interval nobody minds a slow disk.
const USES_PER_INTERVAL_FEW: u64 = 50;
/// Records whose index entries are fetched together.
const BATCH_LEN: usize = 16;
/// What clients may write before they wait.
const CREDIT_BYTES: u64 = 1 << 20;

/// What is being compacted.
#[derive(Default)]
pub(super) struct Compaction {
    work: Option<Work>,
    rest_until: Option<Instant>,
    /// When to look for work again.
    choose_at: Instant,
    /// The log took nothing: it says when it does.
    is_held_up: bool,
    /// Whether little was written in the last interval, what had been written by its end, and when
    /// to look again.
    is_calm: bool,
    written_bytes: u64,
    use_count: u64,
    calm_until: Instant,
    /// There is something to be done as soon as little is written.
    waits_for_calm: bool,
    /// The last chunk's memory, for the next.
    buffer: Buffer,
    /// Files without live records, each with the position that has to be durable before it may go.
    emptied: Vec<(FileId, LogPosition)>,
}

struct Work {
    file: FileId,
    id: SegmentId,
    /// The oldest segment besides: what came before it covers nothing.
    oldest_other: SegmentId,
    /// Where the next commit to be read begins.
    offset: usize,
    /// Space runs short: it does not rest.
    is_urgent: bool,
    stage: Stage,
}

/// A file that may be compacted.
#[derive(Clone, Copy)]
struct Candidate {
    /// Bytes in it that have to be kept.
    kept: u64,
    /// Bytes that are there to be used again after that.
    gain: u64,
    file: FileId,
    id: SegmentId,
}

enum Stage {
    /// The next chunk is to be read.
    Next,
    Reading {
        id: OpId,
        started_at: Instant,
    },
    /// A chunk is in memory; `at` is the next record in it, `end` the end of its commit.
    Chunk {
        bytes: Buffer,
        at: usize,
        end: usize,
    },
    /// All that was live is appended.
    Done,
    /// There is no room for the rest.
    Abandoned,
}

impl Compaction {
    /// Whether an operation is compaction's.
    pub(super) fn is_for(&self, id: OpId) -> bool {
        matches!(&self.work, Some(Work { stage: Stage::Reading { id: own, .. }, .. }) if *own == id)
    }

    /// Memory of what is being compacted.
    pub(super) fn buffer_bytes(&self) -> u64 {
        let chunk = match &self.work {
            Some(Work { stage: Stage::Chunk { bytes, .. }, .. }) => bytes.capacity(),
            _ => 0,
        };
        (chunk + self.buffer.capacity()) as u64
    }

    pub(super) fn is_reading(&self) -> bool {
        matches!(&self.work, Some(Work { stage: Stage::Reading { .. }, .. }))
    }
}

/// What became of a record.
enum Moved {
    Done,
    /// The log takes nothing at the moment.
    Later,
    /// The log has no room for what is in the file, and no file to go on to.
    Never,
}

impl<D: Disk> FileStorage<D> {
    /// When compaction goes on by itself.
    pub(super) fn compaction_due_at(&self) -> Option<Instant> {
        let compaction = &self.compaction;
        let Some(work) = &compaction.work else {
            let is_due = compaction.waits_for_calm && !self.log.has_failed();
            return is_due.then(|| compaction.calm_until.max(compaction.choose_at));
        };
        let can_go_on = matches!(work.stage, Stage::Next | Stage::Chunk { .. });
        let is_held_up = compaction.is_held_up || self.log.has_backlog();
        let can_go_on = can_go_on && !self.log.has_failed() && !is_held_up;
        can_go_on.then(|| compaction.rest_until.unwrap_or_else(|| self.log.now()))
    }

    /// Does a bounded amount.
    pub(super) fn compact(&mut self) {
        if self.log.has_failed() {
            return;
        }
        self.free_emptied();
        self.compaction.is_held_up = false;
        while let Some(mut work) = self.compaction.work.take().or_else(|| self.choose()) {
            let goes_on = self.go_on(&mut work);
            match work.stage {
                Stage::Done => self.set_emptied(&work),
                Stage::Abandoned => {}
                _ => self.compaction.work = Some(work),
            }
            if !goes_on {
                break;
            }
        }
        let mut emptied = self.compaction.emptied.iter();
        let frees = emptied.any(|(file, _)| self.log.may_free(*file));
        let expects_room = self.compaction.work.is_some() || frees || self.log.is_freeing();
        self.log.set_expects_room(expects_room && !self.compaction.is_held_up);
    }

    /// Does a step of what is under way. Whether there may be another in this turn.
    fn go_on(&mut self, work: &mut Work) -> bool {
        match work.stage {
            Stage::Next => {
                let rest_until = self.compaction.rest_until.filter(|_| !work.is_urgent);
                let is_resting = rest_until.is_some_and(|until| self.log.now() < until);
                if is_resting || (self.log.has_backlog() && !work.is_urgent) {
                    return false;
                }
                self.read_chunk(work, CHUNK_BYTES);
                matches!(work.stage, Stage::Done)
            }
            Stage::Chunk { .. } => {
                (work.is_urgent || !self.log.has_backlog()) && self.move_records(work)
            }
            Stage::Reading { .. } => false,
            Stage::Done | Stage::Abandoned => true,
        }
    }

    /// A file has nothing left that is live. It is free once the log is durable that far.
    fn set_emptied(&mut self, work: &Work) {
        let file = self.log.file_mut(work.file);
        if file.state != State::Sealed || file.live_bytes != 0 {
            // Damage was found meanwhile: the file is kept as it is.
            return;
        }
        file.state = State::Emptied;
        self.compaction.emptied.push((work.file, self.log.appended()));
    }

    fn free_emptied(&mut self) {
        if self.pin_count > 0 || self.compaction.emptied.is_empty() {
            return;
        }
        let durable = self.log.durable();
        let emptied = std::mem::take(&mut self.compaction.emptied);
        for (file, position) in emptied {
            let is_unused = self.log.file(file).reader_count == 0 && self.log.may_free(file);
            if position <= durable && is_unused {
                self.log.file_mut(file).tombstone_bytes = 0;
                self.log.free(file);
            } else {
                self.compaction.emptied.push((file, position));
            }
        }
        if self.compaction.emptied.iter().any(|(_, position)| *position > durable) {
            self.log.request_commit();
        }
    }

    /// The file with the most dead data, if there is too much of it.
    fn choose(&mut self) -> Option<Work> {
        if self.log.now() < self.compaction.choose_at {
            return None;
        }
        let chosen = self.choose_file();
        if chosen.is_none() {
            self.compaction.choose_at = self.log.now() + CHOOSE_INTERVAL;
        }
        chosen
    }

    /// Whether moving what is live in some file makes room.
    pub(super) fn can_gain(&self) -> bool {
        let is_moved = self.compaction.work.is_some()
            || !self.compaction.emptied.is_empty()
            || self.log.is_freeing();
        let room = self.log.last_room();
        let ages = self.log.ages();
        let mut numbered = (0..).map(FileId).zip(&self.log.files);
        is_moved
            || numbered.any(|(number, file)| {
                let sealed = file.filter(|it| matches!(it.state, State::Sealed | State::Closing));
                sealed.is_some_and(|file| {
                    let kept = self.kept(number, &file, &ages);
                    room.is_none_or(|room| kept <= room) && gain(&file, kept) > BLOCK_BYTES as u64
                })
            })
    }

    /// Has compaction look for work at once.
    pub(super) fn hurry_compaction(&mut self) {
        self.compaction.choose_at = Instant::ZERO;
    }

    /// Bytes of a file that have to be kept.
    fn kept(&self, number: FileId, file: &File, ages: &Ages) -> u64 {
        let are_needed = ages.oldest_but(number) < file.tombstone_origin;
        file.kept_bytes() + if are_needed { file.tombstone_bytes } else { 0 }
    }

    fn choose_file(&mut self) -> Option<Work> {
        let segment_bytes = self.log.segment_bytes as u64;
        let ages = self.log.ages();
        let room = self.log.last_room();
        let (mut kept_total, mut dead) = (0, 0);
        let mut best: Option<Candidate> = None;
        let mut oldest: Option<Candidate> = None;
        let mut tombstones = 0;
        for (number, file) in self.log.files.iter().enumerate() {
            let Some(file) = file.filter(|file| file.has_records()) else { continue };
            let number = FileId(u32::try_from(number).expect("fewer files than 2^32"));
            let kept = self.kept(number, &file, &ages);
            kept_total += kept;
            tombstones += kept - file.kept_bytes();
            if file.state != State::Sealed || room.is_some_and(|room| kept > room) {
                continue;
            }
            let gain = gain(&file, kept);
            dead += gain;
            let candidate = Candidate { kept, gain, file: number, id: file.id };
            if best.is_none_or(|best| gain > best.gain) {
                best = Some(candidate);
            }
            if oldest.is_none_or(|oldest| file.id < oldest.id) {
                oldest = Some(candidate);
            }
        }
        let is_calm = self.is_calm();
        self.compaction.waits_for_calm = !is_calm && dead * 100 > kept_total * DEAD_PERCENT_CALM;
        let percent = if is_calm { DEAD_PERCENT_CALM } else { DEAD_PERCENT_BUSY };
        let is_short = dead * 100 > kept_total * percent;
        // Where compaction falls behind, clients write as much as it has read.
        let is_behind = dead > kept_total * DEAD_PERCENT_MAX / 100 + 8 * segment_bytes;
        self.log.set_credit(is_behind.then_some(CREDIT_BYTES));
        // Tombstones that wait for older files to go: the oldest file goes, whatever is in it. But
        // not where one is older that is damaged and stays: then they stay too.
        let is_oldest = oldest.is_some_and(|it| it.id < ages.oldest_but(it.file));
        let hinders = is_oldest && tombstones * 8 > kept_total + segment_bytes;
        let is_starving = self.log.is_starving();
        let chosen = if hinders { oldest } else { best.filter(|_| is_short || is_starving) };
        let Candidate { kept, gain, file, id } = chosen?;
        let file_bytes = u64::from(self.log.file(file).bytes);
        let gain_min = if is_starving { BLOCK_BYTES as u64 } else { file_bytes / 20 };
        if !hinders && gain < gain_min {
            return None;
        }
        let is_urgent =
            is_starving || dead > kept_total * DEAD_PERCENT_URGENT / 100 + 2 * segment_bytes;
        let is_empty = kept == 0 && self.log.file(file).live_bytes == 0;
        let stage = if is_empty { Stage::Done } else { Stage::Next };
        let oldest_other = ages.oldest_but(file);
        Some(Work { file, id, oldest_other, offset: DATA_START, is_urgent, stage })
    }

    /// Whether little was written of late.
    fn is_calm(&mut self) -> bool {
        let now = self.log.now();
        let compaction = &mut self.compaction;
        if now >= compaction.calm_until {
            let written = self.log.counters.written_bytes;
            let since = written - compaction.written_bytes;
            let much = self.log.segment_bytes as u64 / CALM_INTERVALS_PER_SEGMENT;
            compaction.is_calm = since < much;
            let used = self.counters.hit_count + self.counters.miss_count;
            let used = used + self.log.counters.record_count;
            self.log.set_unused(used.abs_diff(compaction.use_count) < USES_PER_INTERVAL_FEW);
            compaction.use_count = used;
            compaction.written_bytes = written;
            compaction.calm_until = now + CALM_INTERVAL;
        }
        self.compaction.is_calm
    }

    fn read_chunk(&mut self, work: &mut Work, bytes: usize) {
        let left = (self.log.file(work.file).data_end as usize).saturating_sub(work.offset);
        if left == 0 {
            work.stage = Stage::Done;
            return;
        }
        let mut buffer = std::mem::take(&mut self.compaction.buffer);
        buffer.resize(bytes.min(left), 0);
        let offset = work.offset as u64;
        let id = self.log.disk.start(Op::Read { file: work.file, offset, buffer });
        work.stage = Stage::Reading { id, started_at: self.log.now() };
    }

    pub(super) fn complete_compaction(&mut self, result: &io::Result<()>, buffer: Option<Buffer>) {
        let mut work = self.compaction.work.take().expect("compaction waited for its read");
        let Stage::Reading { started_at, .. } = work.stage else {
            unreachable!("compaction waited for its read");
        };
        let took = self.log.now().saturating_since(started_at).min(Duration::from_millis(100));
        self.compaction.rest_until = Some(self.log.now() + took);
        let bytes = match (result, buffer) {
            (Ok(()), Some(bytes)) => {
                self.log.add_credit(bytes.len());
                bytes
            }
            (result, _) => {
                return self.give_up(&work, &format!("it cannot be read: {result:?}"));
            }
        };
        let Some(header) = CommitHeader::read(work.id, &bytes) else {
            return self.give_up(&work, "a commit is damaged");
        };
        let end = header.bytes as usize;
        let whole = end.next_multiple_of(BLOCK_BYTES);
        if whole > bytes.len() {
            let left = self.log.file(work.file).data_end as usize - work.offset;
            if whole > left {
                return self.give_up(&work, "a commit is damaged");
            }
            self.read_chunk(&mut work, whole);
        } else {
            work.stage = Stage::Chunk { bytes, at: COMMIT_HEADER_BYTES, end };
        }
        self.compaction.work = Some(work);
    }

    /// Leaves a file alone that cannot be read as a whole. What is live in it can still be read.
    fn give_up(&mut self, work: &Work, reason: &str) {
        self.damaged_count += 1;
        self.log.file_mut(work.file).state = State::Damaged;
        let file = self.log.disk.name(work.file);
        tracing::error!(
            directory = %self.directory, file, offset = work.offset, reason,
            "a file of the log is damaged: it is kept, and not compacted"
        );
    }

    /// Appends live records of the chunk. Whether to go on in this turn.
    fn move_records(&mut self, work: &mut Work) -> bool {
        let stage = std::mem::replace(&mut work.stage, Stage::Next);
        let Stage::Chunk { bytes, mut at, mut end } = stage else {
            unreachable!("there is a chunk");
        };
        // `at` and `end` count from the chunk's beginning, which is at `work.offset` in the file.
        let mut fetched_to = at;
        for _ in 0..RECORDS_PER_TURN {
            if at >= end {
                let next = end.next_multiple_of(BLOCK_BYTES);
                let rest = bytes.get(next..).unwrap_or_default();
                let header = CommitHeader::read(work.id, rest);
                let fits = header
                    .filter(|it| (it.bytes as usize).next_multiple_of(BLOCK_BYTES) <= rest.len());
                let Some(header) = fits else {
                    // The rest is read again, from the commit's beginning.
                    work.offset += next;
                    self.compaction.buffer = bytes;
                    return true;
                };
                at = next + COMMIT_HEADER_BYTES;
                end = next + header.bytes as usize;
            }
            if at >= fetched_to {
                fetched_to = self.prefetch_records(&bytes[..end], at);
            }
            let Some(record) = read_record(work.id, &bytes[at..end]) else {
                self.damaged_record(work, at);
                return true;
            };
            let offset = u32::try_from(work.offset + at).expect("a segment has at most 64 MiB");
            match self.move_record(work, &record, offset) {
                Moved::Done => {}
                Moved::Later => {
                    work.stage = Stage::Chunk { bytes, at, end };
                    return false;
                }
                Moved::Never => {
                    // What was moved is live where it is now: the file has that much less in it, and
                    // stays for what it still has, tombstones too.
                    work.stage = Stage::Abandoned;
                    return false;
                }
            }
            at += record.bytes;
        }
        work.stage = Stage::Chunk { bytes, at, end };
        false
    }

    /// Fetches what the index knows of the next records into the cache. Returns where they end.
    fn prefetch_records(&self, commit: &[u8], from: usize) -> usize {
        let mut at = from;
        let next = || {
            let (key, bytes) = record_key(&commit[at..])?;
            at += bytes;
            Some(self.range.position(self.token_key.token(key)))
        };
        self.index.prefetch(std::iter::from_fn(next).take(BATCH_LEN));
        at.max(from + 1)
    }

    fn damaged_record(&mut self, work: &mut Work, at: usize) {
        work.offset += at;
        self.give_up(work, "a record is damaged");
        // It is not emptied in this state.
        work.stage = Stage::Done;
    }

    fn move_record(&mut self, work: &Work, record: &Record<'_>, offset: u32) -> Moved {
        if record.header.kind == Kind::Promise {
            // The header that frees the file says it, and all that come after.
            return Moved::Done;
        }
        let mutation = &record.mutation;
        let token = self.token_key.token(mutation.key);
        let place = Place { file: work.file, offset };
        let ident = self.ident(token, mutation.key);
        let known = self.index.find(ident);
        let is_pointed_at =
            record.header.kind != Kind::Clear && known.is_some_and(|it| it.place == place);
        let is_replaced = record.header.kind != Kind::Clear && known.is_some() && !is_pointed_at;
        if is_replaced {
            return Moved::Done;
        }
        let mut append = Append {
            kind: record.header.kind,
            origin: None,
            mutation,
            token: if record.header.kind == Kind::Clear { self.range.first() } else { token },
            fingerprint: ident.fingerprint,
            priority: Priority::Compaction,
        };
        let mut buried = Mutation { value: None, expires_at: None, ..*mutation };
        if is_pointed_at {
            let known = known.expect("it is pointed at");
            if known.is_tombstone {
                // With `Tombstones::Keep` an expired value is freed by the index alone.
                buried.expires_at = known.expires_at;
                append.kind = Kind::of_mutation(&buried);
                append.mutation = &buried;
            }
        } else {
            let was_value = matches!(append.kind, Kind::Value | Kind::Ended);
            let covers = append.kind != Kind::Value
                || (is_past(mutation.expires_at, self.now) && self.tombstones == Tombstones::Drop);
            let origin = if was_value { work.id } else { record.header.origin };
            if !covers || work.oldest_other >= origin {
                return Moved::Done;
            }
            append.origin = Some(origin);
            if was_value {
                append.kind = Kind::Tombstone;
                append.mutation = &buried;
            }
        }
        let to = match self.log.append(&append) {
            Ok(place) => place,
            Err(Refusal::Busy | Refusal::Full | Refusal::Failed) => {
                self.compaction.is_held_up = true;
                // Another file may have less to be moved.
                return if self.log.is_starving() { Moved::Never } else { Moved::Later };
            }
        };
        self.compacted_bytes += record.bytes as u64;
        if is_pointed_at {
            self.point(ident, known.expect("it is pointed at"), append.mutation, to);
        }
        Moved::Done
    }

    /// Points a key at its record's new place.
    fn point(
        &mut self,
        ident: super::Ident,
        known: super::Known,
        mutation: &Mutation<'_>,
        to: Place,
    ) {
        let payload = gridkv_cluster::mutation::payload_bytes(mutation);
        self.forsake(&known);
        let moved = super::Known {
            place: to,
            payload_bytes: u32::try_from(payload).expect("it was a record"),
            ..known
        };
        if moved.payload_bytes == known.payload_bytes {
            self.index.relocate(ident, known.place, to);
        } else {
            self.index.put(ident, &moved);
        }
        assert_eq!(record_bytes(payload), record_bytes(moved.payload_bytes as usize));
        self.adopt(&moved);
    }
}

/// Bytes that can be used again once the `kept` ones of a sealed file are elsewhere. Its contents and
/// what was too small for one more record come again with the next file, so they are none: a log
/// that is all live would never come to rest.
fn gain(file: &File, kept: u64) -> u64 {
    let file_bytes = u64::from(file.bytes);
    if kept == 0 {
        return file_bytes;
    }
    let unused = file_bytes.saturating_sub(u64::from(file.data_end));
    // It was closed early, when a log was opened or for a snapshot.
    let cut_short = if unused * 2 > file_bytes { unused } else { 0 };
    let records = u64::from(file.data_end).saturating_sub(DATA_START as u64);
    records.saturating_sub(kept) + cut_short
}
