//! The token table: an extendible hash whose order is the order of tokens.
//!
//! A token's *position* is its place within the shard's range, stretched over 64 bits. The first
//! bits of the position choose a segment through the directory, the next
//! 32 choose the home bucket within it, a cache line of seven slots. A slot owns an
//! item, one allocation with key and value. A lookup touches one entry of the directory or two and
//! a segment's header (all stay in the L2 cache), one bucket and one item.
//!
//! A segment that is full grows by a quarter, and splits in two at about 900 slots, so the
//! longest pause of a write is the rebuilding of one segment. Nothing is ever rebuilt as a whole.
//!
//! Keys of one hash tag share the first 14 bits of their tokens, so millions may have positions
//! that begin alike. Nothing here takes positions to be spread evenly but for the bits after those
//! that a segment's items share; see [`directory`]. A segment whose items crowd into few homes splits
//! before it is full.
//!
//! The table knows nothing of versions that win or of time that passes: [`crate::memory`] does.

mod bucket;
pub(crate) mod chunks;
mod directory;
#[expect(unsafe_code, reason = "an item is header, key and value in one allocation")]
pub(crate) mod item;
#[expect(unsafe_code, reason = "the processor is told an address to fetch")]
pub(crate) mod prefetch;
mod segment;
mod sweep;
pub(crate) mod trie;
mod walk;

#[cfg(test)]
mod tests;

use fastrand::Rng;
use gridkv_cluster::{Mutation, Timestamp, Token, WallTime};

use bucket::{SLOT_COUNT, Tag};
use directory::{DEPTH_MAX, Directory};
use item::{Item, Slot, item_bytes};
use segment::{Cell, SPLIT_BUCKET_COUNT, Segment};
pub(crate) use segment::{Locator, STAMP_AGE_MAX, TokenOf, stamp_age, stamp_at};
pub(crate) use sweep::{Demolition, Sweep};

/// Tokens that [`Table::prefetch`] handles in one go.
const PREFETCH_BATCH: usize = 32;
/// Buckets that it looks at for each: few items lie farther behind their homes.
const PROBE_COUNT_MAX: usize = 4;
/// Slots that [`Table::draw`] looks at.
const DRAW_COUNT: usize = 16;

/// Where an item lies, until the next insertion or removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    segment: u32,
    cell: Cell,
}

/// Sums over all items.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Items that are not tombstones.
    pub(crate) key_count: u64,
    /// Items with an expiry.
    pub(crate) expiring_key_count: u64,
    /// Tombstones.
    pub(crate) tombstone_count: u64,
    /// Bytes of keys and values, tombstones excepted.
    pub(crate) payload_bytes: u64,
    /// Memory of the items, tombstones included.
    pub(crate) item_bytes: u64,
}

impl Totals {
    fn of(item: Item<'_>) -> Self {
        let is_tombstone = item.is_tombstone();
        Self {
            key_count: u64::from(!is_tombstone),
            expiring_key_count: u64::from(!item.is_tombstone() && item.expires_at().is_some()),
            tombstone_count: u64::from(is_tombstone),
            payload_bytes: if is_tombstone { 0 } else { item.payload_bytes() },
            item_bytes: item.allocation_bytes() as u64,
        }
    }

    const fn add(&mut self, other: Self) {
        self.key_count += other.key_count;
        self.expiring_key_count += other.expiring_key_count;
        self.tombstone_count += other.tombstone_count;
        self.payload_bytes += other.payload_bytes;
        self.item_bytes += other.item_bytes;
    }

    const fn subtract(&mut self, other: Self) {
        assert!(self.item_bytes >= other.item_bytes);
        self.key_count -= other.key_count;
        self.expiring_key_count -= other.expiring_key_count;
        self.tombstone_count -= other.tombstone_count;
        self.payload_bytes -= other.payload_bytes;
        self.item_bytes -= other.item_bytes;
    }
}

/// The items of a shard.
pub(crate) struct Table {
    locator: Locator,
    directory: Directory,
    totals: Totals,
    array_bytes: u64,
    /// At least the largest timestamp.
    timestamp_max: Timestamp,
}

impl Table {
    /// A table without items.
    pub(crate) fn new(locator: Locator) -> Self {
        let directory = Directory::new();
        let (totals, timestamp_max) = (Totals::default(), Timestamp::ZERO);
        Self { locator, directory, totals, array_bytes: 0, timestamp_max }
    }

    /// Where the key is.
    #[inline]
    pub(crate) fn find(&self, token: Token, key: &[u8]) -> Option<Place> {
        debug_assert_eq!(token, (self.locator.token_of)(key));
        let position = self.locator.range.position(token);
        let segment = self.directory.index_of(position);
        let cell = self.directory.segment(segment).find(position, Tag::of(token.0), key)?;
        Some(Place { segment, cell })
    }

    /// Where a key with this token is.
    pub(crate) fn find_token(&self, token: Token) -> Option<Place> {
        let position = self.locator.range.position(token);
        let index = self.directory.index_of(position);
        let segment = self.directory.segment(index);
        let home = segment.home(position);
        for (distance, bucket) in segment.chain(home).enumerate() {
            for slot in bucket.candidates(Tag::of(token.0)) {
                let item = bucket.slot(slot).item();
                if item.is_some_and(|item| self.token_of(item) == token) {
                    let bucket = (home + distance) % segment.bucket_count();
                    return Some(Place { segment: index, cell: Cell::new(bucket, slot) });
                }
            }
        }
        None
    }

    /// The token of an item.
    #[inline]
    pub(crate) fn token_of(&self, item: Item<'_>) -> Token {
        (self.locator.token_of)(item.key())
    }

    #[inline]
    fn slot(&self, place: Place) -> &Slot {
        self.directory.segment(place.segment).slot(place.cell)
    }

    /// The item at a place.
    #[inline]
    pub(crate) fn item(&self, place: Place) -> Item<'_> {
        self.slot(place).item().expect("a place is that of an item")
    }

    /// The stamp of an item.
    pub(crate) fn stamp(&self, place: Place) -> u16 {
        self.slot(place).stamp()
    }

    /// Sets the stamp of an item.
    #[inline]
    pub(crate) fn set_stamp(&mut self, place: Place, stamp: u16) {
        self.directory.segment_mut(place.segment).slot_mut(place.cell).set_stamp(stamp);
    }

    /// Adds an item for a key that has none.
    pub(crate) fn insert(&mut self, token: Token, mutation: &Mutation<'_>, stamp: u16) {
        let mut slot = Slot::new(mutation);
        slot.set_stamp(stamp);
        self.insert_slot(token, slot);
    }

    fn insert_slot(&mut self, token: Token, slot: Slot) {
        let position = self.locator.range.position(token);
        self.make_room(position);
        let item = slot.item().expect("what is inserted is an item");
        self.totals.add(Totals::of(item));
        self.timestamp_max = self.timestamp_max.max(item.version().timestamp);
        let index = self.directory.index_of(position);
        self.directory.segment_mut(index).insert(position, Tag::of(token.0), slot);
    }

    fn make_room(&mut self, position: u64) {
        let index = self.directory.index_of(position);
        if splits(self.directory.segment(index)) {
            self.array_bytes -= self.directory.segment(index).array_bytes();
            self.array_bytes += self.directory.split(index, &self.locator);
            self.array_bytes += self.directory.segment(index).array_bytes();
        }
        let segment = self.directory.segment_mut(self.directory.index_of(position));
        if !segment.has_room() {
            self.array_bytes -= segment.array_bytes();
            segment.grow(&self.locator);
            self.array_bytes += segment.array_bytes();
        }
    }

    /// A bound on what the index grows by with an insertion of `token`.
    pub(crate) fn growth_bytes_max(&self, token: Token) -> u64 {
        let position = self.locator.range.position(token);
        let segment = self.directory.segment(self.directory.index_of(position));
        if splits(segment) {
            segment.growth_bytes_max() + self.directory.growth_bytes_max(position)
        } else if segment.has_room() {
            0
        } else {
            segment.growth_bytes_max()
        }
    }

    /// Puts another record of the same key into a place.
    pub(crate) fn overwrite(&mut self, place: Place, mutation: &Mutation<'_>) {
        self.totals.subtract(Totals::of(self.item(place)));
        self.timestamp_max = self.timestamp_max.max(mutation.version.timestamp);
        self.directory.segment_mut(place.segment).overwrite(place.cell, mutation);
        self.totals.add(Totals::of(self.item(place)));
    }

    /// Frees an item's value; its version and its expiry stay.
    pub(crate) fn bury(&mut self, place: Place) {
        let item = self.item(place);
        let key = item.key().to_vec();
        let (version, expires_at) = (item.version(), item.expires_at());
        self.overwrite(place, &Mutation { key: &key, value: None, version, expires_at });
    }

    /// Removes an item.
    pub(crate) fn remove(&mut self, place: Place) {
        let segment = self.directory.segment_mut(place.segment);
        self.array_bytes -= segment.array_bytes();
        let slot = segment.remove(place.cell, &self.locator);
        segment.shrink(&self.locator);
        self.array_bytes += segment.array_bytes();
        self.totals.subtract(Totals::of(slot.item().expect("what was removed is an item")));
    }

    /// Brings what lookups of `tokens` will touch into the cache.
    pub(crate) fn prefetch(&self, tokens: &[Token]) {
        for tokens in tokens.chunks(PREFETCH_BATCH) {
            let mut probes = [None; PREFETCH_BATCH];
            for (token, probe) in tokens.iter().zip(&mut probes) {
                let position = self.locator.range.position(*token);
                let segment = self.directory.segment(self.directory.index_of(position));
                *probe = segment.begin_probe(position);
            }
            for _ in 0..PROBE_COUNT_MAX {
                let mut is_over = true;
                for (token, probe) in tokens.iter().zip(&mut probes) {
                    *probe = probe.and_then(|probe| probe.go_on(Tag::of(token.0)));
                    is_over &= probe.is_none();
                }
                if is_over {
                    break;
                }
            }
        }
    }

    /// An item drawn at random, if one of [`DRAW_COUNT`] slots holds one. All slots are as likely,
    /// wherever positions crowd: segments have one chance each, and those with few slots mostly miss
    /// it.
    pub(crate) fn draw(&self, rng: &mut Rng) -> Option<Place> {
        (0..DRAW_COUNT).find_map(|_| self.draw_slot(rng.u64(..), rng.usize(..)))
    }

    fn draw_slot(&self, segment_choice: u64, choice: usize) -> Option<Place> {
        let index = self.segment_at_random(segment_choice);
        let segment = self.directory.segment(index);
        let is_only = self.directory.segment_count() == 1;
        let usual = if is_only { 1 } else { SPLIT_BUCKET_COUNT };
        let choice = choice % (segment.bucket_count().max(usual) * SLOT_COUNT);
        let cell = Cell::new(choice / SLOT_COUNT, choice % SLOT_COUNT);
        let is_taken = !segment.bucket(cell.bucket())?.slot(cell.slot()).is_empty();
        is_taken.then_some(Place { segment: index, cell })
    }

    /// The number of a segment, each as likely.
    fn segment_at_random(&self, choice: u64) -> u32 {
        let product = u128::from(choice) * u128::from(self.directory.segment_count());
        u32::try_from(product >> 64).expect("a product with a fraction is below the count")
    }

    /// The sums over all items.
    pub(crate) const fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Memory of items and index.
    pub(crate) const fn memory_bytes(&self) -> u64 {
        self.totals.item_bytes + self.array_bytes + self.directory.bytes()
    }

    /// What an item's slot costs.
    pub(crate) const fn slot_bytes() -> u64 {
        (size_of::<bucket::Bucket>() / SLOT_COUNT) as u64
    }

    /// Bytes of memory that the item of `mutation` takes.
    pub(crate) const fn item_bytes(mutation: &Mutation<'_>) -> u64 {
        item_bytes(mutation) as u64
    }
}

/// Whether a segment splits before it gets one more item. Otherwise it grows when it is full.
const fn splits(segment: &Segment) -> bool {
    let is_full = !segment.has_room() && segment.bucket_count() >= SPLIT_BUCKET_COUNT;
    (is_full || segment.is_crowded()) && segment.depth() < DEPTH_MAX
}

/// Whether the time of an item's value is over.
#[inline]
pub(crate) fn is_expired(item: Item<'_>, now: WallTime) -> bool {
    !item.is_tombstone() && item.expires_at().is_some_and(|expires_at| expires_at <= now)
}
