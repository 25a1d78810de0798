//! The members other than this node, in the orders in which they are asked for.
//!
//! # Invariants
//!
//! - `round` holds exactly the live members, in a random order; each comes up once before any comes
//!   up twice.
//! - A member is in `graves` exactly when it is not live.
//! - A member that is forgotten is `buried`: of it remains only the rank of the last that was said.
//!   What is not newer than that does not bring it back. A newer saying can only come from the member
//!   itself, after its death was noted, so it did come back.
//! - There are at most [`MEMBERS_MAX`] members and as many buried; the oldest graves make room.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::config::MEMBERS_MAX;
use super::member::{Member, Rank, State};
use crate::model::MemberId;
use crate::time::Instant;

#[derive(Debug, Default)]
pub(super) struct Roster {
    members: BTreeMap<MemberId, Member>,
    round: Vec<MemberId>,
    round_next: usize,
    graves: BTreeSet<(Instant, MemberId)>,
    forget_at: BTreeMap<MemberId, Instant>,
    buried: BTreeMap<MemberId, Rank>,
    buried_order: VecDeque<MemberId>,
    /// The last of the dead that was tried again.
    recalled: MemberId,
}

impl Roster {
    pub(super) fn get(&self, id: MemberId) -> Option<&Member> {
        self.members.get(&id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    pub(super) fn live(&self) -> impl Iterator<Item = &Member> {
        self.members.values().filter(|it| it.state.is_live())
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn live_count(&self) -> usize {
        self.round.len()
    }

    pub(super) fn dead_count(&self) -> usize {
        self.graves.len()
    }

    /// The newest that was said of `id`, even if it is forgotten.
    pub(super) fn rank(&self, id: MemberId) -> Option<Rank> {
        self.members.get(&id).map(Member::rank).or_else(|| self.buried.get(&id).copied())
    }

    /// Whether one more member has room, if need be in place of somebody dead, who is returned.
    pub(super) fn make_room(&mut self) -> Result<Option<MemberId>, Full> {
        assert!(self.members.len() <= MEMBERS_MAX);
        if self.members.len() < MEMBERS_MAX {
            return Ok(None);
        }
        let (_, oldest) = *self.graves.first().ok_or(Full)?;
        self.bury(oldest);
        Ok(Some(oldest))
    }

    /// Adds a member or replaces what was known of it.
    pub(super) fn set(&mut self, member: Member, forget_at: Instant, rng: &mut fastrand::Rng) {
        let id = member.id;
        let before = self.members.insert(id, member);
        assert!(before.is_none_or(|it| it.rank() < member.rank()), "news is newer");
        assert!(self.members.len() <= MEMBERS_MAX);
        self.unbury(id);
        let was_live = before.is_some_and(|it| it.state.is_live());
        match (was_live, member.state.is_live()) {
            (false, true) => self.enter_round(id, rng),
            (true, false) => self.leave_round(id),
            _ => {}
        }
        self.clear_grave(id);
        if !member.state.is_live() {
            self.graves.insert((forget_at, id));
            self.forget_at.insert(id, forget_at);
        }
        assert_eq!(self.members.len(), self.round.len() + self.graves.len());
    }

    /// What is said of a member that is forgotten, and stays so.
    pub(super) fn set_buried(&mut self, member: &Member) {
        assert!(!member.state.is_live());
        let rank = self.buried.get_mut(&member.id).expect("it is buried");
        assert!(*rank < member.rank());
        *rank = member.rank();
    }

    fn enter_round(&mut self, id: MemberId, rng: &mut fastrand::Rng) {
        let at = rng.usize(..=self.round.len());
        self.round.insert(at, id);
        // Nobody is passed over, and nobody comes up twice.
        if at < self.round_next {
            self.round_next += 1;
        }
    }

    fn leave_round(&mut self, id: MemberId) {
        let at = self.round.iter().position(|it| *it == id).expect("the live are in the round");
        self.round.remove(at);
        if at < self.round_next {
            self.round_next -= 1;
        }
    }

    fn clear_grave(&mut self, id: MemberId) {
        if let Some(at) = self.forget_at.remove(&id) {
            let was_there = self.graves.remove(&(at, id));
            assert!(was_there, "both sides know every grave");
        }
    }

    /// The next live member to probe.
    pub(super) fn next_in_round(&mut self, rng: &mut fastrand::Rng) -> Option<Member> {
        if self.round.is_empty() {
            return None;
        }
        if self.round_next >= self.round.len() {
            rng.shuffle(&mut self.round);
            self.round_next = 0;
        }
        let id = self.round[self.round_next];
        self.round_next += 1;
        Some(*self.members.get(&id).expect("the round holds members"))
    }

    /// Up to `count` live members, at random, without `except`.
    pub(super) fn sample(
        &self,
        count: usize,
        except: MemberId,
        rng: &mut fastrand::Rng,
    ) -> Vec<Member> {
        let len = self.round.len();
        let start = rng.usize(..len.max(1));
        let in_order = (0..len).map(|it| self.round[(start + it) % len]);
        let chosen = in_order.filter(|it| *it != except).take(count);
        chosen.map(|it| *self.members.get(&it).expect("the round holds members")).collect()
    }

    /// The next of the dead to try again. Those who left are let go.
    pub(super) fn next_dead(&mut self) -> Option<Member> {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        let after = self.members.range((Excluded(self.recalled), Unbounded));
        let before = self.members.range((Unbounded, Included(self.recalled)));
        let mut dead = after.chain(before).filter(|(_, it)| it.state == State::Dead);
        let (id, member) = dead.next()?;
        self.recalled = *id;
        Some(*member)
    }

    /// One of the forgotten that did not leave, at random.
    pub(super) fn buried(&self, rng: &mut fastrand::Rng) -> Option<Member> {
        let dead = self.buried.iter().filter(|(_, rank)| rank.state == State::Dead);
        let skipped = rng.usize(..dead.clone().count().max(1));
        let (id, rank) = dead.clone().nth(skipped)?;
        Some(rank.of(*id))
    }

    /// When the next of the dead is to be forgotten.
    pub(super) fn forget_at(&self) -> Option<Instant> {
        self.graves.first().map(|(at, _)| *at)
    }

    /// Forgets one whose time has come.
    pub(super) fn forget(&mut self, now: Instant) -> Option<MemberId> {
        let (at, id) = *self.graves.first()?;
        if at > now {
            return None;
        }
        self.bury(id);
        Some(id)
    }

    fn bury(&mut self, id: MemberId) {
        let member = self.members.remove(&id).expect("a grave is a member's");
        assert!(!member.state.is_live());
        self.clear_grave(id);
        self.buried.insert(id, member.rank());
        self.buried_order.push_back(id);
        if self.buried_order.len() > MEMBERS_MAX {
            let oldest = self.buried_order.pop_front().expect("it is not empty");
            self.buried.remove(&oldest);
        }
        assert_eq!(self.buried.len(), self.buried_order.len());
    }

    fn unbury(&mut self, id: MemberId) {
        if self.buried.remove(&id).is_some() {
            self.buried_order.retain(|it| *it != id);
        }
    }

    pub(super) fn is_buried(&self, id: MemberId) -> bool {
        self.buried.contains_key(&id)
    }
}

/// Everybody known is alive, and no one more has room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;
