//! What is known about a client.

use std::net::SocketAddr;
use std::time::Instant;

use gridkv_cluster::replication::Level;
use gridkv_net::resp::Protocol;

use crate::cluster::kin::kin;
use crate::server::commands::scope::{Asker, ScopeCell};

/// Whether the client hears replies (`CLIENT REPLY`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ReplyMode {
    #[default]
    On,
    Off,
    /// Not the next one,
    SkipNext,
    /// not this one.
    Skip,
}

/// What is known about a client.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) id: u64,
    pub(crate) address: SocketAddr,
    pub(crate) local_address: Option<SocketAddr>,
    pub(crate) name: Vec<u8>,
    pub(crate) library_name: Vec<u8>,
    pub(crate) library_version: Vec<u8>,
    pub(crate) protocol: Protocol,
    pub(crate) is_authenticated: bool,
    pub(crate) reply_mode: ReplyMode,
    pub(crate) no_evict: bool,
    pub(crate) no_touch: bool,
    pub(crate) connected_at: Instant,
    pub(crate) active_at: Instant,
    pub(crate) last_command: &'static str,
    /// It asked to be closed once its replies are out.
    pub(crate) wants_close: bool,
    /// How many replicas its commands wait for.
    pub(crate) level: Level,
    /// Which keys its commands over all keys treat.
    pub(crate) scope: ScopeCell,
}

impl Client {
    /// What its tasks know of it.
    pub(crate) fn asker(&self) -> Asker {
        Asker {
            local_address: self.local_address,
            kin: kin(self.address.ip(), &self.library_name, &self.library_version),
            scope: self.scope.clone(),
        }
    }
}
