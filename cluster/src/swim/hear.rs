//! What is done with what others say.
//!
//! How far a saying is believed depends on how it came. News is believed as it is. In a correction
//! or an exchange the death of one who is believed alive is a suspicion only: whoever comes from
//! behind a partition believes half of the cluster dead.

use std::net::SocketAddr;

use super::member::{Claim, Member, State};
use super::packet::{Body, Header, Packet, RUN_MAX};
use super::suspicion::Suspicion;
use super::{MEMBERS_MAX, Output, Swim, Writer};
use crate::model::MemberId;

/// How a claim came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// From the member itself.
    Itself,
    /// With a packet.
    News,
    /// From one whose whole list may be out of date. `is_spread`: whether others get it from here.
    List { is_spread: bool },
}

/// What a packet calls for besides what its kind does.
#[derive(Debug, Default)]
struct Answer {
    /// Claims newer than those that the sender made.
    corrections: Vec<Claim>,
    /// The sender believes something of this node that is not so.
    is_accused: bool,
}

impl Answer {
    const fn is_due(&self) -> bool {
        self.is_accused || !self.corrections.is_empty()
    }
}

impl Swim {
    pub(super) fn on_datagram(&mut self, from: SocketAddr, packet: &Packet) {
        let header = &packet.header;
        if header.sender.id == self.own.id {
            self.on_twin(from, packet);
            return;
        }
        let way = match packet.body {
            Body::Correction => Way::List { is_spread: true },
            _ => Way::News,
        };
        let answer = self.hear(packet, way);
        match packet.body {
            Body::Ping { target, nonce } if target == self.own.id => {
                // Its own header refutes what the sender believes.
                self.send(from, Body::Ack { nonce }, &answer.corrections);
                return;
            }
            Body::PingRequest { target, nonce, address } => {
                self.relay(from, nonce, target, address);
            }
            Body::Ack { nonce } => self.on_ack(header.sender.id, nonce),
            Body::RelayedAck { nonce } => self.on_relayed_ack(nonce),
            Body::Nack { nonce } => self.on_nack(nonce),
            // A ping for another process that was here before.
            Body::Ping { .. } | Body::Gossip | Body::Correction => {}
            Body::ExchangeRequest | Body::ExchangeReply => unreachable!("not a datagram"),
        }
        if answer.is_due() {
            self.correct(from, &answer.corrections);
        }
    }

    pub(super) fn on_exchange(&mut self, packet: &Packet) {
        let sender = &packet.header.sender;
        if sender.id == self.own.id {
            self.on_twin(sender.address, packet);
            return;
        }
        // A newcomer learns what everybody knows: no news.
        let is_spread = self.roster.live_count() > 0;
        let answer = self.hear(packet, Way::List { is_spread });
        if packet.body == Body::ExchangeRequest {
            self.send_exchange(sender.address, Body::ExchangeReply, &answer.corrections);
        } else if answer.is_due() {
            self.correct(sender.address, &answer.corrections);
        }
    }

    /// Sends corrections, in as many datagrams as it takes, at least one.
    fn correct(&mut self, to: SocketAddr, claims: &[Claim]) {
        assert!(claims.len() <= super::packet::CLAIMS_MAX + 1);
        if claims.is_empty() {
            // The header says it.
            self.send(to, Body::Correction, &[]);
        }
        for chunk in claims.chunks(self.claims_fitting()) {
            self.send(to, Body::Correction, chunk);
        }
    }

    /// How many claims of any kind fit into a datagram.
    fn claims_fitting(&self) -> usize {
        let head = Writer::new(&self.header(), Body::Correction, self.config.datagram_bytes_max);
        (self.config.datagram_bytes_max - head.finish().len()) / super::packet::CLAIM_BYTES_MAX
    }

    /// Sends all that live, and `corrections`, over TCP.
    pub(super) fn send_exchange(&mut self, to: SocketAddr, body: Body, corrections: &[Claim]) {
        assert!(body.is_exchange());
        let mut writer = Writer::new(&self.header(), body, usize::MAX);
        for member in self.roster.live() {
            let has_room = writer.push(&self.claim_of(*member));
            assert!(has_room, "an exchange is not bounded by bytes");
        }
        for claim in corrections.iter().filter(|it| !it.member.state.is_live()).take(MEMBERS_MAX) {
            writer.push(claim);
        }
        self.stats.exchange_out_count += 1;
        self.outputs.push_back(Output::Exchange { to, bytes: writer.finish() });
    }

    /// Takes in all that a packet says.
    fn hear(&mut self, packet: &Packet, way: Way) -> Answer {
        let mut answer = Answer::default();
        self.hear_epoch(&packet.header);
        let sender = Claim::plain(packet.header.sender);
        self.hear_claim(&sender, Way::Itself, &mut answer);
        for claim in &packet.claims {
            if claim.member.id == self.own.id {
                answer.is_accused |= self.hear_of_self(&claim.member);
            } else if claim.member.id != sender.member.id {
                self.hear_claim(claim, way, &mut answer);
            }
        }
        answer
    }

    fn hear_epoch(&mut self, header: &Header) {
        if header.epoch > self.epoch.max(self.epoch_heard) {
            self.epoch_heard = header.epoch;
            let (from, epoch) = (header.sender.address, header.epoch);
            self.outputs.push_back(Output::Epoch { from, epoch });
        }
    }

    fn hear_claim(&mut self, claim: &Claim, way: Way, answer: &mut Answer) {
        let id = claim.member.id;
        assert_ne!(id, self.own.id);
        let Some(known) = self.roster.rank(id) else {
            if claim.member.state.is_live() {
                self.set(claim, way);
            }
            return;
        };
        let rank = claim.member.rank();
        if rank < known {
            // The sender has to know what it is believed to be; of others only the dead are told.
            let is_gone = !known.state.is_live() && claim.member.state.is_live();
            if is_gone || way == Way::Itself {
                answer.corrections.push(self.claim_of(known.of(id)));
            }
            return;
        }
        if rank == known {
            self.confirm(claim);
            return;
        }
        if self.roster.is_buried(id) && !claim.member.state.is_live() {
            self.roster.set_buried(&claim.member);
            return;
        }
        let is_death = claim.member.state == State::Dead;
        if is_death && known.state.is_live() && matches!(way, Way::List { .. }) {
            self.doubt(claim, way);
        } else {
            self.set(claim, way);
        }
    }

    /// Suspects one who is believed alive here and dead elsewhere, and tells it so.
    fn doubt(&mut self, claim: &Claim, way: Way) {
        let id = claim.member.id;
        let member = Member { state: State::Suspect, ..claim.member };
        let known = self.roster.rank(id).expect("it is believed alive");
        if member.rank() > known {
            self.set(&self.claim_of(member), way);
        }
        if let Some(suspicion) = self.suspicions.get_mut(&id)
            && !suspicion.is_own
        {
            suspicion.is_own = true;
            self.tell(id);
        }
    }

    /// Another voice for a suspicion.
    fn confirm(&mut self, claim: &Claim) {
        let Some(suspicion) = self.suspicions.get_mut(&claim.member.id) else { return };
        if suspicion.confirm(claim.by) {
            self.rumors.add(*claim);
        }
    }

    /// This node got no answer from a live member.
    pub(super) fn suspect(&mut self, id: MemberId) {
        let Some(member) = self.roster.get(id).filter(|it| it.state.is_live()) else { return };
        let claim = Claim { member: Member { state: State::Suspect, ..*member }, by: self.own.id };
        if member.state == State::Suspect {
            self.confirm(&claim);
        } else {
            self.set(&claim, Way::News);
        }
        let suspicion = self.suspicions.get_mut(&id).expect("it was set");
        if self.config.is_lifeguard && !suspicion.is_own {
            suspicion.is_own = true;
            self.tell(id);
        }
    }

    /// Tells a member what it is believed to be.
    pub(super) fn tell(&mut self, id: MemberId) {
        let member = *self.roster.get(id).expect("one tells members");
        let claim = self.claim_of(member);
        self.send(member.address, Body::Correction, &[claim]);
    }

    pub(super) fn end_suspicions(&mut self) {
        let over = |it: &Suspicion| it.deadline(&self.config) <= self.now;
        let ended = self.suspicions.iter().filter(|(_, it)| over(it)).map(|(id, _)| *id);
        for id in ended.collect::<Vec<_>>() {
            let member = self.roster.get(id).expect("the suspected are members");
            assert_eq!(member.state, State::Suspect);
            let dead = Member { state: State::Dead, ..*member };
            self.set(&self.claim_of(dead), Way::News);
        }
    }

    /// Believes what is newer than what was known, and spreads it.
    fn set(&mut self, claim: &Claim, way: Way) {
        let Claim { member, by } = *claim;
        let is_new = self.roster.get(member.id).is_none();
        if is_new {
            match self.roster.make_room() {
                Ok(None) => {}
                Ok(Some(id)) => self.on_forgotten(id),
                Err(_) => {
                    self.stats.refused_member_count += 1;
                    return;
                }
            }
        }
        self.suspicions.remove(&member.id);
        let forget_at = self.now + self.config.forget_after;
        self.roster.set(member, forget_at, &mut self.rng);
        if member.state == State::Suspect {
            self.stats.suspicion_count += 1;
            // This node itself is counted, too.
            let live_count = self.roster.live_count() + 1;
            let suspicion = Suspicion::new(&self.config, self.now, live_count, by);
            self.suspicions.insert(member.id, suspicion);
        }
        if !is_new || way != (Way::List { is_spread: false }) {
            self.rumors.add(*claim);
        }
        self.outputs.push_back(Output::Changed(member));
    }

    /// Whether what is said of this node is not what it says itself: the sender has to hear that.
    fn hear_of_self(&mut self, claim: &Member) -> bool {
        let (theirs, mine) = (claim.rank(), self.me.rank());
        if theirs.process > mine.process && claim.address != self.own.address {
            self.doubt_twin(claim);
            return false;
        }
        if theirs.process < mine.process {
            if claim.state.is_live() && claim.address != self.own.address {
                self.doubt_twin(claim);
            }
            return true;
        }
        if theirs > mine {
            self.outdo(claim);
        }
        claim.state != State::Alive
    }

    /// Goes above what is said of this node.
    pub(super) fn outdo(&mut self, claim: &Member) {
        let is_other = claim.rank().process != self.me.rank().process;
        match claim.incarnation.checked_add(1) {
            Some(incarnation) if !is_other => self.me.incarnation = incarnation,
            // A run of this node whose clock was ahead, or incarnations that are used up.
            _ if claim.run < RUN_MAX => {
                self.me.run = claim.run + 1;
                self.me.incarnation = 0;
            }
            // Somebody has made it up: nothing is above it but an incarnation, if that.
            _ => {
                self.me.run = RUN_MAX;
                self.me.incarnation = claim.incarnation.saturating_add(1);
            }
        }
        self.stats.refutation_count += 1;
        if claim.state == State::Suspect {
            self.sicken(1);
        }
        self.rumors.add(Claim::plain(self.me));
    }
}
