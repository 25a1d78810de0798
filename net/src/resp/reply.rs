//! Replies in the words of RESP2 or RESP3, appended to a connection's output.
//!
//! What RESP2 cannot say is said as Redis says it to old clients: a map as a flat array, a set or
//! a push as an array, a double or a verbatim string as a bulk string, a boolean as 0 or 1.
//!
//! # Invariants
//!
//! - One call appends one header or one whole value. That a header is followed by as many values
//!   as it announces is for the caller to keep.
//! - The text of an error or of a simple string cannot end its line early: line ends in it become
//!   spaces.

use std::fmt;
use std::io::Write;

use super::header::{write_bulk, write_header};

/// The version a connection speaks: RESP2 until the client asks for RESP3 with `HELLO 3`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// The version of old.
    #[default]
    Resp2,
    /// With maps, sets, doubles, booleans and pushed messages.
    Resp3,
}

/// Writes replies for one connection.
#[derive(Debug)]
pub struct Reply<'a> {
    out: &'a mut Vec<u8>,
    protocol: Protocol,
}

impl<'a> Reply<'a> {
    /// A writer that appends to `out`.
    #[inline]
    pub fn new(out: &'a mut Vec<u8>, protocol: Protocol) -> Self {
        Self { out, protocol }
    }

    /// The version spoken.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Speaks another version from here on.
    pub fn set_protocol(&mut self, protocol: Protocol) {
        self.protocol = protocol;
    }

    /// `OK`.
    #[inline]
    pub fn ok(&mut self) {
        self.out.extend_from_slice(b"+OK\r\n");
    }

    /// A short status.
    pub fn simple(&mut self, text: &str) {
        self.line(b'+', format_args!("{text}"));
    }

    /// An error: a code in capitals and a text, `ERR unknown command`.
    pub fn error(&mut self, text: impl fmt::Display) {
        self.line(b'-', format_args!("{text}"));
    }

    /// A number.
    #[inline]
    pub fn integer(&mut self, value: i64) {
        match usize::try_from(value) {
            Ok(value) => write_header(self.out, b':', value),
            Err(_) => {
                self.out.push(b':');
                self.out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
                self.out.extend_from_slice(b"\r\n");
            }
        }
    }

    /// A string of any bytes.
    #[inline]
    pub fn bulk(&mut self, bytes: &[u8]) {
        write_bulk(self.out, bytes);
    }

    /// No value.
    #[inline]
    pub fn null(&mut self) {
        self.out.extend_from_slice(match self.protocol {
            Protocol::Resp2 => b"$-1\r\n",
            Protocol::Resp3 => b"_\r\n",
        });
    }

    /// No value, where there could have been an array.
    pub fn null_array(&mut self) {
        self.out.extend_from_slice(match self.protocol {
            Protocol::Resp2 => b"*-1\r\n",
            Protocol::Resp3 => b"_\r\n",
        });
    }

    /// The header of an array: `len` values follow.
    #[inline]
    pub fn array(&mut self, len: usize) {
        write_header(self.out, b'*', len);
    }

    /// The header of a map: a key and a value follow, `len` times.
    ///
    /// # Panics
    ///
    /// When twice `len` is more than a `usize` can say.
    pub fn map(&mut self, len: usize) {
        match self.protocol {
            Protocol::Resp2 => {
                let values = len.checked_mul(2).expect("a map has fewer entries than memory bytes");
                write_header(self.out, b'*', values);
            }
            Protocol::Resp3 => write_header(self.out, b'%', len),
        }
    }

    /// The header of a set: `len` values follow.
    pub fn set(&mut self, len: usize) {
        self.aggregate(b'~', len);
    }

    /// The header of a message that answers no request: `len` values follow.
    pub fn push(&mut self, len: usize) {
        self.aggregate(b'>', len);
    }

    /// A floating-point number, in the shortest form that reads back as the same number.
    pub fn double(&mut self, value: f64) {
        let mut text = Vec::with_capacity(32);
        write_double(&mut text, value);
        match self.protocol {
            Protocol::Resp2 => self.bulk(&text),
            Protocol::Resp3 => {
                self.out.push(b',');
                self.out.extend_from_slice(&text);
                self.out.extend_from_slice(b"\r\n");
            }
        }
    }

    /// True or false.
    pub fn boolean(&mut self, value: bool) {
        self.out.extend_from_slice(match (self.protocol, value) {
            (Protocol::Resp2, false) => b":0\r\n",
            (Protocol::Resp2, true) => b":1\r\n",
            (Protocol::Resp3, false) => b"#f\r\n",
            (Protocol::Resp3, true) => b"#t\r\n",
        });
    }

    /// Text for people, of a format such as `txt` or `mkd`.
    pub fn verbatim(&mut self, format: [u8; 3], text: &[u8]) {
        match self.protocol {
            Protocol::Resp2 => self.bulk(text),
            Protocol::Resp3 => {
                write_header(self.out, b'=', text.len() + 4);
                self.out.extend_from_slice(&format);
                self.out.push(b':');
                self.out.extend_from_slice(text);
                self.out.extend_from_slice(b"\r\n");
            }
        }
    }

    fn aggregate(&mut self, kind: u8, len: usize) {
        let kind = match self.protocol {
            Protocol::Resp2 => b'*',
            Protocol::Resp3 => kind,
        };
        write_header(self.out, kind, len);
    }

    fn line(&mut self, kind: u8, text: fmt::Arguments<'_>) {
        self.out.push(kind);
        let start = self.out.len();
        // A vector takes every byte; a text that cannot format itself is sent as far as it came.
        let _ = self.out.write_fmt(text);
        for byte in &mut self.out[start..] {
            if matches!(byte, b'\r' | b'\n') {
                *byte = b' ';
            }
        }
        self.out.extend_from_slice(b"\r\n");
    }
}

/// Appends `value` as Redis 7.2 writes it: the fewest digits that read back the same, an exponent
/// only for numbers that are long without.
fn write_double(out: &mut Vec<u8>, value: f64) {
    if value.is_nan() {
        return out.extend_from_slice(b"nan");
    }
    if value.is_sign_negative() {
        out.push(b'-');
    }
    if value.is_infinite() {
        return out.extend_from_slice(b"inf");
    }
    let scientific = format!("{:e}", value.abs());
    let (mantissa, exponent) =
        scientific.split_once('e').expect("the scientific form has an exponent");
    let exponent: isize = exponent.parse().expect("the exponent is a small integer");
    let digits: Vec<u8> = mantissa.bytes().filter(|&it| it != b'.').collect();
    write_digits(out, &digits, exponent);
}

/// Appends `digits`, the first of which stands for that many times ten to the `exponent`.
fn write_digits(out: &mut Vec<u8>, digits: &[u8], exponent: isize) {
    let len = digits.len() as isize; // At most 17.
    let last_exponent = exponent - (len - 1);
    if last_exponent >= 0 && exponent < len + 7 {
        out.extend_from_slice(digits);
        out.extend((0..last_exponent).map(|_| b'0'));
    } else if last_exponent < 0 && (last_exponent > -7 || exponent.abs() < 4) {
        if exponent >= 0 {
            let (whole, fraction) = digits.split_at(exponent.unsigned_abs() + 1);
            out.extend_from_slice(whole);
            out.push(b'.');
            out.extend_from_slice(fraction);
        } else {
            out.extend_from_slice(b"0.");
            out.extend((exponent + 1..0).map(|_| b'0'));
            out.extend_from_slice(digits);
        }
    } else {
        out.push(digits[0]);
        if let [_, fraction @ ..] = digits
            && !fraction.is_empty()
        {
            out.push(b'.');
            out.extend_from_slice(fraction);
        }
        out.extend_from_slice(if exponent < 0 { b"e-" } else { b"e+" });
        out.extend_from_slice(itoa::Buffer::new().format(exponent.unsigned_abs()).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What `write` says in RESP2 and in RESP3.
    fn both(write: impl Fn(&mut Reply<'_>)) -> [String; 2] {
        [Protocol::Resp2, Protocol::Resp3].map(|protocol| {
            let mut out = Vec::new();
            write(&mut Reply::new(&mut out, protocol));
            String::from_utf8(out).unwrap()
        })
    }

    #[test]
    fn both_versions_say_strings_numbers_and_arrays_alike() {
        for (written, expected) in [
            (both(|it| it.ok()), "+OK\r\n"),
            (both(|it| it.simple("PONG")), "+PONG\r\n"),
            (both(|it| it.error("ERR no")), "-ERR no\r\n"),
            (both(|it| it.integer(0)), ":0\r\n"),
            (both(|it| it.integer(-7)), ":-7\r\n"),
            (both(|it| it.integer(1234)), ":1234\r\n"),
            (both(|it| it.integer(i64::MIN)), ":-9223372036854775808\r\n"),
            (both(|it| it.bulk(b"")), "$0\r\n\r\n"),
            (both(|it| it.bulk(&[b'x'; 12])), "$12\r\nxxxxxxxxxxxx\r\n"),
            (both(|it| it.array(0)), "*0\r\n"),
            (both(|it| it.array(100)), "*100\r\n"),
        ] {
            assert_eq!(written, [expected, expected]);
        }
    }

    #[test]
    fn the_old_version_says_new_types_as_redis_does() {
        for (written, resp2, resp3) in [
            (both(|it| it.null()), "$-1\r\n", "_\r\n"),
            (both(|it| it.null_array()), "*-1\r\n", "_\r\n"),
            (both(|it| it.map(3)), "*6\r\n", "%3\r\n"),
            (both(|it| it.set(3)), "*3\r\n", "~3\r\n"),
            (both(|it| it.push(3)), "*3\r\n", ">3\r\n"),
            (both(|it| it.boolean(true)), ":1\r\n", "#t\r\n"),
            (both(|it| it.boolean(false)), ":0\r\n", "#f\r\n"),
            (both(|it| it.double(1.5)), "$3\r\n1.5\r\n", ",1.5\r\n"),
            (both(|it| it.double(f64::NEG_INFINITY)), "$4\r\n-inf\r\n", ",-inf\r\n"),
            (both(|it| it.verbatim(*b"txt", b"hi")), "$2\r\nhi\r\n", "=6\r\ntxt:hi\r\n"),
        ] {
            assert_eq!(written, [resp2, resp3]);
        }
    }

    #[test]
    fn errors_and_statuses_stay_on_one_line() {
        let [resp2, _] = both(|it| {
            it.error("ERR a\r\n+OK\r\n");
            it.simple("b\nc\r");
        });
        assert_eq!(resp2, "-ERR a  +OK  \r\n+b c \r\n");
    }

    #[test]
    fn doubles_are_written_as_redis_writes_them() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (3.0, "3"),
            (-1.25, "-1.25"),
            (0.1, "0.1"),
            (100.0, "100"),
            (12345678.0, "12345678"),
            (1e7, "10000000"),
            (1e8, "1e+8"),
            (1.5e8, "150000000"),
            (1e21, "1e+21"),
            (1.5e300, "1.5e+300"),
            (0.001, "0.001"),
            (0.000001, "0.000001"),
            (1e-7, "1e-7"),
            (1.25e-7, "1.25e-7"),
            (0.0012345678901234, "0.0012345678901234"),
            (0.00012345678901234, "1.2345678901234e-4"),
            (std::f64::consts::PI, "3.141592653589793"),
            (f64::MAX, "1.7976931348623157e+308"),
            (5e-324, "5e-324"),
            (f64::INFINITY, "inf"),
            (f64::NAN, "nan"),
        ] {
            let mut out = Vec::new();
            write_double(&mut out, value);
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }

    proptest! {
        #[test]
        fn every_double_reads_back_as_itself(bits: u64) {
            let value = f64::from_bits(bits);
            prop_assume!(!value.is_nan());
            let mut out = Vec::new();
            write_double(&mut out, value);
            let read: f64 = String::from_utf8(out).unwrap().parse().unwrap();
            prop_assert_eq!(read.to_bits(), bits);
        }
    }
}
