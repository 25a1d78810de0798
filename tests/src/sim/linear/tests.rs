use super::*;
use crate::sim::history::{Before, Operation};
use gridkv_cluster::Version;
use gridkv_cluster::replication::Level;

fn operation(kind: Kind, value: &str, from: u64, to: Option<u64>, ending: Ending) -> Operation {
    Operation {
        client: 0,
        node: 0,
        key: 0,
        kind,
        level: Level::Linearizable,
        needed: 2,
        value: value.as_bytes().to_vec(),
        expected: None,
        expires_at: None,
        invoked: Instant::from_nanos(from),
        completed: to.map(Instant::from_nanos),
        before: None,
        ending,
    }
}

fn write(value: &str, from: u64, to: u64) -> Operation {
    operation(Kind::Write, value, from, Some(to), Ending::Acknowledged(None))
}

fn lost(value: &str, from: u64) -> Operation {
    operation(Kind::Write, value, from, None, Ending::Unknown)
}

fn read(value: Option<&str>, from: u64, to: u64) -> Operation {
    let value = value.map(|it| it.as_bytes().to_vec());
    operation(Kind::Read, "", from, Some(to), Ending::Found(Some((Version::ZERO, value))))
}

fn change(kind: Kind, value: &str, before: Option<&str>, from: u64, to: u64) -> Operation {
    let before = Some(Before::Exactly(before.map(|it| it.as_bytes().to_vec())));
    let ending = Ending::Acknowledged(None);
    Operation { before, ..operation(kind, value, from, Some(to), ending) }
}

fn verdict(operations: &[Operation]) -> Verdict {
    check(&operations.iter().collect::<Vec<_>>(), Some(Duration::from_millis(500)))
}

#[test]
fn what_follows_one_another_is_linearizable() {
    let history = [
        read(None, 0, 1),
        write("a,", 2, 3),
        read(Some("a,"), 4, 5),
        change(Kind::Append, "b,", Some("a,"), 6, 7),
        read(Some("a,b,"), 8, 9),
        change(Kind::SetIfAbsent, "c,", Some("a,b,"), 10, 11),
        operation(Kind::Delete, "", 12, Some(13), Ending::Acknowledged(None)),
        change(Kind::SetIfAbsent, "d,", None, 14, 15),
        read(Some("d,"), 16, 17),
    ];
    assert_eq!(verdict(&history), Verdict::Linearizable);
}

#[test]
fn a_stale_read_is_not_linearizable() {
    let history = [write("a,", 0, 1), write("b,", 2, 3), read(Some("a,"), 4, 5)];
    assert!(matches!(verdict(&history), Verdict::Not(_)));
    let early = [write("a,", 0, 1), write("b,", 2, 6), read(Some("a,"), 4, 5)];
    assert_eq!(verdict(&early), Verdict::Linearizable, "they overlap");
}

#[test]
fn reads_do_not_go_back() {
    let history =
        [write("a,", 0, 1), write("b,", 2, 20), read(Some("b,"), 3, 4), read(Some("a,"), 5, 6)];
    assert!(matches!(verdict(&history), Verdict::Not(_)));
}

#[test]
fn what_is_unknown_takes_effect_late_or_never() {
    let never = [write("a,", 0, 1), lost("b,", 2), read(Some("a,"), 4, 5)];
    assert_eq!(verdict(&never), Verdict::Linearizable);
    let late = [
        write("a,", 0, 1),
        lost("b,", 2),
        read(Some("a,"), 4, 5),
        write("c,", 6, 7),
        read(Some("b,"), 8, 9),
    ];
    assert_eq!(verdict(&late), Verdict::Linearizable);
    let twice = [
        lost("b,", 2),
        read(Some("b,"), 3, 4),
        write("c,", 6, 7),
        read(Some("c,"), 8, 9),
        read(Some("b,"), 10, 11),
    ];
    assert!(matches!(verdict(&twice), Verdict::Not(_)));
    let before_its_call = [read(Some("b,"), 0, 1), lost("b,", 2)];
    assert!(matches!(verdict(&before_its_call), Verdict::Not(_)));
}

#[test]
fn what_was_not_applied_is_not_seen() {
    let refused = operation(Kind::Write, "a,", 0, Some(1), Ending::NotApplied);
    assert!(matches!(verdict(&[refused, read(Some("a,"), 2, 3)]), Verdict::Not(_)));
}

#[test]
fn two_changes_of_the_same_value_are_one_too_many() {
    let history = [
        change(Kind::Increment, "", None, 0, 10),
        change(Kind::Increment, "", None, 1, 11),
        read(Some("1"), 20, 21),
    ];
    assert!(matches!(verdict(&history), Verdict::Not(_)));
    let history = [
        change(Kind::Increment, "", None, 0, 10),
        change(Kind::Increment, "", Some("1"), 1, 11),
        read(Some("2"), 20, 21),
    ];
    assert_eq!(verdict(&history), Verdict::Linearizable);
}

#[test]
fn a_long_history_of_many_clients_is_decided() {
    let mut history = Vec::new();
    let mut count = 0;
    for round in 0..200 {
        let start = round * 100;
        for _ in 0..8 {
            let before = (count > 0).then(|| count.to_string());
            history.push(change(Kind::Increment, "", before.as_deref(), start, start + 50));
            count += 1;
        }
    }
    assert_eq!(verdict(&history), Verdict::Linearizable);
    history[800].before = history[799].before.clone();
    assert!(matches!(verdict(&history), Verdict::Not(_)));
}

/// A write of a value that ends a second after the start, from one millisecond to the next.
fn mortal(value: &str, from_ms: u64) -> Operation {
    let expires_at = Some(WallTime::from_millis(WALL_START + 1_000));
    let at = Instant::from_nanos(from_ms * 1_000_000);
    let completed = Some(at + Duration::from_millis(1));
    Operation { expires_at, invoked: at, completed, ..write(value, 0, 0) }
}

fn read_at(value: Option<&str>, from_ms: u64) -> Operation {
    read(value, from_ms * 1_000_000, (from_ms + 1) * 1_000_000)
}

#[test]
fn a_key_with_an_expiry_ends_once_and_within_what_clocks_may_differ_by() {
    let early = [mortal("a,", 0), read_at(None, 400)];
    assert!(matches!(verdict(&early), Verdict::Not(_)));
    let in_time = [mortal("a,", 0), read_at(Some("a,"), 400), read_at(None, 600)];
    assert_eq!(verdict(&in_time), Verdict::Linearizable);
    let late = [mortal("a,", 0), read_at(Some("a,"), 1_499)];
    assert_eq!(verdict(&late), Verdict::Linearizable);
    let too_late = [mortal("a,", 0), read_at(Some("a,"), 1_501)];
    assert!(matches!(verdict(&too_late), Verdict::Not(_)));
    let again = [mortal("a,", 0), read_at(None, 600), read_at(Some("a,"), 700)];
    assert!(matches!(verdict(&again), Verdict::Not(_)));
    let unseen = [mortal("a,", 0), write("b,", 2_000_000_000, 2_000_000_001)];
    assert_eq!(verdict(&unseen), Verdict::Linearizable);
    let absent = [
        mortal("a,", 0),
        change(Kind::SetIfAbsent, "b,", None, 900_000_000, 901_000_000),
        read_at(Some("b,"), 3_000),
    ];
    assert_eq!(verdict(&absent), Verdict::Linearizable, "the new value has no expiry");
}
