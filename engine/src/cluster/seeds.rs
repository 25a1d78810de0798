//! Whom a node asks for admission: addresses, and host names, which are resolved again and again.
//!
//! Resolving a name may take seconds. Each name has a thread of its own for it, so that neither a core
//! nor another name waits.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use gridkv_cluster::Instant;
use gridkv_cluster::topology::endpoint::Endpoint;

use super::control;
use crate::node::Node;

/// How often a name is resolved while the node looks for others, and while it has found some.
const PAUSE_SEEKING: Duration = Duration::from_secs(1);
const PAUSE_FOUND: Duration = Duration::from_secs(30);
/// Addresses of one name that are tried, at most.
const ADDRESS_COUNT_MAX: usize = 32;

/// One seed.
struct Seed {
    endpoint: Endpoint,
    /// What it is known to be: nothing for a name that could not be resolved yet.
    addresses: Vec<SocketAddr>,
    /// Has its thread resolve it, where it is a name.
    resolver: Option<Sender<()>>,
    /// That it could not be resolved was told.
    is_told: bool,
}

/// The seeds of a node.
pub(super) struct Seeds {
    seeds: Vec<Seed>,
    /// When names are resolved next; `None` where there is none.
    due_at: Option<Instant>,
}

impl Seeds {
    pub(super) fn new(endpoints: &[Endpoint]) -> Self {
        let seeds = endpoints.iter().map(|endpoint| Seed {
            endpoint: endpoint.clone(),
            addresses: endpoint.address().into_iter().collect(),
            resolver: None,
            is_told: false,
        });
        let seeds: Vec<Seed> = seeds.collect();
        let has_name = seeds.iter().any(|seed| seed.endpoint.address().is_none());
        Self { seeds, due_at: has_name.then_some(Instant::ZERO) }
    }

    /// All addresses that are known.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.seeds.iter().flat_map(|seed| seed.addresses.iter().copied()).collect()
    }

    /// When [`Seeds::turn`] is due.
    pub(super) const fn due_at(&self) -> Option<Instant> {
        self.due_at
    }

    /// Has the names resolved, when that is due. What they are comes to the control.
    pub(super) fn turn(&mut self, now: Instant, node: &Arc<Node>, is_seeking: bool) {
        if self.due_at.is_none_or(|due_at| now < due_at) {
            return;
        }
        self.due_at = Some(now + if is_seeking { PAUSE_SEEKING } else { PAUSE_FOUND });
        for (index, seed) in self.seeds.iter_mut().enumerate() {
            if seed.endpoint.address().is_some() {
                continue;
            }
            let start = || start_resolver(index, seed.endpoint.clone(), Arc::downgrade(node));
            let resolver = seed.resolver.get_or_insert_with(start);
            // One that is at it is not hurried.
            let _ = resolver.try_send(());
        }
    }

    /// No more is waited for than the pause of a node that looks for others.
    pub(super) fn seek(&mut self, now: Instant) {
        self.due_at = self.due_at.map(|due_at| due_at.min(now + PAUSE_SEEKING));
    }

    /// Takes in what a name is; all addresses, if they are others than before.
    pub(super) fn resolved(
        &mut self,
        index: usize,
        found: Result<Vec<SocketAddr>, String>,
    ) -> Option<Vec<SocketAddr>> {
        let seed = &mut self.seeds[index];
        let mut addresses = match found {
            Ok(addresses) if !addresses.is_empty() => addresses,
            found => {
                // What it was known to be is tried on.
                if !std::mem::replace(&mut seed.is_told, true) {
                    let why = found.err().unwrap_or_else(|| "it has no address".to_owned());
                    tracing::warn!(seed = %seed.endpoint, why, "a host name cannot be resolved");
                }
                return None;
            }
        };
        seed.is_told = false;
        // A server of names may give them in another order each time.
        addresses.sort_unstable();
        addresses.dedup();
        addresses.truncate(ADDRESS_COUNT_MAX);
        if seed.addresses == addresses {
            return None;
        }
        tracing::info!(seed = %seed.endpoint, ?addresses, "a host name is resolved");
        seed.addresses = addresses;
        Some(self.addresses())
    }
}

/// Asks the system for the addresses of a name. Blocks, perhaps for seconds.
///
/// # Errors
///
/// What the system says.
pub(super) fn resolve(endpoint: &Endpoint) -> io::Result<Vec<SocketAddr>> {
    Ok((endpoint.host.as_str(), endpoint.port).to_socket_addrs()?.collect())
}

/// The thread ends when the seeds are gone. Nobody waits for that: it may be at a name.
fn start_resolver(index: usize, endpoint: Endpoint, node: Weak<Node>) -> Sender<()> {
    let (sender, receiver) = bounded(1);
    let run = move || run_resolver(index, &endpoint, &node, &receiver);
    let thread = std::thread::Builder::new().name("gridkv-resolver".to_owned()).spawn(run);
    if let Err(error) = thread {
        tracing::warn!(%error, "no thread to resolve a host name in");
    }
    sender
}

fn run_resolver(index: usize, endpoint: &Endpoint, node: &Weak<Node>, asked: &Receiver<()>) {
    while asked.recv().is_ok() {
        let found = resolve(endpoint).map_err(|error| error.to_string());
        let Some(node) = node.upgrade() else { return };
        // A full mailbox loses it: it is resolved again.
        control::try_post(&node, move |core| core.seed_resolved(index, found));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(hosts: &[u8]) -> Vec<SocketAddr> {
        hosts.iter().map(|host| SocketAddr::from(([10, 0, 0, *host], 7_380))).collect()
    }

    #[test]
    fn all_addresses_of_a_name_are_seeds_and_what_it_was_is_kept_when_it_cannot_be_resolved() {
        let endpoints = ["10.0.0.9:7380", "nodes.example:7380"].map(|it| it.parse().unwrap());
        let mut seeds = Seeds::new(&endpoints);
        assert_eq!(seeds.addresses(), addresses(&[9]));
        assert_eq!(seeds.due_at(), Some(Instant::ZERO));
        let failed = || Err("no such name".to_owned());
        assert_eq!(seeds.resolved(1, failed()), None);
        assert_eq!(seeds.resolved(1, Ok(addresses(&[2, 1, 2]))), Some(addresses(&[9, 1, 2])));
        // The same in another order is nothing new.
        assert_eq!(seeds.resolved(1, Ok(addresses(&[1, 2]))), None);
        assert_eq!(seeds.resolved(1, failed()), None);
        assert_eq!(seeds.resolved(1, Ok(Vec::new())), None);
        assert_eq!(seeds.addresses(), addresses(&[9, 1, 2]));
        assert_eq!(seeds.resolved(1, Ok(addresses(&[3]))), Some(addresses(&[9, 3])));
    }

    #[test]
    fn addresses_need_no_resolver() {
        let seeds = Seeds::new(&["10.0.0.9:7380".parse().unwrap()]);
        assert_eq!(seeds.due_at(), None);
    }
}
