//! Directories of the formats before, for moving them: what `gridkv restore` reads.
//!
//! ```text
//!  0         4096                                          segment_bytes
//!  +---------+--------+--------+-- ... --+--------+- - - - -+----------+---------+
//!  | segment | commit | commit |         | commit |         | contents | trailer |
//!  | header  |        |        |         |        |         |          |         |
//!  +---------+--------+--------+-- ... --+--------+- - - - -+----------+---------+
//!
//!  record, begins at a granule      0        8        12       16       20       24
//!  of 16 bytes                      +--------+--------+--------+--------+--------+-----------
//!                                   | check- | archive| se-    | key len| origin | archived
//!                                   | sum    | bytes  | quence | | kind |        | mutation
//!                                   +--------+--------+--------+--------+--------+-----------
//! ```
//!
//! Commits are those of today. Format 1 knows no promises, and is else the same as format 2.
//!
//! # How it is moved
//!
//! Every file is read twice: first for the newest version of each key, then for the values of these.
//! Contents, index and checkpoint are passed over: what a record says of itself is enough, wherever it
//! is, so files of any size are moved, those too that were larger than their own format could hold.
//! Commits that were under way when the log ended count where their records are whole.

use std::collections::HashMap;

use gridkv_cluster::mutation::payload_bytes;
use gridkv_cluster::{Mutation, NodeId, Timestamp, Version, WallTime};
use rkyv::rancor;
use rkyv::with::{InlineAsBox, Map};
use rkyv::{Archive, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::format::{
    COMMIT_HEADER_BYTES, CommitHeader, SegmentId, checksum, u32_at, u64_at, version_at,
};
use super::offline::{OfflineError, Restored, Targets};
use crate::directory::{Directory, OldDirectory};
use crate::disk::{BLOCK_BYTES, Buffer, DirectDisk, Disk, FileId, IoPort, SyncMethod};
use crate::file::survey::read;

const GRANULE_BYTES: usize = 16;
const RECORD_HEADER_BYTES: usize = 24;
const MAGIC: u64 = u64::from_le_bytes(*b"GridKVsg");
/// Size of the segment's header in formats 1 and 2.
const HEADER_BYTES: [usize; 2] = [64, 80];

/// The archived layout of a mutation.
#[derive(Archive, Serialize)]
#[rkyv(archived = Archived)]
#[expect(dead_code, reason = "it is read, and written no more")]
struct Layout<'a> {
    timestamp: u64,
    node: u16,
    expires_at_ms: Option<u64>,
    #[rkyv(with = InlineAsBox)]
    key: &'a [u8],
    #[rkyv(with = Map<InlineAsBox>)]
    value: Option<&'a [u8]>,
}

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Promise,
    Value,
    Tombstone,
    Clear,
}

impl Kind {
    const fn of(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Promise),
            1 => Some(Self::Value),
            2 => Some(Self::Tombstone),
            3 => Some(Self::Clear),
            _ => None,
        }
    }
}

/// Which segment a file is, and what was promised when it was begun.
fn segment_of(block: &[u8]) -> Option<(SegmentId, Version)> {
    let format = u32_at(block, 16) as usize;
    let bytes = *HEADER_BYTES.get(format.checked_sub(1)?)?;
    let is_valid = u64_at(block, 8) == MAGIC && u64_at(block, 0) == xxh3_64(&block[8..bytes]);
    let segment = u32_at(block, 20);
    // Zeros in format 1.
    let promised = version_at(block, 56);
    (is_valid && segment != u32::MAX).then_some((SegmentId(segment), promised))
}

/// The record at the beginning of `bytes`, which are aligned to eight, with its size.
fn read_record(segment: SegmentId, bytes: &[u8]) -> Option<(Kind, Mutation<'_>, usize)> {
    let header = bytes.get(..RECORD_HEADER_BYTES)?;
    let end = RECORD_HEADER_BYTES.checked_add(u32_at(header, 8) as usize)?;
    let whole = bytes.get(..end)?;
    if u64_at(header, 0) != checksum(&whole[8..], segment) {
        return None;
    }
    let kind = Kind::of((u32_at(header, 16) >> 24) as u8)?;
    let archive = &whole[RECORD_HEADER_BYTES..];
    let archived = rkyv::access::<Archived<'_>, rancor::Error>(archive).ok()?;
    let mutation = Mutation {
        key: archived.key.get(),
        value: archived.value.as_ref().map(|value| value.get()),
        version: Version {
            timestamp: Timestamp(archived.timestamp.to_native()),
            node: NodeId(archived.node.to_native()),
        },
        expires_at: archived
            .expires_at_ms
            .as_ref()
            .map(|millis| WallTime::from_millis(millis.to_native())),
    };
    let is_consistent = mutation.value.is_some() == (kind == Kind::Value);
    is_consistent.then_some((kind, mutation, end.next_multiple_of(GRANULE_BYTES)))
}

/// Visits the valid records of a segment. Returns how many places hold none although a commit follows.
fn visit(
    segment: SegmentId,
    bytes: &[u8],
    see: &mut dyn FnMut(Kind, &Mutation<'_>) -> Result<(), OfflineError>,
) -> Result<u64, OfflineError> {
    let (mut damaged_count, mut suspect_count) = (0, 0);
    let mut at = BLOCK_BYTES;
    while at + COMMIT_HEADER_BYTES <= bytes.len() {
        let header = CommitHeader::read(segment, &bytes[at..]);
        let header = header.filter(|header| at + header.bytes as usize <= bytes.len());
        let Some(header) = header else {
            at += BLOCK_BYTES;
            continue;
        };
        damaged_count += std::mem::take(&mut suspect_count);
        let end = at + header.bytes as usize;
        let mut record_at = at + COMMIT_HEADER_BYTES;
        let mut is_hole = false;
        while record_at < end {
            if let Some((kind, mutation, len)) = read_record(segment, &bytes[record_at..end]) {
                see(kind, &mutation)?;
                record_at += len;
                is_hole = false;
            } else {
                suspect_count += u64::from(!is_hole);
                is_hole = true;
                record_at += GRANULE_BYTES;
            }
        }
        at = end.next_multiple_of(BLOCK_BYTES);
    }
    Ok(damaged_count)
}

/// The newest that is known of a key.
struct Newest {
    version: Version,
    is_value: bool,
}

/// What a shard holds, by its records.
#[derive(Default)]
struct Shard {
    newest: HashMap<u128, Newest>,
    cleared: Version,
    promised: Version,
    damaged_count: u64,
}

impl Shard {
    fn note(&mut self, cut: Timestamp, kind: Kind, mutation: &Mutation<'_>) {
        let Mutation { key, version, .. } = *mutation;
        match kind {
            // Also beyond the cut: to have promised more does no harm.
            Kind::Promise => self.promised = self.promised.max(version),
            _ if version.timestamp > cut => {}
            Kind::Clear => self.cleared = self.cleared.max(version),
            Kind::Value | Kind::Tombstone => {
                let is_value = kind == Kind::Value;
                let newest = self.newest.entry(xxh3_128(key));
                let newest = newest.or_insert(Newest { version: Version::ZERO, is_value: false });
                if version > newest.version {
                    *newest = Newest { version, is_value };
                }
            }
        }
    }

    /// Whether a value is what its key has, asked for the first time.
    fn takes(&mut self, kind: Kind, mutation: &Mutation<'_>) -> bool {
        if kind != Kind::Value || mutation.version <= self.cleared {
            return false;
        }
        let newest = self.newest.get_mut(&xxh3_128(mutation.key));
        // A record that was moved may be there twice.
        newest.is_some_and(|newest| {
            newest.version == mutation.version && std::mem::take(&mut newest.is_value)
        })
    }
}

/// Fills a new directory with what one of a format before holds.
///
/// # Errors
///
/// [`OfflineError`]; the new directory is of no use then.
pub fn restore_old(
    from: &OldDirectory,
    to: &Directory,
    method: SyncMethod,
) -> Result<Restored, OfflineError> {
    let mut targets = Targets::open(to, method)?;
    let mut restored = Restored::default();
    let mut promised = Version::ZERO;
    for index in 0..from.shard_count() {
        let path = from.shard(index);
        let directory = path.display().to_string();
        let disk = DirectDisk::open(&path, IoPort::new(), SyncMethod::Dsync);
        let mut disk =
            disk.map_err(|source| OfflineError::Disk { directory: directory.clone(), source })?;
        let mut shard = Shard::default();
        each_segment(&mut disk, &directory, &mut |segment, begun, bytes| {
            shard.promised = shard.promised.max(begun);
            let damaged = visit(segment, bytes, &mut |kind, mutation| {
                shard.note(from.cut(), kind, mutation);
                Ok(())
            })?;
            shard.damaged_count += damaged;
            Ok(())
        })?;
        each_segment(&mut disk, &directory, &mut |segment, _, bytes| {
            visit(segment, bytes, &mut |kind, mutation| {
                if !shard.takes(kind, mutation) {
                    return Ok(());
                }
                restored.key_count += 1;
                restored.payload_bytes += payload_bytes(mutation) as u64;
                targets.write(mutation)
            })
            .map(|_| ())
        })?;
        promised = promised.max(shard.promised);
        restored.damaged_count += shard.damaged_count;
        tracing::info!(shard = index, of = from.shard_count(), keys = restored.key_count, "moved");
    }
    targets.close(promised)?;
    Ok(restored)
}

/// What is done with a segment: its number, what had been promised when it was begun, its bytes.
type See<'a> = &'a mut dyn FnMut(SegmentId, Version, &Buffer) -> Result<(), OfflineError>;

fn each_segment<D: Disk>(disk: &mut D, directory: &str, see: See<'_>) -> Result<(), OfflineError> {
    let failed = |source| OfflineError::Open { directory: directory.to_owned(), source };
    for (file, bytes) in disk.files() {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX) / BLOCK_BYTES * BLOCK_BYTES;
        if file == FileId::CHECKPOINT || bytes < BLOCK_BYTES {
            continue;
        }
        let block = read(disk, file, 0, BLOCK_BYTES).map_err(failed)?;
        if let Some((segment, promised)) = segment_of(&block) {
            let whole = read(disk, file, 0, bytes).map_err(failed)?;
            see(segment, promised, &whole)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::tests::fixture;

    /// What the fixtures of formats 1 and 2 hold; the first knows no promises.
    #[test]
    fn what_a_directory_of_each_format_before_held_is_found() {
        for (format, promised) in [(1, 0), (2, 40)] {
            let mut disk = fixture(format);
            let mut shard = Shard::default();
            let (mut values, mut record_count) = (Vec::new(), 0);
            each_segment(&mut disk, "simulated", &mut |segment, begun, bytes| {
                shard.promised = shard.promised.max(begun);
                let damaged = visit(segment, bytes, &mut |kind, mutation| {
                    record_count += 1;
                    shard.note(Timestamp(u64::MAX), kind, mutation);
                    Ok(())
                })?;
                assert_eq!(damaged, 0);
                Ok(())
            })
            .unwrap();
            each_segment(&mut disk, "simulated", &mut |segment, _, bytes| {
                visit(segment, bytes, &mut |kind, mutation| {
                    if shard.takes(kind, mutation) {
                        let key =
                            String::from_utf8_lossy(&mutation.key[..5.min(mutation.key.len())]);
                        values.push((mutation.version.timestamp.0, key.into_owned()));
                    }
                    Ok(())
                })
                .map(|_| ())
            })
            .unwrap();
            values.sort();
            let keys = [(3, "value"), (6, "expir")];
            assert_eq!(values[..2], keys.map(|(number, key)| (number, key.to_owned())));
            let numbers: Vec<u64> = values.iter().map(|(number, _)| *number).collect();
            assert_eq!(numbers, [3, 6, 7, 8, 9, 11], "what was cleared or deleted stays away");
            assert_eq!(shard.promised.timestamp.0, promised);
            assert_eq!(record_count, 11 + u64::from(promised > 0));
        }
    }
}
