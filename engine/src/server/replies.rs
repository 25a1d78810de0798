//! The replies of one connection, in the order of its requests, whatever core serves them.
//!
//! ```text
//!   output  | slot base | base + 1 | base + 2 | ...
//!   ready   | waiting   | ready    | waiting  |
//! ```
//!
//! While nothing is waited for, replies are written straight into the output. From the first
//! request that waits for another core or a disk on, each later reply is kept in a slot until all
//! before it are there.
//!
//! A large reply is not copied behind another: it stays in its slot until the output has left. One
//! that was made in pieces leaves piece by piece.
//!
//! # What is held
//!
//! A reply that must not leave before a log is durable is written like any other, and marked. The
//! output is handed out up to the first mark whose log is not durable; the reply under a mark whose
//! log has failed is replaced by an error. Replies that follow each other and wait for the same
//! share a mark, so that a long pipeline of writes has few.

mod marks;

use std::collections::VecDeque;

use gridkv_net::resp::{Protocol, Reply};

use self::marks::Marks;
use super::commands::{Failure, Part};
use crate::core::held::{Hold, Standing};
use crate::error::Error;

/// How the answers to the parts of a request become its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gather {
    /// The one answer is the reply.
    One,
    /// The reply is the number of parts that were counted.
    Count,
    /// The reply is `OK`.
    Done,
}

/// A reply of at most so many bytes is copied behind the output; a longer one takes its place.
const COPIED_BYTES_MAX: usize = 4_096;

/// An output of so many bytes is not moved to make room for more.
const OUTPUT_BYTES_MOVED_MAX: usize = 64 << 10;

enum Slot {
    Ready(Vec<u8>, Marks),
    /// A reply in pieces, what is left of it.
    Pieces(VecDeque<Vec<u8>>),
    Waiting(Waiting),
}

struct Waiting {
    gather: Gather,
    protocol: Protocol,
    parts_left: u32,
    counted: i64,
    /// The first error, or the reply of [`Gather::One`].
    bytes: Vec<u8>,
    is_failed: bool,
    /// The client does not want to hear it (`CLIENT REPLY OFF`).
    is_mute: bool,
}

/// The queue.
#[derive(Default)]
pub(crate) struct Replies {
    output: Vec<u8>,
    marks: Marks,
    slots: VecDeque<Slot>,
    base: u64,
    /// Bytes in slots that are ready.
    held_bytes: usize,
}

impl Replies {
    /// Where the reply to the present request goes.
    #[inline]
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        if self.slots.is_empty() {
            return &mut self.output;
        }
        if !matches!(self.slots.back(), Some(Slot::Ready(..))) {
            self.slots.push_back(Slot::Ready(Vec::new(), Marks::default()));
        }
        match self.slots.back_mut() {
            Some(Slot::Ready(bytes, _)) => bytes,
            _ => unreachable!("a ready slot was just put there"),
        }
    }

    /// Holds the reply that was just written to the [`Replies::buffer`], from `start` on.
    pub(crate) fn hold(&mut self, start: usize, hold: Hold) {
        let (bytes, marks) = match self.slots.back_mut() {
            None => (&self.output, &mut self.marks),
            Some(Slot::Ready(bytes, marks)) => (&*bytes, marks),
            Some(Slot::Waiting(_) | Slot::Pieces(_)) => unreachable!("a reply was just written"),
        };
        if bytes.len() > start {
            marks.add(start, bytes.len(), hold);
        }
    }

    /// Makes a place for a reply that is still to come, in `part_count` parts.
    pub(crate) fn wait(
        &mut self,
        gather: Gather,
        protocol: Protocol,
        part_count: u32,
        is_mute: bool,
    ) -> u64 {
        assert!(part_count > 0);
        self.slots.push_back(Slot::Waiting(Waiting {
            gather,
            protocol,
            parts_left: part_count,
            counted: 0,
            bytes: Vec::new(),
            is_failed: false,
            is_mute,
        }));
        self.base + self.slots.len() as u64 - 1
    }

    /// Takes in one part. Whether the reply is now complete.
    pub(crate) fn deliver(&mut self, sequence: u64, part: Part, bytes: &[u8]) -> bool {
        let index = usize::try_from(sequence - self.base).expect("slots are counted with usize");
        let Slot::Waiting(waiting) = &mut self.slots[index] else {
            panic!("a reply is completed once");
        };
        match part {
            Part::Count(counted) => waiting.counted += i64::from(counted),
            Part::Reply => waiting.bytes.extend_from_slice(bytes),
            Part::Wait => unreachable!("what waits is no part of a reply yet"),
            Part::Failed => {
                if !waiting.is_failed {
                    waiting.bytes.clear();
                    waiting.bytes.extend_from_slice(bytes);
                }
                waiting.is_failed = true;
            }
        }
        waiting.parts_left -= 1;
        if waiting.parts_left > 0 {
            return false;
        }
        let reply = waiting.complete();
        self.held_bytes += reply.len();
        self.slots[index] = Slot::Ready(reply, Marks::default());
        self.flush();
        true
    }

    /// Takes in a whole reply, in pieces.
    pub(crate) fn deliver_pieces(&mut self, sequence: u64, pieces: Vec<Vec<u8>>) {
        let index = usize::try_from(sequence - self.base).expect("slots are counted with usize");
        let Slot::Waiting(waiting) = &self.slots[index] else {
            panic!("a reply is completed once");
        };
        assert_eq!(waiting.gather, Gather::One, "what is gathered is not a whole reply");
        let pieces = if waiting.is_mute { Vec::new() } else { pieces };
        self.held_bytes += pieces.iter().map(Vec::len).sum::<usize>();
        self.slots[index] = Slot::Pieces(pieces.into());
        self.flush();
    }

    /// Moves what is ready, from the front on, to the output: up to what is large, unless it is the
    /// first.
    fn flush(&mut self) {
        loop {
            let (len, room) = (self.output.len(), self.output.capacity() - self.output.len());
            let is_left = |bytes: &Vec<u8>| {
                let would_move = len >= OUTPUT_BYTES_MOVED_MAX && bytes.len() > room;
                len > 0 && (bytes.len() > COPIED_BYTES_MAX || would_move)
            };
            let (bytes, marks) = match self.slots.front_mut() {
                None | Some(Slot::Waiting(_)) => return,
                Some(Slot::Ready(bytes, _)) if is_left(bytes) => return,
                Some(Slot::Ready(bytes, marks)) => {
                    let ready = (std::mem::take(bytes), std::mem::take(marks));
                    self.slots.pop_front();
                    self.base += 1;
                    ready
                }
                Some(Slot::Pieces(pieces)) => match pieces.front() {
                    Some(piece) if is_left(piece) => return,
                    Some(_) => (pieces.pop_front().unwrap_or_default(), Marks::default()),
                    None => {
                        self.slots.pop_front();
                        self.base += 1;
                        continue;
                    }
                },
            };
            self.held_bytes = self.held_bytes.saturating_sub(bytes.len());
            self.marks.append(marks, self.output.len());
            if self.output.is_empty() && bytes.len() > COPIED_BYTES_MAX {
                self.output = bytes;
            } else {
                self.output.extend_from_slice(&bytes);
            }
        }
    }

    /// Gives up one part of a reply.
    pub(crate) fn fail(&mut self, sequence: u64, failure: &Failure) {
        self.deliver(sequence, Part::Failed, failure.to_string().as_bytes());
    }

    /// Whether replies are still to come.
    pub(crate) fn are_due(&self) -> bool {
        !self.slots.is_empty()
    }

    /// How many replies are queued behind one that is still to come.
    pub(crate) fn waiting_count(&self) -> usize {
        self.slots.len()
    }

    /// Bytes kept: ready to go, or waiting for their turn.
    pub(crate) fn len(&self) -> usize {
        self.output.len() + self.held_bytes
    }

    /// Whether there are bytes to send, at once or when they are held no more.
    pub(crate) fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Lends a buffer to write into, when the queue has none.
    pub(crate) fn lend(&mut self, pool: &mut Vec<Vec<u8>>) {
        if self.output.capacity() == 0
            && let Some(buffer) = pool.pop()
        {
            self.output = buffer;
        }
    }

    /// Takes what is ready to go: what stands before the first reply that is still held.
    #[inline]
    pub(crate) fn take_output(&mut self, standing: impl Fn(Hold) -> Standing) -> Vec<u8> {
        let output = self.take_ready(standing);
        self.flush();
        output
    }

    #[inline]
    fn take_ready(&mut self, standing: impl Fn(Hold) -> Standing) -> Vec<u8> {
        if self.marks.is_empty() {
            return std::mem::take(&mut self.output);
        }
        let lost = || {
            let mut error = Vec::new();
            let failure = Failure::Store(Error::NotDurable);
            Reply::new(&mut error, Protocol::Resp2).error(failure);
            error
        };
        let len = self.marks.settle(&mut self.output, standing, lost);
        if len == self.output.len() {
            return std::mem::take(&mut self.output);
        }
        let held = self.output[len..].to_vec();
        self.output.truncate(len);
        std::mem::replace(&mut self.output, held)
    }

    /// What the first byte of the output waits for.
    pub(crate) fn first_hold(&self) -> Option<Hold> {
        self.marks.first()
    }

    /// Memory held, in bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.output.capacity() + self.held_bytes + self.slots.capacity() * size_of::<Slot>()
    }
}

impl Waiting {
    fn complete(&mut self) -> Vec<u8> {
        let mut reply = std::mem::take(&mut self.bytes);
        if self.is_mute {
            reply.clear();
            return reply;
        }
        if self.is_failed {
            let text = std::mem::take(&mut reply);
            Reply::new(&mut reply, self.protocol).error(String::from_utf8_lossy(&text));
            return reply;
        }
        match self.gather {
            Gather::One => {}
            Gather::Count => Reply::new(&mut reply, self.protocol).integer(self.counted),
            Gather::Done => Reply::new(&mut reply, self.protocol).ok(),
        }
        reply
    }
}

#[cfg(test)]
mod tests {
    use gridkv_storage::LogPosition;

    use super::*;

    fn output(replies: &mut Replies) -> String {
        String::from_utf8(replies.take_output(|_| Standing::Waiting)).unwrap()
    }

    #[test]
    fn replies_leave_in_the_order_of_their_requests() {
        let mut replies = Replies::default();
        replies.buffer().extend_from_slice(b"a");
        let first = replies.wait(Gather::One, Protocol::Resp2, 1, false);
        replies.buffer().extend_from_slice(b"c");
        let second = replies.wait(Gather::One, Protocol::Resp2, 1, false);
        replies.buffer().extend_from_slice(b"e");
        assert!(replies.deliver(second, Part::Reply, b"d"));
        assert_eq!(output(&mut replies), "a");
        assert!(replies.deliver(first, Part::Reply, b"b"));
        assert_eq!(output(&mut replies), "bcde");
        assert!(!replies.are_due());
        replies.buffer().extend_from_slice(b"f");
        assert_eq!(output(&mut replies), "f");
    }

    #[test]
    fn parts_are_counted() {
        let mut replies = Replies::default();
        let sequence = replies.wait(Gather::Count, Protocol::Resp2, 3, false);
        assert!(!replies.deliver(sequence, Part::Count(true), b""));
        assert!(!replies.deliver(sequence, Part::Count(false), b""));
        assert!(replies.deliver(sequence, Part::Count(true), b""));
        assert_eq!(output(&mut replies), ":2\r\n");
    }

    #[test]
    fn the_first_failed_part_is_the_reply() {
        let mut replies = Replies::default();
        let sequence = replies.wait(Gather::Done, Protocol::Resp2, 3, false);
        replies.deliver(sequence, Part::Reply, b"");
        replies.deliver(sequence, Part::Failed, b"OOM no");
        replies.deliver(sequence, Part::Failed, b"ERR other");
        assert_eq!(output(&mut replies), "-OOM no\r\n");
    }

    #[test]
    fn a_reply_given_up_is_an_error_in_its_place() {
        let mut replies = Replies::default();
        let first = replies.wait(Gather::Count, Protocol::Resp2, 2, false);
        replies.buffer().extend_from_slice(b"+NEXT\r\n");
        replies.deliver(first, Part::Count(true), b"");
        replies.fail(first, &Failure::CoreStopped);
        assert!(output(&mut replies).ends_with("+NEXT\r\n"));
        assert!(!replies.are_due());
    }

    /// Writes a reply that is held until the log of shard 0 is durable there.
    fn held(replies: &mut Replies, text: &str, position: u64) {
        let start = replies.buffer().len();
        replies.buffer().extend_from_slice(text.as_bytes());
        replies.hold(start, Hold { shard: 0, position: LogPosition(position) });
    }

    /// What leaves when the log is durable up to there.
    fn durable(replies: &mut Replies, position: u64) -> String {
        let standing = |hold: Hold| match hold.position.0 <= position {
            true => Standing::Durable,
            false => Standing::Waiting,
        };
        String::from_utf8(replies.take_output(standing)).unwrap()
    }

    #[test]
    fn a_held_reply_holds_back_what_follows_it() {
        let mut replies = Replies::default();
        replies.buffer().extend_from_slice(b"a");
        held(&mut replies, "b", 1);
        held(&mut replies, "c", 1);
        replies.buffer().extend_from_slice(b"d");
        held(&mut replies, "e", 2);
        replies.buffer().extend_from_slice(b"f");
        assert_eq!(durable(&mut replies, 0), "a");
        assert_eq!(durable(&mut replies, 0), "");
        assert!(replies.has_output());
        assert_eq!(durable(&mut replies, 1), "bcd");
        held(&mut replies, "g", 3);
        assert_eq!(durable(&mut replies, 3), "efg");
        assert!(!replies.has_output());
        assert_eq!(replies.first_hold(), None);
    }

    #[test]
    fn a_held_reply_behind_one_of_another_core_stays_held() {
        let mut replies = Replies::default();
        replies.buffer().extend_from_slice(b"a");
        let sequence = replies.wait(Gather::One, Protocol::Resp2, 1, false);
        held(&mut replies, "c", 1);
        replies.buffer().extend_from_slice(b"d");
        held(&mut replies, "e", 1);
        replies.deliver(sequence, Part::Reply, b"b");
        assert_eq!(durable(&mut replies, 0), "ab");
        assert_eq!(durable(&mut replies, 1), "cde");
    }

    #[test]
    fn each_held_reply_becomes_an_error_when_the_log_has_failed() {
        let mut replies = Replies::default();
        held(&mut replies, "+OK\r\n", 1);
        replies.buffer().extend_from_slice(b"+PONG\r\n");
        held(&mut replies, "+OK\r\n", 2);
        held(&mut replies, "+OK\r\n", 2);
        replies.buffer().extend_from_slice(b"$1\r\nx\r\n");
        let standing = |hold: Hold| match hold.position.0 {
            1 => Standing::Durable,
            _ => Standing::Lost,
        };
        let output = String::from_utf8(replies.take_output(standing)).unwrap();
        let error = "-UNKNOWN the log could not be made durable: the write may be lost\r\n";
        assert_eq!(output, format!("+OK\r\n+PONG\r\n{error}{error}$1\r\nx\r\n"));
    }

    #[test]
    fn a_reply_in_pieces_leaves_in_its_place_and_is_not_copied() {
        let mut replies = Replies::default();
        replies.buffer().extend_from_slice(b"a");
        let sequence = replies.wait(Gather::One, Protocol::Resp2, 1, false);
        let next = replies.wait(Gather::One, Protocol::Resp2, 1, false);
        let (large, larger) = (vec![b'x'; 70_000], vec![b'y'; 80_000]);
        let places = [large.as_ptr(), larger.as_ptr()];
        replies.deliver_pieces(sequence, vec![b"head".to_vec(), large, larger]);
        assert_eq!(replies.len(), 5 + 150_000);
        assert!(replies.deliver(next, Part::Reply, b"b"));
        replies.buffer().extend_from_slice(b"c");
        assert_eq!(output(&mut replies), "ahead");
        for place in places {
            let piece = replies.take_output(|_| Standing::Waiting);
            assert_eq!(piece.as_ptr(), place);
        }
        assert_eq!(output(&mut replies), "bc");
        assert!(!replies.are_due());
        assert_eq!(replies.len(), 0);
        let muted = replies.wait(Gather::One, Protocol::Resp2, 1, true);
        replies.deliver_pieces(muted, vec![b"nothing".to_vec()]);
        assert_eq!((output(&mut replies), replies.len()), (String::new(), 0));
    }

    #[test]
    fn a_muted_reply_is_nothing() {
        let mut replies = Replies::default();
        let sequence = replies.wait(Gather::One, Protocol::Resp2, 1, true);
        assert!(replies.deliver(sequence, Part::Reply, b"+OK\r\n"));
        assert!(!replies.has_output());
    }
}
