//! Which shard of a node owns a token.

use std::ops::RangeInclusive;

use super::{HASH_BITS, SLOT_BITS, SLOT_COUNT, Slot, Token};

/// A shard's number within its node, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

/// The contiguous range of slots that one of a node's `count` shards owns: as many as the others, or
/// one fewer.
///
/// A token's *position* is its place within the shard, stretched by a power of two: it grows with the
/// token, the first position is 0, and the last lies in the upper half of the `u64` range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardRange {
    index: u16,
    count: u16,
    /// The first slot, and how many there are.
    first: u16,
    len: u16,
    /// By how many bits positions are stretched.
    stretch: u8,
}

impl ShardRange {
    /// A node has so many shards at most: each owns a slot.
    pub const COUNT_MAX: u16 = SLOT_COUNT;

    /// All slots as one shard.
    pub const WHOLE: Self = Self::new(0, 1);

    /// Range of shard `index` of `count`.
    ///
    /// # Panics
    ///
    /// When `index` is not below `count`, or `count` above [`ShardRange::COUNT_MAX`].
    #[must_use]
    pub const fn new(index: u16, count: u16) -> Self {
        assert!(index < count);
        assert!(count <= Self::COUNT_MAX);
        let (first, end) = (first_slot(index, count), first_slot(index + 1, count));
        let len = end - first;
        assert!(len > 0);
        // As many bits as all slots have beyond those that tell this shard's slots apart.
        let used_bits = u16::BITS - (len - 1).leading_zeros();
        #[expect(clippy::cast_possible_truncation, reason = "at most 14")]
        let stretch = (SLOT_BITS - used_bits) as u8;
        Self { index, count, first, len, stretch }
    }

    /// The shard, of `count`, that owns `token`.
    #[must_use]
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the quotient is below `count`, a u16")]
    pub const fn owner(token: Token, count: u16) -> ShardId {
        ShardId(((token.slot().number() as u32 * count as u32) >> SLOT_BITS) as u16)
    }

    /// The shards, of `count`, that own tokens from `first` to `last`.
    #[must_use]
    pub fn owners((first, last): (Token, Token), count: u16) -> RangeInclusive<u16> {
        assert!(first <= last);
        Self::owner(first, count).0..=Self::owner(last, count).0
    }

    /// Which shard this is.
    #[must_use]
    pub const fn shard(self) -> ShardId {
        ShardId(self.index)
    }

    /// The slots of the shard, in order.
    pub fn slots(self) -> impl Iterator<Item = Slot> {
        (self.first..self.first + self.len).map(Slot)
    }

    /// Whether the shard owns `token`.
    #[must_use]
    #[inline]
    pub const fn contains(self, token: Token) -> bool {
        Self::owner(token, self.count).0 == self.index
    }

    /// The place of a token of the shard, stretched over the `u64` range.
    #[must_use]
    #[inline]
    pub const fn position(self, token: Token) -> u64 {
        token.0.wrapping_sub(self.first().0) << self.stretch
    }

    /// The first token of the shard whose position is at least `position`; `None` when even the
    /// last token of the shard lies before it.
    #[must_use]
    pub const fn token_at(self, position: u64) -> Option<Token> {
        let offset = position.div_ceil(1 << self.stretch);
        if offset > self.last().0 - self.first().0 {
            return None;
        }
        Some(Token(self.first().0 + offset))
    }

    /// The first token of the shard.
    #[must_use]
    #[inline]
    pub const fn first(self) -> Token {
        Token((self.first as u64) << HASH_BITS)
    }

    /// The last token of the shard.
    #[must_use]
    pub const fn last(self) -> Token {
        Slot(self.first + self.len - 1).last()
    }
}

/// The first slot of shard `index` of `count`; the number of slots for `index == count`.
#[expect(clippy::cast_possible_truncation, reason = "at most the number of slots")]
const fn first_slot(index: u16, count: u16) -> u16 {
    (index as u32 * SLOT_COUNT as u32).div_ceil(count as u32) as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const COUNTS: RangeInclusive<u16> = 1..=ShardRange::COUNT_MAX;

    proptest! {
        #[test]
        fn every_token_has_one_owner_and_the_order_is_kept(a: u64, b: u64, count in COUNTS) {
            let (low, high) = (Token(a.min(b)), Token(a.max(b)));
            let (first, second) = (ShardRange::owner(low, count), ShardRange::owner(high, count));
            prop_assert!(first <= second);
            prop_assert!(second.0 < count);
            let range = ShardRange::new(first.0, count);
            prop_assert!(range.contains(low));
            prop_assert!((range.first()..=range.last()).contains(&low));
            if low < high && first == second {
                prop_assert!(range.position(low) < range.position(high));
            }
        }

        #[test]
        fn a_position_leads_back_to_its_token(token: u64, count in COUNTS) {
            let token = Token(token);
            let range = ShardRange::new(ShardRange::owner(token, count).0, count);
            prop_assert_eq!(range.token_at(range.position(token)), Some(token));
        }

        #[test]
        fn the_owners_of_a_shard_s_tokens_are_those_that_it_touches(
            index: u16, count in COUNTS, other in COUNTS,
        ) {
            let range = ShardRange::new(index % count, count);
            let owners = ShardRange::owners((range.first(), range.last()), other);
            for slot in range.slots() {
                prop_assert!(owners.contains(&ShardRange::owner(slot.first(), other).0));
            }
            for owner in owners {
                let owner = ShardRange::new(owner, other);
                prop_assert!(owner.first() <= range.last() && range.first() <= owner.last());
            }
        }

        #[test]
        fn keys_of_one_slot_have_one_owner(slot in 0..SLOT_COUNT, count in COUNTS) {
            let slot = Slot::new(slot).expect("it is one");
            prop_assert_eq!(
                ShardRange::owner(slot.first(), count), ShardRange::owner(slot.last(), count)
            );
        }
    }

    #[test]
    fn neighbouring_shards_touch_and_the_last_ends_with_the_last_token() {
        for count in [1_u16, 2, 3, 7, 64, 1_000, ShardRange::COUNT_MAX] {
            assert_eq!(ShardRange::new(0, count).first(), Token::MIN);
            assert_eq!(ShardRange::new(count - 1, count).last(), Token::MAX);
            for index in 1..count.min(100) {
                let first = ShardRange::new(index, count).first();
                assert_eq!(ShardRange::new(index - 1, count).last().next(), Some(first));
                assert_eq!(ShardRange::owner(Token(first.0 - 1), count), ShardId(index - 1));
            }
        }
    }

    #[test]
    fn positions_reach_into_the_upper_half() {
        for count in [1_u16, 2, 3, 5, 7, 64, 1_000, 9_999, ShardRange::COUNT_MAX] {
            for index in [0, count / 2, count - 1] {
                let range = ShardRange::new(index, count);
                assert_eq!(range.position(range.first()), 0);
                assert!(range.position(range.last()) >> 63 == 1, "shard {index} of {count}");
                let behind = range.position(range.last()).checked_add(1 << range.stretch);
                assert_eq!(behind.and_then(|position| range.token_at(position)), None);
            }
        }
    }
}
