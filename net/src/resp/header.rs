//! The numbers in RESP's headers: read strictly, written fast.

/// A decimal number as Redis reads it from the wire: an optional minus sign and digits, without
/// plus sign, blanks or leading zeros (`-0` is none either).
pub(super) fn parse_integer(text: &[u8]) -> Option<i64> {
    let (digits, negative) = match text {
        [b'-', digits @ ..] => (digits, true),
        digits => (digits, false),
    };
    match digits {
        [b'0'] if !negative => return Some(0),
        [b'1'..=b'9', ..] => {}
        _ => return None,
    }
    // Sums up below zero, where the smallest number has room too.
    let mut value = 0i64;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        value = value.checked_mul(10)?.checked_sub(i64::from(digit - b'0'))?;
    }
    if negative { Some(value) } else { value.checked_neg() }
}

/// The length of the header and of the bulk, when `rest` begins with a whole bulk header of one
/// to three digits.
#[inline]
pub(super) fn parse_short_bulk_header(rest: &[u8]) -> Option<(usize, usize)> {
    let digit = |byte: u8| usize::from(byte - b'0');
    match *rest {
        [b'$', a @ b'0'..=b'9', b'\r', b'\n', ..] => Some((4, digit(a))),
        [b'$', a @ b'1'..=b'9', b @ b'0'..=b'9', b'\r', b'\n', ..] => {
            Some((5, digit(a) * 10 + digit(b)))
        }
        [b'$', a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', b'\r', b'\n', ..] => {
            Some((6, digit(a) * 100 + digit(b) * 10 + digit(c)))
        }
        _ => None,
    }
}

/// Appends `kind`, `number` and a line end.
#[inline]
pub(super) fn write_header(out: &mut Vec<u8>, kind: u8, number: usize) {
    // Below one hundred, the remainders fit in a byte.
    let digit = |value: usize| b'0' + (value % 10) as u8;
    if number < 10 {
        out.extend_from_slice(&[kind, digit(number), b'\r', b'\n']);
    } else if number < 100 {
        out.extend_from_slice(&[kind, digit(number / 10), digit(number), b'\r', b'\n']);
    } else {
        out.push(kind);
        out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

/// Appends a bulk string, or another kind with the same form.
#[inline]
pub(super) fn write_bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    out.reserve(bytes.len() + 24);
    write_header(out, b'$', bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn integers_are_read_as_strictly_as_redis_reads_them() {
        for (text, value) in [
            ("0", Some(0)),
            ("7", Some(7)),
            ("-1", Some(-1)),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("-9223372036854775809", None),
            ("99999999999999999999", None),
            ("", None),
            ("-", None),
            ("-0", None),
            ("+1", None),
            ("00", None),
            ("01", None),
            (" 1", None),
            ("1 ", None),
            ("1a", None),
            ("0x1", None),
        ] {
            assert_eq!(parse_integer(text.as_bytes()), value, "{text:?}");
        }
    }

    #[test]
    fn short_bulk_headers_with_anything_unusual_are_left_to_the_long_way() {
        for (text, found) in [
            ("$0\r\n", Some((4, 0))),
            ("$42\r\nrest", Some((5, 42))),
            ("$999\r\n", Some((6, 999))),
            ("$1000\r\n", None),
            ("$00\r\n", None),
            ("$012\r\n", None),
            ("$-1\r\n", None),
            ("$1\r", None),
            ("", None),
        ] {
            assert_eq!(parse_short_bulk_header(text.as_bytes()), found, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn every_integer_is_read_back(value: i64) {
            prop_assert_eq!(parse_integer(value.to_string().as_bytes()), Some(value));
        }

        #[test]
        fn every_header_is_its_kind_its_number_and_a_line_end(number in 0usize..2000) {
            let mut out = Vec::new();
            write_header(&mut out, b'*', number);
            prop_assert_eq!(out, format!("*{number}\r\n").into_bytes());
        }
    }
}
