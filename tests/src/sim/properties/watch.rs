//! What is looked at while a run goes on.

use std::collections::BTreeMap;
use std::time::Duration;

use gridkv_cluster::topology::agreement::Failure;
use gridkv_cluster::topology::placement::Placement;
use gridkv_cluster::topology::{Epoch, Topology};
use gridkv_cluster::{Instant, NodeId, Version};

use crate::sim::process::Held;
use crate::sim::world::World;

/// What was seen.
#[derive(Default)]
pub(in crate::sim) struct Watch {
    /// Which node has lost its store, and when.
    pub(in crate::sim) losses: Vec<(Instant, usize)>,
    /// The topology of each epoch.
    pub(super) topologies: BTreeMap<u64, Topology>,
    /// Who keeps what in each of those.
    pub(super) placements: BTreeMap<u64, Placement>,
    /// Of each node, flushes that it has asked for and that may come to something.
    pub(super) open_flushes: BTreeMap<NodeId, u64>,
    /// Flushes under way: who has asked, and when.
    flushes_begun: BTreeMap<NodeId, Instant>,
    /// Flushes that were done: when they were asked for, and their epochs.
    pub(super) flushes: Vec<(Instant, Epoch)>,
    /// When each node first had each epoch, or a later one.
    installs: BTreeMap<usize, Vec<(u64, Instant)>>,
    /// The most that a process has held.
    pub(super) most: Held,
}

impl Watch {
    pub(in crate::sim) fn note_held(&mut self, held: &Held) {
        let most = &mut self.most;
        most.ops = most.ops.max(held.ops);
        most.promises = most.promises.max(held.promises);
        most.parked = most.parked.max(held.parked);
        most.answers = most.answers.max(held.answers);
    }
}

impl Watch {
    /// When a node first had an epoch, or a later one.
    fn installed(&self, node: usize, epoch: u64) -> Option<Instant> {
        let installs = self.installs.get(&node)?;
        installs.iter().find(|(its, _)| *its >= epoch).map(|(_, at)| *at)
    }
}

impl World {
    /// When all nodes that run knew of an epoch; `None` when one does not.
    pub(super) fn known_to_all(&self, epoch: u64) -> Option<Instant> {
        let mut known = self.running().map(|(node, _)| self.watch.installed(node, epoch));
        known.try_fold(Instant::ZERO, |all, it| Some(all.max(it?)))
    }

    /// Since when all nodes that run know of the members that there are.
    pub(super) fn members_since(&self) -> Option<Instant> {
        let mut newest_first = self.watch.topologies.iter().rev();
        let (last, topology) = newest_first.next()?;
        let is_same = |(_, it): &(&u64, &Topology)| it.members == topology.members;
        let epoch = newest_first.take_while(is_same).last().map_or(*last, |(epoch, _)| *epoch);
        self.known_to_all(epoch)
    }

    /// Each removal of everything: from when on somebody may have done it, and when all have. No node
    /// removes anything before it has the topology that says so, and its cores hear of that a moment
    /// later.
    pub(super) fn removals(&self) -> Vec<(Instant, Option<Instant>)> {
        let mut removals = Vec::new();
        let mut before = Version::ZERO;
        for (epoch, topology) in &self.watch.topologies {
            let cleared = topology.cleared();
            if cleared <= before {
                continue;
            }
            before = cleared;
            let nodes = 0..self.options.node_count;
            let first = nodes.filter_map(|node| self.watch.installed(node, *epoch)).min();
            let moment = self.options.mail.delay_max + Duration::from_millis(1);
            let last = self.known_to_all(*epoch).map(|at| at + moment);
            removals.push((first.expect("somebody has installed it"), last));
        }
        removals
    }

    /// A topology holds at a node.
    pub(in crate::sim) fn on_installed(&mut self, node: usize, topology: &Topology) {
        self.trace.note(self.now, [13, node as u64, topology.epoch]);
        self.trace.say(self.now, || format!("n{node} installs {topology:?}"));
        self.report.count("topologies installed");
        super::a_refused_flush_never_happens::a_refused_flush_never_happens(&self.watch, topology);
        super::one_topology_an_epoch::one_topology_an_epoch(&mut self.watch, topology);
        let installs = self.watch.installs.entry(node).or_default();
        if installs.last().is_none_or(|(epoch, _)| *epoch < topology.epoch) {
            installs.push((topology.epoch, self.now));
        }
        let placements = &mut self.watch.placements;
        placements.entry(topology.epoch).or_insert_with(|| Placement::new(topology));
        self.report.count("checked: topologies");
    }

    /// A node wants everything removed.
    pub(in crate::sim) fn on_flushing(&mut self, by: NodeId) {
        *self.watch.open_flushes.entry(by).or_default() += 1;
        self.watch.flushes_begun.insert(by, self.now);
    }

    /// Whoever has asked for everything to be removed is told what came of it.
    pub(in crate::sim) fn on_flushed(&mut self, by: NodeId, result: Result<Epoch, Failure>) {
        self.report.count(match result {
            Ok(_) => "flushes done",
            Err(Failure::Unknown(_)) => "flushes of unknown outcome",
            Err(Failure::Refused(_)) => "flushes refused",
        });
        if !matches!(result, Err(Failure::Unknown(_))) {
            *self.watch.open_flushes.get_mut(&by).expect("it was begun") -= 1;
        }
        // Of several at a time only the last is remembered.
        if let (Ok(epoch), Some(begun)) = (result, self.watch.flushes_begun.get(&by)) {
            self.watch.flushes.push((*begun, epoch));
        }
    }
}
