//! Hybrid logical clock: versions that follow wall time, never run backwards, and order a write
//! after everything its node had seen.
//!
//! Source: Kulkarni, Demirbas, Madappa, Avva, Leone, "Logical Physical Clocks" (2014). The logical
//! part is the low 16 bits of the [`Timestamp`]; when one millisecond needs more than 65,536
//! readings, the counter carries into the next millisecond, which keeps the order and costs drift.
//!
//! # Invariants
//!
//! - Each reading is larger than every reading before it and than every timestamp observed.
//! - A remote timestamp further ahead of the wall clock than `drift_max` changes nothing.

use std::time::Duration;

use crate::model::{NodeId, Timestamp, Version};
use crate::time::WallTime;

/// A remote timestamp was too far ahead. The clock is unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("timestamp is {ahead:?} ahead of this node's clock, more than the {drift_max:?} allowed")]
pub struct DriftError {
    /// How far ahead of the wall clock the timestamp was.
    pub ahead: Duration,
    /// The bound.
    pub drift_max: Duration,
}

/// The source of one node's, or one core's, versions.
#[derive(Clone, Debug)]
pub struct HybridClock {
    node: NodeId,
    latest: Timestamp,
    drift_max: Duration,
}

impl HybridClock {
    /// A clock for `node` whose readings are all larger than `resume_after`: the highest timestamp
    /// known from an earlier run, or [`Timestamp::ZERO`].
    #[must_use]
    pub const fn new(node: NodeId, resume_after: Timestamp, drift_max: Duration) -> Self {
        Self { node, latest: resume_after, drift_max }
    }

    /// The next version, given the wall clock.
    #[inline]
    pub fn tick(&mut self, wall: WallTime) -> Version {
        let next = Timestamp(self.latest.0 + 1).max(Timestamp::from_wall(wall));
        assert!(next > self.latest);
        self.latest = next;
        Version { timestamp: next, node: self.node }
    }

    /// The version that [`HybridClock::tick`] would give next.
    #[must_use]
    pub fn peek(&self, wall: WallTime) -> Version {
        let next = Timestamp(self.latest.0 + 1).max(Timestamp::from_wall(wall));
        Version { timestamp: next, node: self.node }
    }

    /// Takes notice of a timestamp of another node, so that the next reading is larger.
    ///
    /// # Errors
    ///
    /// [`DriftError`] when it is further ahead of `wall` than the bound; the clock is unchanged.
    pub fn observe(&mut self, remote: Timestamp, wall: WallTime) -> Result<(), DriftError> {
        let ahead = remote.wall().saturating_since(wall);
        if ahead > self.drift_max {
            return Err(DriftError { ahead, drift_max: self.drift_max });
        }
        self.latest = self.latest.max(remote);
        Ok(())
    }

    /// Makes the next reading larger than `own`, a timestamp that this node has made itself: no bound
    /// applies, for a clock that was set back leaves the node's own readings ahead by any time.
    pub fn pass(&mut self, own: Timestamp) {
        self.latest = self.latest.max(own);
    }

    /// The node whose versions the clock makes from here on: a newcomer learns its number late.
    pub const fn set_node(&mut self, node: NodeId) {
        self.node = node;
    }

    /// The largest timestamp given out or observed.
    #[must_use]
    pub const fn latest(&self) -> Timestamp {
        self.latest
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DRIFT_MAX: Duration = Duration::from_millis(500);

    fn clock() -> HybridClock {
        HybridClock::new(NodeId(1), Timestamp::ZERO, DRIFT_MAX)
    }

    proptest! {
        #[test]
        fn readings_grow_however_the_wall_clock_jumps(
            walls in proptest::collection::vec(0_u64..1 << 47, 1..50)
        ) {
            let mut clock = clock();
            let mut previous = Version::ZERO;
            for wall in walls {
                let version = clock.tick(WallTime::from_millis(wall));
                prop_assert!(version > previous);
                previous = version;
            }
        }
    }

    #[test]
    fn a_reading_follows_the_wall_clock() {
        let wall = WallTime::from_millis(1_700_000_000_000);
        assert_eq!(clock().tick(wall).timestamp.wall(), wall);
    }

    #[test]
    fn an_observed_timestamp_is_exceeded() {
        let mut clock = clock();
        let wall = WallTime::from_millis(1_000);
        let remote = Timestamp(Timestamp::from_wall(wall + DRIFT_MAX).0 + 7);
        clock.observe(remote, wall).unwrap();
        assert!(clock.tick(wall).timestamp > remote);
    }

    #[test]
    fn a_timestamp_of_its_own_is_passed_however_far_ahead() {
        let mut clock = clock();
        let own = Timestamp::last_of(WallTime::from_millis(1 << 40));
        clock.pass(own);
        clock.pass(Timestamp::ZERO);
        let next = clock.tick(WallTime::from_millis(1_000)).timestamp;
        assert!(next > own);
        assert_eq!(next.wall(), WallTime::from_millis((1 << 40) + 1));
    }

    #[test]
    fn a_timestamp_beyond_the_drift_bound_changes_nothing() {
        let mut clock = clock();
        let wall = WallTime::from_millis(1_000);
        let ahead = DRIFT_MAX + Duration::from_millis(1);
        let error = clock.observe(Timestamp::from_wall(wall + ahead), wall).unwrap_err();
        assert_eq!(error, DriftError { ahead, drift_max: DRIFT_MAX });
        assert_eq!(clock.latest(), Timestamp::ZERO);
    }
}
