//! Commands that one node hands to another, and their replies.
//!
//! ```text
//!  a command:  | id 8 | deadline 8 | protocol 1 | count 4 | (len 4 | word) ...
//!  a reply:    | id 8 | end 1 | len 4 | bytes |
//! ```
//!
//! Numbers are little-endian. A [body](super::body) has one or many of one sort, one after the other. The
//! deadline is a wall time in milliseconds: a command is not begun after it. Its words are its name and
//! its arguments, as a client has sent them.

use smallvec::SmallVec;

use super::Malformed;
use crate::time::WallTime;

const COMMAND: Malformed = Malformed("a command cannot be read");
const REPLY: Malformed = Malformed("a reply to a command cannot be read");

/// A command that is handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command<'a> {
    /// A number of whoever hands it over, for the reply.
    pub id: u64,
    /// It is not begun after this time.
    pub deadline: WallTime,
    /// Which of the clients' protocols the reply is for: 2 or 3.
    pub protocol: u8,
    /// Its name and its arguments: at least one word.
    pub words: SmallVec<[&'a [u8]; 8]>,
}

/// What became of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The bytes are its reply, in the client's protocol.
    Reply,
    /// It is a part of a request that counts, and counts or not.
    Count(bool),
    /// It was not done, or may not have been: the bytes say why.
    Failed,
    /// It was not begun, and will not be.
    Unbegun,
}

/// The reply to a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandReply<'a> {
    /// The command's number.
    pub id: u64,
    /// What became of it.
    pub end: End,
    /// The reply, or the reason.
    pub bytes: &'a [u8],
}

impl<'a> Command<'a> {
    /// Its bytes.
    ///
    /// # Panics
    ///
    /// When it has no word, or one of 4 GiB.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        assert!(!self.words.is_empty(), "a command has a name");
        let words_bytes = self.words.iter().map(|word| 4 + word.len()).sum::<usize>();
        let mut entry = Vec::with_capacity(21 + words_bytes);
        entry.extend_from_slice(&self.id.to_le_bytes());
        entry.extend_from_slice(&self.deadline.as_millis().to_le_bytes());
        entry.push(self.protocol);
        entry.extend_from_slice(&length(self.words.len()));
        for word in &self.words {
            entry.extend_from_slice(&length(word.len()));
            entry.extend_from_slice(word);
        }
        entry
    }

    /// Takes one off the front of a body.
    ///
    /// # Errors
    ///
    /// [`Malformed`].
    pub fn take(rest: &mut &'a [u8]) -> Result<Self, Malformed> {
        Self::try_take(rest).ok_or(COMMAND)
    }

    fn try_take(rest: &mut &'a [u8]) -> Option<Self> {
        let (id, deadline) = (take_u64(rest)?, WallTime::from_millis(take_u64(rest)?));
        let protocol = take(rest, 1)?[0];
        let count = take_length(rest)?;
        // Not reserved for: it is only what somebody says.
        let mut words = SmallVec::new();
        for _ in 0..count {
            let len = take_length(rest)?;
            words.push(take(rest, len)?);
        }
        let is_valid = matches!(protocol, 2 | 3) && !words.is_empty();
        is_valid.then_some(Self { id, deadline, protocol, words })
    }
}

impl<'a> CommandReply<'a> {
    /// Its bytes.
    ///
    /// # Panics
    ///
    /// When its bytes are 4 GiB.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut entry = Vec::with_capacity(13 + self.bytes.len());
        entry.extend_from_slice(&self.id.to_le_bytes());
        entry.push(match self.end {
            End::Reply => 0,
            End::Count(false) => 1,
            End::Count(true) => 2,
            End::Failed => 3,
            End::Unbegun => 4,
        });
        entry.extend_from_slice(&length(self.bytes.len()));
        entry.extend_from_slice(self.bytes);
        entry
    }

    /// Takes one off the front of a body.
    ///
    /// # Errors
    ///
    /// [`Malformed`].
    pub fn take(rest: &mut &'a [u8]) -> Result<Self, Malformed> {
        Self::try_take(rest).ok_or(REPLY)
    }

    fn try_take(rest: &mut &'a [u8]) -> Option<Self> {
        let id = take_u64(rest)?;
        let end = match take(rest, 1)?[0] {
            0 => End::Reply,
            1 => End::Count(false),
            2 => End::Count(true),
            3 => End::Failed,
            4 => End::Unbegun,
            _ => return None,
        };
        let len = take_length(rest)?;
        Some(Self { id, end, bytes: take(rest, len)? })
    }
}

fn length(len: usize) -> [u8; 4] {
    u32::try_from(len).expect("below 4 GiB").to_le_bytes()
}

/// Takes bytes off the front.
fn take<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (bytes, after) = rest.split_at_checked(len)?;
    *rest = after;
    Some(bytes)
}

fn take_length(rest: &mut &[u8]) -> Option<usize> {
    let (bytes, after) = rest.split_first_chunk::<4>()?;
    *rest = after;
    Some(u32::from_le_bytes(*bytes) as usize)
}

fn take_u64(rest: &mut &[u8]) -> Option<u64> {
    let (bytes, after) = rest.split_first_chunk::<8>()?;
    *rest = after;
    Some(u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ENDS: [End; 5] =
        [End::Reply, End::Count(false), End::Count(true), End::Failed, End::Unbegun];

    proptest! {
        #[test]
        fn commands_come_back_in_order(
            commands in proptest::collection::vec(
                (any::<u64>(), 0_u64..1 << 40, 2_u8..=3, proptest::collection::vec(any::<Vec<u8>>(), 1..4)),
                0..4,
            ),
        ) {
            let mut body = Vec::new();
            let commands: Vec<Command<'_>> = commands.iter().map(|(id, at, protocol, words)| Command {
                id: *id,
                deadline: WallTime::from_millis(*at),
                protocol: *protocol,
                words: words.iter().map(Vec::as_slice).collect(),
            }).collect();
            for command in &commands {
                body.extend(command.encode());
            }
            let mut rest = &body[..];
            for command in commands {
                prop_assert_eq!(Command::take(&mut rest), Ok(command));
            }
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn replies_come_back_in_order(
            replies in proptest::collection::vec((any::<u64>(), 0_usize..5, any::<Vec<u8>>()), 0..4),
        ) {
            let reply = |(id, end, bytes): &(u64, usize, Vec<u8>)| {
                CommandReply { id: *id, end: ENDS[*end], bytes }.encode()
            };
            let body: Vec<u8> = replies.iter().flat_map(reply).collect();
            let mut rest = &body[..];
            for (id, end, bytes) in &replies {
                let reply = CommandReply { id: *id, end: ENDS[*end], bytes };
                prop_assert_eq!(CommandReply::take(&mut rest), Ok(reply));
            }
            prop_assert!(rest.is_empty());
        }

        /// However long it says that it is.
        #[test]
        fn fuzz_arbitrary_bytes_are_read_without_a_panic(bytes: Vec<u8>) {
            let mut rest = &bytes[..];
            while !rest.is_empty() && Command::take(&mut rest).is_ok() {}
            let mut rest = &bytes[..];
            while !rest.is_empty() && CommandReply::take(&mut rest).is_ok() {}
        }
    }
}
