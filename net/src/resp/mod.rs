//! RESP, the protocol of Redis clients, as a pure codec: no socket, no clock, no allocation that a
//! peer can ask for with a number.
//!
//! | side | reads | writes |
//! |---|---|---|
//! | server | [`Parser`]: requests, found in place | [`Reply`]: replies in RESP2 or RESP3 |
//! | client | [`ReplyScanner`], [`parse_reply`] | [`encode_command`] |
//!
//! Requests are arrays of bulk strings, or inline commands as one types them into a terminal.
//!
//! # Invariants
//!
//! - Memory follows the bytes that have arrived, never a length that was announced.
//! - What a stream of bytes means does not depend on where it was cut into pieces: same requests,
//!   same error.
//! - A connection with no half-received request holds no memory here.

mod header;
mod inline;

pub mod arguments;
pub mod client;
pub mod error;
pub mod limits;
pub mod parser;
pub mod reply;
pub mod value;

pub use arguments::Arguments;
pub use client::{ReplyError, ReplyKind, ReplyScanner, ScannedReply, encode_command, scan_reply};
pub use error::ProtocolError;
pub use limits::{Authentication, Limits};
pub use parser::{Parser, Step};
pub use reply::{Protocol, Reply};
pub use value::{Value, parse_reply};
