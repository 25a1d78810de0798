//! Replies as owned values, for tests and for those who send few commands.

use super::client::{Element, Progress, ReplyError, scan_reply};
use super::header::parse_integer;

/// How deep a reply may nest.
const DEPTH_MAX: usize = 64;

/// What a reply says.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// No value, or no array.
    Null,
    /// A short status.
    Simple(Vec<u8>),
    /// A refusal.
    Error(Vec<u8>),
    /// A number.
    Integer(i64),
    /// A string of any bytes.
    Bulk(Vec<u8>),
    /// Values in order.
    Array(Vec<Self>),
    /// Keys and values, in the order they came.
    Map(Vec<(Self, Self)>),
    /// Values in no order that matters.
    Set(Vec<Self>),
    /// A message that answers no request.
    Push(Vec<Self>),
    /// A floating-point number.
    Double(f64),
    /// True or false.
    Boolean(bool),
    /// Text for people, its format first.
    Verbatim([u8; 3], Vec<u8>),
    /// A number of any size, in decimal digits.
    BigNumber(Vec<u8>),
}

/// Reads the reply that `input` begins with, and its length; `None` when its end is yet to come.
/// Attributes are skipped.
///
/// # Errors
///
/// [`ReplyError`] when it is malformed, or nested deeper than 64 values.
pub fn parse_reply(input: &[u8]) -> Result<Option<(Value, usize)>, ReplyError> {
    let Some(scanned) = scan_reply(input)? else {
        return Ok(None);
    };
    let mut reader = Reader { input: &input[..scanned.len], position: 0 };
    let value = reader.read(DEPTH_MAX)?;
    assert_eq!(reader.position, scanned.len);
    Ok(Some((value, scanned.len)))
}

/// Reads a reply that is all there.
struct Reader<'a> {
    input: &'a [u8],
    position: usize,
}

impl Reader<'_> {
    fn read(&mut self, depth_left: usize) -> Result<Value, ReplyError> {
        let depth_left = depth_left.checked_sub(1).ok_or(ReplyError::TooDeep)?;
        let mut element = self.next()?;
        while element.tag == b'|' {
            self.read_all(element.children, depth_left)?;
            element = self.next()?;
        }
        if element.is_null {
            return Ok(Value::Null);
        }
        let text = &self.input[element.text];
        let as_str = || str::from_utf8(text).map_err(|_| ReplyError::InvalidValue);
        Ok(match element.tag {
            b'+' => Value::Simple(text.to_vec()),
            b'-' | b'!' => Value::Error(text.to_vec()),
            b'$' => Value::Bulk(text.to_vec()),
            b'(' => Value::BigNumber(text.to_vec()),
            b':' => Value::Integer(parse_integer(text).ok_or(ReplyError::InvalidValue)?),
            b',' => Value::Double(as_str()?.parse().map_err(|_| ReplyError::InvalidValue)?),
            b'#' => match text {
                b"t" => Value::Boolean(true),
                b"f" => Value::Boolean(false),
                _ => return Err(ReplyError::InvalidValue),
            },
            b'=' => match *text {
                [a, b, c, b':', ref text @ ..] => Value::Verbatim([a, b, c], text.to_vec()),
                _ => return Err(ReplyError::InvalidValue),
            },
            b'%' => Value::Map(self.read_pairs(element.children / 2, depth_left)?),
            b'~' => Value::Set(self.read_all(element.children, depth_left)?),
            b'>' => Value::Push(self.read_all(element.children, depth_left)?),
            _ => Value::Array(self.read_all(element.children, depth_left)?),
        })
    }

    fn read_all(&mut self, count: u64, depth_left: usize) -> Result<Vec<Value>, ReplyError> {
        (0..count).map(|_| self.read(depth_left)).collect()
    }

    fn read_pairs(
        &mut self,
        count: u64,
        depth_left: usize,
    ) -> Result<Vec<(Value, Value)>, ReplyError> {
        (0..count).map(|_| Ok((self.read(depth_left)?, self.read(depth_left)?))).collect()
    }

    fn next(&mut self) -> Result<Element, ReplyError> {
        match Element::read(self.input, self.position, self.position)? {
            Progress::Whole(element) => {
                self.position = element.end;
                Ok(element)
            }
            Progress::Cut { .. } => Err(ReplyError::Unterminated),
        }
    }
}
