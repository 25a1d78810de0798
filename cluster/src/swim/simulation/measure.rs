//! Figures: how fast the dead are found, how often the living are called dead, how fast many join.

use std::time::Duration;

use super::{Happening, Options, Simulation};
use crate::swim::{Input, Output, State};

/// How long it took from each kill until it was known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detections {
    /// Until the first declared the killed dead, in rising order.
    pub first: Vec<Duration>,
    /// Until the last knew it.
    pub last: Vec<Duration>,
}

/// Kills one node of `count` after another, and starts each again once all know it dead.
///
/// # Panics
///
/// When a kill stays unknown to somebody for two minutes, or a restart for as long.
#[must_use]
pub fn detections(options: Options, count: usize, kill_count: usize) -> Detections {
    assert!(count > 1);
    let mut simulation = Simulation::cluster(options, count);
    let mut rng = fastrand::Rng::with_seed(options.seed);
    let mut found = Detections { first: Vec::new(), last: Vec::new() };
    for _ in 0..kill_count {
        simulation.run_for(Duration::from_millis(rng.u64(5_000..15_000)));
        simulation.take_happenings();
        let killed = rng.usize(..count);
        let (id, killed_at) = (simulation.own(killed).id, simulation.now());
        simulation.kill(killed);
        let is_known =
            |it: &Simulation| it.running().all(|node| it.sees(node, killed) == Some(State::Dead));
        let known = simulation.run_until(LIMIT, is_known);
        assert!(known.is_some(), "seed {:#x}: {id} stays alive for somebody", options.seed);
        let is_death = |it: &&Happening| matches!(it.output, Output::Changed(member) if member.id == id && member.state == State::Dead);
        let happenings = simulation.take_happenings();
        let times = happenings.iter().filter(is_death).map(|it| it.at.saturating_since(killed_at));
        found.first.push(times.clone().min().expect("somebody noticed"));
        found.last.push(times.max().expect("somebody noticed"));
        simulation.start(killed, Simulation::address(killed));
        simulation.input(killed, Input::Join(&[Simulation::address((killed + 1) % count)]));
        let is_back =
            |it: &Simulation| it.running().all(|node| it.sees(node, killed) == Some(State::Alive));
        assert!(simulation.run_until(LIMIT, is_back).is_some(), "{id} comes back");
    }
    found.first.sort_unstable();
    found.last.sort_unstable();
    found
}

const LIMIT: Duration = Duration::from_secs(120);

/// How often the living were called dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FalsePositives {
    /// Times that some node called dead one that ran.
    pub declaration_count: usize,
    /// Times that one that ran was called dead by anybody; those that follow within ten seconds count
    /// as the same.
    pub death_count: usize,
    /// Probes that nobody answered.
    pub failed_probe_count: u64,
    /// Datagrams that were sent.
    pub datagram_count: u64,
}

/// Lets `count` nodes run for `time` over a network that loses `options.loss_percent`.
#[must_use]
pub fn false_positives(options: Options, count: usize, time: Duration) -> FalsePositives {
    let mut simulation = Simulation::cluster(Options { loss_percent: 0, ..options }, count);
    simulation.run_for(Duration::from_secs(10));
    simulation.take_happenings();
    simulation.set_loss(options.loss_percent);
    let before = simulation.stats();
    let mut sum = FalsePositives {
        declaration_count: 0,
        death_count: 0,
        failed_probe_count: 0,
        datagram_count: 0,
    };
    let mut counted = std::collections::BTreeMap::new();
    let end = simulation.now() + time;
    while simulation.now() < end {
        simulation.run_for(Duration::from_secs(1));
        for happening in simulation.take_happenings() {
            let Output::Changed(member) = happening.output else { continue };
            if member.state != State::Dead {
                continue;
            }
            sum.declaration_count += 1;
            let last = counted.insert(member.id, happening.at);
            let is_same =
                last.is_some_and(|it| happening.at.saturating_since(it) < Duration::from_secs(10));
            sum.death_count += usize::from(!is_same);
        }
    }
    let after = simulation.stats();
    sum.failed_probe_count = after.failed_probe_count - before.failed_probe_count;
    sum.datagram_count = after.datagram_out_count - before.datagram_out_count;
    sum
}

/// How a large cluster forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Join {
    /// From the start until all know all.
    pub agreed_after: Duration,
    /// Datagrams sent until then.
    pub datagram_count: u64,
    /// Exchanges sent until then.
    pub exchange_count: u64,
    /// From the start of one more node until all know it, and it knows all.
    pub newcomer_after: Duration,
}

/// `count` nodes start at once and join through the first three; then one more does.
///
/// # Panics
///
/// When they do not agree within ten minutes.
#[must_use]
pub fn join(options: Options, count: usize) -> Join {
    let mut simulation = Simulation::new(options);
    let seeds = [0, 1, 2].map(Simulation::address);
    for _ in 0..count {
        let node = simulation.add();
        simulation.input(node, Input::Join(&seeds));
    }
    let agreed = simulation.run_until(LIMIT * 5, Simulation::is_agreed);
    let stats = simulation.stats();
    let newcomer = simulation.add();
    simulation.input(newcomer, Input::Join(&seeds));
    let joined = simulation.run_until(LIMIT * 5, Simulation::is_agreed);
    Join {
        agreed_after: agreed.expect("all find together"),
        datagram_count: stats.datagram_out_count,
        exchange_count: stats.exchange_out_count,
        newcomer_after: joined.expect("the newcomer is known to all"),
    }
}
