//! Whether this node's clock is ahead of the others'.
//!
//! Replicas refuse versions from too far ahead, but a node's own replica judges by the same wrong
//! clock. So a coordinator whose clock most others find ahead writes nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::NodeId;
use crate::time::{Instant, Now, WallTime};

/// How long what was heard counts.
const MEMORY: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(super) struct Skew {
    /// How far each clock is ahead of this node's, in milliseconds, and when that was heard.
    heard: BTreeMap<NodeId, (i64, Instant)>,
}

impl Skew {
    pub(super) fn note(&mut self, now: Now, from: NodeId, remote: WallTime) {
        let millis = |time: WallTime| i64::try_from(time.as_millis()).expect("48 bits");
        self.heard.insert(from, (millis(remote) - millis(now.wall), now.at));
    }

    /// Whether more than half of those heard of late are behind by more than `drift_max`.
    pub(super) fn is_ahead(&self, now: Instant, drift_max: Duration) -> bool {
        let bound = i64::try_from(drift_max.as_millis()).unwrap_or(i64::MAX);
        let (mut count, mut behind) = (0, 0);
        for (millis, at) in self.heard.values() {
            if now.saturating_since(*at) <= MEMORY {
                count += 1;
                behind += usize::from(*millis < -bound);
            }
        }
        behind * 2 > count
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (NodeId, i64)> {
        self.heard.iter().map(|(node, (millis, _))| (*node, *millis))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_ahead_when_most_others_say_so() {
        let mut skew = Skew::default();
        let (drift_max, wall) = (Duration::from_millis(500), WallTime::from_millis(3_600_000));
        let at = |seconds| Instant::ZERO + Duration::from_secs(seconds);
        let now = |seconds| Now { at: at(seconds), wall };
        assert!(!skew.is_ahead(at(0), drift_max));
        skew.note(now(0), NodeId(2), WallTime::from_millis(3_599_000));
        assert!(skew.is_ahead(at(1), drift_max));
        skew.note(now(1), NodeId(3), wall);
        assert!(!skew.is_ahead(at(1), drift_max), "one of two");
        skew.note(now(1), NodeId(3), WallTime::from_millis(0));
        assert!(skew.is_ahead(at(1), drift_max));
        assert!(!skew.is_ahead(at(12), drift_max), "that was long ago");
    }
}
