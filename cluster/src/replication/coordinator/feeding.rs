//! A coordinator's part in catch-up: sends what peers have missed, a batch at a time.

use std::rc::Rc;

use rkyv::util::AlignedVec;

use super::super::catch_up::BATCH_COUNT;
use super::ops::Entry;
use super::{Coordinator, OpId, Output, View, request_of};
use crate::model::NodeId;
use crate::mutation;
use crate::time::Now;
use crate::token::Slot;
use crate::wire::message::{Ask, AskKind};

/// A part of the sync log.
#[derive(Debug, Default)]
pub struct Excerpt {
    /// Archived mutations, in order: at most [`Excerpt::COUNT_MAX`].
    pub entries: Vec<AlignedVec>,
    /// What comes after them.
    pub next: u64,
    /// Entries before them that were overwritten.
    pub lost_count: u64,
    /// Whether there was nothing more.
    pub is_last: bool,
}

impl Excerpt {
    /// Entries in one excerpt, at most.
    pub const COUNT_MAX: usize = BATCH_COUNT;
}

impl Coordinator {
    /// Asks for the log where a peer can be fed.
    pub(super) fn feed_due(&mut self, now: Now) {
        while let Some((peer, from)) =
            self.catch_up.due(now.at, |peer| self.view.as_ref().is_some_and(|it| is_fed(it, peer)))
        {
            // A batch that is being read counts as under way.
            self.catch_up.started(now.at, peer, (from, 0, false), 1);
            self.outputs.push_back(Output::Feed { peer, from });
        }
    }

    /// The driver has read the log for a peer: [`Output::Feed`].
    pub fn fed(&mut self, now: Now, peer: NodeId, excerpt: &Excerpt) {
        self.assert_drained();
        assert!(excerpt.entries.len() <= Excerpt::COUNT_MAX);
        let Some(view) = &self.view else { return };
        let placement = std::sync::Arc::clone(&view.placement);
        let is_for_peer = |entry: &&AlignedVec| {
            let entry = mutation::access(entry).expect("it was encoded here");
            placement.replicas(Slot::of(entry.key).first()).contains(&peer)
        };
        let entries: Vec<&AlignedVec> = excerpt.entries.iter().filter(is_for_peer).collect();
        let (epoch, can_send) = (view.epoch(), is_fed(view, peer));
        let place = (excerpt.next, excerpt.lost_count, excerpt.is_last);
        self.catch_up.started(now.at, peer, place, entries.len());
        let until = now.at + self.config.request_timeout;
        for entry in entries {
            if !can_send {
                self.catch_up.on_answer(now.at, peer, false);
                continue;
            }
            let id = self.ops.add();
            self.ops.put(id, Entry::Repair(peer, until));
            self.stats.caught_up += 1;
            let ask = Ask { request: request_of(id, 0), epoch, kind: AskKind::Repair };
            let (to, mutation) = ([peer].into_iter().collect(), Rc::new(entry.clone()));
            self.outputs.push_back(Output::Send { to, ask, mutation });
        }
        self.end_event();
    }

    /// A copy that a peer had missed has arrived, or has not.
    pub(super) fn end_repair(&mut self, now: Now, id: OpId, is_confirmed: bool) {
        let Some(Entry::Repair(peer, _)) = self.ops.take(id) else { unreachable!("it is one") };
        self.catch_up.on_answer(now.at, peer, is_confirmed);
        self.feed_due(now);
    }
}

/// Whether a peer can be fed: this node itself can too, when its own store had refused.
fn is_fed(view: &View, peer: NodeId) -> bool {
    view.reachable.contains(&peer)
}
