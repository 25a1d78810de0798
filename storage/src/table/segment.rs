//! The items of one token prefix: an array of buckets, searched by linear probing.
//!
//! # Invariants
//!
//! - The *home* of an item is the bucket that its position points at: homes grow with positions.
//!   An item lies in its home or in a bucket behind it (the first follows the last), and each
//!   bucket from its home up to the one before it lies in has counted it in `passed`.
//! - `expiry_next` is at most the earliest expiry of the items, `timestamp_max` at least the
//!   largest timestamp. While a search for expired items is inside the segment, `expiry_next`
//!   covers what the search has seen and what came since.
//!
//! # Why steps of an allocator class
//!
//! Array sizes grow by about a quarter and fill the allocator's size classes, so at any number of
//! keys the average segment is about three quarters full, with little lost to rounding.

#[cfg(test)]
mod tests;

use std::num::NonZeroU32;
use std::sync::Arc;

use gridkv_cluster::{Mutation, ShardRange, Timestamp, Token, WallTime};

use super::bucket::{Bucket, SLOT_COUNT, Tag};
use super::directory::JUMP_MAX;
use super::item::{Item, STAMP_COUNT, Slot, allocation_bytes};

/// A segment of this many buckets splits rather than grows.
pub(super) const SPLIT_BUCKET_COUNT: usize = 127;
/// A segment is crowded when its items lie so many buckets behind their homes on average, just after
/// it was rebuilt. Positions that are spread evenly lie a third of a bucket behind then.
const CROWDED_DISTANCE: usize = 1;
/// A segment of fewer buckets is never crowded: a search through some lines in a row is cheaper than
/// many small segments.
const CROWDED_BUCKETS_MIN: usize = 16;
/// A search of a segment's stamps is due this often.
const STAMP_SWEEP_SECONDS: u32 = 1_024;
/// The largest age that a stamp can tell. Until the next sweep it stays below the rest, which is
/// for stamps from before a step of the clock backwards.
pub(crate) const STAMP_AGE_MAX: u16 = STAMP_COUNT - 2_048;
const STAMP_STEP_BACK_MAX: u16 = 512;

/// Bits that tell a bucket's slots apart, and none.
const SLOT_BITS: u32 = 3;

const BUCKET_BYTES: usize = size_of::<Bucket>();
/// Rebuilding looks this many buckets ahead.
const PREFETCH_AHEAD: usize = 3;

const _: () = assert!(SLOT_COUNT < 1 << SLOT_BITS);

/// Makes the token of a key.
pub(crate) type TokenOf = Arc<dyn Fn(&[u8]) -> Token + Send + Sync>;

/// Where keys lie.
#[derive(Clone)]
pub(crate) struct Locator {
    /// The tokens of the table.
    pub(crate) range: ShardRange,
    /// The token of a key.
    pub(crate) token_of: TokenOf,
}

impl Locator {
    fn position_of(&self, slot: &Slot) -> u64 {
        let item = slot.item().expect("an occupied slot holds an item");
        self.range.position((self.token_of)(item.key()))
    }
}

/// The stamp of a second.
#[inline]
pub(crate) const fn stamp_at(now: WallTime) -> u16 {
    #[expect(clippy::cast_possible_truncation, reason = "the remainder is below u16::MAX")]
    let stamp = (now.as_millis() / 1_000 % STAMP_COUNT as u64) as u16;
    stamp
}

/// Seconds since the stamp was set, [`STAMP_AGE_MAX`] at most.
pub(crate) const fn stamp_age(stamp: u16, now: WallTime) -> u16 {
    let age = (stamp_at(now) + STAMP_COUNT - stamp) % STAMP_COUNT;
    if age >= STAMP_COUNT - STAMP_STEP_BACK_MAX {
        0
    } else if age > STAMP_AGE_MAX {
        STAMP_AGE_MAX
    } else {
        age
    }
}

/// The smallest array of at least `count` buckets that fills a size class of the allocator.
const fn array_len(count: usize) -> usize {
    if count == 0 {
        return 0;
    }
    let bytes = array_bytes(count);
    let power = count.next_power_of_two();
    if array_bytes(power) <= bytes { power } else { bytes / BUCKET_BYTES - 1 }
}

/// Memory of an array of `len` buckets. For the alignment the allocator takes a line more, except
/// where the size is a power of two of at most a page.
pub(super) const fn array_bytes(len: usize) -> usize {
    let bytes = len * BUCKET_BYTES;
    if len == 0 || (len.is_power_of_two() && bytes <= 4_096) {
        bytes
    } else {
        allocation_bytes(bytes + BUCKET_BYTES - 1)
    }
}

/// How many items an array takes before it grows.
const fn item_count_max(len: usize) -> usize {
    let slot_count = len * SLOT_COUNT;
    slot_count - slot_count / 8
}

/// The array for a rebuilt segment of `count` items: filled to four fifths at most.
const fn array_len_for(count: usize) -> usize {
    array_len((count + count / 4).div_ceil(SLOT_COUNT))
}

/// A bucket and a slot in it, as one number: what a search finds is handed on in a register. In memory
/// it was written as three words and read as two, for which a processor waits until all are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cell(NonZeroU32);

impl Cell {
    #[inline]
    pub(super) fn new(bucket: usize, slot: usize) -> Self {
        debug_assert!(slot < SLOT_COUNT && bucket < 1 << (u32::BITS - SLOT_BITS));
        #[expect(
            clippy::cast_possible_truncation,
            reason = "an array of so many does not fit memory"
        )]
        let number = (bucket as u32) << SLOT_BITS | (slot as u32 + 1);
        Self(NonZeroU32::new(number).expect("a slot counts from one"))
    }

    #[inline]
    pub(super) const fn bucket(self) -> usize {
        (self.0.get() >> SLOT_BITS) as usize
    }

    #[inline]
    pub(super) const fn slot(self) -> usize {
        (self.0.get() & ((1 << SLOT_BITS) - 1)) as usize - 1
    }
}

/// A search that only fetches what it finds.
#[derive(Clone, Copy)]
pub(super) struct Probe<'s> {
    segment: &'s Segment,
    index: usize,
}

impl Probe<'_> {
    /// Has the items of the bucket fetched that may be the one of the tag; if there are none, and items
    /// have passed, the next bucket, where the search goes on.
    #[inline]
    pub(super) fn go_on(self, tag: Tag) -> Option<Self> {
        let bucket = &self.segment.buckets[self.index];
        let mut is_found = false;
        for slot in bucket.candidates(tag) {
            bucket.prefetch_item(slot);
            is_found = true;
        }
        if is_found || bucket.passed() == 0 {
            return None;
        }
        let index = self.segment.following(self.index);
        self.segment.buckets[index].prefetch();
        Some(Self { index, ..self })
    }
}

/// The items whose position begins with `depth` given bits.
pub(super) struct Segment {
    buckets: Box<[Bucket]>,
    timestamp_max: Timestamp,
    expiry_next: WallTime,
    item_count: u32,
    expiring_count: u32,
    stamps_swept_at: u32,
    depth: u8,
    is_crowded: bool,
}

impl Segment {
    /// A segment without items, and without memory of its own.
    pub(super) fn new(depth: u8) -> Self {
        Self {
            buckets: Box::default(),
            timestamp_max: Timestamp::ZERO,
            expiry_next: WallTime::MAX,
            item_count: 0,
            expiring_count: 0,
            stamps_swept_at: 0,
            depth,
            is_crowded: false,
        }
    }

    fn with_array(depth: u8, len: usize) -> Self {
        Self { buckets: new_array(len), ..Self::new(depth) }
    }

    /// The home of a position, told by the 32 bits after the prefix; those that lie behind the last
    /// are zeros. Out of bounds where the segment has no buckets.
    #[inline]
    pub(super) const fn home(&self, position: u64) -> usize {
        let place = (position << self.depth) >> 32;
        ((place * self.buckets.len() as u64) >> 32) as usize
    }

    /// The first position whose home is `bucket`, or lies behind it; 0 stands for the end of the
    /// positions.
    pub(super) const fn first_position(&self, bucket: usize, inside: u64) -> u64 {
        let base = inside & !(u64::MAX >> self.depth);
        if bucket >= self.buckets.len() {
            return base.wrapping_add(1_u64.unbounded_shl(64 - self.depth as u32));
        }
        // The first place of the home, as the bits after the prefix. Where fewer bits are left than
        // a place has, several homes may begin at one position.
        let place = ((bucket as u64) << 32).div_ceil(self.buckets.len() as u64) << 32;
        base.wrapping_add(place.div_ceil(1 << self.depth))
    }

    /// Where the key is.
    #[inline]
    pub(super) fn find(&self, position: u64, tag: Tag, key: &[u8]) -> Option<Cell> {
        let mut index = self.home(position);
        for _ in 0..self.buckets.len() {
            let bucket = &self.buckets[index];
            for slot in bucket.candidates(tag) {
                if bucket.slot(slot).item().is_some_and(|item| item.key() == key) {
                    return Some(Cell::new(index, slot));
                }
            }
            if bucket.passed() == 0 {
                return None;
            }
            index = self.following(index);
        }
        None
    }

    /// A search ahead of the search: the bucket that it looks at first is on its way into the cache.
    /// `None` where the segment has no buckets.
    #[inline]
    pub(super) fn begin_probe(&self, position: u64) -> Option<Probe<'_>> {
        let index = self.home(position);
        self.buckets.get(index)?.prefetch();
        Some(Probe { segment: self, index })
    }

    /// The buckets in which items of the home can lie, the home first.
    pub(super) fn chain(&self, home: usize) -> impl Iterator<Item = &Bucket> {
        let mut index = home;
        let mut left = self.buckets.len();
        std::iter::from_fn(move || {
            if left == 0 {
                return None;
            }
            let bucket = &self.buckets[index];
            left = if bucket.passed() == 0 { 0 } else { left - 1 };
            index = self.following(index);
            Some(bucket)
        })
    }

    #[inline]
    const fn following(&self, bucket: usize) -> usize {
        if bucket + 1 == self.buckets.len() { 0 } else { bucket + 1 }
    }

    /// Whether one more item fits.
    pub(super) const fn has_room(&self) -> bool {
        (self.item_count as usize) < item_count_max(self.buckets.len())
    }

    /// Takes an item in. The caller has made room. Returns how many buckets behind its home it lies.
    pub(super) fn insert(&mut self, position: u64, tag: Tag, item: Slot) -> usize {
        assert!((self.item_count as usize) < self.slot_count());
        let held = item.item().expect("what is inserted is an item");
        self.item_count += 1;
        self.expiring_count += u32::from(item.has_expiry());
        self.expiry_next = self.expiry_next.min(held.expires_at().unwrap_or(WallTime::MAX));
        self.timestamp_max = self.timestamp_max.max(held.version().timestamp);
        let mut index = self.home(position);
        let mut distance = 0;
        loop {
            if let Some(slot) = self.buckets[index].vacant() {
                self.buckets[index].put(slot, tag, item);
                return distance;
            }
            self.buckets[index].pass();
            index = self.following(index);
            distance += 1;
        }
    }

    /// Whether many items have the same few homes, so that searches take long: those of a hash tag
    /// have, where a segment has other items beside. Once it splits, homes are told by later bits.
    pub(super) const fn is_crowded(&self) -> bool {
        self.is_crowded
    }

    /// Takes note of how far behind their homes the items lie, all in all, after a rebuilding.
    const fn note_distances(&mut self, sum: usize) {
        let is_large = self.buckets.len() >= CROWDED_BUCKETS_MIN;
        self.is_crowded = is_large && sum > self.item_count as usize * CROWDED_DISTANCE;
    }

    /// Takes an item out.
    pub(super) fn remove(&mut self, cell: Cell, locator: &Locator) -> Slot {
        let mut index = self.home(locator.position_of(self.slot(cell)));
        while index != cell.bucket() {
            self.buckets[index].unpass();
            index = self.following(index);
        }
        let (_, slot) = self.buckets[cell.bucket()].take(cell.slot());
        self.item_count -= 1;
        self.expiring_count -= u32::from(slot.has_expiry());
        slot
    }

    /// Puts another record of the same key into a cell.
    pub(super) fn overwrite(&mut self, cell: Cell, mutation: &Mutation<'_>) {
        let slot = self.buckets[cell.bucket()].slot_mut(cell.slot());
        self.expiring_count -= u32::from(slot.has_expiry());
        slot.overwrite(mutation);
        self.expiring_count += u32::from(slot.has_expiry());
        self.expiry_next = self.expiry_next.min(mutation.expires_at.unwrap_or(WallTime::MAX));
        self.timestamp_max = self.timestamp_max.max(mutation.version.timestamp);
    }

    /// The array to grow to when it is full.
    const fn array_len_next(&self) -> usize {
        let len = self.buckets.len();
        array_len(len + len / 8 + 1)
    }

    /// Takes the next larger array.
    pub(super) fn grow(&mut self, locator: &Locator) {
        self.rebuild(self.array_len_next(), locator);
    }

    /// Takes a smaller array where three quarters of this one are unused.
    pub(super) fn shrink(&mut self, locator: &Locator) {
        let count = self.item_count as usize;
        if count * 4 > self.slot_count() {
            return;
        }
        let len = array_len_for(count);
        if len < self.buckets.len() {
            self.rebuild(len, locator);
        }
    }

    fn rebuild(&mut self, len: usize, locator: &Locator) {
        let mut rebuilt = Self::with_array(self.depth, len);
        rebuilt.stamps_swept_at = self.stamps_swept_at;
        let mut distance_sum = 0;
        drain(&mut self.buckets, |tag, slot| {
            distance_sum += rebuilt.insert(locator.position_of(&slot), tag, slot);
        });
        rebuilt.note_distances(distance_sum);
        assert_eq!(rebuilt.item_count, self.item_count);
        assert_eq!(rebuilt.expiring_count, self.expiring_count);
        *self = rebuilt;
    }

    /// Gives items away to segments of longer prefixes, until few enough are left: see [`Split`].
    pub(super) fn split(&mut self, depth_max: u8, locator: &Locator) -> Split {
        let mut positions = Vec::with_capacity(self.item_count as usize);
        visit(&self.buckets, |slot| positions.push(locator.position_of(slot)));
        let (path, counts) = heavy_path(&positions, self.depth, depth_max);
        let first = self.depth + 1;
        let mut given: Vec<_> = (first..)
            .zip(&counts)
            .map(|(depth, count)| Self::with_array(depth, array_len_for(*count)))
            .collect();
        let kept_count = positions.len() - counts.iter().sum::<usize>();
        let depth = given.last().expect("a split adds a segment").depth;
        let mut kept = Self::with_array(depth, array_len_for(kept_count));
        let mut distance_sums = vec![0; given.len() + 1];
        let mut positions = positions.into_iter();
        drain(&mut self.buckets, |tag, slot| {
            let position = positions.next().expect("each item has its position");
            let shared = u64::leading_zeros(position ^ path) as usize;
            let at = (shared - usize::from(first - 1)).min(given.len());
            let segment = given.get_mut(at).unwrap_or(&mut kept);
            distance_sums[at] += segment.insert(position, tag, slot);
        });
        for (segment, sum) in given.iter_mut().chain([&mut kept]).zip(distance_sums) {
            segment.stamps_swept_at = self.stamps_swept_at;
            segment.note_distances(sum);
        }
        let given_count = given.iter().map(|segment| segment.item_count).sum::<u32>();
        assert_eq!(given_count + kept.item_count, self.item_count);
        *self = kept;
        Split { path, given }
    }

    /// A bound on the memory that [`Segment::split`] or [`Segment::grow`] adds.
    pub(super) fn growth_bytes_max(&self) -> u64 {
        let now = array_bytes(self.buckets.len());
        let grown = array_bytes(self.array_len_next());
        // Arrays of four fifths at least but for the last bucket, and the step between classes, a
        // quarter.
        let split = (usize::from(JUMP_MAX) + 1) * 2 * array_bytes(1)
            + self.item_count as usize * BUCKET_BYTES * 2 / SLOT_COUNT;
        (grown.max(split) - now) as u64
    }

    /// Sees to it that no stamp gets so old that it would seem young again. Returns whether it
    /// had to look.
    pub(super) fn sweep_stamps(&mut self, now: WallTime) -> bool {
        #[expect(clippy::cast_possible_truncation, reason = "differences of seconds are modular")]
        let seconds = (now.as_millis() / 1_000) as u32;
        if seconds.wrapping_sub(self.stamps_swept_at) < STAMP_SWEEP_SECONDS {
            return false;
        }
        self.stamps_swept_at = seconds;
        let oldest = (stamp_at(now) + STAMP_COUNT - STAMP_AGE_MAX) % STAMP_COUNT;
        for bucket in &mut self.buckets {
            for slot in bucket.occupied() {
                if stamp_age(bucket.slot(slot).stamp(), now) == STAMP_AGE_MAX {
                    bucket.slot_mut(slot).set_stamp(oldest);
                }
            }
        }
        true
    }

    #[inline]
    pub(super) const fn bucket(&self, index: usize) -> Option<&Bucket> {
        if index < self.buckets.len() { Some(&self.buckets[index]) } else { None }
    }

    /// Where the items lie.
    pub(super) fn cells(&self) -> impl Iterator<Item = Cell> {
        self.buckets
            .iter()
            .enumerate()
            .flat_map(|(bucket, held)| held.occupied().map(move |slot| Cell::new(bucket, slot)))
    }

    /// Where the items lie, from those of the `choice`-th bucket on, and round.
    pub(super) fn cells_from(&self, choice: usize) -> impl Iterator<Item = Cell> {
        let count = self.buckets.len();
        let first = choice % count.max(1);
        (first..count).chain(0..first).flat_map(|bucket| {
            self.buckets[bucket].occupied().map(move |slot| Cell::new(bucket, slot))
        })
    }

    #[inline]
    pub(super) const fn slot(&self, cell: Cell) -> &Slot {
        self.buckets[cell.bucket()].slot(cell.slot())
    }

    #[inline]
    pub(super) const fn slot_mut(&mut self, cell: Cell) -> &mut Slot {
        self.buckets[cell.bucket()].slot_mut(cell.slot())
    }

    /// The buckets, for a segment on its way out.
    pub(super) fn into_buckets(self) -> Vec<Bucket> {
        self.buckets.into_vec()
    }

    pub(super) const fn bucket_count(&self) -> usize {
        self.buckets.len()
    }

    pub(super) const fn slot_count(&self) -> usize {
        self.buckets.len() * SLOT_COUNT
    }

    pub(super) const fn array_bytes(&self) -> u64 {
        array_bytes(self.buckets.len()) as u64
    }

    pub(super) const fn depth(&self) -> u8 {
        self.depth
    }

    pub(super) const fn item_count(&self) -> u32 {
        self.item_count
    }

    pub(super) const fn timestamp_max(&self) -> Timestamp {
        self.timestamp_max
    }

    /// Whether an item may have expired.
    pub(super) fn is_due(&self, now: WallTime) -> bool {
        self.expiring_count != 0 && self.expiry_next <= now
    }

    /// Begins a search for expired items.
    pub(super) const fn start_search(&mut self) {
        self.expiry_next = WallTime::MAX;
    }

    /// The first slot of the bucket whose item has expired. A search calls this until there is
    /// none, then goes on to the next bucket.
    pub(super) fn next_expired(&mut self, bucket: usize, now: WallTime) -> Option<usize> {
        if let Some(ahead) = self.buckets.get(bucket + PREFETCH_AHEAD) {
            for slot in ahead.occupied().filter(|slot| ahead.slot(*slot).has_expiry()) {
                ahead.prefetch_item(slot);
            }
        }
        for slot in self.buckets[bucket].occupied() {
            let expiring = Some(self.buckets[bucket].slot(slot)).filter(|slot| slot.has_expiry());
            let expires_at = expiring.and_then(Slot::item).and_then(Item::expires_at);
            let Some(expires_at) = expires_at else { continue };
            if expires_at <= now {
                return Some(slot);
            }
            self.expiry_next = self.expiry_next.min(expires_at);
        }
        None
    }
}

/// What a segment that split has given away.
///
/// The prefix of the segment gets longer bit by bit, each time by the bit that more of its items
/// have; those of the other bit go to a segment of their own. That ends when the items that are
/// left are few enough, which is after one bit, unless positions crowd.
pub(super) struct Split {
    /// A position with the prefix that the segment has come to.
    pub(super) path: u64,
    /// The new segments: the first has one bit more than the segment had, each other one bit more
    /// than that before it. Their prefixes end with the other bit than that of the path.
    pub(super) given: Vec<Segment>,
}

/// The position that a split follows, and for each bit after `depth` how many positions leave it
/// there. Ends when three quarters of them are left or fewer, or at `depth_max`.
fn heavy_path(positions: &[u64], depth: u8, depth_max: u8) -> (u64, Vec<usize>) {
    assert!(depth < depth_max);
    let mut left = positions.to_vec();
    let mut counts = Vec::new();
    for depth in depth..depth_max {
        let is_upper = |position: u64| position << depth >> 63 != 0;
        let before = left.len();
        let upper_count = left.iter().filter(|position| is_upper(**position)).count();
        let keeps_upper = upper_count * 2 > before;
        left.retain(|position| is_upper(*position) == keeps_upper);
        counts.push(before - left.len());
        if left.len() * 4 <= positions.len() * 3 {
            break;
        }
    }
    (*left.first().expect("a segment that splits has items"), counts)
}

fn new_array(len: usize) -> Box<[Bucket]> {
    std::iter::repeat_with(Bucket::new).take(len).collect()
}

fn prefetch_items(buckets: &[Bucket], index: usize) {
    if let Some(bucket) = buckets.get(index) {
        for slot in bucket.occupied() {
            bucket.prefetch_item(slot);
        }
    }
}

/// Shows all items, in the order of [`drain`].
fn visit(buckets: &[Bucket], mut show: impl FnMut(&Slot)) {
    for (index, bucket) in buckets.iter().enumerate() {
        prefetch_items(buckets, index + PREFETCH_AHEAD);
        for slot in bucket.occupied() {
            show(bucket.slot(slot));
        }
    }
}

/// Takes all items out.
fn drain(buckets: &mut [Bucket], mut give: impl FnMut(Tag, Slot)) {
    for index in 0..buckets.len() {
        prefetch_items(buckets, index + PREFETCH_AHEAD);
        for slot in buckets[index].occupied() {
            let (tag, slot) = buckets[index].take(slot);
            give(tag, slot);
        }
    }
}
