//! A coordinator's part in giving out versions: when it may.
//!
//! # Beside the others' clocks
//!
//! It asks them when it begins to know them, and again when one has said nothing for a while. Before it has
//! heard from so many that they and itself are most of the members, it gives out no version: what wants one
//! waits. A clock that was set wrong while the node was down would otherwise be found out by what is refused
//! after the node's own replica has taken it, and holds it over all that others write until its time comes.
//!
//! # Beside its own past
//!
//! A version is given out once, also by a node that keeps no copy of the key and finds its clock set back when
//! it is started again: two values of one version would stay, each with a part of the replicas. The run before
//! has given out none that was further ahead of its clock than clocks may differ, nor while that was further
//! ahead of the others'. So one that is started again gives out none while its clock is behind the others' by
//! more, nor before twice that time has passed since it knew them: what the run before has given out lies
//! behind by then, whatever its own clock shows. That costs a second after a start; a mark on disk would cost
//! a second sync before each write that comes after a pause.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use super::super::op::{Common, OpId, Outcome, Why};
use super::ops::{Entry, Waiting};
use super::{Coordinator, Output, request_of};
use crate::model::{NodeId, Timestamp, Version};
use crate::time::{Instant, Now, WallTime};
use crate::wire::message::{Ask, AskKind, encode_key};

/// How long after a clock was heard it is asked for again: what was heard counts for twice as long.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// How soon those are asked again that are waited for.
const ASK_SOON: Duration = Duration::from_millis(200);

/// What a coordinator waits for, or has waited for.
#[derive(Debug, Default)]
pub(super) struct Clocks {
    /// Most of the members were heard once.
    were_heard: bool,
    /// Until when nothing is given out since a run before may have: from when the cluster was known.
    quiet_until: Option<Instant>,
    /// When the others were asked last.
    asked_at: Option<Instant>,
    /// Operations that want a version, and what was begun after them, in order.
    waiting: VecDeque<OpId>,
}

impl Clocks {
    /// An operation waits no longer. Whether it did.
    pub(super) fn forget(&mut self, id: OpId) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|it| *it != id);
        self.waiting.len() < before
    }

    pub(super) fn is_waited_for(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(super) fn waiting_count(&self) -> usize {
        self.waiting.len()
    }
}

impl Coordinator {
    /// Why writes are refused for the time being, or wait, for what the clocks show; `None` when they are not.
    #[must_use]
    pub fn clock_trouble(&self, now: Now) -> Option<Why> {
        let has_cluster = self.view.as_ref().is_some_and(|view| view.own.is_some());
        let was_heard = self.clocks.were_heard || self.has_most_clocks();
        if has_cluster && !(was_heard && self.is_past_quiet(now)) {
            return Some(Why::ClocksUnheard);
        }
        let drift_max = self.config.drift_max;
        if self.skew.is_ahead(now, drift_max) {
            return Some(Why::ClockAhead);
        }
        if self.skew.is_behind(now, drift_max, WallTime::EPOCH) {
            return Some(Why::ClockBehind);
        }
        let next = self.clock.peek(now.wall).timestamp.wall();
        (next > now.wall + drift_max).then_some(Why::VersionsAhead)
    }

    /// Whether versions may be given out: the clocks of most were heard, and what a run before has given out
    /// lies behind.
    pub(super) fn has_heard_clocks(&mut self, now: Now) -> bool {
        self.clocks.were_heard = self.clocks.were_heard || self.has_most_clocks();
        self.clocks.were_heard && self.is_past_quiet(now)
    }

    fn is_past_quiet(&self, now: Now) -> bool {
        self.clocks.quiet_until.is_none_or(|until| until <= now.at)
    }

    /// The cluster is known from here on, if it was not before.
    pub(super) fn begin_quiet(&mut self, now: Now) {
        let has_past = self.clock.latest() > Timestamp::ZERO;
        if self.clocks.quiet_until.is_none() {
            let quiet = if has_past { self.config.drift_max * 2 } else { Duration::ZERO };
            self.clocks.quiet_until = Some(now.at + quiet);
        }
    }

    /// When what waits may go on. `None` while it is not time that it waits for, but the clocks.
    pub(super) fn quiet_ends_at(&self) -> Option<Instant> {
        let waits = self.clocks.were_heard && self.clocks.is_waited_for();
        self.clocks.quiet_until.filter(|_| waits)
    }

    /// Has an operation wait until versions may be given out; one whose deadline comes first ends at once, not
    /// applied. What is begun after it waits with it, so that all keeps its order.
    pub(super) fn wait_for_clocks(&mut self, now: Now, id: OpId, common: Common, waiting: Waiting) {
        if self.clocks.quiet_until.is_some_and(|until| until >= common.until) {
            return self.done(id, Outcome::NotApplied(Why::ClocksUnheard));
        }
        self.ops.put(id, Entry::Waiting(common, waiting));
        self.clocks.waiting.push_back(id);
        self.ask_clocks(now);
    }

    /// Goes on with what has waited, once most were heard.
    pub(super) fn go_on_if_heard(&mut self, now: Now) {
        if !self.has_heard_clocks(now) {
            return;
        }
        for id in std::mem::take(&mut self.clocks.waiting) {
            match self.ops.take(id) {
                Some(Entry::Waiting(common, waiting)) => {
                    self.start_in_order(now, id, common, waiting);
                }
                _ => unreachable!("what waits is waiting"),
            }
        }
    }

    fn has_most_clocks(&self) -> bool {
        let Some(view) = self.view.as_ref().filter(|view| view.own.is_some()) else { return false };
        let members = view.topology.members.iter().map(|member| member.node());
        let others = members.filter(|node| view.own != Some(*node));
        let heard = others.filter(|node| self.skew.was_bounded(*node)).count();
        (heard + 1) * 2 > view.topology.members.len()
    }

    /// When the clocks are asked for next.
    pub(super) fn clocks_due_at(&self) -> Option<Instant> {
        let view = self.view.as_ref().filter(|view| view.own.is_some())?;
        let has_others = view.reachable.iter().any(|node| view.own != Some(*node));
        let pause = if self.clocks.were_heard { ASK_EVERY } else { ASK_SOON };
        has_others.then(|| self.clocks.asked_at.map_or(Instant::ZERO, |at| at + pause))
    }

    /// Asks those for their clocks who have not shown them of late, when it is time.
    pub(super) fn ask_clocks(&mut self, now: Now) {
        if self.clocks_due_at().is_none_or(|at| at > now.at) {
            return;
        }
        let view = self.view.clone().expect("there are others");
        self.clocks.asked_at = Some(now.at);
        let is_due = |node: &&NodeId| {
            view.own != Some(**node) && !self.skew.is_bounded_since(**node, now.at, ASK_EVERY)
        };
        let to: smallvec::SmallVec<[NodeId; 5]> =
            view.reachable.iter().filter(is_due).copied().collect();
        if to.is_empty() {
            return;
        }
        // Its number tells when it was sent.
        let id = self.ops.add();
        self.skew.mark(id, now.at);
        let ask = Ask { request: request_of(id, 0), epoch: view.epoch(), kind: AskKind::Clock };
        let mutation = Rc::new(encode_key(&[], Version::ZERO));
        self.outputs.push_back(Output::Send { to, ask, mutation });
    }
}
