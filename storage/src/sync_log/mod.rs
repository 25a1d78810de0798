//! The sync log: the latest mutations of a shard, for those who bring other replicas up to date.
//!
//! The shard's core pushes each mutation that it has applied; any number of readers, on other
//! threads, go through them at their own pace. Nothing is allocated for an entry, and nobody waits
//! for anybody: the newest overwrites the oldest, and a reader that was overtaken is told. What it
//! has missed it has to find out by comparing.
//!
//! An entry is the archive of a mutation, and is read into a buffer in which
//! [`gridkv_cluster::mutation::access`] works in place. The log takes the bytes as they are, and
//! numbers them from 1.

mod ring;

#[cfg(test)]
mod loom;
#[cfg(test)]
mod tests;

pub use self::ring::{Read, Sequence, SyncLog, SyncReader};

/// The least size of a log.
const BYTES_MIN: usize = 64 << 10;
const WORD_BYTES: usize = size_of::<u64>();
/// One place in the index for so many words: hardly an archive is shorter.
const WORDS_PER_SLOT: usize = 8;

/// What the ring is made of: in its checks with `loom`, that crate's.
mod sync {
    pub(super) use std::sync::Arc;
    pub(super) use std::sync::atomic::{AtomicU64, Ordering, fence};
}

/// An empty log of `bytes` bytes, rounded up to a power of two and to at least 64 KiB. Its index
/// takes an eighth of that besides.
#[must_use]
pub fn sync_log(bytes: usize) -> (SyncLog, SyncReader) {
    let word_count = bytes.max(BYTES_MIN).next_power_of_two() / WORD_BYTES;
    let log = SyncLog::new(word_count, word_count / WORDS_PER_SLOT);
    let reader = log.reader();
    (log, reader)
}
