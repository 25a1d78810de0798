//! Inline commands: a line of words, as one types them into a terminal.
//!
//! Words are separated by blanks. A word may hold quoted parts, in which blanks are text:
//!
//! - `"..."` knows `\n \r \t \b \a`, `\xHH`, and takes any other character after a backslash as it
//!   is;
//! - `'...'` knows only `\'`.
//!
//! A closing quote ends the word, so a blank or the end of the line must follow it.

use super::Arguments;

/// A quote was not closed, or something follows its end without a blank between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UnbalancedQuotes;

/// Adds the words of `line`, which begins the input, to `arguments`.
pub(super) fn split_words(line: &[u8], arguments: &mut Arguments) -> Result<(), UnbalancedQuotes> {
    let mut position = 0;
    loop {
        position += line[position..].iter().take_while(|&&byte| is_blank(byte)).count();
        let rest = &line[position..];
        if rest.is_empty() {
            return Ok(());
        }
        let plain_len = rest.iter().take_while(|&&byte| !ends_plain_text(byte)).count();
        position += match rest.get(plain_len) {
            Some(b'"' | b'\'') => {
                arguments.push_unquoted(|out| unquote_word(rest, out)).ok_or(UnbalancedQuotes)?
            }
            _ => {
                arguments.push_range(position, plain_len);
                plain_len
            }
        };
    }
}

/// Appends the text of the word that begins `rest`; the length of its quoted form, or `None` when
/// its quotes do not match.
fn unquote_word(rest: &[u8], out: &mut Vec<u8>) -> Option<usize> {
    let plain_len = rest.iter().take_while(|&&byte| !ends_plain_text(byte)).count();
    out.extend_from_slice(&rest[..plain_len]);
    let quoted = &rest[plain_len..];
    let quoted_len = match quoted {
        [b'"', text @ ..] => 1 + unquote_double(text, out)?,
        [b'\'', text @ ..] => 1 + unquote_single(text, out)?,
        _ => return Some(plain_len),
    };
    match quoted.get(quoted_len) {
        Some(&byte) if !is_blank(byte) => None,
        _ => Some(plain_len + quoted_len),
    }
}

/// Appends text up to a closing `"`; its length in quoted form, the closing quote included.
fn unquote_double(text: &[u8], out: &mut Vec<u8>) -> Option<usize> {
    let mut position = 0;
    loop {
        let (byte, len) = match text[position..] {
            [] => return None,
            [b'"', ..] => return Some(position + 1),
            [b'\\', b'x', high, low, ..] if is_hex(high) && is_hex(low) => {
                (hex_value(high) << 4 | hex_value(low), 4)
            }
            [b'\\', escaped, ..] => (unescape(escaped), 2),
            [byte, ..] => (byte, 1),
        };
        out.push(byte);
        position += len;
    }
}

/// Appends text up to a closing `'`; its length in quoted form, the closing quote included.
fn unquote_single(text: &[u8], out: &mut Vec<u8>) -> Option<usize> {
    let mut position = 0;
    loop {
        let (byte, len) = match text[position..] {
            [] => return None,
            [b'\'', ..] => return Some(position + 1),
            [b'\\', b'\'', ..] => (b'\'', 2),
            [byte, ..] => (byte, 1),
        };
        out.push(byte);
        position += len;
    }
}

fn unescape(byte: u8) -> u8 {
    match byte {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 8,
        b'a' => 7,
        other => other,
    }
}

fn is_hex(byte: u8) -> bool {
    byte.is_ascii_hexdigit()
}

fn hex_value(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

/// C's `isspace`.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

/// Vertical tabs and form feeds are blanks only between words, not at the end of one.
fn ends_plain_text(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | b'"' | b'\'')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(line: &[u8]) -> Result<Vec<Vec<u8>>, UnbalancedQuotes> {
        let mut arguments = Arguments::new();
        split_words(line, &mut arguments)?;
        Ok(arguments.iter(line).map(<[u8]>::to_vec).collect())
    }

    #[test]
    fn words_are_separated_by_any_blanks() {
        let words = split(b"\x0c set \t \x0bkey\rva\x0blue  ").unwrap();
        assert_eq!(words, [&b"set"[..], b"key", b"va\x0blue"]);
        assert_eq!(split(b" \t ").unwrap(), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn quotes_keep_blanks_and_escapes_name_bytes() {
        for (line, word) in [
            (&br#""a b""#[..], &b"a b"[..]),
            (br#""\n\r\t\b\a\\\"\q""#, b"\n\r\t\x08\x07\\\"q"),
            (br#""\x00\xfF\xg1\x1""#, b"\x00\xffxg1x1"),
            (br"'a \n \' b'", b"a \\n ' b"),
            (br#"foo"bar""#, b"foobar"),
            (br#"foo'b"r'"#, b"foob\"r"),
            (br#""""#, b""),
            (b"''", b""),
            (br"\x41", br"\x41"),
        ] {
            assert_eq!(split(line).unwrap(), [word], "{}", line.escape_ascii());
        }
    }

    #[test]
    fn quotes_must_be_closed_and_followed_by_a_blank() {
        for line in [
            &br#"""#[..],
            b"'",
            br#"get "key"#,
            b"get 'key",
            br#""a"b"#,
            b"'a'b",
            br#""a""b""#,
            br#""\"#,
            br#""\""#,
            br"'\'",
        ] {
            assert_eq!(split(line), Err(UnbalancedQuotes), "{}", line.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_survive_quoting(words in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..5)) {
            let mut line = String::new();
            for word in &words {
                let hex: String = word.iter().map(|byte| format!("\\x{byte:02x}")).collect();
                line.push_str(&format!("\"{hex}\" "));
            }
            prop_assert_eq!(split(line.as_bytes()).unwrap(), words);
        }

        #[test]
        fn arbitrary_lines_are_split_or_refused(line in prop::collection::vec(prop::sample::select(&b"a \\\"'x0nr\t\0"[..]), 0..40)) {
            if let Ok(words) = split(&line) {
                prop_assert!(words.iter().map(Vec::len).sum::<usize>() <= line.len());
            }
        }
    }
}
