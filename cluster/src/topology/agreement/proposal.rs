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

use std::collections::BTreeMap;

use super::acceptor::Ballot;
use crate::model::NodeId;
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
        if let Some((_, found)) = accepted.max_by_key(|(ballot, _)| *ballot) {
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
        if self.base.moves_data(&self.value) && !is_empty {
            let was_accepted = self.promises.values().any(|it| it.accepted.is_some());
            if !was_accepted {
                return Progress::Failed(Refusal::HoldsData);
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
        Promise { accepted: None, is_empty: true, latest: 0 }
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
