//! Once nothing goes wrong, every node believes every other to be alive.

use gridkv_cluster::swim::State;

use crate::sim::world::World;

pub(super) fn nobody_reachable_is_dead_for_ever(world: &World) -> Result<(), String> {
    for (node, process) in world.running() {
        for (other, its) in world.running() {
            let id = its.member.swim().members().next().expect("the first is the node itself").id;
            let seen = process.member.swim().member(id);
            let is_alive = seen.is_some_and(|it| it.state == State::Alive);
            if !is_alive && node != other {
                return Err(format!("n{node} believes of n{other}: {seen:?}"));
            }
        }
    }
    Ok(())
}
