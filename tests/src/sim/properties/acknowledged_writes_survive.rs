//! What was acknowledged is there at the end, or something newer, unless as many of its replicas have
//! lost their stores as had it.

use gridkv_cluster::Version;

use super::{cleared, lost_since, operations_on};
use crate::sim::clients::key_of;
use crate::sim::world::World;

pub(super) fn acknowledged_writes_survive(world: &mut World) {
    let mut checked = 0;
    for key in 0..world.options.key_count {
        let name = key_of(key);
        let token = crate::sim::token_of(&name);
        let mut newest = Version::ZERO;
        let Some(placement) = world.placement() else { return };
        for node in &mut world.nodes {
            let Some(process) = &mut node.process else { continue };
            if process.own().is_some_and(|own| placement.replicas(token).contains(&own)) {
                let version = process.store_mut(token).accepted(token, &name).version();
                newest = newest.max(version.unwrap_or_default());
            }
        }
        for write in operations_on(world, key) {
            let Some(version) = write.written().filter(|it| *it > cleared(world)) else { continue };
            if lost_since(world, write) < write.needed {
                checked += 1;
                assert!(newest >= version, "key-{key} has {newest:?} only: {write:?}");
            }
        }
    }
    world.report.add("checked: writes that survive", checked);
}
