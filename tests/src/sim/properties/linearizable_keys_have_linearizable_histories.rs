//! What clients saw of a key that was used at level linearizable only is what one register would have
//! shown. A flush takes effect on each key once: after the first node has its topology, and before all
//! have.

use super::{lost_since, operations_on};
use crate::sim::history::{Class, Ending, Kind, Operation};
use crate::sim::linear::{self, Verdict};
use crate::sim::world::World;
use gridkv_cluster::Instant;
use gridkv_cluster::replication::Level;

pub(super) fn linearizable_keys_have_linearizable_histories(world: &mut World) {
    let flushes = flushes(world);
    // A clock that was set wrong ends what it alone has copies of when it likes.
    let is_wild = world.options.faults.wild_jump.is_some();
    let drift_max = (!is_wild).then_some(world.options.drift_max);
    let (mut checked, mut flushed, mut undecided, mut excused) = (0, 0, 0, 0);
    for key in 0..world.options.key_count {
        if world.clients.classes[key] == Class::Mixed {
            continue;
        }
        let operations = operations_on(world, key);
        let mut agreed: Vec<&Operation> =
            operations.into_iter().filter(|it| it.level == Level::Linearizable).collect();
        let Some(first) = agreed.first().copied() else { continue };
        agreed.extend(&flushes);
        // A flush that is decided while a member does not answer may leave what was written meanwhile: an
        // old cut is gone on with where it may have been agreed on (seed 0x7a1392).
        if !flushes.is_empty() && may_be_absent(world) {
            excused += 1;
            continue;
        }
        if lost_since(world, first) > usize::from(world.options.replica_count) / 2 {
            continue;
        }
        match linear::check(&agreed, drift_max) {
            Verdict::Linearizable => {
                checked += agreed.len() as u64;
                flushed += flushes.len() as u64;
            }
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
    world.report.add("checked: flushes in linearizable histories", flushed);
    world.report.add("histories without a verdict", undecided);
    world.report.add("histories with flushes that are not judged", excused);
}

/// Whether members do not answer at times, for longer than a flush waits for them.
pub(super) fn may_be_absent(world: &World) -> bool {
    let faults = &world.options.faults;
    let absences = [
        faults.crash,
        faults.erase,
        faults.pause,
        faults.partition,
        faults.bounce,
        faults.reset,
        faults.half_open,
        faults.stall,
        faults.deaf,
        faults.jump,
        faults.wild_jump,
        faults.disk,
        faults.slow_disk,
    ];
    absences.iter().any(Option::is_some)
}

/// All flushes, as operations of one key.
fn flushes(world: &World) -> Vec<Operation> {
    let flush = |(invoked, completed): (Instant, Option<Instant>)| Operation {
        client: usize::MAX,
        node: 0,
        key: 0,
        kind: Kind::Flush,
        level: Level::Linearizable,
        needed: 0,
        value: Vec::new(),
        expected: None,
        expires_at: None,
        invoked,
        completed,
        before: None,
        ending: completed.map_or(Ending::Unknown, |_| Ending::Acknowledged(None)),
    };
    world.removals().into_iter().map(flush).collect()
}
