//! What to load, by name.

use std::str::FromStr;

/// What to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetName {
    /// A server that speaks RESP, at `host:port`.
    Resp(String),
    /// An engine in this process, loaded from its own cores.
    InCore,
    /// An engine in this process, called by other threads.
    Embedded,
}

impl FromStr for TargetName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("resp://") {
            Some(address) if address.contains(':') => Ok(Self::Resp(address.to_owned())),
            None if text == "in-core" => Ok(Self::InCore),
            None if text == "embedded" => Ok(Self::Embedded),
            _ => Err("expected resp://HOST:PORT, in-core or embedded".to_owned()),
        }
    }
}

impl std::fmt::Display for TargetName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Resp(address) => write!(f, "resp://{address}"),
            Self::InCore => f.write_str("in-core"),
            Self::Embedded => f.write_str("embedded"),
        }
    }
}
