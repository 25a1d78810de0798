//! What clients saw of a key that was used at level linearizable only is what one register would have
//! shown.

use super::{cleared, lost_since, operations_on};
use crate::sim::history::{Class, Operation};
use crate::sim::linear::{self, Verdict};
use crate::sim::world::World;
use gridkv_cluster::replication::Level;

pub(super) fn linearizable_keys_have_linearizable_histories(world: &mut World) {
    if cleared(world) > gridkv_cluster::Version::ZERO {
        return;
    }
    // A clock that was set wrong ends what it alone has copies of when it likes.
    let is_wild = world.options.faults.wild_jump.is_some();
    let drift_max = (!is_wild).then_some(world.options.drift_max);
    let (mut checked, mut undecided) = (0, 0);
    for key in 0..world.options.key_count {
        if world.clients.classes[key] == Class::Mixed {
            continue;
        }
        let operations = operations_on(world, key);
        let agreed: Vec<&Operation> =
            operations.into_iter().filter(|it| it.level == Level::Linearizable).collect();
        let Some(first) = agreed.first() else { continue };
        if lost_since(world, first) > usize::from(world.options.replica_count) / 2 {
            continue;
        }
        match linear::check(&agreed, drift_max) {
            Verdict::Linearizable => checked += agreed.len() as u64,
            Verdict::Undecided => undecided += 1,
            Verdict::Not(stuck) => {
                let lines: Vec<String> = agreed.iter().map(|it| format!("{it:?}")).collect();
                for line in lines {
                    world.trace.say(world.now, || line);
                }
                panic!("the history of key-{key} is not linearizable: {stuck}");
            }
        }
    }
    world.report.add("checked: linearizable operations", checked);
    world.report.add("histories without a verdict", undecided);
}
