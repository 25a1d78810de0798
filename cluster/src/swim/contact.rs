//! Whom this node approaches without being probed or asked: seeds, a partner for an exchange, the
//! dead.
//!
//! While nobody else is known to live, the seeds are tried for ever, so the order in which nodes
//! start does not matter. Later a seed that is not among the live is still tried now and then:
//! two halves that were started apart, or have forgotten each other, find together. At most
//! [`SEEDS_AT_ONCE`] are tried each time, so one of `s` such seeds waits for
//! `s / SEEDS_AT_ONCE` times [`Config::seed_recheck_interval`] on average.

use std::net::SocketAddr;
use std::time::Duration;

use super::config::Config;
use super::packet::Body;
use super::{Swim, fraction};
use crate::time::Instant;

/// More seeds than this are not kept.
const SEEDS_MAX: usize = 1_000;
/// As many of them are tried at once.
const SEEDS_AT_ONCE: usize = 8;

#[derive(Debug)]
pub(super) struct Contact {
    seeds: Vec<SocketAddr>,
    seed_at: Instant,
    seed_wait: Duration,
    was_alone: bool,
    exchange_at: Instant,
    recall_at: Instant,
}

impl Contact {
    pub(super) fn new(config: &Config, now: Instant, rng: &mut fastrand::Rng) -> Self {
        Self {
            seeds: Vec::new(),
            seed_at: now,
            seed_wait: config.seed_retry_min,
            was_alone: true,
            exchange_at: now + fraction(config.exchange_interval, rng),
            recall_at: now + fraction(config.exchange_interval, rng),
        }
    }

    pub(super) fn timeout(&self, is_accompanied: bool, has_dead: bool) -> Option<Instant> {
        let seed_at = (!self.seeds.is_empty()).then_some(self.seed_at);
        let exchange_at = is_accompanied.then_some(self.exchange_at);
        let recall_at = (has_dead || !is_accompanied).then_some(self.recall_at);
        [seed_at, exchange_at, recall_at].into_iter().flatten().min()
    }

    pub(super) fn exchange_soon(&mut self, now: Instant) {
        self.exchange_at = now;
    }
}

impl Swim {
    pub(super) fn join(&mut self, seeds: &[SocketAddr]) {
        let own = self.own.address;
        self.contact.seeds = seeds.iter().copied().filter(|it| *it != own).collect();
        self.contact.seeds.truncate(SEEDS_MAX);
        self.contact.seed_wait = self.config.seed_retry_min;
        self.contact.seed_at = self.now;
        self.try_seeds();
    }

    pub(super) fn run_contact(&mut self) {
        self.notice_company();
        self.try_seeds();
        if self.contact.exchange_at <= self.now {
            let interval = self.config.exchange_wait(self.roster.live_count() + 1);
            self.contact.exchange_at = self.now + interval / 2 + fraction(interval, &mut self.rng);
            let partner = self.roster.sample(1, self.own.id, &mut self.rng);
            if let Some(member) = partner.first() {
                self.send_exchange(member.address, Body::ExchangeRequest, &[]);
            }
        }
        if self.contact.recall_at <= self.now {
            let interval = self.config.exchange_interval;
            self.contact.recall_at = self.now + interval / 2 + fraction(interval, &mut self.rng);
            let is_alone = self.roster.live_count() == 0;
            let dead = self.roster.next_dead();
            // One that nobody remembers, and that was given no seeds, still knows where others were.
            let member = dead.or_else(|| is_alone.then(|| self.roster.buried(&mut self.rng))?);
            if let Some(member) = member {
                self.recall(&member);
            }
        }
    }

    fn notice_company(&mut self) {
        let is_alone = self.roster.live_count() == 0;
        if is_alone && !self.contact.was_alone {
            // Everybody is gone: begin as at the start.
            self.contact.seed_wait = self.config.seed_retry_min;
            self.contact.seed_at = self.contact.seed_at.min(self.now + self.contact.seed_wait);
        }
        if !is_alone && self.contact.was_alone {
            // Whoever made this node known to another has just exchanged with it.
            let interval = self.config.exchange_wait(self.roster.live_count() + 1);
            self.contact.exchange_at = self.now + interval / 2 + fraction(interval, &mut self.rng);
        }
        self.contact.was_alone = is_alone;
    }

    fn try_seeds(&mut self) {
        let is_alone = self.roster.live_count() == 0;
        if self.contact.seeds.is_empty() || self.contact.seed_at > self.now {
            return;
        }
        if is_alone {
            self.rng.shuffle(&mut self.contact.seeds);
            for to in self.contact.seeds.iter().copied().take(SEEDS_AT_ONCE).collect::<Vec<_>>() {
                self.send_exchange(to, Body::ExchangeRequest, &[]);
            }
            let wait = self.contact.seed_wait;
            self.contact.seed_wait = (wait * 2).min(self.config.seed_retry_max);
            self.contact.seed_at = self.now + wait / 2 + fraction(wait, &mut self.rng);
            return;
        }
        let wait = self.config.seed_recheck_interval;
        self.contact.seed_at = self.now + wait / 2 + fraction(wait, &mut self.rng);
        let is_known = |seed: &SocketAddr| self.roster.live().any(|it| it.address == *seed);
        let strange = self.contact.seeds.iter().copied().filter(|it| !is_known(it));
        let mut strange: Vec<SocketAddr> = strange.collect();
        self.rng.shuffle(&mut strange);
        for to in strange.into_iter().take(SEEDS_AT_ONCE) {
            self.send_exchange(to, Body::ExchangeRequest, &[]);
        }
    }
}
