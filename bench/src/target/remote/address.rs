//! What a target's address says.
//!
//! ```text
//! resp://[USER:PASSWORD@]HOST:PORT[,HOST:PORT...][?OPTION&OPTION...]
//! resps://...                the same through TLS
//! memcached://HOST:PORT      the text protocol of memcached
//! ```
//!
//! | option | meaning |
//! |---|---|
//! | `resp=3` | connections begin with `HELLO 3` |
//! | `consistency=LEVEL` | connections begin with `GRIDKV CONSISTENCY LEVEL` |
//! | `wait=N` | each write is followed by `WAIT N`, and done when so many replicas have it |
//! | `peers=HOST:PORT,...` | the processor time of these servers counts with the target's |
//! | `ca=FILE` | `resps`: trust the certificates of this file (PEM) instead of the system's |
//! | `insecure=yes` | `resps`: trust any certificate |
//!
//! Connections are spread over all endpoints. A password can also stand in the environment, as
//! `GRIDKV_BENCH_PASSWORD`, where no report repeats it; in reports it is left out.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

use gridkv_net::resp::encode_command;

use super::tls::{Tls, Trust};
use crate::target::Failure;

/// Where a password is looked for that an address does not have.
const PASSWORD_VARIABLE: &str = "GRIDKV_BENCH_PASSWORD";

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Resp,
    Memcached,
}

/// One server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) address: SocketAddr,
    /// As given: the name that a certificate must have.
    pub(super) host: String,
}

/// Where the servers are, and how they are spoken to.
#[derive(Clone, Debug)]
pub(super) struct Address {
    pub(super) protocol: Protocol,
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) tls: Option<Tls>,
    /// Servers whose processor time counts too.
    pub(super) peers: Vec<SocketAddr>,
    /// Replicas that a write waits for.
    pub(super) wait: Option<u32>,
    /// Commands that each connection begins with.
    pub(super) greeting: Vec<Vec<u8>>,
}

/// Options behind the `?`, and who asks.
#[derive(Default)]
struct Manner {
    is_resp3: bool,
    consistency: Option<String>,
    wait: Option<u32>,
    peers: Vec<SocketAddr>,
    ca: Option<String>,
    is_insecure: bool,
}

impl Address {
    /// What `url` says.
    ///
    /// # Errors
    ///
    /// When that is nothing, or a name leads to no address.
    pub(super) fn parse(url: &str) -> Result<Self, Failure> {
        let wrong = |why: &str| resolve_failure(url, why);
        let (scheme, rest) = url.split_once("://").ok_or_else(|| wrong("it has no scheme"))?;
        let (servers, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (user, servers) = match servers.rsplit_once('@') {
            Some((user, servers)) => (Some(user), servers),
            None => (None, servers),
        };
        let manner = Manner::parse(url, query)?;
        let mut endpoints = Vec::new();
        for server in servers.split(',') {
            let host = server.rsplit_once(':').map_or(server, |it| it.0);
            let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            endpoints.push(Endpoint { address: resolve(server)?, host });
        }
        let is_tls = scheme == "resps";
        if !is_tls && (manner.ca.is_some() || manner.is_insecure) {
            return Err(wrong("ca= and insecure= are options of resps://"));
        }
        if scheme == "memcached" && (user.is_some() || !query.is_empty()) {
            return Err(wrong("memcached:// has no options"));
        }
        let trust = match (manner.is_insecure, &manner.ca) {
            (true, _) => Trust::Anything,
            (false, Some(file)) => Trust::File(file.clone()),
            (false, None) => Trust::System,
        };
        Ok(Self {
            protocol: if scheme == "memcached" { Protocol::Memcached } else { Protocol::Resp },
            endpoints,
            tls: is_tls.then(|| Tls::new(&trust)).transpose().map_err(|why| wrong(&why))?,
            greeting: greeting(user, &manner),
            peers: manner.peers,
            wait: manner.wait,
        })
    }

    /// The servers, for a message.
    pub(super) fn name(&self) -> String {
        let names: Vec<String> = self.endpoints.iter().map(|it| it.address.to_string()).collect();
        names.join(",")
    }
}

impl Manner {
    fn parse(url: &str, query: &str) -> Result<Self, Failure> {
        let mut manner = Self::default();
        for option in query.split('&').filter(|it| !it.is_empty()) {
            let wrong = || {
                let known = "resp=3, consistency=, wait=, peers=, ca= and insecure=yes are known";
                resolve_failure(url, &format!("`{option}` is no option of a target: {known}"))
            };
            let (name, value) = option.split_once('=').ok_or_else(wrong)?;
            match (name, value) {
                ("peers", _) => {
                    for peer in value.split(',') {
                        manner.peers.push(resolve(peer)?);
                    }
                }
                ("wait", _) => manner.wait = Some(value.parse().map_err(|_| wrong())?),
                ("consistency", _) => manner.consistency = Some(value.to_owned()),
                ("resp", "2") => manner.is_resp3 = false,
                ("resp", "3") => manner.is_resp3 = true,
                ("ca", _) => manner.ca = Some(value.to_owned()),
                ("insecure", "yes") => manner.is_insecure = true,
                _ => return Err(wrong()),
            }
        }
        Ok(manner)
    }
}

/// The commands that a connection begins with.
fn greeting(user: Option<&str>, manner: &Manner) -> Vec<Vec<u8>> {
    let (user, password) = match user {
        Some(user) => user.split_once(':').unwrap_or(("", user)),
        None => ("", ""),
    };
    let from_environment = || std::env::var(PASSWORD_VARIABLE).unwrap_or_default();
    let password = if password.is_empty() { from_environment() } else { password.to_owned() };
    let mut commands: Vec<Vec<&[u8]>> = Vec::new();
    let name = if user.is_empty() { "default" } else { user };
    if manner.is_resp3 {
        let mut hello: Vec<&[u8]> = vec![b"HELLO", b"3"];
        if !password.is_empty() {
            hello.extend([&b"AUTH"[..], name.as_bytes(), password.as_bytes()]);
        }
        commands.push(hello);
    } else if !password.is_empty() {
        let words: &[&[u8]] = if user.is_empty() {
            &[b"AUTH", password.as_bytes()]
        } else {
            &[b"AUTH", user.as_bytes(), password.as_bytes()]
        };
        commands.push(words.to_vec());
    }
    if let Some(level) = &manner.consistency {
        commands.push(vec![b"GRIDKV", b"CONSISTENCY", level.as_bytes()]);
    }
    let encode = |words: Vec<&[u8]>| {
        let mut bytes = Vec::new();
        encode_command(&mut bytes, &words);
        bytes
    };
    commands.into_iter().map(encode).collect()
}

fn resolve(host_and_port: &str) -> Result<SocketAddr, Failure> {
    let failed = |source| Failure::Resolve { target: host_and_port.to_owned(), source };
    let mut found = host_and_port.to_socket_addrs().map_err(failed)?;
    found.next().ok_or_else(|| resolve_failure(host_and_port, "no address of that name"))
}

fn resolve_failure(target: &str, why: &str) -> Failure {
    Failure::Resolve {
        target: crate::options::without_password(target),
        source: io::Error::other(why.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greetings(url: &str) -> Vec<String> {
        let commands = Address::parse(url).unwrap().greeting;
        let words = |bytes: Vec<u8>| {
            let text = String::from_utf8(bytes).unwrap();
            let lines: Vec<&str> =
                text.split("\r\n").filter(|it| !it.starts_with(['*', '$'])).collect();
            lines.join(" ").trim_end().to_owned()
        };
        commands.into_iter().map(words).collect()
    }

    #[test]
    fn options_stand_behind_the_servers_and_unknown_ones_are_refused() {
        let address =
            Address::parse("resp://127.0.0.1:1,[::1]:4?wait=1&peers=127.0.0.1:2,127.0.0.1:3")
                .unwrap();
        assert_eq!(address.name(), "127.0.0.1:1,[::1]:4");
        assert_eq!(address.endpoints[1].host, "::1");
        assert_eq!((address.wait, address.peers.len()), (Some(1), 2));
        assert!(address.tls.is_none());
        for url in [
            "resp://127.0.0.1:1?x=1",
            "resp://127.0.0.1:1?wait",
            "resp://127.0.0.1:1?wait=x",
            "resp://127.0.0.1:1?insecure=yes",
            "resps://127.0.0.1:1?ca=/nowhere",
            "resp://127.0.0.1:1,127.0.0.1",
            "memcached://127.0.0.1:1?resp=3",
        ] {
            assert!(Address::parse(url).is_err(), "{url}");
        }
    }

    #[test]
    fn connections_begin_with_what_the_address_asks_for() {
        let none: [&str; 0] = [];
        assert_eq!(greetings("resp://127.0.0.1:1"), none);
        assert_eq!(greetings("resp://:secret@127.0.0.1:1"), ["AUTH secret"]);
        assert_eq!(greetings("resp://me:s:e@127.0.0.1:1"), ["AUTH me s:e"]);
        assert_eq!(
            greetings("resp://me:secret@127.0.0.1:1?resp=3&consistency=all"),
            ["HELLO 3 AUTH me secret", "GRIDKV CONSISTENCY all"]
        );
        assert_eq!(greetings("resp://secret@127.0.0.1:1?resp=3"), ["HELLO 3 AUTH default secret"]);
    }

    #[test]
    fn passwords_are_in_no_message() {
        let failure = Address::parse("resp://me:secret@127.0.0.1:1?x=1").unwrap_err().to_string();
        assert!(!failure.contains("secret"), "{failure}");
    }
}
