//! Why a stream of requests is refused, in the words of Redis, which clients and people know.

use std::fmt;

use super::inline::UnbalancedQuotes;

/// The bytes are not RESP, or ask for too much. What follows them has no meaning: send
/// `ERR ` and this text, and close the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// The number of arguments is no number, or beyond the limit.
    #[error("Protocol error: invalid multibulk length")]
    InvalidMultibulkLength,
    /// The length of an argument is no number, negative, or beyond the limit.
    #[error("Protocol error: invalid bulk length")]
    InvalidBulkLength,
    /// Something else stands where the header of an argument should.
    #[error("Protocol error: expected '$', got '{}'", Printable(*.0))]
    ExpectedBulk(
        /// The byte found.
        u8,
    ),
    /// An argument is not followed by a line end.
    #[error("Protocol error: expected a line end after a bulk of the announced length")]
    UnterminatedBulk,
    /// A line with a number of arguments does not end.
    #[error("Protocol error: too big mbulk count string")]
    TooBigMultibulkCount,
    /// A line with the length of an argument does not end.
    #[error("Protocol error: too big bulk count string")]
    TooBigBulkCount,
    /// An inline command does not end.
    #[error("Protocol error: too big inline request")]
    TooBigInline,
    /// The arguments together are beyond the limit.
    #[error("Protocol error: too big request")]
    TooBigRequest,
    /// The quotes of an inline command do not match.
    #[error("Protocol error: unbalanced quotes in request")]
    UnbalancedQuotes,
    /// Too many arguments for a client that has yet to authenticate.
    #[error("Protocol error: unauthenticated multibulk length")]
    UnauthenticatedMultibulkLength,
    /// Too long an argument for a client that has yet to authenticate.
    #[error("Protocol error: unauthenticated bulk length")]
    UnauthenticatedBulkLength,
}

impl From<UnbalancedQuotes> for ProtocolError {
    fn from(UnbalancedQuotes: UnbalancedQuotes) -> Self {
        Self::UnbalancedQuotes
    }
}

/// A byte as itself when it can be printed, else as `\xHH`.
struct Printable(u8);

impl fmt::Display for Printable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            b' '..=b'~' => write!(formatter, "{}", char::from(self.0)),
            byte => write!(formatter, "\\x{byte:02x}"),
        }
    }
}
