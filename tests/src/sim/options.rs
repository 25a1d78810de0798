//! What one run is like. Each run turns on a random part of all that can go wrong, at random rates:
//! what hides behind one kind of trouble shows up where that kind is missing (Groce et al., "Swarm
//! Testing", 2012).

use std::time::Duration;

use fastrand::Rng;
use gridkv_storage::Durability;

pub use super::mail::Options as Mail;
use super::stream::stream;

/// Where nodes keep their records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// In memory: a node that stops has lost them.
    Memory,
    /// In the log, on a simulated disk.
    File,
}

/// How often a kind of fault comes: on average once in so long; `None` for never.
pub type Every = Option<Duration>;

/// What goes wrong from time to time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// A process dies; with a disk, sometimes its machine.
    pub crash: Every,
    /// A node loses its disk.
    pub erase: Every,
    /// A node stands still.
    pub pause: Every,
    /// Some nodes do not reach some others.
    pub partition: Every,
    /// A process dies and is there again at once.
    pub bounce: Every,
    /// A connection breaks.
    pub reset: Every,
    /// One way of a connection leads nowhere, and its ends notice late.
    pub half_open: Every,
    /// A node's messages take long.
    pub stall: Every,
    /// A node hears nothing of the topology.
    pub deaf: Every,
    /// A clock jumps, by less than clocks may differ.
    pub jump: Every,
    /// A clock jumps by far more.
    pub wild_jump: Every,
    /// A disk fails now and then, for a while.
    pub disk: Every,
    /// A disk is slow for a while.
    pub slow_disk: Every,
    /// Everything is removed.
    pub flush: Every,
}

/// The messages between nodes.
#[derive(Clone, Copy, Debug)]
pub struct Network {
    /// The shortest way.
    pub delay_min: Duration,
    /// The longest.
    pub delay_max: Duration,
    /// Of a thousand datagrams so many are lost.
    pub loss_permille: u32,
    /// Of a thousand datagrams so many arrive twice.
    pub twice_permille: u32,
    /// Of a thousand frames so many are held up: an answer with what is behind it, a request with all
    /// that its node asks.
    pub held_permille: u32,
    /// For up to so long.
    pub held_max: Duration,
    /// How long a node waits before it makes a broken connection anew, at most.
    pub pause_max: Duration,
    /// Of 100,000 frames so many are damaged, which breaks their connection.
    pub damage_per_100k: u32,
}

/// How a node is made.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Its shards.
    pub shards: u16,
    /// The cores that run them.
    pub cores: usize,
}

/// One run.
#[derive(Clone, Debug)]
pub struct Options {
    /// From which everything derives.
    pub seed: u64,
    /// Nodes.
    pub node_count: usize,
    /// How they are made.
    pub layouts: Vec<Layout>,
    /// What their cores post to each other.
    pub mail: Mail,
    /// Copies of each key.
    pub replica_count: u8,
    /// Where they are.
    pub backend: Backend,
    /// When a write to disk counts as done.
    pub durability: Durability,
    /// How long things go wrong.
    pub trouble: Duration,
    /// Whether they do from the start, while the cluster forms.
    pub is_troubled_early: bool,
    /// Whether clients begin before everybody has joined.
    pub is_hasty: bool,
    /// Whether clients do mostly what rarely meets.
    pub is_aimed: bool,
    /// Clients.
    pub client_count: usize,
    /// Keys.
    pub key_count: usize,
    /// A client waits up to so long between two operations.
    pub think_max: Duration,
    /// Longest value in bytes.
    pub value_bytes_max: usize,
    /// Of a hundred operations on aimed keys so many change something.
    pub change_percent: u8,
    /// Of a hundred reads of keys that are agreed on so many are at another level.
    pub weak_percent: u8,
    /// Whether some values expire.
    pub has_expiry: bool,
    /// How far clocks may differ.
    pub drift_max: Duration,
    /// How far they do at first, and so many parts of a million later.
    pub clock_spread: Duration,
    /// See [`Options::clock_spread`].
    pub drift_ppm: u32,
    /// How long an operation may take.
    pub request_timeout: Duration,
    /// Bytes of a core's sync log.
    pub sync_log_bytes: usize,
    /// Bytes of the cache of a store on disk.
    pub cache_bytes_max: u64,
    /// How long a disk takes for one step.
    pub disk_step: Duration,
    /// What a node wants kept on disk: of a hundred times it fails, which ends the node, so often.
    pub keep_fails_percent: u8,
    /// Of a hundred times it takes long so often.
    pub keep_slow_percent: u8,
    /// The messages.
    pub network: Network,
    /// The faults.
    pub faults: Faults,
}

impl Options {
    /// The options of a seed.
    #[must_use]
    pub fn draw(seed: u64) -> Self {
        let rng = &mut stream(seed, "options");
        let node_count = [1, 2, 3, 3, 3, 3, 4, 5, 5, 5, 6, 7][rng.usize(..12)];
        let replica_count = match (rng.u8(..10), node_count) {
            (0, _) | (2.., 1 | 2) => 1,
            (1..8, _) | (_, 3 | 4) => 3,
            _ => 5,
        };
        let backend = if rng.u8(..10) < 7 { Backend::File } else { Backend::Memory };
        let key_count = [3, 6, 12, 30, 80, 200][rng.usize(..6)];
        let delay_min = Duration::from_micros(rng.u64(50..500));
        let drift_max = Duration::from_millis(500);
        // Most runs are short, with faults close together: what goes wrong mostly does so early.
        let is_brisk = rng.u8(..6) > 0;
        let faults = draw_faults(rng, backend, if is_brisk { 5 } else { 1 });
        let is_clock_bad = rng.bool();
        let mut options = Self {
            seed,
            node_count,
            durability: draw_durability(seed),
            layouts: draw_layouts(seed, node_count),
            mail: draw_mail(seed),
            replica_count,
            backend,
            trouble: Duration::from_millis(if is_brisk {
                rng.u64(2_000..9_000)
            } else {
                rng.u64(12_000..60_000)
            }),
            is_troubled_early: rng.u8(..5) == 0,
            is_hasty: rng.u8(..8) == 0,
            is_aimed: false,
            client_count: rng.usize(1..=8),
            key_count,
            change_percent: 50,
            weak_percent: 20,
            think_max: Duration::from_millis([20, 100, 300, 1_000][rng.usize(..4)]),
            value_bytes_max: [40, 200, 3_000][rng.usize(..3)],
            has_expiry: rng.u8(..4) == 0,
            drift_max,
            clock_spread: if is_clock_bad { drift_max / 3 } else { Duration::ZERO },
            drift_ppm: if is_clock_bad && rng.bool() { 1_000 } else { 0 },
            request_timeout: Duration::from_millis(rng.u64(500..3_000)),
            sync_log_bytes: if rng.bool() { 64 << 10 } else { 256 << 10 },
            cache_bytes_max: if rng.bool() { 16 << 10 } else { 1 << 20 },
            keep_fails_percent: 0,
            keep_slow_percent: 0,
            disk_step: Duration::from_micros(rng.u64(30..300)),
            network: Network {
                delay_min,
                delay_max: delay_min + Duration::from_micros(rng.u64(100..20_000)),
                loss_permille: if rng.bool() { rng.u32(..100) } else { 0 },
                twice_permille: if rng.bool() { rng.u32(..50) } else { 0 },
                held_permille: 0,
                held_max: Duration::ZERO,
                pause_max: Duration::from_millis(500),
                damage_per_100k: if rng.u8(..4) == 0 { rng.u32(1..100) } else { 0 },
            },
            faults,
        };
        let rng = &mut stream(seed, "keeps");
        options.keep_fails_percent = [0, 0, 0, 5][rng.usize(..4)];
        options.keep_slow_percent = [0, 0, 20][rng.usize(..3)];
        options.aim();
        options
    }

    /// Half of the runs aim at what rarely meets: a few keys that all want to change, requests that arrive when
    /// others have overtaken them, and replicas that are started anew in between.
    fn aim(&mut self) {
        let rng = &mut stream(self.seed, "aim");
        if rng.bool() {
            return;
        }
        self.is_aimed = true;
        self.node_count = [3, 3, 3, 4, 5][rng.usize(..5)];
        self.replica_count = if self.node_count == 5 && rng.bool() { 5 } else { 3 };
        self.layouts = draw_layouts(self.seed, self.node_count);
        self.key_count = rng.usize(1..=3);
        self.client_count = rng.usize(4..=10);
        self.think_max = Duration::from_millis([5, 20, 60][rng.usize(..3)]);
        self.network.delay_max =
            self.network.delay_min + Duration::from_micros([500, 3_000, 20_000][rng.usize(..3)]);
        self.value_bytes_max = 40;
        self.change_percent = [8, 20, 65][rng.usize(..3)];
        self.weak_percent = [0, 30, 60][rng.usize(..3)];
        self.trouble = Duration::from_millis(rng.u64(2_000..6_000));
        self.network.held_permille = [20, 100, 300][rng.usize(..3)];
        self.network.held_max = Duration::from_millis([10, 40, 150, 600][rng.usize(..4)]);
        self.network.pause_max = Duration::from_millis([5, 50][rng.usize(..2)]);
        let mut every = |of_four: u8, max: u64| {
            let every = Duration::from_millis(rng.u64(20..max));
            (rng.u8(..4) < of_four).then_some(every)
        };
        self.faults = Faults {
            bounce: every(3, 800),
            reset: every(2, 400),
            half_open: every(1, 1_000),
            partition: every(1, 2_000),
            jump: every(1, 2_000),
            flush: every(1, 2_000),
            deaf: every(2, 2_000),
            slow_disk: every(1, 2_000),
            ..Faults::default()
        };
        if self.faults.bounce.is_some() {
            (self.backend, self.durability) = (Backend::File, Durability::Commit);
        }
    }

    /// Whether no clock is ever wrong.
    #[must_use]
    pub fn has_true_clocks(&self) -> bool {
        let Faults { jump, wild_jump, .. } = self.faults;
        self.clock_spread.is_zero() && self.drift_ppm == 0 && jump.is_none() && wild_jump.is_none()
    }
}

/// Some nodes are one core, some have several, with as many shards or more.
fn draw_layouts(seed: u64, node_count: usize) -> Vec<Layout> {
    let rng = &mut stream(seed, "layouts");
    let max = [1, 2, 3, 4][rng.usize(..4)];
    let layout = |_| {
        let shards = rng.u16(1..=max);
        Layout { shards, cores: rng.usize(1..=usize::from(shards).min(3)) }
    };
    (0..node_count).map(layout).collect()
}

fn draw_durability(seed: u64) -> Durability {
    let rng = &mut stream(seed, "durability");
    match rng.u8(..10) {
        0 => Durability::None,
        1 => Durability::Interval(Duration::from_millis(rng.u64(20..1_000))),
        _ => Durability::Commit,
    }
}

fn draw_mail(seed: u64) -> Mail {
    let rng = &mut stream(seed, "mail");
    Mail {
        delay_max: Duration::from_micros([0, 50, 1_000, 20_000][rng.usize(..4)]),
        capacity: [2, 8, 1_024][rng.usize(..3)],
    }
}

/// Each kind of fault is in half of the runs, or in fewer.
fn draw_faults(rng: &mut Rng, backend: Backend, haste: u32) -> Faults {
    let is_calm = rng.u8(..20) == 0;
    let mut draw = |of_eight: u8, seconds: u64| {
        let is_on = rng.u8(..8) < of_eight && !is_calm;
        let every = Duration::from_millis(rng.u64(seconds * 200..seconds * 2_000));
        is_on.then_some(every / haste)
    };
    let disk = |every: Every| every.filter(|_| backend == Backend::File);
    let crash = draw(4, 12);
    Faults {
        // What is in memory does not outlive many of them.
        crash: if backend == Backend::Memory { crash.map(|it| it * 4) } else { crash },
        erase: draw(1, 60),
        pause: draw(3, 15),
        partition: draw(4, 12),
        bounce: None,
        reset: draw(3, 4),
        half_open: draw(2, 8),
        stall: draw(3, 10),
        deaf: None,
        jump: draw(2, 10),
        wild_jump: draw(1, 30),
        disk: disk(draw(2, 15)),
        slow_disk: disk(draw(2, 10)),
        flush: draw(1, 15),
    }
}
