//! What must hold: one file for each sentence. The functions panic with what does not.

pub mod a_flush_removes_what_was_there;
pub mod a_refused_flush_never_happens;
pub mod acknowledged_writes_survive;
pub mod increments_add_up;
pub mod linearizable_keys_have_linearizable_histories;
pub mod memory_stays_bounded;
pub mod nobody_reachable_is_dead_for_ever;
pub mod nodes_agree_on_the_ring_after_healing;
pub mod nothing_deleted_comes_back;
pub mod one_topology_an_epoch;
pub mod operations_end;
pub mod quorum_reads_see_acknowledged_writes;
pub mod replicas_converge_after_healing;
pub(super) mod watch;
pub mod what_was_not_applied_is_never_seen;

use gridkv_cluster::Version;

pub(super) use self::replicas_converge_after_healing::replicas_are_equal_where_status_says_so;
use super::clients::key_of;
use super::history::Operation;
use super::world::World;

/// Whether a cluster in which nothing goes wrong is well; what is not.
pub(super) fn is_well(world: &World) -> Result<(), String> {
    nobody_reachable_is_dead_for_ever::nobody_reachable_is_dead_for_ever(world)?;
    nodes_agree_on_the_ring_after_healing::nodes_agree_on_the_ring_after_healing(world)?;
    operations_end::operations_end(world)
}

/// Checks a run at its end.
pub(super) fn check(world: &mut World) {
    what_was_not_applied_is_never_seen::what_was_not_applied_is_never_seen(world);
    quorum_reads_see_acknowledged_writes::quorum_reads_see_acknowledged_writes(world);
    acknowledged_writes_survive::acknowledged_writes_survive(world);
    nothing_deleted_comes_back::nothing_deleted_comes_back(world);
    a_flush_removes_what_was_there::a_flush_removes_what_was_there(world);
    replicas_converge_after_healing::replicas_converge_after_healing(world);
    linearizable_keys_have_linearizable_histories::linearizable_keys_have_linearizable_histories(
        world,
    );
    increments_add_up::increments_add_up(world);
    memory_stays_bounded::memory_stays_bounded(world);
}

/// The last flush: what is not newer is gone.
fn cleared(world: &World) -> Version {
    let topologies = world.running().filter_map(|(_, process)| process.topology());
    topologies.map(|it| it.cleared()).max().unwrap_or_default()
}

/// How many of a key's replicas have lost what they had, since an operation was begun.
fn lost_since(world: &World, operation: &Operation) -> usize {
    let token = crate::sim::token_of(&key_of(operation.key));
    // A cluster that was found empty may have taken in others since: what counts is who has ever kept
    // the key.
    let keeps = |own| world.watch.placements.values().any(|it| it.replicas(token).contains(&own));
    let mut lost: Vec<usize> = world
        .watch
        .losses
        .iter()
        .filter(|(at, node)| {
            let own = world.nodes[*node].process.as_ref().and_then(|it| it.own());
            // Who is not known any more counts, too.
            *at >= operation.invoked && own.is_none_or(keeps)
        })
        .map(|(_, node)| *node)
        .collect();
    lost.sort_unstable();
    lost.dedup();
    lost.len()
}

/// The operations on a key, in the order in which they were begun.
fn operations_on(world: &World, key: usize) -> Vec<&Operation> {
    world.ledger.operations.iter().filter(|it| it.key == key).collect()
}
