//! What is looked at while a run goes on.

use std::collections::BTreeMap;

use gridkv_cluster::topology::agreement::Failure;
use gridkv_cluster::topology::placement::Placement;
use gridkv_cluster::topology::{Epoch, Topology};
use gridkv_cluster::{Instant, NodeId};

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
    pub(super) installs: BTreeMap<usize, Vec<(u64, Instant)>>,
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

impl World {
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
