//! Nodes, the network between them, disks and clocks: one thread, one order of events, one seed.
//!
//! # Invariants
//!
//! - Events happen in the order of their times, and of their numbers at one time.
//! - A node that stands still is told nothing; what comes meanwhile it is told when it goes on.
//! - What is in the memory of a process goes with it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use fastrand::Rng;
use gridkv_cluster::member;
use gridkv_cluster::topology::agreement::{Answer, Request};
use gridkv_cluster::wire::message::{self, Message};
use gridkv_cluster::{Instant, Mutation, Now, WallTime};
use gridkv_storage::disk::{Faults as DiskFaults, SimulatedDisk};
use xxhash_rust::xxh3::xxh3_64;

use super::clients::Clients;
use super::history::Ledger;
use super::life::new_disks;
use super::network::{Network, Sent, address};
use super::options::{Backend, Options};
use super::process::{Effect, Frame, Port, Process, Way};
use super::properties::watch::Watch;
use super::report::Report;
use super::stream::stream;
use super::trace::Trace;
use super::trouble::{Fault, KeepTrouble, Trouble};

/// The wall clock at the start.
pub(super) const WALL_START: u64 = 1_700_000_000_000;
/// Datagrams that wait for a node that stands still; the rest is lost.
const BACKLOG_MAX: usize = 200;
/// Turns in a row after which something may be due still.
const LATE_COUNT_MAX: u32 = 200;

/// A message of the agreement, or a full exchange.
#[derive(Debug)]
pub(super) enum Control {
    Exchange(Vec<u8>),
    Request(Vec<u8>),
    Answer(Vec<u8>),
}

/// Something that happens.
#[derive(Debug)]
pub(super) enum Event {
    Wake {
        node: usize,
    },
    Datagram {
        from: usize,
        to: usize,
        bytes: Vec<u8>,
    },
    Control {
        from: usize,
        to: usize,
        control: Control,
    },
    /// What has arrived on a lane of a connection is delivered.
    Lane {
        initiator: Port,
        acceptor: Port,
        lane: usize,
        generation: u64,
    },
    /// A node notices that its connection is broken.
    Lost {
        initiator: Port,
        acceptor: Port,
        generation: u64,
    },
    /// A node tries to make its connection anew.
    Connect {
        initiator: Port,
        acceptor: Port,
        generation: u64,
    },
    Client(usize),
    Start(usize),
    Resume(usize),
    /// Something goes wrong.
    Fault(Fault),
    /// Something of that kind ends.
    Mend(super::trouble::Mend),
}

impl Event {
    /// The node that takes it in.
    fn node(&self) -> Option<usize> {
        match *self {
            Self::Wake { node } => Some(node),
            Self::Datagram { to, .. } | Self::Control { to, .. } => Some(to),
            Self::Lane { initiator, acceptor, lane, .. } => {
                Some(if lane == 0 { acceptor.0 } else { initiator.0 })
            }
            Self::Lost { initiator, .. } | Self::Connect { initiator, .. } => Some(initiator.0),
            Self::Client(_) | Self::Start(_) | Self::Resume(_) | Self::Fault(_) | Self::Mend(_) => {
                None
            }
        }
    }
}

struct Scheduled {
    at: Instant,
    number: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// A node: what outlives its processes.
pub(super) struct Node {
    pub(super) process: Option<Process>,
    /// Processes so far.
    pub(super) run: u64,
    pub(super) kept: Option<Vec<u8>>,
    /// One for each shard; none where records are in memory.
    pub(super) disks: Vec<SimulatedDisk>,
    /// Names what it has in store.
    pub(super) store: u64,
    /// How far its clock is ahead, in milliseconds.
    pub(super) clock_ms: i64,
    /// How much faster it is.
    pub(super) clock_ppm: i64,
    pub(super) is_paused: bool,
    pub(super) backlog: Vec<Event>,
    /// What is done when what is being kept is kept.
    pub(super) unperformed: Vec<Effect>,
    pub(super) wake_at: Option<Instant>,
    /// Turns in a row after which something was due still.
    late_count: u32,
    /// It will be started.
    pub(super) is_starting: bool,
    /// Its log has failed, and it will be ended.
    pub(super) is_doomed: bool,
    /// It was killed while it had acknowledged what was not on disk.
    pub(super) is_behind: bool,
}

impl Node {
    /// Its disks fail no more.
    pub(super) fn mend_disks(&self) {
        self.disks.iter().for_each(|disk| disk.set_faults(DiskFaults::NONE));
    }
}

/// Everything.
pub(super) struct World {
    pub(super) options: Options,
    pub(super) now: Instant,
    pub(super) nodes: Vec<Node>,
    pub(super) network: Network,
    pub(super) clients: Clients,
    pub(super) ledger: Ledger,
    pub(super) trouble: Trouble,
    pub(super) watch: Watch,
    pub(super) report: Report,
    pub(super) trace: Trace,
    queue: BinaryHeap<Reverse<Scheduled>>,
    event_count: u64,
}

pub(super) fn node_of(address: SocketAddr) -> usize {
    let SocketAddr::V4(address) = address else { unreachable!("all are of the same kind") };
    (u32::from(*address.ip()) - 0x0a00_0001) as usize
}

impl World {
    pub(super) fn new(options: Options, log: Option<&Path>) -> Self {
        let clocks = &mut stream(options.seed, "clocks");
        let nodes = (0..options.node_count).map(|node| new_node(&options, node, clocks)).collect();
        let network =
            Network::new(options.network, options.node_count, stream(options.seed, "network"));
        Self {
            now: Instant::ZERO + Duration::from_secs(1),
            nodes,
            network,
            clients: Clients::new(&options),
            ledger: Ledger::default(),
            trouble: Trouble::new(&options),
            watch: Watch::default(),
            report: Report::default(),
            trace: Trace::new(log),
            queue: BinaryHeap::new(),
            event_count: 0,
            options,
        }
    }

    pub(super) fn after(&mut self, delay: Duration, event: Event) {
        self.at(self.now + delay, event);
    }

    pub(super) fn at(&mut self, at: Instant, event: Event) {
        self.event_count += 1;
        let at = at.max(self.now);
        self.queue.push(Reverse(Scheduled { at, number: self.event_count, event }));
    }

    /// The time, as a node sees it.
    pub(super) fn node_now(&self, node: usize) -> Now {
        let it = &self.nodes[node];
        let millis = i64::try_from(self.now.as_nanos() / 1_000_000).expect("a run is short");
        let wall = WALL_START as i64 + millis + millis * it.clock_ppm / 1_000_000 + it.clock_ms;
        Now { at: self.now, wall: WallTime::from_millis(wall.unsigned_abs()) }
    }

    /// Lets time pass.
    pub(super) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.queue.peek().is_some_and(|it| it.0.at <= end) {
            let Reverse(Scheduled { at, event, .. }) = self.queue.pop().expect("it was seen");
            self.now = at;
            self.happen(event);
        }
        self.now = end;
    }

    /// Lets time pass until something holds; whether it does within `max`.
    pub(super) fn run_until(&mut self, max: Duration, holds: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + max;
        while !holds(self) {
            if self.now >= end {
                return false;
            }
            self.run_for(Duration::from_millis(50));
        }
        true
    }

    pub(super) fn happen(&mut self, event: Event) {
        if let Some(node) = event.node()
            && self.nodes[node].is_paused
        {
            let backlog = &mut self.nodes[node].backlog;
            if !matches!(event, Event::Datagram { .. }) || backlog.len() < BACKLOG_MAX {
                backlog.push(event);
            }
            return;
        }
        self.report.count("events");
        match event {
            Event::Wake { node } => {
                self.nodes[node].wake_at = None;
                self.turn(node);
            }
            Event::Datagram { from, to, bytes } => self.on_datagram(from, to, &bytes),
            Event::Control { from, to, control } => self.on_control(from, to, &control),
            Event::Lane { initiator, acceptor, lane, generation } => {
                self.on_lane((initiator, acceptor), lane, generation);
            }
            Event::Lost { initiator, acceptor, generation } => {
                self.on_lost((initiator, acceptor), generation);
            }
            Event::Connect { initiator, acceptor, generation } => {
                self.on_connect((initiator, acceptor), generation);
            }
            Event::Client(client) => self.on_client(client),
            Event::Start(node) => self.start(node),
            Event::Resume(node) => self.resume(node),
            Event::Fault(fault) => self.on_fault(fault),
            Event::Mend(mend) => self.on_mend(mend),
        }
    }

    fn on_datagram(&mut self, from: usize, to: usize, bytes: &[u8]) {
        let now = self.node_now(to);
        let Some(process) = &mut self.nodes[to].process else { return };
        self.trace.note(self.now, [1, to as u64, xxh3_64(bytes)]);
        process.on_member(now, member::Input::Datagram { from: address(from), bytes });
        self.turn(to);
    }

    fn on_control(&mut self, from: usize, to: usize, control: &Control) {
        let now = self.node_now(to);
        let is_deaf = self.network.deaf[from] + self.network.deaf[to] > 0;
        if self.network.is_cut(from, to) || is_deaf {
            return;
        }
        let Some(process) = &mut self.nodes[to].process else { return };
        match control {
            Control::Exchange(bytes) => {
                self.trace.note(self.now, [2, to as u64, xxh3_64(bytes)]);
                process.on_member(now, member::Input::Exchange { bytes });
            }
            Control::Request(bytes) => {
                self.trace.note(self.now, [3, to as u64, xxh3_64(bytes)]);
                let request = Request::decode(bytes).expect("it was encoded here");
                self.trace.say(self.now, || format!("n{to} <- n{from} {request:?}"));
                process.on_request(now, from, request);
            }
            Control::Answer(bytes) => {
                self.trace.note(self.now, [4, to as u64, xxh3_64(bytes)]);
                let answer = Answer::decode(bytes).expect("it was encoded here");
                self.trace.say(self.now, || format!("n{to} <- n{from} {answer:?}"));
                process.on_answer(now, address(from), answer);
            }
        }
        self.turn(to);
    }

    fn on_lane(&mut self, ends: (Port, Port), lane: usize, generation: u64) {
        let (from, to) = if lane == 0 { (ends.0.0, ends.1.0) } else { (ends.1.0, ends.0.0) };
        loop {
            let is_cut = self.network.is_cut(from, to);
            let link = self.network.links.get_mut(&ends).expect("it was made");
            if link.generation != generation {
                return;
            }
            let frames = &mut link.lanes[lane];
            if frames.frames.is_empty() || is_cut {
                // What waits behind a cut is sent again when it is mended.
                frames.is_scheduled = false;
                return;
            }
            let arrives = frames.frames[0].arrives;
            if arrives > self.now {
                let (initiator, acceptor) = ends;
                return self.at(arrives, Event::Lane { initiator, acceptor, lane, generation });
            }
            let sent = frames.frames.pop_front().expect("there is one");
            if self.nodes[to].process.is_none() || self.network.is_damaged() {
                self.report.count("connections broken");
                return self.break_link(ends, Duration::from_millis(100));
            }
            self.deliver(ends, lane, generation, &sent);
        }
    }

    fn deliver(&mut self, ends: (Port, Port), lane: usize, generation: u64, sent: &Sent) {
        let (from, to) = if lane == 0 { (ends.0.0, ends.1.0) } else { (ends.1.0, ends.0.0) };
        let Sent { frame, wall, .. } = sent;
        let hash = xxh3_64(&frame.messages) ^ xxh3_64(&frame.commands);
        self.trace.note(self.now, [5 + lane as u64, to as u64, hash]);
        self.report.count("frames");
        if self.trace.is_on() {
            for message in message::read(&frame.messages).flatten() {
                let text = match message {
                    Message::Ask(ask, mutation) => format!("{ask:?} {}", brief(Some(&mutation))),
                    Message::Reply(reply, record) => {
                        format!("{reply:?} {}", brief(record.as_ref()))
                    }
                };
                self.trace.say(self.now, || format!("n{to} <- n{from} {text}"));
            }
        }
        let now = self.node_now(to);
        let process = self.nodes[to].process.as_mut().expect("it was looked at");
        let remote = (address(from), *wall);
        if lane == 0 {
            let way = Way { initiator: ends.0, shard: ends.1.1, generation };
            process.on_asked(now, way, remote, frame);
        } else {
            process.on_replied(now, ends.0.1, remote, frame);
        }
        self.turn(to);
    }

    /// A connection breaks: who has made it notices within so long.
    pub(super) fn break_link(&mut self, ends: (Port, Port), noticed: Duration) {
        let delay = self.network.up_to(noticed);
        let link = self.network.links.entry(ends).or_default();
        link.cut_off();
        let (initiator, acceptor) = ends;
        if std::mem::replace(&mut link.is_up, false) {
            let generation = link.generation;
            self.trace
                .say(self.now, || format!("connection n{initiator:?} - n{acceptor:?} breaks"));
            self.after(delay, Event::Lost { initiator, acceptor, generation });
        } else {
            // Whatever was under way about it goes on with it.
            link.generation -= 1;
        }
    }

    fn on_lost(&mut self, (initiator, acceptor): (Port, Port), generation: u64) {
        if self.network.links[&(initiator, acceptor)].generation != generation {
            return;
        }
        let now = self.node_now(initiator.0);
        let Some(process) = &mut self.nodes[initiator.0].process else { return };
        self.trace.note(self.now, [7, initiator.0 as u64, acceptor.0 as u64]);
        self.trace.say(self.now, || format!("n{initiator:?} notices that n{acceptor:?} is gone"));
        let peer = (address(acceptor.0), acceptor.1);
        process.on_link(now, initiator.1, peer, false);
        self.turn(initiator.0);
        let pause = self.network.up_to(self.options.network.pause_max);
        self.after(pause, Event::Connect { initiator, acceptor, generation });
    }

    fn on_connect(&mut self, (initiator, acceptor): (Port, Port), generation: u64) {
        if self.network.links[&(initiator, acceptor)].generation != generation {
            return;
        }
        let can = self.network.is_open(initiator.0, acceptor.0)
            && self.nodes[acceptor.0].process.is_some()
            && !self.nodes[acceptor.0].is_paused;
        let now = self.node_now(initiator.0);
        let Some(process) = &mut self.nodes[initiator.0].process else { return };
        if !can {
            let pause = self.options.network.pause_max * 2 / 5;
            return self.after(pause, Event::Connect { initiator, acceptor, generation });
        }
        self.trace.note(self.now, [8, initiator.0 as u64, acceptor.0 as u64]);
        self.network.links.get_mut(&(initiator, acceptor)).expect("it was made").is_up = true;
        process.on_link(now, initiator.1, (address(acceptor.0), acceptor.1), true);
        self.turn(initiator.0);
    }

    /// What waits behind cuts that are mended goes on.
    pub(super) fn go_on(&mut self) {
        let mut events = Vec::new();
        for (&(initiator, acceptor), link) in &mut self.network.links {
            for (lane, it) in link.lanes.iter_mut().enumerate() {
                if !it.is_scheduled && !it.frames.is_empty() {
                    it.is_scheduled = true;
                    let generation = link.generation;
                    events.push(Event::Lane { initiator, acceptor, lane, generation });
                }
            }
        }
        for event in events {
            let delay = self.network.up_to(Duration::from_millis(300));
            self.after(delay, event);
        }
    }

    /// Lets a process do what there is to do, and does what it wants done.
    pub(super) fn turn(&mut self, node: usize) {
        let now = self.node_now(node);
        let Some(process) = &mut self.nodes[node].process else { return };
        let effects = process.turn(now);
        if !self.perform_all(node, now, effects) {
            return;
        }
        let it = &mut self.nodes[node];
        let Some(process) = &it.process else { return };
        let is_failed = process.has_failed();
        let is_busy = it.disks.iter().any(|disk| disk.under_way_count() > 0);
        let step = is_busy.then(|| self.now + self.options.disk_step);
        let due = process.due_at();
        let is_late = due.is_some_and(|at| at <= self.now);
        it.late_count = if is_late { it.late_count + 1 } else { 0 };
        assert!(it.late_count < LATE_COUNT_MAX, "n{node} never rests: something stays due");
        let due = [due, step].into_iter().flatten().min();
        if let Some(at) = due.map(|at| at.max(self.now + Duration::from_micros(1)))
            && it.wake_at.is_none_or(|set| at < set)
        {
            it.wake_at = Some(at);
            self.at(at, Event::Wake { node });
        }
        if is_failed && !self.nodes[node].is_doomed {
            self.doom(node);
        }
    }

    /// Does what a process wants done, in order. Not all of it where something cannot be kept, or takes
    /// long, as a node does nothing meanwhile.
    fn perform_all(&mut self, node: usize, now: Now, effects: Vec<Effect>) -> bool {
        let mut effects = effects.into_iter();
        while let Some(effect) = effects.next() {
            let trouble = match effect {
                Effect::Keep(_) => self.draw_keep_trouble(),
                _ => KeepTrouble::None,
            };
            match trouble {
                KeepTrouble::None => self.perform(node, now, effect),
                KeepTrouble::Fails => {
                    self.stop(node, false);
                    self.start_later(node, 2_000);
                    return false;
                }
                KeepTrouble::TakesLong(time) => {
                    let it = &mut self.nodes[node];
                    it.unperformed = std::iter::once(effect).chain(effects).collect();
                    it.is_paused = true;
                    self.after(time, Event::Resume(node));
                    return false;
                }
            }
        }
        true
    }

    fn perform(&mut self, node: usize, now: Now, effect: Effect) {
        match effect {
            Effect::Datagram { to, bytes } => {
                let to = node_of(to);
                self.report.count("datagrams");
                for at in self.network.datagram(self.now, node, to) {
                    self.at(at, Event::Datagram { from: node, to, bytes: bytes.clone() });
                }
            }
            Effect::Exchange { to, bytes } => {
                self.send_control(node, node_of(to), Control::Exchange(bytes));
            }
            Effect::Request { to, bytes } => {
                self.send_control(node, node_of(to), Control::Request(bytes));
            }
            Effect::Answer { to, bytes } => self.send_control(node, to, Control::Answer(bytes)),
            Effect::Ask { core, to, shard, frame } => {
                let ends = ((node, core), (node_of(to), shard));
                if self.network.links.entry(ends).or_default().is_up {
                    self.put(ends, 0, now, frame);
                }
            }
            Effect::Reply { way, frame } => {
                let ends = (way.initiator, (node, way.shard));
                let link = self.network.links.entry(ends).or_default();
                if link.is_up && link.generation == way.generation {
                    self.put(ends, 1, now, frame);
                }
            }
            Effect::Ended { tag, end } => {
                self.trace.say(self.now, || format!("n{node} ends {tag} {end:?}"));
                if let Some(index) = self.ledger.end(tag, self.now, end) {
                    self.on_ended(index);
                }
            }
            Effect::Installed(topology) => self.on_installed(node, &topology),
            Effect::Flushing { by } => self.on_flushing(by),
            Effect::Flushed { by, result } => self.on_flushed(by, result),
            Effect::Keep(bytes) => self.nodes[node].kept = Some(bytes),
        }
    }

    fn put(&mut self, ends: (Port, Port), lane: usize, now: Now, frame: Frame) {
        if let Some(at) = self.network.put(self.now, ends, lane, now.wall, frame) {
            let generation = self.network.links[&ends].generation;
            let (initiator, acceptor) = ends;
            self.at(at, Event::Lane { initiator, acceptor, lane, generation });
        }
    }

    fn send_control(&mut self, from: usize, to: usize, control: Control) {
        self.report.count("control messages");
        let at = self.network.control(self.now, from, to);
        self.at(at, Event::Control { from, to, control });
    }

    fn resume(&mut self, node: usize) {
        if !std::mem::take(&mut self.nodes[node].is_paused) {
            return;
        }
        self.trace.say(self.now, || format!("n{node} goes on"));
        let now = self.node_now(node);
        for effect in std::mem::take(&mut self.nodes[node].unperformed) {
            self.perform(node, now, effect);
        }
        let backlog = std::mem::take(&mut self.nodes[node].backlog);
        self.turn(node);
        for event in backlog {
            self.happen(event);
        }
    }

    /// The processes that run, with their nodes.
    pub(super) fn running(&self) -> impl Iterator<Item = (usize, &Process)> {
        self.nodes.iter().enumerate().filter_map(|(node, it)| Some((node, it.process.as_ref()?)))
    }

    /// Which topology the nodes have, by epoch.
    pub(super) fn epochs(&self) -> BTreeMap<usize, u64> {
        let epoch = |process: &Process| process.topology().map_or(0, |it| it.epoch);
        self.running().map(|(node, process)| (node, epoch(process))).collect()
    }
}

/// A mutation in a few words.
fn brief(mutation: Option<&Mutation<'_>>) -> String {
    let Some(mutation) = mutation else { return "-".to_owned() };
    let Mutation { key, value, version, .. } = mutation;
    let value = value.map(super::history::text);
    let key = String::from_utf8_lossy(key);
    format!("{key} {}.{} {value:?}", version.timestamp.0, version.node.0)
}

fn new_node(options: &Options, node: usize, clocks: &mut Rng) -> Node {
    let spread = i64::try_from(options.clock_spread.as_millis()).expect("it is short");
    let ppm = i64::from(options.drift_ppm);
    let store = node as u64 + 1;
    let disks = match options.backend {
        Backend::File => new_disks(options, node, store),
        Backend::Memory => Vec::new(),
    };
    Node {
        process: None,
        run: 0,
        kept: None,
        disks,
        store,
        clock_ms: clocks.i64(-spread..=spread),
        clock_ppm: clocks.i64(-ppm..=ppm),
        is_paused: false,
        backlog: Vec::new(),
        unperformed: Vec::new(),
        wake_at: None,
        late_count: 0,
        is_starting: false,
        is_doomed: false,
        is_behind: false,
    }
}
