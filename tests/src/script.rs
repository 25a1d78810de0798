//! Tables of requests with the replies that they must get, as text files.
//!
//! ```text
//! # A comment.
//! === a scenario: a new connection to an empty store
//! > SET key "two words\r\n"
//! < +OK|
//! > GET key
//! < $11|two words||
//! ```
//!
//! A request is words, in `"..."` with escapes where they hold blanks or other bytes;
//! `{x*100}` within a word repeats. A reply is written byte by byte, escaped, with `|` for a line
//! end. How it is compared:
//!
//! | mark | here | with Redis |
//! |---|---|---|
//! | `<` | the same bytes | the same bytes |
//! | `<~` | matches, `*` standing for anything | matches too |
//! | `<%` | the same lines, in any order | the same lines |
//! | `<+` | the same bytes | not compared: later than the Redis 7.0 that may be installed |
//! | `<!` | the same bytes | not compared: different on purpose, the comment says why |
//! | `<!~` | matches | not compared |
//! | `<x` | the connection is closed | the connection is closed |

/// How a reply is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Byte for byte.
    Same,
    /// By a pattern.
    Like,
    /// Line by line, in any order.
    AnyOrder,
    /// Byte for byte, but not with Redis.
    Own,
    /// By a pattern, but not with Redis.
    OwnLike,
    /// The connection is closed.
    Closed,
}

/// One reply that must come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// How it is compared.
    pub mark: Mark,
    /// Its text.
    pub text: String,
}

/// A request and the replies that it must get: one, or none, or several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The line in the file.
    pub line: usize,
    /// Its words.
    pub words: Vec<Vec<u8>>,
    /// What comes back.
    pub replies: Vec<Expected>,
}

/// Requests on one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// What it shows.
    pub title: String,
    /// Its requests.
    pub steps: Vec<Step>,
}

/// Reads a table.
///
/// # Panics
///
/// When it is not written as it should be.
#[must_use]
pub fn parse(text: &str) -> Vec<Scenario> {
    let mut scenarios: Vec<Scenario> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        if let Some(title) = line.strip_prefix("=== ") {
            scenarios.push(Scenario { title: title.to_owned(), steps: Vec::new() });
        } else if let Some(request) = line.strip_prefix("> ") {
            let scenario = scenarios.last_mut().expect("a scenario begins the table");
            let words = words(request);
            scenario.steps.push(Step { line: number, words, replies: Vec::new() });
        } else if let Some(reply) = line.strip_prefix('<') {
            let step = scenarios.last_mut().and_then(|it| it.steps.last_mut());
            step.expect("a request comes before its reply").replies.push(expected(reply));
        } else {
            assert!(line.is_empty() || line.starts_with('#'), "line {number}: {line}");
        }
    }
    scenarios
}

fn expected(reply: &str) -> Expected {
    let (mark, text) = reply.split_once(' ').unwrap_or((reply, ""));
    let mark = match mark {
        "" => Mark::Same,
        "~" => Mark::Like,
        "%" => Mark::AnyOrder,
        "+" | "!" => Mark::Own,
        "!~" | "+~" => Mark::OwnLike,
        "x" => Mark::Closed,
        _ => panic!("a mark, not {mark}"),
    };
    Expected { mark, text: text.to_owned() }
}

/// The words of a request.
///
/// # Panics
///
/// When quotes or braces do not match.
#[must_use]
pub fn words(line: &str) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() {
        let mut word = Vec::new();
        if let Some(quoted) = rest.strip_prefix('"') {
            rest = unquote(quoted, &mut word);
        } else {
            let end = rest.find(' ').unwrap_or(rest.len());
            repeat(&rest[..end], &mut word);
            rest = &rest[end..];
        }
        words.push(word);
        rest = rest.trim_start();
    }
    words
}

fn unquote<'a>(quoted: &'a str, word: &mut Vec<u8>) -> &'a str {
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        let mut next = || characters.next().expect("an escape has an end").1;
        match character {
            '"' => return &quoted[at + 1..],
            '\\' => match next() {
                'n' => word.push(b'\n'),
                'r' => word.push(b'\r'),
                't' => word.push(b'\t'),
                'x' => {
                    let digits = String::from_iter([next(), next()]);
                    word.push(u8::from_str_radix(&digits, 16).expect("two hex digits"));
                }
                other => word.extend_from_slice(other.to_string().as_bytes()),
            },
            other => word.extend_from_slice(other.to_string().as_bytes()),
        }
    }
    panic!("a quote is closed: {quoted}")
}

/// `a{b*3}c` is `abbbc`.
fn repeat(text: &str, word: &mut Vec<u8>) {
    let repeated = text.split_once('{').and_then(|(before, rest)| {
        let (inner, after) = rest.split_once('}')?;
        let (piece, count) = inner.split_once('*')?;
        Some((before, piece.repeat(count.parse().ok()?), after))
    });
    match repeated {
        Some((before, middle, after)) => {
            word.extend_from_slice(before.as_bytes());
            word.extend_from_slice(middle.as_bytes());
            repeat(after, word);
        }
        None => word.extend_from_slice(text.as_bytes()),
    }
}

/// Reply bytes as the tables write them.
#[must_use]
pub fn render(reply: &[u8]) -> String {
    let text = reply.escape_ascii().to_string();
    text.replace("\\r\\n", "|").replace("\\'", "'").replace("\\\"", "\"")
}

impl Expected {
    /// Whether a reply of this program is the expected one.
    #[must_use]
    pub fn is_met_by(&self, reply: &str) -> bool {
        match self.mark {
            Mark::Same | Mark::Own => reply == self.text,
            Mark::Like | Mark::OwnLike => is_like(&self.text, reply),
            Mark::AnyOrder => sorted(reply) == sorted(&self.text),
            Mark::Closed => reply == "Closed",
        }
    }

    /// Whether Redis must say the same.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        !matches!(self.mark, Mark::Own | Mark::OwnLike)
    }

    /// Whether two replies are the same as far as this one is compared.
    #[must_use]
    pub fn are_same(&self, one: &str, other: &str) -> bool {
        match self.mark {
            Mark::Same => one == other,
            Mark::AnyOrder => sorted(one) == sorted(other),
            Mark::Like => is_like(&self.text, one) && is_like(&self.text, other),
            Mark::Own | Mark::OwnLike | Mark::Closed => true,
        }
    }
}

fn sorted(reply: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = reply.split('|').collect();
    lines.sort_unstable();
    lines
}

/// Whether `text` matches a pattern in which `*` stands for anything. A reply's own first byte may
/// be a `*`, which stands for itself there.
fn is_like(pattern: &str, text: &str) -> bool {
    let mut pieces = pattern.split('*');
    let first = pieces.next().expect("split gives one piece");
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut last = None;
    for piece in pieces {
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
        last = Some(piece);
    }
    rest.is_empty() || last.is_some_and(|piece| piece.is_empty() || text.ends_with(piece))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_as_it_is_written() {
        let table =
            parse("# c\n=== one\n> SET \"a b\\x00\" x{ab*2}y\n< +OK|\n<! -ERR x|\n> QUIT\n<x\n");
        assert_eq!(table.len(), 1);
        assert_eq!(table[0].steps[0].words, [&b"SET"[..], b"a b\0", b"xababy"]);
        assert_eq!(table[0].steps[0].replies.len(), 2);
        assert!(!table[0].steps[0].replies[1].is_shared());
        assert_eq!(table[0].steps[1].replies[0].mark, Mark::Closed);
    }

    #[test]
    fn a_pattern_stands_for_what_varies() {
        assert!(is_like(":*|", ":12|"));
        assert!(is_like("$*|id=*|", "$9|id=4 x|"));
        assert!(!is_like(":*|", "+OK|"));
        assert!(!is_like("$*|id=*|", "$9|id=4 x"));
        assert!(is_like("same", "same"));
        assert!(!is_like("same", "same and more"));
    }
}
