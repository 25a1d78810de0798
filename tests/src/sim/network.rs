//! What lies between nodes: datagrams, which are lost, repeated and reordered, and connections, which
//! deliver in order or break.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use fastrand::Rng;
use gridkv_cluster::topology::Member;
use gridkv_cluster::{Instant, MemberId, WallTime};

use super::options::Network as Options;
use super::process::{Frame, Port};

/// A frame on its way.
pub(super) struct Sent {
    pub(super) arrives: Instant,
    /// The sender's clock when it was sent.
    pub(super) wall: WallTime,
    pub(super) frame: Frame,
}

/// One way of a connection.
#[derive(Default)]
pub(super) struct Lane {
    pub(super) frames: VecDeque<Sent>,
    latest: Instant,
    /// What is put on it leads nowhere.
    pub(super) is_mute: bool,
    /// An event will deliver what is in it.
    pub(super) is_scheduled: bool,
}

/// A connection from a coordinator's core to a replica's shard.
pub(super) struct Link {
    pub(super) generation: u64,
    pub(super) is_up: bool,
    /// Requests, and what answers them.
    pub(super) lanes: [Lane; 2],
}

impl Default for Link {
    fn default() -> Self {
        Self { generation: 1, is_up: true, lanes: [Lane::default(), Lane::default()] }
    }
}

impl Link {
    /// All that is in flight is lost.
    pub(super) fn cut_off(&mut self) {
        self.generation += 1;
        self.lanes = [Lane::default(), Lane::default()];
    }
}

/// The network.
pub(super) struct Network {
    options: Options,
    rng: Rng,
    /// How many reasons there are why no message goes from one to another.
    cuts: Vec<Vec<u32>>,
    /// What a node's messages take longer.
    pub(super) stalls: Vec<Duration>,
    /// Until when what a node asks is held up.
    held: Vec<Instant>,
    /// Nodes that hear nothing of the topology, and that nobody hears of it.
    pub(super) deaf: Vec<u32>,
    pub(super) links: BTreeMap<(Port, Port), Link>,
    controls: BTreeMap<(usize, usize), Instant>,
    pub(super) is_calm: bool,
}

impl Network {
    pub(super) fn new(options: Options, node_count: usize, rng: Rng) -> Self {
        Self {
            options,
            rng,
            cuts: vec![vec![0; node_count]; node_count],
            stalls: vec![Duration::ZERO; node_count],
            held: vec![Instant::ZERO; node_count],
            deaf: vec![0; node_count],
            links: BTreeMap::new(),
            controls: BTreeMap::new(),
            is_calm: true,
        }
    }

    /// Nothing is lost or damaged any more; or again.
    pub(super) fn set_calm(&mut self, is_calm: bool) {
        self.is_calm = is_calm;
        if is_calm {
            self.stalls.fill(Duration::ZERO);
            self.deaf.fill(0);
            self.cuts.iter_mut().for_each(|row| row.fill(0));
        }
    }

    /// No message goes from one to another, for one more reason.
    pub(super) fn cut(&mut self, from: usize, to: usize) {
        self.cuts[from][to] += 1;
    }

    /// One reason less.
    pub(super) fn mend(&mut self, from: usize, to: usize) {
        self.cuts[from][to] = self.cuts[from][to].saturating_sub(1);
    }

    pub(super) fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cuts[from][to] > 0
    }

    /// Whether a connection can be made.
    pub(super) fn is_open(&self, one: usize, other: usize) -> bool {
        !self.is_cut(one, other) && !self.is_cut(other, one)
    }

    fn delay(&mut self, from: usize, to: usize) -> Duration {
        let (min, max) = (self.options.delay_min, self.options.delay_max);
        // Mostly short.
        let part = self.rng.u32(0..1_000).min(self.rng.u32(0..1_000)).min(self.rng.u32(0..1_000));
        min + (max - min) * part / 1_000 + self.stalls[from].max(self.stalls[to])
    }

    /// Until when a frame is held up: an answer by itself, a request with all that its node asks.
    fn held_until(&mut self, now: Instant, initiator: usize, lane: usize) -> Instant {
        let permille = if self.is_calm { 0 } else { self.options.held_permille };
        let is_request = lane == 0;
        let is_free = !is_request || self.held[initiator] <= now;
        let mut until = if is_request { self.held[initiator] } else { Instant::ZERO };
        if permille > 0 && is_free && self.rng.u32(0..1_000) < permille {
            until = now + self.up_to(self.options.held_max);
        }
        if is_request {
            self.held[initiator] = until;
        }
        until
    }

    /// When a datagram arrives: not at all, once or twice.
    pub(super) fn datagram(&mut self, now: Instant, from: usize, to: usize) -> Vec<Instant> {
        let loss = if self.is_calm { 0 } else { self.options.loss_permille };
        let twice = if self.is_calm { 0 } else { self.options.twice_permille };
        if self.rng.u32(0..1_000) < loss || self.is_cut(from, to) {
            return Vec::new();
        }
        let count = if self.rng.u32(0..1_000) < twice { 2 } else { 1 };
        (0..count).map(|_| now + self.delay(from, to)).collect()
    }

    /// When a message over a connection that keeps the order arrives.
    pub(super) fn control(&mut self, now: Instant, from: usize, to: usize) -> Instant {
        let at = now + self.delay(from, to);
        let latest = self.controls.entry((from, to)).or_default();
        *latest = at.max(*latest + Duration::from_nanos(1));
        *latest
    }

    /// Puts a frame on a lane of a connection; when it is to be delivered, if no event is under way.
    pub(super) fn put(
        &mut self,
        now: Instant,
        (initiator, acceptor): (Port, Port),
        lane: usize,
        wall: WallTime,
        frame: Frame,
    ) -> Option<Instant> {
        let arrives = now + self.delay(initiator.0, acceptor.0);
        let arrives = arrives.max(self.held_until(now, initiator.0, lane));
        let link = self.links.entry((initiator, acceptor)).or_default();
        assert!(link.is_up);
        let lane = &mut link.lanes[lane];
        if lane.is_mute {
            return None;
        }
        lane.latest = arrives.max(lane.latest);
        lane.frames.push_back(Sent { arrives: lane.latest, wall, frame });
        if lane.is_scheduled {
            return None;
        }
        lane.is_scheduled = true;
        lane.frames.front().map(|sent| sent.arrives)
    }

    /// Whether a frame is damaged on its way.
    pub(super) fn is_damaged(&mut self) -> bool {
        self.rng.u32(0..100_000) < if self.is_calm { 0 } else { self.options.damage_per_100k }
    }

    /// A random time up to `max`.
    pub(super) fn up_to(&mut self, max: Duration) -> Duration {
        max * self.rng.u32(0..=1_000) / 1_000
    }
}

pub(super) fn address(node: usize) -> SocketAddr {
    let host = u32::try_from(node).expect("few nodes") + 1;
    SocketAddr::new(Ipv4Addr::from(0x0a00_0000 + host).into(), 7_000)
}

/// What a node says of itself to the cluster.
pub(super) fn member_of(node: usize, id: MemberId, store: u64, shard_count: u16) -> Member {
    Member {
        id: id.0,
        node: 0,
        key: [0; 32],
        clients: None,
        name: format!("n{node}"),
        address: address(node),
        zone: String::new(),
        weight: 16,
        shard_count,
        store,
    }
}
