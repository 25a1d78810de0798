//! Reading a segment record by record, where its contents are not to be had.
//!
//! A scan finds every valid record, whatever lies between them, and says where there was something
//! else. What that something is, a torn tail or damage, is for [`recover`](super::recover) to judge:
//! it takes what other segments say.

use gridkv_cluster::{TokenKey, Version};

use super::format::{
    COMMIT_HEADER_BYTES, CommitHeader, DATA_START, Entry, GRANULE_BYTES, Kind, RECORD_HEADER_BYTES,
    Record, SegmentId, read_record,
};
use super::recover::fingerprint;
use crate::disk::BLOCK_BYTES;

/// Bytes that are not what was written there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hole {
    /// Where the commit begins in which it lies, or would lie.
    pub(super) commit_at: usize,
    /// Where it begins.
    pub(super) offset: usize,
    pub(super) bytes: usize,
    /// Whether a valid commit follows in the segment.
    pub(super) is_followed: bool,
}

/// What a segment holds.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// Its records, in order, each with the beginning of its commit.
    pub(super) entries: Vec<(usize, Entry)>,
    pub(super) holes: Vec<Hole>,
    /// Where the last valid commit ends.
    pub(super) end: usize,
    /// Valid commits, with their beginnings.
    pub(super) commits: Vec<(usize, u32)>,
    /// Up to where commits said that segments were durable.
    pub(super) claims: Vec<(SegmentId, u32)>,
    pub(super) version_max: Version,
    /// All segments before this one were sealed.
    pub(super) sealed_before: SegmentId,
    /// Whether there was a commit behind the end.
    pub(super) has_damaged_tail: bool,
}

/// Scans a segment, given from its first byte to where commits end at the latest.
pub(super) fn scan(segment: SegmentId, bytes: &[u8], token_key: &TokenKey) -> Scan {
    let mut scan = Scan { end: DATA_START, ..Scan::default() };
    let mut at = DATA_START;
    let mut hole: Option<usize> = None;
    let mut last_index = None;
    let mut last_commit_at = 0;
    while at + COMMIT_HEADER_BYTES <= bytes.len() {
        let header = CommitHeader::read(segment, &bytes[at..]).filter(|header| {
            at + header.bytes as usize <= bytes.len()
                && last_index.is_none_or(|last| header.index > last)
        });
        let Some(header) = header else {
            hole.get_or_insert(at);
            at += BLOCK_BYTES;
            continue;
        };
        if let Some(offset) = hole.take() {
            scan.holes.push(Hole {
                commit_at: offset,
                offset,
                bytes: at - offset,
                is_followed: true,
            });
        } else if last_index.map_or(0, |last| last + 1) != header.index {
            scan.holes.push(Hole { commit_at: at, offset: at, bytes: 0, is_followed: true });
        }
        last_index = Some(header.index);
        scan.commits.push((at, header.index));
        scan.claims.push(header.durable);
        scan.version_max = scan.version_max.max(header.version_max);
        scan.sealed_before = scan.sealed_before.max(header.sealed_before);
        let at_of_commit = at;
        let end = at + header.bytes as usize;
        scan_commit(segment, &bytes[..end], at, token_key, &mut scan);
        at = end.next_multiple_of(BLOCK_BYTES);
        scan.end = at;
        last_commit_at = at_of_commit;
    }
    let next_index = last_index.map_or(0, |last| last + 1);
    let tail = bytes.get(scan.end..).unwrap_or_default();
    scan.has_damaged_tail = CommitHeader::was(segment, next_index, tail);
    for hole in &mut scan.holes {
        hole.is_followed = hole.commit_at < last_commit_at || hole.bytes == 0;
    }
    scan
}

/// Visits the valid records of a segment with their offsets.
pub(super) fn scan_records(
    segment: SegmentId,
    bytes: &[u8],
    token_key: &TokenKey,
    visit: &mut dyn FnMut(usize, &Record<'_>),
) {
    for (_, entry) in scan(segment, bytes, token_key).entries {
        let offset = entry.offset as usize;
        if let Some(record) = read_record(segment, &bytes[offset..]) {
            visit(offset, &record);
        }
    }
}

fn scan_commit(
    segment: SegmentId,
    bytes: &[u8],
    commit_at: usize,
    token_key: &TokenKey,
    scan: &mut Scan,
) {
    let mut at = commit_at + COMMIT_HEADER_BYTES;
    let mut hole: Option<usize> = None;
    while at + RECORD_HEADER_BYTES <= bytes.len() {
        let Some(record) = read_record(segment, &bytes[at..]) else {
            hole.get_or_insert(at);
            at += GRANULE_BYTES;
            continue;
        };
        if let Some(offset) = hole.take() {
            scan.holes.push(Hole { commit_at, offset, bytes: at - offset, is_followed: false });
        }
        if record.header.kind != Kind::Promise {
            scan.version_max = scan.version_max.max(record.mutation.version);
        }
        scan.entries.push((commit_at, entry_of(&record, at, token_key)));
        at += record.bytes;
    }
    if let Some(offset) = hole {
        let bytes = bytes.len() - offset;
        scan.holes.push(Hole { commit_at, offset, bytes, is_followed: false });
    }
}

/// What the contents of a segment say of a record.
pub(super) fn entry_of(record: &Record<'_>, offset: usize, token_key: &TokenKey) -> Entry {
    let mutation = &record.mutation;
    Entry {
        token: token_key.token(mutation.key),
        fingerprint: fingerprint(token_key, mutation.key),
        version: mutation.version,
        expires_at: mutation.expires_at,
        kind: record.header.kind,
        // Contents have no room for that of a value, which covers nothing.
        origin: match record.header.kind {
            Kind::Value | Kind::Ended => SegmentId(0),
            _ => record.header.origin,
        },
        offset: u32::try_from(offset).expect("a segment has at most 64 MiB"),
        payload_bytes: u32::try_from(gridkv_cluster::mutation::payload_bytes(mutation))
            .expect("a record is in a segment"),
    }
}
