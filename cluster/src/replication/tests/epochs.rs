//! What is under way when a key gets other replicas.

use super::super::*;
use super::kit::{End, is_acknowledged, text};
use super::script::{Script, found, promised, proposed, record};
use crate::mutation::Draft;
use crate::token::Slot;
use crate::topology::tests::{member, topology};
use crate::topology::{Change, Topology};
use crate::wire::message::{AskKind, Reason, ReplyKind};

/// A topology in which a fourth node takes the place of one of three, and a key of which that is true.
fn joined() -> (Topology, Vec<u8>) {
    let after = topology(4, 3);
    let placement = Placement::new(&after);
    let moves = |key: &Vec<u8>| {
        let replicas = placement.replicas(Slot::of(key).first());
        replicas.contains(&NodeId(4)) && !replicas.contains(&NodeId(2))
    };
    let key = (0..1_000).map(|it| format!("k{it}").into_bytes()).find(moves).unwrap();
    (after, key)
}

/// The same three nodes, one of which has got another address.
fn readdressed() -> Topology {
    let before = topology(3, 3);
    let mut moved = member(3);
    moved.address.set_port(9_999);
    before.after(&Change::Join(moved)).unwrap().unwrap()
}

#[test]
fn promises_of_former_replicas_lead_to_nothing() {
    let (after, key) = joined();
    let mut script = Script::new(3);
    let op = script.begin(&key, Level::Linearizable, Work::Change);
    script.reply(1, promised(), None);
    assert_eq!(script.last().1.kind, AskKind::Prepare);
    let before = proposed(&script.last().2).version;
    script.view(after);
    let (to, ask, ballot) = script.last().clone();
    assert_eq!(ask.kind, AskKind::Prepare, "it begins anew");
    assert!(to.contains(&NodeId(4)) && !to.contains(&NodeId(2)));
    assert!(proposed(&ballot).version > before);
    // What a former replica has promised, or promises late, is no promise of one of these.
    script.reply(2, promised(), None);
    script.reply(1, promised(), None);
    assert_eq!(script.last().1.kind, AskKind::Prepare);
    script.reply(4, promised(), Some(&record(&key, b"x", 5)));
    assert_eq!(script.last().1.kind, AskKind::Accept);
    assert_eq!(
        proposed(&script.last().2).value,
        Some(&b"xa"[..]),
        "made of what the new ones have"
    );
    script.reply(4, ReplyKind::Accepted, None);
    script.reply(1, ReplyKind::Accepted, None);
    assert!(is_acknowledged(&script.ends[&op]));
}

#[test]
fn an_accept_that_was_sent_before_is_uncertain_after() {
    let (after, key) = joined();
    let mut script = Script::new(3);
    let op = script.begin(&key, Level::Linearizable, Work::Change);
    let base = record(&key, b"x", 5);
    script.reply(1, promised(), Some(&base));
    script.reply(2, promised(), Some(&base));
    assert_eq!(script.last().1.kind, AskKind::Accept);
    // One of a majority has accepted it; it is none of theirs any more.
    script.reply(2, ReplyKind::Accepted, None);
    script.view(after);
    assert_eq!(script.last().1.kind, AskKind::Prepare);
    // Somebody has changed the key meanwhile: on top of it or not, nobody knows.
    let other = record(&key, b"y", 70_000_000_000);
    script.reply(4, promised(), Some(&other));
    script.reply(3, promised(), Some(&other));
    assert_eq!(script.ends[&op], End::Done(Outcome::Unknown(Why::Contended)));
}

#[test]
fn a_change_of_the_topology_that_leaves_the_replicas_leaves_a_round_alone() {
    let mut script = Script::new(3);
    let op = script.begin(b"k", Level::Linearizable, Work::Change);
    script.reply(1, promised(), None);
    let request = script.last().1.request;
    script.refuse(3, Reason::Epoch);
    script.view(readdressed());
    assert_eq!(script.last().1.request, request);
    script.run_until_asked(AskKind::Prepare);
    assert_eq!(script.last().1.request, request, "it goes on");
    script.reply(3, promised(), None);
    script.reply(1, ReplyKind::Accepted, None);
    script.reply(3, ReplyKind::Accepted, None);
    assert!(is_acknowledged(&script.ends[&op]));
}

#[test]
fn a_topology_that_was_passed_over_may_have_named_others() {
    let mut script = Script::new(3);
    script.begin(b"k", Level::Linearizable, Work::Change);
    let request = script.last().1.request;
    let mut later = readdressed();
    later.epoch += 1;
    script.view(later);
    assert_ne!(script.last().1.request, request);
    assert_eq!(script.last().1.kind, AskKind::Prepare);
}

#[test]
fn what_former_replicas_have_written_counts_no_more_and_is_not_forgotten() {
    let (after, key) = joined();
    let mut script = Script::new(3);
    let work = Work::Write(Draft::new(&key, Some(b"v"), None));
    let op = script.begin(&key, Level::Quorum, work.clone());
    let written = ReplyKind::Written { replaced: false };
    script.reply(2, written, None);
    script.view(after.clone());
    assert_eq!(script.last().0, [NodeId(4)], "who was not asked is asked");
    script.reply(1, written, None);
    assert!(!script.ends.contains_key(&op), "one of the two is no replica any more");
    script.reply(4, written, None);
    assert!(is_acknowledged(&script.ends[&op]));

    let mut script = Script::new(3);
    let op = script.begin(&key, Level::Quorum, work);
    script.reply(2, written, None);
    script.view(after);
    for replica in [1, 3, 4] {
        script.refuse(replica, Reason::DiskFull);
    }
    let end = script.ends[&op].clone();
    assert!(matches!(end, End::Done(Outcome::Unknown(_))), "a copy was left behind: {end:?}");
}

#[test]
fn what_former_replicas_have_told_counts_no_more() {
    let (after, key) = joined();
    let mut script = Script::new(3);
    let op = script.begin(&key, Level::All, Work::Read);
    let old = record(&key, b"old", 5);
    // The same twice: only the first is kept whole.
    script.reply(2, found(), Some(&old));
    script.reply(1, found(), Some(&old));
    script.view(after);
    assert_eq!(script.last().0.len(), 3, "all are asked again");
    script.reply(2, found(), Some(&record(&key, b"unseen", 9)));
    script.reply(1, found(), Some(&old));
    script.reply(3, found(), Some(&old));
    assert!(!script.ends.contains_key(&op));
    script.reply(4, found(), None);
    assert_eq!(script.ends[&op], text("old"));
}
