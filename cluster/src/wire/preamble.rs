//! The first bytes of a connection between nodes, from the one who connects: who this is about to
//! be, and which core it wants. They are read before the socket is handed to that core.
//!
//! ```text
//!  0        6         8         10                16
//!  | GRIDKV | version | target  | zero            |
//! ```
//!
//! Numbers are little-endian. A node that speaks another version answers with a preamble of its own
//! and closes, so that both can say what is wrong.

/// Its length in bytes.
pub const BYTES: usize = 16;

/// The target that is no shard: whatever core speaks for the node.
pub const CONTROL: u16 = u16::MAX;

const MAGIC: [u8; 6] = *b"GRIDKV";

/// A preamble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preamble {
    /// The version that the sender speaks.
    pub version: u16,
    /// The shard that it wants, by its number in the node, or [`CONTROL`].
    pub target: u16,
}

/// The bytes are no preamble: whoever has connected is not a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a GridKV node")]
pub struct NotANode;

impl Preamble {
    /// Its bytes.
    #[must_use]
    pub fn encode(self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[..6].copy_from_slice(&MAGIC);
        bytes[6..8].copy_from_slice(&self.version.to_le_bytes());
        bytes[8..10].copy_from_slice(&self.target.to_le_bytes());
        bytes
    }

    /// Reads one.
    ///
    /// # Errors
    ///
    /// [`NotANode`] when it is none. The version may be any.
    pub fn decode(bytes: &[u8; BYTES]) -> Result<Self, NotANode> {
        if bytes[..6] != MAGIC || bytes[10..] != [0; 6] {
            return Err(NotANode);
        }
        let number = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        Ok(Self { version: number(6), target: number(8) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::VERSION;

    #[test]
    fn its_bytes_come_back_and_others_are_none() {
        let preamble = Preamble { version: VERSION, target: 7 };
        let bytes = preamble.encode();
        assert_eq!(Preamble::decode(&bytes), Ok(preamble));
        assert_eq!(Preamble::decode(b"GET / HTTP/1.1\r\n"), Err(NotANode));
        let mut longer = bytes;
        longer[15] = 1;
        assert_eq!(Preamble::decode(&longer), Err(NotANode));
    }
}
