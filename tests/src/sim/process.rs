//! One process of a node: the machines, and what drives them.
//!
//! It takes in what happens to it and hands out [`Effect`]s, which the world carries out. It is the
//! second driver of the same machines: what the real one does with rings and sockets, this one does
//! with values.
//!
//! # Invariants
//!
//! - An answer to a coordinator leaves when the log is durable as far as the answer says.
//! - What an agreement keeps is kept before anything after it is done.
//! - Messages about a key that waits for the disk wait behind it, in order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use gridkv_cluster::message::{self, Head};
use gridkv_cluster::replication::{
    Archive, Computed, Config, Context, Coordinator, Excerpt, Level, OpId, Outcome, Output,
    Standing, View, Work,
};
use gridkv_cluster::swim::{self, Swim};
use gridkv_cluster::topology::agreement::{self, Agreement, Request, Survey, Tag, Via};
use gridkv_cluster::topology::placement::Placement;
use gridkv_cluster::topology::{Epoch, Topology};
use gridkv_cluster::{HybridClock, Instant, Mutation, NodeId, Version, WallTime, mutation};
use gridkv_storage::replicated::{Answer, Replicated};
use gridkv_storage::sync_log::{Read, Sequence, SyncLog, SyncReader, sync_log};
use rkyv::util::AlignedVec;

/// Operations under way, at most.
pub(super) const OP_COUNT_MAX: usize = 4_096;

/// The way between a coordinator's node and a replica's, as it was when a request came over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Way {
    /// The coordinator's node.
    pub(super) initiator: usize,
    /// Which connection.
    pub(super) generation: u64,
}

/// What a process wants done.
#[derive(Debug)]
pub(super) enum Effect {
    Datagram {
        to: SocketAddr,
        bytes: Vec<u8>,
    },
    Exchange {
        to: SocketAddr,
        bytes: Vec<u8>,
    },
    Request {
        to: SocketAddr,
        bytes: Vec<u8>,
    },
    Answer {
        to: usize,
        bytes: Vec<u8>,
    },
    /// Messages to a replica's node.
    Ask {
        to: SocketAddr,
        body: AlignedVec,
    },
    /// Messages back to a coordinator's.
    Reply {
        way: Way,
        body: AlignedVec,
    },
    /// An operation has ended.
    Ended {
        op: OpId,
        end: End,
    },
    /// A topology holds here.
    Installed(Topology),
    /// A flush has ended.
    Flushed {
        is_done: bool,
    },
    /// What the agreement keeps in its file.
    Keep(Vec<u8>),
}

/// How an operation has ended.
#[derive(Clone, Debug)]
pub(super) enum End {
    /// With a record, deletions included.
    Record(Option<(Version, Option<Vec<u8>>)>),
    Done(Outcome),
}

/// Makes what replaces a record, for a change.
pub(super) trait Functions {
    /// `before` is what is live.
    fn compute(&mut self, node: usize, op: OpId, before: Option<&[u8]>) -> Computed;
}

/// Where an answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Own,
    Way(Way),
}

/// The time, as a node sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) at: Instant,
    pub(super) wall: WallTime,
}

/// What a process is started with.
pub(super) struct Start {
    pub(super) node: usize,
    pub(super) swim: Swim,
    pub(super) agreement: Agreement,
    pub(super) member: gridkv_cluster::topology::Member,
    pub(super) shard: Replicated<Source>,
    pub(super) config: Config,
    pub(super) sync_log_bytes: usize,
    pub(super) seed: u64,
}

/// The most of each that there was at a time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Held {
    pub(super) ops: usize,
    pub(super) promises: usize,
    pub(super) parked: usize,
    pub(super) answers: usize,
}

pub(super) struct Process {
    node: usize,
    member: gridkv_cluster::topology::Member,
    pub(super) swim: Swim,
    pub(super) agreement: Agreement,
    pub(super) coordinator: Coordinator,
    pub(super) shard: Replicated<Source>,
    log: SyncLog,
    reader: SyncReader,
    topology: Option<(Arc<Topology>, Arc<Placement>)>,
    pub(super) own: Option<NodeId>,
    /// Everything up to here is still to be removed.
    to_clear: Option<Version>,
    /// Nodes to which the connection is known to be broken.
    broken: BTreeSet<SocketAddr>,
    is_view_stale: bool,
    local: VecDeque<(Head, Archive)>,
    /// What this node's own replica answers its own coordinator.
    own_answers: VecDeque<(Head, Option<AlignedVec>)>,
    asks: BTreeMap<SocketAddr, AlignedVec>,
    replies: BTreeMap<Way, AlignedVec>,
    vias: BTreeMap<Via, Option<usize>>,
    via_count: u64,
    effects: Vec<Effect>,
    /// When the membership machine has something to do: it takes a while to find out.
    swim_due: Option<Instant>,
    pub(super) most: Held,
}

impl Process {
    pub(super) fn new(start: Start) -> Self {
        let Start { node, swim, agreement, member, shard, config, sync_log_bytes, seed } = start;
        let mut clock =
            HybridClock::new(NodeId(0), shard.resume_after().timestamp, config.drift_max);
        clock.pass(shard.resume_after().timestamp);
        let (log, reader) = sync_log(sync_log_bytes);
        Self {
            node,
            member,
            swim,
            agreement,
            coordinator: Coordinator::new(config, clock, seed),
            shard,
            log,
            reader,
            topology: None,
            own: None,
            to_clear: None,
            broken: BTreeSet::new(),
            is_view_stale: false,
            local: VecDeque::new(),
            own_answers: VecDeque::new(),
            asks: BTreeMap::new(),
            replies: BTreeMap::new(),
            vias: BTreeMap::new(),
            via_count: 0,
            effects: Vec::new(),
            swim_due: None,
            most: Held::default(),
        }
    }

    /// The topology that holds here.
    pub(super) fn topology(&self) -> Option<&Arc<Topology>> {
        self.topology.as_ref().map(|(topology, _)| topology)
    }

    pub(super) fn placement(&self) -> Option<&Arc<Placement>> {
        self.topology.as_ref().map(|(_, placement)| placement)
    }

    /// Whether the node serves its copies.
    pub(super) fn standing(&self) -> Standing {
        let Some((topology, _)) = &self.topology else { return Standing::Frozen };
        let known = topology.member(self.member.id());
        if known.is_some_and(|it| it.store != self.member.store) {
            Standing::Empty
        } else if self.agreement.is_frozen() || self.to_clear.is_some() {
            Standing::Frozen
        } else {
            Standing::Serving
        }
    }

    pub(super) fn held_now(&self) -> Held {
        Held {
            ops: self.coordinator.op_count(),
            promises: self.shard.promise_count(),
            parked: self.shard.waiting_count(),
            answers: self.shard.held_count(),
        }
    }

    /// A client wants something.
    pub(super) fn begin(&mut self, now: Now, key: &[u8], level: Level, work: Work<'_>) -> OpId {
        self.coordinator.begin(now.at, now.wall, (crate::sim::token_of(key), key), level, work)
    }

    /// A member wants everything removed.
    pub(super) fn flush(&mut self, now: Now, tag: Tag) {
        let version = self.coordinator.clock_mut().tick(now.wall);
        let change = gridkv_cluster::topology::Change::Clear(version.timestamp.0, version.node.0);
        self.agreement.handle(now.at, now.wall, agreement::Input::Wish(tag, change));
    }

    /// Something happens to the membership machine.
    pub(super) fn on_swim(&mut self, now: Now, input: swim::Input<'_>) {
        self.swim.handle(now.at, input);
        self.swim_due = self.swim.poll_timeout();
        while let Some(output) = self.swim.poll_output() {
            match output {
                swim::Output::Datagram { to, bytes } => {
                    self.effects.push(Effect::Datagram { to, bytes });
                }
                swim::Output::Exchange { to, bytes } => {
                    self.effects.push(Effect::Exchange { to, bytes });
                }
                swim::Output::Changed(_) | swim::Output::Forgotten(_) => self.is_view_stale = true,
                swim::Output::Epoch { from, epoch } => {
                    let heard = agreement::Input::Heard(from, Epoch(epoch));
                    self.agreement.handle(now.at, now.wall, heard);
                }
                swim::Output::Conflict { .. } => {}
            }
        }
    }

    pub(super) fn on_request(&mut self, now: Now, from: Option<usize>, request: Request) {
        self.via_count += 1;
        let via = Via(self.via_count);
        self.vias.insert(via, from);
        self.agreement.handle(now.at, now.wall, agreement::Input::Request(via, request));
    }

    pub(super) fn on_answer(&mut self, now: Now, from: SocketAddr, answer: agreement::Answer) {
        self.agreement.handle(now.at, now.wall, agreement::Input::Answer(from, answer));
    }

    /// Messages from the coordinator of another node.
    pub(super) fn on_asked(
        &mut self,
        now: Now,
        way: Way,
        remote: (SocketAddr, WallTime),
        body: &[u8],
    ) {
        self.hear(now, remote);
        for message in message::read(body) {
            let (head, mutation) = message.expect("nobody damages what is delivered");
            let mutation = mutation.expect("what asks is about a key");
            self.ask_replica(now, Source::Way(way), head, &mutation);
        }
    }

    /// Answers of a replica on another node.
    pub(super) fn on_replied(
        &mut self,
        now: Now,
        functions: &mut impl Functions,
        remote: (SocketAddr, WallTime),
        body: &[u8],
    ) {
        let Some(from) = self.hear(now, remote) else { return };
        for message in message::read(body) {
            let (head, mutation) = message.expect("nobody damages what is delivered");
            self.coordinator.on_answer(now.at, now.wall, from, &head, mutation.as_ref());
            self.drain_coordinator(now, functions);
        }
    }

    fn hear(&mut self, now: Now, (from, remote): (SocketAddr, WallTime)) -> Option<NodeId> {
        let node = self.node_at(from)?;
        self.coordinator.on_heard(now.at, node, remote, now.wall);
        Some(node)
    }

    fn node_at(&self, address: SocketAddr) -> Option<NodeId> {
        let (topology, _) = self.topology.as_ref()?;
        topology.members.iter().find(|it| it.address == address).map(|it| it.node())
    }

    /// The connection to a node is known to be broken, or there again.
    pub(super) fn on_link(&mut self, now: Now, peer: SocketAddr, is_up: bool) {
        if is_up {
            self.broken.remove(&peer);
        } else {
            self.broken.insert(peer);
            if let Some(node) = self.node_at(peer) {
                self.coordinator.on_lost(now.at, now.wall, node);
            }
        }
        self.is_view_stale = true;
    }

    /// Does all there is to do.
    pub(super) fn turn(&mut self, now: Now, functions: &mut impl Functions) -> Vec<Effect> {
        self.shard.store_mut().turn(now.at);
        self.run_timers(now);
        loop {
            let mut has_done = self.drain_agreement(now);
            if std::mem::take(&mut self.is_view_stale) {
                self.refresh_view(now);
            }
            has_done |= self.drain_coordinator(now, functions);
            has_done |= self.drain_local(now);
            has_done |= self.drain_store(now);
            has_done |= self.drain_own_answers(now, functions);
            if !has_done && !self.is_view_stale {
                break;
            }
        }
        let asks = std::mem::take(&mut self.asks).into_iter();
        self.effects.extend(asks.map(|(to, body)| Effect::Ask { to, body }));
        let replies = std::mem::take(&mut self.replies).into_iter();
        self.effects.extend(replies.map(|(way, body)| Effect::Reply { way, body }));
        self.note_most();
        std::mem::take(&mut self.effects)
    }

    fn note_most(&mut self) {
        let held = self.held_now();
        self.most = Held {
            ops: self.most.ops.max(held.ops),
            promises: self.most.promises.max(held.promises),
            parked: self.most.parked.max(held.parked),
            answers: self.most.answers.max(held.answers),
        };
    }

    fn run_timers(&mut self, now: Now) {
        if self.swim_due.is_some_and(|at| at <= now.at) {
            self.on_swim(now, swim::Input::Timeout);
        }
        if self.agreement.poll_timeout().is_some_and(|at| at <= now.at) {
            self.agreement.handle(now.at, now.wall, agreement::Input::Timeout);
        }
        if self.coordinator.poll_timeout().is_some_and(|at| at <= now.at) {
            self.coordinator.handle_timeout(now.at, now.wall);
        }
    }

    /// When there is something to do, if nothing else happens first; what the disk needs apart.
    pub(super) fn due_at(&self) -> Option<Instant> {
        let times = [
            self.swim_due,
            self.agreement.poll_timeout(),
            self.coordinator.poll_timeout(),
            self.shard.store().turn_due_at(),
        ];
        times.into_iter().flatten().min()
    }

    fn drain_agreement(&mut self, now: Now) -> bool {
        let mut has_done = false;
        while let Some(output) = self.agreement.poll_output() {
            has_done = true;
            match output {
                agreement::Output::Keep(bytes) => self.effects.push(Effect::Keep(bytes)),
                agreement::Output::Ask(to, request) if to == self.member.address => {
                    self.on_request(now, None, request);
                }
                agreement::Output::Ask(to, request) => {
                    self.effects.push(Effect::Request { to, bytes: request.encode() });
                }
                agreement::Output::Answer(via, answer) => {
                    match self.vias.remove(&via).expect("a request has one answer") {
                        Some(to) => {
                            self.effects.push(Effect::Answer { to, bytes: answer.encode() });
                        }
                        None => self.on_answer(now, self.member.address, answer),
                    }
                }
                agreement::Output::Survey(via) => {
                    let survey = Survey { is_empty: self.shard.is_empty() };
                    let input = agreement::Input::Surveyed(via, survey);
                    self.agreement.handle(now.at, now.wall, input);
                }
                agreement::Output::Install(topology) => self.install(now, topology),
                agreement::Output::Done(_, result) => {
                    self.effects.push(Effect::Flushed { is_done: result.is_ok() });
                }
                agreement::Output::Thaw | agreement::Output::Rejected(..) => {}
            }
        }
        has_done
    }

    fn install(&mut self, now: Now, topology: Topology) {
        let cleared = topology.cleared();
        if cleared > self.shard.store().floor() {
            self.to_clear = Some(cleared);
        }
        self.coordinator.clock_mut().pass(cleared.timestamp);
        self.own = topology.member(self.member.id()).map(|it| it.node());
        self.effects.push(Effect::Installed(topology.clone()));
        let placement = Arc::new(Placement::new(&topology));
        let epoch = topology.epoch;
        self.topology = Some((Arc::new(topology), placement));
        self.is_view_stale = true;
        self.on_swim(now, swim::Input::Epoch(epoch));
    }

    /// Tells the coordinator who can be sent to.
    fn refresh_view(&mut self, now: Now) {
        let Some((topology, placement)) = &self.topology else { return };
        let mut view = View::new(Arc::clone(topology), Arc::clone(placement), self.own);
        let (swim, broken) = (&self.swim, &self.broken);
        view.reachable.retain(|node| {
            let member = topology.by_node(*node).expect("the reachable are members");
            let is_live = swim.member(member.id()).is_none_or(|it| it.state.is_live());
            self.own == Some(*node) || (is_live && !broken.contains(&member.address))
        });
        self.coordinator.on_view(now.at, now.wall, view);
    }

    fn drain_coordinator(&mut self, now: Now, functions: &mut impl Functions) -> bool {
        let mut has_done = false;
        while let Some(output) = self.coordinator.poll_output() {
            has_done = true;
            match output {
                Output::Send { to, head, mutation } => {
                    let archive = mutation.expect("what asks is about a key");
                    for node in to {
                        self.send(now, node, head, &archive);
                    }
                }
                Output::Record { op, record } => {
                    let end = End::Record(record.map(|it| told(&it, now.wall)));
                    self.effects.push(Effect::Ended { op, end });
                }
                Output::Compute { op, record, .. } => {
                    let before = record.and_then(|it| told(&it, now.wall).1);
                    let computed = functions.compute(self.node, op, before.as_deref());
                    self.coordinator.computed(now.at, now.wall, op, computed);
                }
                Output::Log { sequence, mutation } => {
                    let given = self.log.push(&mutation);
                    assert_eq!(given.0, sequence, "the log and the coordinator count alike");
                }
                Output::Feed { peer, from } => {
                    let excerpt = self.excerpt(from);
                    self.coordinator.fed(now.at, peer, &excerpt);
                }
                Output::Done { op, outcome } => {
                    self.effects.push(Effect::Ended { op, end: End::Done(outcome) });
                }
            }
        }
        has_done
    }

    fn send(&mut self, now: Now, node: NodeId, head: Head, archive: &Archive) {
        if self.own == Some(node) {
            return self.local.push_back((head, Rc::clone(archive)));
        }
        let Some((topology, _)) = &self.topology else { return };
        let Some(member) = topology.by_node(node) else { return };
        if self.broken.contains(&member.address) {
            return self.coordinator.on_lost(now.at, now.wall, node);
        }
        message::push(&head, archive, self.asks.entry(member.address).or_default());
    }

    /// A part of the sync log, from an entry on.
    fn excerpt(&self, from: u64) -> Excerpt {
        let mut excerpt = Excerpt { next: from, ..Excerpt::default() };
        let mut entry = AlignedVec::new();
        while excerpt.entries.len() < Excerpt::COUNT_MAX {
            match self.reader.read(Sequence(excerpt.next), &mut entry) {
                Read::Entry { next, .. } => {
                    excerpt.entries.push(std::mem::take(&mut entry));
                    excerpt.next = next.0;
                }
                Read::End => {
                    excerpt.is_last = true;
                    break;
                }
                Read::Overrun { oldest } => {
                    excerpt.lost_count += oldest.0 - excerpt.next;
                    excerpt.next = oldest.0;
                }
            }
        }
        excerpt
    }

    fn drain_local(&mut self, now: Now) -> bool {
        let mut has_done = false;
        while let Some((head, archive)) = self.local.pop_front() {
            has_done = true;
            let mutation = mutation::access(&archive).expect("it was encoded here");
            self.ask_replica(now, Source::Own, head, &mutation);
        }
        has_done
    }

    fn ask_replica(&mut self, now: Now, source: Source, head: Head, mutation: &Mutation<'_>) {
        let token = crate::sim::token_of(mutation.key);
        let standing = self.standing();
        let Some(view) = self.coordinator.view().cloned() else { return };
        let context = Context { view: &view, standing, wall: now.wall };
        let clock = self.coordinator.clock_mut();
        self.shard.ask(clock, &context, source, token, &head, mutation);
        self.deliver_answers();
    }

    /// Hands answers to who waits for them. Whether there were any.
    fn deliver_answers(&mut self) -> bool {
        let mut has_done = false;
        while let Some(Answer { source, head, mutation }) = self.shard.poll_answer() {
            has_done = true;
            match source {
                Source::Way(way) => {
                    let bytes = mutation.as_ref().map_or(&[][..], |it| &it[..]);
                    message::push(&head, bytes, self.replies.entry(way).or_default());
                }
                Source::Own => self.own_answers.push_back((head, mutation)),
            }
        }
        has_done
    }

    /// One at a time: what the coordinator wants done because of it is done before the next.
    fn drain_own_answers(&mut self, now: Now, functions: &mut impl Functions) -> bool {
        let mut has_done = false;
        while let Some((head, mutation)) = self.own_answers.pop_front() {
            has_done = true;
            let Some(own) = self.own else { continue };
            let mutation =
                mutation.as_ref().map(|it| mutation::access(it).expect("it was encoded here"));
            self.coordinator.on_answer(now.at, now.wall, own, &head, mutation.as_ref());
            self.drain_coordinator(now, functions);
        }
        has_done
    }

    /// Does what the store has become ready for.
    fn drain_store(&mut self, now: Now) -> bool {
        let mut has_done = false;
        if let Some(version) = self.to_clear
            && self.shard.clear_through(version).is_ok()
        {
            self.to_clear = None;
        }
        while let Some((ticket, result)) = self.shard.store_mut().poll_ready() {
            has_done = true;
            let standing = self.standing();
            let view = self.coordinator.view().cloned().expect("what waits was asked with a view");
            let context = Context { view: &view, standing, wall: now.wall };
            let clock = self.coordinator.clock_mut();
            let is_its = self.shard.on_ready(clock, &context, ticket, &result);
            assert!(is_its, "only messages wait for the store");
            self.deliver_answers();
        }
        self.shard.settle();
        self.deliver_answers() || has_done
    }
}

/// What a record tells a client.
fn told(archive: &AlignedVec, wall: WallTime) -> (Version, Option<Vec<u8>>) {
    let record = mutation::access(archive).expect("it was encoded here");
    let is_past = record.expires_at.is_some_and(|at| at <= wall);
    (record.version, record.value.filter(|_| !is_past).map(<[u8]>::to_vec))
}
