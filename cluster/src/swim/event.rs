//! What goes into a membership machine, what comes out, and what it counts.

use std::net::SocketAddr;

use super::member::Member;
#[cfg(doc)]
use super::{Config, MEMBERS_MAX, Swim};
use crate::model::MemberId;

/// What happens to the machine.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// [`Swim::poll_timeout`] has come.
    Timeout,
    /// A datagram, without its signature.
    Datagram {
        /// Where it came from, and where an answer goes.
        from: SocketAddr,
        /// The packet.
        bytes: &'a [u8],
    },
    /// A full exchange, request or reply, that arrived over TCP. An answer goes to the address that
    /// the sender gives as its own.
    Exchange {
        /// The packet.
        bytes: &'a [u8],
    },
    /// Addresses to join through: tried again and again while nobody else is known, and now and then
    /// later. Replaces those of before.
    Join(&'a [SocketAddr]),
    /// Go: the others are told, then the machine falls silent for good. The driver may stop once
    /// [`Swim::poll_timeout`] is `None`.
    Leave,
    /// The epoch of the topology that this node has.
    Epoch(u64),
    /// Somebody at this address seems to have this node's identity: it is asked.
    Twin(SocketAddr),
}

/// What the machine wants done, or known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send a datagram.
    Datagram {
        /// To whom.
        to: SocketAddr,
        /// At most [`Config::datagram_bytes_max`].
        bytes: Vec<u8>,
    },
    /// Send over TCP.
    Exchange {
        /// To whom.
        to: SocketAddr,
        /// The packet.
        bytes: Vec<u8>,
    },
    /// Another member is new, or anything about it changed.
    Changed(Member),
    /// A member that was dead or had left is no longer remembered.
    Forgotten(MemberId),
    /// A member has a newer topology. At most once for an epoch.
    Epoch {
        /// Who has it.
        from: SocketAddr,
        /// Which.
        epoch: u64,
    },
    /// Another process with this node's identity answered there, and it started before this one.
    Conflict {
        /// Where.
        address: SocketAddr,
    },
}

/// What was counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Probes begun.
    pub probe_count: u64,
    /// Probes that nobody answered.
    pub failed_probe_count: u64,
    /// Suspicions begun, whoever raised them.
    pub suspicion_count: u64,
    /// Times that this node said it lives after all.
    pub refutation_count: u64,
    /// Late wake-ups after which this node did not trust its own timers.
    pub pause_count: u64,
    /// Datagrams received.
    pub datagram_in_count: u64,
    /// Their bytes.
    pub datagram_in_bytes: u64,
    /// Datagrams sent.
    pub datagram_out_count: u64,
    /// Their bytes.
    pub datagram_out_bytes: u64,
    /// Exchanges received, requests and replies.
    pub exchange_in_count: u64,
    /// Exchanges sent, requests and replies.
    pub exchange_out_count: u64,
    /// Packets refused: damaged, or of another version.
    pub bad_packet_count: u64,
    /// Packets refused: of another cluster.
    pub foreign_packet_count: u64,
    /// Members refused, for there were [`MEMBERS_MAX`].
    pub refused_member_count: u64,
}
