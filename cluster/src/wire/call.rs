//! What one node has another do beside replication, and what comes back.
//!
//! ```text
//!   | id 8 | call or answer (rkyv) |
//! ```

#![allow(missing_docs, reason = "what rkyv derives beside an enum has none")]

use std::net::IpAddr;

use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Serialize, rancor};

use super::Malformed;

const CALL: Malformed = Malformed("a call cannot be read");

/// A call.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum Call {
    /// The live keys with tokens from here to there, both included, in token order, of about so many
    /// index slots.
    Walk { from: u64, to: u64, budget: u32 },
    /// The number of keys.
    Count,
    /// Whether everything up to this version was removed.
    HasCleared { timestamp: u64, node: u16 },
    /// Whether such a client has asked the node which slots lie where.
    KnowsKin(Kin),
}

/// What connections of one client have in common, as far as a server is told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Archive, Serialize, Deserialize)]
pub struct Kin {
    /// Where they come from.
    pub host: IpAddr,
    /// The name of the library that has made them,
    pub library: Vec<u8>,
    /// and its version.
    pub version: Vec<u8>,
}

/// What comes back.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub enum CallAnswer {
    /// Keys, and the token to go on from; `None` at the end.
    Keys(Vec<Vec<u8>>, Option<u64>),
    /// So many.
    Count(u64),
    /// Whether it is so.
    Is(bool),
    /// The node does not serve its copies.
    NotServing,
    /// Why it could not be done.
    Failed(String),
}

macro_rules! bytes_of {
    ($($type:ty),*) => {$(
        impl $type {
            /// Its bytes, with the number of the call.
            #[must_use]
            pub fn encode(&self, id: u64) -> Vec<u8> {
                let bytes = rkyv::to_bytes::<rancor::Error>(self);
                let bytes = bytes.expect("writing into memory does not fail");
                [&id.to_le_bytes(), &bytes[..]].concat()
            }

            /// Reads its bytes, aligned or not, and the number of the call.
            ///
            /// # Errors
            ///
            /// [`Malformed`] on anything else.
            pub fn decode(bytes: &[u8]) -> Result<(u64, Self), Malformed> {
                let (id, bytes) = bytes.split_first_chunk::<8>().ok_or(CALL)?;
                let mut aligned: AlignedVec = AlignedVec::with_capacity(bytes.len());
                aligned.extend_from_slice(bytes);
                let decoded = rkyv::from_bytes::<Self, rancor::Error>(&aligned);
                Ok((u64::from_le_bytes(*id), decoded.map_err(|_| CALL)?))
            }
        }
    )*};
}

bytes_of!(Call, CallAnswer);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn calls_and_answers_come_back() {
        let walk = Call::Walk { from: 1, to: u64::MAX, budget: 3 };
        let host = IpAddr::from([127, 0, 0, 1]);
        let kin = Kin { host, library: b"redis-py".to_vec(), version: Vec::new() };
        let has_cleared = Call::HasCleared { timestamp: 4, node: 5 };
        for call in [walk, Call::Count, has_cleared, Call::KnowsKin(kin)] {
            assert_eq!(Call::decode(&call.encode(7)), Ok((7, call)));
        }
        let keys = CallAnswer::Keys(vec![b"a".to_vec(), Vec::new()], Some(9));
        let failed = CallAnswer::Failed("why".to_owned());
        let (count, is) = (CallAnswer::Count(1), CallAnswer::Is(true));
        for answer in [keys, count, is, CallAnswer::NotServing, failed] {
            assert_eq!(CallAnswer::decode(&answer.encode(u64::MAX)), Ok((u64::MAX, answer)));
        }
    }

    proptest! {
        #[test]
        fn fuzz_arbitrary_bytes_are_read_without_a_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let _ = Call::decode(&bytes);
            let _ = CallAnswer::decode(&bytes);
        }
    }
}
