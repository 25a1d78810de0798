use std::collections::BTreeMap;
use std::time::Duration;

use gridkv_cluster::Version;
use proptest::prelude::*;

use super::*;

impl Segment {
    /// Checks everything that the module promises.
    pub(in crate::table) fn assert_invariants(&self, locator: &Locator) {
        let mut passed = vec![0_u64; self.buckets.len()];
        let mut counts = (0, 0);
        for cell in self.cells() {
            let slot = self.slot(cell);
            let item = slot.item().unwrap();
            let token = (locator.token_of)(item.key());
            let position = locator.range.position(token);
            let found = self.find(position, Tag::of(token.0), item.key());
            assert_eq!(found, Some(cell));
            let last = self.probed(position, Tag::of(token.0));
            let may_be_there = self.buckets[last].candidates(Tag::of(token.0)).next().is_some();
            assert!(
                last == cell.bucket() || may_be_there,
                "a search ahead ends where this one does"
            );
            let mut index = self.home(position);
            while index != cell.bucket() {
                passed[index] += 1;
                index = self.following(index);
            }
            counts.0 += 1;
            counts.1 += u32::from(slot.has_expiry());
            let can_expire = !item.is_tombstone() && item.expires_at().is_some();
            assert_eq!(slot.has_expiry(), can_expire);
            assert!(self.timestamp_max >= item.version().timestamp);
        }
        assert_eq!((self.item_count, self.expiring_count), counts);
        for (bucket, passed) in self.buckets.iter().zip(passed) {
            assert!(bucket.passed() == passed.min(255) || bucket.passed() == 255);
        }
    }

    /// The bucket that a search ahead comes to in the end.
    fn probed(&self, position: u64, tag: Tag) -> usize {
        let mut probe = self.begin_probe(position).expect("there is an item");
        while let Some(next) = probe.go_on(tag) {
            probe = next;
        }
        probe.index
    }

    /// Checks that no item expires before the segment says so. Holds outside a search.
    pub(in crate::table) fn assert_expiry_is_covered(&self) {
        for cell in self.cells() {
            let expires_at = self.slot(cell).item().unwrap().expires_at();
            assert!(expires_at.is_none_or(|expires_at| expires_at >= self.expiry_next));
        }
    }
}

/// The first eight bytes of a key are its token.
fn leading_bytes(key: &[u8]) -> Token {
    Token(u64::from_be_bytes(key[..8].try_into().unwrap()))
}

fn locator() -> Locator {
    Locator { range: ShardRange::WHOLE, token_of: Arc::new(leading_bytes) }
}

fn item(key: &[u8; 8], expires_at: Option<u64>) -> Slot {
    let expires_at = expires_at.map(WallTime::from_millis);
    Slot::new(&Mutation { key, value: Some(b"v"), version: Version::ZERO, expires_at })
}

proptest! {
    #[test]
    fn items_are_found_however_close_their_tokens_are(
        changes in proptest::collection::vec((any::<bool>(), 0_u64..60, 0..3_u32), 1..400),
    ) {
        let mut segment = Segment::new(0);
        let mut model = BTreeMap::new();
        for (is_insertion, number, spread) in changes {
            // Next to each other, in one bucket's reach, or all over.
            let token = number << (spread * 28);
            let (key, tag) = (token.to_be_bytes(), Tag::of(token));
            let found = segment.find(token, tag, &key);
            prop_assert_eq!(found.is_some(), model.contains_key(&token));
            match found {
                Some(cell) if !is_insertion => {
                    segment.remove(cell, &locator());
                    segment.shrink(&locator());
                    model.remove(&token);
                }
                None if is_insertion => {
                    if !segment.has_room() {
                        segment.grow(&locator());
                    }
                    segment.insert(token, tag, item(&key, (number % 3 == 0).then_some(number)));
                    model.insert(token, ());
                }
                _ => {}
            }
            segment.assert_invariants(&locator());
            segment.assert_expiry_is_covered();
        }
        if model.is_empty() {
            return Ok(());
        }
        let Split { path, given } = segment.split(20, &locator());
        prop_assert!(model.contains_key(&path));
        prop_assert_eq!(given.len(), usize::from(segment.depth));
        let mut item_count = segment.item_count;
        for (depth, other) in (1..).zip(&given) {
            prop_assert_eq!(other.depth, depth);
            other.assert_invariants(&locator());
            for cell in other.cells() {
                let position = locator().position_of(other.slot(cell));
                prop_assert_eq!((position ^ path).leading_zeros(), u32::from(depth) - 1);
            }
            item_count += other.item_count;
        }
        segment.assert_invariants(&locator());
        prop_assert_eq!(item_count as usize, model.len());
        let is_small = segment.item_count as usize * 4 <= model.len() * 3;
        prop_assert!(is_small || segment.depth == 20);
    }

    #[test]
    fn homes_and_first_positions_agree(len in 1_usize..300, depth in 0_u8..=58, inside: u64) {
        let segment = Segment::with_array(depth, len);
        let home = segment.home(inside);
        prop_assert!(home < len);
        let first = segment.first_position(home, inside);
        prop_assert!(first <= inside);
        prop_assert_eq!(segment.home(first), home);
        let next = segment.first_position(home + 1, inside);
        if next != 0 {
            prop_assert!(next > inside);
            let is_in_segment = (next ^ inside).leading_zeros() >= u32::from(depth);
            prop_assert!(is_in_segment || next.trailing_zeros() >= 64 - u32::from(depth));
            if is_in_segment && depth <= 32 {
                prop_assert_eq!(segment.home(next), home + 1);
            } else if is_in_segment {
                prop_assert!(segment.home(next) > home);
            }
            prop_assert_eq!(segment.home(next - 1), home);
        }
    }

    /// Whatever the prefix, homes are told by the bits behind it.
    #[test]
    fn homes_are_spread_over_a_segment_of_any_depth(depth in 0_u8..=48, prefix: u64, rest: u16) {
        let segment = Segment::with_array(depth, 127);
        let behind = u64::from(rest) << 48 >> depth;
        let position = (prefix & !(u64::MAX >> depth)) | behind;
        prop_assert_eq!(segment.home(position), (usize::from(rest) * 127) >> 16);
    }
}

#[test]
fn arrays_fill_the_size_classes_of_the_allocator() {
    let mut len = 0;
    let mut lens = Vec::new();
    while len < SPLIT_BUCKET_COUNT {
        len = array_len(len + len / 8 + 1);
        lens.push(len);
        let bytes = array_bytes(len);
        assert!(bytes - len * BUCKET_BYTES <= BUCKET_BYTES, "{len} buckets waste memory");
    }
    assert_eq!(
        lens,
        [1, 2, 4, 5, 6, 8, 11, 13, 16, 19, 23, 27, 32, 39, 47, 55, 64, 79, 95, 111, 127]
    );
    for count in 0..2_000 {
        assert!(item_count_max(array_len_for(count)) >= count);
    }
}

#[test]
fn growth_stays_within_its_bound() {
    let mut segment = Segment::new(0);
    let mut number = 0_u64;
    while segment.bucket_count() < 600 {
        while segment.has_room() {
            number += 1;
            let token = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            segment.insert(token, Tag::of(token), item(&token.to_be_bytes(), None));
        }
        let (before, bound) = (segment.array_bytes(), segment.growth_bytes_max());
        segment.grow(&locator());
        assert!(segment.array_bytes() <= before + bound);
    }
    let (before, bound) = (segment.array_bytes(), segment.growth_bytes_max());
    let Split { given, .. } = segment.split(16, &locator());
    let given_bytes: u64 = given.iter().map(Segment::array_bytes).sum();
    assert!(segment.array_bytes() + given_bytes <= before + bound);
}

#[test]
fn an_age_is_told_up_to_its_bound_and_never_wraps_while_stamps_are_swept() {
    let start = WallTime::from_millis(1_700_000_000_000);
    let mut segment = Segment::new(0);
    segment.grow(&locator());
    assert_eq!(segment.insert(7, Tag::of(7), item(&7_u64.to_be_bytes(), None)), 0);
    let cell = segment.find(7, Tag::of(7), &7_u64.to_be_bytes()).unwrap();
    segment.slot_mut(cell).set_stamp(stamp_at(start));
    for minutes in 0..60 * 24 {
        let now = start + Duration::from_secs(minutes * 60);
        segment.sweep_stamps(now);
        let seconds = u16::try_from(minutes * 60).unwrap_or(u16::MAX);
        assert_eq!(stamp_age(segment.slot(cell).stamp(), now), seconds.min(STAMP_AGE_MAX));
    }
    let back = WallTime::from_millis(start.as_millis() - 60_000);
    assert_eq!(stamp_age(stamp_at(start), back), 0);
}
