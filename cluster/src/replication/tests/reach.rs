//! What comes of operations whose replicas cannot be reached, are lost, or will not do it now.

use std::time::Duration;

use super::super::*;
use super::kit::{CONFIG, End, is_acknowledged, text};
use super::script::{Script, found, promised, proposed, record};
use crate::model::{Timestamp, Version};
use crate::mutation::Draft;
use crate::time::Instant;
use crate::topology::tests::topology;
use crate::wire::message::{AskKind, Reason, ReplyKind};

const WRITTEN: ReplyKind = ReplyKind::Written { replaced: false };

fn write(script: &mut Script, level: Level) -> OpId {
    script.begin(b"k", level, Work::Write(Draft::new(b"k", Some(b"v"), None)))
}

fn lag(script: &Script) -> Option<u64> {
    script.coordinator.lags().find(|(peer, _)| *peer == NodeId(3)).map(|(_, missed)| missed.from)
}

fn not_applied(why: Why) -> End {
    End::Done(Outcome::NotApplied(why))
}

/// A write that the third replica has missed, as it could not be reached.
fn missed_by_the_third() -> Script {
    let mut script = Script::new(3);
    script.reach(&[1, 2]);
    write(&mut script, Level::Quorum);
    assert_eq!(script.last().0, [NodeId(1), NodeId(2)]);
    script.reply(1, WRITTEN, None);
    script.reply(2, WRITTEN, None);
    assert_eq!(lag(&script), Some(1));
    script
}

#[test]
fn what_a_replica_has_said_before_it_was_lost_counts() {
    let mut script = Script::new(3);
    let op = write(&mut script, Level::All);
    script.reply(1, WRITTEN, None);
    script.lose(1);
    script.reply(2, WRITTEN, None);
    script.reply(3, WRITTEN, None);
    assert!(is_acknowledged(&script.ends[&op]));

    let op = script.begin(b"k", Level::All, Work::Read);
    script.reply(1, found(), Some(&record(b"k", b"v", 5)));
    script.lose(1);
    script.reply(2, found(), None);
    script.reply(3, found(), None);
    assert_eq!(script.ends[&op], text("v"));
}

#[test]
fn who_is_lost_before_it_has_answered_is_not_waited_for() {
    let mut script = Script::new(3);
    let why = Why::TooFew { reachable: 2, needed: 3 };
    let op = write(&mut script, Level::All);
    script.lose(2);
    assert_eq!(script.ends[&op], End::Done(Outcome::Unknown(why)), "it may have done it");

    let op = script.begin(b"k", Level::All, Work::Read);
    script.lose(2);
    assert_eq!(script.ends[&op], not_applied(why));

    let op = script.begin(b"k", Level::Linearizable, Work::Change);
    script.lose(2);
    assert!(!script.ends.contains_key(&op));
    script.lose(3);
    assert_eq!(script.ends[&op], not_applied(Why::TooFew { reachable: 1, needed: 2 }));
}

#[test]
fn a_change_is_made_with_no_more_than_a_majority() {
    let mut script = Script::new(3);
    script.reach(&[1, 2]);
    let op = script.begin(b"k", Level::Linearizable, Work::Change);
    assert_eq!(
        (&script.last().0[..], script.last().1.kind),
        (&[NodeId(1), NodeId(2)][..], AskKind::Prepare)
    );
    script.reply(1, promised(), None);
    script.reply(2, promised(), None);
    script.reply(1, ReplyKind::Accepted, None);
    script.reply(2, ReplyKind::Accepted, None);
    assert!(is_acknowledged(&script.ends[&op]));
}

#[test]
fn a_peer_is_fed_when_it_can_be_reached_and_not_before() {
    let mut script = missed_by_the_third();
    let asked = script.asked.len();
    script.run_for(Duration::from_secs(5));
    assert_eq!(script.asked.len(), asked);
    script.reach(&[1, 2, 3]);
    assert_eq!((&script.last().0[..], script.last().1.kind), (&[NodeId(3)][..], AskKind::Repair));
    assert_eq!(proposed(&script.last().2).value, Some(&b"v"[..]));
    script.reply(3, WRITTEN, None);
    assert_eq!((lag(&script), script.coordinator.stats().caught_up), (None, 1));
}

#[test]
fn feeding_goes_on_when_another_is_lost_and_pauses_when_the_peer_is() {
    let mut script = missed_by_the_third();
    script.reach(&[1, 2, 3]);
    script.lose(2);
    script.reply(3, WRITTEN, None);
    assert_eq!(lag(&script), None);

    let mut script = missed_by_the_third();
    script.reach(&[1, 2, 3]);
    script.lose(3);
    script.reply(3, WRITTEN, None);
    assert_eq!(lag(&script), Some(1), "it was given up");
    script.run_until_asked(AskKind::Repair);
    script.reply(2, WRITTEN, None);
    assert_eq!(lag(&script), Some(1), "that was another");
    script.reply(3, WRITTEN, None);
    assert_eq!(lag(&script), None);
}

#[test]
fn a_copy_that_is_not_confirmed_in_time_is_sent_again() {
    let mut script = missed_by_the_third();
    script.reach(&[1, 2, 3]);
    let first = script.last().1.request;
    script.run_for(CONFIG.request_timeout - Duration::from_millis(1));
    assert_eq!(script.last().1.request, first);
    script.run_until_asked(AskKind::Repair);
    assert_ne!(script.last().1.request, first);
    script.reply(3, WRITTEN, None);
    assert_eq!(lag(&script), None);
}

#[test]
fn who_could_not_say_it_yet_is_asked_again_and_nobody_else() {
    let mut script = Script::new(3);
    let alone = script.begin(b"k", Level::One, Work::Read);
    assert_eq!(script.last().0, [NodeId(1)], "its own replica is enough");
    script.refuse(1, Reason::Epoch);
    script.run_until_asked(AskKind::Read);
    assert_eq!(script.last().0, [NodeId(1)]);
    script.reply(1, found(), Some(&record(b"k", b"v", 5)));
    assert_eq!(script.ends[&alone], text("v"));

    let most = script.begin(b"k", Level::Quorum, Work::Read);
    script.refuse(3, Reason::Epoch);
    script.run_until_asked(AskKind::Read);
    assert_eq!(script.last().0, [NodeId(3)]);
    script.reply(3, found(), Some(&record(b"k", b"v", 5)));
    script.reply(2, found(), None);
    assert_eq!(script.ends[&most], text("v"));

    let kept = write(&mut script, Level::Quorum);
    script.refuse(2, Reason::Frozen);
    script.run_until_asked(AskKind::Write);
    assert_eq!(script.last().0, [NodeId(2)]);
    script.reply(2, WRITTEN, None);
    script.reply(1, WRITTEN, None);
    assert!(is_acknowledged(&script.ends[&kept]));
}

#[test]
fn a_write_below_something_larger_is_made_again_above_it() {
    let mut script = Script::new(3);
    let op = write(&mut script, Level::Quorum);
    let first = script.last().1.request;
    let larger = Timestamp::from_wall(script.now().wall + CONFIG.drift_max);
    let by = Version { timestamp: larger, node: NodeId(9) };
    script.reply(1, ReplyKind::Outbid { by: by.into() }, None);
    script.reply(2, ReplyKind::Outbid { by: by.into() }, None);
    let (to, ask, archive) = script.last().clone();
    assert_eq!((to.len(), ask.kind), (3, AskKind::Write));
    assert!(proposed(&archive).version > by);
    for replica in [1, 2] {
        script.answer(replica, first, WRITTEN, None);
    }
    assert!(!script.ends.contains_key(&op), "those were answers to the first try");
    script.reply(1, WRITTEN, None);
    script.reply(2, WRITTEN, None);
    let version = proposed(&archive).version;
    let done = Outcome::Acknowledged { replaced: false, version };
    assert_eq!(script.ends[&op], End::Done(done));
    assert_eq!(script.coordinator.stats().retries, 1);
}

#[test]
fn what_was_promised_before_everything_was_removed_is_no_more() {
    let mut script = Script::new(3);
    script.begin(b"k", Level::Linearizable, Work::Change);
    script.reply(1, promised(), None);
    let before = script.last().1.request;
    let mut cleared = topology(3, 3);
    let at = Timestamp::from_wall(script.now().wall + CONFIG.drift_max);
    cleared.epoch += 1;
    (cleared.cleared_timestamp, cleared.cleared_node) = (at.0, 2);
    script.view(cleared);
    assert_ne!(script.last().1.request, before);
    assert_eq!(script.last().1.kind, AskKind::Prepare);
    assert!(proposed(&script.last().2).version.timestamp > at, "else it would be removed, too");
}

/// A read that has brought its replicas to propose what one of them has.
fn read_that_proposes(script: &mut Script) -> OpId {
    let op = script.begin(b"k", Level::Linearizable, Work::Read);
    let newer = record(b"k", b"x", 5);
    for kind in [found(), promised()] {
        script.reply(1, kind, None);
        script.reply(2, kind, Some(&newer));
    }
    assert_eq!(script.last().1.kind, AskKind::Accept);
    op
}

#[test]
fn a_read_that_came_to_nothing_was_not_applied_whatever_it_has_proposed() {
    let mut script = Script::new(3);
    let op = read_that_proposes(&mut script);
    script.run_for(CONFIG.request_timeout);
    assert_eq!(script.ends[&op], not_applied(Why::TimedOut { answered: 0, needed: 2 }));

    let mut script = Script::new(3);
    let op = read_that_proposes(&mut script);
    script.outbid(1);
    script.outbid(2);
    script.reply(3, ReplyKind::Accepted, None);
    script.run_until_asked(AskKind::Prepare);
    let other = record(b"k", b"y", 70_000_000_000);
    script.reply(1, promised(), Some(&other));
    script.reply(2, promised(), Some(&other));
    assert_eq!(script.ends[&op], not_applied(Why::Contended));
}

#[test]
fn a_change_that_all_have_put_off_was_not_applied() {
    let mut script = Script::new(3);
    let op = script.begin(b"k", Level::Linearizable, Work::Change);
    script.reply(1, promised(), None);
    script.reply(2, promised(), None);
    assert_eq!(script.last().1.kind, AskKind::Accept);
    // They are asked again later than it may take.
    script.now = Instant::ZERO + (CONFIG.request_timeout - Duration::from_millis(5));
    for replica in 1..=3 {
        script.refuse(replica, Reason::Frozen);
    }
    script.run_for(Duration::from_millis(5));
    assert_eq!(script.ends[&op], not_applied(Why::Refused(Reason::Frozen)));
}

#[test]
fn a_change_that_was_sent_is_unknown_when_its_time_is_up() {
    let mut script = Script::new(3);
    let op = script.begin(b"k", Level::Linearizable, Work::Change);
    script.reply(1, promised(), None);
    script.reply(2, promised(), None);
    script.reply(2, ReplyKind::Accepted, None);
    script.run_for(CONFIG.request_timeout);
    let why = Why::TimedOut { answered: 1, needed: 2 };
    assert_eq!(script.ends[&op], End::Done(Outcome::Unknown(why)));
}

#[test]
fn who_is_outbid_again_and_again_pauses_longer_up_to_a_bound() {
    let mut script = Script::new(3);
    script.begin(b"k", Level::Linearizable, Work::Change);
    let mut pauses = Vec::new();
    for _ in 0..12 {
        for replica in 1..=3 {
            script.outbid(replica);
        }
        let before = script.now;
        script.run_until_asked(AskKind::Prepare);
        pauses.push(script.now.saturating_since(before));
    }
    let millis = Duration::from_millis;
    assert!(pauses[0] <= millis(2), "{pauses:?}");
    assert!(pauses.iter().all(|it| *it > Duration::ZERO && *it <= millis(64)), "{pauses:?}");
    assert!(pauses.iter().any(|it| *it > millis(10)), "{pauses:?}");
}
