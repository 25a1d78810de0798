//! The slow commands of a core, newest first, bounded in number and size.
//!
//! # Which commands are timed
//!
//! Reading a clock costs as much as a small GET. So a request is timed on its own only when its
//! command can be slow: one that is not marked fast, or that carries much data. A batch of fast
//! commands cannot take long.

use std::collections::VecDeque;
use std::time::Duration;

use gridkv_cluster::WallTime;

/// As in Redis: an entry keeps so many arguments,
const ARGUMENT_COUNT_MAX: usize = 32;
/// and so many bytes of each.
const ARGUMENT_BYTES_MAX: usize = 128;

/// A slow command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SlowEntry {
    pub(crate) id: u64,
    pub(crate) at: WallTime,
    pub(crate) took: Duration,
    pub(crate) arguments: Vec<Vec<u8>>,
    pub(crate) client_address: String,
    pub(crate) client_name: Vec<u8>,
}

/// The log of one core.
#[derive(Default)]
pub(crate) struct Slowlog {
    entries: VecDeque<SlowEntry>,
    next_id: u64,
}

impl Slowlog {
    pub(crate) fn note(
        &mut self,
        entry_count_max: usize,
        at: WallTime,
        took: Duration,
        arguments: &[&[u8]],
        client: (String, Vec<u8>),
    ) {
        let mut kept: Vec<Vec<u8>> =
            arguments.iter().take(ARGUMENT_COUNT_MAX).map(|argument| shorten(argument)).collect();
        if arguments.len() > ARGUMENT_COUNT_MAX {
            let more = arguments.len() - ARGUMENT_COUNT_MAX + 1;
            kept[ARGUMENT_COUNT_MAX - 1] = format!("... ({more} more arguments)").into_bytes();
        }
        let (client_address, client_name) = client;
        let id = self.next_id;
        self.next_id += 1;
        let entry = SlowEntry { id, at, took, arguments: kept, client_address, client_name };
        self.entries.push_front(entry);
        self.entries.truncate(entry_count_max);
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = &SlowEntry> {
        self.entries.iter()
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
    }
}

fn shorten(argument: &[u8]) -> Vec<u8> {
    if argument.len() <= ARGUMENT_BYTES_MAX {
        return argument.to_vec();
    }
    let mut short = argument[..ARGUMENT_BYTES_MAX].to_vec();
    let more = argument.len() - ARGUMENT_BYTES_MAX;
    short.extend_from_slice(format!("... ({more} more bytes)").as_bytes());
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_bounded_whatever_the_command_was() {
        let mut log = Slowlog::default();
        let long = vec![b'x'; 10_000];
        let arguments: Vec<&[u8]> = vec![&long; 100];
        let client = (String::new(), Vec::new());
        log.note(2, WallTime::EPOCH, Duration::from_secs(1), &arguments, client);
        let entry = log.entries().next().unwrap();
        assert_eq!(entry.arguments.len(), ARGUMENT_COUNT_MAX);
        assert!(entry.arguments.iter().all(|argument| argument.len() < 200));
        assert!(entry.arguments[31].starts_with(b"... (69 more"));
    }

    #[test]
    fn the_oldest_entry_goes_first() {
        let mut log = Slowlog::default();
        for _ in 0..3 {
            let client = (String::new(), Vec::new());
            log.note(2, WallTime::EPOCH, Duration::ZERO, &[b"GET"], client);
        }
        assert_eq!(log.entries().map(|entry| entry.id).collect::<Vec<_>>(), [2, 1]);
    }
}
