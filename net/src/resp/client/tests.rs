use proptest::prelude::*;

use super::*;
use crate::resp::{Protocol, Reply, Value, parse_reply};

fn value_of(input: &str) -> Result<Option<(Value, usize)>, ReplyError> {
    parse_reply(input.as_bytes())
}

fn bulk(text: &str) -> Value {
    Value::Bulk(text.as_bytes().to_vec())
}

#[test]
fn every_type_is_read() {
    for (input, value) in [
        ("+OK\r\n", Value::Simple(b"OK".to_vec())),
        ("-ERR no\r\n", Value::Error(b"ERR no".to_vec())),
        ("!6\r\nERR\r\nx\r\n", Value::Error(b"ERR\r\nx".to_vec())),
        (":-7\r\n", Value::Integer(-7)),
        ("$5\r\nhello\r\n", bulk("hello")),
        ("$0\r\n\r\n", bulk("")),
        ("$-1\r\n", Value::Null),
        ("*-1\r\n", Value::Null),
        ("_\r\n", Value::Null),
        ("*0\r\n", Value::Array(Vec::new())),
        (
            "*2\r\n*1\r\n:1\r\n$-1\r\n",
            Value::Array(vec![Value::Array(vec![Value::Integer(1)]), Value::Null]),
        ),
        ("%1\r\n+a\r\n:1\r\n", Value::Map(vec![(Value::Simple(b"a".to_vec()), Value::Integer(1))])),
        ("~1\r\n:1\r\n", Value::Set(vec![Value::Integer(1)])),
        (">1\r\n$1\r\nx\r\n", Value::Push(vec![bulk("x")])),
        (",1.5\r\n", Value::Double(1.5)),
        (",-inf\r\n", Value::Double(f64::NEG_INFINITY)),
        ("#t\r\n", Value::Boolean(true)),
        ("#f\r\n", Value::Boolean(false)),
        ("=6\r\ntxt:hi\r\n", Value::Verbatim(*b"txt", b"hi".to_vec())),
        (
            "(123456789012345678901234567890\r\n",
            Value::BigNumber(b"123456789012345678901234567890".to_vec()),
        ),
        ("|1\r\n+ttl\r\n:9\r\n$1\r\nx\r\n", bulk("x")),
        ("*1\r\n|1\r\n+ttl\r\n:9\r\n:3\r\n", Value::Array(vec![Value::Integer(3)])),
    ] {
        assert_eq!(value_of(input), Ok(Some((value, input.len()))), "{input:?}");
    }
}

#[test]
fn a_scan_tells_errors_nulls_and_pushes_apart() {
    for (input, kind) in [
        ("+OK\r\n", ReplyKind::Value),
        ("-ERR\r\n", ReplyKind::Error),
        ("!3\r\nERR\r\n", ReplyKind::Error),
        ("*1\r\n-ERR\r\n", ReplyKind::Value),
        ("$-1\r\n", ReplyKind::Null),
        ("*-1\r\n", ReplyKind::Null),
        ("_\r\n", ReplyKind::Null),
        ("*1\r\n_\r\n", ReplyKind::Value),
        (">1\r\n:1\r\n", ReplyKind::Push),
        ("|1\r\n+a\r\n+b\r\n-ERR\r\n", ReplyKind::Error),
        ("|1\r\n+a\r\n-b\r\n|1\r\n>1\r\n:1\r\n+b\r\n:1\r\n", ReplyKind::Value),
    ] {
        let stream = format!("{input}+next\r\n");
        let scanned = scan_reply(stream.as_bytes()).unwrap().unwrap();
        assert_eq!(scanned, ScannedReply { len: input.len(), kind }, "{input:?}");
        assert_eq!(scanned.is_error(), kind == ReplyKind::Error);
    }
}

#[test]
fn malformed_replies_are_refused() {
    for (input, error) in [
        ("x", ReplyError::UnknownType(b'x')),
        ("\r\n", ReplyError::UnknownType(b'\r')),
        ("+OK\rx", ReplyError::Unterminated),
        ("$1\r\nab\r\n", ReplyError::Unterminated),
        ("$-2\r\n", ReplyError::InvalidLength),
        ("$01\r\n", ReplyError::InvalidLength),
        ("$?\r\n", ReplyError::InvalidLength),
        ("%-1\r\n", ReplyError::InvalidLength),
        ("*99999999999999999999\r\n", ReplyError::InvalidLength),
        ("*9223372036854775807\r\n*9223372036854775807\r\n*9\r\n", ReplyError::InvalidLength),
        (":x\r\n", ReplyError::InvalidValue),
        (",1.x\r\n", ReplyError::InvalidValue),
        ("#x\r\n", ReplyError::InvalidValue),
        ("=2\r\nab\r\n", ReplyError::InvalidValue),
    ] {
        assert_eq!(value_of(input), Err(error), "{input:?}");
    }
    let endless = vec![b'+'; LINE_BYTES_MAX + 1];
    assert_eq!(scan_reply(&endless), Err(ReplyError::Unterminated));
}

#[test]
fn depth_costs_a_scan_nothing_and_is_bounded_for_values() {
    let nested = |depth: usize| format!("{}:1\r\n", "*1\r\n".repeat(depth));
    let deep = nested(1_000_000);
    assert_eq!(scan_reply(deep.as_bytes()).unwrap().unwrap().len, deep.len());
    assert_eq!(value_of(&deep), Err(ReplyError::TooDeep));
    assert!(value_of(&nested(63)).is_ok());
    assert_eq!(value_of(&nested(64)), Err(ReplyError::TooDeep));
}

#[test]
fn announced_lengths_are_only_waited_for() {
    for input in ["$9223372036854775000\r\nx", "*9223372036854775807\r\n", "%1000000\r\n:1\r\n"] {
        assert_eq!(scan_reply(input.as_bytes()), Ok(None), "{input:?}");
        assert_eq!(value_of(input), Ok(None), "{input:?}");
    }
}

/// Bytes that were read are overwritten, so reading them again would end in an error.
#[test]
fn what_was_scanned_is_not_scanned_again() {
    let mut stream = Vec::new();
    let mut reply = Reply::new(&mut stream, Protocol::Resp3);
    reply.map(500);
    for number in 0..500 {
        reply.integer(number);
        reply.bulk(&vec![b'v'; 300]);
    }
    let mut seen = stream.clone();
    let mut scanner = ReplyScanner::new();
    for end in 0..stream.len() {
        assert_eq!(scanner.scan(&seen[..end]), Ok(None));
        seen[scanner.position.saturating_sub(5)..scanner.position].fill(b'?');
    }
    let scanned = ScannedReply { len: stream.len(), kind: ReplyKind::Value };
    assert_eq!(scanner.scan(&seen), Ok(Some(scanned)));
}

#[test]
fn a_large_bulk_in_small_pieces_is_looked_at_twice() {
    let mut stream = Vec::new();
    Reply::new(&mut stream, Protocol::Resp2).bulk(&vec![b'v'; 1 << 20]);
    let mut scanner = ReplyScanner::new();
    for end in (100..stream.len()).step_by(100) {
        assert_eq!(scanner.scan(&stream[..end]), Ok(None));
        assert_eq!(scanner.input_len_min, stream.len());
    }
    assert_eq!(scanner.scan(&stream).unwrap().unwrap().len, stream.len());
}

/// Writes `value` as a server would.
fn write_value(reply: &mut Reply<'_>, value: &Value) {
    match value {
        Value::Null => reply.null(),
        Value::Simple(text) => reply.simple(&String::from_utf8_lossy(text)),
        Value::Error(text) => reply.error(String::from_utf8_lossy(text)),
        Value::Integer(number) => reply.integer(*number),
        Value::Bulk(text) => reply.bulk(text),
        Value::Double(number) => reply.double(*number),
        Value::Boolean(value) => reply.boolean(*value),
        Value::Verbatim(format, text) => reply.verbatim(*format, text),
        Value::BigNumber(_) => unreachable!("no server reply is a big number"),
        Value::Array(values) | Value::Set(values) | Value::Push(values) => {
            match value {
                Value::Set(_) => reply.set(values.len()),
                Value::Push(_) => reply.push(values.len()),
                _ => reply.array(values.len()),
            }
            values.iter().for_each(|it| write_value(reply, it));
        }
        Value::Map(pairs) => {
            reply.map(pairs.len());
            for (key, value) in pairs {
                write_value(reply, key);
                write_value(reply, value);
            }
        }
    }
}

fn values() -> impl Strategy<Value = Value> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..120);
    let leaf = prop_oneof![
        Just(Value::Null),
        "[ -~]{0,20}".prop_map(|it| Value::Simple(it.into_bytes())),
        "[ -~]{0,20}".prop_map(|it| Value::Error(it.into_bytes())),
        any::<i64>().prop_map(Value::Integer),
        bytes().prop_map(Value::Bulk),
        prop::num::f64::NORMAL.prop_map(Value::Double),
        any::<bool>().prop_map(Value::Boolean),
        bytes().prop_map(|it| Value::Verbatim(*b"txt", it)),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        let many = || prop::collection::vec(inner.clone(), 0..6);
        prop_oneof![
            many().prop_map(Value::Array),
            many().prop_map(Value::Set),
            many().prop_map(Value::Push),
            prop::collection::vec((inner.clone(), inner.clone()), 0..4).prop_map(Value::Map),
        ]
    })
}

proptest! {
    #[test]
    fn what_the_server_writes_is_what_the_client_reads(value in values()) {
        let mut out = Vec::new();
        write_value(&mut Reply::new(&mut out, Protocol::Resp3), &value);
        let len = out.len();
        prop_assert_eq!(parse_reply(&out), Ok(Some((value, len))));
    }

    #[test]
    fn the_old_version_is_scanned_whole_too(value in values()) {
        let mut out = Vec::new();
        write_value(&mut Reply::new(&mut out, Protocol::Resp2), &value);
        prop_assert_eq!(scan_reply(&out).unwrap().unwrap().len, out.len());
    }

    #[test]
    fn every_split_of_a_reply_ends_at_the_same_place(
        value in values(), cuts in prop::collection::vec(0usize..2000, 0..20)
    ) {
        let mut out = Vec::new();
        write_value(&mut Reply::new(&mut out, Protocol::Resp3), &value);
        let whole = scan_reply(&out).unwrap();
        let mut cuts = cuts.into_iter().filter(|&it| it < out.len()).collect::<Vec<_>>();
        cuts.sort_unstable();
        for ends in [cuts, (0..out.len()).collect()] {
            let mut scanner = ReplyScanner::new();
            for end in ends {
                prop_assert_eq!(scanner.scan(&out[..end]), Ok(None));
            }
            prop_assert_eq!(scanner.scan(&out), Ok(whole));
        }
    }

    #[test]
    fn arbitrary_bytes_are_scanned_or_refused(
        tokens in prop::collection::vec(prop::sample::select(vec![
            "+", "-", ":", "$", "*", "_", ",", "#", "!", "=", "(", "~", "%", ">", "|", "?", "\r\n",
            "\r", "\n", "1", "2", "0", "-1", "9223372036854775807", "$1\r\nx\r\n", "*2\r\n", "\0",
        ]), 0..40)
    ) {
        let input = tokens.concat().into_bytes();
        let whole = scan_reply(&input);
        let mut scanner = ReplyScanner::new();
        let first = (0..=input.len()).map(|end| scanner.scan(&input[..end])).find(|it| *it != Ok(None));
        prop_assert_eq!(first.unwrap_or(Ok(None)), whole);
        if let Ok(Some((_, len))) = parse_reply(&input) {
            prop_assert_eq!(len, whole.unwrap().unwrap().len);
        }
    }
}
