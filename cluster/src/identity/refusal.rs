//! Why a handshake ends without a peer, in sentences for an operator.
//!
//! Who refuses tells the other end the reason, one byte, as its last message: what is wrong is
//! logged at both ends. That message is not signed. It can say what it likes: the connection ends,
//! and nothing else changes.

use super::introduction::{self, DecodeError, VERSION};
use super::key::PublicKey;
use super::trust::Distrust;

/// Why a handshake has ended without a peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It speaks another version.
    #[error("it speaks version {version} of the handshake, this node version {VERSION}")]
    Version {
        /// Its version.
        version: u16,
    },
    /// It belongs to a cluster of another name.
    #[error("it belongs to the cluster {name:?}, this node to another: compare cluster.name")]
    OtherCluster {
        /// The name of its cluster.
        name: String,
    },
    /// It belongs to another cluster of the same name.
    #[error(
        "it belongs to another cluster of the same name (number {cluster_id:016x}): the two were \
         started apart, and one must join the other with an empty data directory"
    )]
    OtherClusterId {
        /// The number of its cluster.
        cluster_id: u64,
    },
    /// One end signs, the other does not.
    #[error("{}", describe_security(*.signs))]
    Security {
        /// Whether the other end does.
        signs: bool,
    },
    /// It wants another shard than the connection was opened for.
    #[error("it speaks of shard {target}, but the connection was opened for another")]
    OtherTarget {
        /// The shard it wants.
        target: u16,
    },
    /// It has this node's key.
    #[error(
        "it has this node's own key: the node has connected to itself, or a data directory was \
         copied"
    )]
    Own,
    /// Its key is not on the list.
    #[error("its key {0} is not among the trusted keys")]
    Untrusted(PublicKey),
    /// It shows no certificate.
    #[error("it shows no certificate for its key {0}, and this node trusts the cluster's key only")]
    NoCertificate(PublicKey),
    /// Its certificate is of another cluster key, for another cluster's name or for another node.
    #[error("its certificate for the key {0} is not one of this cluster's key for this cluster")]
    BadCertificate(PublicKey),
    /// It does not own the key that it shows, or what was said has been changed on the way.
    #[error(
        "its signature does not fit: it does not own the key it shows, or messages were changed"
    )]
    BadSignature,
    /// Its part of the session's key is one that would make the key known to all.
    #[error("its part of the session key is none")]
    WeakKey,
    /// The bytes are not the message that was waited for.
    #[error("it sent what is no message of a handshake, or not the next")]
    Malformed,
    /// The other end has refused, and says why.
    #[error("the other node refuses: {0}")]
    ByPeer(Reason),
}

fn describe_security(signs: bool) -> &'static str {
    if signs {
        "it signs and this node does not: compare cluster.security"
    } else {
        "it does not sign and this node does: compare cluster.security"
    }
}

/// What the other end says about its refusal: anyone can say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// See [`Refusal::Version`].
    #[error("it speaks version {version} of the handshake, this node version {VERSION}")]
    Version {
        /// Its version.
        version: u16,
    },
    /// See [`Refusal::OtherCluster`].
    #[error("it belongs to a cluster of another name")]
    OtherCluster,
    /// See [`Refusal::OtherClusterId`].
    #[error("it belongs to another cluster of the same name")]
    OtherClusterId,
    /// See [`Refusal::Security`].
    #[error("of this node and it, one signs and the other does not")]
    Security,
    /// See [`Refusal::OtherTarget`].
    #[error("the shard asked for is not the one the connection was opened for")]
    OtherTarget,
    /// See [`Refusal::Own`].
    #[error("it has the same key as this node")]
    Own,
    /// See [`Refusal::Untrusted`].
    #[error("it does not trust this node's key: add it to the trusted keys there")]
    Untrusted,
    /// See [`Refusal::NoCertificate`].
    #[error("it wants a certificate of the cluster's key, and this node has shown none")]
    NoCertificate,
    /// See [`Refusal::BadCertificate`].
    #[error("this node's certificate is not one of the cluster's key there")]
    BadCertificate,
    /// See [`Refusal::BadSignature`].
    #[error("this node's signature does not fit there: messages were changed on the way")]
    BadSignature,
    /// See [`Refusal::WeakKey`].
    #[error("this node's part of the session key is none")]
    WeakKey,
    /// See [`Refusal::Malformed`].
    #[error("what this node has sent is no message of a handshake there")]
    Malformed,
    /// A reason that this version does not know.
    #[error("for a reason that this version does not know ({0})")]
    Unknown(u8),
}

impl Refusal {
    /// The last message to the other end; `None` when it was the one who refused.
    #[must_use]
    pub fn encode(&self) -> Option<Vec<u8>> {
        let reason = match self {
            Self::Version { .. } => 1,
            Self::OtherCluster { .. } => 2,
            Self::OtherClusterId { .. } => 3,
            Self::Security { .. } => 4,
            Self::OtherTarget { .. } => 5,
            Self::Own => 6,
            Self::Untrusted(_) => 7,
            Self::NoCertificate(_) => 8,
            Self::BadCertificate(_) => 9,
            Self::BadSignature => 10,
            Self::WeakKey => 11,
            Self::Malformed => 12,
            Self::ByPeer(_) => return None,
        };
        Some(introduction::encode_refusal(reason))
    }

    /// What the other end has said, if its message is a refusal, of whatever version. A
    /// [`Handshake`](super::Handshake) looks by itself; this is for a refusal that comes after it.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Reason> {
        let (reason, version) = introduction::decode_refusal(bytes)?;
        Some(match reason {
            1 => Reason::Version { version },
            2 => Reason::OtherCluster,
            3 => Reason::OtherClusterId,
            4 => Reason::Security,
            5 => Reason::OtherTarget,
            6 => Reason::Own,
            7 => Reason::Untrusted,
            8 => Reason::NoCertificate,
            9 => Reason::BadCertificate,
            10 => Reason::BadSignature,
            11 => Reason::WeakKey,
            12 => Reason::Malformed,
            other => Reason::Unknown(other),
        })
    }

    pub(super) const fn of_distrust(distrust: Distrust, key: PublicKey) -> Self {
        match distrust {
            Distrust::NotListed => Self::Untrusted(key),
            Distrust::NoCertificate => Self::NoCertificate(key),
            Distrust::BadCertificate => Self::BadCertificate(key),
        }
    }
}

impl From<DecodeError> for Refusal {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::Malformed => Self::Malformed,
            DecodeError::Version(version) => Self::Version { version },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_end_hears_the_reason() {
        let key = PublicKey([1; 32]);
        let told = [
            (Refusal::Version { version: 9 }, Reason::Version { version: VERSION }),
            (Refusal::OtherCluster { name: "red".to_owned() }, Reason::OtherCluster),
            (Refusal::OtherClusterId { cluster_id: 1 }, Reason::OtherClusterId),
            (Refusal::Security { signs: true }, Reason::Security),
            (Refusal::OtherTarget { target: 1 }, Reason::OtherTarget),
            (Refusal::Own, Reason::Own),
            (Refusal::Untrusted(key), Reason::Untrusted),
            (Refusal::NoCertificate(key), Reason::NoCertificate),
            (Refusal::BadCertificate(key), Reason::BadCertificate),
            (Refusal::BadSignature, Reason::BadSignature),
            (Refusal::WeakKey, Reason::WeakKey),
            (Refusal::Malformed, Reason::Malformed),
        ];
        for (refusal, reason) in told {
            let bytes = refusal.encode().unwrap();
            assert_eq!(bytes.len(), 8);
            assert_eq!(Refusal::decode(&bytes), Some(reason), "{refusal}");
        }
    }

    #[test]
    fn a_refusal_is_not_answered() {
        assert_eq!(Refusal::ByPeer(Reason::Own).encode(), None);
        assert_eq!(Refusal::decode(&[4, 200, 7, 0, 0, 0, 0, 0]), Some(Reason::Unknown(200)));
        assert_eq!(Refusal::decode(&[4, 2, 1, 0, 0, 0, 0]), None);
        assert_eq!(Refusal::decode(&[3, 2, 1, 0, 0, 0, 0, 0]), None);
    }
}
