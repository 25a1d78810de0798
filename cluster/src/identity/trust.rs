//! Whom a node believes.
//!
//! A cluster is a list of trusted keys, or of keys that the cluster's key has certified. What is
//! free is asked first: whether a key is on the list costs nothing, whether a certificate is good
//! costs the verification of a signature.

use super::certificate::Certificate;
use super::key::PublicKey;

/// Whether nodes prove who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Security {
    /// No. Whoever reaches the cluster's port belongs to the cluster.
    Off,
    /// Yes: datagrams and handshakes are signed, frames carry a code under a session key.
    Sign(Trust),
}

/// Whose signatures count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Those of these keys. A node's own may be among them.
    Keys(Vec<PublicKey>),
    /// Those of the keys that the cluster's key has certified.
    ClusterKey {
        /// The cluster's key.
        key: PublicKey,
        /// This node's own certificate.
        certificate: Certificate,
    },
}

/// What a node sends with its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Mode {
    Unsigned = 0,
    Signed = 1,
    Certified = 2,
}

impl Mode {
    pub(super) const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Unsigned),
            1 => Some(Self::Signed),
            2 => Some(Self::Certified),
            _ => None,
        }
    }

    pub(super) const fn is_signed(self) -> bool {
        !matches!(self, Self::Unsigned)
    }
}

/// Why a key is not trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Distrust {
    NotListed,
    NoCertificate,
    BadCertificate,
}

impl Security {
    /// Whether nodes prove who they are.
    #[must_use]
    pub const fn is_signing(&self) -> bool {
        matches!(self, Self::Sign(_))
    }

    pub(super) const fn mode(&self) -> Mode {
        match self {
            Self::Off => Mode::Unsigned,
            Self::Sign(Trust::Keys(_)) => Mode::Signed,
            Self::Sign(Trust::ClusterKey { .. }) => Mode::Certified,
        }
    }

    /// This node's own certificate.
    pub(super) const fn certificate(&self) -> Option<Certificate> {
        match self {
            Self::Sign(Trust::ClusterKey { certificate, .. }) => Some(*certificate),
            _ => None,
        }
    }
}

impl Trust {
    /// Whether a key is trusted. Verifies a signature only where there is no list, and a certificate.
    pub(super) fn judge(
        &self,
        key: PublicKey,
        certificate: Option<Certificate>,
        cluster: &str,
    ) -> Result<(), Distrust> {
        match self {
            Self::Keys(trusted) if trusted.contains(&key) => Ok(()),
            Self::Keys(_) => Err(Distrust::NotListed),
            Self::ClusterKey { key: cluster_key, .. } => {
                let certificate = certificate.ok_or(Distrust::NoCertificate)?;
                let is_good = certificate.certifies(*cluster_key, key, cluster);
                if is_good { Ok(()) } else { Err(Distrust::BadCertificate) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;

    fn identity(seed: u8) -> Identity {
        Identity::from_secret([seed; 32])
    }

    #[test]
    fn a_list_trusts_those_on_it_whatever_certificate_they_show() {
        let certificate = Certificate::issue(&identity(9), identity(3).public(), "blue");
        let trust = Trust::Keys(vec![identity(1).public(), identity(2).public()]);
        assert_eq!(trust.judge(identity(2).public(), None, "blue"), Ok(()));
        let stranger = identity(3).public();
        assert_eq!(trust.judge(stranger, Some(certificate), "blue"), Err(Distrust::NotListed));
    }

    #[test]
    fn a_cluster_key_trusts_those_it_has_certified_for_this_cluster() {
        let (cluster_key, node) = (identity(9), identity(1).public());
        let certificate = Certificate::issue(&cluster_key, node, "blue");
        let trust = Trust::ClusterKey { key: cluster_key.public(), certificate };
        assert_eq!(trust.judge(node, Some(certificate), "blue"), Ok(()));
        assert_eq!(trust.judge(node, None, "blue"), Err(Distrust::NoCertificate));
        assert_eq!(trust.judge(node, Some(certificate), "red"), Err(Distrust::BadCertificate));
        let stranger = identity(2).public();
        assert_eq!(trust.judge(stranger, Some(certificate), "blue"), Err(Distrust::BadCertificate));
        let forged = Certificate::issue(&identity(2), stranger, "blue");
        assert_eq!(trust.judge(stranger, Some(forged), "blue"), Err(Distrust::BadCertificate));
    }
}
