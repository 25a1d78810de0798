//! From the files of a directory to a store.
//!
//! 1. The first block of each file says what it is; the last block, whether its segment is sealed.
//! 2. In the order of their numbers: of a sealed segment the contents are read, of another, of which
//!    there are one or two, everything.
//! 3. The newest record of each key goes into the index; what is older is dead.
//! 4. A new segment is begun: nothing is appended to what was found.
//!
//! # Torn tail or damage
//!
//! The last commits may never have been completed: nobody was told that they were durable, and what is
//! left of them is cut off, from the beginning of the first commit that is not whole. But where a
//! later commit says that the log was durable up to beyond a place, or the segment is sealed, bytes
//! that are not valid there *were*, once. That is damage: it is reported, counted and left as it is;
//! all other records are taken.
//!
//! What was cut off is cut off for good: before anybody is served, the header of the new segment says
//! durably where the log before it ends. A recovery that comes before the old segments are sealed
//! finds that end, and judges only what came after it.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;

use fastrand::Rng;
use gridkv_cluster::{Timestamp, TokenKey, Version, WallTime};

use super::checkpoint;
use super::compact::Compaction;
use super::format::{
    DATA_START, Entry, FINGERPRINT_BITS, FORMAT, Kind, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN,
    SegmentId, contents_bytes, is_segment_size, read_contents, record_bytes,
};
use super::index::{Ident, Index, Known, Place};
use super::log::{FoundLog, Log, State};
use super::reads::Reads;
use super::scan::{Hole, Scan, scan};
use super::survey::{Found, Survey, header_damage, read, survey};
use super::{Counters, FileStorage, Setup};
use crate::backend::{Eviction, LogPosition, Options, Storage as _, Tombstones};
use crate::disk::{BLOCK_BYTES, Buffer, Disk, FileId, Op, zeroed};
use crate::memory::MemoryStorage;

/// Contents of so many segments are read at the same time.
const READ_AHEAD: usize = 4;
/// With so many segments, progress is told.
const PROGRESS_FROM: usize = 16;

/// A place at which a log is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: String,
    /// Which segment of the log it is, if that is known.
    pub segment: Option<u32>,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// How many bytes; 0 where that is not known.
    pub bytes: u64,
    /// What is wrong.
    pub what: &'static str,
}

/// What was found when a store was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Segments with records.
    pub segment_count: usize,
    /// Of them, those whose contents had not been written.
    pub scanned_count: usize,
    /// Whether the last run was closed in order and has left its index.
    pub has_checkpoint: bool,
    /// Records looked at.
    pub record_count: u64,
    /// Bytes of commits that were never completed, and were cut off.
    pub torn_bytes: u64,
    /// What is damaged.
    pub damages: Vec<Damage>,
}

/// A store could not be opened. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenFailure {
    /// The operating system says no.
    #[error("cannot read {file}")]
    Read {
        /// The file.
        file: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of another version of this program.
    #[error(
        "{file} has format {format}; this program reads {FORMAT}: use the program that wrote it"
    )]
    UnknownFormat {
        /// The file.
        file: String,
        /// Its format.
        format: u32,
    },
    /// A file of an older version of this program.
    #[error(
        "{file} has format {format}; this program opens {FORMAT}: move the directory with \
         `gridkv restore --from OLD --data NEW`"
    )]
    OldFormat {
        /// The file.
        file: String,
        /// Its format.
        format: u32,
    },
    /// Files of such a size cannot be told from each other by the index.
    #[error(
        "a log's files have a power of two of bytes, {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX}, not {bytes}"
    )]
    SegmentBytes {
        /// What was asked for.
        bytes: u32,
    },
    /// A file is not as long as its header says.
    #[error("{file} has {found} bytes in place of {expected}: it was cut, or belongs elsewhere")]
    Size {
        /// The file.
        file: String,
        /// Its size.
        found: u64,
        /// What it should be.
        expected: u64,
    },
    /// The new segment could not be written.
    #[error("cannot begin a segment")]
    Begin(#[source] io::Error),
}

/// What of a directory is of interest.
pub(super) struct Extent {
    /// Records of higher timestamps are passed over.
    pub(super) cut: Timestamp,
    /// Whether a checkpoint is taken for what it tells of.
    pub(super) trusts_checkpoint: bool,
}

/// What was read of a segment.
enum Read {
    Contents(Contents),
    Scanned(Scan),
}

/// What a sealed segment has.
enum Contents {
    /// Its contents, which are valid. They are decoded one after the other: as entries they would take
    /// twice the memory, for several segments at a time.
    Stored(Buffer),
    /// What was found by scanning it.
    Scanned(Vec<Entry>),
}

impl<D: Disk> FileStorage<D> {
    /// Opens the store in a disk's directory, which may be empty.
    ///
    /// # Errors
    ///
    /// [`OpenFailure`]. Damage within files is none: it is told in [`Recovered`].
    pub fn open(
        disk: D,
        setup: Setup,
        options: &Options,
        now: WallTime,
    ) -> Result<(Self, Recovered), OpenFailure> {
        let whole = Extent { cut: Timestamp(u64::MAX), trusts_checkpoint: true };
        let (mut store, recovered) = Self::view(disk, setup, options, whole)?;
        store.now = now;
        store.begin()?;
        Ok((store, recovered))
    }

    /// The store in a disk's directory, to look at: nothing can be written, and nothing is changed.
    ///
    /// # Errors
    ///
    /// [`OpenFailure`].
    pub(super) fn view(
        mut disk: D,
        setup: Setup,
        options: &Options,
        extent: Extent,
    ) -> Result<(Self, Recovered), OpenFailure> {
        let segment_bytes = setup.segment_bytes as usize;
        if !is_segment_size(segment_bytes) {
            return Err(OpenFailure::SegmentBytes { bytes: setup.segment_bytes });
        }
        let survey = survey(&mut disk, segment_bytes)?;
        let Survey { mut files, found, version_max, floor, damages, segment_max, .. } = survey;
        let token_key = options.token_key.id();
        let checkpoint = survey.checkpoint_bytes.filter(|_| extent.trusts_checkpoint);
        let loaded = checkpoint.and_then(|bytes| {
            checkpoint::load(&mut disk, bytes, &mut files, segment_max, token_key)
        });
        let found_log = FoundLog { files, segment_max, version_max, floor };
        let mut log = Log::new(disk, segment_bytes, setup.durability, found_log, token_key);
        log.promised = survey.promised;
        log.half_free = survey.half_free;
        let mut store = Self {
            log,
            index: Index::new(),
            cache: MemoryStorage::new(&Options {
                memory_bytes_max: Some(setup.cache_bytes_max),
                eviction: Eviction::Lfu,
                disk: None,
                tombstones: Tombstones::Drop,
                ..options.clone()
            }),
            reads: Reads::default(),
            compaction: Compaction::default(),
            range: options.range,
            tombstones: options.tombstones,
            token_key: options.token_key.clone(),
            directory: setup.directory,
            memory_bytes_max: None,
            cache_bytes_max: setup.cache_bytes_max,
            is_giving_way: false,
            floor,
            rng: Rng::with_seed(options.seed),
            draw: None,
            now: WallTime::EPOCH,
            counters: Counters::default(),
            damaged_count: 0,
            damaged_places: BTreeSet::new(),
            compacted_bytes: 0,
            pin_count: 0,
            fading: VecDeque::new(),
            cleared_at: LogPosition(0),
        };
        let recovered = Recovered { damages, ..Recovered::default() };
        let recovered = match loaded {
            Some(loaded) => store.take_over(loaded, recovered),
            None => {
                let (cleared, cut) = (Version::ZERO, extent.cut);
                Recovery { store: &mut store, recovered, cleared, cut, ends: Vec::new() }
                    .run(found)?
            }
        };
        store.damaged_count = recovered.damages.len() as u64;
        store.set_memory_limit(options.memory_bytes_max, options.eviction);
        Ok((store, recovered))
    }

    /// Takes a checkpoint for what it tells of.
    fn take_over(&mut self, loaded: checkpoint::Loaded, recovered: Recovered) -> Recovered {
        let checkpoint::Loaded { index, version_max, floor, promised } = loaded;
        self.index = index;
        self.log.version_max = self.log.version_max.max(version_max);
        self.floor = self.floor.max(floor);
        self.log.floor = self.floor;
        self.log.promised = self.log.promised.max(promised);
        let ends = self.log.files.iter().flatten().filter(|file| file.state == State::Sealed);
        self.log.before = ends.map(|file| (file.id, file.data_end)).max();
        let totals = self.index.totals();
        let segments = self.log.files.iter().flatten();
        Recovered {
            segment_count: segments.filter(|file| file.state == State::Sealed).count(),
            record_count: totals.key_count + totals.tombstone_count,
            has_checkpoint: true,
            ..recovered
        }
    }

    /// Begins the first segment of this run.
    fn begin(&mut self) -> Result<(), OpenFailure> {
        for number in 0..self.log.files.len() {
            let file = FileId(u32::try_from(number).expect("fewer files than 2^32"));
            let is_unfinished = self.log.files[number]
                .is_some_and(|it| it.state == State::Leaving && it.id == SegmentId(0));
            if is_unfinished && !self.log.half_free.contains(&file) {
                self.log.discard(file);
            }
        }
        for file in std::mem::take(&mut self.log.half_free) {
            self.log.mark_free(file);
        }
        self.turn_until(|log| log.has_active() || log.is_full())?;
        if !self.log.has_active() {
            self.go_on_in_last()?;
        }
        if self.log.disk.files().iter().any(|(file, _)| *file == FileId::CHECKPOINT) {
            // From here on it tells of what was.
            self.log.discard(FileId::CHECKPOINT);
        }
        Ok(())
    }
}

/// The rebuilding of a store.
struct Recovery<'a, D> {
    store: &'a mut FileStorage<D>,
    recovered: Recovered,
    cleared: Version,
    /// Records of higher timestamps are passed over.
    cut: Timestamp,
    /// The first segment of each run, with where the log before it ends.
    ends: Vec<(SegmentId, (SegmentId, u32))>,
}

impl<D: Disk> Recovery<'_, D> {
    fn run(mut self, found: Vec<Found>) -> Result<Recovered, OpenFailure> {
        self.recovered.segment_count = found.len();
        self.ends = found.iter().filter_map(|it| Some((it.id, it.before?))).collect();
        let mut scans = self.scan_unsealed(&found)?;
        self.scan_half_sealed(&found, &mut scans)?;
        let mut claims: BTreeMap<SegmentId, u32> = BTreeMap::new();
        for (id, offset) in scans.values().flat_map(|scan| &scan.claims) {
            let claim = claims.entry(*id).or_default();
            *claim = (*claim).max(*offset);
        }
        let mut is_cut = false;
        let mut done = 0;
        for batch in found.chunks(READ_AHEAD) {
            let mut contents = self.read_contents(batch, &scans)?;
            for found in batch {
                let read = match scans.remove(&found.id) {
                    Some(scan) => Read::Scanned(scan),
                    None => Read::Contents(contents.remove(&found.id).expect("it was read")),
                };
                self.take(found, read, &claims, &mut is_cut);
                done += 1;
                self.tell_progress(done);
            }
        }
        self.finish();
        Ok(self.recovered)
    }

    fn tell_progress(&self, done: usize) {
        let count = self.recovered.segment_count;
        if count >= PROGRESS_FROM && (done * 10 / count) != ((done - 1) * 10 / count) {
            tracing::info!(
                directory = %self.store.directory,
                segments = done, of = count, keys = self.store.index.totals().key_count,
                "recovering"
            );
        }
    }

    /// Scans the segments that have no contents, and sees to it that what was found in them stays.
    fn scan_unsealed(&mut self, found: &[Found]) -> Result<BTreeMap<SegmentId, Scan>, OpenFailure> {
        let mut scans = BTreeMap::new();
        for found in found.iter().filter(|found| found.trailer.is_none()) {
            scans.insert(found.id, self.scan_whole(found)?);
        }
        Ok(scans)
    }

    fn scan_whole(&mut self, found: &Found) -> Result<Scan, OpenFailure> {
        let bytes = read(&mut self.store.log.disk, found.file, 0, found.bytes)?;
        let scanned = scan(found.id, &bytes, &self.store.token_key);
        if scanned.end > DATA_START {
            self.sync(found.file)?;
        }
        Ok(scanned)
    }

    /// Scans the segments of which nobody has said that they were sealed, and whose contents are
    /// not whole: they were being written when the log ended. Those that are whole may not be durable:
    /// from here on commits say that their segment is sealed.
    fn scan_half_sealed(
        &mut self,
        found: &[Found],
        scans: &mut BTreeMap<SegmentId, Scan>,
    ) -> Result<(), OpenFailure> {
        let sealed_before = scans.values().map(|scan| scan.sealed_before).max();
        let sealed_before = sealed_before.unwrap_or_default();
        for found in found.iter().filter(|it| it.trailer.is_some() && it.id >= sealed_before) {
            let (offset, len) = contents_extent(found);
            let bytes = read(&mut self.store.log.disk, found.file, offset, len)?;
            if read_contents(found.id, &bytes).is_none() {
                scans.insert(found.id, self.scan_whole(found)?);
            } else {
                self.sync(found.file)?;
            }
        }
        Ok(())
    }

    /// A killed process may leave what was written, but not synced, to its successor: before anybody
    /// is shown it, it is made durable.
    fn sync(&mut self, file: FileId) -> Result<(), OpenFailure> {
        let disk = &mut self.store.log.disk;
        let id = disk.start(Op::Sync { file });
        let failed = |disk: &D, source| OpenFailure::Read { file: disk.name(file), source };
        loop {
            disk.wait().map_err(|source| failed(disk, source))?;
            while let Some(completion) = disk.poll() {
                if completion.id == id {
                    return completion.result.map_err(|source| failed(disk, source));
                }
            }
        }
    }

    /// Reads the contents of sealed segments, several at a time. Where they are damaged, the segment
    /// is scanned.
    fn read_contents(
        &mut self,
        batch: &[Found],
        scans: &BTreeMap<SegmentId, Scan>,
    ) -> Result<BTreeMap<SegmentId, Contents>, OpenFailure> {
        let mut reading = BTreeMap::new();
        for found in batch.iter().filter(|found| !scans.contains_key(&found.id)) {
            let (offset, len) = contents_extent(found);
            let disk = &mut self.store.log.disk;
            let id = disk.start(Op::Read { file: found.file, offset, buffer: zeroed(len) });
            reading.insert(id, found);
        }
        let mut contents = BTreeMap::new();
        while !reading.is_empty() {
            let begin = |source| OpenFailure::Begin(source);
            self.store.log.disk.wait().map_err(begin)?;
            while let Some(completion) = self.store.log.disk.poll() {
                let Some(found) = reading.remove(&completion.id) else { continue };
                let bytes = completion.buffer.filter(|_| completion.result.is_ok());
                let is_of_key = found.token_key == self.store.token_key.id();
                let is_valid =
                    |bytes: &Buffer| is_of_key && read_contents(found.id, bytes).is_some();
                let read = match bytes.filter(is_valid) {
                    Some(bytes) => Contents::Stored(bytes),
                    None => Contents::Scanned(self.scan_sealed(found)?),
                };
                contents.insert(found.id, read);
            }
        }
        Ok(contents)
    }

    /// Scans a sealed segment whose contents are damaged, or made with another token key.
    fn scan_sealed(&mut self, found: &Found) -> Result<Vec<Entry>, OpenFailure> {
        if found.token_key == self.store.token_key.id() {
            self.damage(found, found.bytes, 0, "the contents of the segment");
        }
        let trailer = found.trailer.as_ref().expect("it is sealed");
        let len = (trailer.data_end as usize).clamp(DATA_START, found.bytes);
        let len = len.next_multiple_of(BLOCK_BYTES);
        let bytes = read(&mut self.store.log.disk, found.file, 0, len)?;
        let scanned = scan(found.id, &bytes, &self.store.token_key);
        for hole in &scanned.holes {
            self.damage(found, hole.offset, hole.bytes, "records");
        }
        Ok(scanned.entries.into_iter().map(|(_, entry)| entry).collect())
    }

    fn damage(&mut self, found: &Found, offset: usize, bytes: usize, what: &'static str) {
        let file = self.store.log.disk.name(found.file);
        tracing::error!(
            directory = %self.store.directory,
            file, segment = found.id.0, offset, bytes, what, "the log is damaged"
        );
        self.store.log.file_mut(found.file).state = State::Damaged;
        self.recovered.damages.push(Damage {
            file,
            segment: Some(found.id.0),
            offset: offset as u64,
            bytes: bytes as u64,
            what,
        });
    }

    fn take(
        &mut self,
        found: &Found,
        read: Read,
        claims: &BTreeMap<SegmentId, u32>,
        is_cut: &mut bool,
    ) {
        match read {
            Read::Contents(contents) => {
                let trailer = found.trailer.as_ref().expect("it has contents");
                self.store.log.version_max = self.store.log.version_max.max(trailer.version_max);
                self.store.log.file_mut(found.file).data_end = trailer.data_end;
                match contents {
                    Contents::Stored(bytes) => {
                        let entries = read_contents(found.id, &bytes);
                        self.insert_all(found, entries.expect("they were valid"));
                    }
                    Contents::Scanned(entries) => self.insert_all(found, entries.into_iter()),
                }
            }
            Read::Scanned(scan) => {
                let is_claimed = claims.contains_key(&found.id);
                if scan.end == DATA_START
                    && scan.holes.is_empty()
                    && !is_claimed
                    && !scan.has_damaged_tail
                {
                    // Nothing was ever written, but the header.
                    self.store.log.set_free(found.file);
                    self.recovered.segment_count -= 1;
                    return;
                }
                self.recovered.scanned_count += 1;
                let entries = self.judge(found, scan, claims, is_cut);
                let is_damaged = self.store.log.file(found.file).state == State::Damaged;
                if !is_damaged {
                    self.store.log.close_recovered(found.file, &entries);
                }
                self.insert_all(found, entries.into_iter());
            }
        }
    }

    /// Takes in what a segment has.
    fn insert_all(&mut self, found: &Found, entries: impl Iterator<Item = Entry>) {
        let mut count = 0;
        for entry in entries {
            self.insert(found.file, &entry);
            count += 1;
        }
        self.recovered.record_count += count;
        if count > 0 {
            if found.is_half {
                let file = self.store.log.disk.name(found.file);
                let damage = header_damage(file, Some(found.id), BLOCK_BYTES);
                self.recovered.damages.push(damage);
            }
            let end = self.store.log.file(found.file).data_end;
            self.store.log.before = self.store.log.before.max(Some((found.id, end)));
        }
    }

    /// Where a segment ends as an earlier recovery has found it; beyond every segment, where that has
    /// found it whole. `None` in the last run, which nobody has looked at yet.
    fn known_end(&self, id: SegmentId) -> Option<usize> {
        let next = self.ends.iter().find(|(first, _)| *first > id)?;
        let (last, offset) = next.1;
        Some(match id.cmp(&last) {
            Ordering::Less => usize::MAX,
            Ordering::Equal => offset as usize,
            Ordering::Greater => DATA_START,
        })
    }

    /// Tells a torn tail from damage. Returns what counts.
    fn judge(
        &mut self,
        found: &Found,
        scan: Scan,
        claims: &BTreeMap<SegmentId, u32>,
        is_cut: &mut bool,
    ) -> Vec<Entry> {
        let claimed = claims.get(&found.id).map_or(0, |offset| *offset as usize);
        let is_passed = claims.keys().next_back().is_some_and(|last| *last > found.id);
        let known_end = self.known_end(found.id);
        let was_durable = |hole: &Hole| match known_end {
            Some(end) => hole.offset < end,
            None => hole.offset < claimed || (is_passed && hole.is_followed),
        };
        // A cut goes through to the end of the run.
        let mut end = match known_end {
            Some(end) => scan.end.min(end),
            None if *is_cut => DATA_START,
            None => scan.end,
        };
        let claimed = known_end.filter(|end| *end <= found.bytes).unwrap_or(claimed);
        let mut damages = Vec::new();
        for hole in &scan.holes {
            if was_durable(hole) {
                damages.push((hole.offset, hole.bytes));
            } else if known_end.is_none() {
                end = end.min(hole.commit_at);
                *is_cut = true;
            }
        }
        if scan.end < claimed || (scan.has_damaged_tail && known_end.is_none()) {
            damages.push((scan.end, claimed.saturating_sub(scan.end)));
            end = end.min(scan.end);
        } else if end < scan.end && known_end.is_none() {
            self.recovered.torn_bytes += (scan.end - end) as u64;
            tracing::info!(
                directory = %self.store.directory,
                file = self.store.log.disk.name(found.file), offset = end,
                "writes that were under way when the log ended, and not acknowledged, are cut off"
            );
        }
        let version_max = scan.version_max;
        self.store.log.version_max = self.store.log.version_max.max(version_max);
        for (offset, bytes) in damages {
            self.damage(found, offset, bytes, "records");
        }
        let file = self.store.log.file_mut(found.file);
        file.data_end = u32::try_from(end).expect("a segment has at most 64 MiB");
        let kept = scan.entries.into_iter().filter(|(commit_at, _)| *commit_at < end);
        kept.map(|(_, entry)| entry).collect()
    }

    /// Takes a record into the index if it is the newest of its key so far.
    fn insert(&mut self, file: FileId, entry: &Entry) {
        if entry.kind == Kind::Promise {
            // Also beyond the cut: to have promised more does no harm.
            self.store.log.promised = self.store.log.promised.max(entry.version);
            return;
        }
        if entry.version.timestamp > self.cut {
            return;
        }
        let store = &mut *self.store;
        store.log.version_max = store.log.version_max.max(entry.version);
        if entry.kind.covers() {
            let own = store.log.file_mut(file);
            own.tombstone_bytes += record_bytes(entry.payload_bytes as usize) as u64;
            own.tombstone_origin = own.tombstone_origin.max(entry.origin);
        }
        if entry.kind == Kind::Clear {
            self.cleared = self.cleared.max(entry.version);
            return;
        }
        if entry.version <= self.cleared || !store.range.contains(entry.token) {
            return;
        }
        let position = store.range.position(entry.token);
        let ident = Ident { position, fingerprint: entry.fingerprint };
        let known = Known {
            place: Place { file, offset: entry.offset },
            version: entry.version,
            expires_at: entry.expires_at,
            payload_bytes: entry.payload_bytes,
            is_tombstone: matches!(entry.kind, Kind::Tombstone | Kind::Ended),
        };
        // Of two copies of one record the later was made to replace the earlier.
        let before = store.index.find(ident);
        if before.is_some_and(|before| before.version > entry.version) {
            return;
        }
        store.index.put(ident, &known);
        before.iter().for_each(|before| self.store.forsake(before));
        self.store.adopt(&known);
    }

    fn finish(&mut self) {
        let store = &mut *self.store;
        if self.cleared > Version::ZERO {
            store.index.clear(self.cleared);
            let mut live = Vec::new();
            store.index.walk(0, usize::MAX, &mut |_, known| live.push(known));
            store.log.files.iter_mut().flatten().for_each(|file| file.live_bytes = 0);
            live.iter().for_each(|known| store.count_live(known));
        }
        if store.tombstones == Tombstones::Drop {
            let mut tombstones = Vec::new();
            store.index.walk(0, usize::MAX, &mut |ident, known| {
                if known.is_tombstone {
                    tombstones.push((ident, known));
                }
            });
            for (ident, known) in tombstones {
                store.index.remove(ident);
                store.forsake(&known);
                let bytes = record_bytes(known.payload_bytes as usize) as u64;
                let file = store.log.file_mut(known.place.file);
                file.tombstone_bytes += bytes;
                if known.expires_at.is_some() {
                    // One that has ended does not say where it was first written.
                    file.tombstone_origin = file.tombstone_origin.max(file.id);
                }
            }
            store.floor = store.log.version_max;
        }
        store.floor = store.floor.max(self.cleared);
        store.log.floor = store.floor;
    }
}

/// Where the contents of a sealed segment are.
fn contents_extent(found: &Found) -> (u64, usize) {
    let trailer = found.trailer.as_ref().expect("it is sealed");
    let len = contents_bytes(trailer.count as usize).min(found.bytes - DATA_START);
    ((found.bytes - len) as u64, len)
}

/// What tells keys of one token apart.
pub(super) fn fingerprint(token_key: &TokenKey, key: &[u8]) -> u32 {
    (token_key.fingerprint(key) >> (64 - FINGERPRINT_BITS)) as u32
}
