//! What a process holds stays within its bounds, and little is left when clients are gone.

use gridkv_cluster::replication::PROMISE_COUNT_MAX;

use crate::sim::process::OP_COUNT_MAX;
use crate::sim::world::World;

/// Messages parked and answers held at one time, at most: what all coordinators may have under way.
const HELD_MAX: usize = 20_000;

pub(super) fn memory_stays_bounded(world: &mut World) {
    let most = world.watch.most;
    // Ended operations wait in line behind one that has not.
    assert!(most.ops <= 2 * OP_COUNT_MAX, "{most:?}");
    assert!(most.promises <= PROMISE_COUNT_MAX, "{most:?}");
    assert!(most.parked <= HELD_MAX, "{most:?}");
    assert!(most.answers <= HELD_MAX, "{most:?}");
    world.report.raise("most operations held", most.ops as u64);
    world.report.raise("most promises held", most.promises as u64);
    world.report.raise("most messages parked", most.parked as u64);
    world.report.raise("most answers held", most.answers as u64);
    world.report.count("checked: memory");
}
