//! What to load, by name.

use std::fmt;
use std::str::FromStr;

/// What to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetName {
    /// Servers, by a URL: `resp://`, `resps://` or `memcached://`.
    Remote(String),
    /// An engine in this process, loaded from its own cores.
    InCore,
    /// An engine in this process, called by other threads.
    Embedded,
}

impl TargetName {
    /// Whether it is a server that speaks RESP, and not through TLS.
    #[must_use]
    pub fn is_plain_resp(&self) -> bool {
        matches!(self, Self::Remote(url) if url.starts_with("resp://"))
    }
}

/// What a URL can begin with.
const SCHEMES: [&str; 3] = ["resp://", "resps://", "memcached://"];

impl FromStr for TargetName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rest = SCHEMES.iter().find_map(|scheme| text.strip_prefix(scheme));
        match rest {
            Some(rest) if rest.contains(':') => Ok(Self::Remote(text.to_owned())),
            None if text == "in-core" => Ok(Self::InCore),
            None if text == "embedded" => Ok(Self::Embedded),
            _ => Err("expected resp://HOST:PORT, resps://HOST:PORT, memcached://HOST:PORT, \
                      in-core or embedded"
                .to_owned()),
        }
    }
}

impl fmt::Display for TargetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remote(url) => f.write_str(&without_password(url)),
            Self::InCore => f.write_str("in-core"),
            Self::Embedded => f.write_str("embedded"),
        }
    }
}

/// A text with `***` in the places of the passwords of its URLs.
#[must_use]
pub fn without_password(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        shown.push_str(before);
        shown.push_str("://");
        let end = after.find(|it: char| it.is_whitespace() || "?'\"".contains(it));
        let (servers, tail) = after.split_at(end.unwrap_or(after.len()));
        match servers.rsplit_once('@') {
            Some((user, servers)) => {
                let name = user.split_once(':').map_or("", |it| it.0);
                shown.push_str(&format!("{name}:***@{servers}"));
            }
            None => shown.push_str(servers),
        }
        rest = tail;
    }
    shown.push_str(rest);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        for (text, shown) in [
            ("resp://a:1", "resp://a:1"),
            ("run resp://me:se@cret@a:1,b:2?x=1 -c 5", "run resp://me:***@a:1,b:2?x=1 -c 5"),
            ("resp://secret@a:1 resps://:b@c:1", "resp://:***@a:1 resps://:***@c:1"),
            ("in-core", "in-core"),
        ] {
            assert_eq!(without_password(text), shown);
        }
    }
}
