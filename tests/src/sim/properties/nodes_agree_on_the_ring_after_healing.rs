//! Once nothing goes wrong, all members have one topology, and none of them waits for its change.

use crate::sim::world::World;

pub(super) fn nodes_agree_on_the_ring_after_healing(world: &World) -> Result<(), String> {
    if world.running().count() < world.options.node_count {
        return Err("not all nodes run".to_owned());
    }
    let epochs = world.epochs();
    let newest = epochs.values().max().copied().unwrap_or(0);
    for (node, process) in world.running() {
        if process.own().is_some() && epochs[&node] != newest {
            return Err(format!("the epochs are {epochs:?}"));
        }
        if process.own().is_some() && process.member.is_frozen() {
            return Err(format!("n{node} waits for a change of the topology"));
        }
    }
    Ok(())
}
