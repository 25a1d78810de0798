//! From the first bits of a position to its segment.
//!
//! A segment that is full splits by the next bit of its items' positions. Where most of them share
//! that bit, and more after it (the keys of one hash tag do), it splits by those too, at once: each
//! of the prefixes in between gets the few items that are its own. So a prefix that millions of keys
//! share costs some small segments, once; below it all is as anywhere else.
//!
//! A split descends [`JUMP_MAX`] bits at most, which bounds the memory that an insertion adds; it
//! goes on from there when the segment is full again. Items that share [`DEPTH_MAX`] bits stay in
//! one segment, which grows: tokens are keyed hashes, and that many bits are equal by chance for no
//! more than a few keys.

use super::chunks::{Chunks, Elements};
use super::segment::{Locator, Segment, Split};
use super::trie::Trie;

/// Segments of a chunk.
const CHUNK_LEN: usize = 64;
/// Longest prefix of a segment, in bits.
pub(super) const DEPTH_MAX: u8 = 48;
/// Bits by which a split makes a prefix longer at most: those of a hash tag, and some more.
pub(super) const JUMP_MAX: u8 = 16;

const _: () = assert!(DEPTH_MAX + 16 <= 64, "some bits are left to tell the homes of a segment");
const _: () = assert!(size_of::<Segment>() <= 48);

/// The segments of a table.
pub(super) struct Directory {
    trie: Trie,
    segments: Chunks<Segment, CHUNK_LEN>,
}

impl Directory {
    /// One segment without items.
    pub(super) fn new() -> Self {
        let mut segments = Chunks::new();
        segments.push(Segment::new(0));
        Self { trie: Trie::new(), segments }
    }

    /// The number of the segment of a position.
    #[inline]
    pub(super) fn index_of(&self, position: u64) -> u32 {
        self.trie.leaf(position)
    }

    #[inline]
    pub(super) fn segment(&self, index: u32) -> &Segment {
        self.segments.at(index)
    }

    #[inline]
    pub(super) fn segment_mut(&mut self, index: u32) -> &mut Segment {
        self.segments.at_mut(index)
    }

    /// How many segments there are; they are numbered from 0.
    pub(super) const fn segment_count(&self) -> u32 {
        self.segments.len()
    }

    /// All segments, by number, for good, and what pointed at them.
    pub(super) fn into_parts(self) -> (Trie, Elements<Segment>) {
        (self.trie, self.segments.into_elements())
    }

    /// Splits a segment that has items. Returns the memory of the arrays of those that are new, in
    /// bytes.
    pub(super) fn split(&mut self, index: u32, locator: &Locator) -> u64 {
        let depth = self.segment(index).depth();
        assert!(depth < DEPTH_MAX);
        let Split { path, given } = self.segment_mut(index).split(depth_max(depth), locator);
        let added_bytes = given.iter().map(Segment::array_bytes).sum();
        // The longest prefix first: each node of the trie takes its size at once.
        for segment in given.into_iter().rev() {
            let depth = segment.depth();
            let other = path ^ 1 << (64 - depth);
            let index = self.segments.push(segment);
            self.trie.set(other, depth, index);
        }
        added_bytes
    }

    /// Memory of the directory itself, in bytes.
    pub(super) const fn bytes(&self) -> u64 {
        self.trie.bytes() + self.segments.bytes()
    }

    /// A bound on the memory that a split of the segment of a position adds to the directory
    /// itself, in bytes.
    pub(super) fn growth_bytes_max(&self, position: u64) -> u64 {
        let depth = depth_max(self.segment(self.index_of(position)).depth());
        self.trie.growth_bytes_max(position, depth)
            + self.segments.growth_bytes_max(usize::from(JUMP_MAX))
    }
}

/// The depth that a split of a segment of depth `depth` reaches at most.
const fn depth_max(depth: u8) -> u8 {
    if depth + JUMP_MAX < DEPTH_MAX { depth + JUMP_MAX } else { DEPTH_MAX }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Directory {
        pub(in crate::table) fn assert_invariants(&self) {
            self.trie.assert_invariants();
        }

        pub(in crate::table) fn node_len_max(&self) -> usize {
            self.trie.node_len_max()
        }
    }
}
