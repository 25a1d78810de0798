//! Once nothing goes wrong, replicas have the same version and the same value: of each key that was read
//! at all of them, and, where the status of all nodes says that nobody has missed anything, of each key
//! that nobody has read.

use super::linearizable_keys_have_linearizable_histories::may_be_absent;
use std::sync::Arc;
use std::time::Duration;

use gridkv_cluster::Version;
use gridkv_cluster::replication::{Level, Standing};
use gridkv_cluster::topology::placement::Placement;
use gridkv_storage::Accepted;

use super::operations_on;
use crate::sim::clients::key_of;
use crate::sim::history::{Ending, Kind, Operation, Value, text};
use crate::sim::world::World;

/// When each key was read at all its replicas.
pub(super) fn replicas_converge_after_healing(world: &mut World) {
    let checked = (0..world.options.key_count).filter(|key| compare(world, *key)).count();
    world.report.add("checked: keys that converge", checked as u64);
}

/// Before any key is read.
pub(in crate::sim) fn replicas_are_equal_where_status_says_so(world: &mut World) {
    // A copy that one node alone has, of a try that came to no end while others were away, is in no status yet
    // (seed 0x4109e71080425573).
    if may_be_absent(world) {
        return;
    }
    let nobody_lags = |(_, process): (usize, &crate::sim::process::Process)| {
        process.knows_all_lags() && process.lags().next().is_none() && process.lost_count() == 0
    };
    let is_wild = world.options.faults.wild_jump.is_some();
    if is_wild || !world.running().all(nobody_lags) {
        return;
    }
    let Some(members_since) = world.members_since() else { return };
    let mut checked = 0;
    for key in 0..world.options.key_count {
        // What came of it nobody knows, status neither. A write of unknown outcome is fed to those who
        // were the key's replicas when it ended, and to nobody who has become one since.
        let is_former = |it: &Operation| it.is_uncertain() && it.invoked <= members_since;
        let operations = operations_on(world, key);
        let is_open = operations.into_iter().any(|it| leaves_it_open(it) || is_former(it));
        checked += u64::from(!is_open && compare(world, key));
    }
    world.report.add("checked: keys that are equal unread", checked);
}

/// Whether an agreed operation may have left a copy with a few replicas, without an end. A read may have
/// been a round, too.
fn leaves_it_open(operation: &Operation) -> bool {
    let is_read = operation.kind == Kind::Read && operation.level == Level::Linearizable;
    let has_failed = is_read && !matches!(operation.ending, Ending::Found(_));
    let is_agreed = operation.level == Level::Linearizable || operation.kind != Kind::Write;
    has_failed || (is_agreed && operation.is_uncertain())
}

/// Compares what the replicas of a key have, if all of them serve.
fn compare(world: &mut World, key: usize) -> bool {
    let Some(placement) = world.placement() else { return false };
    if world.serving(key) < usize::from(world.options.replica_count) {
        return false;
    }
    let copies = copies(world, &placement, key);
    // What a clock has written that was far ahead is not taken by others before its time.
    let bound = world.node_now(0).wall + world.options.drift_max;
    if copies.iter().any(|(_, version, _)| version.timestamp.wall() > bound) {
        return false;
    }
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
    true
}

/// What each of a key's replicas has.
fn copies(
    world: &mut World,
    placement: &Arc<Placement>,
    key: usize,
) -> Vec<(usize, Version, Value)> {
    // So late that what expires has expired everywhere.
    let late = world.node_now(0).wall + Duration::from_secs(100);
    let name = key_of(key);
    let token = crate::sim::token_of(&name);
    let mut copies = Vec::new();
    for (number, node) in world.nodes.iter_mut().enumerate() {
        let Some(process) = &mut node.process else { continue };
        let is_replica = process.own().is_some_and(|own| placement.replicas(token).contains(&own));
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
    copies
}
