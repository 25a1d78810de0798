//! Where each key's record is, and what is needed to know without reading it.
//!
//! The keys themselves are on disk. The index tells them apart by 76 bits: the key's position in
//! the shard, which is its token, and twelve bits of a second hash whose seed is a secret of the
//! directory. So two of ten million keys are taken for one with a chance of 1 to 10^9, which is
//! less than that of an error in the memory they stand in; a lookup compares the key it has read.
//!
//! As in the [table](crate::table), the first bits of a position choose a part through a directory,
//! and a part that is full splits in two; walking the index is walking in token order.

mod dump;
mod entry;
mod part;

#[cfg(test)]
mod tests;

use gridkv_cluster::{Version, WallTime};

pub(crate) use self::dump::Dumped;
pub(crate) use self::entry::{FILE_COUNT_MAX, Ident, Known, Place};
use self::entry::{ROOT_BITS, Sort};
use self::part::{ENTRY_COUNT_MAX, Part};

/// The directory has at most so many times as many slots as there are parts. Tokens that
/// crowd in one place, which chance does not bring about, make a part grow rather than the directory.
const SLOTS_PER_PART_MAX: usize = 16;

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
        self.expiring_key_count += u64::from(known.expires_at.is_some());
        self.tombstone_count += u64::from(known.is_tombstone);
        self.payload_bytes += if known.is_tombstone { 0 } else { u64::from(known.payload_bytes) };
    }

    fn subtract(&mut self, known: &Known) {
        self.key_count -= u64::from(!known.is_tombstone);
        self.expiring_key_count -= u64::from(known.expires_at.is_some());
        self.tombstone_count -= u64::from(known.is_tombstone);
        self.payload_bytes -= if known.is_tombstone { 0 } else { u64::from(known.payload_bytes) };
    }
}

/// The index of a shard.
pub(crate) struct Index {
    /// The part of each prefix of `depth` bits.
    directory: Vec<u32>,
    depth: u32,
    parts: Vec<Part>,
    totals: Totals,
    part_bytes: u64,
    /// The directory's slot at which the search for what is due goes on.
    sweep: usize,
}

impl Index {
    /// An index without entries.
    pub(crate) fn new() -> Self {
        let count = 1_u32 << ROOT_BITS;
        Self {
            directory: (0..count).collect(),
            depth: ROOT_BITS,
            parts: (0..count).map(|_| Part::new(ROOT_BITS)).collect(),
            totals: Totals::default(),
            part_bytes: 0,
            sweep: 0,
        }
    }

    #[inline]
    fn part_index(&self, position: u64) -> usize {
        self.directory[(position >> (64 - self.depth)) as usize] as usize
    }

    /// What is known of a key.
    #[inline]
    pub(crate) fn find(&self, ident: Ident) -> Option<Known> {
        let part = &self.parts[self.part_index(ident.position)];
        let at = part.search(Sort::of(ident)).ok()?;
        Some(part.known(at))
    }

    /// Brings what a search at a position touches into the processor's cache. A hint.
    pub(crate) fn prefetch(&self, position: u64) {
        self.parts[self.part_index(position)].prefetch(position);
    }

    /// Sets what is known of a key. Returns what was.
    pub(crate) fn put(&mut self, ident: Ident, known: &Known) -> Option<Known> {
        let mut index = self.part_index(ident.position);
        let sort = Sort::of(ident);
        let mut found = self.parts[index].search(sort);
        if found.is_err() {
            while self.parts[index].len() >= ENTRY_COUNT_MAX && self.may_split(index) {
                self.split(index, ident.position);
                index = self.part_index(ident.position);
                found = self.parts[index].search(sort);
            }
        }
        let part = &mut self.parts[index];
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

    /// Points a key's entry elsewhere, if it still points at `from`.
    pub(crate) fn relocate(&mut self, ident: Ident, from: Place, to: Place) -> bool {
        let index = self.part_index(ident.position);
        let part = &mut self.parts[index];
        match part.search(Sort::of(ident)) {
            Ok(at) if part.entries()[at].place() == from => {
                part.set_place(at, to);
                true
            }
            _ => false,
        }
    }

    /// Forgets a key. Returns what was known.
    pub(crate) fn remove(&mut self, ident: Ident) -> Option<Known> {
        let index = self.part_index(ident.position);
        let part = &mut self.parts[index];
        let at = part.search(Sort::of(ident)).ok()?;
        let known = part.known(at);
        self.part_bytes -= part.bytes();
        part.remove(at);
        self.part_bytes += part.bytes();
        self.totals.subtract(&known);
        Some(known)
    }

    fn may_split(&self, index: usize) -> bool {
        self.parts[index].depth < self.depth
            || self.directory.len() * 2 <= self.parts.len() * SLOTS_PER_PART_MAX
    }

    fn split(&mut self, index: usize, position: u64) {
        if self.parts[index].depth == self.depth {
            self.directory = self.directory.iter().flat_map(|part| [*part, *part]).collect();
            self.depth += 1;
        }
        let part = &mut self.parts[index];
        self.part_bytes -= part.bytes();
        let upper = part.split();
        self.part_bytes += part.bytes() + upper.bytes();
        let depth = upper.depth;
        let added = u32::try_from(self.parts.len()).expect("an index has at most 2^32 parts");
        self.parts.push(upper);
        // The prefixes of the part's lower half stay, those of its upper half point at the new one.
        let first = (position >> (64 - (depth - 1)) << 1 | 1) << (self.depth - depth);
        let count = 1_usize << (self.depth - depth);
        let first = usize::try_from(first).expect("a place in the directory");
        self.directory[first..first + count].fill(added);
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
            let part = &self.parts[self.part_index(position)];
            let root = position >> (64 - ROOT_BITS);
            let start = Sort::of(Ident { position, fingerprint: 0 });
            let first = part.search(start).unwrap_or_else(|at| at);
            for at in first..part.len() {
                visit(part.entries()[at].sort().ident(root), part.known(at));
            }
            looked_at += part.len() - first + 1;
            let span = 1_u64 << (64 - part.depth);
            position = (position & !(span - 1)).checked_add(span)?;
            if looked_at >= budget {
                return Some(position);
            }
        }
    }

    /// The entry at a random place among those of the part at a position; `None` where that place is
    /// empty, so that entries of full parts are drawn as often as those of others.
    pub(crate) fn draw(&self, position: u64, choice: u64) -> Option<(Ident, Known)> {
        let entry_count = self.totals.key_count + self.totals.tombstone_count;
        let places = entry_count * 2 / self.parts.len() as u64 + 8;
        let part = &self.parts[self.part_index(position)];
        let at = usize::try_from(choice % places).expect("a part is small");
        let entry = part.entries().get(at)?;
        Some((entry.sort().ident(position >> (64 - ROOT_BITS)), part.known(at)))
    }

    /// An entry at or after a position, if there is one among the next `budget` parts.
    pub(crate) fn entry_near(&self, position: u64, budget: usize) -> Option<(Ident, Known)> {
        let mut position = position;
        for _ in 0..budget {
            let part = &self.parts[self.part_index(position)];
            let start = Sort::of(Ident { position, fingerprint: 0 });
            let at = part.search(start).unwrap_or_else(|at| at);
            if at < part.len() {
                let ident = part.entries()[at].sort().ident(position >> (64 - ROOT_BITS));
                return Some((ident, part.known(at)));
            }
            let span = 1_u64 << (64 - part.depth);
            position = (position & !(span - 1)).wrapping_add(span);
        }
        None
    }

    /// A key that is due, looking at about `budget` entries and taking that many off it. Calls go
    /// round the whole index.
    pub(crate) fn next_due(&mut self, budget: &mut usize, now: WallTime) -> Option<Ident> {
        if self.totals.expiring_key_count == 0 {
            return None;
        }
        while *budget > 0 {
            let slot = self.sweep % self.directory.len();
            let part = &mut self.parts[self.directory[slot] as usize];
            let root = (slot as u64) >> (self.depth - ROOT_BITS);
            let due_count = part.due_count(now);
            if due_count > 0
                && let Some(sort) = part.due(now)
            {
                *budget = budget.saturating_sub(1);
                return Some(sort.ident(root));
            }
            *budget = budget.saturating_sub(1 + due_count);
            self.sweep = slot + (1 << (self.depth - part.depth));
        }
        None
    }

    /// Forgets everything whose version is at most `version`. Returns what is left, which is all
    /// that was looked at.
    pub(crate) fn clear(&mut self, version: Version) -> Vec<(Ident, Known)> {
        let before = std::mem::replace(self, Self::new());
        let mut left = Vec::new();
        let mut slot = 0;
        while slot < before.directory.len() {
            let part = &before.parts[before.directory[slot] as usize];
            if part.timestamp_max() >= version.timestamp {
                let root = (slot as u64) >> (before.depth - ROOT_BITS);
                for at in 0..part.len() {
                    let known = part.known(at);
                    if known.version > version {
                        left.push((part.entries()[at].sort().ident(root), known));
                    }
                }
            }
            slot += 1 << (before.depth - part.depth);
        }
        for (ident, known) in &left {
            self.put(*ident, known);
        }
        left
    }

    /// The sums over all entries.
    pub(crate) const fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Memory of the index, in bytes.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let parts = self.parts.capacity() * size_of::<Part>();
        self.part_bytes + (parts + self.directory.capacity() * size_of::<u32>()) as u64
    }
}
