//! Another process with this node's identity.
//!
//! Mostly it is the past: this node was restarted, perhaps at another address, and what is said of
//! its earlier run has not died down. But a copied data directory, or a second start of the same
//! one, makes two processes that both live. They are told apart by asking: a ping goes to the other
//! address. What happens then:
//!
//! - The other answers. The one that started later says [`Output::Conflict`], whatever runs the two
//!   have reached; the one that started earlier does nothing.
//! - No answer after several tries. If the other was later, it has gone, and this node goes above
//!   the other's run, so that it is a member again. If the other was earlier, all is well.
//!
//! The earlier of two asks too, and its ping is how the later learns of it: members that know the
//! later speak of it to the earlier, but not the other way round. Nor do they for long: they then
//! gossip with the later only. So the driver tells, too, where somebody with this node's key was met.

use std::net::SocketAddr;

use super::member::{Member, State};
use super::packet::{Body, Packet};
use super::{Output, Swim};
use crate::time::Instant;

/// Pings before silence is an answer.
const TRIES_MAX: u32 = 5;

/// A question that is asked, or was lately.
#[derive(Debug)]
pub(super) struct Check {
    other: Member,
    nonce: u64,
    try_count: u32,
    is_answered: bool,
    next_at: Instant,
}

impl Check {
    pub(super) const fn timeout(&self) -> Option<Instant> {
        Some(self.next_at)
    }
}

impl Swim {
    /// Asks whether another process answers for this node, unless that is being asked.
    pub(super) fn doubt_twin(&mut self, other: &Member) {
        assert_eq!(other.id, self.own.id);
        assert_ne!(other.address, self.own.address);
        if let Some(check) = &mut self.twin
            && check.other.address == other.address
        {
            check.other.run = check.other.run.max(other.run);
            return;
        }
        if self.twin.is_none() {
            let nonce = self.rng.u64(..);
            let other = *other;
            let next_at = self.now;
            self.twin = Some(Check { other, nonce, try_count: 0, is_answered: false, next_at });
            self.run_twin_check();
        }
    }

    /// As [`Swim::doubt_twin`], of one of whom only the address is known.
    pub(super) fn suspect_twin(&mut self, address: SocketAddr) {
        if address != self.own.address && self.me.state == State::Alive {
            let (id, state) = (self.own.id, State::Alive);
            // The run that is below all others is never outdone.
            self.doubt_twin(&Member { id, address, state, incarnation: 0, run: 0 });
        }
    }

    pub(super) fn run_twin_check(&mut self) {
        let Some(check) = self.twin.as_mut().filter(|it| it.next_at <= self.now) else { return };
        if check.is_answered || check.try_count > TRIES_MAX {
            // Asked and rested: what is heard from here on may be asked again.
            self.twin = None;
            return;
        }
        check.try_count += 1;
        if check.try_count <= TRIES_MAX {
            check.next_at = self.now + self.config.probe_timeout;
            let (to, nonce) = (check.other.address, check.nonce);
            self.send(to, Body::Ping { target: self.own.id, nonce }, &[]);
            return;
        }
        let other = check.other;
        check.next_at = self.now + self.config.seed_retry_max;
        if other.rank().process > self.me.rank().process {
            self.outdo(&other);
        }
    }

    /// A packet that bears this node's own identity.
    pub(super) fn on_twin(&mut self, from: SocketAddr, packet: &Packet) {
        let header = &packet.header;
        let other = (header.started, header.sender.address);
        let mine = (self.own.run, self.own.address);
        if other == mine {
            // Its own packet: a seed that is this node under another address.
            return;
        }
        match packet.body {
            Body::Ping { target, nonce } if target == self.own.id => {
                self.send(from, Body::Ack { nonce }, &[]);
            }
            Body::Ack { nonce } => {
                let Some(check) = self.twin.as_mut().filter(|it| it.nonce == nonce) else { return };
                if check.is_answered {
                    return;
                }
                check.is_answered = true;
                check.next_at = self.now + self.config.seed_retry_max;
                if other < mine {
                    let address = header.sender.address;
                    self.outputs.push_back(Output::Conflict { address });
                }
                return;
            }
            _ => {}
        }
        if header.sender.address != self.own.address {
            self.doubt_twin(&header.sender);
        }
    }
}
