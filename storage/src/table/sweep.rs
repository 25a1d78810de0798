//! Work on the whole table that is done a little at a time: finding what has expired, and taking
//! a cleared table down.

use gridkv_cluster::{Version, WallTime};

use super::bucket::{Bucket, SLOT_COUNT};
use super::chunks::Elements;
use super::segment::{Cell, Segment, array_bytes};
use super::trie::Trie;
use super::{Place, Table, Totals};

/// What an expired item takes off an allowance, in slots: to take it out, and to free it, costs more
/// than to look at some that have not expired.
const FOUND_COST: usize = 4;

/// Goes round the segments, for ever.
#[derive(Debug, Default)]
pub(crate) struct Sweep {
    segment: u32,
    /// Where in the segment the search is; `None` before it.
    search: Option<Search>,
}

/// A search of one segment for what has expired.
#[derive(Clone, Copy, Debug)]
struct Search {
    bucket: usize,
    /// How many buckets the segment had: another number says that it was rebuilt.
    bucket_count: usize,
}

/// What one call may still do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowance {
    slot_count: usize,
    segment_count: u32,
}

impl Allowance {
    fn spend(&mut self, slot_count: usize) {
        self.slot_count = self.slot_count.saturating_sub(slot_count);
    }

    const fn is_spent(&self) -> bool {
        self.slot_count == 0 || self.segment_count == 0
    }
}

impl Table {
    /// An allowance of about `budget` slots, [`FOUND_COST`] for each item found, and of one round of
    /// the table.
    pub(crate) const fn allowance(&self, budget: usize) -> Allowance {
        Allowance { slot_count: budget, segment_count: self.directory.segment_count() }
    }

    /// The next expired item; `None` when the allowance is spent. The caller must remove or bury
    /// it before the next call.
    pub(crate) fn next_expired(
        &mut self,
        sweep: &mut Sweep,
        allowance: &mut Allowance,
        now: WallTime,
    ) -> Option<Place> {
        while !allowance.is_spent() {
            if sweep.segment >= self.directory.segment_count() {
                *sweep = Sweep::default();
            }
            let segment = self.directory.segment_mut(sweep.segment);
            match sweep.search {
                Some(search) if search.bucket_count != segment.bucket_count() => {
                    sweep.search = None;
                }
                Some(search) if search.bucket == search.bucket_count => {
                    *sweep = Sweep { segment: sweep.segment + 1, search: None };
                    allowance.segment_count -= 1;
                }
                Some(Search { bucket, bucket_count }) => {
                    if let Some(slot) = segment.next_expired(bucket, now) {
                        let cell = Cell::new(bucket, slot);
                        allowance.spend(FOUND_COST);
                        return Some(Place { segment: sweep.segment, cell });
                    }
                    sweep.search = Some(Search { bucket: bucket + 1, bucket_count });
                    allowance.spend(SLOT_COUNT);
                }
                None => sweep.enter(segment, allowance, now),
            }
        }
        None
    }

    /// Removes everything but what is newer than `version`. What is removed stays in memory until
    /// the demolition has come to it.
    ///
    /// Only segments in which something may be newer are looked into, and none where nothing is.
    pub(crate) fn clear(&mut self, version: Version) -> Demolition {
        let mut old = std::mem::replace(self, Self::new(self.locator.clone()));
        if old.timestamp_max < version.timestamp {
            return Demolition::of(old);
        }
        for index in 0..old.directory.segment_count() {
            let segment = old.directory.segment(index);
            if segment.item_count() == 0 || segment.timestamp_max() < version.timestamp {
                continue;
            }
            for cell in segment.cells().collect::<Vec<_>>() {
                let segment = old.directory.segment_mut(index);
                if segment.slot(cell).item().is_some_and(|item| item.version() > version) {
                    let slot = segment.remove(cell, &old.locator);
                    let item = slot.item().expect("what was removed is an item");
                    old.totals.subtract(Totals::of(item));
                    self.insert_slot(self.token_of(item), slot);
                }
            }
        }
        Demolition::of(old)
    }
}

impl Sweep {
    fn enter(&mut self, segment: &mut Segment, allowance: &mut Allowance, now: WallTime) {
        allowance.spend(1);
        if segment.sweep_stamps(now) {
            allowance.spend(segment.slot_count());
        }
        let bucket_count = segment.bucket_count();
        // A segment where nothing is due is entered at its end.
        let mut bucket = bucket_count;
        if segment.is_due(now) {
            segment.start_search();
            bucket = 0;
        }
        self.search = Some(Search { bucket, bucket_count });
    }
}

/// A cleared table that is taken down bucket by bucket.
pub(crate) struct Demolition {
    segments: Elements<Segment>,
    buckets: Vec<Bucket>,
    trie: Trie,
    /// Memory of arrays and items that are left.
    bytes: u64,
}

impl Demolition {
    fn of(table: Table) -> Self {
        let Table { directory, totals, array_bytes, .. } = table;
        let bytes = totals.item_bytes + array_bytes;
        let (trie, segments) = directory.into_parts();
        Self { segments, buckets: Vec::new(), trie, bytes }
    }

    /// Memory of what is left, in bytes.
    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes + self.trie.bytes()
    }

    /// Whether there was nothing to take down.
    pub(crate) const fn is_nothing(&self) -> bool {
        self.bytes == 0
    }

    /// Frees about `budget` slots and their items. Returns whether all is done.
    pub(crate) fn step(&mut self, budget: usize) -> bool {
        let mut looked_at = 0;
        while looked_at < budget {
            looked_at += 1;
            if let Some(bucket) = self.buckets.pop() {
                looked_at += SLOT_COUNT;
                for slot in bucket.occupied() {
                    let item = bucket.slot(slot).item().expect("an occupied slot holds an item");
                    self.bytes -= item.allocation_bytes() as u64;
                }
                continue;
            }
            let Some(segment) = self.segments.next() else {
                assert_eq!(self.bytes, 0, "all memory of a cleared table was counted");
                looked_at += SLOT_COUNT;
                if self.trie.shed() {
                    return true;
                }
                continue;
            };
            self.bytes -= array_bytes(segment.bucket_count()) as u64;
            self.buckets = segment.into_buckets();
        }
        false
    }
}
