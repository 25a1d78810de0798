//! How a node comes in: what a newcomer asks, and what a member answers.

use std::net::SocketAddr;

use super::request::{Answer, Request};
use super::{ASK, Agreement, LISTEN, LOOK_COUNT, Output, Survey, Via, first_topology};
use crate::time::Instant;
use crate::topology::{Change, Epoch, Member, Refusal, Topology};

impl Agreement {
    /// Whether this node is not what the topology says it is.
    #[must_use]
    pub fn must_join(&self) -> bool {
        let Some(current) = &self.kept.current else { return true };
        let own = &self.own.member;
        let node = current.member(own.id()).map_or(0, |member| member.node);
        current.member(own.id()) != Some(&Member { node, ..own.clone() })
    }

    /// Whether a cluster does not know this node's store: what it holds is nobody else's.
    pub(super) fn is_new_to(&self, topology: &Topology) -> bool {
        let own = &self.own.member;
        topology.member(own.id()).is_none_or(|known| known.store != own.store)
    }

    /// Whether this node is known to hold nothing.
    pub(super) fn is_empty_newcomer(&self) -> bool {
        self.holds.is_some_and(|survey| survey.is_empty)
    }

    /// Whether this node holds keys that such a cluster does not have, and belongs to none.
    pub(super) fn is_full_newcomer_to(&self, topology: &Topology) -> bool {
        let is_full = self.holds.is_some_and(|survey| !survey.is_empty);
        is_full && self.kept.current.is_none() && self.is_new_to(topology)
    }

    /// This node has found out what it holds.
    pub(super) fn on_own_survey(&mut self, now: Instant, survey: Survey) {
        self.holds = Some(survey);
        self.ask_at = self.must_join().then_some(now);
    }

    /// Somebody has a newer topology.
    pub(super) fn on_heard(&mut self, now: Instant, from: SocketAddr, epoch: Epoch) {
        if epoch.0 < self.kept.slot() {
            return;
        }
        self.note_live(from);
        self.heard = Some((from, epoch, now + ASK));
        self.outputs.push_back(Output::Ask(from, Request::Ask));
    }

    /// There is a cluster of the name: this node forms none.
    pub(super) fn note_live(&mut self, from: SocketAddr) {
        if self.listening.take().is_some() {
            self.outputs.push_back(Output::Rejected(from, Refusal::ClusterLives));
        }
    }

    /// Looks whether a live cluster was heard of, once more or for the last time.
    pub(super) fn look(&mut self, now: Instant) {
        let Some((looks_left, _)) = self.listening else { return };
        if looks_left > 0 {
            self.listening = Some((looks_left - 1, now + LISTEN / LOOK_COUNT));
            return;
        }
        self.listening = None;
        let first = first_topology(&self.own, self.new_cluster);
        self.learn(now, &first);
        assert_eq!(self.kept.current, Some(first));
    }

    /// Asks one of those who can let it in, in turn.
    pub(super) fn ask_to_join(&mut self, now: Instant) {
        if !self.must_join() {
            self.ask_at = None;
            return;
        }
        let is_new = self.kept.current.as_ref().is_none_or(|current| self.is_new_to(current));
        if is_new && self.holds.is_none() {
            // Asked again, if it is lost.
            self.outputs.push_back(Output::Survey(Via::OWN_SURVEY));
            self.ask_at = Some(now + ASK);
            return;
        }
        let own = &self.own.member;
        let members = self.kept.current.iter().flat_map(|current| &current.members);
        let known = members.filter(|member| member.id != own.id).map(|member| member.address);
        let mut others: Vec<SocketAddr> = self.own.seeds.iter().copied().chain(known).collect();
        others.retain(|address| *address != own.address);
        // A cluster of one lets itself in.
        if others.is_empty() && self.kept.current.is_some() {
            others.push(own.address);
        }
        if let Some(address) = others.get(self.asked_count % others.len().max(1)) {
            let cluster = self.kept.current.as_ref().map_or(0, |current| current.cluster);
            let is_empty = self.is_empty_newcomer();
            let request = Request::Join { member: own.clone(), cluster, is_empty };
            self.outputs.push_back(Output::Ask(*address, request));
        }
        self.asked_count += 1;
        self.ask_at = Some(now + ASK);
    }

    /// Asks for the topology that somebody has, until it is there: him and all members, in turn. He is
    /// heard to have it only once.
    pub(super) fn ask_for_newer(&mut self, now: Instant) {
        let Some((from, epoch, _)) = self.heard.take() else { return };
        if epoch.0 < self.kept.slot() {
            return;
        }
        let members = self.kept.current.iter().flat_map(|current| &current.members);
        let known = members.map(|member| member.address);
        let mut others: Vec<SocketAddr> = std::iter::once(from).chain(known).collect();
        others.retain(|address| *address != self.own.member.address);
        if let Some(address) = others.get(self.asked_count % others.len().max(1)) {
            self.outputs.push_back(Output::Ask(*address, Request::Ask));
        }
        self.asked_count += 1;
        self.heard = Some((from, epoch, now + ASK));
    }

    /// A node of that cluster, or of none, asks to be let in: and says whether it is empty.
    pub(super) fn on_join(
        &mut self,
        now: Instant,
        via: Via,
        member: Member,
        (cluster, is_empty): (u64, bool),
    ) {
        let Some(current) = &self.kept.current else {
            return self.answer(via, Answer::Current(None));
        };
        if cluster != 0 && cluster != current.cluster {
            return self.answer(via, Answer::Rejected(Refusal::OtherCluster));
        }
        if !self.is_member(current) {
            // The members let it in.
            return self.answer(via, Answer::Current(self.kept.current.clone()));
        }
        let id = member.id();
        let is_new = current.member(id).is_none_or(|known| known.store != member.store);
        let change = Change::Join(member);
        match (current.after(&change), self.full(now)) {
            (Ok(None), _) => self.answer(via, Answer::Current(self.kept.current.clone())),
            (Err(refusal), _) => self.answer(via, Answer::Rejected(refusal)),
            (Ok(Some(_)), _) if is_new && !is_empty => {
                self.answer(via, Answer::Rejected(Refusal::HoldsOwnData));
            }
            (Ok(Some(next)), Some(refusal)) if current.moves_data(&next) => {
                self.answer(via, Answer::Rejected(refusal));
            }
            (Ok(Some(next)), _) if current.moves_data(&next) && self.is_resting(now) => {
                self.answer(via, Answer::Rejected(Refusal::NotAllAnswer));
            }
            (Ok(Some(_)), _) => {
                let answer = self.rejected.remove(&id).map_or(Answer::Pending, Answer::Rejected);
                self.answer(via, answer);
                if !self.wishes.iter().any(|wish| wish.change == change) {
                    self.wish(now, None, change);
                }
            }
        }
    }

    pub(super) fn is_resting(&self, now: Instant) -> bool {
        self.rest_until.is_some_and(|until| now < until)
    }

    /// Why nothing may be moved for a while.
    fn full(&self, now: Instant) -> Option<Refusal> {
        self.full_until.filter(|(until, _)| now < *until).map(|(_, refusal)| refusal)
    }

    /// Whether nothing is lost that this node held, but for what was removed since from all nodes.
    pub(super) fn is_sound(&self) -> bool {
        self.has_cleared
            || self.kept.current.as_ref().is_none_or(|current| !self.is_new_to(current))
    }
}
