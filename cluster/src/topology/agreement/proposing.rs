//! The proposer: changes that somebody here wants, one attempt at a time.

use std::net::SocketAddr;
use std::time::Duration;

use super::acceptor::Ballot;
use super::proposal::{Progress, Proposal};
use super::request::Request;
use super::{ATTEMPT, Agreement, Failure, Output, PRESS, REST, Tag, WISH, WISH_COUNT_MAX, Wish};
use crate::model::NodeId;
use crate::time::Instant;
use crate::topology::{Change, EPOCH_MAX, Epoch, Member, Refusal, Topology};

impl Agreement {
    pub(super) fn wish(&mut self, now: Instant, tag: Option<Tag>, change: Change) {
        if self.wishes.len() >= WISH_COUNT_MAX {
            if let Some(tag) = tag {
                let refused = Failure::Refused(Refusal::Busy);
                self.outputs.push_back(Output::Done(tag, Err(refused)));
            }
            return;
        }
        self.wishes.push_back(Wish { tag, change, until: now + WISH, is_voted_on: false });
        if self.proposal.is_none() && self.retry_at.is_none() {
            self.retry_at = Some(now);
        }
    }

    /// Begins an attempt: for the first wish, or to bring to its end what was accepted here.
    pub(super) fn propose(&mut self, now: Instant) {
        let base = self.kept.current.clone().filter(|base| self.is_member(base));
        let Some(base) = base else { return self.wait_for_membership(now) };
        let value = match self.wishes.front().map(|wish| base.after(&wish.change)) {
            Some(Ok(Some(value))) => value,
            Some(Ok(None)) | Some(Err(_)) => {
                let wish = self.wishes.pop_front().expect("there is a first");
                let result = base.after(&wish.change).map(|_| base.epoch());
                self.end_wish(&wish, result);
                self.retry_at = (!self.wishes.is_empty()).then_some(now);
                return;
            }
            None if self.has_accepted() && base.epoch < EPOCH_MAX => {
                Topology { epoch: base.epoch + 1, ..base.clone() }
            }
            None => return,
        };
        let wall = (self.wall.as_millis() << 16).min(Ballot::TIMESTAMP_MAX - 1);
        let above = self.ballot_min.max(self.kept.vote.promised.timestamp).max(wall);
        if above >= Ballot::TIMESTAMP_MAX {
            // Somebody has used them up: nothing is agreed on any more.
            for wish in std::mem::take(&mut self.wishes) {
                self.end_wish(&wish, Err(Refusal::NoMajority));
            }
            return;
        }
        self.ballot_min = above + 1;
        let ballot = Ballot { timestamp: self.ballot_min, proposer: self.own.member.id };
        let ask_all = self.ask_all;
        let proposal = Proposal::new(base, value, ballot, ask_all);
        self.press_at = proposal.can_be_pressed().then_some(now + PRESS);
        self.proposal = Some((proposal, now + ATTEMPT));
        self.ask_targets();
    }

    /// Who is no member proposes nothing: what is wanted waits for that, and not for longer than it may.
    fn wait_for_membership(&mut self, now: Instant) {
        while self.wishes.front().is_some_and(|wish| wish.until <= now) {
            let wish = self.wishes.pop_front().expect("it was just looked at");
            self.end_wish(&wish, Err(Refusal::NoMajority));
        }
        self.retry_at = self.wishes.front().map(|wish| wish.until);
    }

    /// Those who have not promised by now are not waited for, where they need not be.
    pub(super) fn press(&mut self, now: Instant) {
        self.press_at = None;
        let Some((proposal, _)) = &mut self.proposal else { return };
        let progress = proposal.press();
        if proposal.can_be_pressed() {
            self.press_at = Some(now + PRESS);
        }
        self.on_progress(now, progress);
    }

    /// The first wish is what votes are asked for, if it is.
    fn note_vote(&mut self) {
        let (Some(wish), Some((proposal, _))) = (self.wishes.front_mut(), &self.proposal) else {
            return;
        };
        // What is removed may be more than was wished.
        let is_its = |value: Option<Topology>| {
            value.is_some_and(|value| {
                let (cleared, raised) = (value.cleared(), proposal.value.cleared());
                let (cleared_timestamp, cleared_node) = (raised.timestamp.0, raised.node.0);
                let value = Topology { cleared_timestamp, cleared_node, ..value };
                cleared <= raised && value == proposal.value
            })
        };
        wish.is_voted_on |= proposal.is_own && proposal.base.after(&wish.change).is_ok_and(is_its);
    }

    /// Sends the present round of the attempt to whom it asks.
    pub(super) fn ask_targets(&mut self) {
        let (proposal, _) = self.proposal.as_ref().expect("there is one");
        for node in proposal.targets() {
            let member = proposal.value.by_node(node).or_else(|| proposal.base.by_node(node));
            let address = member.expect("targets are members").address;
            let (base, ballot) = (proposal.base.clone(), proposal.ballot);
            let request = if proposal.is_accepting() {
                Request::Accept { base, ballot, value: proposal.value.clone() }
            } else {
                let (must_be_empty, is_barrier) = (proposal.must_be_empty, proposal.is_barrier);
                Request::Prepare { base, ballot, must_be_empty, is_barrier }
            };
            self.outputs.push_back(Output::Ask(address, request));
        }
    }

    /// The attempt of that ballot, and the member at that address.
    pub(super) fn proposal_of(
        &mut self,
        from: SocketAddr,
        ballot: Ballot,
    ) -> Option<(&mut Proposal, NodeId)> {
        let (proposal, _) = self.proposal.as_mut()?;
        let at_address = |member: &&Member| member.address == from;
        let member = proposal.value.members.iter().find(at_address);
        let node = member.or_else(|| proposal.base.members.iter().find(at_address))?.node();
        (proposal.ballot == ballot).then_some((proposal, node))
    }

    pub(super) fn on_progress(&mut self, now: Instant, progress: Progress) {
        match progress {
            Progress::Pending => {}
            Progress::Promised => {
                self.note_vote();
                self.ask_targets();
            }
            Progress::Failed(Refusal::Busy) => {
                self.ask_all = true;
                self.give_up(now, Refusal::Busy);
            }
            Progress::Failed(refusal) => {
                if is_about_data(refusal) {
                    self.drop_attempt(now, refusal);
                }
                self.give_up(now, refusal);
            }
            Progress::Chosen => {
                let (proposal, _) = self.proposal.take().expect("it has progressed");
                self.ask_all = false;
                let old = proposal.base.members.iter().map(|member| member.address);
                let new = proposal.value.members.iter().map(|member| member.address);
                let mut addresses: Vec<SocketAddr> = old.chain(new).collect();
                addresses.sort_unstable();
                addresses.dedup();
                for address in addresses {
                    if address != self.own.member.address {
                        let chosen = Request::Chosen(proposal.value.clone());
                        self.outputs.push_back(Output::Ask(address, chosen));
                    }
                }
                self.learn(now, &proposal.value);
            }
        }
    }

    /// The attempt has found a member that holds data, or too many that may have: who has stopped taking
    /// writes for it goes on.
    pub(super) fn drop_attempt(&mut self, now: Instant, refusal: Refusal) {
        self.note_full(now, refusal);
        let Some((proposal, _)) = &self.proposal else { return };
        let own = self.own.member.address;
        for member in proposal.base.members.iter().filter(|member| member.address != own) {
            let dropped = Request::Dropped(proposal.ballot, refusal);
            self.outputs.push_back(Output::Ask(member.address, dropped));
        }
    }

    /// Ends the attempt. The wish is tried again, unless that cannot help.
    pub(super) fn give_up(&mut self, now: Instant, refusal: Refusal) {
        self.proposal = None;
        let is_final = is_about_data(refusal);
        let is_late = self.wishes.front().is_some_and(|wish| wish.until <= now);
        if is_late && refusal == Refusal::NotAllAnswer {
            // Each attempt keeps the others from taking writes for a while.
            self.rest_until = Some(now + REST);
        }
        if is_final || is_late {
            if let Some(wish) = self.wishes.pop_front() {
                self.end_wish(&wish, Err(refusal));
            }
            self.ask_all = false;
        }
        let pause = Duration::from_millis(self.rng.u64(20..200));
        let has_more = !self.wishes.is_empty() || self.has_accepted();
        self.retry_at = has_more.then_some(now + pause);
    }

    pub(super) fn end_wish(&mut self, wish: &Wish, result: Result<Epoch, Refusal>) {
        if let (Change::Join(member), Err(refusal)) = (&wish.change, result) {
            while self.rejected.len() >= WISH_COUNT_MAX {
                self.rejected.pop_first();
            }
            self.rejected.insert(member.id(), refusal);
        }
        if let Some(tag) = wish.tag {
            let failure = if wish.is_voted_on { Failure::Unknown } else { Failure::Refused };
            self.outputs.push_back(Output::Done(tag, result.map_err(failure)));
        }
    }

    /// Whether something was accepted that moves data, and is not known to be decided.
    pub(super) fn has_accepted_a_move(&self) -> bool {
        let accepted = self.kept.vote.accepted.as_ref();
        let moves = |base: &Topology| accepted.is_some_and(|(_, value)| base.moves_data(value));
        self.kept.current.as_ref().is_some_and(moves)
    }

    /// Whether something was accepted that is not known to be decided.
    pub(super) fn has_accepted(&self) -> bool {
        self.kept.vote.accepted.is_some()
    }
}

/// Whether it lies in what members hold, which no further attempt changes.
const fn is_about_data(refusal: Refusal) -> bool {
    matches!(refusal, Refusal::HoldsData | Refusal::LostData)
}
