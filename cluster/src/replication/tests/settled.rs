//! What is left of an operation that is decided while a replica has not answered.

use std::time::Duration;

use super::super::*;
use super::kit::{CONFIG, End, is_acknowledged, text};
use super::script::{Script, found, promised, record};
use crate::model::{Timestamp, Version};
use crate::mutation::Draft;
use crate::wire::message::{AskKind, Reason, ReplyKind};

const WRITTEN: ReplyKind = ReplyKind::Written { replaced: false };

fn write(script: &mut Script, value: &[u8]) -> OpId {
    script.begin(b"k", Level::Quorum, Work::Write(Draft::new(b"k", Some(value), None)))
}

fn lag(script: &Script) -> Option<u64> {
    script.coordinator.lags().find(|(peer, _)| *peer == NodeId(3)).map(|(_, missed)| missed.from)
}

#[test]
fn a_replica_that_stands_still_holds_up_nothing_and_is_fed_all_when_it_goes_on() {
    const WRITE_COUNT: usize = 100_000;
    let mut script = Script::new(3);
    let (mut most_count, mut most_bytes) = (0, 0);
    for number in 0..WRITE_COUNT {
        let op = write(&mut script, &[7; 100]);
        most_count = most_count.max(script.coordinator.op_count());
        most_bytes = most_bytes.max(script.coordinator.op_bytes());
        let request = script.last().1.request;
        script.answer(1, request, WRITTEN, None);
        script.answer(2, request, WRITTEN, None);
        assert!(is_acknowledged(&script.ends[&op]), "{number}: {:?}", script.ends[&op]);
        // 50,000 in a second, each of which has a second.
        script.run_for(Duration::from_micros(20));
        script.asked.clear();
    }
    assert!(most_count <= 1 + Excerpt::COUNT_MAX, "{most_count} operations under way");
    assert!(most_bytes <= 1_000, "{most_bytes} bytes under way");
    // It goes on: what it is sent from here on it takes.
    let mut fed = 0;
    while lag(&script).is_some() {
        let asked = std::mem::take(&mut script.asked);
        for (_, ask, _) in asked.into_iter().filter(|(_, ask, _)| ask.kind == AskKind::Repair) {
            fed += 1;
            script.answer(3, ask.request, WRITTEN, None);
        }
        script.run_for(Duration::from_millis(1));
    }
    script.run_for(CONFIG.request_timeout * 2);
    assert_eq!((lag(&script), script.logged.len()), (None, WRITE_COUNT));
    assert!(fed >= WRITE_COUNT - 128, "{fed} of {WRITE_COUNT} were fed");
}

#[test]
fn a_copy_that_is_confirmed_late_is_not_missed_and_one_that_is_refused_is() {
    let mut script = Script::new(3);
    let op = write(&mut script, b"one");
    let request = script.last().1.request;
    script.reply(1, WRITTEN, None);
    script.reply(2, WRITTEN, None);
    assert!(is_acknowledged(&script.ends[&op]));
    assert_eq!((script.coordinator.op_count(), script.coordinator.op_bytes()), (0, 0));
    script.answer(3, request, WRITTEN, None);
    script.run_for(CONFIG.request_timeout * 2);
    assert_eq!(lag(&script), None);

    for reason in [Reason::Epoch, Reason::DiskFull] {
        let mut script = Script::new(3);
        write(&mut script, b"one");
        script.reply(1, WRITTEN, None);
        script.reply(2, WRITTEN, None);
        script.refuse(3, reason);
        assert_eq!(lag(&script), Some(1), "{reason:?}");
    }
}

#[test]
fn a_copy_that_is_not_confirmed_by_its_deadline_or_by_the_loss_of_its_peer_is_missed() {
    for is_lost in [false, true] {
        let mut script = Script::new(3);
        for value in [b"one", b"two"] {
            write(&mut script, value);
            script.reply(1, WRITTEN, None);
            script.reply(2, WRITTEN, None);
            if value == b"one" {
                script.reply(3, WRITTEN, None);
            }
        }
        assert_eq!(lag(&script), None);
        let request = script.last().1.request;
        if is_lost {
            script.lose(3);
        } else {
            script.run_for(CONFIG.request_timeout);
        }
        assert_eq!(lag(&script), Some(2), "from its place in the log on");
        // Whatever it says later.
        script.answer(3, request, WRITTEN, None);
        assert_eq!(lag(&script), Some(2));
    }
}

#[test]
fn what_a_round_has_chosen_is_missed_by_who_has_not_confirmed_it() {
    for is_confirmed in [false, true] {
        let mut script = Script::new(3);
        let op = script.begin(b"k", Level::Linearizable, Work::Change);
        script.reply(1, promised(), None);
        script.reply(2, promised(), None);
        assert_eq!(script.last().1.kind, AskKind::Accept);
        script.reply(1, ReplyKind::Accepted, None);
        script.reply(2, ReplyKind::Accepted, None);
        assert!(is_acknowledged(&script.ends[&op]));
        assert_eq!((script.coordinator.op_count(), script.coordinator.op_bytes()), (0, 0));
        if is_confirmed {
            script.reply(3, ReplyKind::Accepted, None);
        }
        script.run_for(CONFIG.request_timeout * 2);
        assert_eq!(lag(&script), (!is_confirmed).then_some(1));
    }
}

#[test]
fn a_replica_that_tells_something_older_after_a_read_is_decided_is_mended() {
    let mut script = Script::new(3);
    let op = script.begin(b"k", Level::Quorum, Work::Read);
    let request = script.last().1.request;
    let (new, old) = (record(b"k", b"new", 9), record(b"k", b"old", 5));
    script.reply(1, found(), Some(&new));
    script.reply(2, found(), Some(&new));
    assert_eq!(script.ends[&op], text("new"));
    assert_eq!((script.coordinator.op_count(), script.coordinator.op_bytes()), (0, 0));
    script.answer(3, request, found(), Some(&old));
    let (to, ask, mutation) = script.last();
    assert_eq!((&to[..], ask.kind), (&[NodeId(3)][..], AskKind::Repair));
    assert_eq!(super::script::proposed(mutation), new);
}

#[test]
fn one_that_tells_something_newer_has_the_others_mended() {
    let mut script = Script::new(3);
    script.begin(b"k", Level::Quorum, Work::Read);
    let request = script.last().1.request;
    let old = record(b"k", b"old", 5);
    script.reply(1, found(), Some(&old));
    script.reply(2, found(), Some(&old));
    script.answer(3, request, found(), Some(&record(b"k", b"new", 9)));
    let (to, ask, _) = script.last();
    assert_eq!((&to[..], ask.kind), (&[NodeId(1), NodeId(2)][..], AskKind::Repair));
}

#[test]
fn what_is_under_way_is_bounded_in_bytes() {
    let mut script = Script::new(3);
    let value = vec![7; CONFIG.op_bytes_max / 4];
    let ops: Vec<OpId> = (0..5).map(|_| write(&mut script, &value)).collect();
    let refused = End::Done(Outcome::NotApplied(Why::Overloaded));
    assert_eq!(script.ends.get(&ops[2]), None);
    assert_eq!(script.ends.get(&ops[3]), Some(&refused));
    assert_eq!(script.ends.get(&ops[4]), Some(&refused));
    assert!(script.coordinator.op_bytes() <= CONFIG.op_bytes_max);
    // What replicas tell counts, too.
    script.run_for(CONFIG.request_timeout);
    assert_eq!(script.coordinator.op_bytes(), 0);
    let read = script.begin(b"k", Level::All, Work::Read);
    let large = vec![7; CONFIG.op_bytes_max];
    script.reply(1, found(), Some(&record(b"k", &large, 5)));
    let other = script.begin(b"other", Level::One, Work::Read);
    assert_eq!(script.ends.get(&other), Some(&refused));
    script.run_for(CONFIG.request_timeout);
    assert!(script.ends.contains_key(&read));
    assert_eq!(script.coordinator.op_bytes(), 0);
    let alone = write(&mut script, &large);
    assert_eq!(script.ends.get(&alone), None, "one that is alone may be larger");
}

/// A read of a key that two replicas answer alike, with a value of so many bytes.
fn decided_read(script: &mut Script, key: &[u8], value: &[u8]) -> u64 {
    let op = script.begin(key, Level::Quorum, Work::Read);
    let (request, new) = (script.last().1.request, record(key, value, 9));
    script.answer(1, request, found(), Some(&new));
    script.answer(2, request, found(), Some(&new));
    assert_eq!(script.ends[&op], End::Value(Some(value.to_vec())));
    request
}

/// Whether a read is mended when the third replica tells something older.
fn is_mended(script: &mut Script, key: &[u8], request: u64) -> bool {
    let before = script.asked.len();
    script.answer(3, request, found(), Some(&record(key, b"old", 5)));
    script.asked.len() > before
}

#[test]
fn of_too_many_decided_reads_the_oldest_go_unmended() {
    let mut script = Script::new(3);
    let requests: Vec<u64> = (0..1_025).map(|_| decided_read(&mut script, b"k", b"new")).collect();
    assert!(!is_mended(&mut script, b"k", requests[0]));
    assert!(is_mended(&mut script, b"k", requests[1]));
    assert!(is_mended(&mut script, b"k", requests[1_024]));
    assert!(!is_mended(&mut script, b"k", requests[1_024]), "once");
    assert_eq!(script.coordinator.stats().repairs, 2);
}

#[test]
fn what_decided_reads_hold_is_bounded_in_bytes() {
    for (bytes, is_first_kept) in [(400 << 10, true), (600 << 10, false)] {
        let mut script = Script::new(3);
        let value = vec![7; bytes];
        let first = decided_read(&mut script, b"k", &value);
        let second = decided_read(&mut script, b"l", &value);
        assert_eq!(is_mended(&mut script, b"k", first), is_first_kept, "{bytes}");
        assert!(is_mended(&mut script, b"l", second), "{bytes}");
    }
}

#[test]
fn a_decided_read_is_mended_until_its_time_is_up() {
    let mut script = Script::new(3);
    let early = decided_read(&mut script, b"k", b"new");
    script.run_for(CONFIG.request_timeout / 2);
    let late = decided_read(&mut script, b"k", b"new");
    script.run_for(CONFIG.request_timeout / 2);
    // Something is due, so that the time is told.
    script.begin(b"k", Level::Quorum, Work::Read);
    script.run_for(CONFIG.request_timeout / 4);
    let now = script.now();
    script.coordinator.handle_timeout(now);
    assert!(!is_mended(&mut script, b"k", early));
    assert!(is_mended(&mut script, b"k", late));
}

#[test]
fn each_late_replica_of_a_read_that_one_has_decided_is_mended() {
    let mut script = Script::new(3);
    let mut view = View::clone(script.coordinator.view().unwrap());
    view.serves = false;
    let now = script.now();
    script.coordinator.on_view(now, view);
    let op = script.begin(b"k", Level::One, Work::Read);
    assert_eq!(script.last().0.len(), 3, "others are asked");
    let request = script.last().1.request;
    script.answer(2, request, found(), Some(&record(b"k", b"new", 9)));
    assert_eq!(script.ends[&op], text("new"));
    for late in [1, 3] {
        script.answer(late, request, found(), Some(&record(b"k", b"old", 5)));
        let (to, ask, _) = script.last();
        assert_eq!((&to[..], ask.kind), (&[NodeId(late)][..], AskKind::Repair));
    }
}

#[test]
fn a_read_that_has_found_nothing_leaves_nothing() {
    let mut script = Script::new(3);
    let op = script.begin(b"k", Level::Quorum, Work::Read);
    let request = script.last().1.request;
    script.reply(1, found(), None);
    script.reply(2, found(), None);
    assert_eq!(script.ends[&op], End::Value(None));
    let now = script.now();
    script.coordinator.handle_timeout(now);
    assert!(!is_mended(&mut script, b"k", request));
}

#[test]
fn a_late_answer_that_something_larger_was_there_moves_the_clock() {
    let mut script = Script::new(3);
    write(&mut script, b"one");
    let request = script.last().1.request;
    script.reply(1, WRITTEN, None);
    script.reply(2, WRITTEN, None);
    let larger = Timestamp::from_wall(script.now().wall + CONFIG.drift_max);
    let by = Version { timestamp: larger, node: NodeId(9) };
    script.answer(3, request, ReplyKind::Outbid { by: by.into() }, None);
    assert_eq!(lag(&script), Some(1), "it does not hold it");
    assert_eq!(script.coordinator.clock_mut().latest(), larger);
}
