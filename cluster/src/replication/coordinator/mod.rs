//! Does what clients ask of one core, with the help of the replicas.
//!
//! ```text
//!   begin, on_answer, on_view, on_lost, handle_timeout, computed, fed
//!                              each when poll_output was drained, which asserts see to
//!     Send     to replicas, this node's own perhaps among them
//!     Compute  -> computed     what the driver makes of a record, for a change
//!     Log                      what the core's sync log keeps
//!     Feed     -> fed          a part of the sync log, for a peer that was away
//!     Record, Done             the end of an operation; each has one of them
//! ```
//!
//! # Invariants
//!
//! - Every operation ends once: at its deadline at the latest.
//! - While a change of a key is under way, what else is asked about the key at this coordinator waits
//!   behind it, in order. Plain writes and reads of one key do not wait for each other: they travel
//!   in order.
//! - What is under way is bounded by [`Config::op_count_max`] and [`Config::op_bytes_max`].
//! - An operation is forgotten when it is decided. What its last replicas say is no part of it: see
//!   [`Unconfirmed`] for writes, and `settle` for reads.

mod changes;
mod clocks;
mod feeding;
mod ops;
mod plain;
mod settle;
mod skew;
mod views;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use fastrand::Rng;
use smallvec::SmallVec;

use self::changes::{ChangeKind, Computing};
use self::clocks::Clocks;
pub use self::feeding::Excerpt;
use self::ops::{Entry, Ops, Waiting};
use self::settle::LateReads;
use self::skew::Skew;
use super::account::Account;
use super::catch_up::{CatchUp, Missed};
use super::op::{Common, Level, OpId, Outcome, Status, Targets, Why, Work};
use super::round::Round;
use super::unconfirmed::Unconfirmed;
use super::{Archive, View};
use crate::hlc::HybridClock;
use crate::model::{NodeId, Version};
use crate::mutation::Mutation;
use crate::time::{Instant, Now, WallTime};
use crate::token::Token;
use crate::wire::message::{Ask, AskKind, Reason, Reply, ReplyKind};

/// How long after a replica was found in another topology it is asked again.
const AGAIN: Duration = Duration::from_millis(10);

/// What a coordinator is told once.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// How long an operation may take.
    pub request_timeout: Duration,
    /// Replicas of [`Level::Quorum`] for writes; `None` for more than half.
    pub write_quorum: Option<u8>,
    /// Replicas of [`Level::Quorum`] for reads; `None` for more than half.
    pub read_quorum: Option<u8>,
    /// How far clocks may differ.
    pub drift_max: Duration,
    /// Operations under way at most.
    pub op_count_max: usize,
    /// Bytes of keys and values in them at most, unless it is one alone.
    pub op_bytes_max: usize,
}

/// What is to be done.
#[derive(Clone, Debug)]
pub enum Output {
    /// Send this to each of these nodes.
    Send {
        /// The nodes: maybe this one.
        to: SmallVec<[NodeId; 5]>,
        /// What is asked.
        ask: Ask,
        /// About what.
        mutation: Archive,
    },
    /// A read has ended: this is what the key has.
    Record {
        /// The operation.
        op: OpId,
        /// An archived mutation, a deletion too; `None` for nothing. One with a value is alive, whatever
        /// its expiry: that was judged.
        record: Option<Archive>,
    },
    /// Make what is to replace this, then call [`Coordinator::computed`]. May come again.
    Compute {
        /// The operation.
        op: OpId,
        /// As for [`Output::Record`].
        record: Option<Archive>,
        /// The version that the result will have.
        version: Version,
    },
    /// Put this into the sync log: it gets this sequence number.
    Log {
        /// The number.
        sequence: u64,
        /// The entry.
        mutation: Archive,
    },
    /// Read the sync log from here on for this peer, then call [`Coordinator::fed`].
    Feed {
        /// The peer.
        peer: NodeId,
        /// The first entry.
        from: u64,
    },
    /// A write or a change has ended, or a read has failed.
    Done {
        /// The operation.
        op: OpId,
        /// How.
        outcome: Outcome,
    },
}

/// What a coordinator has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Operations begun.
    pub begun: u64,
    /// Refused before anything was sent, or by all.
    pub not_applied: u64,
    /// Ended as unknown.
    pub unknown: u64,
    /// Copies sent to replicas that had older ones.
    pub repairs: u64,
    /// Tries of a change beyond its first.
    pub retries: u64,
    /// Linearizable reads that took more than one round trip.
    pub long_reads: u64,
    /// Rounds of agreed changes that have ended well.
    pub rounds: u64,
    /// Changes that these have made.
    pub changes: u64,
    /// Entries of the sync log sent to peers that were away.
    pub caught_up: u64,
}

impl Stats {
    /// Adds another core's.
    pub const fn add(&mut self, other: &Self) {
        self.begun += other.begun;
        self.not_applied += other.not_applied;
        self.unknown += other.unknown;
        self.repairs += other.repairs;
        self.retries += other.retries;
        self.long_reads += other.long_reads;
        self.rounds += other.rounds;
        self.changes += other.changes;
        self.caught_up += other.caught_up;
    }
}

/// One core's.
pub struct Coordinator {
    config: Config,
    view: Option<Rc<View>>,
    clock: HybridClock,
    rng: Rng,
    ops: Ops,
    /// The bytes of what is under way.
    account: Account,
    /// Reads that are decided, whose last replicas may yet tell something older.
    late: LateReads,
    unconfirmed: Unconfirmed,
    rounds: BTreeMap<OpId, Round>,
    /// Keys with a change under way: its round, and what waits behind it.
    keys: BTreeMap<Rc<[u8]>, (OpId, VecDeque<OpId>)>,
    /// What is to be tried again, and when.
    retries: BTreeSet<(Instant, OpId)>,
    /// By the change that the driver was asked for.
    computing: BTreeMap<OpId, Computing>,
    /// What linearizable reads will tell when their rounds have ended.
    reads: BTreeMap<OpId, Option<Archive>>,
    catch_up: CatchUp,
    skew: Skew,
    clocks: Clocks,
    next_sequence: u64,
    stats: Stats,
    outputs: VecDeque<Output>,
}

impl Coordinator {
    /// A coordinator without a cluster. `clock` resumes above everything its node has ever used.
    #[must_use]
    pub fn new(config: Config, clock: HybridClock, seed: u64) -> Self {
        Self {
            config,
            view: None,
            clock,
            rng: Rng::with_seed(seed),
            ops: Ops::new(),
            account: Account::default(),
            late: LateReads::default(),
            unconfirmed: Unconfirmed::default(),
            rounds: BTreeMap::new(),
            keys: BTreeMap::new(),
            retries: BTreeSet::new(),
            computing: BTreeMap::new(),
            reads: BTreeMap::new(),
            catch_up: CatchUp::default(),
            skew: Skew::default(),
            clocks: Clocks::default(),
            next_sequence: 1,
            stats: Stats::default(),
            outputs: VecDeque::new(),
        }
    }

    /// The clock, which replicas on the same core share.
    pub fn clock_mut(&mut self) -> &mut HybridClock {
        &mut self.clock
    }

    /// The cluster as last told.
    #[must_use]
    pub fn view(&self) -> Option<&Rc<View>> {
        self.view.as_ref()
    }

    /// What was counted.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Operations under way.
    #[must_use]
    pub fn op_count(&self) -> usize {
        self.ops.count()
    }

    /// Bytes of what they have been asked with, and of what they have been told.
    #[must_use]
    pub fn op_bytes(&self) -> usize {
        self.account.bytes()
    }

    /// What each peer has missed, of those that have missed something.
    pub fn lags(&self) -> impl Iterator<Item = (NodeId, Missed)> {
        self.catch_up.lags()
    }

    /// Entries of the sync log that some peer has not got and cannot get any more.
    #[must_use]
    pub fn lost_count(&self) -> u64 {
        self.catch_up.lost_count()
    }

    /// Up to when what has expired is over by everybody's clock, so that a replica may free its value.
    /// `None` while too few others have said of late that this node's clock is not ahead.
    #[must_use]
    pub fn ended_until(&self, now: Now) -> Option<WallTime> {
        let member_count = self.view.as_ref()?.topology.members.len();
        let vouchers = self.skew.vouchers(now, self.config.drift_max);
        // This node is one of them.
        ((vouchers + 1) * 2 > member_count).then(|| now.wall - self.config.drift_max)
    }

    /// How far the clocks of the others are ahead of this node's, in milliseconds, as last heard.
    pub fn skews(&self) -> impl Iterator<Item = (NodeId, i64)> {
        self.skew.iter()
    }

    /// The number of the entry that the sync log gets next.
    #[must_use]
    pub fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// Moves all there is to do behind what `into` has, in order.
    pub fn take_outputs(&mut self, into: &mut VecDeque<Output>) {
        if into.is_empty() {
            std::mem::swap(into, &mut self.outputs);
        } else {
            into.append(&mut self.outputs);
        }
    }

    /// The next thing to do, oldest first.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`Coordinator::handle_timeout`], if nothing else happens first.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let first = self.ops.due_at();
        let late = self.unconfirmed.due_at();
        let retry = self.retries.first().map(|(at, _)| *at);
        let resume = self.catch_up.resume_at(|peer| self.is_reachable(peer));
        let clocks = [self.clocks_due_at(), self.quiet_ends_at()];
        [first, late, retry, resume].into_iter().chain(clocks).flatten().min()
    }

    /// A client wants something.
    pub fn begin(
        &mut self,
        now: Now,
        (token, key): (Token, &[u8]),
        level: Level,
        work: Work,
    ) -> OpId {
        self.assert_drained();
        let id = self.ops.add();
        self.skew.mark(id, now.at);
        self.stats.begun += 1;
        let until = now.at + self.config.request_timeout;
        let value_bytes = match &work {
            Work::Write(draft) => {
                assert_eq!(draft.mutation().key, key, "what is written is about the key");
                draft.mutation().value.map_or(0, <[u8]>::len)
            }
            Work::Read | Work::Change => 0,
        };
        let (bytes, held_bytes) = (key.len() + value_bytes, self.account.bytes());
        // One that is larger than the bound has its turn when it is alone.
        let is_full = held_bytes > 0 && held_bytes + bytes > self.config.op_bytes_max;
        if is_full || self.ops.count() >= self.config.op_count_max {
            self.done(id, Outcome::NotApplied(Why::Overloaded));
            self.end_event();
            return id;
        }
        let charge = Some(self.account.charge(bytes));
        let common = Common { token, key: Rc::from(key), level, until, charge };
        let waiting = match work {
            Work::Read => Waiting::Read,
            Work::Write(draft) if level != Level::Linearizable => Waiting::Write(draft),
            Work::Write(draft) => Waiting::Change(ChangeKind::Put(draft)),
            Work::Change => Waiting::Change(ChangeKind::Driver),
        };
        if self.clocks.is_waited_for() {
            self.wait_for_clocks(now, id, common, waiting);
        } else {
            self.start_in_order(now, id, common, waiting);
        }
        self.end_event();
        id
    }

    /// Starts an operation, or has it wait behind what is under way about its key.
    fn start_in_order(&mut self, now: Now, id: OpId, common: Common, waiting: Waiting) {
        if let Some((_, queue)) = self.keys.get_mut(&common.key) {
            queue.push_back(id);
            self.ops.put(id, Entry::Waiting(common, waiting));
        } else {
            self.start(now, id, common, waiting);
        }
    }

    fn start(&mut self, now: Now, id: OpId, common: Common, waiting: Waiting) {
        match waiting {
            Waiting::Read => self.start_read(now, id, common),
            Waiting::Write(draft) => self.start_write(now, id, common, draft),
            Waiting::Change(kind) => self.start_change(now, id, common, kind),
        }
    }

    /// Replicas that have to say yes at a level.
    fn needed(&self, level: Level, quorum: Option<u8>) -> usize {
        let count = self.view.as_ref().map_or(1, |view| view.topology.replica_count);
        let majority = count / 2 + 1;
        usize::from(match level {
            Level::One => 1,
            Level::Quorum => quorum.unwrap_or(majority),
            Level::Count(number) => number,
            Level::All => count,
            Level::Linearizable => majority,
        })
    }

    /// The replicas of a token; the operation ends here if too few can be reached.
    fn targets(&mut self, id: OpId, token: Token, needed: usize) -> Option<Targets> {
        let Some(view) = self.view.as_ref().filter(|view| view.own.is_some()) else {
            self.done(id, Outcome::NotApplied(Why::NoCluster));
            return None;
        };
        let targets = Targets::new(view.placement.replicas(token));
        let reachable = targets.nodes.iter().filter(|it| view.reachable.contains(&it.0)).count();
        if reachable < needed {
            self.done(id, Outcome::NotApplied(Why::TooFew { reachable, needed }));
            return None;
        }
        Some(targets)
    }

    fn is_reachable(&self, node: NodeId) -> bool {
        self.view.as_ref().is_some_and(|view| view.reachable.contains(&node))
    }

    /// Sends an operation, or a round, to those of its replicas that it was not sent to yet.
    fn send(&mut self, now: Now, id: OpId, mutation: Archive) {
        let Some(view) = &self.view else { return };
        let epoch = view.epoch();
        let entry = if self.rounds.contains_key(&id) { None } else { self.ops.get(id) };
        let (targets, attempt, kind) = match entry {
            Some(Entry::Write(write)) => (&mut write.targets, write.attempt, AskKind::Write),
            Some(Entry::Read(read)) => (&mut read.targets, 0, AskKind::Read),
            Some(_) => return,
            None => return self.send_round(now, id, mutation),
        };
        let mut targets = std::mem::replace(targets, Targets::new(&[]));
        let ask = Ask { request: request_of(id, attempt), epoch, kind };
        self.send_to(&mut targets, ask, mutation);
        let again = targets.wants_again();
        match self.ops.get(id) {
            Some(Entry::Write(write)) => write.targets = targets,
            Some(Entry::Read(read)) => read.targets = targets,
            _ => unreachable!("it was just there"),
        }
        if again {
            self.retries.insert((now.at + AGAIN, id));
        }
    }

    /// Sends to the targets that were not asked yet, and can be reached.
    fn send_to(&mut self, targets: &mut Targets, ask: Ask, mutation: Archive) {
        let mut to = SmallVec::new();
        for (node, status) in &mut targets.nodes {
            let is_reachable = self.view.as_ref().is_some_and(|view| view.reachable.contains(node));
            match status {
                Status::Unsent | Status::Again(_) if is_reachable => {
                    *status = Status::Asked;
                    to.push(*node);
                }
                _ => {}
            }
        }
        if !to.is_empty() {
            self.outputs.push_back(Output::Send { to, ask, mutation });
        }
    }

    /// A node answers. `mutation` is what came with it.
    pub fn on_answer(
        &mut self,
        now: Now,
        from: NodeId,
        reply: Reply,
        mutation: Option<&Mutation<'_>>,
    ) {
        self.assert_drained();
        let (id, attempt) = op_of(reply.request);
        self.skew.note_answer(now.at, from, id);
        self.go_on_if_heard(now);
        if let Some(sequence) = self.unconfirmed.take(from, reply.request) {
            self.on_settled_answer(now, from, reply, sequence);
        } else if self.rounds.contains_key(&id) {
            self.on_round_answer(now, (id, attempt), from, reply, mutation);
        } else {
            match self.ops.get(id) {
                Some(Entry::Write(write)) if write.attempt == attempt => {
                    self.on_write_answer(now, id, from, reply);
                }
                Some(Entry::Read(_)) => self.on_read_answer(now, id, from, reply, mutation),
                Some(Entry::Repair(peer, _)) if *peer == from => {
                    // Superseded by what was promised or accepted since: newer, and on its way.
                    let is_confirmed =
                        matches!(reply.kind, ReplyKind::Written { .. } | ReplyKind::Outbid { .. });
                    self.end_repair(now, id, is_confirmed);
                }
                Some(_) => {}
                None => self.on_late_answer(id, from, reply, mutation),
            }
        }
        self.end_event();
    }

    /// Another node's clock showed `remote` in a frame. Comes before the answers in that frame.
    pub fn on_heard(&mut self, now: Now, from: NodeId, remote: WallTime) {
        self.skew.note(now, from, remote);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Now) {
        self.assert_drained();
        while let Some((at, id)) = self.retries.first().copied()
            && at <= now.at
        {
            self.retries.pop_first();
            self.retry(now, id);
        }
        for id in self.ops.ids() {
            match self.ops.get(id).and_then(|entry| entry.until()) {
                None => {}
                // Those behind it have begun later.
                Some(until) if until > now.at => break,
                Some(_) => self.expire(now, id),
            }
        }
        while let Some((peer, sequence)) = self.unconfirmed.pop_late(now.at) {
            self.catch_up.missed(peer, sequence);
        }
        self.late.expire(now.at);
        self.feed_due(now);
        self.ask_clocks(now);
        self.go_on_if_heard(now);
        self.end_event();
    }

    /// An operation's time is up.
    fn expire(&mut self, now: Now, id: OpId) {
        match self.ops.get(id) {
            Some(Entry::Write(write)) => {
                let progress = write.on_timeout();
                self.on_writing(now, id, progress);
            }
            Some(Entry::Read(read)) => {
                let progress = read.on_timeout();
                self.on_reading(now, id, progress);
            }
            Some(Entry::Waiting(common, _)) => {
                let key = Rc::clone(&common.key);
                if let Some((_, queue)) = self.keys.get_mut(&key) {
                    queue.retain(|it| *it != id);
                }
                let why = if self.clocks.forget(id) {
                    Why::ClocksUnheard
                } else {
                    Why::TimedOut { answered: 0, needed: 1 }
                };
                self.done(id, Outcome::NotApplied(why));
            }
            Some(Entry::Change(..)) => self.expire_change(now, id),
            Some(Entry::Repair(..)) => self.end_repair(now, id, false),
            Some(Entry::Round) | None => {}
        }
    }

    fn assert_drained(&self) {
        assert!(self.outputs.is_empty(), "outputs are polled before the next event");
    }

    /// All that an event leads to was done.
    fn end_event(&mut self) {
        self.ops.trim();
        self.assert_invariants();
    }

    fn assert_invariants(&self) {
        assert_eq!(self.rounds.len(), self.keys.len(), "a key has one round");
        assert!(self.rounds.len() * 2 <= self.ops.count(), "a round is for a change at least");
        assert!(self.clocks.waiting_count() <= self.ops.count(), "what waits is under way");
        assert!(self.reads.len() <= self.ops.count(), "what a read will tell is for a read");
        assert!(self.ops.count() > 0 || self.account.bytes() == 0, "nothing holds nothing");
        assert!(self.next_sequence > 0);
        #[cfg(debug_assertions)]
        self.assert_rounds();
    }

    /// What costs more than to look at a few numbers.
    #[cfg(debug_assertions)]
    fn assert_rounds(&self) {
        for (key, (id, queue)) in &self.keys {
            let round = self.rounds.get(id).expect("the round of a key is under way");
            assert_eq!(*key, round.common.key);
            assert!(matches!(self.ops.look(*id), Some(Entry::Round)));
            assert!(!round.ops.is_empty(), "a round without changes has ended");
            let is_change = |op: &OpId| matches!(self.ops.look(*op), Some(Entry::Change(..)));
            assert!(round.ops.iter().all(is_change));
            let waits = |op: &OpId| matches!(self.ops.look(*op), Some(Entry::Waiting(..)));
            assert!(queue.iter().all(waits));
        }
    }

    fn log(&mut self, mutation: Archive) -> u64 {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.outputs.push_back(Output::Log { sequence, mutation });
        sequence
    }

    /// Tells how an operation has ended, and forgets it.
    fn done(&mut self, id: OpId, outcome: Outcome) {
        self.ops.take(id);
        self.report(id, outcome);
    }

    fn report(&mut self, id: OpId, outcome: Outcome) {
        match outcome {
            Outcome::Acknowledged { .. } => {}
            Outcome::NotApplied(_) => self.stats.not_applied += 1,
            Outcome::Unknown(_) => self.stats.unknown += 1,
        }
        self.outputs.push_back(Output::Done { op: id, outcome });
    }
}

/// The number that an operation's replicas answer with: its own, and which try it is.
const fn request_of(id: OpId, attempt: u8) -> u64 {
    id.0 << 8 | attempt as u64
}

const fn op_of(request: u64) -> (OpId, u8) {
    (OpId(request >> 8), (request & 0xff) as u8)
}

/// What a refusal means for the operation.
const fn status_of(reason: Reason) -> Status {
    match reason {
        Reason::Epoch | Reason::Frozen | Reason::NotMine => Status::Again(reason),
        _ => Status::No(reason),
    }
}
