//! What a coordinator does before it knows how its clock stands, and when it stands wrong.

use std::time::Duration;

use super::super::*;
use super::kit::{CONFIG, End};
use super::script::Script;
use crate::model::{NodeId, Timestamp};
use crate::mutation::{self, Draft};
use crate::time::WallTime;
use crate::wire::message::{AskKind, ReplyKind};

fn put() -> Work {
    Work::Write(Draft::new(b"k", Some(b"v"), None))
}

/// The nodes that were asked for their clocks since this was asked last, and with which request.
fn clocks_asked(script: &mut Script) -> Vec<(NodeId, u64)> {
    std::mem::take(&mut script.clocks_asked)
}

#[test]
fn no_version_is_given_out_before_most_clocks_were_heard() {
    let mut script = Script::of_silent_clocks(5);
    let asked = clocks_asked(&mut script);
    assert_eq!(asked.len(), 4, "it asks as soon as it knows whom");
    let write = script.begin(b"k", Level::Quorum, put());
    let change = script.begin(b"k", Level::Linearizable, Work::Change);
    let read = script.begin(b"k", Level::Quorum, Work::Read);
    assert!(script.asked.is_empty(), "what comes behind a write keeps its order");
    let wall = script.now().wall;
    script.show_clock(asked[0].0, asked[0].1, wall);
    assert!(script.asked.is_empty(), "two of five");
    script.show_clock(asked[1].0, asked[1].1, wall);
    let kinds: Vec<AskKind> = script.asked.iter().map(|(_, ask, _)| ask.kind).collect();
    assert_eq!(kinds, [AskKind::Write, AskKind::Prepare], "the read waits behind the change");
    assert!([write, change, read].iter().all(|op| !script.ends.contains_key(op)));
}

#[test]
fn what_waits_for_clocks_in_vain_was_not_applied() {
    let mut script = Script::of_silent_clocks(3);
    let ops = [
        script.begin(b"k", Level::One, put()),
        script.begin(b"k", Level::Linearizable, Work::Change),
    ];
    script.run_for(CONFIG.request_timeout * 2);
    for op in ops {
        assert_eq!(script.ends[&op], End::Done(Outcome::NotApplied(Why::ClocksUnheard)));
    }
    assert!(script.asked.is_empty());
    assert!(clocks_asked(&mut script).len() > 10, "it asks again and again");
    // A read needs no version.
    script.begin(b"k", Level::Quorum, Work::Read);
    assert_eq!(script.last().1.kind, AskKind::Read);
}

/// The clock was set wrong while the node was down: nobody sees a version of its.
#[test]
fn a_clock_that_is_ahead_from_the_start_gives_out_no_version() {
    let mut script = Script::of_silent_clocks(3);
    let write = script.begin(b"k", Level::One, put());
    let ahead = Duration::from_secs(600);
    for (node, request) in clocks_asked(&mut script) {
        let wall = script.now().wall - ahead;
        script.show_clock(node, request, wall);
    }
    assert_eq!(script.ends[&write], End::Done(Outcome::NotApplied(Why::ClockAhead)));
    let read = script.begin(b"k", Level::One, Work::Read);
    script.reply(1, ReplyKind::Found { is_sure: true }, None);
    assert_eq!(script.ends[&read], End::Value(None));
    assert!(script.coordinator.clock_mut().latest().wall() < script.now().wall - ahead);
}

#[test]
fn clocks_are_asked_for_again_when_nothing_was_heard_for_a_while() {
    let mut script = Script::new(3);
    script.clocks_are_silent = true;
    script.run_for(Duration::from_secs(4));
    assert_eq!(clocks_asked(&mut script), [], "they were heard of late");
    script.run_for(Duration::from_secs(2));
    let asked = clocks_asked(&mut script);
    assert_eq!(asked.len(), 2);
    // Meanwhile the clock was set ahead: the next answers tell, whenever they come.
    let wall = script.now().wall - Duration::from_secs(60);
    for (node, request) in asked {
        script.show_clock(node, request, wall);
    }
    let write = script.begin(b"k", Level::Quorum, put());
    assert_eq!(script.ends[&write], End::Done(Outcome::NotApplied(Why::ClockAhead)));
}

#[test]
fn versions_that_are_too_far_ahead_of_the_clock_are_not_given_out() {
    let mut script = Script::new(3);
    let far = script.now().wall + Duration::from_secs(3_600);
    script.coordinator.clock_mut().pass(Timestamp::from_wall(far));
    for (level, work) in [(Level::One, put()), (Level::Linearizable, Work::Change)] {
        let op = script.begin(b"k", level, work);
        assert_eq!(script.ends[&op], End::Done(Outcome::NotApplied(Why::VersionsAhead)));
    }
    assert!(script.asked.is_empty());
}

#[test]
fn one_that_is_alone_waits_for_nobody() {
    let mut script = Script::of_silent_clocks(1);
    script.begin(b"k", Level::One, put());
    let (to, ask, archive) = script.last();
    assert_eq!((&to[..], ask.kind), (&[NodeId(1)][..], AskKind::Write));
    let version = mutation::access(archive).unwrap().version;
    assert!(version.timestamp >= Timestamp::from_wall(WallTime::from_millis(1_000_000)));
}

/// The run before has given out versions for keys that it keeps no copy of, and its store knows nothing of
/// them: with a clock that is as far ahead as it may be, and versions that are as far ahead of that.
#[test]
fn what_was_given_out_before_a_restart_is_not_given_out_again() {
    let mut script = Script::of_past(3, Timestamp(1));
    let given_before = script.now().wall + CONFIG.drift_max + CONFIG.drift_max;
    let early = script.begin(b"k", Level::Quorum, put());
    let unheard = End::Done(Outcome::NotApplied(Why::ClocksUnheard));
    assert_eq!(script.ends[&early], unheard, "it would wait beyond its deadline");
    script.run_for(Duration::from_millis(100));
    let write = script.begin(b"k", Level::Quorum, put());
    let read = script.begin(b"k", Level::Quorum, Work::Read);
    assert!(script.asked.is_empty());
    script.run_for(CONFIG.drift_max * 2 - Duration::from_millis(100));
    let (_, ask, archive) = &script.asked[0];
    assert_eq!(ask.kind, AskKind::Write);
    let version = mutation::access(archive).unwrap().version;
    assert!(version.timestamp >= Timestamp::from_wall(given_before), "{version:?}");
    assert_eq!(script.asked[1].1.kind, AskKind::Read);
    assert!([write, read].iter().all(|op| !script.ends.contains_key(op)));
}

#[test]
fn a_clock_that_is_behind_gives_out_no_version() {
    let mut script = Script::of_silent_clocks(3);
    let write = script.begin(b"k", Level::Quorum, put());
    for (node, request) in clocks_asked(&mut script) {
        let wall = script.now().wall + CONFIG.drift_max * 2;
        script.show_clock(node, request, wall);
    }
    assert_eq!(script.ends[&write], End::Done(Outcome::NotApplied(Why::ClockBehind)));
}

#[test]
fn who_has_not_shown_its_clock_is_asked_again_soon_and_nobody_else() {
    let mut script = Script::of_silent_clocks(5);
    let asked = clocks_asked(&mut script);
    let (first, request, wall) = (asked[0].0, asked[0].1, script.now().wall);
    script.show_clock(first, request, wall);
    script.run_for(Duration::from_millis(199));
    assert_eq!(clocks_asked(&mut script), []);
    script.run_for(Duration::from_millis(1));
    let again = clocks_asked(&mut script);
    assert_eq!(again.len(), 3, "not of itself, and not of the one that has shown it");
    assert!(again.iter().all(|(node, _)| *node != first && *node != NodeId(1)));
    script.run_for(Duration::from_secs(1));
    assert_eq!(clocks_asked(&mut script).len(), 3 * 5, "every 200 ms");
}

#[test]
fn why_nothing_is_written_is_told() {
    let trouble = |script: &Script| script.coordinator.clock_trouble(script.now());
    let mut script = Script::of_silent_clocks(3);
    assert_eq!(trouble(&script), Some(Why::ClocksUnheard));
    let (node, request) = clocks_asked(&mut script)[0];
    let wall = script.now().wall;
    script.show_clock(node, request, wall);
    assert_eq!(trouble(&script), None);

    let mut again = Script::of_past(3, Timestamp(1));
    assert_eq!(trouble(&again), Some(Why::ClocksUnheard), "the run before may have given out more");
    again.run_for(CONFIG.drift_max * 2 - Duration::from_millis(1));
    assert_eq!(trouble(&again), Some(Why::ClocksUnheard));
    again.run_for(Duration::from_millis(1));
    assert_eq!(trouble(&again), None);
}

#[test]
fn versions_may_be_as_far_ahead_as_clocks_may_differ() {
    let trouble = |script: &Script| script.coordinator.clock_trouble(script.now());
    let mut script = Script::new(3);
    let far = script.now().wall + CONFIG.drift_max;
    script.coordinator.clock_mut().pass(Timestamp::from_wall(far));
    assert_eq!(trouble(&script), None);
    script.coordinator.clock_mut().pass(Timestamp::last_of(far));
    assert_eq!(trouble(&script), Some(Why::VersionsAhead), "the next is a millisecond later");
}
