//! What a node that says "on disk" must still have after it was killed, and a way to find out.
//!
//! | room | what |
//! |---|---|
//! | [`mark`] | values that tell which write they are of, and whether all of it is there |
//! | [`ledger`] | what each key of one client may hold: the newest acknowledged write, or a later one |
//! | [`deed`] | random writes |
//! | [`writer`] | a client that writes until it is cut off |
//! | [`rounds`] | load, kill, start again, compare; over and over on one directory |
//!
//! # What is proven
//!
//! - Every acknowledged write is there, with its newest value, or expired at its time.
//! - A write without an answer has happened or not, as a whole, and not before an earlier one of
//!   its key.
//! - What a client has *read* is there too, acknowledged to its writer or not.
//!
//! `kill -9` leaves the kernel and its page cache alive, so this does not show that a write was
//! synced before it was acknowledged: the simulated disk of `storage` does.

pub mod deed;
pub mod ledger;
pub mod mark;
pub mod rounds;
pub mod writer;
