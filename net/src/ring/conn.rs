//! The connections of a data ring, by slot.
//!
//! # Invariants
//!
//! - A slot is free only when no completion of its connection is to come (`operations == 0`), so
//!   what the kernel still says about a closed connection can never reach its successor. The
//!   generation in [`ConnectionId`] tells apart what others still say.
//! - At most one send of a connection is with the kernel: the order of completions is not the order
//!   of submissions.

use std::os::fd::OwnedFd;

/// A connection of one ring: a slot, and how often the slot was used before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId {
    pub(super) slot: u32,
    pub(super) generation: u32,
}

impl ConnectionId {
    /// The slot: small, and unique among the open connections of a ring.
    #[must_use]
    pub const fn slot(self) -> usize {
        self.slot as usize
    }
}

/// Whether the kernel delivers what the client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receiving {
    /// A multishot receive is armed.
    Armed,
    /// A cancellation of the receive is on its way; afterwards it is paused.
    Cancelling,
    /// Nobody wants to read.
    Paused,
    /// No buffer was free: armed again at the next turn.
    Starved,
    /// The client has sent its last byte.
    Ended,
}

/// Bytes on their way out.
pub(super) struct Sending {
    pub(super) bytes: Vec<u8>,
    pub(super) sent: usize,
}

pub(super) struct Connection {
    pub(super) generation: u32,
    pub(super) socket: OwnedFd,
    pub(super) receiving: Receiving,
    pub(super) wants_input: bool,
    pub(super) sending: Option<Sending>,
    /// Submissions whose last completion is to come.
    pub(super) operations: u32,
    /// The owner has closed it: freed when `operations` is zero.
    pub(super) closing: bool,
}

enum Slot {
    Free { generation: u32 },
    Used(Connection),
}

/// The slots.
#[derive(Default)]
pub(super) struct Connections {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

/// Generations wrap after this many uses of a slot: 24 bits, to fit into a completion's user data.
const GENERATION_MASK: u32 = (1 << 24) - 1;

impl Connections {
    /// Gives a socket a slot.
    pub(super) fn insert(&mut self, socket: OwnedFd) -> ConnectionId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::Free { generation: 0 });
            u32::try_from(self.slots.len() - 1).expect("descriptors run out before slots do")
        });
        let entry = &mut self.slots[slot as usize];
        let Slot::Free { generation } = *entry else { panic!("a slot on the free list is free") };
        *entry = Slot::Used(Connection {
            generation,
            socket,
            receiving: Receiving::Paused,
            wants_input: true,
            sending: None,
            operations: 0,
            closing: false,
        });
        ConnectionId { slot, generation }
    }

    /// The connection, unless it is gone.
    pub(super) fn get(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        match self.slots.get_mut(id.slot as usize) {
            Some(Slot::Used(connection)) if connection.generation == id.generation => {
                Some(connection)
            }
            _ => None,
        }
    }

    /// Frees a slot; the socket is closed when the connection is dropped.
    pub(super) fn remove(&mut self, id: ConnectionId) -> Connection {
        let generation = (id.generation + 1) & GENERATION_MASK;
        let slot = &mut self.slots[id.slot as usize];
        let Slot::Used(connection) = std::mem::replace(slot, Slot::Free { generation }) else {
            panic!("a connection is removed once");
        };
        assert_eq!(connection.generation, id.generation);
        assert_eq!(connection.operations, 0);
        self.free.push(id.slot);
        connection
    }

    /// All open connections.
    pub(super) fn ids(&self) -> Vec<ConnectionId> {
        let id = |(slot, entry): (usize, &Slot)| match entry {
            Slot::Free { .. } => None,
            Slot::Used(connection) => Some(ConnectionId {
                slot: u32::try_from(slot).expect("slots are numbered with u32"),
                generation: connection.generation,
            }),
        };
        self.slots.iter().enumerate().filter_map(id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket() -> OwnedFd {
        std::os::unix::net::UnixStream::pair().unwrap().0.into()
    }

    #[test]
    fn a_slot_used_again_does_not_answer_to_its_old_name() {
        let mut connections = Connections::default();
        let old = connections.insert(socket());
        connections.remove(old);
        let new = connections.insert(socket());
        assert_eq!(old.slot(), new.slot());
        assert!(connections.get(old).is_none());
        assert!(connections.get(new).is_some());
        assert_eq!(connections.ids(), [new]);
    }
}
