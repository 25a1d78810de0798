//! The entries whose position begins with the same bits: one sorted array.
//!
//! Below the bits that a part's positions share they are spread evenly, so a search begins where the
//! entry would be if they were spread perfectly, a few entries away from where it is. Arrays grow by
//! a step of the allocator's size classes: an eighth of them is unused on average.

use std::ops::Range;

use gridkv_cluster::{Timestamp, WallTime};

use super::entry::{Entry, Extra, Ident, Known, Place, ROOT_BITS, Sort};
use crate::table::item::allocation_bytes;
use crate::table::prefetch::prefetch_line;

/// A part with so many entries splits.
pub(super) const ENTRY_COUNT_MAX: usize = 256;

/// A search goes so many entries one by one, then by halves: positions of a hash tag crowd in parts
/// that have others beside.
const STEPS_MAX: usize = 12;

/// Nine entries in ten are not farther than this from the second guess.
const AROUND: usize = 3;

/// A part of the index.
pub(super) struct Part {
    entries: Vec<Entry>,
    extras: Vec<Extra>,
    /// At least the largest timestamp.
    timestamp_max: Timestamp,
    /// At most the earliest expiry.
    expiry_next: WallTime,
    /// How many bits the positions share.
    depth: u8,
    /// The first of them.
    root: u8,
}

impl Part {
    /// A part without entries for the positions that begin with the same `depth` bits as
    /// `position`.
    pub(super) const fn new(position: u64, depth: u8) -> Self {
        assert!(depth as u32 >= ROOT_BITS);
        Self {
            entries: Vec::new(),
            extras: Vec::new(),
            timestamp_max: Timestamp::ZERO,
            expiry_next: WallTime::MAX,
            depth,
            root: (position >> (64 - ROOT_BITS)) as u8,
        }
    }

    /// The part of entries and extras that a dump has for the positions that begin with the same
    /// `depth` bits as `position`. `None` where they are not in order, belong elsewhere, or an entry
    /// lacks the extra that it says it has.
    pub(super) fn of(
        position: u64,
        depth: u8,
        entries: impl ExactSizeIterator<Item = Entry>,
        extras: impl Iterator<Item = Extra>,
    ) -> Option<Self> {
        let bytes = allocation_bytes(entries.len() * size_of::<Entry>());
        let mut part = Self::new(position, depth);
        part.entries.reserve_exact(bytes / size_of::<Entry>());
        part.entries.extend(entries);
        part.extras.extend(extras);
        part.extras.shrink_to_fit();
        if !part.is_consistent(position) {
            return None;
        }
        part.expiry_next = part.earliest();
        let timestamps = part.all_known().map(|known| known.version.timestamp);
        part.timestamp_max = timestamps.max().unwrap_or(Timestamp::ZERO);
        Some(part)
    }

    /// Whether each entry that says so has its extra, and all are in order and begin as `position`.
    fn is_consistent(&self, position: u64) -> bool {
        let with_extra = self.entries.iter().filter(|entry| entry.has_extra());
        let ends = [self.entries.first(), self.entries.last()].into_iter().flatten();
        let prefix = position << ROOT_BITS;
        let mut shared = ends.map(|entry| (entry.sort().high ^ prefix).leading_zeros() + ROOT_BITS);
        shared.all(|bits| bits >= u32::from(self.depth))
            && self.entries.is_sorted_by(|one, next| one.sort() < next.sort())
            && with_extra.map(Entry::sort).eq(self.extras.iter().map(|extra| extra.sort))
    }

    pub(super) const fn depth(&self) -> u8 {
        self.depth
    }

    /// The position behind those of the part, of which `inside` is one; 0 stands for the end.
    pub(super) const fn end(&self, inside: u64) -> u64 {
        let span = 1_u64 << (64 - self.depth as u32);
        (inside & !(span - 1)).wrapping_add(span)
    }

    /// What tells the key of an entry.
    pub(super) fn ident(&self, at: usize) -> Ident {
        self.entries[at].sort().ident(self.root)
    }

    /// All that is known, in order.
    pub(super) fn all_known(&self) -> impl Iterator<Item = Known> {
        (0..self.len()).map(|at| self.known(at))
    }

    pub(super) fn extras(&self) -> &[Extra] {
        &self.extras
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(super) const fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) const fn timestamp_max(&self) -> Timestamp {
        self.timestamp_max
    }

    /// Memory of the arrays, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        let entries = allocation_bytes(self.entries.capacity() * size_of::<Entry>());
        let extras = allocation_bytes(self.extras.capacity() * size_of::<Extra>());
        (entries + extras) as u64
    }

    /// Where an entry would be if positions were spread perfectly.
    #[inline]
    pub(super) fn first_guess(&self, sort: Sort) -> usize {
        self.expected(sort.high)
    }

    /// Where an entry is to be expected, given what stands at `guess`: as far from there as its position
    /// is. What the first guess is off by is mostly due to entries far from it.
    #[inline]
    pub(super) fn second_guess(&self, guess: usize, sort: Sort) -> usize {
        let Some(entry) = self.entries.get(guess) else { return guess };
        let there = entry.sort().high;
        if sort.high < there {
            guess.saturating_sub(self.expected(there - sort.high))
        } else {
            (guess + self.expected(sort.high - there)).min(self.entries.len() - 1)
        }
    }

    /// How many entries are to be expected in the first so many positions, with more bits behind them.
    #[inline]
    fn expected(&self, high: u64) -> usize {
        // The bits after the part's own prefix, as the first of a fraction of its positions.
        let fraction = high << (u32::from(self.depth) - ROOT_BITS);
        #[expect(clippy::cast_possible_truncation, reason = "the product is below the length")]
        let count = ((u128::from(fraction) * self.entries.len() as u128) >> 64) as usize;
        count
    }

    /// Has the first entry that a search for a position looks at brought into the processor's cache.
    /// Returns its place.
    #[inline]
    pub(super) fn prefetch_first(&self, position: u64) -> usize {
        let guess = self.first_guess(Sort::of(Ident { position, fingerprint: 0 }));
        self.prefetch_entries(guess..guess + 1);
        guess
    }

    /// The same for where it goes on from there.
    #[inline]
    pub(super) fn prefetch_second(&self, guess: usize, position: u64) {
        let guess = self.second_guess(guess, Sort::of(Ident { position, fingerprint: 0 }));
        self.prefetch_entries(guess.saturating_sub(AROUND)..guess + AROUND + 1);
    }

    #[inline]
    fn prefetch_entries(&self, range: Range<usize>) {
        let end = range.end.min(self.entries.len());
        let entries = self.entries.get(range.start..end).unwrap_or_default();
        let Range { start, end } = entries.as_ptr_range();
        for address in (start.addr()..end.addr()).step_by(64) {
            prefetch_line(address);
        }
        if !entries.is_empty() {
            prefetch_line(end.addr() - 1);
        }
    }

    /// The place of `sort` in the array, or where it would be.
    #[inline]
    pub(super) fn search(&self, sort: Sort) -> Result<usize, usize> {
        self.search_from(self.second_guess(self.first_guess(sort), sort), sort)
    }

    /// The same, from a place on that may be the one.
    #[inline]
    pub(super) fn search_from(&self, guess: usize, sort: Sort) -> Result<usize, usize> {
        let entries = &self.entries;
        let guess = guess.min(entries.len());
        let mut at = guess;
        while at < entries.len() && entries[at].sort() < sort {
            at += 1;
            if at == guess + STEPS_MAX {
                at += entries[at..].partition_point(|entry| entry.sort() < sort);
                break;
            }
        }
        while at > 0 && entries[at - 1].sort() >= sort {
            at -= 1;
            if at + STEPS_MAX == guess {
                at = entries[..at].partition_point(|entry| entry.sort() < sort);
                break;
            }
        }
        if at < entries.len() && entries[at].sort() == sort { Ok(at) } else { Err(at) }
    }

    fn extra_index(&self, sort: Sort) -> Result<usize, usize> {
        self.extras.binary_search_by_key(&sort, |extra| extra.sort)
    }

    /// What is known at a place in the array.
    #[inline]
    pub(super) fn known(&self, at: usize) -> Known {
        let entry = &self.entries[at];
        if !entry.has_extra() {
            return entry.known(None);
        }
        let index = self.extra_index(entry.sort()).expect("an entry that says so has an extra");
        entry.known(Some(&self.extras[index]))
    }

    /// Points an entry elsewhere.
    pub(super) fn set_place(&mut self, at: usize, place: Place) {
        self.entries[at].set_place(place);
    }

    /// Writes over an entry.
    pub(super) fn overwrite(&mut self, at: usize, known: &Known) {
        let sort = self.entries[at].sort();
        self.remove_extra(at);
        let (entry, extra) = Entry::new(sort, known);
        self.entries[at] = entry;
        self.take_in(known, extra);
    }

    /// The memory of the array to grow to when it is full, in bytes.
    const fn array_bytes_next(&self) -> usize {
        let count = self.entries.len() + self.entries.len() / 8 + 1;
        allocation_bytes(count * size_of::<Entry>())
    }

    /// What another entry adds to the memory of the array, in bytes.
    pub(super) const fn growth_bytes(&self) -> u64 {
        let is_full = self.entries.len() == self.entries.capacity();
        let bytes = allocation_bytes(self.entries.capacity() * size_of::<Entry>());
        if is_full { (self.array_bytes_next() - bytes) as u64 } else { 0 }
    }

    /// Adds an entry at the place where its search ended.
    pub(super) fn insert(&mut self, at: usize, sort: Sort, known: &Known) {
        if self.entries.len() == self.entries.capacity() {
            let count = self.array_bytes_next() / size_of::<Entry>();
            self.entries.reserve_exact(count - self.entries.len());
        }
        let (entry, extra) = Entry::new(sort, known);
        self.entries.insert(at, entry);
        self.take_in(known, extra);
    }

    fn take_in(&mut self, known: &Known, extra: Option<Extra>) {
        self.timestamp_max = self.timestamp_max.max(known.version.timestamp);
        if known.can_expire() {
            self.expiry_next = self.expiry_next.min(known.expires_at.unwrap_or(WallTime::MAX));
        }
        if let Some(extra) = extra {
            let at = self.extra_index(extra.sort).expect_err("an entry has one extra");
            self.extras.insert(at, extra);
        }
    }

    fn remove_extra(&mut self, at: usize) {
        if self.entries[at].has_extra() {
            let sort = self.entries[at].sort();
            let index = self.extra_index(sort).expect("an entry that says so has an extra");
            self.extras.remove(index);
        }
    }

    /// Removes an entry.
    pub(super) fn remove(&mut self, at: usize) {
        self.remove_extra(at);
        self.entries.remove(at);
        if self.entries.len() * 2 < self.entries.capacity() {
            self.shrink();
        }
    }

    fn shrink(&mut self) {
        let bytes = allocation_bytes(self.entries.len() * size_of::<Entry>());
        self.entries.shrink_to(bytes / size_of::<Entry>());
        self.extras.shrink_to_fit();
    }

    /// The depth of the halves that a split would make: they differ in the last of so many bits.
    /// The entries must be two at least.
    pub(super) fn split_depth(&self) -> u32 {
        let ends = [self.entries.first(), self.entries.last()];
        let [first, last] = ends.map(|entry| entry.expect("a part that splits has entries").sort());
        (first.high ^ last.high).leading_zeros() + ROOT_BITS + 1
    }

    /// Splits by the first bit in which positions differ, so that there are entries in both halves.
    /// Keeps those of the lower half and returns those of the upper half.
    pub(super) fn split(&mut self) -> Self {
        let depth = u8::try_from(self.split_depth()).expect("positions that differ");
        assert!(depth > self.depth, "the positions of a part share its prefix");
        let bit = 64 - (u32::from(depth) - ROOT_BITS);
        let is_lower = |sort: Sort| sort.high >> bit & 1 == 0;
        self.depth = depth;
        let mut upper = Self::new(u64::from(self.root) << (64 - ROOT_BITS), depth);
        let at = self.entries.partition_point(|entry| is_lower(entry.sort()));
        upper.entries = self.entries.split_off(at);
        let at = self.extras.partition_point(|extra| is_lower(extra.sort));
        upper.extras = self.extras.split_off(at);
        for part in [&mut *self, &mut upper] {
            part.shrink();
            part.expiry_next = part.earliest();
        }
        upper.timestamp_max = self.timestamp_max;
        upper
    }

    fn earliest(&self) -> WallTime {
        self.extras.iter().filter_map(Extra::expires_at).min().unwrap_or(WallTime::MAX)
    }

    /// How many extras a search for what is due has to look at: none where nothing is.
    pub(super) fn due_count(&self, now: WallTime) -> usize {
        if self.expiry_next <= now { self.extras.len() } else { 0 }
    }

    /// An entry that is due. Where there is none, the part knows when to look again.
    pub(super) fn due(&mut self, now: WallTime) -> Option<Ident> {
        let is_due = |extra: &&Extra| extra.expires_at().is_some_and(|at| at <= now);
        let found = self.extras.iter().find(is_due).map(|extra| extra.sort);
        if found.is_none() {
            self.expiry_next = self.earliest();
        }
        found.map(|sort| sort.ident(self.root))
    }
}
