//! From the first bits of a position to a number: a radix tree that is deep only where the
//! positions crowd.
//!
//! ```text
//!   position   001010100101 11010011 10...
//!              | root, 12 | node, 8 | node, 8 ...
//!
//!   root   [ leaf 0 | leaf 0 | node | leaf 7 | ... ]      a leaf of fewer bits than its node has a
//!                                |                        run of entries
//!                                +--> [ leaf 4 | leaf 5 ]
//! ```
//!
//! Each node has as many entries as its deepest leaf needs: it doubles up to its bound, then gets
//! nodes below it. So what a new leaf copies is one node, 16 KiB at most, and a dozen times on the
//! way to a million leaves the list of the nodes below the root, 200 KiB at most, however many
//! positions share their first bits.
//!
//! # Invariants
//!
//! - The entries of a leaf are a run as long as a power of two, aligned to its length.
//! - Only a node of the most bits has nodes below it: each stands at one entry.
//!
//! # Why the root is larger
//!
//! Positions that are spread evenly need no second node until there are thousands of leaves, and no
//! third until there are a million. The nodes below stay small, since a crowd makes some that have
//! few leaves.

#[cfg(test)]
mod tests;

use super::chunks::list_bytes;

/// First bits of a position that the root tells apart at most.
const ROOT_BITS_MAX: u32 = 12;
/// Further bits that each node below does.
const NODE_BITS_MAX: u32 = 8;
/// Marks the entry of a node.
const NODE: u32 = 1 << 31;

/// What has a prefix: a leaf, or a node below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry(u32);

impl Entry {
    fn of_leaf(leaf: u32) -> Self {
        assert!(leaf < NODE);
        Self(leaf)
    }

    fn of_child(child: usize) -> Self {
        Self(NODE | u32::try_from(child).expect("a node has few children"))
    }

    /// Which of the node's children it is, if it is none of the leaves.
    #[inline]
    const fn child(self) -> Option<usize> {
        if self.0 & NODE == 0 { None } else { Some((self.0 & !NODE) as usize) }
    }
}

/// An entry for each value of the next few bits.
struct Node {
    /// Two at least, a power of two.
    entries: Box<[Entry]>,
    /// What shifts the bits of the node down.
    shift: u32,
    children: Vec<Self>,
}

impl Node {
    /// A node of `bits` bits that belong to one leaf.
    fn new(bits: u32, leaf: Entry) -> Self {
        assert!(bits > 0, "a node tells something apart");
        let entries = vec![leaf; 1 << bits].into_boxed_slice();
        Self { entries, shift: 64 - bits, children: Vec::new() }
    }

    const fn bits(&self) -> u32 {
        64 - self.shift
    }

    #[inline]
    const fn entry(&self, rest: u64) -> Entry {
        self.entries[(rest >> self.shift) as usize]
    }

    /// Memory of the node itself, in bytes.
    const fn bytes(&self) -> u64 {
        list_bytes::<Entry>(self.entries.len()) + list_bytes::<Self>(self.children.capacity())
    }

    /// Memory of the node and of all below it, in bytes.
    fn bytes_below(&self) -> u64 {
        self.bytes() + self.children.iter().map(Self::bytes_below).sum::<u64>()
    }

    /// Sees to it that the node tells `bits` bits apart.
    fn widen(&mut self, bits: u32) {
        if bits <= self.bits() {
            return;
        }
        assert!(self.children.is_empty(), "a node with nodes below it has its most bits");
        let run = 1 << (bits - self.bits());
        let repeated = |entry: &Entry| std::iter::repeat_n(*entry, run);
        self.entries = self.entries.iter().flat_map(repeated).collect();
        self.shift = 64 - bits;
        assert_eq!(self.entries.len(), 1 << bits);
    }

    /// Gives `leaf` the run of the first `bits` bits, which were another leaf's.
    fn fill(&mut self, rest: u64, bits: u32, leaf: Entry) {
        let run = 1_usize << (self.bits() - bits);
        let first = (rest >> self.shift) as usize & !(run - 1);
        let entries = &mut self.entries[first..first + run];
        let before = entries[0];
        assert!(before.child().is_none());
        assert!(entries.iter().all(|entry| *entry == before), "a run belongs to one leaf");
        entries.fill(leaf);
    }

    /// The node below, made from the leaf that was there, if there was one, with `bits` bits.
    fn child(&mut self, rest: u64, bits: u32) -> &mut Self {
        let at = (rest >> self.shift) as usize;
        let child = match self.entries[at].child() {
            Some(child) => child,
            None => {
                self.children.push(Self::new(bits, self.entries[at]));
                self.children.len() - 1
            }
        };
        self.entries[at] = Entry::of_child(child);
        &mut self.children[child]
    }
}

/// A number for each position; those of one prefix have the same.
pub(crate) struct Trie {
    root: Node,
    bytes: u64,
}

impl Trie {
    /// Leaf 0 at all positions.
    pub(crate) fn new() -> Self {
        let root = Node::new(1, Entry::of_leaf(0));
        let bytes = root.bytes();
        Self { root, bytes }
    }

    /// The leaf of a position.
    #[inline]
    pub(crate) fn leaf(&self, position: u64) -> u32 {
        let mut node = &self.root;
        let mut entry = node.entry(position);
        let mut rest = position << ROOT_BITS_MAX;
        while let Some(child) = entry.child() {
            node = &node.children[child];
            entry = node.entry(rest);
            rest <<= NODE_BITS_MAX;
        }
        entry.0
    }

    /// Gives a leaf all positions that begin with the same `depth` bits as `position`. They must
    /// have belonged to one leaf, of those bits or of fewer.
    pub(crate) fn set(&mut self, position: u64, depth: u8, leaf: u32) {
        let leaf = Entry::of_leaf(leaf);
        let (mut node, mut bytes) = (&mut self.root, self.bytes);
        let (mut rest, mut left, mut bits_max) = (position, u32::from(depth), ROOT_BITS_MAX);
        while left > bits_max {
            bytes -= node.bytes();
            node.widen(bits_max);
            let child_count = node.children.len();
            node.child(rest, (left - bits_max).min(NODE_BITS_MAX));
            bytes += node.bytes();
            let is_new = node.children.len() > child_count;
            node = node.child(rest, NODE_BITS_MAX);
            bytes += if is_new { node.bytes() } else { 0 };
            (rest, left, bits_max) = (rest << bits_max, left - bits_max, NODE_BITS_MAX);
        }
        bytes -= node.bytes();
        node.widen(left);
        node.fill(rest, left, leaf);
        self.bytes = bytes + node.bytes();
    }

    /// A bound on the memory that leaves of at most `depth` bits add, in bytes, where they take
    /// from the leaf of `position`.
    pub(crate) fn growth_bytes_max(&self, position: u64, depth: u8) -> u64 {
        let mut node = &self.root;
        let (mut rest, mut left, mut bits_max) = (position, u32::from(depth), ROOT_BITS_MAX);
        while let Some(child) = node.entry(rest).child() {
            node = &node.children[child];
            (rest, left, bits_max) =
                (rest << bits_max, left.saturating_sub(bits_max), NODE_BITS_MAX);
        }
        let bits = left.min(bits_max);
        let mut bytes = if bits > node.bits() { list_bytes::<Entry>(1 << bits) } else { 0 };
        let mut capacity = node.children.capacity();
        while left > bits_max {
            (left, bits_max) = (left - bits_max, NODE_BITS_MAX);
            bytes += list_bytes::<Node>((capacity + 4) * 2);
            bytes += list_bytes::<Entry>(1 << left.min(NODE_BITS_MAX));
            capacity = 0;
        }
        bytes
    }

    /// Memory of the trie, in bytes.
    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Frees a node and what is below it, which takes its positions from the trie. Returns whether
    /// only the root is left.
    pub(crate) fn shed(&mut self) -> bool {
        if let Some(node) = self.root.children.pop() {
            self.bytes -= node.bytes_below();
        }
        self.root.children.is_empty()
    }
}
