//! What a membership machine can be told, and the times that follow from it.
//!
//! The scaled times are computed in whole numbers, so that a seed replays alike everywhere.

use std::net::SocketAddr;
use std::time::Duration;

use crate::model::MemberId;

/// At most this many members are remembered, the dead among them; as many more are only known to be
/// buried.
pub const MEMBERS_MAX: usize = 10_000;

/// The times and bounds of the protocol. There is no default: [`Config::lan`] says what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// One member is probed in each of these; longer while this node is in bad health.
    pub probe_interval: Duration,
    /// How long a direct answer may take before other members are asked to try.
    pub probe_timeout: Duration,
    /// How many members are asked to try.
    pub indirect_probe_count: usize,
    /// A suspicion with enough confirmations lasts so many probe intervals, times the decimal
    /// logarithm of the number of members.
    pub suspicion_multiplier: u32,
    /// A suspicion that nobody confirms lasts so many times longer (Lifeguard only).
    pub suspicion_max_factor: u32,
    /// So many confirmations shrink a suspicion to its shortest, at most 8 (Lifeguard only).
    pub suspicion_confirmations: usize,
    /// While there is news, it is sent this often, besides riding on the probes.
    pub gossip_interval: Duration,
    /// To how many members.
    pub gossip_fanout: usize,
    /// How often the whole list is exchanged with some member; longer in clusters above 32 members.
    /// Also how often one of the dead is probed, so that none of `d` dead members that can be
    /// reached again goes unnoticed for longer than `d` of these.
    pub exchange_interval: Duration,
    /// The first wait before the seeds are tried again while nobody else is known; it doubles.
    pub seed_retry_min: Duration,
    /// The longest such wait.
    pub seed_retry_max: Duration,
    /// How often a seed that is not among the live members is tried once others are known.
    pub seed_recheck_interval: Duration,
    /// How long the dead and those who left are remembered.
    pub forget_after: Duration,
    /// News is sent so many times, times the binary logarithm of the number of members.
    pub retransmit_multiplier: u32,
    /// No datagram is longer. What the driver adds (a signature) comes on top.
    pub datagram_bytes_max: usize,
    /// Local health, suspicions that shrink with confirmations, refusals from those who probe for
    /// others, and telling the suspected first. Without it: plain SWIM.
    pub is_lifeguard: bool,
}

impl Config {
    /// For nodes of one data centre: a dead node of a small cluster is declared dead in about two
    /// seconds, and a tenth of all datagrams may be lost.
    #[must_use]
    pub const fn lan() -> Self {
        Self {
            probe_interval: Duration::from_millis(350),
            probe_timeout: Duration::from_millis(150),
            indirect_probe_count: 3,
            suspicion_multiplier: 3,
            suspicion_max_factor: 6,
            suspicion_confirmations: 3,
            gossip_interval: Duration::from_millis(150),
            gossip_fanout: 3,
            exchange_interval: Duration::from_secs(10),
            seed_retry_min: Duration::from_millis(500),
            seed_retry_max: Duration::from_secs(5),
            seed_recheck_interval: Duration::from_secs(60),
            forget_after: Duration::from_secs(3_600),
            retransmit_multiplier: 2,
            datagram_bytes_max: 1_200,
            is_lifeguard: true,
        }
    }

    /// # Panics
    ///
    /// When the relations between the numbers do not hold.
    pub(super) fn assert_valid(&self) {
        assert!(self.probe_timeout > Duration::ZERO);
        assert!(self.probe_timeout * 2 <= self.probe_interval, "others need time to try, too");
        assert!(self.gossip_interval > Duration::ZERO);
        assert!(self.exchange_interval >= self.probe_interval);
        assert!(self.seed_retry_min > Duration::ZERO);
        assert!(self.seed_retry_min <= self.seed_retry_max);
        assert!(self.seed_retry_max <= self.seed_recheck_interval);
        assert!(self.suspicion_multiplier > 0);
        assert!(self.suspicion_max_factor > 0);
        assert!(self.suspicion_confirmations > 0);
        assert!(self.suspicion_confirmations < LOG2_MILLI.len());
        assert!(self.gossip_fanout > 0);
        assert!(self.retransmit_multiplier > 0);
        assert!(self.datagram_bytes_max >= 256, "a packet with a few claims has to fit");
        assert!(self.datagram_bytes_max <= 65_000);
    }

    /// The shortest suspicion among `live_count` members.
    pub(super) fn suspicion_min(&self, live_count: usize) -> Duration {
        let log10_milli = (live_count.max(1).ilog2() * 301).max(1_000);
        self.probe_interval * self.suspicion_multiplier * log10_milli / 1_000
    }

    /// How many confirmations a suspicion waits for: none where there are too few to give them.
    pub(super) const fn confirmations_wanted(&self, live_count: usize) -> usize {
        let enough = live_count >= self.suspicion_confirmations + 2;
        if self.is_lifeguard && enough { self.suspicion_confirmations } else { 0 }
    }

    /// How long a suspicion lasts that `confirmed` of `wanted` others share.
    pub(super) fn suspicion(&self, min: Duration, confirmed: usize, wanted: usize) -> Duration {
        assert!(wanted < LOG2_MILLI.len());
        if wanted == 0 {
            return min;
        }
        let max = min * self.suspicion_max_factor;
        let share = LOG2_MILLI[confirmed.min(wanted)] * 1_000 / LOG2_MILLI[wanted];
        (max - (max - min) * share / 1_000).max(min)
    }

    /// How often news is sent among `live_count` members.
    pub(super) fn retransmit_max(&self, live_count: usize) -> u32 {
        self.retransmit_multiplier * (live_count.max(1).ilog2() + 1)
    }

    /// How often the whole list is exchanged among `live_count` members.
    pub(super) fn exchange_wait(&self, live_count: usize) -> Duration {
        let doublings_above_32 = (live_count.max(1).ilog2() + 1).saturating_sub(5);
        self.exchange_interval * doublings_above_32.max(1)
    }
}

/// A thousand times the binary logarithm of index + 1.
const LOG2_MILLI: [u32; 9] = [0, 1_000, 1_585, 2_000, 2_322, 2_585, 2_807, 3_000, 3_170];

/// Who the machine speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Own {
    /// The node, for as long as its data directory lives.
    pub id: MemberId,
    /// Where other members reach it, by datagrams as by TCP.
    pub address: SocketAddr,
    /// Wall-clock milliseconds at the start of this process: tells two runs of one node apart.
    pub run: u64,
    /// A hash of the cluster's name. Packets of other clusters are refused.
    pub cluster: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suspicion_shrinks_with_each_confirmation_and_never_below_its_minimum() {
        let config = Config::lan();
        config.assert_valid();
        let min = config.suspicion_min(100);
        let times: Vec<Duration> = (0..6).map(|it| config.suspicion(min, it, 3)).collect();
        assert_eq!(times[0], min * config.suspicion_max_factor);
        assert!(times[0] > times[1] && times[1] > times[2] && times[2] > times[3]);
        assert_eq!(times[3], min);
        assert_eq!(times[5], min);
    }

    #[test]
    fn a_small_cluster_waits_for_no_confirmations() {
        let config = Config::lan();
        assert_eq!(config.confirmations_wanted(3), 0);
        assert_eq!(config.confirmations_wanted(5), 3);
        assert_eq!(Config { is_lifeguard: false, ..config }.confirmations_wanted(100), 0);
    }

    #[test]
    fn times_grow_with_the_logarithm_of_the_cluster() {
        let config = Config::lan();
        assert_eq!(config.suspicion_min(3), config.probe_interval * 3);
        assert!(config.suspicion_min(1_000) < config.probe_interval * 9);
        assert_eq!(config.exchange_wait(3), config.exchange_interval);
        assert_eq!(config.exchange_wait(1_000), config.exchange_interval * 5);
        assert_eq!(config.retransmit_max(3), 4);
        assert_eq!(config.retransmit_max(1_000), 20);
    }
}
