//! Who a node is, and whom it believes.
//!
//! - [`Identity`]: a key pair; [`PublicKey`] and its short form are what a node is known by
//! - [`Certificate`]: the cluster key's word that a node belongs to the cluster
//! - [`Security`], [`Trust`]: whether nodes prove who they are, and who is believed
//! - [`Handshake`]: how two nodes do so at the beginning of a connection
//! - [`DatagramSeal`]: how they do so with each datagram
//!
//! Random bytes and the time are handed in. Nothing here is remembered about a node before it has
//! proved who it is.

mod certificate;
mod datagram;
#[cfg(test)]
mod fuzz;
mod handshake;
pub mod hex;
mod introduction;
mod key;
mod refusal;
mod trust;
mod window;

pub use certificate::{CERTIFICATE_BYTES, Certificate, CertificateError};
pub use datagram::{
    CLOCK_DIFFERENCE_MAX, DATAGRAM_BYTES_MAX, DatagramError, DatagramSeal, DatagramStats,
    OVERHEAD_BYTES_MAX, PAYLOAD_BYTES_MAX, VERIFICATIONS_PER_SECOND, VERIFICATIONS_PER_SENDER,
};
pub use handshake::{Handshake, Keys, Peer, Step};
pub use introduction::{Hello, MESSAGE_BYTES_MAX};
pub use key::{Identity, KEY_BYTES, KeyError, PublicKey};
pub use refusal::{Reason, Refusal};
pub use trust::{Security, Trust};

/// Longest name of a cluster.
pub const CLUSTER_NAME_BYTES_MAX: usize = 64;

/// What a node knows of itself.
#[derive(Clone, Debug)]
pub struct Local {
    /// Its key pair.
    pub identity: Identity,
    /// Whom it believes.
    pub security: Security,
    /// The cluster's name: see [`is_cluster_name`].
    pub cluster: String,
}

/// What is wrong with what a node knows of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocalError {
    /// The name of the cluster cannot be one.
    #[error(
        "the cluster's name must be 1 to {CLUSTER_NAME_BYTES_MAX} ASCII letters, digits or marks, \
         without blanks"
    )]
    Name,
    /// No node would believe this one.
    #[error(
        "this node's certificate is not for its key, for another cluster's name, or not signed by \
         the cluster's key"
    )]
    Certificate,
}

impl Local {
    /// Finds at the start what others would refuse later.
    ///
    /// # Errors
    ///
    /// [`LocalError`].
    pub fn check(&self) -> Result<(), LocalError> {
        if !is_cluster_name(&self.cluster) {
            return Err(LocalError::Name);
        }
        if let Security::Sign(Trust::ClusterKey { key, certificate }) = &self.security
            && !certificate.certifies(*key, self.identity.public(), &self.cluster)
        {
            return Err(LocalError::Certificate);
        }
        Ok(())
    }
}

/// Whether a text can be the name of a cluster: 1 to [`CLUSTER_NAME_BYTES_MAX`] visible ASCII
/// characters. So the name of another cluster can be shown in a log as it comes.
#[must_use]
pub fn is_cluster_name(name: &str) -> bool {
    (1..=CLUSTER_NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Adds a name to a hash, so that where it ends cannot be moved.
fn hash_name(hash: &mut blake3::Hasher, name: &str) {
    hash.update(&(name.len() as u64).to_le_bytes());
    hash.update(name.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_disturb_a_log_are_none() {
        for name in ["a", "blue", "prod/eu-1", &"x".repeat(64)] {
            assert!(is_cluster_name(name), "{name}");
        }
        for name in ["", "a b", "a\n", "\x1b[2J", "\u{e4}", &"x".repeat(65)] {
            assert!(!is_cluster_name(name), "{name}");
        }
    }

    #[test]
    fn a_certificate_of_another_node_is_found_at_the_start() {
        let (cluster_key, identity) =
            (Identity::from_secret([1; 32]), Identity::from_secret([2; 32]));
        let local = |node: &Identity, name: &str, cluster: &str| Local {
            identity: identity.clone(),
            security: Security::Sign(Trust::ClusterKey {
                key: cluster_key.public(),
                certificate: Certificate::issue(&cluster_key, node.public(), name),
            }),
            cluster: cluster.to_owned(),
        };
        assert_eq!(local(&identity, "blue", "blue").check(), Ok(()));
        assert_eq!(local(&cluster_key, "blue", "blue").check(), Err(LocalError::Certificate));
        assert_eq!(local(&identity, "red", "blue").check(), Err(LocalError::Certificate));
        assert_eq!(local(&identity, "blue", "").check(), Err(LocalError::Name));
    }
}
