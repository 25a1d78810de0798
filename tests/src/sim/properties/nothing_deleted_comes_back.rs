//! What was deleted at a quorum or above, and not written since, is not there at the end.

use std::time::Duration;

use super::{lost_since, operations_on};
use crate::sim::history::{Ending, Kind, Operation};
use crate::sim::world::World;

pub(super) fn nothing_deleted_comes_back(world: &mut World) {
    let mut checked = 0;
    for key in 0..world.options.key_count {
        let operations = operations_on(world, key);
        let Some(last) = operations.iter().rfind(|it| it.kind == Kind::Read) else { continue };
        let Ending::Found(found) = &last.ending else { continue };
        for delete in operations.iter().filter(|it| it.kind == Kind::Delete) {
            let is_last = operations.iter().all(|it| is_before(world, it, delete));
            let overlap = delete.needed + last.needed > usize::from(world.options.replica_count);
            let is_after = delete.completed.is_some_and(|at| at < last.invoked);
            if is_last && is_after && overlap && lost_since(world, delete) < delete.needed {
                checked += 1;
                let value = found.as_ref().and_then(|(_, value)| value.as_ref());
                assert!(value.is_none(), "it was deleted:\n{delete:?}\n{last:?}");
            }
        }
    }
    world.report.add("checked: deletions", checked);
}

/// Whether what an operation may have written is older than the deletion.
fn is_before(world: &World, operation: &Operation, delete: &Operation) -> bool {
    let Some(deleted) = delete.written() else { return false };
    if std::ptr::eq(operation, delete) || !operation.may_have_written() {
        return true;
    }
    match operation.written() {
        Some(version) => version < deleted,
        None if !operation.is_uncertain() && !operation.has_written() => true,
        // Of what nobody knows the version of, true clocks tell it.
        None => {
            world.options.has_true_clocks()
                && operation
                    .completed
                    .is_some_and(|at| at + Duration::from_millis(5) < delete.invoked)
        }
    }
}
