//! Coordinators and replicas of a few nodes, on a network that loses nothing unless told to.

mod basics;
mod expiry;
mod kit;
