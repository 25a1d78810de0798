//! How much a request may ask for.
//!
//! Limits are handed to each call of the parser: when a client authenticates, the next request is
//! read with wider ones. So where authentication is asked, requests behind an `AUTH` are parsed
//! after it was executed.

/// The most arguments of a request before authentication.
pub(super) const UNAUTHENTICATED_COUNT_MAX: usize = 10;

/// The longest argument before authentication.
pub(super) const UNAUTHENTICATED_BULK_BYTES_MAX: usize = 16_384;

/// Whether the client has said who it is, where that is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authentication {
    /// Small requests only: enough to authenticate with.
    Pending,
    /// Authenticated, or nobody asked.
    Done,
}

/// What a request may ask for. The limits of commands (keys, values) are not among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest inline command, and the longest header line.
    pub inline_bytes_max: usize,
    /// The most arguments of a request.
    pub multibulk_count_max: usize,
    /// The longest argument.
    pub bulk_bytes_max: usize,
    /// The longest request, its headers included. Above 2 GiB it has no effect: offsets end there.
    pub request_bytes_max: usize,
    /// Whether the stricter limits for strangers apply too.
    pub authentication: Authentication,
}

impl Limits {
    /// Redis' limits of lines and counts, with the given sizes of an argument and of a request.
    #[must_use]
    pub const fn new(bulk_bytes_max: usize, request_bytes_max: usize) -> Self {
        Self {
            inline_bytes_max: 64 * 1024,
            multibulk_count_max: 1024 * 1024,
            bulk_bytes_max,
            request_bytes_max,
            authentication: Authentication::Done,
        }
    }

    /// The same for a client that has yet to authenticate: as in Redis at most 10 arguments of at
    /// most 16,384 bytes.
    #[must_use]
    pub const fn unauthenticated(self) -> Self {
        Self { authentication: Authentication::Pending, ..self }
    }
}
