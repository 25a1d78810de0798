//! One attempt to have a topology agreed on: two rounds of asking, and what the answers come to.
//!
//! A leaf: it sends nothing; each call returns what the attempt has come to.
//!
//! # Invariants
//!
//! - What was accepted by anybody at a smaller ballot, as far as the promises tell, is proposed
//!   before anything else: it may have been agreed on.
//! - What removes everything is decided when a majority of the voters take no writes and have said how far
//!   their clocks are.
//! - Agreed is what majorities of the old and of the new voters have accepted; for what moves data,
//!   all old members too, each empty and taking no writes.
//! - That members are empty says something only of those that have lost nothing: data is moved only while
//!   of each slot's replicas so many are left that one of them would have each acknowledged key.

use std::collections::BTreeMap;

use super::acceptor::Ballot;
use crate::model::NodeId;
use crate::token::Slot;
use crate::topology::placement::Placement;
use crate::topology::{CLEARED_TIMESTAMP_MAX, Refusal, Topology};

/// How far the clock of a member may be ahead of the others', as a difference of timestamps: what clocks may
/// differ by where nobody has said otherwise.
const AHEAD_MAX: u64 = 500 << 16;

/// What an attempt has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Pending,
    /// The second round may begin.
    Promised,
    /// Agreed.
    Chosen,
    /// It cannot be agreed on in this way.
    Failed(Refusal),
}

/// A member's promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Promise {
    pub(super) accepted: Option<(Ballot, Topology)>,
    pub(super) is_empty: bool,
    /// Nothing is lost that the member held, but for what was removed since.
    pub(super) is_sound: bool,
    /// The latest timestamp of its clocks, of one that takes no writes since.
    pub(super) latest: u64,
}

pub(super) struct Proposal {
    /// What holds now.
    pub(super) base: Topology,
    pub(super) ballot: Ballot,
    /// What is to hold.
    pub(super) value: Topology,
    /// All members are asked whether they are empty, and take no writes meanwhile.
    pub(super) must_be_empty: bool,
    /// It removes what there is: all members are asked to take no writes meanwhile, and how far their
    /// clocks are.
    pub(super) is_barrier: bool,
    /// It proposes what it was begun for, not what others had accepted.
    pub(super) is_own: bool,
    promises: BTreeMap<NodeId, Promise>,
    accepted: Vec<NodeId>,
    is_accepting: bool,
}

impl Proposal {
    /// Proposes `value` as what follows `base`. `must_be_empty` where it is needed for `value`, or
    /// for what others have accepted.
    pub(super) fn new(
        base: Topology,
        value: Topology,
        ballot: Ballot,
        must_be_empty: bool,
    ) -> Self {
        assert_eq!(value.epoch, base.epoch + 1);
        let must_be_empty = must_be_empty || base.moves_data(&value);
        let is_barrier = value.cleared() > base.cleared();
        let promises = BTreeMap::new();
        Self {
            base,
            ballot,
            value,
            must_be_empty,
            is_barrier,
            is_own: true,
            promises,
            accepted: Vec::new(),
            is_accepting: false,
        }
    }

    /// Whom the present round asks.
    pub(super) fn targets(&self) -> Vec<NodeId> {
        let mut targets: Vec<NodeId> = if self.must_be_empty || self.is_barrier {
            self.base.members.iter().map(crate::topology::Member::node).collect()
        } else {
            self.base.voters().collect()
        };
        if self.is_accepting {
            targets.extend(self.value.voters());
            targets.sort_unstable();
            targets.dedup();
        }
        targets
    }

    /// Whether the second round has begun.
    pub(super) fn is_accepting(&self) -> bool {
        self.is_accepting
    }

    /// A member has promised.
    pub(super) fn on_promise(&mut self, from: NodeId, promise: Promise) -> Progress {
        if self.is_accepting {
            return Progress::Pending;
        }
        // What does not follow cannot have been accepted.
        let accepted = promise.accepted.filter(|(_, value)| value.follows(&self.base));
        self.promises.insert(from, Promise { accepted, ..promise });
        let has_promised = |node: &NodeId| self.promises.contains_key(node);
        if !is_majority(self.base.voters(), has_promised) {
            return Progress::Pending;
        }
        let all_promised = self.base.members.iter().all(|it| has_promised(&it.node()));
        if (self.must_be_empty || self.is_barrier) && !all_promised {
            return Progress::Pending;
        }
        self.choose_value()
    }

    /// Those who have not answered by now are not waited for, where they need not be. Their clocks may be
    /// ahead by as much as clocks may differ.
    pub(super) fn press(&mut self) -> Progress {
        let has_promised = |node: &NodeId| self.promises.contains_key(node);
        let may = self.is_barrier && !self.is_accepting && !self.must_be_empty;
        if !may || !is_majority(self.base.voters(), has_promised) {
            return Progress::Pending;
        }
        let promises = self.promises.values_mut();
        promises.for_each(|it| it.latest = it.latest.saturating_add(AHEAD_MAX));
        self.choose_value()
    }

    /// Whether those who have not answered will not be waited for.
    pub(super) fn can_be_pressed(&self) -> bool {
        self.is_barrier && !self.is_accepting && !self.must_be_empty
    }

    /// Decides what to propose, now that the promises are there.
    fn choose_value(&mut self) -> Progress {
        let accepted = self.promises.values().filter_map(|it| it.accepted.as_ref());
        let found = accepted.max_by_key(|(ballot, _)| *ballot);
        // An older cut lies below what was written since its freezes ended: it is gone on with only where it
        // must be.
        let found = found.filter(|(_, found)| !self.is_barrier || self.may_be_chosen(found));
        if let Some((_, found)) = found {
            if self.base.moves_data(found) && !self.must_be_empty {
                // Asked again, of all.
                return Progress::Failed(Refusal::Busy);
            }
            self.is_own = *found == self.value;
            self.value = found.clone();
        } else if self.is_barrier {
            self.raise_cut();
        }
        let is_empty = self.promises.values().all(|promise| promise.is_empty);
        if self.base.moves_data(&self.value) && !(is_empty && self.is_vouched_for()) {
            let was_accepted = self.promises.values().any(|it| it.accepted.is_some());
            if !was_accepted {
                let refusal = if is_empty { Refusal::LostData } else { Refusal::HoldsData };
                return Progress::Failed(refusal);
            }
            if is_empty && self.may_be_agreed_on() {
                self.is_accepting = true;
                return Progress::Promised;
            }
            // It was accepted by some and cannot have been agreed on: that takes all members, and
            // who has accepted it stays empty. Those who wait for its end are told with a change
            // that changes nothing.
            self.is_own = false;
            self.value = Topology { epoch: self.base.epoch + 1, ..self.base.clone() };
        }
        self.is_accepting = true;
        Progress::Promised
    }

    /// Whether those who have lost nothing would know of each key that was acknowledged: more than half of
    /// a slot's replicas have each, and fewer have lost what they held.
    fn is_vouched_for(&self) -> bool {
        let is_sound = |node: &NodeId| self.promises.get(node).is_none_or(|it| it.is_sound);
        if self.promises.keys().all(is_sound) {
            return true;
        }
        let placement = Placement::new(&self.base);
        let is_known = |slot: Slot| {
            let replicas = placement.replicas(slot.first());
            let lost_count = replicas.iter().filter(|node| !is_sound(node)).count();
            lost_count < replicas.len() / 2 + 1
        };
        Slot::all().all(is_known)
    }

    /// Whether a value that was accepted, in the latest ballot of all, may have been agreed on: with those who
    /// have not answered, most have accepted it. (Had it been agreed on in an earlier ballot, those who took
    /// part would have accepted it, or the same again since.)
    fn may_be_chosen(&self, value: &Topology) -> bool {
        let may_have_accepted = |node: &NodeId| match self.promises.get(node) {
            Some(promise) => promise.accepted.as_ref().is_some_and(|(_, it)| it == value),
            None => true,
        };
        is_majority(self.base.voters(), may_have_accepted)
    }

    /// Whether all members have accepted the value, as what moves data needs.
    fn may_be_agreed_on(&self) -> bool {
        let has_accepted = |promise: &Promise| {
            promise.accepted.as_ref().is_some_and(|(_, value)| *value == self.value)
        };
        self.promises.values().all(has_accepted)
    }

    /// What is removed is all that those who have promised have ever accepted: it lies above their
    /// clocks, whoever's was ahead, and they take no writes before the decision is known.
    fn raise_cut(&mut self) {
        let latest = self.promises.values().map(|promise| promise.latest).max().unwrap_or(0);
        if latest < CLEARED_TIMESTAMP_MAX {
            let cut = &mut self.value.cleared_timestamp;
            *cut = (*cut).max(latest + 1);
        }
    }

    /// A member has accepted.
    pub(super) fn on_accepted(&mut self, from: NodeId) -> Progress {
        if !self.is_accepting {
            return Progress::Pending;
        }
        if !self.accepted.contains(&from) {
            self.accepted.push(from);
        }
        let has_accepted = |node: &NodeId| self.accepted.contains(node);
        let is_chosen = is_majority(self.base.voters(), has_accepted)
            && is_majority(self.value.voters(), has_accepted)
            && (!self.base.moves_data(&self.value)
                || self.base.members.iter().all(|it| has_accepted(&it.node())));
        if is_chosen { Progress::Chosen } else { Progress::Pending }
    }

    /// Why it has not come to its end in time.
    pub(super) fn timed_out(&self) -> Refusal {
        let has_promised = |node: &NodeId| self.promises.contains_key(node);
        if self.must_be_empty && is_majority(self.base.voters(), has_promised) {
            Refusal::NotAllAnswer
        } else {
            Refusal::NoMajority
        }
    }
}

fn is_majority(voters: impl Iterator<Item = NodeId>, has: impl Fn(&NodeId) -> bool) -> bool {
    let (mut count, mut yes) = (0, 0);
    for voter in voters {
        count += 1;
        yes += usize::from(has(&voter));
    }
    yes * 2 > count
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::{member, topology};
    use super::*;
    use crate::topology::Change;

    const BALLOT: Ballot = Ballot { timestamp: 9, proposer: 1 };

    fn joining() -> (Topology, Topology) {
        let base = topology(3, 3);
        let value = base.after(&Change::Join(member(4))).unwrap().unwrap();
        (base, value)
    }

    fn empty() -> Promise {
        Promise { accepted: None, is_empty: true, is_sound: true, latest: 0 }
    }

    #[test]
    fn a_newcomer_needs_all_members_empty() {
        let (base, value) = joining();
        let mut proposal = Proposal::new(base.clone(), value.clone(), BALLOT, false);
        assert_eq!(proposal.targets(), [NodeId(1), NodeId(2), NodeId(3)]);
        assert_eq!(proposal.on_promise(NodeId(1), empty()), Progress::Pending);
        assert_eq!(proposal.on_promise(NodeId(2), empty()), Progress::Pending);
        assert_eq!(proposal.timed_out(), Refusal::NotAllAnswer);
        let full = Promise { is_empty: false, ..empty() };
        assert_eq!(proposal.on_promise(NodeId(3), full), Progress::Failed(Refusal::HoldsData));

        let mut proposal = Proposal::new(base, value, BALLOT, false);
        for node in 1..=2 {
            proposal.on_promise(NodeId(node), empty());
        }
        assert_eq!(proposal.on_promise(NodeId(3), empty()), Progress::Promised);
        assert_eq!(proposal.targets().len(), 4);
        for node in [1, 2, 4] {
            assert_eq!(proposal.on_accepted(NodeId(node)), Progress::Pending);
        }
        assert_eq!(proposal.on_accepted(NodeId(3)), Progress::Chosen);
    }

    /// Of three copies two were acknowledged, and may have been those that are lost.
    #[test]
    fn those_who_have_lost_what_they_held_do_not_vouch_for_it() {
        let base = topology(3, 3);
        let lost = || Promise { is_sound: false, ..empty() };
        for (sound, last) in
            [([true, true, false], Progress::Promised), ([false, true, false], refused())]
        {
            let back = crate::topology::Member { store: 99, ..member(3) };
            let value = base.after(&Change::Join(back)).unwrap().unwrap();
            let mut proposal = Proposal::new(base.clone(), value, BALLOT, false);
            let mut progress = Progress::Pending;
            for (node, is_sound) in (1..).zip(sound) {
                let promise = if is_sound { empty() } else { lost() };
                progress = proposal.on_promise(NodeId(node), promise);
            }
            assert_eq!(progress, last, "{sound:?}");
        }
        // Each slot has two of six: with two members gone there are slots that have none left.
        let base = topology(6, 2);
        let value = base.after(&Change::Join(member(7))).unwrap().unwrap();
        for (lost_node, other, last) in [(2, 2, Progress::Promised), (2, 5, refused())] {
            let mut proposal = Proposal::new(base.clone(), value.clone(), BALLOT, false);
            let mut progress = Progress::Pending;
            for node in 1..=6 {
                let is_lost = node == lost_node || node == other;
                let promise = if is_lost { lost() } else { empty() };
                progress = proposal.on_promise(NodeId(node), promise);
            }
            assert_eq!(progress, last);
        }
    }

    fn refused() -> Progress {
        Progress::Failed(Refusal::LostData)
    }

    /// It may have been agreed on before they lost it; otherwise it cannot have been.
    #[test]
    fn what_all_have_accepted_is_proposed_again_whatever_was_lost_since() {
        let (base, value) = joining();
        for all in [true, false] {
            let clear = base.after(&Change::Clear(7, 1)).unwrap().unwrap();
            let mut proposal = Proposal::new(base.clone(), clear, BALLOT, true);
            let accepted = Some((Ballot { timestamp: 3, proposer: 2 }, value.clone()));
            for node in 1..=3 {
                let accepted = accepted.clone().filter(|_| all || node != 2);
                let is_sound = node == 1;
                proposal.on_promise(NodeId(node), Promise { accepted, is_sound, ..empty() });
            }
            let expected = if all { &value.members } else { &base.members };
            assert!(proposal.is_accepting() && proposal.value.members == *expected);
        }
    }

    /// Its proposer was not heard while the others waited for it, and went on writing.
    #[test]
    fn a_cut_of_an_attempt_that_came_to_nothing_is_raised_above_what_was_written_since() {
        let base = topology(3, 3);
        let stale = base.after(&Change::Clear(7, 1)).unwrap().unwrap();
        let accepted = || Some((Ballot { timestamp: 3, proposer: 1 }, stale.clone()));
        let wanted = base.after(&Change::Clear(8, 1)).unwrap().unwrap();
        let promise = |accepted| Promise { accepted, latest: 100, is_empty: false, ..empty() };
        let mut proposal = Proposal::new(base.clone(), wanted.clone(), BALLOT, false);
        proposal.on_promise(NodeId(1), promise(accepted()));
        proposal.on_promise(NodeId(2), promise(None));
        assert_eq!(proposal.on_promise(NodeId(3), promise(None)), Progress::Promised);
        assert!(proposal.is_own && proposal.value.cleared_timestamp == 101);

        // The third may have accepted it, too, or all may: then it is what was agreed on.
        let mut proposal = Proposal::new(base.clone(), wanted.clone(), BALLOT, false);
        proposal.on_promise(NodeId(1), promise(accepted()));
        proposal.on_promise(NodeId(2), promise(None));
        assert_eq!(proposal.press(), Progress::Promised);
        assert_eq!((proposal.is_own, &proposal.value), (false, &stale));
        let mut proposal = Proposal::new(base, wanted, BALLOT, false);
        proposal.on_promise(NodeId(1), promise(accepted()));
        proposal.on_promise(NodeId(2), promise(None));
        proposal.on_promise(NodeId(3), promise(accepted()));
        assert_eq!((proposal.is_own, &proposal.value), (false, &stale));
    }

    #[test]
    fn what_moves_nothing_needs_a_majority() {
        let base = topology(3, 3);
        let value = base.after(&Change::Clear(7, 1)).unwrap().unwrap();
        let mut proposal = Proposal::new(base, value, BALLOT, false);
        let full = Promise { is_empty: false, ..empty() };
        assert_eq!(proposal.on_promise(NodeId(1), full.clone()), Progress::Pending);
        assert_eq!(proposal.on_promise(NodeId(1), full.clone()), Progress::Pending);
        assert_eq!(proposal.on_promise(NodeId(3), full), Progress::Pending);
        assert_eq!(proposal.press(), Progress::Promised);
        assert_eq!(proposal.on_accepted(NodeId(3)), Progress::Pending);
        assert_eq!(proposal.on_accepted(NodeId(3)), Progress::Pending);
        assert_eq!(proposal.on_accepted(NodeId(2)), Progress::Chosen);
    }

    #[test]
    fn what_is_removed_is_all_that_those_who_promise_have_accepted() {
        let base = topology(3, 3);
        let value = base.after(&Change::Clear(7, 1)).unwrap().unwrap();
        let mut proposal = Proposal::new(base.clone(), value, BALLOT, false);
        assert_eq!(proposal.targets().len(), 3);
        proposal.on_promise(NodeId(1), Promise { latest: 5, ..empty() });
        assert_eq!(proposal.press(), Progress::Pending, "one is no majority");
        let ahead = Promise { latest: 900, is_empty: false, ..empty() };
        assert_eq!(proposal.on_promise(NodeId(3), ahead), Progress::Pending, "one may be ahead");
        let mut pressed = Proposal { promises: proposal.promises.clone(), ..proposal };
        assert_eq!(pressed.on_promise(NodeId(2), empty()), Progress::Promised);
        assert_eq!(pressed.value.cleared_timestamp, 901);
        assert!(pressed.value.follows(&base));
    }

    #[test]
    fn who_does_not_answer_may_be_as_far_ahead_as_clocks_differ() {
        let base = topology(3, 3);
        let value = base.after(&Change::Clear(7, 1)).unwrap().unwrap();
        let mut proposal = Proposal::new(base, value, BALLOT, false);
        proposal.on_promise(NodeId(1), Promise { latest: 5, ..empty() });
        assert_eq!(proposal.press(), Progress::Pending, "one is no majority");
        proposal.on_promise(NodeId(3), Promise { latest: 900, ..empty() });
        assert_eq!(proposal.press(), Progress::Promised);
        assert_eq!(proposal.value.cleared_timestamp, 901 + AHEAD_MAX);
    }

    #[test]
    fn what_somebody_has_accepted_comes_first() {
        let base = topology(3, 3);
        let mine = base.after(&Change::Clear(7, 1)).unwrap().unwrap();
        let theirs = base.after(&Change::Clear(5, 2)).unwrap().unwrap();
        let mut proposal = Proposal::new(base, mine, BALLOT, false);
        let accepted = Some((Ballot { timestamp: 3, proposer: 2 }, theirs.clone()));
        proposal.on_promise(NodeId(1), Promise { accepted, ..empty() });
        proposal.on_promise(NodeId(2), empty());
        assert_eq!(proposal.press(), Progress::Promised);
        assert_eq!(proposal.value, theirs);
    }

    #[test]
    fn what_cannot_follow_is_not_proposed_whoever_says_that_it_was_accepted() {
        let base = topology(3, 3);
        let mine = base.after(&Change::Clear(7, 1)).unwrap().unwrap();
        let other_cluster = Topology { cluster: 8, ..mine.clone() };
        for found in [base.clone(), other_cluster, Topology { epoch: 9, ..mine.clone() }] {
            let mut proposal = Proposal::new(base.clone(), mine.clone(), BALLOT, false);
            let accepted = Some((Ballot { timestamp: 3, proposer: 2 }, found));
            proposal.on_promise(NodeId(1), Promise { accepted, ..empty() });
            proposal.on_promise(NodeId(2), empty());
            assert_eq!(proposal.press(), Progress::Promised);
            assert_eq!(proposal.value.members, mine.members);
            assert!(proposal.value.cleared() > mine.cleared());
        }
    }

    #[test]
    fn a_newcomer_that_only_some_have_accepted_is_dropped_once_another_holds_data() {
        let (base, value) = joining();
        let clear = base.after(&Change::Clear(7, 1)).unwrap().unwrap();
        let mut proposal = Proposal::new(base.clone(), clear, BALLOT, true);
        let accepted = Some((Ballot { timestamp: 3, proposer: 2 }, value));
        proposal.on_promise(NodeId(1), Promise { accepted, ..empty() });
        proposal.on_promise(NodeId(2), Promise { is_empty: false, ..empty() });
        assert_eq!(proposal.on_promise(NodeId(3), empty()), Progress::Promised);
        assert_eq!(proposal.value.members, base.members);
    }
}
