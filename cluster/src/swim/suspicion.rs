//! One suspicion: how long it lasts, and who shares it.
//!
//! A `Suspicion` is a leaf: it lives from the first doubt to the refutation or the declaration of
//! death. With Lifeguard it starts long and shrinks with each member that found the same on its
//! own, so that a node which is itself in trouble, and stands alone with its doubts, is slow to
//! declare others dead.

use std::collections::BTreeSet;
use std::time::Duration;

use super::config::Config;
use crate::model::MemberId;
use crate::time::Instant;

#[derive(Debug)]
pub(super) struct Suspicion {
    started_at: Instant,
    min: Duration,
    wanted: usize,
    by: BTreeSet<MemberId>,
    /// Whether this node tells the suspected, again and again: it was the one that got no answer.
    pub(super) is_own: bool,
}

impl Suspicion {
    pub(super) fn new(config: &Config, now: Instant, live_count: usize, by: MemberId) -> Self {
        let wanted = config.confirmations_wanted(live_count);
        let min = config.suspicion_min(live_count);
        assert!(min > Duration::ZERO);
        Self { started_at: now, min, wanted, by: BTreeSet::from([by]), is_own: false }
    }

    /// Whether `by` is a new voice that still counts: then its claim is worth spreading.
    pub(super) fn confirm(&mut self, by: MemberId) -> bool {
        assert!(!self.by.is_empty(), "somebody began");
        self.by.len() <= self.wanted && self.by.insert(by)
    }

    /// One of those who share it.
    pub(super) fn voice(&self) -> MemberId {
        *self.by.first().expect("somebody began")
    }

    pub(super) fn deadline(&self, config: &Config) -> Instant {
        let confirmed = self.by.len() - 1;
        assert!(confirmed <= self.wanted);
        self.started_at + config.suspicion(self.min, confirmed, self.wanted)
    }

    /// Time during which this node did not run does not count.
    pub(super) fn postpone(&mut self, late: Duration) {
        self.started_at = self.started_at + late;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_each_voice_once_and_no_more_than_wanted() {
        let config = Config::lan();
        let mut suspicion = Suspicion::new(&config, Instant::ZERO, 100, MemberId(1));
        let alone = suspicion.deadline(&config);
        assert!(!suspicion.confirm(MemberId(1)));
        assert_eq!(suspicion.deadline(&config), alone);
        assert!(suspicion.confirm(MemberId(2)));
        assert!(suspicion.deadline(&config) < alone);
        assert!(suspicion.confirm(MemberId(3)));
        assert!(suspicion.confirm(MemberId(4)));
        assert!(!suspicion.confirm(MemberId(5)));
        assert_eq!(suspicion.deadline(&config), Instant::ZERO + config.suspicion_min(100));
    }

    #[test]
    fn time_asleep_does_not_count() {
        let config = Config::lan();
        let mut suspicion = Suspicion::new(&config, Instant::ZERO, 3, MemberId(1));
        let before = suspicion.deadline(&config);
        suspicion.postpone(Duration::from_secs(30));
        assert_eq!(suspicion.deadline(&config), before + Duration::from_secs(30));
    }
}
