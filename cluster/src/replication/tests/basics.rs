//! What coordinators and replicas do when little goes wrong.

use std::time::Duration;

use super::super::*;
use super::kit::{CONFIG, Cluster, End, Node, is_acknowledged, text, value};
use crate::model::{Timestamp, Version};
use crate::mutation::{self, Draft, Mutation};
use crate::time::Instant;
use crate::topology::tests::topology;
use crate::wire::message::{Ask, AskKind, Reason, ReplyKind};

#[test]
fn what_is_written_at_one_node_is_read_at_every_other() {
    for level in [Level::One, Level::Quorum, Level::All, Level::Count(2), Level::Linearizable] {
        let mut cluster = Cluster::new(5);
        assert!(is_acknowledged(&cluster.write(1, b"k", b"one", level)), "{level:?}");
        for at in 1..=5 {
            assert_eq!(cluster.read(at, b"k", level), text("one"), "{level:?} at {at}");
            assert_eq!(cluster.read(at, b"none", level), End::Value(None));
        }
    }
}

#[test]
fn changes_of_one_key_from_all_nodes_add_up() {
    let mut cluster = Cluster::new(3);
    let mut ops = Vec::new();
    for _ in 0..20 {
        for at in 1..=3 {
            ops.push(cluster.begin(at, b"n", Level::Linearizable, Work::Change));
        }
    }
    cluster.run();
    let ends: Vec<End> = ops.iter().map(|op| cluster.ends[op].clone()).collect();
    let done = ends.iter().filter(|end| is_acknowledged(end)).count();
    let unknown = ends.iter().filter(|end| matches!(end, End::Done(Outcome::Unknown(_)))).count();
    let End::Value(Some(sum)) = cluster.read(2, b"n", Level::Linearizable) else { panic!() };
    let sum: usize = String::from_utf8(sum).unwrap().parse().unwrap();
    assert!((done..=done + unknown).contains(&sum), "{done} {unknown} {sum}");
    assert!(done > 0);
}

#[test]
fn too_few_replicas_are_told_at_once_and_nothing_is_sent() {
    let mut cluster = Cluster::new(3);
    cluster.set_down(2, true);
    assert!(is_acknowledged(&cluster.write(1, b"k", b"one", Level::Quorum)));
    let too_few = Why::TooFew { reachable: 2, needed: 3 };
    let all = cluster.write(1, b"k", b"two", Level::All);
    assert_eq!(all, End::Done(Outcome::NotApplied(too_few)));
    cluster.set_down(3, true);
    for level in [Level::Quorum, Level::Linearizable] {
        let too_few = Why::TooFew { reachable: 1, needed: 2 };
        let end = cluster.write(1, b"k", b"three", level);
        assert_eq!(end, End::Done(Outcome::NotApplied(too_few)));
        assert_eq!(cluster.read(1, b"k", level), End::Done(Outcome::NotApplied(too_few)));
    }
    assert_eq!(cluster.read(1, b"k", Level::One), text("one"));
}

#[test]
fn a_silent_replica_makes_a_write_unknown_not_failed() {
    let mut cluster = Cluster::new(3);
    // Down, and nobody knows it.
    cluster.down.extend([NodeId(2), NodeId(3)]);
    let end = cluster.write(1, b"k", b"one", Level::Quorum);
    assert!(matches!(end, End::Done(Outcome::Unknown(Why::TimedOut { .. }))), "{end:?}");
    let end = cluster.read(1, b"k", Level::Quorum);
    assert!(matches!(end, End::Done(Outcome::NotApplied(_))), "{end:?}");
}

#[test]
fn a_peer_that_was_away_is_fed_what_it_missed() {
    let mut cluster = Cluster::new(3);
    cluster.set_down(3, true);
    for number in 0..500 {
        let key = format!("k{number}");
        assert!(is_acknowledged(&cluster.write(1, key.as_bytes(), b"v", Level::Quorum)));
    }
    assert!(cluster.nodes[&NodeId(3)].store.records.is_empty());
    cluster.set_down(3, false);
    cluster.run();
    assert_eq!(cluster.nodes[&NodeId(3)].store.records.len(), 500);
    assert_eq!(cluster.nodes[&NodeId(1)].coordinator.lags().count(), 0);
}

#[test]
fn a_read_mends_a_replica_that_has_an_older_value() {
    let mut cluster = Cluster::new(3);
    cluster.write(1, b"k", b"old", Level::All);
    cluster.down.insert(NodeId(3));
    cluster.write(1, b"k", b"new", Level::Quorum);
    cluster.down.clear();
    assert_eq!(cluster.read(2, b"k", Level::All), text("new"));
    cluster.run();
    assert_eq!(value(&cluster.nodes[&NodeId(3)].store.records[&b"k"[..]]), Some(b"new".to_vec()));
}

#[test]
fn a_promise_that_nobody_comes_back_to_does_not_keep_a_replica_from_being_mended() {
    let mut cluster = Cluster::new(3);
    cluster.write(1, b"n", b"1", Level::All);
    // Three promises, and who has asked for them falls silent.
    cluster.begin(2, b"n", Level::Linearizable, Work::Change);
    cluster.deliver_one();
    cluster.down.insert(NodeId(1));
    cluster.deliver_one();
    cluster.deliver_one();
    cluster.wire.clear();
    // What the second has is newer, and stays below the promises of the others.
    let node = cluster.nodes.get_mut(&NodeId(3)).unwrap();
    let promised = node.store.promised();
    let found = mutation::access(&node.store.records[&b"n"[..]]).unwrap();
    let version = Version { timestamp: Timestamp(found.version.timestamp.0 + 1), ..found.version };
    assert!(version < promised);
    let newer = Mutation { value: Some(b"7"), version, ..found };
    let newer = mutation::encode(&newer);
    let topology = cluster.nodes[&NodeId(3)].coordinator.view().unwrap().clone();
    let context = Context { view: &topology, standing: Standing::Serving, wall: cluster.wall() };
    let Node { coordinator, replica, store, .. } = cluster.nodes.get_mut(&NodeId(3)).unwrap();
    let mut ask = |kind| {
        let (mutation, epoch) = (mutation::access(&newer).unwrap(), topology.epoch());
        let (clock, ask) = (coordinator.clock_mut(), Ask { request: 5, epoch, kind });
        let token = topology.placement.token(mutation.key);
        let answer = replica.handle(store, clock, &context, ask, (token, &mutation)).unwrap();
        answer.reply.unwrap().kind
    };
    assert_eq!(ask(AskKind::Repair), ReplyKind::Written { replaced: false });
    assert_eq!(ask(AskKind::Read), ReplyKind::Found { is_sure: false });
    cluster.down.clear();
    assert_eq!(cluster.read(1, b"n", Level::Linearizable), text("7"));
    assert_eq!(cluster.read(1, b"n", Level::Linearizable), text("7"));
}

#[test]
fn what_was_not_applied_comes_to_nobody_later() {
    let mut cluster = Cluster::new(3);
    for node in cluster.nodes.values_mut() {
        node.store.is_full = true;
    }
    let refused = Outcome::NotApplied(Why::Refused(Reason::DiskFull));
    for level in [Level::One, Level::Linearizable] {
        assert_eq!(cluster.write(1, b"k", b"one", level), End::Done(refused), "{level:?}");
    }
    for node in cluster.nodes.values_mut() {
        node.store.is_full = false;
    }
    // It has its place in the log, and a peer has missed it.
    cluster.down.insert(NodeId(3));
    assert!(is_acknowledged(&cluster.write(1, b"other", b"two", Level::Quorum)));
    cluster.down.clear();
    cluster.run();
    for at in 1..=3 {
        assert!(!cluster.nodes[&NodeId(at)].store.records.contains_key(&b"k"[..]), "{at}");
        assert!(cluster.nodes[&NodeId(at)].store.records.contains_key(&b"other"[..]), "{at}");
    }
}

#[test]
fn changes_are_proposed_best_by_the_first_replica_that_answers() {
    let topology = Arc::new(topology(3, 3));
    let placement = Arc::new(Placement::new(&topology));
    let mut view = View::new(topology, placement, Some(NodeId(1)));
    let token = Token::MIN;
    let order = view.placement.replicas(token).to_vec();
    assert_eq!(view.preferred(token), Some(order[0]));
    view.suspected = BTreeSet::from([order[0]]);
    assert_eq!(view.preferred(token), Some(order[1]));
    view.reachable.remove(&order[1]);
    assert_eq!(view.preferred(token), Some(order[2]));
    view.suspected.extend(&order);
    assert_eq!(view.preferred(token), Some(order[0]), "one of them is to do it");
    view.reachable.clear();
    assert_eq!(view.preferred(token), None);
}

#[test]
fn a_write_below_a_promise_is_made_again_above_it() {
    let mut cluster = Cluster::new(3);
    let change = cluster.begin(1, b"k", Level::Linearizable, Work::Change);
    // The promises are given; the acceptance is still to come.
    for _ in 0..3 {
        cluster.deliver_one();
    }
    let write = Work::Write(Draft::new(b"k", Some(b"7"), None));
    let write = cluster.begin(2, b"k", Level::All, write);
    cluster.run();
    assert!(is_acknowledged(&cluster.ends[&change]));
    assert!(is_acknowledged(&cluster.ends[&write]));
    let last = cluster.read(3, b"k", Level::All);
    assert!([text("7"), text("8")].contains(&last), "{last:?}");
}

#[test]
fn a_change_waits_for_nothing_and_what_follows_it_waits_for_it() {
    let mut cluster = Cluster::new(3);
    let ops: Vec<_> =
        (0..3).map(|_| cluster.begin(1, b"n", Level::Linearizable, Work::Change)).collect();
    let read = cluster.begin(1, b"n", Level::Quorum, Work::Read);
    cluster.run();
    assert!(ops.iter().all(|op| is_acknowledged(&cluster.ends[op])));
    assert_eq!(cluster.ends[&read], text("3"));
    assert_eq!(
        cluster.nodes[&NodeId(1)].coordinator.stats().rounds,
        2,
        "two waited and shared one"
    );
}

#[test]
fn a_clock_that_most_find_ahead_writes_nothing() {
    let mut cluster = Cluster::new(3);
    cluster.ahead_ms.insert(NodeId(1), 3_600_000);
    assert_eq!(cluster.read(1, b"k", Level::All), End::Value(None));
    for level in [Level::One, Level::Quorum, Level::Linearizable] {
        let end = cluster.write(1, b"k", b"one", level);
        assert_eq!(end, End::Done(Outcome::NotApplied(Why::ClockAhead)));
    }
    cluster.ahead_ms.clear();
    assert!(is_acknowledged(&cluster.write(1, b"k", b"one", Level::One)), "it was set right");
}

#[test]
fn a_node_that_stood_still_is_not_ahead_of_what_was_sent_to_it_meanwhile() {
    let mut cluster = Cluster::new(3);
    let read = cluster.begin(1, b"k", Level::All, Work::Read);
    // Both have answered, and have sent something besides; nothing of it is read for 3 s.
    while cluster.wire.iter().any(|(_, to, _)| *to != NodeId(1)) {
        cluster.deliver_one();
    }
    let sent_at = cluster.wall();
    cluster.now = cluster.now + Duration::from_secs(3);
    let now = cluster.now(NodeId(1));
    for from in [2, 3] {
        let coordinator = &mut cluster.nodes.get_mut(&NodeId(1)).unwrap().coordinator;
        coordinator.on_heard(now, NodeId(from), sent_at);
    }
    cluster.backlog_ms = 3_000;
    while cluster.deliver_one() {}
    cluster.backlog_ms = 0;
    assert_eq!(cluster.ends[&read], End::Value(None));
    assert!(is_acknowledged(&cluster.write(1, b"k", b"one", Level::Quorum)));
}

#[test]
fn what_a_removal_would_swallow_is_written_again_above_it() {
    let mut cluster = Cluster::new(3);
    let floor = Version {
        timestamp: Timestamp::last_of(cluster.wall() + Duration::from_millis(100)),
        node: NodeId(9),
    };
    for node in cluster.nodes.values_mut() {
        node.store.floor = floor;
    }
    for level in [Level::Quorum, Level::Linearizable] {
        let end = cluster.write(1, b"k", b"v", level);
        let End::Done(Outcome::Acknowledged { version, .. }) = end else { panic!("{end:?}") };
        assert!(version > floor);
        assert_eq!(cluster.read(2, b"k", level), text("v"));
    }
}

#[test]
fn a_change_whose_time_is_up_is_unknown_while_its_round_goes_on_with_what_it_has_made() {
    let mut cluster = Cluster::new(3);
    let first = cluster.begin(1, b"n", Level::Linearizable, Work::Change);
    // Not when replicas are asked again: its time is up while all have refused.
    cluster.now = cluster.now + Duration::from_millis(5);
    let early = cluster.begin(1, b"n", Level::Linearizable, Work::Change);
    cluster.now = Instant::ZERO + CONFIG.request_timeout / 2;
    let late = cluster.begin(1, b"n", Level::Linearizable, Work::Change);
    while !cluster.ends.contains_key(&first) {
        assert!(cluster.deliver_one());
    }
    // The two others share a round now. It is proposed, and taken by nobody for a while.
    cluster.is_frozen = true;
    cluster.run_until(Instant::ZERO + CONFIG.request_timeout * 5 / 4);
    let end = cluster.ends[&early].clone();
    assert!(matches!(end, End::Done(Outcome::Unknown(_))), "{end:?}");
    assert!(!cluster.ends.contains_key(&late));
    cluster.is_frozen = false;
    assert!(is_acknowledged(&cluster.end(late)));
    assert_eq!(cluster.read(2, b"n", Level::Linearizable), text("3"), "it was made after all");
}
