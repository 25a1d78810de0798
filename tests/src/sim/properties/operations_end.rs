//! Once nothing goes wrong and no client begins anything, everything that was begun ends, and nothing
//! is left for anybody who can take it in.

use gridkv_cluster::replication::Standing;

use crate::sim::world::World;

pub(super) fn operations_end(world: &World) -> Result<(), String> {
    if !world.ledger.pending.is_empty() {
        return Err(format!("{} operations have not ended", world.ledger.pending.len()));
    }
    let mut empty = Vec::new();
    for (_, process) in world.running() {
        if process.standing() != Standing::Serving {
            empty.extend(process.own());
        }
    }
    for (node, process) in world.running() {
        if !process.is_settled() {
            return Err(format!("somebody waits at n{node}, which holds {:?}", process.held_now()));
        }
        // Who has lost its store takes in nothing; what a wild clock has written nobody takes in.
        let is_wild = world.options.faults.wild_jump.is_some();
        let lag = process.lags().find(|(peer, _)| !empty.contains(peer) && !is_wild);
        if let Some((peer, missed)) = lag {
            return Err(format!("n{node} has not sent {peer:?} what it has missed: {missed:?}"));
        }
    }
    Ok(())
}
