//! Requests in RESP.

use std::time::Duration;

use gridkv_net::resp::encode_command;

use crate::workload::{CommandTemplate, Operation, Request};

/// How long `WAIT` may take.
const WAIT_MILLIS: &[u8] = b"1000";

/// Appends the request; of a read-modify-write the read.
#[inline]
pub(super) fn encode(out: &mut Vec<u8>, request: &Request<'_>, commands: &[CommandTemplate]) {
    match request.operation {
        Operation::Get | Operation::ReadModifyWrite => encode_command(out, &[b"GET", request.key]),
        Operation::Set | Operation::Insert => {
            encode_set(out, request.key, request.value, request.time_to_live);
        }
        Operation::Scan => {
            let mut words: Vec<&[u8]> = Vec::with_capacity(request.rows.len() + 1);
            words.push(b"MGET");
            words.extend(request.rows.iter().map(Vec::as_slice));
            encode_command(out, &words);
        }
        Operation::Delete => encode_command(out, &[b"DEL", request.key]),
        Operation::Exists => encode_command(out, &[b"EXISTS", request.key]),
        Operation::Increment => encode_command(out, &[b"INCR", request.key]),
        Operation::Append => encode_command(out, &[b"APPEND", request.key, request.value]),
        Operation::Command(index) => {
            let command = &commands[usize::from(index)];
            let arguments = command.arguments(request.key, request.value);
            encode_command(out, &arguments.iter().map(Vec::as_slice).collect::<Vec<_>>());
        }
    }
}

/// Appends a write.
#[inline]
pub(super) fn encode_set(
    out: &mut Vec<u8>,
    key: &[u8],
    value: &[u8],
    time_to_live: Option<Duration>,
) {
    let Some(time) = time_to_live else { return encode_command(out, &[b"SET", key, value]) };
    let mut millis = itoa::Buffer::new();
    let millis = millis.format(time.as_millis().max(1)).as_bytes();
    encode_command(out, &[b"SET", key, value, b"PX", millis]);
}

/// Appends a `WAIT` for so many replicas.
pub(super) fn encode_wait(out: &mut Vec<u8>, replicas: u32) {
    encode_command(out, &[b"WAIT", itoa::Buffer::new().format(replicas).as_bytes(), WAIT_MILLIS]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::ValueId;

    fn text(operation: Operation, time_to_live: Option<Duration>) -> String {
        let rows = [b"k".to_vec(), b"l".to_vec()];
        let request = Request {
            operation,
            key_index: 1,
            key: b"k",
            value: b"v",
            value_id: ValueId::default(),
            rows: &rows,
            time_to_live,
        };
        let commands = [CommandTemplate::parse("push=LPUSH {key} {value}").unwrap()];
        let mut out = Vec::new();
        encode(&mut out, &request, &commands);
        let text = String::from_utf8(out).unwrap();
        let words: Vec<&str> =
            text.split("\r\n").filter(|it| !it.starts_with(['*', '$'])).collect();
        words.join(" ").trim_end().to_owned()
    }

    #[test]
    fn operations_are_commands() {
        for (operation, expected) in [
            (Operation::Get, "GET k"),
            (Operation::ReadModifyWrite, "GET k"),
            (Operation::Set, "SET k v"),
            (Operation::Insert, "SET k v"),
            (Operation::Scan, "MGET k l"),
            (Operation::Delete, "DEL k"),
            (Operation::Exists, "EXISTS k"),
            (Operation::Increment, "INCR k"),
            (Operation::Append, "APPEND k v"),
            (Operation::Command(0), "LPUSH k v"),
        ] {
            assert_eq!(text(operation, None), expected);
        }
        let time = Some(Duration::from_millis(1500));
        assert_eq!(text(Operation::Set, time), "SET k v PX 1500");
    }
}
