//! Who is there: a member of the cluster knows the others, and notices when one dies.
//!
//! Sources: Das, Gupta, Motivala, "SWIM: Scalable Weakly-consistent Infection-style Process Group
//! Membership Protocol" (2002); Dadgar, Phillips, Currey, "Lifeguard: Local Health Awareness for
//! More Accurate Failure Detection" (2018).
//!
//! - Each member probes one other in each interval, by turns. Who does not answer is probed once more
//!   and through some others, then suspected, and after a while declared dead. Cost and time to
//!   detection do not depend on how many members there are.
//! - The suspected hears of it first, and refutes it with a higher incarnation.
//! - News rides on the probes and, while there is any, on a few packets more. From time to time two
//!   members exchange all that they know over TCP.
//!
//! # Invariants
//!
//! - Only a member raises its own run and incarnation, and only a member says that it left.
//! - What a member is said to be only ever gets newer: see [`member`](State).
//! - An exchange request has one reply, and a reply has none. A correction is sent only to somebody
//!   who knows less, which it ends. Nothing is sent because of nothing but silence of news: an idle
//!   cluster exchanges probes, and an exchange now and then.
//! - Nobody answers for another. A probe through others needs the answer of the probed.
//! - Packets that are damaged, or of another cluster, change nothing but a counter.
//!
//! # Why the dead are told only to those who say they live
//!
//! A list of members that holds the dead makes ghosts: a newcomer cannot tell that they are dead, or
//! spreads them after others have forgotten. Here a claim of death about somebody unknown is ignored,
//! lists hold the live only, and a death is told again only to one who has just said that the dead one
//! lives: he knows it, so he can judge. That is enough, for wrong beliefs do harm only where somebody
//! states them; one who keeps a wrong belief to himself probes the dead himself.
//!
//! Who comes back from behind a partition believes half of the cluster dead. A correction therefore
//! makes a suspect, not a dead, of one who is believed alive, and the suspect is told at once.
//! The dead are tried again for as long as they are remembered, one in each
//! [`Config::exchange_interval`], and the seeds for ever, so a partition heals by itself.
//!
//! # Why forgetting is not forgetting
//!
//! Somebody who slept through a death may speak of the dead as alive when others have forgotten them.
//! Of the forgotten the last rank stays, a few bytes each: what is not newer does not bring them back,
//! and is corrected. A member that does come back (a new run, or after a long partition) hears its
//! rank, goes above it, and is in.

mod config;
mod contact;
mod event;
#[cfg(test)]
pub(crate) mod fuzz;
mod hear;
mod member;
mod packet;
mod probe;
mod roster;
mod rumors;
pub mod simulation;
mod suspicion;
mod twin;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

pub use config::{Config, MEMBERS_MAX, Own};
pub use event::{Input, Output, Stats};
pub use member::{Member, State};

use self::member::Claim;
use self::packet::{Body, Header, Packet, Writer};
use self::roster::Roster;
use self::rumors::Rumors;
use self::suspicion::Suspicion;
use crate::model::MemberId;
use crate::time::Instant;

/// One node's part in the membership protocol.
///
/// Driven by three verbs: [`Self::handle`], [`Self::poll_output`], [`Self::poll_timeout`].
#[derive(Debug)]
pub struct Swim {
    config: Config,
    own: Own,
    me: Member,
    rng: fastrand::Rng,
    now: Instant,
    roster: Roster,
    rumors: Rumors,
    suspicions: BTreeMap<MemberId, Suspicion>,
    probes: probe::Probes,
    contact: contact::Contact,
    twin: Option<twin::Check>,
    gossip_at: Option<Instant>,
    health: u32,
    epoch: u64,
    epoch_heard: u64,
    outputs: VecDeque<Output>,
    stats: Stats,
}

impl Swim {
    /// The machine of one process. It knows nobody yet: see [`Input::Join`].
    ///
    /// # Panics
    ///
    /// When `config` contradicts itself, or `own.address` is not one that others can reach.
    #[must_use]
    pub fn new(config: Config, own: Own, seed: u64, now: Instant) -> Self {
        config.assert_valid();
        assert!(own.address.port() != 0);
        assert!(!own.address.ip().is_unspecified());
        let address = SocketAddr::new(own.address.ip(), own.address.port());
        let own = Own { address, ..own };
        let me = Member { id: own.id, address, state: State::Alive, incarnation: 0, run: own.run };
        let mut rng = fastrand::Rng::with_seed(seed);
        let probes = probe::Probes::new(now + fraction(config.probe_interval, &mut rng));
        let contact = contact::Contact::new(&config, now, &mut rng);
        Self {
            config,
            own,
            me,
            rng,
            now,
            roster: Roster::default(),
            rumors: Rumors::default(),
            suspicions: BTreeMap::new(),
            probes,
            contact,
            twin: None,
            gossip_at: None,
            health: 0,
            epoch: 0,
            epoch_heard: 0,
            outputs: VecDeque::new(),
            stats: Stats::default(),
        }
    }

    /// Takes in one event. Drain [`Self::poll_output`] before the next call.
    ///
    /// # Panics
    ///
    /// When outputs are left, or `now` is before the last call's.
    pub fn handle(&mut self, now: Instant, input: Input<'_>) {
        assert!(self.outputs.is_empty(), "outputs are drained before the next event");
        assert!(now >= self.now, "time does not run backwards");
        self.notice_pause(now);
        self.now = now;
        match input {
            Input::Timeout => self.on_timeout(),
            Input::Datagram { from, bytes } => {
                self.stats.datagram_in_count += 1;
                self.stats.datagram_in_bytes += bytes.len() as u64;
                if let Some(packet) = self.accept(bytes, false) {
                    self.on_datagram(from, &packet);
                }
            }
            Input::Exchange { bytes } => {
                self.stats.exchange_in_count += 1;
                if let Some(packet) = self.accept(bytes, true) {
                    self.on_exchange(&packet);
                }
            }
            Input::Join(seeds) if self.me.state == State::Alive => self.join(seeds),
            Input::Join(_) => {}
            Input::Leave => self.leave(),
            Input::Epoch(epoch) => self.epoch = epoch,
            Input::Twin(address) => self.suspect_twin(address),
        }
        self.schedule_gossip();
        self.assert_invariants();
    }

    /// The next thing to do, oldest first.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call `handle(now, Input::Timeout)`, if nothing else happens first.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.me.state == State::Left {
            return self.gossip_at;
        }
        let is_accompanied = self.roster.live_count() > 0;
        let times = [
            self.gossip_at,
            self.probes.timeout(is_accompanied),
            self.contact.timeout(is_accompanied, self.roster.dead_count() > 0),
            self.suspicions.values().map(|it| it.deadline(&self.config)).min(),
            self.roster.forget_at(),
            self.twin.as_ref().and_then(twin::Check::timeout),
        ];
        times.into_iter().flatten().min()
    }

    /// All that is known, this node included.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        std::iter::once(&self.me).chain(self.roster.iter())
    }

    /// One member, perhaps this node.
    #[must_use]
    pub fn member(&self, id: MemberId) -> Option<&Member> {
        if id == self.own.id { Some(&self.me) } else { self.roster.get(id) }
    }

    /// How little this node trusts itself: 0 is well, up to 8. Its probes take so many times longer.
    #[must_use]
    pub const fn local_health(&self) -> u32 {
        self.health
    }

    /// What was counted.
    #[must_use]
    pub const fn stats(&self) -> &Stats {
        &self.stats
    }

    fn on_timeout(&mut self) {
        if self.gossip_at.is_some_and(|it| it <= self.now) {
            self.gossip_at = None;
            self.gossip();
        }
        if self.me.state == State::Left {
            return;
        }
        self.run_probes();
        self.end_suspicions();
        self.run_contact();
        self.run_twin_check();
        while let Some(id) = self.roster.forget(self.now) {
            self.on_forgotten(id);
        }
    }

    fn on_forgotten(&mut self, id: MemberId) {
        self.rumors.remove(id);
        self.outputs.push_back(Output::Forgotten(id));
    }

    /// The packet, if it is one of this cluster and came the right way.
    fn accept(&mut self, bytes: &[u8], is_exchange: bool) -> Option<Packet> {
        let packet = packet::parse(bytes).filter(|it| it.body.is_exchange() == is_exchange);
        let Some(packet) = packet else {
            self.stats.bad_packet_count += 1;
            return None;
        };
        if packet.header.cluster != self.own.cluster {
            self.stats.foreign_packet_count += 1;
            return None;
        }
        (self.me.state != State::Left).then_some(packet)
    }

    /// When this node did not run while a timer was due, it cannot know who would have answered.
    fn notice_pause(&mut self, now: Instant) {
        let Some(due) = self.poll_timeout() else { return };
        // What was due before the last event is due since then.
        let late = now.saturating_since(due.max(self.now));
        if late < self.config.probe_interval || self.me.state == State::Left {
            return;
        }
        self.stats.pause_count += 1;
        self.sicken(1);
        self.probes.start_afresh(now);
        self.twin = None;
        for suspicion in self.suspicions.values_mut() {
            suspicion.postpone(late);
        }
        self.contact.exchange_soon(now);
    }

    fn sicken(&mut self, by: u32) {
        if self.config.is_lifeguard {
            self.health = (self.health + by).min(HEALTH_MAX);
        }
    }

    fn recover(&mut self) {
        self.health = self.health.saturating_sub(1);
    }

    fn leave(&mut self) {
        if self.me.state == State::Left {
            return;
        }
        self.me.state = State::Left;
        self.rumors.clear();
        self.rumors.add(Claim::plain(self.me));
        self.suspicions.clear();
        for member in self.roster.sample(LEAVE_FANOUT, self.own.id, &mut self.rng) {
            self.send(member.address, Body::Gossip, &[]);
        }
    }

    /// Sends news to a few, and to the suspected what is said of them.
    fn gossip(&mut self) {
        if self.rumors.len() > 0 {
            for member in self.roster.sample(self.config.gossip_fanout, self.own.id, &mut self.rng)
            {
                if self.rumors.len() > 0 {
                    self.send_to(&member, Body::Gossip);
                }
            }
        }
        if self.roster.live_count() == 0 {
            // Nobody hears it. Who comes later gets the whole list.
            self.rumors.clear();
        }
        let own = self.suspicions.iter().filter(|(_, it)| it.is_own).map(|(id, _)| *id);
        for id in own.collect::<Vec<_>>() {
            self.tell(id);
        }
    }

    fn schedule_gossip(&mut self) {
        let is_needed = self.rumors.len() > 0 || self.suspicions.values().any(|it| it.is_own);
        match (is_needed, self.gossip_at) {
            (true, None) => self.gossip_at = Some(self.now + self.config.gossip_interval),
            (false, Some(_)) => self.gossip_at = None,
            _ => {}
        }
    }

    const fn header(&self) -> Header {
        Header {
            cluster: self.own.cluster,
            sender: self.me,
            started: self.own.run,
            epoch: self.epoch,
        }
    }

    /// Sends a member a packet. The suspected and the dead hear first what is said of them.
    fn send_to(&mut self, member: &Member, body: Body) {
        let is_told = match member.state {
            State::Alive | State::Left => false,
            State::Suspect => self.config.is_lifeguard,
            State::Dead => true,
        };
        let claim = self.claim_of(*member);
        self.send(member.address, body, if is_told { std::slice::from_ref(&claim) } else { &[] });
    }

    /// Sends a datagram: first `claims`, then news for as long as there is room.
    fn send(&mut self, to: SocketAddr, body: Body, claims: &[Claim]) {
        assert!(!body.is_exchange());
        let mut writer = Writer::new(&self.header(), body, self.config.datagram_bytes_max);
        for claim in claims {
            if !writer.push(claim) {
                break;
            }
        }
        // This node itself is counted, too.
        let sent_max = self.config.retransmit_max(self.roster.live_count() + 1);
        if body != Body::Correction {
            self.rumors.take(sent_max, |it| writer.push(it));
        }
        let bytes = writer.finish();
        self.stats.datagram_out_count += 1;
        self.stats.datagram_out_bytes += bytes.len() as u64;
        self.outputs.push_back(Output::Datagram { to, bytes });
    }

    /// What this node says of a member. It passes on the suspicion of others as theirs, so that a
    /// voice counts once however often it is heard.
    fn claim_of(&self, member: Member) -> Claim {
        let suspicion = self.suspicions.get(&member.id);
        let by = suspicion.filter(|it| !it.is_own).map_or(self.own.id, Suspicion::voice);
        Claim { member, by }
    }

    fn assert_invariants(&self) {
        assert!(matches!(self.me.state, State::Alive | State::Left));
        assert!(self.me.run >= self.own.run);
        assert!(self.roster.len() == self.roster.live_count() + self.roster.dead_count());
        assert!(self.rumors.len() <= self.roster.len() + 1);
        assert!(self.suspicions.len() <= self.roster.live_count());
        assert!(self.health <= HEALTH_MAX);
        assert!(self.config.is_lifeguard || self.health == 0);
    }
}

/// The bound that Lifeguard's authors found best.
const HEALTH_MAX: u32 = 8;
/// How many members hear at once that this one goes.
const LEAVE_FANOUT: usize = 8;

/// A random part of a time, so that nodes started together do not act together.
fn fraction(whole: Duration, rng: &mut fastrand::Rng) -> Duration {
    whole * rng.u32(0..1_000) / 1_000
}

#[cfg(test)]
mod tests;
