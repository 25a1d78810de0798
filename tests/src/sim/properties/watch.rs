//! What is looked at while a run goes on.

use std::collections::{BTreeMap, BTreeSet};

use gridkv_cluster::topology::agreement::Failure;
use gridkv_cluster::topology::placement::Placement;
use gridkv_cluster::topology::{Epoch, Topology};
use gridkv_cluster::{Instant, Version};

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
    /// Flushes of which somebody was told that nothing will come of them.
    pub(super) refused_flushes: BTreeSet<Version>,
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
        super::a_refused_flush_never_happens::a_refused_flush_never_happens(&self.watch);
        let placements = &mut self.watch.placements;
        placements.entry(topology.epoch).or_insert_with(|| Placement::new(topology));
        self.report.count("checked: topologies");
    }

    /// Whoever has asked for everything to be removed up to a version is told what came of it.
    pub(in crate::sim) fn on_flushed(&mut self, cleared: Version, result: Result<Epoch, Failure>) {
        self.report.count(match result {
            Ok(_) => "flushes done",
            Err(Failure::Unknown(_)) => "flushes of unknown outcome",
            Err(Failure::Refused(_)) => "flushes refused",
        });
        if matches!(result, Err(Failure::Refused(_))) {
            self.watch.refused_flushes.insert(cleared);
            super::a_refused_flush_never_happens::a_refused_flush_never_happens(&self.watch);
        }
    }
}
