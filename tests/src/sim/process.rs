//! One process of a node: its membership and its cores, and what drives them.
//!
//! It takes in what happens to it and hands out [`Effect`]s, which the world carries out. What a core
//! does about keys is the engine's; this carries frames, mail and time to it.
//!
//! # Invariants
//!
//! - What an agreement keeps is kept before anything after it is done.
//! - Mail of one core to another arrives in order; between different cores, in any.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use gridkv::Error;
use gridkv::simulation::{Call, Called, Core, Effect as CoreEffect, Peer, Setup, core_of_shard};
use gridkv_cluster::member::{self, Member};
use gridkv_cluster::replication::{Config, Level, Missed, Standing};
use gridkv_cluster::topology::agreement::{self, Failure, Request, Survey, Tag, Via};
use gridkv_cluster::topology::placement::Placement;
use gridkv_cluster::topology::{Change, Epoch, Topology};
use gridkv_cluster::wire::message;
use gridkv_cluster::{Instant, NodeId, Now, Token, Version, WallTime};
use gridkv_storage::{Durability, Storage};
use rkyv::util::AlignedVec;

use super::mail::{Inboxes, Item, Options as MailOptions};

/// Operations under way on a core, at most.
pub(super) const OP_COUNT_MAX: usize = 4_096;

/// An end of a connection: a node, with its core that has made it, or its shard that it is made for.
pub(super) type Port = (usize, usize);

/// The way between a coordinator's core and a replica's, as it was when a request came over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Way {
    /// The coordinator's node and core.
    pub(super) initiator: Port,
    /// The replica's shard.
    pub(super) shard: usize,
    /// Which connection.
    pub(super) generation: u64,
}

/// What travels together over a connection.
#[derive(Debug, Default)]
pub(super) struct Frame {
    /// What is asked, or replied.
    pub(super) messages: Vec<u8>,
    /// Commands that are handed over, or replies to them.
    pub(super) commands: Vec<u8>,
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
    /// A frame to a peer's shard.
    Ask {
        core: usize,
        to: SocketAddr,
        shard: usize,
        frame: Frame,
    },
    /// A frame back to a coordinator's core.
    Reply {
        way: Way,
        frame: Frame,
    },
    /// What a client has asked for has ended.
    Ended {
        tag: u64,
        end: End,
    },
    /// A topology holds here.
    Installed(Topology),
    /// A flush was asked for, by this node.
    Flushing {
        by: NodeId,
    },
    /// A flush has ended.
    Flushed {
        by: NodeId,
        result: Result<Epoch, Failure>,
    },
    /// What the agreement keeps in its file.
    Keep(Vec<u8>),
}

/// How something has ended.
#[derive(Clone, Debug)]
pub(super) enum End {
    Called(Result<Called, Error>),
    Replied(Result<Vec<u8>, String>),
}

/// What a process is started with.
pub(super) struct Start {
    pub(super) member: Member,
    /// The stores of its shards.
    pub(super) stores: Vec<Box<dyn Storage>>,
    pub(super) durability: Durability,
    pub(super) is_behind: bool,
    pub(super) core_count: usize,
    pub(super) config: Config,
    pub(super) sync_log_bytes: usize,
    pub(super) mail: MailOptions,
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

/// What could not be sent.
#[derive(Debug, PartialEq, Eq)]
enum Unsent {
    To(NodeId),
    Command(u64),
}

/// A survey of all cores. The same request may be surveyed again meanwhile.
struct Surveyed {
    via: Via,
    left: usize,
    survey: Survey,
}

pub(super) struct Process {
    pub(super) member: Member,
    cores: Vec<Core>,
    shard_count: u16,
    inboxes: Inboxes,
    /// Of each core, the peers to which a connection is known to be broken.
    broken: Vec<BTreeSet<(SocketAddr, usize)>>,
    unsent: VecDeque<(usize, Unsent)>,
    asks: BTreeMap<(usize, SocketAddr, usize), Frame>,
    replies: BTreeMap<Way, Frame>,
    /// The ways over which something has come, by their numbers.
    ways: Vec<Way>,
    vias: BTreeMap<Via, usize>,
    via_count: u64,
    surveys: Vec<Surveyed>,
    flushes: BTreeMap<Tag, Version>,
    effects: Vec<Effect>,
    /// It was in the cluster when it was started.
    was_member: bool,
    pub(super) most: Held,
}

impl Process {
    pub(super) fn new(start: Start) -> Self {
        let Start { member, stores, durability, core_count, config, .. } = start;
        let shard_count = u16::try_from(stores.len()).expect("few shards");
        let was_member = member.state().is_some();
        let mut stores = stores.into_iter();
        let core = |core: usize| {
            let count = gridkv::simulation::shards_of(core, shard_count, core_count).len();
            Core::new(Setup {
                config,
                token_key: crate::sim::token_key(),
                shard_count,
                core_count,
                core,
                stores: stores.by_ref().take(count).collect(),
                durability,
                is_behind: start.is_behind,
                sync_log_bytes: start.sync_log_bytes,
                seed: start.seed.wrapping_add(core as u64),
            })
        };
        Self {
            member,
            cores: (0..core_count).map(core).collect(),
            was_member,
            shard_count,
            inboxes: Inboxes::new(core_count, start.mail, start.seed),
            broken: vec![BTreeSet::new(); core_count],
            unsent: VecDeque::new(),
            asks: BTreeMap::new(),
            replies: BTreeMap::new(),
            ways: Vec::new(),
            vias: BTreeMap::new(),
            via_count: 0,
            surveys: Vec::new(),
            flushes: BTreeMap::new(),
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

    /// Whether all cores of the node serve their copies.
    pub(super) fn standing(&self) -> Standing {
        let mut standings = self.cores.iter().map(Core::standing);
        let odd = standings.find(|standing| *standing != Standing::Serving);
        odd.unwrap_or(Standing::Serving)
    }

    pub(super) fn core_count(&self) -> usize {
        self.cores.len()
    }

    /// Whether the log of a shard has failed.
    pub(super) fn has_failed(&self) -> bool {
        self.cores.iter().any(Core::has_failed)
    }

    /// The store that has a token.
    pub(super) fn store_mut(&mut self, token: Token) -> &mut dyn Storage {
        let core = self.cores.iter_mut().find(|core| core.owns(token));
        core.expect("one core has it").store_mut(token)
    }

    /// What each peer has missed, as the cores know it.
    pub(super) fn lags(&self) -> impl Iterator<Item = (NodeId, Missed)> {
        self.cores.iter().flat_map(|core| core.coordinator().lags())
    }

    /// Whether it knows of all that others have missed: not of what they did before it was started.
    pub(super) const fn knows_all_lags(&self) -> bool {
        !self.was_member
    }

    /// Writes that peers have missed and cannot be fed.
    pub(super) fn lost_count(&self) -> u64 {
        self.cores.iter().map(|core| core.coordinator().lost_count()).sum()
    }

    /// Commands that other nodes were handed.
    pub(super) fn handed_count(&self) -> u64 {
        self.cores.iter().map(Core::handed_count).sum()
    }

    pub(super) fn held_now(&self) -> Held {
        let mut held = Held::default();
        for core in &self.cores {
            let (parked, answers) = core.held_counts();
            held.ops += core.coordinator().op_count();
            held.promises += core.promise_count();
            held.parked += parked;
            held.answers += answers;
        }
        held
    }

    /// A client of a core wants something. Whether it was begun.
    #[must_use]
    pub(super) fn request(&mut self, core: usize, tag: u64, words: &[&[u8]], level: Level) -> bool {
        self.cores[core].request(tag, words, level)
    }

    /// Somebody calls the API.
    pub(super) fn call(&mut self, now: Now, tag: u64, key: Vec<u8>, call: Call, level: Level) {
        let token = crate::sim::token_of(&key);
        let core = self.cores.iter().position(|core| core.owns(token)).expect("one core has it");
        self.inboxes.post_from_outside(now.at, core, Item::Call { tag, key, call, level });
    }

    /// A member wants everything removed.
    pub(super) fn flush(&mut self, now: Now) {
        let version = self.cores[0].tick(now);
        let change = Change::Clear(version.timestamp.0, version.node.0);
        // No other flush of this process is up to there.
        let tag = Tag(version.timestamp.0);
        self.flushes.insert(tag, version);
        self.effects.push(Effect::Flushing { by: version.node });
        self.on_member(now, member::Input::Wish(tag, change));
    }

    /// Something happens to the node's membership.
    pub(super) fn on_member(&mut self, now: Now, input: member::Input<'_>) {
        self.drain_member(now);
        self.member.handle(now, input);
        self.drain_member(now);
    }

    /// Does what the membership wants done.
    fn drain_member(&mut self, now: Now) {
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
                    let number = self.surveys.len();
                    let survey = Survey { is_empty: true, latest: 0 };
                    self.surveys.push(Surveyed { via, left: self.cores.len(), survey });
                    self.post_to_all(now, &|| Item::Survey(number));
                    continue;
                }
                member::Output::State(state) => {
                    self.post_to_all(now, &|| Item::State(Box::new(state.clone())));
                    continue;
                }
                member::Output::Installed(topology) => Effect::Installed((*topology).clone()),
                member::Output::Done(tag, result) => {
                    let cleared = self.flushes.remove(&tag).expect("a flush ends once");
                    Effect::Flushed { by: cleared.node, result }
                }
                member::Output::Changed(_)
                | member::Output::Forgotten(_)
                | member::Output::Lost
                | member::Output::Conflict(_)
                | member::Output::Rejected(..) => continue,
            };
            self.effects.push(effect);
        }
    }

    fn post_to_all(&mut self, now: Now, item: &dyn Fn() -> Item) {
        for core in 0..self.cores.len() {
            self.inboxes.post(now.at, (0, core), item());
        }
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

    /// A frame from the coordinator of another node.
    pub(super) fn on_asked(
        &mut self,
        now: Now,
        way: Way,
        remote: (SocketAddr, WallTime),
        frame: &Frame,
    ) {
        let link = self.ways.iter().position(|it| *it == way).unwrap_or_else(|| {
            self.ways.push(way);
            self.ways.len() - 1
        });
        let link = u32::try_from(link).expect("few");
        let shard = u16::try_from(way.shard).expect("few");
        if shard >= self.shard_count {
            return;
        }
        let core = core_of_shard(shard, self.shard_count, self.cores.len());
        self.take_frame(now, core, link, remote, &frame.messages);
        let taken = self.cores[core].on_commands(now, link, &frame.commands);
        taken.expect("nobody damages what is delivered");
        self.drain_core(core);
    }

    /// A frame that answers a core of this node.
    pub(super) fn on_replied(
        &mut self,
        now: Now,
        core: usize,
        remote: (SocketAddr, WallTime),
        frame: &Frame,
    ) {
        self.take_frame(now, core, 0, remote, &frame.messages);
        let taken = self.cores[core].on_command_replies(now, &frame.commands);
        taken.expect("nobody damages what is delivered");
        self.drain_core(core);
    }

    fn take_frame(
        &mut self,
        now: Now,
        core: usize,
        link: u32,
        (from, wall): (SocketAddr, WallTime),
        body: &[u8],
    ) {
        // As on a link: who is no member is not listened to.
        let Some(node) = self.node_at(core, from) else { return };
        // As a frame's reader has it.
        let mut aligned: AlignedVec = AlignedVec::with_capacity(body.len());
        aligned.extend_from_slice(body);
        let taken = self.cores[core].on_messages(now, (node, link, wall), &aligned);
        taken.expect("nobody damages what is delivered");
        self.drain_core(core);
    }

    /// Whose address that is, as a core knows it.
    fn node_at(&self, core: usize, address: SocketAddr) -> Option<NodeId> {
        let topology = &self.cores[core].state()?.topology;
        topology.members.iter().find(|it| it.address == address).map(|it| it.node())
    }

    /// A core's connection to a peer's shard is known to be broken, or there again.
    pub(super) fn on_link(
        &mut self,
        now: Now,
        core: usize,
        (peer, shard): (SocketAddr, usize),
        is_up: bool,
    ) {
        if is_up {
            self.broken[core].remove(&(peer, shard));
        } else {
            self.broken[core].insert((peer, shard));
            if let Some(node) = self.node_at(core, peer) {
                self.cores[core].on_lost(now, node);
                self.drain_core(core);
            }
        }
        self.tell_failing(now, core);
    }

    fn tell_failing(&mut self, now: Now, core: usize) {
        let failing = self.broken[core].iter().filter_map(|(peer, _)| self.node_at(core, *peer));
        let failing = failing.collect();
        self.cores[core].on_links(now, failing);
        self.drain_core(core);
    }

    /// Does all there is to do.
    pub(super) fn turn(&mut self, now: Now) -> Vec<Effect> {
        // What a node that starts wants done.
        self.drain_member(now);
        if self.member.poll_timeout().is_some_and(|at| at <= now.at) {
            self.on_member(now, member::Input::Timeout);
        }
        loop {
            let mut has_done = false;
            while let Some((core, item)) = self.inboxes.take(now.at) {
                has_done = true;
                self.on_item(now, core, item);
            }
            for core in 0..self.cores.len() {
                self.turn_core(now, core);
            }
            while let Some((core, unsent)) = self.unsent.pop_front() {
                has_done = true;
                match unsent {
                    Unsent::To(node) => self.cores[core].on_lost(now, node),
                    Unsent::Command(id) => self.cores[core].on_unsent(now, id),
                }
                self.drain_core(core);
            }
            if !has_done {
                break;
            }
        }
        let asks = std::mem::take(&mut self.asks).into_iter();
        let ask = |((core, to, shard), frame)| Effect::Ask { core, to, shard, frame };
        self.effects.extend(asks.map(ask));
        let replies = std::mem::take(&mut self.replies).into_iter();
        self.effects.extend(replies.map(|(way, frame)| Effect::Reply { way, frame }));
        self.note_most();
        std::mem::take(&mut self.effects)
    }

    fn on_item(&mut self, now: Now, core: usize, item: Item) {
        match item {
            Item::Mail(mail) => self.cores[core].take(now, mail),
            Item::State(state) => {
                self.cores[core].on_state(now, *state);
                self.drain_core(core);
                return self.tell_failing(now, core);
            }
            Item::Call { tag, key, call, level } => self.cores[core].call(tag, &key, call, level),
            Item::Survey(number) => {
                let own = self.cores[core].survey();
                let Surveyed { via, left, survey } = &mut self.surveys[number];
                *left -= 1;
                survey.is_empty &= own.is_empty;
                survey.latest = survey.latest.max(own.latest);
                if *left == 0 {
                    let surveyed = Item::Surveyed(*via, *survey);
                    self.inboxes.post(now.at, (core, 0), surveyed);
                }
            }
            Item::Surveyed(via, survey) => {
                return self.on_member(now, member::Input::Surveyed(via, survey));
            }
        }
        self.drain_core(core);
    }

    fn turn_core(&mut self, now: Now, core: usize) {
        self.cores[core].turn(now);
        self.drain_core(core);
        let inboxes = &mut self.inboxes;
        self.cores[core].post(|to, mail| inboxes.try_post(now.at, (core, to), mail));
    }

    /// Does what a core wants done.
    fn drain_core(&mut self, core: usize) {
        while let Some(effect) = self.cores[core].poll_effect() {
            match effect {
                CoreEffect::Ask { to: Peer { node, address, shard }, ask, mutation } => {
                    let shard = usize::from(shard);
                    if self.broken[core].contains(&(address, shard)) {
                        let unsent = (core, Unsent::To(node));
                        if !self.unsent.contains(&unsent) {
                            self.unsent.push_back(unsent);
                        }
                        continue;
                    }
                    let frame = self.asks.entry((core, address, shard)).or_default();
                    message::push_ask(ask, &mutation, &mut frame.messages);
                }
                CoreEffect::Command { to: Peer { address, shard, .. }, id, entry } => {
                    let shard = usize::from(shard);
                    if self.broken[core].contains(&(address, shard)) {
                        self.unsent.push_back((core, Unsent::Command(id)));
                        continue;
                    }
                    let frame = self.asks.entry((core, address, shard)).or_default();
                    frame.commands.extend_from_slice(&entry);
                }
                CoreEffect::Answer { link, reply, record } => {
                    let record = record.as_deref().unwrap_or_default();
                    message::push_reply(reply, record, &mut self.reply_frame(link).messages);
                }
                CoreEffect::CommandReply { link, entry } => {
                    self.reply_frame(link).commands.extend_from_slice(&entry);
                }
                CoreEffect::Replied { tag, reply } => {
                    self.effects.push(Effect::Ended { tag, end: End::Replied(reply) });
                }
                CoreEffect::Called { tag, result } => {
                    self.effects.push(Effect::Ended { tag, end: End::Called(result) });
                }
            }
        }
    }

    fn reply_frame(&mut self, link: u32) -> &mut Frame {
        self.replies.entry(self.ways[link as usize]).or_default()
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

    /// When there is something to do, if nothing else happens first; what the disk needs apart.
    pub(super) fn due_at(&self) -> Option<Instant> {
        let cores = self.cores.iter().filter_map(Core::poll_timeout);
        let others = [self.member.poll_timeout(), self.inboxes.due_at()];
        cores.chain(others.into_iter().flatten()).min()
    }

    /// Whether nobody waits for anything here.
    pub(super) fn is_settled(&self) -> bool {
        self.inboxes.is_empty() && self.cores.iter().all(Core::is_settled)
    }
}
