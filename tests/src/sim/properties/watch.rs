//! What is looked at while a run goes on.

use std::collections::BTreeMap;

use gridkv_cluster::Instant;
use gridkv_cluster::topology::Topology;
use gridkv_cluster::topology::placement::Placement;

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
        super::one_topology_an_epoch::one_topology_an_epoch(&mut self.watch, topology);
        let placements = &mut self.watch.placements;
        placements.entry(topology.epoch).or_insert_with(|| Placement::new(topology));
        self.report.count("checked: topologies");
    }
}
