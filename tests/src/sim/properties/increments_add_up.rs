//! A counter that was only incremented shows as many increments as were acknowledged, and at most
//! those besides that may have been done.

use super::operations_on;
use crate::sim::history::{Class, Ending, Kind, Operation, number};
use crate::sim::world::World;
use gridkv_cluster::Instant;

pub(super) fn increments_add_up(world: &mut World) {
    // What was begun after the last flush was done everywhere was not removed.
    let last_flush = world.removals().last().copied();
    let Some(flushed) = last_flush.map_or(Some(Instant::ZERO), |(_, done)| done) else { return };
    let mut checked = 0;
    for key in 0..world.options.key_count {
        let operations = operations_on(world, key);
        let is_counter = world.clients.classes[key] == Class::Counter;
        // The first to be lost may have been the first to be done.
        let Some(first) = operations.first().filter(|_| is_counter) else { continue };
        if super::lost_since(world, first) > usize::from(world.options.replica_count) / 2 {
            continue;
        }
        let Some(last) = operations.iter().rfind(|it| it.kind == Kind::Read) else { continue };
        let Ending::Found(found) = &last.ending else { continue };
        let shown = found.as_ref().and_then(|it| it.1.as_deref()).map_or(0, number);
        let increments = || operations.iter().filter(|it| it.kind == Kind::Increment);
        let is_done = |it: &&&Operation| it.invoked > flushed && is_done_before(it, last);
        let done = increments().filter(is_done).count() as u64;
        let may_be = increments().filter(|it| it.may_have_written()).count() as u64;
        let unknown = may_be - done;
        checked += 1;
        assert!(
            shown >= done && shown <= done + unknown,
            "key-{key} shows {shown} after {done} increments, and {unknown} that may be done",
        );
    }
    world.report.add("checked: counters", checked);
}

fn is_done_before(increment: &Operation, read: &Operation) -> bool {
    increment.has_written() && increment.completed.is_some_and(|at| at < read.invoked)
}
