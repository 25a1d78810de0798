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

use gridkv_cluster::member::{self, Member};
use gridkv_cluster::message::{self, Ask, Message, Reply};
use gridkv_cluster::replication::{
    Archive, Computed, Config, Context, Coordinator, Level, OpId, Outcome, Output, Standing, View,
    Work,
};
use gridkv_cluster::topology::Topology;
use gridkv_cluster::topology::agreement::{self, Request, Survey, Tag, Via};
use gridkv_cluster::topology::placement::Placement;
use gridkv_cluster::{HybridClock, Instant, Mutation, NodeId, Now, Version, WallTime, mutation};
use gridkv_storage::replicated::{Answer, Replicated};
use gridkv_storage::sync_log::{SyncLog, SyncReader, sync_log};
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

/// What a process is started with.
pub(super) struct Start {
    pub(super) node: usize,
    pub(super) member: Member,
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
    pub(super) member: Member,
    pub(super) coordinator: Coordinator,
    pub(super) shard: Replicated<Source>,
    log: SyncLog,
    reader: SyncReader,
    /// Everything up to here is still to be removed.
    to_clear: Option<Version>,
    /// Nodes to which the connection is known to be broken.
    broken: BTreeSet<SocketAddr>,
    is_view_stale: bool,
    local: VecDeque<(Ask, Archive)>,
    /// What this node's own replica answers its own coordinator.
    own_answers: VecDeque<(Reply, Option<AlignedVec>)>,
    asks: BTreeMap<SocketAddr, AlignedVec>,
    replies: BTreeMap<Way, AlignedVec>,
    vias: BTreeMap<Via, usize>,
    via_count: u64,
    effects: Vec<Effect>,
    pub(super) most: Held,
}

impl Process {
    pub(super) fn new(start: Start) -> Self {
        let Start { node, member, shard, config, sync_log_bytes, seed } = start;
        let mut clock =
            HybridClock::new(NodeId(0), shard.resume_after().timestamp, config.drift_max);
        clock.pass(shard.resume_after().timestamp);
        let (log, reader) = sync_log(sync_log_bytes);
        Self {
            node,
            member,
            coordinator: Coordinator::new(config, clock, seed),
            shard,
            log,
            reader,
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
            most: Held::default(),
        }
    }

    /// The topology that holds here.
    pub(super) fn topology(&self) -> Option<&Arc<Topology>> {
        self.member.state().map(|state| &state.topology)
    }

    pub(super) fn placement(&self) -> Option<&Arc<Placement>> {
        self.member.state().map(|state| &state.placement)
    }

    /// The node's number.
    pub(super) fn own(&self) -> Option<NodeId> {
        self.member.state()?.own
    }

    /// Whether the node serves its copies.
    pub(super) fn standing(&self) -> Standing {
        match self.member.state() {
            None => Standing::Frozen,
            Some(_) if self.to_clear.is_some() => Standing::Frozen,
            Some(state) => state.standing,
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
        self.coordinator.begin(now, (crate::sim::token_of(key), key), level, work)
    }

    /// A member wants everything removed.
    pub(super) fn flush(&mut self, now: Now, tag: Tag) {
        let version = self.coordinator.clock_mut().tick(now.wall);
        let change = gridkv_cluster::topology::Change::Clear(version.timestamp.0, version.node.0);
        self.on_member(now, member::Input::Wish(tag, change));
    }

    /// Something happens to the node's membership.
    pub(super) fn on_member(&mut self, now: Now, input: member::Input<'_>) {
        let mut surveys = self.drain_member();
        self.member.handle(now, input);
        surveys.extend(self.drain_member());
        while let Some(via) = surveys.pop_front() {
            let survey = Survey { is_empty: self.shard.is_empty() };
            self.member.handle(now, member::Input::Surveyed(via, survey));
            surveys.extend(self.drain_member());
        }
    }

    /// Does what the membership wants done. Returns who wants to know whether there is data.
    fn drain_member(&mut self) -> VecDeque<Via> {
        let mut surveys = VecDeque::new();
        while let Some(output) = self.member.poll_output() {
            let effect = match output {
                member::Output::Keep(bytes) => Effect::Keep(bytes),
                member::Output::Datagram { to, bytes } => Effect::Datagram { to, bytes },
                member::Output::Exchange { to, bytes } => Effect::Exchange { to, bytes },
                member::Output::Ask(to, request) => Effect::Request { to, bytes: request.encode() },
                member::Output::Answer(via, answer) => {
                    let to = self.vias.remove(&via).expect("a request has one answer");
                    Effect::Answer { to, bytes: answer.encode() }
                }
                member::Output::Survey(via) => {
                    surveys.push_back(via);
                    continue;
                }
                member::Output::State(state) => {
                    self.on_state(&state);
                    continue;
                }
                member::Output::Installed(topology) => Effect::Installed((*topology).clone()),
                member::Output::Done(_, result) => Effect::Flushed { is_done: result.is_ok() },
                member::Output::Changed(_)
                | member::Output::Forgotten(_)
                | member::Output::Lost
                | member::Output::Conflict(_)
                | member::Output::Rejected(..) => continue,
            };
            self.effects.push(effect);
        }
        surveys
    }

    fn on_state(&mut self, state: &member::State) {
        let cleared = state.topology.cleared();
        if cleared > self.shard.store().floor() {
            self.to_clear = Some(cleared);
        }
        self.coordinator.clock_mut().pass(cleared.timestamp);
        self.is_view_stale = true;
    }

    pub(super) fn on_request(&mut self, now: Now, from: usize, request: Request) {
        self.via_count += 1;
        let via = Via(self.via_count);
        self.vias.insert(via, from);
        self.on_member(now, member::Input::Request(via, request));
    }

    pub(super) fn on_answer(&mut self, now: Now, from: SocketAddr, answer: agreement::Answer) {
        self.on_member(now, member::Input::Answer(from, answer));
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
            let Ok(Message::Ask(ask, mutation)) = message else {
                panic!("nobody damages what is delivered")
            };
            self.ask_replica(now, Source::Way(way), ask, &mutation);
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
            let Ok(Message::Reply(reply, record)) = message else {
                panic!("nobody damages what is delivered")
            };
            self.coordinator.on_answer(now, from, reply, record.as_ref());
            self.drain_coordinator(now, functions);
        }
    }

    fn hear(&mut self, now: Now, (from, remote): (SocketAddr, WallTime)) -> Option<NodeId> {
        let node = self.node_at(from)?;
        self.coordinator.on_heard(now, node, remote);
        Some(node)
    }

    fn node_at(&self, address: SocketAddr) -> Option<NodeId> {
        self.topology()?.members.iter().find(|it| it.address == address).map(|it| it.node())
    }

    /// The connection to a node is known to be broken, or there again.
    pub(super) fn on_link(&mut self, now: Now, peer: SocketAddr, is_up: bool) {
        if is_up {
            self.broken.remove(&peer);
        } else {
            self.broken.insert(peer);
            if let Some(node) = self.node_at(peer) {
                self.coordinator.on_lost(now, node);
            }
        }
        self.is_view_stale = true;
    }

    /// Does all there is to do.
    pub(super) fn turn(&mut self, now: Now, functions: &mut impl Functions) -> Vec<Effect> {
        self.shard.store_mut().turn(now.at);
        // What a node that starts wants done.
        let surveys = self.drain_member();
        assert!(surveys.is_empty(), "nobody has asked yet");
        self.run_timers(now);
        loop {
            let mut has_done = false;
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
        if self.member.poll_timeout().is_some_and(|at| at <= now.at) {
            self.on_member(now, member::Input::Timeout);
        }
        if self.coordinator.poll_timeout().is_some_and(|at| at <= now.at) {
            self.coordinator.handle_timeout(now);
        }
    }

    /// When there is something to do, if nothing else happens first; what the disk needs apart.
    pub(super) fn due_at(&self) -> Option<Instant> {
        let times = [
            self.member.poll_timeout(),
            self.coordinator.poll_timeout(),
            self.shard.store().turn_due_at(),
        ];
        times.into_iter().flatten().min()
    }

    /// Tells the coordinator who can be sent to.
    fn refresh_view(&mut self, now: Now) {
        let Some(state) = self.member.state() else { return };
        let (topology, placement) = (Arc::clone(&state.topology), Arc::clone(&state.placement));
        let mut view = View::new(topology, placement, state.own);
        view.reachable.retain(|node| {
            let member = state.topology.by_node(*node).expect("the reachable are members");
            let is_broken = self.broken.contains(&member.address);
            state.own == Some(*node) || (state.alive.contains(node) && !is_broken)
        });
        self.coordinator.on_view(now, view);
    }

    fn drain_coordinator(&mut self, now: Now, functions: &mut impl Functions) -> bool {
        let mut has_done = false;
        while let Some(output) = self.coordinator.poll_output() {
            has_done = true;
            match output {
                Output::Send { to, ask, mutation } => {
                    for node in to {
                        self.send(now, node, ask, &mutation);
                    }
                }
                Output::Record { op, record } => {
                    let end = End::Record(record.map(|it| told(&it, now.wall)));
                    self.effects.push(Effect::Ended { op, end });
                }
                Output::Compute { op, record, .. } => {
                    let before = record.and_then(|it| told(&it, now.wall).1);
                    let computed = functions.compute(self.node, op, before.as_deref());
                    self.coordinator.computed(now, op, computed);
                }
                Output::Log { sequence, mutation } => {
                    let given = self.log.push(&mutation);
                    assert_eq!(given.0, sequence, "the log and the coordinator count alike");
                }
                Output::Feed { peer, from } => {
                    let excerpt = self.reader.excerpt(from);
                    self.coordinator.fed(now, peer, &excerpt);
                }
                Output::Done { op, outcome } => {
                    self.effects.push(Effect::Ended { op, end: End::Done(outcome) });
                }
            }
        }
        has_done
    }

    fn send(&mut self, now: Now, node: NodeId, ask: Ask, archive: &Archive) {
        if self.own() == Some(node) {
            return self.local.push_back((ask, Rc::clone(archive)));
        }
        let Some(address) = self.topology().and_then(|it| Some(it.by_node(node)?.address)) else {
            return;
        };
        if self.broken.contains(&address) {
            return self.coordinator.on_lost(now, node);
        }
        message::push_ask(ask, archive, self.asks.entry(address).or_default());
    }

    fn drain_local(&mut self, now: Now) -> bool {
        let mut has_done = false;
        while let Some((ask, archive)) = self.local.pop_front() {
            has_done = true;
            let mutation = mutation::access(&archive).expect("it was encoded here");
            self.ask_replica(now, Source::Own, ask, &mutation);
        }
        has_done
    }

    fn ask_replica(&mut self, now: Now, source: Source, ask: Ask, mutation: &Mutation<'_>) {
        let token = crate::sim::token_of(mutation.key);
        let standing = self.standing();
        let Some(view) = self.coordinator.view().cloned() else { return };
        let context = Context { view: &view, standing, wall: now.wall };
        let clock = self.coordinator.clock_mut();
        self.shard.ask(clock, &context, source, token, ask, mutation);
        self.deliver_answers();
    }

    /// Hands answers to who waits for them. Whether there were any.
    fn deliver_answers(&mut self) -> bool {
        let mut has_done = false;
        while let Some(Answer { source, reply, record }) = self.shard.poll_answer() {
            has_done = true;
            match source {
                Source::Way(way) => {
                    let record = record.as_deref().unwrap_or_default();
                    message::push_reply(reply, record, self.replies.entry(way).or_default());
                }
                Source::Own => self.own_answers.push_back((reply, record)),
            }
        }
        has_done
    }

    /// One at a time: what the coordinator wants done because of it is done before the next.
    fn drain_own_answers(&mut self, now: Now, functions: &mut impl Functions) -> bool {
        let mut has_done = false;
        while let Some((reply, record)) = self.own_answers.pop_front() {
            has_done = true;
            let Some(own) = self.own() else { continue };
            let record =
                record.as_ref().map(|it| mutation::access(it).expect("it was encoded here"));
            self.coordinator.on_answer(now, own, reply, record.as_ref());
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
