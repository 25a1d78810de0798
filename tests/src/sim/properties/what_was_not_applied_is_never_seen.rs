//! A value that was not applied, as its client was told, is seen by nobody and ends on no replica.

use std::collections::BTreeSet;

use super::operations_on;
use crate::sim::history::{Ending, Operation};
use crate::sim::world::World;

pub(super) fn what_was_not_applied_is_never_seen(world: &mut World) {
    let mut checked = 0;
    for key in 0..world.options.key_count {
        let operations = operations_on(world, key);
        let refused = operations
            .iter()
            .filter(|it| it.ending == Ending::NotApplied && !it.value.is_empty())
            .map(|it| it.value.strip_suffix(b",").unwrap_or(&it.value));
        let refused: BTreeSet<&[u8]> = refused.collect();
        checked += refused.len() as u64;
        for operation in &operations {
            let mut parts = seen(operation).split(|byte| *byte == b',');
            let found = parts.find(|part| refused.contains(part)).map(String::from_utf8_lossy);
            assert_eq!(found, None, "it was not applied, and was seen: {operation:?}");
        }
    }
    world.report.add("checked: values that were not applied", checked);
}

fn seen(operation: &Operation) -> &[u8] {
    let value = match &operation.ending {
        Ending::Found(Some((_, value))) => value.as_ref(),
        // What was made beside it in one round was not applied either.
        Ending::NotApplied => None,
        _ => operation.before.as_ref().and_then(|it| it.exactly()?.as_ref()),
    };
    value.map_or(&[], |value| value)
}
