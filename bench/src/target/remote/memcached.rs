//! The text protocol of memcached, as its `doc/protocol.txt` gives it: requests and the length and
//! kind of replies.

use std::time::Duration;

use gridkv_net::resp::{ReplyKind, ScannedReply};

use crate::workload::{Operation, Request};

/// The longest key.
pub(super) const KEY_BYTES_MAX: usize = 250;

/// The longest line of a reply.
const LINE_BYTES_MAX: usize = 2048;

/// From this on, memcached takes an expiry for a date.
const EXPIRY_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// Why `operation` cannot be asked for, if it cannot.
pub(super) fn refusal(operation: Operation) -> Option<&'static str> {
    match operation {
        Operation::Exists => Some("memcached:// has no exists"),
        Operation::Command(_) => Some("memcached:// has no --command"),
        _ => None,
    }
}

/// Appends the request; of a read-modify-write the read.
pub(super) fn encode(out: &mut Vec<u8>, request: &Request<'_>) {
    match request.operation {
        Operation::Get | Operation::ReadModifyWrite => {
            write_all(out, &[b"get ", request.key, b"\r\n"]);
        }
        Operation::Set | Operation::Insert => {
            encode_store(out, b"set ", request.key, request.value, request.time_to_live);
        }
        Operation::Append => {
            encode_store(out, b"append ", request.key, request.value, None);
        }
        Operation::Scan => {
            out.extend_from_slice(b"get");
            request.rows.iter().for_each(|row| write_all(out, &[b" ", row]));
            out.extend_from_slice(b"\r\n");
        }
        Operation::Delete => write_all(out, &[b"delete ", request.key, b"\r\n"]),
        Operation::Increment => write_all(out, &[b"incr ", request.key, b" 1\r\n"]),
        Operation::Exists | Operation::Command(_) => {
            unreachable!("refused when the target was opened")
        }
    }
}

/// Appends a command that carries a value.
pub(super) fn encode_store(
    out: &mut Vec<u8>,
    verb: &[u8],
    key: &[u8],
    value: &[u8],
    time_to_live: Option<Duration>,
) {
    let seconds = time_to_live.map_or(0, |it| it.min(EXPIRY_MAX).as_secs_f64().ceil() as u64);
    let (mut len, mut expiry) = (itoa::Buffer::new(), itoa::Buffer::new());
    let (len, expiry) = (len.format(value.len()).as_bytes(), expiry.format(seconds).as_bytes());
    write_all(out, &[verb, key, b" 0 ", expiry, b" ", len, b"\r\n", value, b"\r\n"]);
}

fn write_all(out: &mut Vec<u8>, parts: &[&[u8]]) {
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

/// The reply that `input` begins with; `None` while it is not all there.
pub(super) fn scan(input: &[u8]) -> Result<Option<ScannedReply>, String> {
    let mut taken = 0;
    let mut kind = ReplyKind::Null;
    loop {
        let rest = &input[taken..];
        let Some(end) = rest.iter().take(LINE_BYTES_MAX).position(|it| *it == b'\n') else {
            return if rest.len() < LINE_BYTES_MAX {
                Ok(None)
            } else {
                Err("a line without end".to_owned())
            };
        };
        let line = rest[..end].trim_ascii_end();
        taken += end + 1;
        let word = line.split(|it| *it == b' ').next().unwrap_or_default();
        kind = match word {
            b"VALUE" => {
                let len = line.split(|it| *it == b' ').nth(3).and_then(parse);
                let len = len.ok_or_else(|| format!("{:?}", String::from_utf8_lossy(line)))?;
                taken = taken.saturating_add(len).saturating_add(2);
                if taken > input.len() {
                    return Ok(None);
                }
                ReplyKind::Value
            }
            b"END" => return Ok(Some(ScannedReply { len: taken, kind })),
            b"STORED" | b"DELETED" | b"OK" => ReplyKind::Value,
            b"NOT_FOUND" | b"NOT_STORED" => ReplyKind::Null,
            b"ERROR" | b"CLIENT_ERROR" | b"SERVER_ERROR" => ReplyKind::Error,
            b"VERSION" => ReplyKind::Value,
            number if parse(number).is_some() => ReplyKind::Value,
            _ => return Err(format!("{:?}", String::from_utf8_lossy(line))),
        };
        if word != b"VALUE" {
            return Ok(Some(ScannedReply { len: taken, kind }));
        }
    }
}

fn parse(digits: &[u8]) -> Option<usize> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(mut input: &[u8]) -> Vec<ReplyKind> {
        let mut kinds = Vec::new();
        while let Some(reply) = scan(input).unwrap() {
            kinds.push(reply.kind);
            input = &input[reply.len..];
        }
        assert!(input.is_empty());
        kinds
    }

    #[test]
    fn replies_have_their_lengths_and_kinds() {
        use ReplyKind::{Error, Null, Value};
        let input = b"STORED\r\nVALUE k 0 5\r\nEND\r\n\r\nEND\r\nEND\r\nNOT_FOUND\r\n17\r\n\
                      VALUE a 0 1\r\nx\r\nVALUE b 0 0\r\n\r\nEND\r\nSERVER_ERROR out of memory\r\n";
        assert_eq!(kinds(input), [Value, Value, Null, Null, Value, Value, Error]);
    }

    #[test]
    fn a_reply_that_is_not_all_there_is_waited_for() {
        let input = b"VALUE k 0 5\r\nabcde\r\nEND\r\n";
        for len in 0..input.len() {
            assert_eq!(scan(&input[..len]), Ok(None), "{len}");
        }
        assert!(scan(input).unwrap().is_some());
    }

    #[test]
    fn nonsense_is_no_reply() {
        for input in [&b"-ERR no\r\n"[..], b"VALUE k\r\n", b"\r\n", &[b'x'; 4096]] {
            assert!(scan(input).is_err());
        }
    }

    #[test]
    fn requests_are_as_the_protocol_has_them() {
        let request = |operation| Request {
            operation,
            key_index: 1,
            key: b"k",
            value: b"abc",
            value_id: crate::workload::ValueId::default(),
            rows: &[],
            time_to_live: Some(Duration::from_millis(1500)),
        };
        for (operation, expected) in [
            (Operation::Get, "get k\r\n"),
            (Operation::Set, "set k 0 2 3\r\nabc\r\n"),
            (Operation::Append, "append k 0 0 3\r\nabc\r\n"),
            (Operation::Increment, "incr k 1\r\n"),
            (Operation::Delete, "delete k\r\n"),
        ] {
            let mut out = Vec::new();
            encode(&mut out, &request(operation));
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
        let rows = [b"a".to_vec(), b"b".to_vec()];
        let mut out = Vec::new();
        encode(&mut out, &Request { rows: &rows, ..request(Operation::Scan) });
        assert_eq!(out, b"get a b\r\n");
    }
}
