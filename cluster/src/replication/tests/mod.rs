//! Coordinators and replicas of a few nodes, on a network that loses nothing unless told to.

mod acceptor;
mod basics;
mod clocks;
mod epochs;
mod expiry;
mod kit;
mod reach;
mod replica;
mod rounds;
mod script;
mod settled;
