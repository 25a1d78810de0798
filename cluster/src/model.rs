//! The nouns that every room shares.

use std::fmt;

use crate::time::WallTime;

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
