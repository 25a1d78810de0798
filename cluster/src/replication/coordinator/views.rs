//! A coordinator's part in changes of the cluster: who can be reached, and who keeps copies of what.
//!
//! An operation goes on over a change of the topology. Its answers count while those who gave them are
//! replicas of its key. An agreed change begins anew where the replicas have changed: see
//! [`Round`](super::super::round).

use std::rc::Rc;
use std::sync::Arc;

use super::super::View;
use super::super::op::{OpId, Status};
use super::Coordinator;
use super::ops::Entry;
use crate::model::{NodeId, Version};
use crate::time::Now;
use crate::wire::message::encode_key;

impl Coordinator {
    /// The cluster has changed, or who can be reached.
    pub fn on_view(&mut self, now: Now, view: View) {
        self.assert_drained();
        if view.own.is_some() {
            self.begin_quiet(now);
        }
        // What is written from here on is newer than what was removed.
        self.clock.pass(view.topology.cleared().timestamp);
        let view = Rc::new(view);
        let before = self.view.replace(Rc::clone(&view));
        if let Some(own) = view.own {
            self.clock.set_node(own);
        }
        if let Some(before) = before {
            if before.epoch() != view.epoch() {
                // What a round was promised before everything was removed is no more.
                let has_cleared = before.topology.cleared() < view.topology.cleared();
                self.move_all(now, has_cleared || before.epoch() + 1 < view.epoch());
            }
            let lost: Vec<NodeId> = before.reachable.difference(&view.reachable).copied().collect();
            for node in lost {
                self.lose(now, node);
            }
        }
        self.feed_due(now);
        self.ask_clocks(now);
        self.go_on_if_heard(now);
        self.end_event();
    }

    /// Goes on with the replicas of a newer topology. Rounds begin anew where it has others, and all of
    /// them where one was passed over, of which nobody knows whom it named, or everything was removed.
    fn move_all(&mut self, now: Now, begins_anew: bool) {
        let Some(view) = &self.view else { return };
        let placement = Arc::clone(&view.placement);
        for id in self.ops.ids() {
            let moves = match self.ops.get(id) {
                Some(Entry::Write(write)) => {
                    !write.targets.are(placement.replicas(write.common.token))
                }
                Some(Entry::Read(read)) => !read.targets.are(placement.replicas(read.common.token)),
                _ => false,
            };
            if moves {
                self.move_op(now, id);
            }
        }
        let is_moved = |round: &super::Round| {
            begins_anew || !round.targets.are(placement.replicas(round.common.token))
        };
        let moved: Vec<OpId> =
            self.rounds.iter().filter(|(_, it)| is_moved(it)).map(|(id, _)| *id).collect();
        for id in moved {
            self.move_round(now, id);
        }
    }

    /// Goes on with the replicas that the key of a read or a write has now.
    fn move_op(&mut self, now: Now, id: OpId) {
        self.ask_again(now, id);
        match self.ops.get(id) {
            Some(Entry::Write(write)) => {
                let progress = write.evaluate();
                self.on_writing(now, id, progress);
            }
            Some(Entry::Read(read)) => {
                let progress = read.evaluate();
                self.on_reading(now, id, progress);
            }
            _ => unreachable!("it was just there"),
        }
    }

    /// Asks those replicas of a read or a write that were not asked, or are to be asked again.
    fn ask_again(&mut self, now: Now, id: OpId) {
        let Some(view) = self.view.clone() else { return };
        let mutation = match self.ops.get(id) {
            Some(Entry::Write(write)) => {
                write.move_to(view.placement.replicas(write.common.token));
                write.proposed()
            }
            Some(Entry::Read(read)) => {
                let replicas = view.placement.replicas(read.common.token);
                let is_alone = read.needed == 1 && view.serves;
                let own = view.own.filter(|own| is_alone && replicas.contains(own));
                match own {
                    Some(own) => read.move_to(&[own]),
                    None => read.move_to(replicas),
                }
                Rc::new(encode_key(&read.common.key, Version::ZERO))
            }
            _ => return,
        };
        self.send(now, id, mutation);
    }

    /// What could not be done is tried again.
    pub(super) fn retry(&mut self, now: Now, id: OpId) {
        if self.rounds.contains_key(&id) {
            self.retry_round(now, id);
        } else {
            self.ask_again(now, id);
        }
    }

    /// What a node was asked will not be answered.
    pub fn on_lost(&mut self, now: Now, node: NodeId) {
        self.assert_drained();
        self.lose(now, node);
        self.end_event();
    }

    fn lose(&mut self, now: Now, node: NodeId) {
        for id in self.ops.ids() {
            match self.ops.get(id) {
                Some(Entry::Write(write)) if write.targets.status(node) == Some(Status::Asked) => {
                    let progress = write.on_answer(node, Status::Lost, false);
                    self.on_writing(now, id, progress);
                }
                Some(Entry::Read(read)) if read.targets.status(node) == Some(Status::Asked) => {
                    let progress = read.on_failure(node, Status::Lost);
                    self.on_reading(now, id, progress);
                }
                Some(Entry::Repair(peer, _)) if *peer == node => self.end_repair(now, id, false),
                _ => {}
            }
        }
        self.on_lost_rounds(now, node);
        if let Some(sequence) = self.unconfirmed.on_lost(node) {
            self.catch_up.missed(node, sequence);
        }
    }
}
