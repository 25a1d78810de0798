//! Where each key's record is, and what is needed to know without reading it.
//!
//! The keys themselves are on disk. The index tells them apart by 92 bits: the key's position in
//! the shard, which is its token, and 28 bits of a second hash whose seed is a secret of the
//! directory. Keys of one hash tag share 14 of them, and still some two of ten million are taken for
//! one with a chance below 1 to 10^9, which is less than that of an error in the memory they stand
//! in; a lookup compares the key it has read. See [`entry`] for the numbers.
//!
//! As in the [table](crate::table), the first bits of a position choose a part through a
//! [trie](crate::table::trie), and a part that is full splits in two by the first bit in which its
//! positions differ; prefixes that this passes over get parts without entries. So millions of
//! positions that begin alike cost what others do. Walking the index is walking in token order.
//!
//! A part that splits is all that a new entry moves. An index that is cleared is freed in steps.

mod dump;
mod entry;
mod part;

#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::collections::VecDeque;

use gridkv_cluster::{Timestamp, Version, WallTime};

pub(crate) use self::dump::Dumped;
pub(crate) use self::entry::{FILE_COUNT_MAX, Ident, Known, Place};
use self::entry::{ROOT_BITS, Sort};
use self::part::{ENTRY_COUNT_MAX, Part};
use crate::table::chunks::{Chunks, Elements};
use crate::table::trie::Trie;

/// Longest prefix of a part, in bits. Positions that share more are those of keys that share a
/// token but for a few bits, by chance no more than two; they make a part grow.
const DEPTH_MAX: u8 = 48;
/// Parts of a chunk.
const CHUNK_LEN: usize = 64;

/// Positions that [`Index::prefetch`] handles in one go.
const PREFETCH_BATCH: usize = 32;

/// What an entry that is due takes off a search's budget: it has to be taken out of its part, and
/// what the store does with it costs more than to look at some that are not due.
const FOUND_COST: usize = 8;

const _: () = assert!(size_of::<Part>() <= 72);

/// Sums over all entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) key_count: u64,
    pub(crate) expiring_key_count: u64,
    pub(crate) tombstone_count: u64,
    /// Bytes of the keys and values, tombstones excepted.
    pub(crate) payload_bytes: u64,
}

impl Totals {
    fn add(&mut self, known: &Known) {
        self.key_count += u64::from(!known.is_tombstone);
        self.expiring_key_count += u64::from(known.can_expire());
        self.tombstone_count += u64::from(known.is_tombstone);
        self.payload_bytes += if known.is_tombstone { 0 } else { u64::from(known.payload_bytes) };
    }

    fn subtract(&mut self, known: &Known) {
        self.key_count -= u64::from(!known.is_tombstone);
        self.expiring_key_count -= u64::from(known.can_expire());
        self.tombstone_count -= u64::from(known.is_tombstone);
        self.payload_bytes -= if known.is_tombstone { 0 } else { u64::from(known.payload_bytes) };
    }
}

/// The index of a shard.
pub(crate) struct Index {
    trie: Trie,
    parts: Chunks<Part, CHUNK_LEN>,
    totals: Totals,
    part_bytes: u64,
    /// At least the largest timestamp.
    timestamp_max: Timestamp,
    /// The number of the part at which the search for what is due goes on.
    sweep: u32,
    /// The part that was searched last, and where the search ended: what is changed was mostly looked
    /// for just before.
    latest: Cell<(u32, usize)>,
    /// What was cleared, the oldest first.
    leaving: VecDeque<Leaving>,
}

/// An index that was cleared, and is freed part by part.
struct Leaving {
    trie: Trie,
    parts: Elements<Part>,
    /// Memory of the list of parts.
    list_bytes: u64,
    /// Memory of the parts that are left.
    part_bytes: u64,
}

impl Leaving {
    const fn bytes(&self) -> u64 {
        self.trie.bytes() + self.list_bytes + self.part_bytes
    }

    /// Frees one part, or a node of the trie. Returns whether nothing is left.
    fn step(&mut self) -> bool {
        if let Some(part) = self.parts.next() {
            self.part_bytes -= part.bytes();
            return false;
        }
        assert_eq!(self.part_bytes, 0, "all memory of a cleared index was counted");
        self.trie.shed()
    }
}

impl Index {
    /// An index without entries.
    pub(crate) fn new() -> Self {
        let mut index = Self::without_parts();
        for root in 0..1_u64 << ROOT_BITS {
            let position = root << (64 - ROOT_BITS);
            index.add(position, Part::new(position, ROOT_BITS as u8));
        }
        index
    }

    fn without_parts() -> Self {
        Self {
            trie: Trie::new(),
            parts: Chunks::new(),
            totals: Totals::default(),
            part_bytes: 0,
            timestamp_max: Timestamp::ZERO,
            sweep: 0,
            latest: Cell::new((0, 0)),
            leaving: VecDeque::new(),
        }
    }

    /// Adds a part for the positions that begin as `position`, which one part had.
    fn add(&mut self, position: u64, part: Part) {
        self.part_bytes += part.bytes();
        let depth = part.depth();
        let number = self.parts.push(part);
        self.trie.set(position, depth, number);
    }

    fn part(&self, position: u64) -> &Part {
        self.parts.at(self.trie.leaf(position))
    }

    /// What is known of a key.
    #[inline]
    pub(crate) fn find(&self, ident: Ident) -> Option<Known> {
        let number = self.trie.leaf(ident.position);
        let part = self.parts.at(number);
        let found = part.search(Sort::of(ident));
        let (Ok(at) | Err(at)) = found;
        self.latest.set((number, at));
        found.ok().map(|at| part.known(at))
    }

    /// The place in a part of what is to be changed, or where it would be.
    fn search(&self, number: u32, sort: Sort) -> Result<usize, usize> {
        let part = self.parts.at(number);
        match self.latest.get() {
            (latest, at) if latest == number => part.search_from(at, sort),
            _ => part.search(sort),
        }
    }

    /// Brings what searches at positions touch into the processor's cache. A hint.
    pub(crate) fn prefetch(&self, positions: impl IntoIterator<Item = u64>) {
        let mut positions = positions.into_iter().peekable();
        while positions.peek().is_some() {
            let mut guesses = [None; PREFETCH_BATCH];
            for (guess, position) in guesses.iter_mut().zip(&mut positions) {
                let part = self.part(position);
                *guess = Some((part, part.prefetch_first(position), position));
            }
            for (part, guess, position) in guesses.into_iter().flatten() {
                part.prefetch_second(guess, position);
            }
        }
    }

    /// Sets what is known of a key. Returns what was.
    pub(crate) fn put(&mut self, ident: Ident, known: &Known) -> Option<Known> {
        let sort = Sort::of(ident);
        let mut number = self.trie.leaf(ident.position);
        let mut found = self.search(number, sort);
        if found.is_err() {
            while splits(self.parts.at(number)) {
                self.split(number);
                number = self.trie.leaf(ident.position);
                found = self.parts.at(number).search(sort);
            }
        }
        self.timestamp_max = self.timestamp_max.max(known.version.timestamp);
        let part = self.parts.at_mut(number);
        self.part_bytes -= part.bytes();
        let before = match found {
            Ok(at) => {
                let before = part.known(at);
                part.overwrite(at, known);
                self.totals.subtract(&before);
                Some(before)
            }
            Err(at) => {
                part.insert(at, sort, known);
                None
            }
        };
        self.part_bytes += part.bytes();
        self.totals.add(known);
        before
    }

    /// A bound on what a new key at a position adds to the memory of the index, in bytes, but for what
    /// an entry has no room for.
    pub(crate) fn growth_bytes_max(&self, position: u64) -> u64 {
        let part = self.part(position);
        if !splits(part) {
            return part.growth_bytes();
        }
        let depth = u8::try_from(part.split_depth()).expect("a part that splits is not that deep");
        let count = usize::from(depth - part.depth());
        // Two arrays have more to round up than one, and one of them gets an entry.
        let rounding = part.bytes() / 2;
        self.trie.growth_bytes_max(position, depth) + self.parts.growth_bytes_max(count) + rounding
    }

    /// Points a key's entry elsewhere, if it still points at `from`.
    pub(crate) fn relocate(&mut self, ident: Ident, from: Place, to: Place) -> bool {
        let number = self.trie.leaf(ident.position);
        let found = self.search(number, Sort::of(ident));
        let part = self.parts.at_mut(number);
        match found {
            Ok(at) if part.entries()[at].place() == from => {
                part.set_place(at, to);
                true
            }
            _ => false,
        }
    }

    /// Forgets a key. Returns what was known.
    pub(crate) fn remove(&mut self, ident: Ident) -> Option<Known> {
        let number = self.trie.leaf(ident.position);
        let at = self.search(number, Sort::of(ident)).ok()?;
        let part = self.parts.at_mut(number);
        let known = part.known(at);
        self.part_bytes -= part.bytes();
        part.remove(at);
        self.part_bytes += part.bytes();
        self.totals.subtract(&known);
        Some(known)
    }

    /// Splits a part in two. Where its positions share more bits than its prefix has, the prefixes
    /// between get parts without entries.
    fn split(&mut self, number: u32) {
        let part = self.parts.at_mut(number);
        let (before, inside) = (part.depth(), part.ident(0).position);
        self.part_bytes -= part.bytes();
        let upper = part.split();
        self.part_bytes += part.bytes();
        let depth = upper.depth();
        // The longest prefix first: each node of the trie takes its size at once.
        self.add(inside | last_bit(depth), upper);
        for depth in (before + 1..depth).rev() {
            let other = inside ^ last_bit(depth);
            self.add(other, Part::new(other, depth));
        }
    }

    /// Visits entries in order of their position, from `from` on, until about `budget` were looked
    /// at; always whole parts. Returns where to go on; `None` at the end.
    pub(crate) fn walk(
        &self,
        from: u64,
        budget: usize,
        visit: &mut dyn FnMut(Ident, Known),
    ) -> Option<u64> {
        let mut position = from;
        let mut looked_at = 0;
        loop {
            let part = self.part(position);
            let start = Sort::of(Ident { position, fingerprint: 0 });
            let first = part.search(start).unwrap_or_else(|at| at);
            for at in first..part.len() {
                visit(part.ident(at), part.known(at));
            }
            looked_at += part.len() - first + 1;
            position = part.end(position);
            if position == 0 {
                return None;
            }
            if looked_at >= budget {
                return Some(position);
            }
        }
    }

    /// The entry at a place drawn at random by `part_choice` and `choice`; `None` where that place is
    /// empty. All entries are as likely, wherever positions crowd: parts have one chance each, and
    /// those with few entries mostly miss it.
    pub(crate) fn draw(&self, part_choice: u64, choice: u64) -> Option<(Ident, Known)> {
        let part = self.parts.at(self.part_at_random(part_choice));
        let at = usize::try_from(choice % part.len().max(ENTRY_COUNT_MAX) as u64).ok()?;
        (at < part.len()).then(|| (part.ident(at), part.known(at)))
    }

    /// The number of a part, each as likely.
    fn part_at_random(&self, choice: u64) -> u32 {
        let product = u128::from(choice) * u128::from(self.parts.len());
        u32::try_from(product >> 64).expect("a product with a fraction is below the count")
    }

    /// An entry that `accept`s, in a run of at most `budget` parts that `part_choice` draws at
    /// random: from the entry on that `choice` draws, and round, `budget` entries at most. So where
    /// the run is the whole index, and nothing is refused, all are as likely.
    pub(crate) fn entry_from(
        &self,
        part_choice: u64,
        choice: u64,
        budget: usize,
        accept: impl Fn(&Known) -> bool,
    ) -> Option<(Ident, Known)> {
        let (first, count) = (self.part_at_random(part_choice), self.parts.len());
        let numbers = (first..count).chain(0..first).take(budget);
        let parts: Vec<&Part> = numbers.map(|number| self.parts.at(number)).collect();
        let entry_count: usize = parts.iter().map(|part| part.len()).sum();
        let mut skipped = usize::try_from(choice.checked_rem(entry_count as u64)?).ok()?;
        let mut left = budget.min(entry_count);
        for part in parts.iter().chain(&parts) {
            for at in skipped..part.len().min(skipped.saturating_add(left)) {
                left -= 1;
                let known = part.known(at);
                if accept(&known) {
                    return Some((part.ident(at), known));
                }
            }
            skipped = skipped.saturating_sub(part.len());
        }
        None
    }

    /// A key that is due, looking at about `budget` entries and taking that many off it, and
    /// [`FOUND_COST`] for the key. Calls go round the whole index.
    pub(crate) fn next_due(&mut self, budget: &mut usize, now: WallTime) -> Option<Ident> {
        if self.totals.expiring_key_count == 0 {
            return None;
        }
        while *budget > 0 {
            let number = self.sweep % self.parts.len();
            let part = self.parts.at_mut(number);
            let due_count = part.due_count(now);
            if due_count > 0
                && let Some(ident) = part.due(now)
            {
                *budget = budget.saturating_sub(FOUND_COST);
                return Some(ident);
            }
            *budget = budget.saturating_sub(1 + due_count);
            self.sweep = number + 1;
        }
        None
    }

    /// Forgets everything whose version is at most `version`. Returns what is left, which is all
    /// that was looked at. What is forgotten stays in memory until [`Index::free_some`] comes to it.
    ///
    /// Only parts in which something may be newer are looked into, and none where nothing is.
    pub(crate) fn clear(&mut self, version: Version) -> Vec<(Ident, Known)> {
        let mut before = std::mem::replace(self, Self::new());
        let mut left = Vec::new();
        if before.timestamp_max >= version.timestamp {
            let parts = before.parts.iter();
            for part in parts.filter(|part| part.timestamp_max() >= version.timestamp) {
                let known = (0..part.len()).map(|at| (part.ident(at), part.known(at)));
                left.extend(known.filter(|(_, known)| known.version > version));
            }
        }
        self.leaving = std::mem::take(&mut before.leaving);
        let list_bytes = before.parts.bytes();
        let Self { trie, parts, part_bytes, .. } = before;
        let parts = parts.into_elements();
        self.leaving.push_back(Leaving { trie, parts, list_bytes, part_bytes });
        for (ident, known) in &left {
            self.put(*ident, known);
        }
        left
    }

    /// Frees about `budget` parts of what was cleared.
    pub(crate) fn free_some(&mut self, budget: usize) {
        for _ in 0..budget {
            let Some(leaving) = self.leaving.front_mut() else { return };
            if leaving.step() {
                self.leaving.pop_front();
            }
        }
    }

    /// Whether there is something to free.
    pub(crate) fn is_freeing(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// The sums over all entries.
    pub(crate) const fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Memory of the index and of what was cleared and is not freed yet, in bytes.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.bytes() + self.leaving.iter().map(Leaving::bytes).sum::<u64>()
    }

    /// Memory of the index, in bytes, without what was cleared.
    pub(crate) const fn bytes(&self) -> u64 {
        self.trie.bytes() + self.parts.bytes() + self.part_bytes
    }
}

/// Whether a part that gets one more entry splits. Otherwise it grows.
fn splits(part: &Part) -> bool {
    part.len() >= ENTRY_COUNT_MAX && part.split_depth() <= u32::from(DEPTH_MAX)
}

/// The last bit of a prefix of `depth` bits.
const fn last_bit(depth: u8) -> u64 {
    1 << (64 - depth as u32)
}
