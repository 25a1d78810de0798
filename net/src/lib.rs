//! How bytes move.
//!
//! - [`ring`]: the *data ring*, one io_uring per core that owns the core's sockets
//! - [`resp`]: the protocol of Redis clients, as a codec
//! - [`peer`]: the other sockets between nodes
//!
//! This crate does not know what a key means, and runs no loop of its own: the core that owns a
//! ring drives it.

#![deny(unsafe_code)]

pub mod peer;
pub mod resp;
pub mod ring;
