//! Probing: one member at a time by this node itself, and members that others ask it to try.
//!
//! ```text
//! 0               probe_timeout                          probe_interval
//! ping ---------- ping again, and through some others -- suspect
//! ```
//!
//! Both times grow with the local health: a node that misses answers more often than others do
//! gives itself, and so the others, more time. A failed probe counts against this node only as far
//! as those who were asked to try are silent, too: their refusal shows that packets arrive here.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::member::Member;
use super::packet::Body;
use super::{State, Swim};
use crate::model::MemberId;
use crate::time::Instant;

/// As many probes for others are under way at most; more are not begun.
const RELAYS_MAX: usize = 256;

#[derive(Debug)]
pub(super) struct Probes {
    next_at: Instant,
    pending: Option<Pending>,
    relays: BTreeMap<u64, Relay>,
    /// The last of the dead that was tried, and the nonce.
    recall: Option<(MemberId, u64)>,
}

#[derive(Debug)]
struct Pending {
    target: MemberId,
    nonce: u64,
    /// When to go through others; `None` once that is done.
    indirect_at: Option<Instant>,
    asked_count: u32,
    nack_count: u32,
    is_acked: bool,
}

#[derive(Debug)]
struct Relay {
    requester: SocketAddr,
    requester_nonce: u64,
    target: MemberId,
    expires_at: Instant,
}

impl Probes {
    pub(super) const fn new(next_at: Instant) -> Self {
        Self { next_at, pending: None, relays: BTreeMap::new(), recall: None }
    }

    pub(super) fn timeout(&self, is_accompanied: bool) -> Option<Instant> {
        let next_at = (is_accompanied || self.pending.is_some()).then_some(self.next_at);
        let indirect_at = self.pending.as_ref().and_then(|it| it.indirect_at);
        let relay_at = self.relays.values().map(|it| it.expires_at).min();
        [next_at, indirect_at, relay_at].into_iter().flatten().min()
    }

    /// Voids what is under way.
    pub(super) fn start_afresh(&mut self, now: Instant) {
        *self = Self::new(now);
    }
}

impl Swim {
    fn scaled(&self, time: Duration) -> Duration {
        time * (self.health + 1)
    }

    pub(super) fn run_probes(&mut self) {
        self.end_relays();
        let is_late = |it: &Pending| it.indirect_at.is_some_and(|at| at <= self.now);
        if self.probes.pending.as_ref().is_some_and(is_late) {
            self.probe_through_others();
        }
        if self.probes.next_at > self.now {
            return;
        }
        self.end_probe();
        self.start_probe();
    }

    fn start_probe(&mut self) {
        assert!(self.probes.pending.is_none());
        self.probes.next_at = self.now + self.scaled(self.config.probe_interval);
        let Some(target) = self.roster.next_in_round(&mut self.rng) else { return };
        self.stats.probe_count += 1;
        let nonce = self.rng.u64(..);
        self.probes.pending = Some(Pending {
            target: target.id,
            nonce,
            indirect_at: Some(self.now + self.scaled(self.config.probe_timeout)),
            asked_count: 0,
            nack_count: 0,
            is_acked: false,
        });
        self.send_to(&target, Body::Ping { target: target.id, nonce });
    }

    fn probe_through_others(&mut self) {
        let pending = self.probes.pending.as_mut().expect("a probe is under way");
        pending.indirect_at = None;
        let (id, nonce) = (pending.target, pending.nonce);
        let Some(target) = self.roster.get(id).copied() else { return };
        self.send_to(&target, Body::Ping { target: id, nonce });
        let others = self.roster.sample(self.config.indirect_probe_count, id, &mut self.rng);
        let mut asked_count = 0;
        for other in others.iter().filter(|it| it.state == State::Alive) {
            asked_count += 1;
            let address = target.address;
            self.send_to(other, Body::PingRequest { target: id, nonce, address });
        }
        let pending = self.probes.pending.as_mut().expect("a probe is under way");
        pending.asked_count = asked_count;
    }

    fn end_probe(&mut self) {
        let Some(pending) = self.probes.pending.take() else { return };
        if pending.is_acked {
            return;
        }
        self.stats.failed_probe_count += 1;
        assert!(pending.nack_count <= pending.asked_count);
        let missed =
            if pending.asked_count == 0 { 1 } else { pending.asked_count - pending.nack_count };
        self.sicken(missed);
        self.suspect(pending.target);
    }

    pub(super) fn on_ack(&mut self, from: MemberId, nonce: u64) {
        if let Some(pending) = self.probes.pending.as_mut()
            && pending.nonce == nonce
            && pending.target == from
        {
            self.on_answered();
        } else if self.probes.relays.get(&nonce).is_some_and(|it| it.target == from) {
            let relay = self.probes.relays.remove(&nonce).expect("it was there");
            self.send(relay.requester, Body::RelayedAck { nonce: relay.requester_nonce }, &[]);
        } else if self.probes.recall == Some((from, nonce)) {
            // It came back, perhaps with all that were with it.
            self.probes.recall = None;
            if let Some(member) = self.roster.get(from).copied() {
                self.send_exchange(member.address, Body::ExchangeRequest, &[]);
            }
        }
    }

    pub(super) fn on_relayed_ack(&mut self, nonce: u64) {
        if self.probes.pending.as_ref().is_some_and(|it| it.nonce == nonce) {
            self.on_answered();
        }
    }

    pub(super) fn on_nack(&mut self, nonce: u64) {
        if let Some(pending) = self.probes.pending.as_mut().filter(|it| it.nonce == nonce) {
            pending.nack_count = (pending.nack_count + 1).min(pending.asked_count);
        }
    }

    fn on_answered(&mut self) {
        let pending = self.probes.pending.as_mut().expect("a probe is under way");
        let is_first = !pending.is_acked;
        pending.is_acked = true;
        pending.indirect_at = None;
        if is_first {
            self.recover();
        }
    }

    /// Tries a member for one who got no answer from it.
    pub(super) fn relay(
        &mut self,
        requester: SocketAddr,
        requester_nonce: u64,
        target: MemberId,
        address: SocketAddr,
    ) {
        if target == self.own.id || self.probes.relays.len() >= RELAYS_MAX {
            return;
        }
        let nonce = self.rng.u64(..);
        // The requester waits for the rest of its interval; a refusal has to get there in time.
        let expires_at = self.now + self.config.probe_timeout * 4 / 5;
        let relay = Relay { requester, requester_nonce, target, expires_at };
        self.probes.relays.insert(nonce, relay);
        self.send(address, Body::Ping { target, nonce }, &[]);
    }

    fn end_relays(&mut self) {
        let expired = |it: &Relay| it.expires_at <= self.now;
        let ended = self.probes.relays.iter().filter(|(_, it)| expired(it)).map(|(id, _)| *id);
        for nonce in ended.collect::<Vec<_>>() {
            let relay = self.probes.relays.remove(&nonce).expect("it is there");
            if self.config.is_lifeguard {
                self.send(relay.requester, Body::Nack { nonce: relay.requester_nonce }, &[]);
            }
        }
    }

    /// Tries one of the dead again.
    pub(super) fn recall(&mut self, member: &Member) {
        assert_eq!(member.state, State::Dead);
        let nonce = self.rng.u64(..);
        self.probes.recall = Some((member.id, nonce));
        self.send_to(member, Body::Ping { target: member.id, nonce });
    }
}
