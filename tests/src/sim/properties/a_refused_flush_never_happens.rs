//! A flush that was refused has removed nothing, and never will.

use super::watch::Watch;

pub(super) fn a_refused_flush_never_happens(watch: &Watch) {
    for topology in watch.topologies.values() {
        let cleared = topology.cleared();
        let is_refused = watch.refused_flushes.contains(&cleared);
        assert!(!is_refused, "epoch {} has the refused flush {cleared}", topology.epoch);
    }
}
