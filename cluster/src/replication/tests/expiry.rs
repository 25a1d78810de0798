//! A key with an expiry ends once, for everybody, and not before its time.

use std::time::Duration;

use super::super::*;
use super::kit::{Cluster, End, is_acknowledged, text};
use crate::model::Version;
use crate::mutation::{self, Draft, Mutation};
use crate::time::WallTime;

/// What each node's store has for a key: its version, and whether there is a value.
fn copies(cluster: &Cluster, key: &[u8]) -> Vec<Option<(Version, bool)>> {
    let of = |node: &super::kit::Node| {
        let bytes = node.store.records.get(key)?;
        let record = mutation::access(bytes).unwrap();
        Some((record.version, record.value.is_some()))
    };
    cluster.nodes.values().map(of).collect()
}

fn write(cluster: &mut Cluster, at: u16, ttl: Duration, level: Level) -> WallTime {
    let expires_at = cluster.wall() + ttl;
    let work = Work::Write(Draft::new(b"k", Some(b"1"), Some(expires_at)));
    let op = cluster.begin(at, b"k", level, work);
    cluster.run_briefly();
    assert!(is_acknowledged(&cluster.ends[&op]), "{:?}", cluster.ends[&op]);
    expires_at
}

fn read(cluster: &mut Cluster, at: u16, level: Level) -> End {
    let op = cluster.begin(at, b"k", level, Work::Read);
    cluster.run_briefly();
    cluster.ends[&op].clone()
}

#[test]
fn once_a_linearizable_read_has_found_a_key_ended_it_stays_so_for_clocks_that_are_behind() {
    let mut cluster = Cluster::new(3);
    cluster.ahead_ms.insert(NodeId(1), 300);
    write(&mut cluster, 2, Duration::from_secs(1), Level::Linearizable);
    cluster.wait(Duration::from_millis(600));
    assert_eq!(read(&mut cluster, 2, Level::Linearizable), text("1"));
    assert_eq!(read(&mut cluster, 1, Level::Linearizable), text("1"), "not by its clock either");
    cluster.wait(Duration::from_millis(200));
    assert_eq!(read(&mut cluster, 2, Level::Linearizable), text("1"));
    assert_eq!(read(&mut cluster, 1, Level::Linearizable), End::Value(None));
    for at in [2, 3, 1] {
        assert_eq!(read(&mut cluster, at, Level::Linearizable), End::Value(None), "at {at}");
        assert_eq!(read(&mut cluster, at, Level::One), End::Value(None), "at {at}");
    }
}

#[test]
fn below_linearizable_an_ended_key_is_nothing_and_nothing_is_written() {
    let mut cluster = Cluster::new(3);
    write(&mut cluster, 1, Duration::from_secs(1), Level::All);
    let before = copies(&cluster, b"k");
    cluster.wait(Duration::from_secs(2));
    for level in [Level::One, Level::Quorum, Level::All] {
        assert_eq!(read(&mut cluster, 2, level), End::Value(None), "{level:?}");
    }
    assert_eq!(copies(&cluster, b"k"), before);
}

#[test]
fn a_linearizable_read_deletes_no_key_whose_time_has_come_for_a_wrong_clock_only() {
    let mut cluster = Cluster::new(3);
    write(&mut cluster, 2, Duration::from_secs(60), Level::All);
    cluster.down.insert(NodeId(2));
    let expires_at = write(&mut cluster, 3, Duration::from_secs(1_800), Level::Quorum);
    cluster.down.clear();
    cluster.wait(Duration::from_millis(5));
    assert_eq!(read(&mut cluster, 1, Level::One), text("1"));
    cluster.begin(1, b"other", Level::All, Work::Read);
    cluster.run_briefly();
    cluster.ahead_ms.insert(NodeId(1), 3_600_000);
    // Its copy is older than the first's, whose clock is an hour ahead.
    cluster.down.insert(NodeId(3));
    assert_eq!(read(&mut cluster, 2, Level::Linearizable), text("1"));
    cluster.down.clear();
    for level in [Level::Linearizable, Level::Quorum] {
        let end = read(&mut cluster, 1, level);
        assert_eq!(end, End::Done(Outcome::NotApplied(Why::ClockAhead)), "{level:?}");
    }
    assert_eq!(read(&mut cluster, 3, Level::Linearizable), text("1"));
    for copy in cluster.nodes.values().map(|it| &it.store.records[&b"k"[..]]) {
        assert_eq!(mutation::access(copy).unwrap().expires_at, Some(expires_at));
    }
}

#[test]
fn a_change_of_a_key_with_an_expiry_is_made_of_its_value_until_it_is_over_for_the_proposer() {
    for ahead_ms in [-300, 0, 300] {
        let mut cluster = Cluster::new(3);
        // The replicas, and so the first answers, have other clocks than the proposer.
        cluster.ahead_ms.insert(NodeId(3), ahead_ms);
        cluster.ahead_ms.insert(NodeId(1), -ahead_ms);
        write(&mut cluster, 2, Duration::from_secs(1), Level::All);
        cluster.wait(Duration::from_millis(800));
        let change = cluster.begin(2, b"k", Level::Linearizable, Work::Change);
        cluster.run_briefly();
        assert!(is_acknowledged(&cluster.ends[&change]));
        assert_eq!(read(&mut cluster, 2, Level::Linearizable), text("2"), "{ahead_ms} ms");
    }
}

#[test]
fn a_value_with_a_short_time_to_live_is_read_where_a_replica_is_ahead() {
    let mut cluster = Cluster::new(3);
    cluster.ahead_ms.insert(NodeId(1), 400);
    cluster.ahead_ms.insert(NodeId(3), 400);
    write(&mut cluster, 2, Duration::from_millis(100), Level::All);
    for level in [Level::One, Level::Quorum, Level::All, Level::Linearizable] {
        assert_eq!(read(&mut cluster, 2, level), text("1"), "{level:?}");
    }
}

#[test]
fn of_equal_versions_the_one_with_a_value_counts_in_whatever_order_replicas_answer() {
    for (freed, level) in (1..=3).flat_map(|it| [(it, Level::All), (it, Level::Linearizable)]) {
        let mut cluster = Cluster::new(3);
        let expires_at = write(&mut cluster, 1, Duration::from_secs(60), Level::All);
        // As a replica whose clock was far ahead would have left it.
        let store = &mut cluster.nodes.get_mut(&NodeId(freed)).unwrap().store;
        let ended = mutation::access(&store.records[&b"k"[..]]).unwrap();
        let ended = mutation::encode(&Mutation { value: None, ..ended });
        store.records.insert(b"k".to_vec(), ended);
        assert_eq!(read(&mut cluster, 1, level), text("1"), "freed at {freed}");
        let copy = &cluster.nodes[&NodeId(freed)].store.records[&b"k"[..]];
        assert_eq!(mutation::access(copy).unwrap().expires_at, Some(expires_at));
    }
}

#[test]
fn a_value_that_most_replicas_have_freed_has_ended() {
    let mut cluster = Cluster::new(3);
    write(&mut cluster, 1, Duration::from_secs(60), Level::All);
    for node in cluster.nodes.values_mut() {
        let ended = mutation::access(&node.store.records[&b"k"[..]]).unwrap();
        let ended = mutation::encode(&Mutation { value: None, ..ended });
        node.store.records.insert(b"k".to_vec(), ended);
    }
    assert_eq!(read(&mut cluster, 1, Level::Quorum), End::Value(None));
    assert_eq!(read(&mut cluster, 2, Level::Linearizable), End::Value(None));
    let chosen = copies(&cluster, b"k");
    assert_eq!(read(&mut cluster, 3, Level::Linearizable), End::Value(None));
    assert_eq!(copies(&cluster, b"k"), chosen, "it ends once");
}

#[test]
fn a_change_that_leaves_an_ended_key_alone_ends_it_for_everybody() {
    let mut cluster = Cluster::new(3);
    cluster.ahead_ms.insert(NodeId(1), 300);
    write(&mut cluster, 2, Duration::from_secs(1), Level::All);
    cluster.wait(Duration::from_millis(800));
    cluster.keeps = true;
    let change = cluster.begin(1, b"k", Level::Linearizable, Work::Change);
    cluster.run_briefly();
    assert!(is_acknowledged(&cluster.ends[&change]));
    assert_eq!(read(&mut cluster, 2, Level::Linearizable), End::Value(None));
}

#[test]
fn values_are_freed_when_most_others_say_that_the_clock_is_right_and_not_before() {
    let mut cluster = Cluster::new(3);
    let ended = |cluster: &Cluster, at: u16| {
        let coordinator = &cluster.nodes[&NodeId(at)].coordinator;
        coordinator.ended_until(cluster.now(NodeId(at)))
    };
    cluster.now = cluster.now + Duration::from_secs(60);
    assert_eq!(ended(&cluster, 1), None, "it has heard of nobody for long");
    cluster.ahead_ms.insert(NodeId(3), 3_600_000);
    assert_eq!(read(&mut cluster, 1, Level::All), End::Value(None));
    assert_eq!(read(&mut cluster, 3, Level::All), End::Value(None));
    assert_eq!(ended(&cluster, 3), None);
    let drift_max = super::kit::CONFIG.drift_max;
    assert_eq!(ended(&cluster, 1), Some(cluster.wall() - drift_max));
}

#[test]
fn a_clock_that_is_far_behind_shows_nothing_whose_time_is_over_for_most() {
    let mut cluster = Cluster::new(3);
    write(&mut cluster, 2, Duration::from_secs(60), Level::All);
    cluster.ahead_ms.insert(NodeId(1), -120_000);
    assert_eq!(read(&mut cluster, 1, Level::Linearizable), text("1"), "who can tell?");
    cluster.wait(Duration::from_millis(59_600));
    // For another whose clock is ahead, by less than clocks may be, it may be over.
    for level in [Level::Quorum, Level::Linearizable] {
        let end = read(&mut cluster, 1, level);
        assert_eq!(end, End::Done(Outcome::NotApplied(Why::ClockBehind)), "{level:?}");
    }
    let change = cluster.begin(1, b"k", Level::Linearizable, Work::Change);
    cluster.run_briefly();
    assert!(!is_acknowledged(&cluster.ends[&change]), "it would have brought it back");
    assert_eq!(read(&mut cluster, 2, Level::Linearizable), text("1"));
    cluster.ahead_ms.clear();
    assert_eq!(read(&mut cluster, 1, Level::Linearizable), text("1"), "it was set right");
}
