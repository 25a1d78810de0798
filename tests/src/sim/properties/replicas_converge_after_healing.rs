//! Once nothing goes wrong, and each key was read at all its replicas, these have the same version and
//! the same value.

use gridkv_cluster::Version;
use gridkv_cluster::replication::Standing;
use gridkv_storage::Accepted;

use crate::sim::clients::key_of;
use crate::sim::history::{Value, text};
use crate::sim::world::World;

pub(super) fn replicas_converge_after_healing(world: &mut World) {
    let wall = world.node_now(0).wall;
    // So late that what expires has expired everywhere.
    let late = wall + std::time::Duration::from_secs(100);
    let bound = wall + world.options.drift_max;
    let Some(placement) = world.placement() else { return };
    let mut checked = 0;
    for key in 0..world.options.key_count {
        // Only then was it read at all of them.
        if world.serving(key) < usize::from(world.options.replica_count) {
            continue;
        }
        let name = key_of(key);
        let token = crate::sim::token_of(&name);
        let mut copies: Vec<(usize, Version, Value)> = Vec::new();
        for (number, node) in world.nodes.iter_mut().enumerate() {
            let Some(process) = &mut node.process else { continue };
            let is_replica =
                process.own().is_some_and(|own| placement.replicas(token).contains(&own));
            if !is_replica || process.standing() != Standing::Serving {
                continue;
            }
            let storage = process.store_mut(token);
            let mut ticket = None;
            if matches!(storage.accepted(token, &name), Accepted::OnDisk(_)) {
                ticket = storage.load_now(token, &name).ok();
            }
            let (version, value) = match storage.accepted(token, &name) {
                Accepted::Nothing => (Version::ZERO, None),
                // One may have freed a value that another has still.
                Accepted::Value(record) if record.expires_at.is_some_and(|at| at <= late) => {
                    (record.version, None)
                }
                Accepted::Value(record) => (record.version, Some(record.value.to_vec())),
                Accepted::Deleted(version) | Accepted::Ended(version, _) => (version, None),
                Accepted::OnDisk(version) => panic!("key-{key}: {version:?} cannot be read"),
            };
            ticket.into_iter().for_each(|ticket| storage.release(ticket));
            copies.push((number, version, value));
        }
        // What a clock has written that was far ahead is not taken by others before its time.
        if copies.iter().any(|(_, version, _)| version.timestamp.wall() > bound) {
            continue;
        }
        checked += 1;
        let (_, version, value) = copies.first().expect("it has replicas");
        let is_same = copies.iter().all(|(_, its, one)| its == version && one == value);
        assert!(
            is_same,
            "the replicas of key-{key} differ: {:?}",
            copies
                .iter()
                .map(|(node, version, value)| (node, version, value.as_deref().map(text)))
                .collect::<Vec<_>>()
        );
    }
    world.report.add("checked: keys that converge", checked);
}
