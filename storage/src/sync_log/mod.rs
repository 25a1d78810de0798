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

use gridkv_cluster::replication::Excerpt;
use rkyv::util::AlignedVec;

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

impl SyncReader {
    /// The entries from number `from` on, as many as a coordinator feeds a peer at a time. Those that
    /// were overwritten are counted.
    #[must_use]
    pub fn excerpt(&self, from: u64) -> Excerpt {
        let mut excerpt = Excerpt { next: from, ..Excerpt::default() };
        let mut entry = AlignedVec::new();
        while excerpt.entries.len() < Excerpt::COUNT_MAX {
            match self.read(Sequence(excerpt.next), &mut entry) {
                Read::Entry { next, .. } => {
                    excerpt.entries.push(std::mem::take(&mut entry));
                    excerpt.next = next.0;
                }
                Read::End => {
                    excerpt.is_last = true;
                    break;
                }
                Read::Overrun { oldest } => {
                    excerpt.lost_count += oldest.0 - excerpt.next;
                    excerpt.next = oldest.0;
                }
            }
        }
        excerpt
    }
}
