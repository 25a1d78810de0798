//! Requests out of received bytes, found in place.
//!
//! A request is an array of bulk strings, `*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n`, or an inline command,
//! `GET key\r\n`. [`Parser::parse`] looks at one request at the start of its input and says where
//! the arguments lie. It copies nothing.
//!
//! # Invariants
//!
//! - A request that arrives in pieces is read once: the parser remembers how far it has read.
//! - It remembers nothing between requests, so an idle connection costs one empty pointer.
//! - A length beyond its limit is refused when it is announced, before what it announces arrives.
//!
//! # Why the line end after a bulk is checked
//!
//! Redis skips those two bytes unread. A length that does not match its bulk means that the peers
//! disagree where requests begin, and then a value can be taken for a command.

use memchr::memchr;

use super::arguments::OFFSET_MAX;
use super::header::{parse_integer, parse_short_bulk_header};
use super::inline::split_words;
use super::limits::{UNAUTHENTICATED_BULK_BYTES_MAX, UNAUTHENTICATED_COUNT_MAX};
use super::{Arguments, Authentication, Limits, ProtocolError};

/// What [`Parser::parse`] has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A request, in the first `consumed` bytes of the input.
    Request {
        /// Bytes to drop once its arguments are no longer needed.
        consumed: usize,
    },
    /// The input ends within a request. Call again with all of it and more.
    Incomplete {
        /// Fewer additional bytes than this cannot change the answer; always at least one.
        bytes_needed_min: usize,
    },
    /// A request without arguments, which is answered by nothing.
    Empty {
        /// Bytes to drop.
        consumed: usize,
    },
}

/// The reader of one connection's requests.
#[derive(Debug, Default)]
pub struct Parser {
    partial: Option<Box<Partial>>,
}

const _: () = assert!(size_of::<Parser>() == size_of::<usize>());

/// A request of which a part has arrived.
#[derive(Debug)]
struct Partial {
    cursor: Cursor,
    arguments: Arguments,
    /// Input shorter than this cannot change the answer.
    input_len_min: usize,
}

impl Parser {
    /// A reader at the start of a request.
    #[must_use]
    pub const fn new() -> Self {
        Self { partial: None }
    }

    /// Whether a part of a request has arrived and its end has not.
    #[must_use]
    pub fn is_within_request(&self) -> bool {
        self.partial.is_some()
    }

    /// The argument that is arriving: its index, its announced length, and the command's name, the
    /// first argument. `None` while the name or the length is still to come. `input` is that of
    /// the call of [`Parser::parse`] before.
    #[must_use]
    pub fn pending<'a>(&'a self, input: &'a [u8]) -> Option<(usize, usize, &'a [u8])> {
        let partial = self.partial.as_ref()?;
        let len = partial.cursor.bulk_len?;
        let index = partial.arguments.len();
        if index == 0 { None } else { Some((index, len, partial.arguments.get(0, input))) }
    }

    /// Reads the request at the start of `input`. After [`Step::Incomplete`], call again with the
    /// same bytes and more behind them; `arguments` may have served other connections meanwhile.
    /// They hold the request's arguments when a [`Step::Request`] is returned, else nothing of use.
    ///
    /// # Errors
    ///
    /// [`ProtocolError`]; the parser is then as new, the connection beyond use.
    #[inline]
    pub fn parse(
        &mut self,
        input: &[u8],
        limits: &Limits,
        arguments: &mut Arguments,
    ) -> Result<Step, ProtocolError> {
        if self.partial.is_some() {
            return self.resume(input, limits, arguments);
        }
        arguments.clear();
        let cursor = skim(input, limits, arguments);
        if cursor.position > 0 && cursor.remaining == 0 {
            return Ok(Step::Request { consumed: cursor.position });
        }
        self.start(cursor, input, limits, arguments)
    }

    /// Goes on where [`skim`] stopped.
    #[inline(never)]
    fn start(
        &mut self,
        mut cursor: Cursor,
        input: &[u8],
        limits: &Limits,
        arguments: &mut Arguments,
    ) -> Result<Step, ProtocolError> {
        let step = cursor.advance(input, limits, arguments)?;
        if let Step::Incomplete { bytes_needed_min } = step
            && !input.is_empty()
        {
            self.partial = Some(Box::new(Partial {
                cursor,
                arguments: std::mem::take(arguments),
                input_len_min: input.len() + bytes_needed_min,
            }));
        }
        Ok(step)
    }

    /// Goes on where an earlier call stopped.
    #[inline(never)]
    fn resume(
        &mut self,
        input: &[u8],
        limits: &Limits,
        arguments: &mut Arguments,
    ) -> Result<Step, ProtocolError> {
        let mut partial = self.partial.take().expect("called within a request only");
        if input.len() < partial.input_len_min {
            let bytes_needed_min = partial.input_len_min - input.len();
            self.partial = Some(partial);
            return Ok(Step::Incomplete { bytes_needed_min });
        }
        let step = partial.cursor.advance(input, limits, &mut partial.arguments)?;
        if let Step::Incomplete { bytes_needed_min } = step {
            partial.input_len_min = input.len() + bytes_needed_min;
            self.partial = Some(partial);
        } else {
            *arguments = partial.arguments;
        }
        Ok(step)
    }
}

/// The common case: up to nine short arguments, all there. Reads as far as that holds, and leaves
/// anything else, errors too, to [`Cursor::advance`].
#[inline]
fn skim(input: &[u8], limits: &Limits, arguments: &mut Arguments) -> Cursor {
    let [b'*', count @ b'1'..=b'9', b'\r', b'\n', ..] = *input else {
        return Cursor::START;
    };
    let mut remaining = usize::from(count - b'0');
    if remaining > limits.multibulk_count_max {
        return Cursor::START;
    }
    let request_bytes_max = limits.request_bytes_max.min(OFFSET_MAX);
    let mut position = 4;
    while remaining > 0 {
        let Some((header_len, bulk_len)) = parse_short_bulk_header(&input[position..]) else {
            break;
        };
        let start = position + header_len;
        let end = start + bulk_len;
        if input.get(end..end + 2) != Some(b"\r\n")
            || bulk_len > limits.bulk_bytes_max
            || end + 2 > request_bytes_max
        {
            break;
        }
        arguments.push_range(start, bulk_len);
        position = end + 2;
        remaining -= 1;
    }
    Cursor { position, line_end_min: position, remaining, bulk_len: None }
}

/// How far into a request one has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cursor {
    /// Where the current line or bulk begins. Bytes before it are not read again.
    position: usize,
    /// The current line does not end before this.
    line_end_min: usize,
    /// Arguments still to come, the current one included; no number before the first header.
    remaining: usize,
    /// The length of the current bulk, once its header has been read.
    bulk_len: Option<usize>,
}

impl Cursor {
    const START: Self = Self { position: 0, line_end_min: 0, remaining: 0, bulk_len: None };

    fn advance(
        &mut self,
        input: &[u8],
        limits: &Limits,
        arguments: &mut Arguments,
    ) -> Result<Step, ProtocolError> {
        const LINE_INCOMPLETE: Step = Step::Incomplete { bytes_needed_min: 1 };
        if self.position == 0 {
            match input.first() {
                None => return Ok(LINE_INCOMPLETE),
                Some(b'*') => {}
                Some(_) => return self.read_inline(input, limits, arguments),
            }
            match self.read_count(input, limits)? {
                None => return Ok(LINE_INCOMPLETE),
                Some(0) => return Ok(Step::Empty { consumed: self.position }),
                Some(count) => self.remaining = count,
            }
        }
        while self.remaining > 0 {
            if self.bulk_len.is_none() {
                self.bulk_len = self.read_bulk_len(input, limits)?;
            }
            let Some(bulk_len) = self.bulk_len else {
                return Ok(LINE_INCOMPLETE);
            };
            let end = self.position + bulk_len;
            match input.get(end..end + 2) {
                None => return Ok(Step::Incomplete { bytes_needed_min: end + 2 - input.len() }),
                Some(b"\r\n") => arguments.push_range(self.position, bulk_len),
                Some(_) => return Err(ProtocolError::UnterminatedBulk),
            }
            self.remaining -= 1;
            self.bulk_len = None;
            self.start_line(end + 2);
        }
        Ok(Step::Request { consumed: self.position })
    }

    /// The number of arguments, once its line is there: zero too where it is negative.
    fn read_count(
        &mut self,
        input: &[u8],
        limits: &Limits,
    ) -> Result<Option<usize>, ProtocolError> {
        let invalid = ProtocolError::InvalidMultibulkLength;
        let Some(number) =
            self.read_header(input, limits, invalid, ProtocolError::TooBigMultibulkCount)?
        else {
            return Ok(None);
        };
        let count = usize::try_from(parse_integer(number).ok_or(invalid)?.max(0));
        let count = count.ok().filter(|&it| it <= limits.multibulk_count_max).ok_or(invalid)?;
        match limits.authentication {
            Authentication::Pending if count > UNAUTHENTICATED_COUNT_MAX => {
                Err(ProtocolError::UnauthenticatedMultibulkLength)
            }
            Authentication::Pending | Authentication::Done => Ok(Some(count)),
        }
    }

    /// The length of the current argument, once its header is there.
    fn read_bulk_len(
        &mut self,
        input: &[u8],
        limits: &Limits,
    ) -> Result<Option<usize>, ProtocolError> {
        match input.get(self.position) {
            None => return Ok(None),
            Some(b'$') => {}
            Some(&byte) => return Err(ProtocolError::ExpectedBulk(byte)),
        }
        let invalid = ProtocolError::InvalidBulkLength;
        let len = if let Some((header_len, len)) = parse_short_bulk_header(&input[self.position..])
        {
            self.start_line(self.position + header_len);
            len
        } else {
            let too_big = ProtocolError::TooBigBulkCount;
            let Some(number) = self.read_header(input, limits, invalid, too_big)? else {
                return Ok(None);
            };
            let number = parse_integer(number).ok_or(invalid)?;
            usize::try_from(number).map_err(|_| invalid)?
        };
        if len > limits.bulk_bytes_max {
            return Err(invalid);
        }
        if limits.authentication == Authentication::Pending && len > UNAUTHENTICATED_BULK_BYTES_MAX
        {
            return Err(ProtocolError::UnauthenticatedBulkLength);
        }
        let request_bytes_max = limits.request_bytes_max.min(OFFSET_MAX);
        let request_len = len.checked_add(self.position + 2);
        if request_len.is_none_or(|it| it > request_bytes_max) {
            return Err(ProtocolError::TooBigRequest);
        }
        Ok(Some(len))
    }

    /// The current line without its first byte and its end, once it is there; then the next line
    /// begins.
    fn read_header<'a>(
        &mut self,
        input: &'a [u8],
        limits: &Limits,
        invalid: ProtocolError,
        too_big: ProtocolError,
    ) -> Result<Option<&'a [u8]>, ProtocolError> {
        let Some(line_end) = self.find_line_end(b'\r', input, limits).ok_or(too_big)? else {
            return Ok(None);
        };
        match input.get(line_end + 1) {
            None => Ok(None),
            Some(b'\n') => {
                let number = &input[self.position + 1..line_end];
                self.start_line(line_end + 2);
                Ok(Some(number))
            }
            Some(_) => Err(invalid),
        }
    }

    fn read_inline(
        &mut self,
        input: &[u8],
        limits: &Limits,
        arguments: &mut Arguments,
    ) -> Result<Step, ProtocolError> {
        let found = self.find_line_end(b'\n', input, limits).ok_or(ProtocolError::TooBigInline)?;
        let Some(line_end) = found else {
            return Ok(Step::Incomplete { bytes_needed_min: 1 });
        };
        let line = &input[..line_end];
        split_words(line.strip_suffix(b"\r").unwrap_or(line), arguments)?;
        let consumed = line_end + 1;
        Ok(if arguments.is_empty() { Step::Empty { consumed } } else { Step::Request { consumed } })
    }

    /// Where the current line ends: `Some(None)` when its end is yet to come, `None` when it is
    /// longer than a line may be.
    fn find_line_end(&mut self, end: u8, input: &[u8], limits: &Limits) -> Option<Option<usize>> {
        let line_end_max = self.position + limits.inline_bytes_max.min(OFFSET_MAX);
        let window = &input[..input.len().min(line_end_max + 1)];
        let searched_len = self.line_end_min.min(window.len());
        let found = memchr(end, &window[searched_len..]).map(|it| searched_len + it);
        self.line_end_min = found.unwrap_or(window.len());
        if found.is_none() && input.len() > line_end_max { None } else { Some(found) }
    }

    fn start_line(&mut self, position: usize) {
        self.position = position;
        self.line_end_min = position;
    }
}

#[cfg(test)]
mod tests;
