//! How one server is loaded, as its address says behind a `?`.
//!
//! | option | meaning |
//! |---|---|
//! | `peers=HOST:PORT,...` | the processor time of these servers counts with the target's |
//! | `wait=N` | each write is followed by `WAIT N`, and done when so many replicas have it |
//! | `consistency=LEVEL` | each connection begins with `GRIDKV CONSISTENCY LEVEL` |
//! | `write=incr` | writes are `INCR` of the key instead of `SET` |

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

use crate::target::Failure;

/// How a server is loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Manner {
    pub(super) peers: Vec<SocketAddr>,
    /// Replicas that a write waits for.
    pub(super) wait: Option<u32>,
    pub(super) consistency: Option<String>,
    /// Writes are increments.
    pub(super) increments: bool,
}

/// An address, and what stands behind its `?`.
pub(super) fn parse(text: &str) -> Result<(SocketAddr, Manner), Failure> {
    let (host_and_port, query) = text.split_once('?').unwrap_or((text, ""));
    let mut manner = Manner::default();
    for option in query.split('&').filter(|it| !it.is_empty()) {
        let wrong = || {
            let known = "peers=, wait=, consistency= and write=incr are known";
            resolve_failure(text, &format!("`{option}` is no option of a target: {known}"))
        };
        let (name, value) = option.split_once('=').ok_or_else(wrong)?;
        match name {
            "peers" => {
                for peer in value.split(',') {
                    manner.peers.push(resolve(peer)?);
                }
            }
            "wait" => manner.wait = Some(value.parse().map_err(|_| wrong())?),
            "consistency" => manner.consistency = Some(value.to_owned()),
            "write" if value == "incr" => manner.increments = true,
            _ => return Err(wrong()),
        }
    }
    Ok((resolve(host_and_port)?, manner))
}

fn resolve(host_and_port: &str) -> Result<SocketAddr, Failure> {
    let failed = |source| Failure::Resolve { target: host_and_port.to_owned(), source };
    let mut found = host_and_port.to_socket_addrs().map_err(failed)?;
    found.next().ok_or_else(|| resolve_failure(host_and_port, "no address of that name"))
}

fn resolve_failure(target: &str, why: &str) -> Failure {
    Failure::Resolve { target: target.to_owned(), source: io::Error::other(why.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_stand_behind_the_address_and_unknown_ones_are_refused() {
        let (address, manner) =
            parse("127.0.0.1:1?wait=1&peers=127.0.0.1:2,127.0.0.1:3&write=incr").unwrap();
        assert_eq!(address.to_string(), "127.0.0.1:1");
        let peers = vec!["127.0.0.1:2".parse().unwrap(), "127.0.0.1:3".parse().unwrap()];
        let expected = Manner { peers, wait: Some(1), consistency: None, increments: true };
        assert_eq!(manner, expected);
        assert_eq!(parse("127.0.0.1:1").unwrap().1, Manner::default());
        for text in ["127.0.0.1:1?x=1", "127.0.0.1:1?wait", "127.0.0.1:1?wait=x"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
