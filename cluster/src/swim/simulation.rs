//! Many membership machines on one simulated network: one seed, one story.
//!
//! The network delays, loses, reorders and cuts datagrams; exchanges, which travel over TCP, are
//! delayed and cut, not lost. Nodes are killed, paused, and started again. Time passes only in
//! [`Simulation::run_for`] and [`Simulation::run_until`].
//!
//! # Invariants
//!
//! - The same calls with the same seed give the same [`Simulation::hash`], which is taken over every
//!   event.
//! - The network draws from a stream of its own, and each machine from its own.

mod measure;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64_with_seed;

pub use self::measure::{Detections, FalsePositives, Join, detections, false_positives, join};
use super::{Config, Input, Output, Own, State, Stats, Swim};
use crate::model::MemberId;
use crate::time::Instant;

/// Wall-clock milliseconds at the start of every simulation.
const WALL_START: u64 = 1_700_000_000_000;
/// What a paused node's socket holds; the rest is lost.
const HELD_MAX: usize = 200;

/// The world that the machines live in.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// For every machine.
    pub config: Config,
    /// From which all randomness derives.
    pub seed: u64,
    /// Of 100 datagrams so many are lost.
    pub loss_percent: u32,
    /// The shortest way between two nodes.
    pub delay_min: Duration,
    /// The longest.
    pub delay_max: Duration,
}

impl Options {
    /// A quiet network of one data centre.
    #[must_use]
    pub const fn lan(seed: u64) -> Self {
        Self {
            config: Config::lan(),
            seed,
            loss_percent: 0,
            delay_min: Duration::from_micros(100),
            delay_max: Duration::from_millis(2),
        }
    }
}

/// Something that a machine reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happening {
    /// When.
    pub at: Instant,
    /// Which node reported it.
    pub node: usize,
    /// Neither a datagram nor an exchange.
    pub output: Output,
}

/// The nodes, the network, and the time.
#[derive(Debug)]
pub struct Simulation {
    options: Options,
    now: Instant,
    nodes: Vec<Node>,
    by_address: BTreeMap<SocketAddr, usize>,
    queue: BinaryHeap<Reverse<Event>>,
    event_count: u64,
    rng: fastrand::Rng,
    hash: u64,
    happenings: Vec<Happening>,
}

#[derive(Debug)]
struct Node {
    own: Own,
    swim: Option<Swim>,
    start_count: u64,
    side: u8,
    is_paused: bool,
    held: Vec<Event>,
    timer_at: Option<Instant>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Event {
    at: Instant,
    number: u64,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Timer { node: usize },
    Datagram { from: usize, to: usize, source: SocketAddr, bytes: Vec<u8> },
    Exchange { from: usize, to: usize, bytes: Vec<u8> },
}

impl Simulation {
    /// A network with nobody on it.
    #[must_use]
    pub fn new(options: Options) -> Self {
        assert!(options.delay_min <= options.delay_max);
        assert!(options.loss_percent <= 100);
        Self {
            options,
            now: Instant::ZERO + Duration::from_secs(1),
            nodes: Vec::new(),
            by_address: BTreeMap::new(),
            queue: BinaryHeap::new(),
            event_count: 0,
            rng: fastrand::Rng::with_seed(xxh3_64_with_seed(b"network", options.seed)),
            hash: options.seed,
            happenings: Vec::new(),
        }
    }

    /// `count` nodes, of which all but the first join through the first, run until they agree.
    ///
    /// # Panics
    ///
    /// When they do not within two minutes.
    #[must_use]
    pub fn cluster(options: Options, count: usize) -> Self {
        let mut simulation = Self::new(options);
        for _ in 0..count {
            let node = simulation.add();
            simulation.input(node, Input::Join(&[Self::address(0)]));
        }
        let agreed = simulation.run_until(Duration::from_secs(120), Self::is_agreed);
        assert!(agreed.is_some(), "{count} nodes find together");
        simulation
    }

    /// The address of the node that was added as number `index`.
    #[must_use]
    pub fn address(index: usize) -> SocketAddr {
        let host = u32::try_from(index).expect("few nodes") + 1;
        SocketAddr::new(Ipv4Addr::from(0x0a00_0000 + host).into(), 7_000)
    }

    /// Starts one more node, which knows nobody; returns its number.
    pub fn add(&mut self) -> usize {
        self.add_as(MemberId(self.nodes.len() as u64 + 1))
    }

    /// Starts one more node with an identity, perhaps that of another.
    pub fn add_as(&mut self, id: MemberId) -> usize {
        let node = self.nodes.len();
        let own = Own { id, address: Self::address(node), run: 0, cluster: 1 };
        let (held, timer_at) = (Vec::new(), None);
        self.nodes.push(Node {
            own,
            swim: None,
            start_count: 0,
            side: 0,
            is_paused: false,
            held,
            timer_at,
        });
        self.start(node, own.address);
        node
    }

    /// Ends a node without a word.
    pub fn kill(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        assert!(node.swim.is_some(), "one dies once");
        node.swim = None;
        node.is_paused = false;
        node.held.clear();
        self.by_address.remove(&node.own.address);
    }

    /// Starts a killed node anew, at an address that is free. It knows nobody.
    pub fn start(&mut self, node: usize, address: SocketAddr) {
        let millis = u64::try_from(self.now.saturating_since(Instant::ZERO).as_millis());
        self.start_at_wall(node, address, WALL_START + millis.expect("a simulation is short"));
    }

    /// The same, with a wall clock of one's own choice.
    pub fn start_at_wall(&mut self, node: usize, address: SocketAddr, wall_ms: u64) {
        let it = &mut self.nodes[node];
        assert!(it.swim.is_none(), "one starts what does not run");
        let before = self.by_address.insert(address, node);
        assert_eq!(before, None, "an address is one node's");
        it.own = Own { address, run: wall_ms, ..it.own };
        it.start_count += 1;
        let name = [node as u64, it.start_count].map(u64::to_le_bytes).concat();
        let seed = xxh3_64_with_seed(&name, self.options.seed);
        it.swim = Some(Swim::new(self.options.config, it.own, seed, self.now));
        it.timer_at = None;
        self.after(node);
    }

    /// Stops a node as a suspended machine stops: its socket still takes in what has room.
    pub fn pause(&mut self, node: usize) {
        self.nodes[node].is_paused = true;
    }

    /// Lets a paused node go on.
    pub fn resume(&mut self, node: usize) {
        assert!(self.nodes[node].is_paused);
        self.nodes[node].is_paused = false;
        self.fire_timer(node);
        for event in std::mem::take(&mut self.nodes[node].held) {
            self.perform(event.kind);
        }
    }

    /// Puts a node on a side of a partition. Nodes reach those of their own side only.
    pub fn set_side(&mut self, node: usize, side: u8) {
        self.nodes[node].side = side;
    }

    /// Puts all on one side.
    pub fn heal(&mut self) {
        for node in &mut self.nodes {
            node.side = 0;
        }
    }

    /// From here on so many datagrams of 100 are lost.
    pub fn set_loss(&mut self, percent: u32) {
        assert!(percent <= 100);
        self.options.loss_percent = percent;
    }

    /// Hands a running node an event.
    pub fn input(&mut self, node: usize, input: Input<'_>) {
        let swim = self.nodes[node].swim.as_mut().expect("it runs");
        swim.handle(self.now, input);
        self.after(node);
    }

    /// Lets time pass.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.queue.peek().is_some_and(|it| it.0.at <= end) {
            self.step();
        }
        self.now = end;
    }

    /// Lets time pass until something holds; how long that took, or `None` when it was not so within
    /// `time_max`. Looks every 10 ms.
    pub fn run_until(
        &mut self,
        time_max: Duration,
        holds: impl Fn(&Self) -> bool,
    ) -> Option<Duration> {
        let start = self.now;
        loop {
            let passed = self.now.saturating_since(start);
            if holds(self) {
                return Some(passed);
            }
            if passed >= time_max {
                return None;
            }
            self.run_for(Duration::from_millis(10));
        }
    }

    fn step(&mut self) {
        let Some(Reverse(event)) = self.queue.pop() else { return };
        assert!(event.at >= self.now);
        self.now = event.at;
        let node = match &event.kind {
            Kind::Timer { node } => {
                let it = &mut self.nodes[*node];
                if it.timer_at == Some(event.at) {
                    it.timer_at = None;
                    self.fire_timer(*node);
                }
                return;
            }
            Kind::Datagram { to, .. } | Kind::Exchange { to, .. } => &mut self.nodes[*to],
        };
        if !node.is_paused {
            self.perform(event.kind);
        } else if node.held.len() < HELD_MAX {
            node.held.push(event);
        }
    }

    fn fire_timer(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        if it.is_paused {
            return;
        }
        let Some(swim) = &mut it.swim else { return };
        if swim.poll_timeout().is_some_and(|at| at <= self.now) {
            self.note(&[0, node as u64]);
            let swim = self.nodes[node].swim.as_mut().expect("it runs");
            swim.handle(self.now, Input::Timeout);
        }
        self.after(node);
    }

    fn perform(&mut self, kind: Kind) {
        let (from, to, input) = match &kind {
            Kind::Timer { .. } => unreachable!("timers fire elsewhere"),
            Kind::Datagram { from, to, source, bytes } => {
                (*from, *to, Input::Datagram { from: *source, bytes })
            }
            Kind::Exchange { from, to, bytes } => (*from, *to, Input::Exchange { bytes }),
        };
        if self.nodes[from].side != self.nodes[to].side {
            return;
        }
        let Some(swim) = &mut self.nodes[to].swim else { return };
        swim.handle(self.now, input);
        self.after(to);
    }

    /// Does what a machine wants done, and sets its timer.
    fn after(&mut self, node: usize) {
        while let Some(output) = self.nodes[node].swim.as_mut().and_then(Swim::poll_output) {
            match output {
                Output::Datagram { to, bytes } => {
                    self.note(&[1, node as u64, xxh3_64_with_seed(&bytes, 0)]);
                    assert!(bytes.len() <= self.options.config.datagram_bytes_max);
                    let is_lost = self.rng.u32(0..100) < self.options.loss_percent;
                    let Some(&index) = self.by_address.get(&to).filter(|_| !is_lost) else {
                        continue;
                    };
                    let source = self.nodes[node].own.address;
                    self.send(Kind::Datagram { from: node, to: index, source, bytes });
                }
                Output::Exchange { to, bytes } => {
                    self.note(&[2, node as u64, xxh3_64_with_seed(&bytes, 0)]);
                    let Some(&to) = self.by_address.get(&to) else { continue };
                    self.send(Kind::Exchange { from: node, to, bytes });
                }
                output => {
                    self.note(&[3, node as u64]);
                    self.happenings.push(Happening { at: self.now, node, output });
                }
            }
        }
        let it = &mut self.nodes[node];
        let timeout = it.swim.as_ref().and_then(Swim::poll_timeout);
        if let Some(at) = timeout.map(|at| at.max(self.now))
            && it.timer_at.is_none_or(|set| at < set)
        {
            it.timer_at = Some(at);
            self.push(at, Kind::Timer { node });
        }
    }

    fn send(&mut self, kind: Kind) {
        let spread = self.options.delay_max - self.options.delay_min;
        let delay = self.options.delay_min + spread * self.rng.u32(0..1_000) / 1_000;
        self.push(self.now + delay, kind);
    }

    fn push(&mut self, at: Instant, kind: Kind) {
        self.event_count += 1;
        self.queue.push(Reverse(Event { at, number: self.event_count, kind }));
    }

    fn note(&mut self, numbers: &[u64]) {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&self.now.as_nanos().to_le_bytes());
        assert!(numbers.len() <= 3);
        for (index, number) in numbers.iter().enumerate() {
            bytes[8 * (index + 1)..8 * (index + 2)].copy_from_slice(&number.to_le_bytes());
        }
        self.hash = xxh3_64_with_seed(&bytes, self.hash);
    }

    /// Over everything that happened.
    #[must_use]
    pub const fn hash(&self) -> u64 {
        self.hash
    }

    /// The time.
    #[must_use]
    pub const fn now(&self) -> Instant {
        self.now
    }

    /// A running node's machine.
    #[must_use]
    pub fn swim(&self, node: usize) -> Option<&Swim> {
        self.nodes[node].swim.as_ref()
    }

    /// Who a node is, in its last run.
    #[must_use]
    pub fn own(&self, node: usize) -> Own {
        self.nodes[node].own
    }

    /// What was reported since the last call.
    pub fn take_happenings(&mut self) -> Vec<Happening> {
        std::mem::take(&mut self.happenings)
    }

    /// What one running node believes another to be.
    #[must_use]
    pub fn sees(&self, node: usize, other: usize) -> Option<State> {
        let id = self.nodes[other].own.id;
        self.swim(node)?.member(id).map(|it| it.state)
    }

    /// The numbers of the nodes that run.
    pub fn running(&self) -> impl Iterator<Item = usize> {
        self.nodes.iter().enumerate().filter(|(_, it)| it.swim.is_some()).map(|(index, _)| index)
    }

    /// Whether every running node believes exactly the running ones to be alive, each in the run
    /// and at the address that it has.
    #[must_use]
    pub fn is_agreed(&self) -> bool {
        let me = |node: &Node| node.swim.as_ref()?.member(node.own.id).copied();
        let truth: Vec<_> = self.nodes.iter().filter_map(me).collect();
        self.nodes.iter().filter_map(|it| it.swim.as_ref()).all(|swim| {
            let is_live = |it: &&super::Member| it.state.is_live();
            swim.members().filter(is_live).count() == truth.len()
                && truth.iter().all(|it| swim.member(it.id) == Some(it))
        })
    }

    /// The sum of what the running nodes have counted.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.nodes.iter().filter_map(|it| it.swim.as_ref()).fold(Stats::default(), |sum, it| {
            let it = it.stats();
            Stats {
                probe_count: sum.probe_count + it.probe_count,
                failed_probe_count: sum.failed_probe_count + it.failed_probe_count,
                suspicion_count: sum.suspicion_count + it.suspicion_count,
                refutation_count: sum.refutation_count + it.refutation_count,
                pause_count: sum.pause_count + it.pause_count,
                datagram_in_count: sum.datagram_in_count + it.datagram_in_count,
                datagram_in_bytes: sum.datagram_in_bytes + it.datagram_in_bytes,
                datagram_out_count: sum.datagram_out_count + it.datagram_out_count,
                datagram_out_bytes: sum.datagram_out_bytes + it.datagram_out_bytes,
                exchange_in_count: sum.exchange_in_count + it.exchange_in_count,
                exchange_out_count: sum.exchange_out_count + it.exchange_out_count,
                bad_packet_count: sum.bad_packet_count + it.bad_packet_count,
                foreign_packet_count: sum.foreign_packet_count + it.foreign_packet_count,
                refused_member_count: sum.refused_member_count + it.refused_member_count,
            }
        })
    }
}
