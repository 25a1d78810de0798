//! What is done with a directory that no node uses: checking it, restoring from it.

use std::path::Path;

use gridkv_cluster::{
    Instant, Mutation, ShardRange, Timestamp, Token, TokenKey, Version, WallTime,
};

use super::format::{
    DATA_START, Entry, FirstBlock, Kind, Record, SegmentId, contents_bytes, first_block,
    read_contents, read_trailer,
};
use super::index::Place;
use super::log::File;
use super::recover::{Damage, Extent, OpenFailure, Recovered};
use super::scan::{Scan, scan, scan_records};
use super::survey::read;
use super::{FileStorage, Setup};
use crate::backend::{Durability, Error, Eviction, Options, Storage as _, Tombstones};
use crate::directory::Directory;
use crate::disk::{BLOCK_BYTES, DirectDisk, Disk, FileId, IoPort, SyncMethod};

/// Where nobody reads, no cache is needed.
const CACHE_BYTES: u64 = 64 << 10;

/// What a shard holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardReport {
    /// Which shard.
    pub shard: u16,
    /// Segments with records.
    pub segment_count: usize,
    /// Records, the dead included.
    pub record_count: u64,
    /// Keys with a value.
    pub key_count: u64,
    /// Bytes of their keys and values.
    pub payload_bytes: u64,
    /// Bytes of their records.
    pub live_bytes: u64,
    /// Bytes of the log's files.
    pub disk_bytes: u64,
    /// Bytes of writes that were under way when the log ended.
    pub torn_bytes: u64,
    /// The highest version.
    pub version_max: Version,
    /// What is damaged.
    pub damages: Vec<Damage>,
}

/// What was restored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Keys.
    pub key_count: u64,
    /// Bytes of their keys and values.
    pub payload_bytes: u64,
    /// Places in the snapshot that could not be read.
    pub damaged_count: u64,
}

/// A directory could not be checked, or not be restored.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// A shard's directory could not be opened.
    #[error("cannot open {directory}")]
    Disk {
        /// The directory.
        directory: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A shard's log could not be read.
    #[error("cannot read {directory}")]
    Open {
        /// The directory.
        directory: String,
        /// Why.
        #[source]
        source: OpenFailure,
    },
    /// The new directory takes no more.
    #[error("cannot write to {directory}")]
    Write {
        /// The directory.
        directory: String,
        /// Why.
        #[source]
        source: Error,
    },
}

fn setup(directory: &Directory, path: &Path) -> Setup {
    Setup {
        cache_bytes_max: CACHE_BYTES,
        durability: Durability::None,
        segment_bytes: directory.segment_bytes(),
        directory: path.display().to_string(),
    }
}

fn options(directory: &Directory, range: ShardRange) -> Options {
    Options {
        range,
        token_key: directory.token_key(),
        disk: None,
        memory_bytes_max: None,
        eviction: Eviction::Refuse,
        tombstones: Tombstones::Drop,
        seed: 0,
    }
}

fn disk(path: &Path) -> Result<DirectDisk, OfflineError> {
    let opened = DirectDisk::open(path, IoPort::new(), SyncMethod::Dsync);
    opened.map_err(|source| OfflineError::Disk { directory: path.display().to_string(), source })
}

/// Opens a shard to look at.
fn view(
    directory: &Directory,
    index: u16,
    cut: Timestamp,
) -> Result<(FileStorage<DirectDisk>, Recovered), OfflineError> {
    let path = directory.shard(index);
    let range = ShardRange::new(index, directory.shard_count());
    let extent = Extent { cut, trusts_checkpoint: false };
    FileStorage::view(disk(&path)?, setup(directory, &path), &options(directory, range), extent)
        .map_err(|source| OfflineError::Open { directory: path.display().to_string(), source })
}

/// Verifies everything in one shard of a directory, values included. Changes nothing.
///
/// # Errors
///
/// [`OfflineError`], when it cannot be read at all. Damage is no error: it is in the report.
pub fn check_shard(directory: &Directory, index: u16) -> Result<ShardReport, OfflineError> {
    let (mut store, recovered) = view(directory, index, Timestamp(u64::MAX))?;
    let mut report = ShardReport {
        shard: index,
        segment_count: recovered.segment_count,
        torn_bytes: recovered.torn_bytes,
        damages: recovered.damages,
        version_max: store.log.version_max,
        ..ShardReport::default()
    };
    for number in store.file_numbers() {
        store.check_file(number, &mut report).map_err(|source| OfflineError::Open {
            directory: directory.shard(index).display().to_string(),
            source,
        })?;
    }
    let totals = store.index.totals();
    report.key_count = totals.key_count;
    report.payload_bytes = totals.payload_bytes;
    let stats = store.log_stats().unwrap_or_default();
    (report.live_bytes, report.disk_bytes) = (stats.live_bytes, stats.disk_bytes);
    Ok(report)
}

impl<D: Disk> FileStorage<D> {
    /// The files that have records, in the order of the log.
    pub(super) fn file_numbers(&self) -> Vec<FileId> {
        let numbered = self.log.files.iter().enumerate();
        let with_records = numbered.filter_map(|(number, file)| {
            let file = file.filter(|file| file.has_records())?;
            Some((file.id, FileId(u32::try_from(number).ok()?)))
        });
        let mut files: Vec<(SegmentId, FileId)> = with_records.collect();
        files.sort_unstable();
        files.into_iter().map(|(_, file)| file).collect()
    }

    pub(super) fn check_file(
        &mut self,
        file: FileId,
        report: &mut ShardReport,
    ) -> Result<(), OpenFailure> {
        let (id, len) = (self.log.file(file).id, self.log.file(file).data_end as usize);
        let bytes = read(&mut self.log.disk, file, 0, len.max(DATA_START))?;
        let scanned = scan(id, &bytes, &self.token_key);
        report.record_count += scanned.entries.len() as u64;
        let name = self.log.disk.name(file);
        let mut holes: Vec<(usize, usize)> =
            scanned.holes.iter().map(|hole| (hole.offset, hole.bytes)).collect();
        if scanned.end < len {
            holes.push((scanned.end, len - scanned.end));
        }
        if holes.is_empty() && !self.contents_agree(file, &bytes, &scanned)? {
            let file_bytes = u64::from(self.log.file(file).bytes);
            report.damages.push(Damage {
                file: name.clone(),
                segment: Some(id.0),
                offset: file_bytes,
                bytes: 0,
                what: "the contents of the segment, which are not those of its records",
            });
        }
        for (offset, bytes) in holes {
            let is_known = report.damages.iter().any(|damage| {
                damage.file == name && damage.offset == offset as u64 && damage.what == "records"
            });
            if !is_known {
                report.damages.push(Damage {
                    file: name.clone(),
                    segment: Some(id.0),
                    offset: offset as u64,
                    bytes: bytes as u64,
                    what: "records",
                });
            }
        }
        Ok(())
    }

    /// Whether the contents of a segment, which a node believes without reading its records, tell of
    /// those that are there. Contents that are none, or not written yet, are told elsewhere.
    fn contents_agree(
        &mut self,
        file: FileId,
        bytes: &[u8],
        scanned: &Scan,
    ) -> Result<bool, OpenFailure> {
        let File { id, bytes: file_bytes, .. } = *self.log.file(file);
        let count = scanned.entries.len();
        let len = contents_bytes(count).min(file_bytes as usize - DATA_START);
        let tail = read(&mut self.log.disk, file, u64::from(file_bytes) - len as u64, len)?;
        let Some(trailer) = read_trailer(id, &tail) else { return Ok(true) };
        if trailer.count as usize != count {
            return Ok(false);
        }
        let Some(entries) = read_contents(id, &tail) else { return Ok(true) };
        let own_key = self.token_key.id();
        let is_of_key = matches!(
            first_block(&bytes[..BLOCK_BYTES]), FirstBlock::Header(it) if it.token_key == own_key
        );
        // Tokens made with another key are made anew when a node opens it.
        let comparable = |entry: Entry| match is_of_key {
            true => entry,
            false => Entry { token: Token::MIN, fingerprint: 0, ..entry },
        };
        let scanned = scanned.entries.iter().map(|(_, entry)| comparable(*entry));
        Ok(entries.map(comparable).eq(scanned))
    }

    /// Visits the live records of a file.
    fn visit_live(
        &mut self,
        file: FileId,
        visit: &mut dyn FnMut(&Mutation<'_>) -> Result<(), OfflineError>,
    ) -> Result<Result<(), OfflineError>, OpenFailure> {
        let (id, len) = (self.log.file(file).id, self.log.file(file).data_end as usize);
        let bytes = read(&mut self.log.disk, file, 0, len.max(DATA_START))?;
        let mut result = Ok(());
        scan_records(id, &bytes, &self.token_key, &mut |offset, record: &Record<'_>| {
            if record.header.kind != Kind::Value || result.is_err() {
                return;
            }
            let token = self.token_key.token(record.mutation.key);
            let place = Place { file, offset: u32::try_from(offset).unwrap_or(u32::MAX) };
            let known = self.index.find(self.ident(token, record.mutation.key));
            if known.is_some_and(|known| known.place == place && !known.is_tombstone) {
                result = visit(&record.mutation);
            }
        });
        Ok(result)
    }
}

/// Fills a new directory with what another had when `cut` was the highest timestamp: its number of
/// shards may be another.
///
/// # Errors
///
/// [`OfflineError`]; the new directory is of no use then.
pub fn restore(
    from: &Directory,
    cut: Timestamp,
    to: &Directory,
    method: SyncMethod,
) -> Result<Restored, OfflineError> {
    let mut targets = Targets::open(to, method)?;
    let mut restored = Restored::default();
    let mut promised = Version::ZERO;
    for index in 0..from.shard_count() {
        let (mut store, recovered) = view(from, index, cut)?;
        restored.damaged_count += recovered.damages.len() as u64;
        promised = promised.max(store.promised());
        for file in store.file_numbers() {
            let visited = store.visit_live(file, &mut |mutation| {
                restored.key_count += 1;
                restored.payload_bytes += gridkv_cluster::mutation::payload_bytes(mutation) as u64;
                targets.write(mutation)
            });
            let directory = from.shard(index).display().to_string();
            visited.map_err(|source| OfflineError::Open { directory, source })??;
        }
        tracing::info!(
            shard = index,
            of = from.shard_count(),
            keys = restored.key_count,
            "restored"
        );
    }
    targets.close(promised)?;
    Ok(restored)
}

/// The shards of a directory that is being filled.
pub(super) struct Targets {
    shards: Vec<Target>,
    token_key: TokenKey,
}

impl Targets {
    pub(super) fn open(to: &Directory, method: SyncMethod) -> Result<Self, OfflineError> {
        let shards = (0..to.shard_count()).map(|index| Target::open(to, index, method));
        Ok(Self { shards: shards.collect::<Result<_, _>>()?, token_key: to.token_key() })
    }

    pub(super) fn write(&mut self, mutation: &Mutation<'_>) -> Result<(), OfflineError> {
        let token = self.token_key.token(mutation.key);
        let count = u16::try_from(self.shards.len()).expect("there are at most as many as slots");
        let shard = ShardRange::owner(token, count);
        self.shards[usize::from(shard.0)].write(token, mutation)
    }

    /// Has all shards promise what any of the source's had, and closes them: a shard of the one may
    /// have tokens of every shard of the other.
    pub(super) fn close(mut self, promised: Version) -> Result<(), OfflineError> {
        self.shards.iter_mut().try_for_each(|target| target.promise(promised))?;
        self.shards.iter_mut().try_for_each(Target::close)
    }
}

/// A shard that is being filled.
struct Target {
    store: FileStorage<DirectDisk>,
    directory: String,
}

impl Target {
    fn open(to: &Directory, index: u16, method: SyncMethod) -> Result<Self, OfflineError> {
        let path = to.shard(index);
        let directory = path.display().to_string();
        let opened = DirectDisk::open(&path, IoPort::new(), method);
        let disk =
            opened.map_err(|source| OfflineError::Disk { directory: directory.clone(), source })?;
        let range = ShardRange::new(index, to.shard_count());
        let opened =
            FileStorage::open(disk, setup(to, &path), &options(to, range), WallTime::EPOCH);
        match opened {
            Ok((store, _)) => Ok(Self { store, directory }),
            Err(source) => Err(OfflineError::Open { directory, source }),
        }
    }

    fn write(&mut self, token: Token, mutation: &Mutation<'_>) -> Result<(), OfflineError> {
        self.append(&mut |store| store.apply(token, mutation, WallTime::EPOCH).map(|_| ()))
    }

    fn promise(&mut self, through: Version) -> Result<(), OfflineError> {
        self.append(&mut |store| store.promise(through))
    }

    fn append(
        &mut self,
        append: &mut dyn FnMut(&mut FileStorage<DirectDisk>) -> Result<(), Error>,
    ) -> Result<(), OfflineError> {
        loop {
            match append(&mut self.store) {
                Ok(()) => break,
                Err(Error::Busy(_)) => self.wait(),
                Err(source) => {
                    let directory = self.directory.clone();
                    return Err(OfflineError::Write { directory, source });
                }
            }
        }
        self.store.turn(Instant::ZERO);
        Ok(())
    }

    fn wait(&mut self) {
        self.store.turn(Instant::ZERO);
        // Nothing under way is told as an error, and means that there is room.
        let _ = self.store.log.disk.wait();
        self.store.turn(Instant::ZERO);
        while self.store.poll_ready().is_some() {}
    }

    fn close(&mut self) -> Result<(), OfflineError> {
        self.store.close();
        if self.store.has_failed() {
            let directory = self.directory.clone();
            return Err(OfflineError::Write { directory, source: Error::LogFailed });
        }
        Ok(())
    }
}
