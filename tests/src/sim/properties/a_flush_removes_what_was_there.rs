//! Once a flush is done and all nodes know of it, nobody sees anything of what was acknowledged by a
//! majority before it was asked for: no value, and no part of one that something was appended to.

use std::collections::BTreeSet;

use super::operations_on;
use crate::sim::history::{Ending, Operation};
use crate::sim::world::World;

pub(super) fn a_flush_removes_what_was_there(world: &mut World) {
    let majority = usize::from(world.options.replica_count) / 2 + 1;
    let flushes: Vec<_> = world
        .watch
        .flushes
        .iter()
        .filter_map(|(begun, epoch)| Some((*begun, world.known_to_all(epoch.0)?)))
        .collect();
    let mut checked = 0;
    for (begun, known) in flushes {
        for key in 0..world.options.key_count {
            let operations = operations_on(world, key);
            let is_gone = |it: &&&Operation| {
                let is_before = it.completed.is_some_and(|at| at < begun);
                it.has_written() && it.needed >= majority && is_before && !it.value.is_empty()
            };
            let gone = operations
                .iter()
                .filter(is_gone)
                .map(|it| it.value.strip_suffix(b",").unwrap_or(&it.value));
            let gone: BTreeSet<&[u8]> = gone.collect();
            for read in operations.iter().filter(|it| it.invoked > known && it.needed >= majority) {
                let Ending::Found(Some((_, Some(value)))) = &read.ending else { continue };
                checked += 1;
                let old = value.split(|byte| *byte == b',').find(|part| gone.contains(part));
                let old = old.map(String::from_utf8_lossy);
                assert_eq!(old, None, "it was removed, and is seen: {read:?}");
            }
        }
    }
    world.report.add("checked: reads after flushes", checked);
}
