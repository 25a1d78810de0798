//! The nouns that every room shares.

use std::fmt;

use xxhash_rust::xxh3::xxh3_64;

use crate::time::WallTime;

/// A place in the token space: xxh3-64 of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

impl Token {
    /// The first token.
    pub const MIN: Self = Self(0);
    /// The last token.
    pub const MAX: Self = Self(u64::MAX);

    /// The token of a key.
    #[must_use]
    #[inline]
    pub fn of(key: &[u8]) -> Self {
        Self(xxh3_64(key))
    }

    /// The token after this one, if there is one.
    #[must_use]
    pub const fn next(self) -> Option<Self> {
        match self.0.checked_add(1) {
            Some(token) => Some(Self(token)),
            None => None,
        }
    }
}

/// A shard's number within its node, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

/// The contiguous range of tokens that one of a node's `count` equal shards owns.
///
/// The 128-bit product `token * count` holds both answers: its high half is the shard, its low half
/// the token's *position* within the shard, stretched over the whole `u64` range. Both grow with
/// the token, so a walk in the order of positions is a walk in the order of tokens, and no division
/// is needed on the way to a key (Lemire, "Fast random integer generation in an interval", 2019).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardRange {
    index: u16,
    count: u16,
}

impl ShardRange {
    /// The whole token space as one shard.
    pub const WHOLE: Self = Self { index: 0, count: 1 };

    /// Range of shard `index` of `count`.
    ///
    /// # Panics
    ///
    /// When `index` is not below `count`.
    #[must_use]
    pub const fn new(index: u16, count: u16) -> Self {
        assert!(index < count);
        Self { index, count }
    }

    /// The shard, of `count`, that owns `token`.
    #[must_use]
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the high half is below `count`, a u16")]
    pub const fn owner(token: Token, count: u16) -> ShardId {
        ShardId(((token.0 as u128 * count as u128) >> 64) as u16)
    }

    /// Which shard this is.
    #[must_use]
    pub const fn shard(self) -> ShardId {
        ShardId(self.index)
    }

    /// Whether the shard owns `token`.
    #[must_use]
    #[inline]
    pub const fn contains(self, token: Token) -> bool {
        Self::owner(token, self.count).0 == self.index
    }

    /// The place of `token` within the shard, stretched over the whole `u64` range.
    #[must_use]
    #[inline]
    pub const fn position(self, token: Token) -> u64 {
        token.0.wrapping_mul(self.count as u64)
    }

    /// The first token of the shard whose position is at least `position`; `None` when even the
    /// last token of the shard lies before it.
    #[must_use]
    pub const fn token_at(self, position: u64) -> Option<Token> {
        let place = ((self.index as u128) << 64) | position as u128;
        let token = place.div_ceil(self.count as u128);
        if token > u64::MAX as u128 {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, reason = "compared with u64::MAX above")]
        let token = Token(token as u64);
        if self.contains(token) { Some(token) } else { None }
    }

    /// The first token of the shard.
    #[must_use]
    pub const fn first(self) -> Token {
        match self.token_at(0) {
            Some(token) => token,
            None => panic!("a shard of at most 65,535 owns tokens"),
        }
    }
}

/// A node's number in the topology: what breaks ties between versions of the same instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u16);

/// Who a node is, for as long as its data directory lives: xxh3-64 of its public key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub u64);

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A reading of a [hybrid logical clock](crate::hlc): 48 bits of wall time in milliseconds, 16 bits
/// of counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Before every reading.
    pub const ZERO: Self = Self(0);

    /// The first reading of a millisecond.
    #[must_use]
    pub const fn from_wall(wall: WallTime) -> Self {
        Self(wall.as_millis() << 16)
    }

    /// The last reading of a millisecond.
    #[must_use]
    pub const fn last_of(wall: WallTime) -> Self {
        Self(Self::from_wall(wall).0 | 0xffff)
    }

    /// The wall time of the reading.
    #[must_use]
    pub const fn wall(self) -> WallTime {
        WallTime::from_millis(self.0 >> 16)
    }
}

/// Orders the writes of one key on all nodes: the larger version wins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// When the write was accepted.
    pub timestamp: Timestamp,
    /// Who accepted it.
    pub node: NodeId,
}

impl Version {
    /// Older than every write.
    pub const ZERO: Self = Self { timestamp: Timestamp::ZERO, node: NodeId(0) };
    /// Larger than, or equal to, every version.
    pub const MAX: Self = Self { timestamp: Timestamp(u64::MAX), node: NodeId(u16::MAX) };
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}@{}", self.timestamp.wall(), self.timestamp.0 & 0xffff, self.node.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_token_has_one_owner_and_the_order_is_kept(a: u64, b: u64, count in 1_u16..) {
            let (low, high) = (Token(a.min(b)), Token(a.max(b)));
            let (first, second) = (ShardRange::owner(low, count), ShardRange::owner(high, count));
            prop_assert!(first <= second);
            prop_assert!(second.0 < count);
            let range = ShardRange::new(first.0, count);
            prop_assert!(range.contains(low));
            if first == second {
                prop_assert!(range.position(low) <= range.position(high));
            }
        }

        #[test]
        fn a_position_leads_back_to_its_token(token: u64, count in 1_u16..) {
            let token = Token(token);
            let range = ShardRange::new(ShardRange::owner(token, count).0, count);
            prop_assert_eq!(range.token_at(range.position(token)), Some(token));
        }
    }

    #[test]
    fn neighbouring_shards_touch() {
        for count in [1_u16, 2, 3, 7, 64, 1_000, u16::MAX] {
            assert_eq!(ShardRange::new(0, count).first(), Token::MIN);
            for index in 1..count.min(100) {
                let first = ShardRange::new(index, count).first();
                assert_eq!(ShardRange::owner(Token(first.0 - 1), count), ShardId(index - 1));
            }
        }
    }
}
