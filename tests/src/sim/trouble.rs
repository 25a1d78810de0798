//! What goes wrong, and how it ends.

use std::time::Duration;

use fastrand::Rng;
use gridkv_storage::disk::Faults as DiskFaults;

use super::options::{Every, Faults, Options};
use super::process::Port;
use super::stream::stream;
use super::world::{Event, World};

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Crash,
    Erase,
    Bounce,
    Pause,
    Partition,
    Reset,
    HalfOpen,
    Stall,
    Deaf,
    Jump,
    WildJump,
    Disk,
    SlowDisk,
    Flush,
}

impl Fault {
    const ALL: [Self; 14] = [
        Self::Crash,
        Self::Erase,
        Self::Bounce,
        Self::Pause,
        Self::Partition,
        Self::Reset,
        Self::HalfOpen,
        Self::Stall,
        Self::Deaf,
        Self::Jump,
        Self::WildJump,
        Self::Disk,
        Self::SlowDisk,
        Self::Flush,
    ];

    const fn every(self, faults: &Faults) -> Every {
        match self {
            Self::Crash => faults.crash,
            Self::Erase => faults.erase,
            Self::Bounce => faults.bounce,
            Self::Pause => faults.pause,
            Self::Partition => faults.partition,
            Self::Reset => faults.reset,
            Self::HalfOpen => faults.half_open,
            Self::Stall => faults.stall,
            Self::Deaf => faults.deaf,
            Self::Jump => faults.jump,
            Self::WildJump => faults.wild_jump,
            Self::Disk => faults.disk,
            Self::SlowDisk => faults.slow_disk,
            Self::Flush => faults.flush,
        }
    }
}

/// How something ends.
#[derive(Debug)]
pub(super) enum Mend {
    Cuts(Vec<(usize, usize)>),
    /// Both ends of a connection notice that it has led nowhere one way.
    HalfOpen((Port, Port), u64),
    Stall(usize),
    Deaf(usize),
    Clock(usize, i64),
    Disk(usize),
    /// A node whose log has failed is started anew.
    Doomed(usize, u64),
}

/// What comes of something that is to be kept.
pub(super) enum KeepTrouble {
    None,
    /// It cannot be, and the process ends.
    Fails,
    TakesLong(Duration),
}

pub(super) struct Trouble {
    rng: Rng,
    /// Of each kind of fault, so that one leaves the others as they were.
    rngs: Vec<Rng>,
    /// Of what is to be kept.
    keeps: Rng,
    is_on: bool,
}

impl Trouble {
    pub(super) fn new(options: &Options) -> Self {
        let rng = |fault: &Fault| stream(options.seed, &format!("trouble: {fault:?}"));
        let rngs = Fault::ALL.iter().map(rng).collect();
        Self {
            rng: stream(options.seed, "trouble"),
            rngs,
            keeps: stream(options.seed, "trouble: keeps"),
            is_on: false,
        }
    }

    fn up_to(&mut self, max_ms: u64) -> Duration {
        // Mostly short.
        let bound = self.rng.u64(1..=max_ms);
        Duration::from_millis(self.rng.u64(1..=bound))
    }
}

impl World {
    /// From here on things go wrong.
    pub(super) fn begin_trouble(&mut self) {
        self.trouble.is_on = true;
        self.network.set_calm(false);
        for fault in Fault::ALL {
            self.schedule(fault);
        }
    }

    fn schedule(&mut self, fault: Fault) {
        if let Some(every) = fault.every(&self.options.faults) {
            let rng = &mut self.trouble.rngs[fault as usize];
            let delay = every * rng.u32(0..2_000) / 1_000;
            self.after(delay, Event::Fault(fault));
        }
    }

    pub(super) fn on_fault(&mut self, fault: Fault) {
        if !self.trouble.is_on {
            return;
        }
        self.schedule(fault);
        std::mem::swap(&mut self.trouble.rng, &mut self.trouble.rngs[fault as usize]);
        let has_happened = self.do_fault(fault);
        std::mem::swap(&mut self.trouble.rng, &mut self.trouble.rngs[fault as usize]);
        if has_happened {
            let what = format!("faults: {fault:?}");
            self.report.count(&what);
        }
    }

    /// Whether it can go wrong now.
    fn do_fault(&mut self, fault: Fault) -> bool {
        let node = self.trouble.rng.usize(..self.options.node_count);
        let is_up = self.nodes[node].process.is_some();
        self.trace.note(self.now, [12, node as u64, fault as u64]);
        self.trace.say(self.now, || format!("{fault:?} of n{node}"));
        match fault {
            Fault::Crash | Fault::Erase if is_up => self.crash(node, fault == Fault::Erase),
            Fault::Bounce if is_up => {
                let node = self.whom_to_bounce(node);
                if self.nodes[node].is_doomed {
                    return false;
                }
                self.stop(node, false);
                self.start_later(node, 60);
            }
            Fault::Pause if is_up && !self.nodes[node].is_paused => {
                let time = self.trouble.up_to(40_000);
                self.nodes[node].is_paused = true;
                self.after(time, Event::Resume(node));
            }
            Fault::Partition if self.options.node_count > 1 => self.partition(),
            Fault::Reset if self.options.node_count > 1 => self.reset(node),
            Fault::HalfOpen if self.options.node_count > 1 => return self.open_half(node),
            Fault::Stall => {
                self.network.stalls[node] = self.trouble.up_to(3_000);
                let time = self.trouble.up_to(8_000);
                self.after(time, Event::Mend(Mend::Stall(node)));
            }
            Fault::Deaf => {
                self.network.deaf[node] += 1;
                let time = self.trouble.up_to(3_000);
                self.after(time, Event::Mend(Mend::Deaf(node)));
            }
            Fault::Jump | Fault::WildJump => self.jump(node, fault == Fault::WildJump),
            Fault::Disk | Fault::SlowDisk if is_up => self.fail_disk(node, fault),
            Fault::Flush if is_up && !self.nodes[node].is_paused => {
                let now = self.node_now(node);
                let process = self.nodes[node].process.as_mut().expect("it runs");
                process.flush(now);
                self.turn(node);
            }
            _ => return false,
        }
        true
    }

    fn crash(&mut self, node: usize, is_erased: bool) {
        // A log that has failed is read again from what the machine has really written.
        let with_machine = self.trouble.rng.bool() || self.nodes[node].is_doomed;
        self.stop(node, with_machine);
        if is_erased {
            self.erase(node);
        }
        self.start_later(node, 15_000);
    }

    pub(super) fn draw_keep_trouble(&mut self) -> KeepTrouble {
        if !self.trouble.is_on {
            return KeepTrouble::None;
        }
        let rng = &mut self.trouble.keeps;
        if rng.u8(..100) < self.options.keep_fails_percent {
            self.report.count("keeps that fail");
            return KeepTrouble::Fails;
        }
        if rng.u8(..100) < self.options.keep_slow_percent {
            self.report.count("keeps that take long");
            return KeepTrouble::TakesLong(Duration::from_millis(rng.u64(1..1_500)));
        }
        KeepTrouble::None
    }

    /// A clock that is wrong when its node is started, and is mended later.
    pub(super) fn set_clock_wrong_at_boot(&mut self, node: usize) {
        let is_wild = self.trouble.is_on && self.options.faults.wild_jump.is_some();
        if is_wild && self.trouble.rng.u8(..4) == 0 {
            self.report.count("clocks wrong at boot");
            self.jump(node, true);
        }
    }

    pub(super) fn start_later(&mut self, node: usize, max_ms: u64) {
        self.nodes[node].is_starting = true;
        let time = self.trouble.up_to(max_ms);
        self.after(time, Event::Start(node));
    }

    fn partition(&mut self) {
        let count = self.options.node_count;
        let rng = &mut self.trouble.rng;
        let sides: Vec<bool> = (0..count).map(|_| rng.bool()).collect();
        let shape = rng.u8(..3);
        let mut cuts = Vec::new();
        for from in 0..count {
            for to in (0..count).filter(|to| *to != from) {
                let is_cut = match shape {
                    0 => sides[from] != sides[to],
                    1 => sides[from] && !sides[to],
                    _ => rng.u8(..4) == 0,
                };
                if is_cut {
                    cuts.push((from, to));
                }
            }
        }
        // Connections that are cut for long break, sooner or later.
        let breaks = rng.bool();
        for (from, to) in &cuts {
            self.network.cut(*from, *to);
            if breaks {
                self.break_links((*from, *to), Duration::from_secs(3));
            }
        }
        self.trace.say(self.now, || format!("cut: {cuts:?}"));
        let time = self.trouble.up_to(20_000);
        self.after(time, Event::Mend(Mend::Cuts(cuts)));
    }

    fn reset(&mut self, node: usize) {
        let other = self.trouble.rng.usize(..self.options.node_count);
        if other != node {
            self.break_links((node, other), Duration::from_millis(200));
        }
    }

    /// One way of one of a node's connections leads nowhere from here on.
    fn open_half(&mut self, node: usize) -> bool {
        let its = |ends: &&(Port, Port)| ends.0.0 == node && ends.1.0 != node;
        let links: Vec<_> = self.network.links.keys().filter(its).copied().collect();
        if links.is_empty() {
            return false;
        }
        let rng = &mut self.trouble.rng;
        let (ends, lane) = (links[rng.usize(..links.len())], rng.usize(..2));
        let link = self.network.links.get_mut(&ends).expect("it is listed");
        link.lanes[lane].is_mute = true;
        let generation = link.generation;
        let time = self.trouble.up_to(8_000);
        self.after(time, Event::Mend(Mend::HalfOpen(ends, generation)));
        true
    }

    /// Whom to start anew: half of the time somebody whom another feeds with what was missed.
    fn whom_to_bounce(&mut self, node: usize) -> usize {
        if self.trouble.rng.bool() {
            return node;
        }
        let fed = |(_, process): (usize, &super::process::Process)| {
            process.lags().map(|(peer, _)| peer).collect::<Vec<_>>()
        };
        let fed: Vec<_> = self.running().flat_map(fed).collect();
        let is_fed =
            |process: &super::process::Process| process.own().is_some_and(|own| fed.contains(&own));
        let found = self.running().find(|(_, process)| is_fed(process)).map(|(node, _)| node);
        if found.is_some() {
            self.report.count("restarts during catch-up");
        }
        found.unwrap_or(node)
    }

    /// All connections from one node to another break.
    fn break_links(&mut self, (from, to): (usize, usize), noticed: Duration) {
        let is_between = |ends: &&(Port, Port)| ends.0.0 == from && ends.1.0 == to;
        let links: Vec<_> = self.network.links.keys().filter(is_between).copied().collect();
        for ends in links {
            self.break_link(ends, noticed);
        }
    }

    fn jump(&mut self, node: usize, is_wild: bool) {
        let rng = &mut self.trouble.rng;
        if is_wild {
            let ms = rng.i64(-3_600_000..3_600_000);
            self.nodes[node].clock_ms += ms;
            let time = self.trouble.up_to(10_000);
            self.after(time, Event::Mend(Mend::Clock(node, -ms)));
            return;
        }
        // Each clock stays within a third of the bound, so that two differ by less than the bound.
        let third = i64::try_from(self.options.drift_max.as_millis() / 3).expect("it is short");
        self.nodes[node].clock_ms = rng.i64(-third..=third);
    }

    fn fail_disk(&mut self, node: usize, fault: Fault) {
        let rng = &mut self.trouble.rng;
        let mut faults = DiskFaults::NONE;
        if fault == Fault::SlowDisk {
            faults.slow_operation = [0.05, 0.3, 1.0][rng.usize(..3)];
        } else {
            match rng.u8(..4) {
                0 => faults.sync_failure = 0.02,
                1 => faults.write_failure = 0.02,
                2 => faults.read_failure = 0.2,
                _ => faults.capacity_bytes = Some(rng.u64(1..6) << 17),
            }
        }
        // All its shards are on one disk.
        self.nodes[node].disks.iter().for_each(|disk| disk.set_faults(faults));
        let time = self.trouble.up_to(12_000);
        self.after(time, Event::Mend(Mend::Disk(node)));
    }

    /// A node's log has failed: somebody starts it anew, on a machine that was started anew.
    pub(super) fn doom(&mut self, node: usize) {
        self.report.count("logs that have failed");
        let time = self.trouble.up_to(4_000);
        let run = self.nodes[node].run;
        self.nodes[node].is_doomed = true;
        self.after(time, Event::Mend(Mend::Doomed(node, run)));
    }

    pub(super) fn on_mend(&mut self, mend: Mend) {
        match mend {
            Mend::Cuts(cuts) => {
                for (from, to) in cuts {
                    self.network.mend(from, to);
                }
                self.go_on();
            }
            Mend::HalfOpen(ends, generation) => {
                if self.network.links[&ends].generation == generation {
                    self.break_link(ends, Duration::from_millis(100));
                }
            }
            Mend::Stall(node) => self.network.stalls[node] = Duration::ZERO,
            Mend::Deaf(node) => {
                let deaf = &mut self.network.deaf[node];
                *deaf = deaf.saturating_sub(1);
            }
            // When all is calm they are right again.
            Mend::Clock(node, ms) if self.trouble.is_on => self.nodes[node].clock_ms += ms,
            Mend::Clock(..) => {}
            Mend::Disk(node) => {
                self.nodes[node].mend_disks();
            }
            Mend::Doomed(node, run) => {
                if self.nodes[node].run == run && self.nodes[node].process.is_some() {
                    self.nodes[node].mend_disks();
                    self.stop(node, true);
                    self.start_later(node, 500);
                }
            }
        }
    }

    /// Nothing goes wrong from here on, and what is broken is mended.
    pub(super) fn calm(&mut self) {
        self.trouble.is_on = false;
        self.network.set_calm(true);
        self.go_on();
        let third = i64::try_from(self.options.drift_max.as_millis() / 3).expect("it is short");
        for node in 0..self.options.node_count {
            let it = &mut self.nodes[node];
            it.clock_ppm = 0;
            it.clock_ms = it.clock_ms.clamp(-third, third);
            it.mend_disks();
            if it.process.is_none() {
                let time = self.trouble.up_to(500);
                self.after(time, Event::Start(node));
            }
            self.happen(Event::Resume(node));
        }
        self.trace.say(self.now, || "calm".to_owned());
    }
}
