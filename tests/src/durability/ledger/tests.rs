use super::*;

/// Keys 0 and 1 hold texts, key 2 a number.
const KEYS: Keys = Keys { text_count: 2, number_count: 1 };
const SET: Deed = Deed::Set { filler_len: 10, life: None };

fn at(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn span(from: u64, to: u64) -> Span {
    Span { from: at(from), to: at(to) }
}

fn ledger() -> Ledger {
    Ledger::new(7, KEYS)
}

/// The value of write `sequence`, if it was [`SET`].
fn value(sequence: u64) -> Option<Vec<u8>> {
    Some(Mark { client: 7, sequence, filler_len: 10 }.value())
}

fn number(number: i64) -> Option<Vec<u8>> {
    Some(number.to_string().into_bytes())
}

/// A ledger with these writes of keys, in order; the first so many were acknowledged.
fn written(writes: &[(usize, Deed)], acknowledged_count: usize) -> Ledger {
    let mut ledger = ledger();
    for &(key, deed) in writes {
        let _request = ledger.send(key, deed, at(1_000));
    }
    let mut counted = 0;
    for &(_, deed) in &writes[..acknowledged_count] {
        counted += i64::from(deed == Deed::Increment);
        let reply = match deed {
            Deed::Set { .. } => ok(),
            Deed::Delete => Value::Integer(1),
            Deed::Increment => Value::Integer(counted),
        };
        ledger.answer(&reply, at(1_100)).unwrap();
    }
    ledger
}

fn verify(ledger: &mut Ledger, values: [Option<Vec<u8>>; 3]) -> Result<Verified, String> {
    ledger.verify(&values, span(2_000, 2_100))
}

#[test]
fn what_was_acknowledged_is_expected() {
    let writes = [(0, SET), (1, SET), (0, SET), (2, Deed::Increment), (1, Deed::Delete)];
    let mut ledger = written(&writes, 5);
    let expected =
        Verified { key_count: 3, lasting_count: 2, counted_max: 2, ..Verified::default() };
    assert_eq!(verify(&mut ledger, [value(3), None, number(1)]), Ok(expected));
    assert_eq!(verify(&mut ledger, [value(3), None, number(1)]), Ok(expected));
}

#[test]
fn a_lost_write_is_told_with_what_was_expected() {
    for (found, words) in [
        (None, "holds nothing, but write 2"),
        (value(1), "holds write 1 of client 7 (10 bytes), but write 2"),
        (value(9), "holds write 9"),
    ] {
        let told = verify(&mut written(&[(0, SET), (0, SET)], 2), [found, None, None]);
        let told = told.unwrap_err();
        assert!(told.starts_with("client:7:0: ") && told.contains(words), "{told}");
        assert!(told.ends_with("write 2 of client 7 (10 bytes) was acknowledged"), "{told}");
    }
}

#[test]
fn a_deletion_stays_one() {
    let mut ledger = written(&[(0, SET), (0, Deed::Delete)], 2);
    let told = verify(&mut ledger, [value(1), None, None]).unwrap_err();
    assert!(told.contains("but nothing was acknowledged"), "{told}");
}

#[test]
fn half_a_write_is_told() {
    let mut half = value(1);
    half.as_mut().unwrap().pop();
    let told = verify(&mut written(&[(0, SET)], 0), [half, None, None]).unwrap_err();
    assert!(told.contains("client:7:0: half a write"), "{told}");
    let told = verify(&mut ledger(), [None, None, Some(b"1x".to_vec())]).unwrap_err();
    assert!(told.contains("client:7:2: half a write: holds no number: 1x"), "{told}");
}

#[test]
fn a_value_of_another_key_or_client_is_told() {
    let mut ledger = written(&[(0, SET), (1, SET)], 2);
    assert!(verify(&mut ledger, [value(2), value(1), None]).is_err());
    let other = Mark { client: 8, sequence: 1, filler_len: 10 }.value();
    let told = verify(&mut written(&[(0, SET)], 1), [Some(other), None, None]).unwrap_err();
    assert!(told.contains("write 1 of client 8"), "{told}");
}

#[test]
fn writes_without_an_answer_have_happened_up_to_any_of_them() {
    let writes = [(0, SET), (0, SET), (0, Deed::Delete), (0, SET)];
    for (found, kept_count) in [(value(1), 0), (value(2), 1), (None, 2), (value(4), 3)] {
        let is_there = usize::from(found.is_some());
        let expected = Verified {
            key_count: 3,
            unanswered_count: 3,
            kept_count,
            lasting_count: is_there,
            counted_max: is_there,
        };
        let mut ledger = written(&writes, 1);
        assert_eq!(verify(&mut ledger, [found.clone(), None, None]), Ok(expected));
        // From then on it is known.
        let again = Verified { unanswered_count: 0, kept_count: 0, ..expected };
        assert_eq!(verify(&mut ledger, [found, None, None]), Ok(again));
        assert!(verify(&mut ledger, [value(5), None, None]).is_err());
    }
    let told = verify(&mut written(&writes[..3], 2), [value(1), None, None]).unwrap_err();
    assert!(told.ends_with("was acknowledged, then nothing sent without an answer"), "{told}");
}

#[test]
fn counters_take_any_number_from_the_acknowledged_on() {
    let writes = [(2, Deed::Increment); 5];
    for (found, is_right) in [(2, false), (3, true), (4, true), (5, true), (6, false)] {
        let told = verify(&mut written(&writes, 3), [None, None, number(found)]);
        assert_eq!(told.is_ok(), is_right, "{found}: {told:?}");
    }
    assert!(verify(&mut written(&writes, 3), [None, None, None]).is_err());
}

#[test]
fn what_another_client_has_read_is_expected() {
    let mut ledger = written(&[(0, SET), (1, SET), (0, SET), (0, SET)], 1);
    ledger.see(0, 3, at(1_200));
    assert!(verify(&mut ledger.clone(), [value(1), None, None]).is_err());
    assert!(verify(&mut ledger.clone(), [value(3), value(2), None]).is_ok());
    assert!(verify(&mut ledger.clone(), [value(4), None, None]).is_ok());
    // What was read before a later write was acknowledged tells nothing.
    ledger.see(0, 1, at(1_300));
    assert!(verify(&mut ledger, [value(3), None, None]).is_ok());
}

#[test]
fn answers_are_checked_too() {
    let mut ledger = written(&[(2, Deed::Increment), (2, Deed::Increment)], 1);
    let told = ledger.answer(&Value::Integer(3), at(1_100)).unwrap_err();
    assert!(told.contains("client:7:2: Increment was answered with Integer(3)"), "{told}");
    assert!(told.contains("although it held 1"), "{told}");
    let mut ledger = written(&[(0, SET), (0, Deed::Delete), (0, Deed::Delete)], 2);
    assert!(ledger.answer(&Value::Integer(1), at(1_100)).is_err());
    let mut ledger = written(&[(0, SET)], 0);
    assert!(ledger.answer(&Value::Null, at(1_100)).is_err());
}

#[test]
fn a_value_dies_at_its_time_whatever_happens_meanwhile() {
    // Sent at 1.0 s, acknowledged at 1.1 s: dies between 2.0 and 2.1 s.
    let dying = Deed::Set { filler_len: 10, life: Some(at(1_000)) };
    let look = |asked: Span, found: Option<Vec<u8>>| {
        written(&[(0, SET), (0, dying)], 2).verify(&[found, None, None], asked)
    };
    let early = span(1_300, 1_400);
    assert!(look(early, value(2)).is_ok());
    assert!(look(early, None).is_err(), "too early");
    let around = span(1_990, 2_050);
    assert!(look(around, value(2)).is_ok());
    assert!(look(around, None).is_ok());
    let late = span(2_400, 2_500);
    assert!(look(late, value(2)).is_err(), "it was to be dead");
    assert!(look(late, value(1)).is_err(), "what it replaced stays replaced");
    let expected = Verified { key_count: 3, counted_max: 1, ..Verified::default() };
    assert_eq!(look(late, None), Ok(expected), "it may be there, not yet collected");
}

#[test]
fn what_was_deleted_after_it_had_expired_may_not_be_collected_yet() {
    let dying = Deed::Set { filler_len: 10, life: Some(at(50)) };
    let mut ledger = written(&[(0, dying), (0, Deed::Delete)], 1);
    ledger.answer(&Value::Integer(0), at(1_100)).unwrap();
    let expected = Verified { key_count: 3, counted_max: 1, ..Verified::default() };
    assert_eq!(verify(&mut ledger, [None, None, None]), Ok(expected));
}

#[test]
fn requests_are_those_of_the_protocol() {
    let mut ledger = ledger();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let delete = text(ledger.send(1, Deed::Delete, at(0)));
    assert_eq!(delete, "*2\r\n$3\r\nDEL\r\n$10\r\nclient:7:1\r\n");
    let count = text(ledger.send(2, Deed::Increment, at(0)));
    assert_eq!(count, "*2\r\n$4\r\nINCR\r\n$10\r\nclient:7:2\r\n");
    let set = text(ledger.send(0, Deed::Set { filler_len: 0, life: Some(at(5)) }, at(0)));
    let expected =
        "*5\r\n$3\r\nSET\r\n$10\r\nclient:7:0\r\n$6\r\n7:3:0:\r\n$2\r\nPX\r\n$1\r\n5\r\n";
    assert_eq!(set, expected);
}
