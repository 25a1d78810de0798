//! Walking the table in token order.
//!
//! A step shows all items of one home bucket, and goes on at the first position of the next. What
//! a step shows is thus a range of positions and nothing else: whatever the table looks like at
//! the next step (grown, split, shrunk), the ranges of two steps never overlap and leave no gap.

use gridkv_cluster::Token;

use super::bucket::{Bucket, SLOT_COUNT};
use super::item::Item;
use super::segment::Segment;
use super::{Place, Table};

/// Items are brought into the cache this many buckets ahead.
const PREFETCH_AHEAD: usize = 2;

impl Table {
    /// Shows all items from position `from` on, in token order, until about `budget` slots were
    /// looked at. Returns the position to go on from; `None` at the end.
    pub(crate) fn walk(
        &self,
        from: u64,
        budget: usize,
        show: &mut dyn FnMut(Token, Item<'_>),
    ) -> Option<u64> {
        let mut position = from;
        let mut looked_at = 0;
        let mut found = Vec::new();
        loop {
            let segment = self.directory.segment(self.directory.index_of(position));
            let home = segment.home(position);
            prefetch_items(segment.bucket(home + PREFETCH_AHEAD));
            looked_at += 1 + self.collect(segment, home, position, &mut found);
            found.sort_unstable_by_key(|(token, _)| *token);
            for (token, item) in found.drain(..) {
                show(token, item);
            }
            position = segment.first_position(home + 1, position);
            if position == 0 {
                return None;
            }
            if looked_at >= budget {
                return Some(position);
            }
        }
    }

    /// Finds the items of one home from position `from` on. Returns how many slots it looked at.
    fn collect<'a>(
        &self,
        segment: &'a Segment,
        home: usize,
        from: u64,
        found: &mut Vec<(Token, Item<'a>)>,
    ) -> usize {
        let mut slot_count = 0;
        for bucket in segment.chain(home) {
            slot_count += SLOT_COUNT;
            for slot in bucket.occupied() {
                let Some(item) = bucket.slot(slot).item() else { continue };
                let token = self.token_of(item);
                let position = self.locator.range.position(token);
                if position >= from && segment.home(position) == home {
                    found.push((token, item));
                }
            }
        }
        slot_count
    }

    /// The first place in the table's own order that `accept`s, from one on that `segment_choice`
    /// and `choice` draw at random, and round; looks at about `budget` slots.
    pub(crate) fn first_place(
        &self,
        segment_choice: u64,
        choice: usize,
        budget: usize,
        mut accept: impl FnMut(Item<'_>) -> bool,
    ) -> Option<Place> {
        let first = self.segment_at_random(segment_choice);
        let count = self.directory.segment_count();
        let mut looked_at = 0;
        for index in (first..count).chain(0..first) {
            let segment = self.directory.segment(index);
            for cell in segment.cells_from(choice) {
                looked_at += 1;
                if segment.slot(cell).item().is_some_and(&mut accept) {
                    return Some(Place { segment: index, cell });
                }
            }
            if looked_at >= budget {
                return None;
            }
        }
        None
    }
}

fn prefetch_items(bucket: Option<&Bucket>) {
    let Some(bucket) = bucket else { return };
    for slot in bucket.occupied() {
        bucket.prefetch_item(slot);
    }
}
