//! A read that asks so many replicas that they overlap with those of a write, and begins after the
//! write was acknowledged, returns it or something newer, unless too many replicas have lost their
//! stores.

use gridkv_cluster::Version;

use super::{cleared, lost_since, operations_on};
use crate::sim::history::{Ending, Operation};
use crate::sim::world::World;

pub(super) fn quorum_reads_see_acknowledged_writes(world: &mut World) {
    let mut compared = 0;
    for key in 0..world.options.key_count {
        let operations = operations_on(world, key);
        for needed in 1..=usize::from(world.options.replica_count) {
            compared += check(world, &operations, needed);
        }
    }
    world.report.add("checked: reads against writes", compared);
}

/// The reads that ask `needed` replicas.
fn check(world: &World, operations: &[&Operation], needed: usize) -> u64 {
    let replica_count = usize::from(world.options.replica_count);
    let mut writes: Vec<(&Operation, Version)> = operations
        .iter()
        .filter(|it| it.needed + needed > replica_count)
        .filter_map(|it| Some((*it, it.written()?)))
        .filter(|(it, version)| *version > cleared(world) && lost_since(world, it) < it.needed)
        .collect();
    writes.sort_by_key(|(it, _)| it.completed);
    let (mut next, mut newest, mut compared) = (0, None::<(&Operation, Version)>, 0);
    for read in operations {
        let Ending::Found(found) = &read.ending else { continue };
        while let Some((write, version)) = writes.get(next)
            && write.completed.is_some_and(|at| at < read.invoked)
        {
            if newest.is_none_or(|(_, newest)| newest < *version) {
                newest = Some((write, *version));
            }
            next += 1;
        }
        if read.needed != needed {
            continue;
        }
        let Some((write, version)) = newest else { continue };
        compared += 1;
        let seen = found.as_ref().map_or(Version::ZERO, |(version, _)| *version);
        assert!(seen >= version, "a read sees less than was acknowledged:\n{write:?}\n{read:?}");
    }
    compared
}
