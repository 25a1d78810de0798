//! Where somebody is reached: an address or a host name, with a port.
//!
//! A host name is kept as it was given: whoever connects resolves it, again for each attempt.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use rkyv::{Archive, Deserialize, Serialize};

/// Longest host name, in bytes (RFC 1035, section 2.3.4).
const HOST_BYTES_MAX: usize = 253;
/// Longest part of one between two dots, in bytes.
const LABEL_BYTES_MAX: usize = 63;

/// A host and a port that can be connected to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Archive, Serialize, Deserialize)]
#[rkyv(archived = ArchivedEndpoint, attr(allow(missing_docs, reason = "as in what it archives")))]
pub struct Endpoint {
    /// An address as text, without brackets, or a host name.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// The text is not an [`Endpoint`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "an address or a host name with a port, such as 10.0.0.1:7379 or node-1.example:7379, is needed"
)]
pub struct ParseError;

impl Endpoint {
    /// The address, where the host is one.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.host.parse().ok()?, self.port))
    }

    /// Whether somebody can connect there: the host is a name or an address, not a wildcard, and the
    /// port is not 0.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        let is_host = match self.host.parse::<IpAddr>() {
            Ok(ip) => !ip.to_canonical().is_unspecified(),
            Err(_) => is_host_name(&self.host),
        };
        is_host && self.port != 0
    }
}

/// Whether it is a host name, with or without the dot at its end. What looks like an address that is
/// none, such as `10.0.0.256`, is not (WHATWG URL, "ends in a number").
fn is_host_name(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let is_sign = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= LABEL_BYTES_MAX
            && label.bytes().all(is_sign)
            && !label.starts_with('-')
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= HOST_BYTES_MAX
        && name.split('.').all(is_label)
        && !last.bytes().all(|byte| byte.is_ascii_digit())
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self { host: address.ip().to_canonical().to_string(), port: address.port() }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address() {
            Some(address) => write!(f, "{address}"),
            None => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl FromStr for Endpoint {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let endpoint = match text.parse::<SocketAddr>() {
            Ok(address) => Self { host: address.ip().to_string(), port: address.port() },
            Err(_) => {
                let (host, port) = text.rsplit_once(':').ok_or(ParseError)?;
                Self { host: host.to_owned(), port: port.parse().map_err(|_| ParseError)? }
            }
        };
        if endpoint.is_valid() { Ok(endpoint) } else { Err(ParseError) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_come_back_from_their_text() {
        for text in ["10.0.0.1:7379", "[2001:db8::1]:7379", "node-1.example.com:1", "n_1.:65535"] {
            assert_eq!(text.parse::<Endpoint>().map(|it| it.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn where_nobody_can_connect_is_no_endpoint() {
        let long = format!("{}:1", "a.".repeat(127) + "b");
        for text in [
            "",
            "7379",
            ":7379",
            "host",
            "host:",
            "host:0",
            "host:65536",
            "0.0.0.0:7379",
            "[::]:7379",
            "[::ffff:0.0.0.0]:7379",
            "10.0.0.256:7379",
            "10.0.0:7379",
            "a..b:1",
            "-a:1",
            "a b:1",
            "a\r\nb:1",
            "::1:7379x",
            &long,
        ] {
            assert_eq!(text.parse::<Endpoint>(), Err(ParseError), "{text}");
        }
    }
}
