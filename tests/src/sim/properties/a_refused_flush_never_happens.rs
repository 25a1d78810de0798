//! A flush that was refused has removed nothing, and never will: whatever was removed, its node has
//! asked for it and was not told that nothing will come of it.

use gridkv_cluster::topology::Topology;

use super::watch::Watch;

pub(super) fn a_refused_flush_never_happens(watch: &Watch, topology: &Topology) {
    let before = watch.topologies.range(..topology.epoch).next_back();
    let cleared = topology.cleared();
    let is_known = watch.topologies.contains_key(&topology.epoch);
    if is_known || before.is_none_or(|(_, before)| before.cleared() >= cleared) {
        return;
    }
    let open = watch.open_flushes.get(&cleared.node).copied().unwrap_or_default();
    assert!(open > 0, "epoch {} has a flush that was refused: {cleared}", topology.epoch);
}
