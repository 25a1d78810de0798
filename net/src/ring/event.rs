//! What a data ring tells its owner of, and how long it may wait for it.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use super::buffers::Lent;
use super::conn::ConnectionId;

/// How long [`DataRing::turn`](super::DataRing::turn) may wait for something to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all.
    No,
    /// At most this long.
    AtMost(Duration),
}

/// Bytes from a client, in a buffer of the ring.
#[derive(Debug)]
pub struct Received {
    /// Who sent them.
    pub connection: ConnectionId,
    pub(super) lent: Lent,
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// A client has connected. It is read once it is adopted, here or by another ring.
    Accepted(OwnedFd),
    /// A client could not be accepted, mostly because descriptors have run out. No further one is
    /// accepted until [`DataRing::accept_again`](super::DataRing::accept_again), so that the owner can let some time pass.
    AcceptFailed(io::Error),
    /// A client has sent something. Recycle it before the next turn.
    Received(Received),
    /// Everything handed to [`DataRing::send`](super::DataRing::send) is with the kernel; the empty vector comes back.
    Sent(ConnectionId, Vec<u8>),
    /// The client has closed its end, or the connection has failed. Nothing more will be received;
    /// the owner calls [`DataRing::close`](super::DataRing::close).
    Ended(ConnectionId),
    /// The connection is gone, and its socket closed: the owner closed it, or a send failed.
    Closed(ConnectionId),
    /// An operation handed to [`DataRing::submit`](super::DataRing::submit) has ended.
    Completed(Completed),
    /// A descriptor handed to [`DataRing::watch`](super::DataRing::watch) is as it was waited for, or has failed: trying
    /// tells which.
    Ready(u32),
}

/// The end of an operation, as the kernel has told it. Only a ring makes one, and of each end one: who
/// holds it may take back what the operation used.
#[derive(Debug, PartialEq, Eq)]
pub struct Completed {
    pub(super) token: u64,
    pub(super) result: i32,
}

impl Completed {
    /// What the operation was handed over with.
    #[must_use]
    pub const fn token(&self) -> u64 {
        self.token
    }

    /// What the kernel says: a count or a descriptor, or a negative error number.
    #[must_use]
    pub const fn result(&self) -> i32 {
        self.result
    }
}

/// What a descriptor is waited for to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Readable, or ready to be accepted from.
    Readable,
    /// Writable, or connected.
    Writable,
}
