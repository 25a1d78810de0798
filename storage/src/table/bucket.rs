//! One cache line of the index: seven slots and a tag byte for each.
//!
//! ```text
//!  0                 7        8              64
//!  +-----------------+--------+--------------+
//!  | 7 tags, 1 byte  | passed | 7 slots of   |
//!  | each; 0 = empty |        | 8 bytes each |
//!  +-----------------+--------+--------------+
//! ```
//!
//! The tags of a bucket are compared all at once, as bytes of one word. `passed` counts the items
//! that wanted this bucket or one before it and lie in one behind it: while it is 0, a search ends
//! here. At 255 it sticks until the segment is rebuilt.

use super::item::Slot;
use super::prefetch::prefetch_line;

/// Slots of a bucket.
pub(super) const SLOT_COUNT: usize = 7;

const LOW_BITS: u64 = 0x0101_0101_0101_0101;
const LOW_SEVEN: u64 = 0x7f7f_7f7f_7f7f_7f7f;
const TAG_HIGH_BITS: u64 = 0x0080_8080_8080_8080;
const PASSED_SHIFT: u32 = 56;
const PASSED_STUCK: u64 = 0xff;

const _: () = assert!(size_of::<Bucket>() == 64);
const _: () = assert!(align_of::<Bucket>() == 64);

/// What a slot shows of its key. Never 0, which says that the slot is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag(u8);

impl Tag {
    /// The tag of a token: its low byte, the one that has least to do with its position.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the low byte is meant")]
    pub(super) const fn of(token: u64) -> Self {
        let low = token as u8;
        Self(if low == 0 { 1 } else { low })
    }
}

/// Indexes of slots, in order.
#[derive(Clone, Copy)]
pub(super) struct Slots(u64);

impl Iterator for Slots {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let index = self.0.trailing_zeros() / 8;
        self.0 &= self.0 - 1;
        Some(index as usize)
    }
}

/// Seven slots.
#[repr(C, align(64))]
pub(super) struct Bucket {
    meta: u64,
    slots: [Slot; SLOT_COUNT],
}

impl Bucket {
    /// A bucket without items.
    pub(super) const fn new() -> Self {
        Self { meta: 0, slots: [const { Slot::EMPTY }; SLOT_COUNT] }
    }

    /// The slots whose tag byte is `byte`.
    #[inline]
    const fn equal(&self, byte: u8) -> Slots {
        let difference = self.meta ^ (LOW_BITS * byte as u64);
        // The high bit of a byte is set where any of the byte's bits is: no carry leaves a byte.
        let differs = ((difference & LOW_SEVEN) + LOW_SEVEN) | difference;
        Slots(!differs & TAG_HIGH_BITS)
    }

    /// The slots that may hold a key of this tag.
    #[inline]
    pub(super) const fn candidates(&self, tag: Tag) -> Slots {
        self.equal(tag.0)
    }

    /// The slots that hold an item.
    #[inline]
    pub(super) const fn occupied(&self) -> Slots {
        Slots(self.equal(0).0 ^ TAG_HIGH_BITS)
    }

    /// The first empty slot.
    #[inline]
    pub(super) fn vacant(&self) -> Option<usize> {
        self.equal(0).next()
    }

    /// A slot.
    #[inline]
    pub(super) const fn slot(&self, index: usize) -> &Slot {
        &self.slots[index]
    }

    /// A slot, to change. What is put into it must not change whether it is empty.
    #[inline]
    pub(super) const fn slot_mut(&mut self, index: usize) -> &mut Slot {
        &mut self.slots[index]
    }

    /// Fills an empty slot.
    pub(super) fn put(&mut self, index: usize, tag: Tag, slot: Slot) {
        assert!(self.slots[index].is_empty());
        assert!(!slot.is_empty());
        self.meta |= u64::from(tag.0) << (8 * index);
        self.slots[index] = slot;
    }

    /// Empties a slot.
    pub(super) const fn take(&mut self, index: usize) -> (Tag, Slot) {
        #[expect(clippy::cast_possible_truncation, reason = "the byte of the slot is meant")]
        let tag = (self.meta >> (8 * index)) as u8;
        assert!(tag != 0);
        self.meta &= !(0xff << (8 * index));
        (Tag(tag), std::mem::replace(&mut self.slots[index], Slot::EMPTY))
    }

    /// How many items passed the bucket.
    #[inline]
    pub(super) const fn passed(&self) -> u64 {
        self.meta >> PASSED_SHIFT
    }

    /// One more item passed.
    pub(super) const fn pass(&mut self) {
        if self.passed() != PASSED_STUCK {
            self.meta += 1 << PASSED_SHIFT;
        }
    }

    /// An item that passed is gone.
    pub(super) const fn unpass(&mut self) {
        assert!(self.passed() != 0);
        if self.passed() != PASSED_STUCK {
            self.meta -= 1 << PASSED_SHIFT;
        }
    }

    /// Brings the bucket into the cache.
    #[inline]
    pub(super) fn prefetch(&self) {
        prefetch_line(std::ptr::from_ref(self).addr());
    }

    /// Brings the first two lines of a slot's item into the cache.
    #[inline]
    pub(super) fn prefetch_item(&self, index: usize) {
        let address = self.slots[index].address();
        prefetch_line(address);
        prefetch_line(address + 64);
    }
}

#[cfg(test)]
mod tests {
    use gridkv_cluster::{Mutation, Version};
    use proptest::prelude::*;

    use super::*;

    fn slot() -> Slot {
        let version = Version::ZERO;
        Slot::new(&Mutation { key: b"k", value: Some(b"v"), version, expires_at: None })
    }

    proptest! {
        #[test]
        fn tags_are_found_where_they_are(tags in proptest::collection::vec(any::<u8>(), SLOT_COUNT), passed in 0..255) {
            let mut bucket = Bucket::new();
            for (index, tag) in tags.iter().enumerate() {
                if *tag != 0 {
                    bucket.put(index, Tag(*tag), slot());
                }
            }
            for _ in 0..passed {
                bucket.pass();
            }
            for tag in 1..=255 {
                let expected: Vec<usize> = (0..SLOT_COUNT).filter(|at| tags[*at] == tag).collect();
                prop_assert_eq!(bucket.candidates(Tag(tag)).collect::<Vec<_>>(), expected);
            }
            let occupied: Vec<usize> = (0..SLOT_COUNT).filter(|at| tags[*at] != 0).collect();
            prop_assert_eq!(bucket.vacant(), tags.iter().position(|tag| *tag == 0));
            prop_assert_eq!(&bucket.occupied().collect::<Vec<_>>(), &occupied);
            for index in occupied {
                prop_assert_eq!(bucket.take(index).0, Tag(tags[index]));
            }
            prop_assert_eq!(bucket.occupied().count(), 0);
        }
    }

    #[test]
    fn the_count_of_the_passed_sticks_at_its_bound() {
        let mut bucket = Bucket::new();
        for _ in 0..254 {
            bucket.pass();
        }
        bucket.unpass();
        assert_eq!(bucket.passed(), 253);
        for _ in 0..10 {
            bucket.pass();
        }
        assert_eq!(bucket.passed(), 255);
        bucket.unpass();
        assert_eq!(bucket.passed(), 255);
        assert_eq!(bucket.vacant(), Some(0));
    }
}
