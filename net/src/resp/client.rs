//! The client's side: commands out, replies in.
//!
//! A load generator seldom wants what a reply says, only where it ends and whether it is an error.
//! So replies are *scanned*: whole values are skipped, and a nested reply needs no stack, only the
//! number of values still to come. [`parse_reply`](super::parse_reply) reads one into a
//! [`Value`](super::Value).
//!
//! # Invariants
//!
//! - A reply that arrives in pieces is scanned once.
//! - A scanner owns no memory, however a reply nests and whatever it announces.

use std::ops::Range;

use memchr::memchr;

use super::header::{parse_integer, parse_short_bulk_header, write_bulk, write_header};

/// The longest line of a reply.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// The bytes that elements begin with.
const TAGS: &[u8] = b"+-:$*_,#!=(~%>|";

/// Appends a command as a request.
pub fn encode_command(out: &mut Vec<u8>, arguments: &[&[u8]]) {
    write_header(out, b'*', arguments.len());
    for argument in arguments {
        write_bulk(out, argument);
    }
}

/// The bytes are no replies. What follows them has no meaning: close the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// No type of RESP2 or RESP3 begins like this.
    #[error("reply of unknown type, beginning with byte {0:#04x}")]
    UnknownType(
        /// The byte found.
        u8,
    ),
    /// A length is no number, negative, or more than can be counted.
    #[error("reply with an invalid length")]
    InvalidLength,
    /// A line or a bulk does not end where it should.
    #[error("reply with a part that does not end where it should")]
    Unterminated,
    /// A value is not written as its type demands.
    #[error("reply with a malformed value")]
    InvalidValue,
    /// A reply nests deeper than this side reads.
    #[error("reply nested too deeply")]
    TooDeep,
}

/// What a reply is, as far as one can tell without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyKind {
    /// A value.
    Value,
    /// No value, or no array.
    Null,
    /// The server refused the command.
    Error,
    /// A message that answers no request.
    Push,
}

/// A reply at the start of the scanned input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScannedReply {
    /// Its bytes, attributes before it included.
    pub len: usize,
    /// What it is.
    pub kind: ReplyKind,
}

impl ScannedReply {
    /// Whether the server refused the command.
    #[inline]
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.kind == ReplyKind::Error
    }
}

/// Finds the end of the reply that `input` begins with; `None` when it is yet to come. Begins anew
/// each time: a [`ReplyScanner`] goes on where it stopped.
///
/// # Errors
///
/// [`ReplyError`] when these are no replies.
pub fn scan_reply(input: &[u8]) -> Result<Option<ScannedReply>, ReplyError> {
    ReplyScanner::new().scan(input)
}

/// The reader of one connection's replies.
#[derive(Clone, Debug)]
pub struct ReplyScanner {
    /// Where the current element begins. Bytes before it are not read again.
    position: usize,
    /// Values still to come, the current one included.
    values_left: u64,
    /// Known once the attributes before the reply have passed.
    kind: Option<ReplyKind>,
    /// Input shorter than this cannot change the answer.
    input_len_min: usize,
    /// The current line does not end before this.
    line_end_min: usize,
}

impl Default for ReplyScanner {
    fn default() -> Self {
        Self::new()
    }
}

impl ReplyScanner {
    /// A reader at the start of a reply.
    #[must_use]
    pub const fn new() -> Self {
        Self { position: 0, values_left: 1, kind: None, input_len_min: 1, line_end_min: 0 }
    }

    /// Finds the end of the reply that `input` begins with. When it is yet to come (`None`), call
    /// again with the same bytes and more behind them; else with what follows the reply.
    ///
    /// # Errors
    ///
    /// [`ReplyError`] when these are no replies.
    #[inline]
    pub fn scan(&mut self, input: &[u8]) -> Result<Option<ScannedReply>, ReplyError> {
        if input.len() < self.input_len_min {
            return Ok(None);
        }
        while self.values_left > 0 {
            let element = match Element::read(input, self.position, self.line_end_min)? {
                Progress::Whole(element) => element,
                Progress::Cut { input_len_min, line_end_min } => {
                    self.input_len_min = input_len_min;
                    self.line_end_min = line_end_min;
                    return Ok(None);
                }
            };
            self.pass(&element)?;
        }
        let kind = self.kind.expect("the last value is no attribute");
        let scanned = ScannedReply { len: self.position, kind };
        *self = Self::new();
        Ok(Some(scanned))
    }

    #[inline]
    fn pass(&mut self, element: &Element) -> Result<(), ReplyError> {
        // One value is left outside of attributes: this is the reply itself.
        if self.values_left == 1 && self.kind.is_none() && element.tag != b'|' {
            self.kind = Some(element.kind());
        }
        self.values_left = (self.values_left - u64::from(element.tag != b'|'))
            .checked_add(element.children)
            .ok_or(ReplyError::InvalidLength)?;
        self.position = element.end;
        self.line_end_min = element.end;
        Ok(())
    }
}

/// A value without children, or the header of one with.
#[derive(Clone, Debug)]
pub(super) struct Element {
    /// The byte that says the type.
    pub(super) tag: u8,
    /// Where its text lies; the number of a header is not text.
    pub(super) text: Range<usize>,
    /// Whether it is a missing bulk or array.
    pub(super) is_null: bool,
    /// How many values belong to it.
    pub(super) children: u64,
    /// Where the next element begins.
    pub(super) end: usize,
}

/// How far an element has arrived.
pub(super) enum Progress {
    Whole(Element),
    Cut {
        /// Input shorter than this is cut too.
        input_len_min: usize,
        /// Where to go on looking for the end of the line.
        line_end_min: usize,
    },
}

impl Element {
    /// Reads the element at `position`, whose line does not end before `line_end_min`.
    #[inline]
    pub(super) fn read(
        input: &[u8],
        position: usize,
        line_end_min: usize,
    ) -> Result<Progress, ReplyError> {
        if let Some((header_len, bulk_len)) = parse_short_bulk_header(&input[position..]) {
            return Self::bulk(input, b'$', position + header_len, bulk_len, position);
        }
        Self::read_line(input, position, line_end_min)
    }

    fn read_line(
        input: &[u8],
        position: usize,
        line_end_min: usize,
    ) -> Result<Progress, ReplyError> {
        if let Some(&tag) = input.get(position)
            && !TAGS.contains(&tag)
        {
            return Err(ReplyError::UnknownType(tag));
        }
        let window = &input[..input.len().min(position + LINE_BYTES_MAX)];
        let from = line_end_min.max(position).min(window.len());
        let Some(line_end) = memchr(b'\r', &window[from..]).map(|it| from + it) else {
            if input.len() > window.len() {
                return Err(ReplyError::Unterminated);
            }
            return Ok(Progress::Cut {
                input_len_min: input.len() + 1,
                line_end_min: window.len(),
            });
        };
        match input.get(line_end + 1) {
            None => {
                return Ok(Progress::Cut {
                    input_len_min: input.len() + 1,
                    line_end_min: line_end,
                });
            }
            Some(b'\n') => {}
            Some(_) => return Err(ReplyError::Unterminated),
        }
        let (tag, start, end) = (input[position], position + 1, line_end + 2);
        let text = start..line_end;
        let aggregate = |children| Self { tag, text: end..end, is_null: false, children, end };
        let element = match tag {
            b'+' | b'-' | b':' | b',' | b'(' | b'#' | b'_' => {
                Self { tag, text, is_null: tag == b'_', children: 0, end }
            }
            b'$' | b'*' if &input[text.clone()] == b"-1" => {
                Self { tag, text: end..end, is_null: true, children: 0, end }
            }
            b'$' | b'!' | b'=' => {
                let bulk_len = parse_length(&input[text])?;
                let bulk_len = usize::try_from(bulk_len).map_err(|_| ReplyError::InvalidLength)?;
                return Self::bulk(input, tag, end, bulk_len, position);
            }
            b'*' | b'~' | b'>' => aggregate(parse_length(&input[text])?),
            b'%' | b'|' => {
                let pairs = parse_length(&input[text])?;
                aggregate(pairs.checked_mul(2).ok_or(ReplyError::InvalidLength)?)
            }
            other => return Err(ReplyError::UnknownType(other)),
        };
        Ok(Progress::Whole(element))
    }

    /// The element whose text of `bulk_len` bytes begins at `start`.
    #[inline]
    fn bulk(
        input: &[u8],
        tag: u8,
        start: usize,
        bulk_len: usize,
        position: usize,
    ) -> Result<Progress, ReplyError> {
        let text_end = start.checked_add(bulk_len).ok_or(ReplyError::InvalidLength)?;
        let end = text_end.checked_add(2).ok_or(ReplyError::InvalidLength)?;
        match input.get(text_end..end) {
            None => Ok(Progress::Cut { input_len_min: end, line_end_min: position }),
            Some(b"\r\n") => Ok(Progress::Whole(Self {
                tag,
                text: start..text_end,
                is_null: false,
                children: 0,
                end,
            })),
            Some(_) => Err(ReplyError::Unterminated),
        }
    }

    fn kind(&self) -> ReplyKind {
        match self.tag {
            _ if self.is_null => ReplyKind::Null,
            b'-' | b'!' => ReplyKind::Error,
            b'>' => ReplyKind::Push,
            _ => ReplyKind::Value,
        }
    }
}

fn parse_length(text: &[u8]) -> Result<u64, ReplyError> {
    parse_integer(text).and_then(|it| u64::try_from(it).ok()).ok_or(ReplyError::InvalidLength)
}

#[cfg(test)]
mod tests;
