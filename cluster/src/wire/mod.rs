//! All bytes between nodes on connections, and the version of their protocol.
//!
//! ```text
//!   preamble | frame | frame | ...                    from who has connected
//!            | frame | frame | ...                    to it
//! ```
//!
//! | room | what it draws |
//! |---|---|
//! | [`preamble`] | the first bytes of a connection |
//! | [`frame`] | what carries a body: its kind, its check, its place in the order |
//! | [`body`] | the bodies of all kinds but messages: a length, and whether they ask or answer |
//! | [`message`] | what coordinators and replicas say about keys |
//! | [`command`] | commands that are handed to another node, and their replies |
//! | [`call`] | what one node has another do beside replication |
//! | [`identity`](crate::identity) | the handshake, which comes first |
//! | [`agreement`](crate::topology::agreement) | questions about the topology, and their answers |
//! | [`swim`](crate::swim) | who is there: exchanges, which come in frames, and datagrams |
//!
//! Whoever changes one of them in a way that the version before cannot read, or would misread, counts
//! [`VERSION`] up: it comes first on every connection, and nodes of different versions refuse each other in
//! words. Frames, introductions and datagrams have a format byte of their own beside it, since they are
//! looked at before it is known who speaks.

pub mod body;
pub mod call;
pub mod command;
pub mod frame;
pub mod message;
pub mod preamble;

/// The version of the protocol between nodes.
pub const VERSION: u16 = 3;

/// The bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(&'static str);

impl From<Malformed> for &'static str {
    /// What is wrong, in words.
    fn from(malformed: Malformed) -> Self {
        malformed.0
    }
}
