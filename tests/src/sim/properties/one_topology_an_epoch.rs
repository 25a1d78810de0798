//! Two nodes never have different topologies of one epoch.

use gridkv_cluster::topology::Topology;

use super::watch::Watch;

pub(super) fn one_topology_an_epoch(watch: &mut Watch, topology: &Topology) {
    let known = watch.topologies.entry(topology.epoch).or_insert_with(|| topology.clone());
    assert_eq!(*known, *topology, "two topologies of epoch {}", topology.epoch);
}
