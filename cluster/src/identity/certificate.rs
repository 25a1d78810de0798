//! Certificates: the cluster key says that a node belongs to its cluster.
//!
//! As bytes a certificate is the signature alone: who is certified and for which cluster is known to
//! whoever reads it. As text it is one line:
//!
//! ```text
//! gridkv-certificate-1 <signature: 128 hexadecimal digits>
//! ```
//!
//! The signature covers the length of the cluster's name, the name, and the node's public key. So a
//! certificate is worth nothing for another node, or for another cluster, even of the same key.
//!
//! A certificate has no end: to shut a node out, the cluster gets another key, or its nodes a list of
//! the keys that they trust.

use std::fmt;
use std::str::FromStr;

use super::hex;
use super::key::{Digest, Identity, PublicKey, SIGNATURE_BYTES};
use super::{hash_name, is_cluster_name};

/// Length of a certificate in bytes.
pub const CERTIFICATE_BYTES: usize = SIGNATURE_BYTES;

const LABEL: &str = "gridkv-certificate-1";
const CONTEXT: &str = "gridkv 1 certificate of a node";

/// The cluster key's signature over a node's public key and the cluster's name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Certificate {
    signature: [u8; SIGNATURE_BYTES],
}

impl Certificate {
    /// Certifies that the owner of `node` belongs to the cluster.
    ///
    /// # Panics
    ///
    /// When `cluster` is no [name of a cluster](is_cluster_name).
    #[must_use]
    pub fn issue(cluster_key: &Identity, node: PublicKey, cluster: &str) -> Self {
        assert!(is_cluster_name(cluster));
        Self { signature: cluster_key.sign(&digest(node, cluster)) }
    }

    /// Whether the owner of `cluster_key` has certified that `node` belongs to the cluster. Costs
    /// about 60 us.
    #[must_use]
    pub fn certifies(&self, cluster_key: PublicKey, node: PublicKey, cluster: &str) -> bool {
        cluster_key.has_signed(&digest(node, cluster), &self.signature)
    }

    /// Its bytes.
    #[must_use]
    pub const fn to_bytes(&self) -> [u8; CERTIFICATE_BYTES] {
        self.signature
    }

    /// From its bytes. Any bytes are one; see [`Self::certifies`].
    #[must_use]
    pub const fn from_bytes(bytes: [u8; CERTIFICATE_BYTES]) -> Self {
        Self { signature: bytes }
    }
}

fn digest(node: PublicKey, cluster: &str) -> Digest {
    let mut hash = blake3::Hasher::new_derive_key(CONTEXT);
    hash_name(&mut hash, cluster);
    hash.update(&node.0);
    *hash.finalize().as_bytes()
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{LABEL} {}", hex::encode(&self.signature))
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is no certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a certificate, which is one line: {LABEL} and 128 hexadecimal digits")]
pub struct CertificateError;

impl FromStr for Certificate {
    type Err = CertificateError;

    fn from_str(text: &str) -> Result<Self, CertificateError> {
        let (label, digits) = text.trim().split_once(' ').ok_or(CertificateError)?;
        let signature = hex::decode(digits).filter(|_| label == LABEL).ok_or(CertificateError)?;
        Ok(Self { signature })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(seed: u8) -> Identity {
        Identity::from_secret([seed; 32])
    }

    #[test]
    fn a_certificate_is_for_one_node_of_one_cluster_by_one_key() {
        let (key, node) = (identity(1), identity(2).public());
        let certificate = Certificate::issue(&key, node, "blue");
        assert!(certificate.certifies(key.public(), node, "blue"));
        assert!(!certificate.certifies(key.public(), node, "red"));
        assert!(!certificate.certifies(key.public(), identity(3).public(), "blue"));
        assert!(!certificate.certifies(identity(3).public(), node, "blue"));
    }

    #[test]
    fn a_certificate_comes_back_from_its_text_and_its_bytes() {
        let certificate = Certificate::issue(&identity(1), identity(2).public(), "blue");
        assert_eq!(Certificate::from_bytes(certificate.to_bytes()), certificate);
        assert_eq!(format!("{certificate}\n").parse(), Ok(certificate));
        let text = certificate.to_string();
        for other in ["", LABEL, &text[1..], &text[..text.len() - 1], &text.replace("-1", "-2")] {
            assert_eq!(other.parse::<Certificate>(), Err(CertificateError));
        }
    }

    #[test]
    fn a_certificate_with_any_byte_changed_certifies_nothing() {
        let (key, node) = (identity(1), identity(2).public());
        let bytes = Certificate::issue(&key, node, "blue").to_bytes();
        for at in 0..bytes.len() {
            let mut damaged = bytes;
            damaged[at] ^= 0x10;
            let certificate = Certificate::from_bytes(damaged);
            assert!(!certificate.certifies(key.public(), node, "blue"), "byte {at}");
        }
    }
}
