//! A coordinator's part in agreed changes: one round a key at a time, what waits behind it, and the
//! calls to the driver that make a new value of an old one.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use super::super::expiry;
use super::super::op::{Common, Computed, Level, OpId, Outcome, Status, Targets, Told, Why};
use super::super::round::{Phase, Progress, Round};
use super::AGAIN;
use super::ops::{Entry, Waiting};
use super::settle::charge_for;
use super::{Archive, Coordinator, Output, request_of, status_of};
use crate::model::{NodeId, Version};
use crate::mutation::{self, Draft, Mutation};
use crate::probe;
use crate::time::{Now, WallTime};
use crate::wire::message::{Ask, AskKind, Reply, ReplyKind, encode_key};

/// The longest pause before another try.
const PAUSE_MAX: Duration = Duration::from_millis(64);

/// Who makes the new value.
#[derive(Clone, Debug)]
pub(super) enum ChangeKind {
    /// The driver, from the old one.
    Driver,
    /// Nobody: the change is a read.
    Read,
    /// It is given.
    Put(Draft),
}

/// The changes of a round that are being made.
pub(super) struct Computing {
    round: OpId,
    left: VecDeque<OpId>,
    /// What the changes so far have made.
    record: Option<Archive>,
    has_changed: bool,
    /// Reads among the changes, with what they see.
    seen: Vec<(OpId, Option<Archive>)>,
    version: Version,
    /// The time by which all of them judge.
    wall: WallTime,
}

impl Coordinator {
    pub(super) fn start_change(&mut self, now: Now, id: OpId, common: Common, kind: ChangeKind) {
        let needed = self.needed(Level::Linearizable, None);
        if self.targets(id, common.token, needed).is_none() {
            return;
        }
        self.queue_change(now, id, common, kind);
    }

    /// Has a change done: in a round of its own, or behind what is under way.
    pub(super) fn queue_change(&mut self, now: Now, id: OpId, common: Common, kind: ChangeKind) {
        if !self.has_heard_clocks(now) {
            return self.wait_for_clocks(now, id, common, Waiting::Change(kind));
        }
        if let Some(why) = self.clock_trouble(now) {
            return self.done(id, Outcome::NotApplied(why));
        }
        if let Some((_, queue)) = self.keys.get_mut(&common.key) {
            queue.push_back(id);
            self.ops.put(id, Entry::Waiting(common, Waiting::Change(kind)));
            return;
        }
        let key = Rc::clone(&common.key);
        self.ops.put(id, Entry::Waiting(common, Waiting::Change(kind)));
        self.start_round(now, key, VecDeque::from([id]));
    }

    /// Begins a round with the changes at the front of `queue`; the rest waits behind it.
    fn start_round(&mut self, now: Now, key: Rc<[u8]>, mut queue: VecDeque<OpId>) {
        // Its number is one of the same sequence.
        let round_id = self.ops.add();
        self.ops.put(round_id, Entry::Round);
        let mut round: Option<Round> = None;
        while let Some(id) = queue.front().copied() {
            let is_change = matches!(self.ops.get(id), Some(Entry::Waiting(_, Waiting::Change(_))));
            if !is_change {
                break;
            }
            queue.pop_front();
            let Some(Entry::Waiting(common, Waiting::Change(kind))) = self.ops.take(id) else {
                unreachable!("it was just looked at")
            };
            let needed = self.needed(Level::Linearizable, None);
            let round = round.get_or_insert_with(|| Round::new(common.clone(), needed));
            round.ops.push(id);
            self.ops.put(id, Entry::Change(common, kind));
        }
        let round = round.expect("the first is a change");
        self.rounds.insert(round_id, round);
        self.keys.insert(key, (round_id, queue));
        self.try_round(now, round_id);
    }

    /// Goes on with what has waited behind a round that has ended.
    fn advance_key(&mut self, now: Now, key: &Rc<[u8]>) {
        let Some((_, mut queue)) = self.keys.remove(key) else { return };
        while let Some(id) = queue.front().copied() {
            match self.ops.take(id) {
                Some(Entry::Waiting(common, Waiting::Change(kind))) => {
                    self.ops.put(id, Entry::Waiting(common, Waiting::Change(kind)));
                    return self.start_round(now, Rc::clone(key), queue);
                }
                Some(Entry::Waiting(common, waiting)) => {
                    queue.pop_front();
                    self.start(now, id, common, waiting);
                }
                _ => unreachable!("what waits is waiting"),
            }
        }
    }

    /// Begins the first phase of a try.
    fn try_round(&mut self, now: Now, id: OpId) {
        let needed = self.needed(Level::Linearizable, None);
        let round = self.rounds.get_mut(&id).expect("it is under way");
        round.needed = needed;
        let Some(view) = &self.view else { return };
        let targets = Targets::new(view.placement.replicas(round.common.token));
        let reachable = targets.nodes.iter().filter(|it| view.reachable.contains(&it.0)).count();
        if reachable < needed {
            return self.fail_round(now, id, Why::TooFew { reachable, needed });
        }
        let ballot = self.clock.tick(now.wall);
        let round = self.rounds.get_mut(&id).expect("it is under way");
        if round.tries > 0 {
            self.stats.retries += 1;
        }
        round.prepare(targets, ballot);
        let key = Rc::new(encode_key(&round.common.key, ballot));
        self.send_round(now, id, key);
    }

    /// Sends the present phase to those that were not asked.
    pub(super) fn send_round(&mut self, now: Now, id: OpId, mutation: Archive) {
        let Some(epoch) = self.view.as_ref().map(|view| view.epoch()) else { return };
        let Some(round) = self.rounds.get_mut(&id) else { return };
        let request = request_of(id, round.attempt);
        let kind = match round.phase {
            Phase::Preparing => AskKind::Prepare,
            Phase::Accepting => AskKind::Accept,
            Phase::Pausing | Phase::Computing | Phase::Ended => return,
        };
        let mut targets = std::mem::replace(&mut round.targets, Targets::new(&[]));
        self.send_to(&mut targets, Ask { request, epoch, kind }, mutation);
        if targets.wants_again() {
            self.retries.insert((now.at + AGAIN, id));
        }
        self.rounds.get_mut(&id).expect("it is under way").targets = targets;
    }

    pub(super) fn on_round_answer(
        &mut self,
        now: Now,
        (id, attempt): (OpId, u8),
        from: NodeId,
        reply: Reply,
        mutation: Option<&Mutation<'_>>,
    ) {
        let status = match reply.kind {
            ReplyKind::Outbid { by } => Some(self.outbid(now, by.into())),
            ReplyKind::Refused { reason, .. } => Some(status_of(reason)),
            _ => None,
        };
        let round = self.rounds.get_mut(&id).expect("it was looked up");
        if round.attempt != attempt {
            return;
        }
        let progress = match reply.kind {
            ReplyKind::Promised { is_sure } => {
                let rank = expiry::rank_of(mutation);
                let record = mutation.filter(|_| round.wants(rank));
                let record = record.map(|record| Rc::new(mutation::encode(record)));
                let charge = charge_for(&self.account, record.as_ref());
                round.on_promise(Told { from, rank, is_sure, record, charge })
            }
            ReplyKind::Accepted => round.on_accepted(from),
            _ => match status {
                Some(status) => round.on_failure(from, status),
                None => return,
            },
        };
        if matches!(status, Some(Status::Again(_))) {
            self.retries.insert((now.at + AGAIN, id));
        }
        self.on_round(now, id, progress);
    }

    fn on_round(&mut self, now: Now, id: OpId, progress: Progress) {
        match progress {
            Progress::Pending => {}
            Progress::Compute(record, version) => self.compute(now, id, record, version),
            Progress::Adopt(record) => {
                let ballot = self.rounds[&id].ballot;
                self.propose(now, id, Draft::from(record).stamp(ballot));
            }
            Progress::Done => self.end_round(now, id),
            Progress::Outbid => {
                let round = self.rounds.get_mut(&id).expect("it is under way");
                // Doubling, and at random: two proposers do not meet again and again.
                let bound = 1_u64 << round.tries.min(6);
                let pause = Duration::from_micros(self.rng.u64(100..=1_000 * bound));
                self.retries.insert((now.at + pause.min(PAUSE_MAX), id));
            }
            Progress::Failed(why) => self.fail_round(now, id, why),
        }
    }

    pub(super) fn on_lost_rounds(&mut self, now: Now, node: NodeId) {
        let asked = |round: &Round| round.targets.status(node) == Some(Status::Asked);
        let ids: Vec<OpId> =
            self.rounds.iter().filter(|(_, round)| asked(round)).map(|(id, _)| *id).collect();
        for id in ids {
            let Some(round) = self.rounds.get_mut(&id) else { continue };
            let progress = round.on_failure(node, Status::Lost);
            self.on_round(now, id, progress);
        }
    }

    pub(super) fn retry_round(&mut self, now: Now, id: OpId) {
        let round = self.rounds.get_mut(&id).expect("it was looked up");
        match round.phase {
            Phase::Pausing => self.try_round(now, id),
            Phase::Preparing => {
                let key = Rc::new(encode_key(&round.common.key, round.ballot));
                self.send_round(now, id, key);
            }
            Phase::Accepting => {
                let proposed = round.proposed.clone().expect("the second phase proposes something");
                self.send_round(now, id, proposed);
            }
            Phase::Computing | Phase::Ended => {}
        }
    }

    /// The key of a round has other replicas: it begins anew. While the driver makes the new value that
    /// waits for it.
    pub(super) fn move_round(&mut self, now: Now, id: OpId) {
        let round = self.rounds.get_mut(&id).expect("it is under way");
        probe!(round.phase != Phase::Pausing, "epoch change inside a round");
        match round.phase {
            Phase::Computing => round.is_moved = true,
            Phase::Pausing => {}
            Phase::Preparing | Phase::Accepting => {
                round.start_over();
                self.try_round(now, id);
            }
            Phase::Ended => unreachable!("a round that has ended is none"),
        }
    }

    /// Makes the new value of the old one, change by change.
    fn compute(&mut self, now: Now, id: OpId, record: Option<Archive>, version: Version) {
        let (wall, seen) = (now.wall, Vec::new());
        let is_over = match self.is_over(now, record.as_ref()) {
            Ok(is_over) => is_over,
            Err(why) => return self.fail_round(now, id, why),
        };
        let round = &self.rounds[&id];
        let left = round.ops.iter().copied().collect();
        // Whoever sees that it has ended sees a tombstone that is chosen.
        let record =
            if is_over { Some(expiry::tombstone(&round.common.key, round.ballot)) } else { record };
        let has_changed = is_over;
        let computing = Computing { round: id, left, record, has_changed, seen, version, wall };
        self.compute_next(now, computing);
    }

    fn compute_next(&mut self, now: Now, mut computing: Computing) {
        let ballot = self.rounds[&computing.round].ballot;
        while let Some(op) = computing.left.pop_front() {
            match self.ops.get(op) {
                Some(Entry::Change(_, ChangeKind::Read)) => {
                    computing.seen.push((op, computing.record.clone()));
                    continue;
                }
                Some(Entry::Change(_, ChangeKind::Driver)) => {
                    let record = computing.record.clone();
                    self.outputs.push_back(Output::Compute { op, record, version: ballot });
                    self.computing.insert(op, computing);
                    return;
                }
                Some(Entry::Change(_, ChangeKind::Put(draft))) => {
                    computing.record = Some(expiry::proposal(draft, ballot, computing.wall));
                    computing.has_changed = true;
                }
                _ => {}
            }
        }
        self.conclude(now, computing);
    }

    /// The driver has made what [`Output::Compute`] asked for.
    pub fn computed(&mut self, now: Now, op: OpId, computed: Computed) {
        self.assert_drained();
        let mut computing = self.computing.remove(&op).expect("the driver was asked");
        // All whom the round was for may have given up meanwhile.
        let Some(round) = self.rounds.get(&computing.round) else { return };
        let ballot = round.ballot;
        if let Computed::Put(mut draft) = computed {
            assert_eq!(draft.mutation().key, &*round.common.key, "it replaces what was there");
            computing.record = Some(expiry::proposal(&mut draft, ballot, computing.wall));
            computing.has_changed = true;
        }
        self.compute_next(now, computing);
        self.end_event();
    }

    /// All changes are made: proposes the result, unless it is what all who have promised have.
    fn conclude(&mut self, now: Now, computing: Computing) {
        let Computing { round: id, record, has_changed, seen, version, .. } = computing;
        for (op, record) in seen {
            // What it sees is told when the round has ended.
            self.reads.insert(op, record);
        }
        let round = self.rounds.get_mut(&id).expect("it is under way");
        let ballot = round.ballot;
        if round.is_moved {
            round.start_over();
            return self.try_round(now, id);
        }
        if !has_changed && round.is_agreed() {
            round.phase = Phase::Ended;
            round.ballot = version;
            return self.end_round(now, id);
        }
        let record = record.expect("what differs, or was changed, is something");
        // What has changed has the ballot already.
        self.propose(now, id, Draft::from(record).stamp(ballot));
    }

    /// Begins the second phase.
    fn propose(&mut self, now: Now, id: OpId, proposed: Archive) {
        let Some(view) = &self.view else { return };
        let round = self.rounds.get_mut(&id).expect("it is under way");
        let targets = Targets::new(view.placement.replicas(round.common.token));
        round.accept(targets, Rc::clone(&proposed));
        self.send_round(now, id, proposed);
    }

    /// A round has ended well: so have its changes.
    fn end_round(&mut self, now: Now, id: OpId) {
        let round = self.rounds.remove(&id).expect("a round ends once");
        self.stats.rounds += 1;
        self.stats.changes += round.ops.len() as u64;
        self.ops.take(id);
        if let Some(proposed) = &round.proposed {
            // Not before: what nobody has accepted must not come to anybody by another way.
            let sequence = self.log(Rc::clone(proposed));
            let until = now.at + self.config.request_timeout;
            self.settle(now, &round.targets, request_of(id, round.attempt), (sequence, until));
        }
        for op in &round.ops {
            let Some(Entry::Change(_, kind)) = self.ops.take(*op) else { continue };
            match (kind, self.reads.remove(op)) {
                (ChangeKind::Read, Some(record)) => {
                    self.outputs.push_back(Output::Record { op: *op, record });
                }
                (ChangeKind::Read, None) => unreachable!("what a read sees was noted"),
                (ChangeKind::Driver | ChangeKind::Put { .. }, _) => {
                    let version = round.ballot;
                    let outcome = Outcome::Acknowledged { replaced: false, version };
                    self.report(*op, outcome);
                }
            }
        }
        self.advance_key(now, &round.common.key);
    }

    /// A round cannot come to its end.
    fn fail_round(&mut self, now: Now, id: OpId, why: Why) {
        let round = self.rounds.remove(&id).expect("a round ends once");
        self.ops.take(id);
        let may_be_done = round.may_be_done();
        for op in &round.ops {
            let Some(Entry::Change(_, kind)) = self.ops.take(*op) else { continue };
            self.reads.remove(op);
            let is_read = matches!(kind, ChangeKind::Read);
            let outcome = if may_be_done && !is_read {
                Outcome::Unknown(why)
            } else {
                Outcome::NotApplied(why)
            };
            self.report(*op, outcome);
        }
        self.advance_key(now, &round.common.key);
    }

    /// A change's time is up; its round goes on for the others in it.
    pub(super) fn expire_change(&mut self, now: Now, op: OpId) {
        let Some(Entry::Change(common, kind)) = self.ops.take(op) else {
            unreachable!("it is one")
        };
        self.reads.remove(&op);
        let (id, _) = self.keys.get(&common.key).expect("its round is under way");
        let id = *id;
        let round = self.rounds.get_mut(&id).expect("its round is under way");
        round.ops.retain(|it| *it != op);
        // What the round has proposed, or is about to, was made with it, and is tried again.
        let goes_on =
            !round.ops.is_empty() && matches!(round.phase, Phase::Computing | Phase::Accepting);
        let may_be_done = (round.may_be_done() || goes_on) && !matches!(kind, ChangeKind::Read);
        let answered = round.targets.yes();
        let why = match round.targets.refusal() {
            Some(reason) => Why::Refused(reason),
            None => Why::TimedOut { answered, needed: round.needed },
        };
        let is_over = round.ops.is_empty();
        let outcome = if may_be_done { Outcome::Unknown(why) } else { Outcome::NotApplied(why) };
        self.report(op, outcome);
        if is_over {
            self.rounds.remove(&id);
            self.ops.take(id);
            self.advance_key(now, &common.key);
        }
    }
}
