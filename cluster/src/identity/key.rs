//! Who a node is: an Ed25519 key pair. The public half is told to everyone, the secret half stays in
//! the node's data directory.
//!
//! What is signed is always a digest of 32 bytes, made by BLAKE3 in its mode for deriving keys, under
//! a context that says what the signature means. So a signature that was made for one purpose is
//! worth nothing for another.
//!
//! Signatures are verified strictly: keys and nonces of small order, with which one signature fits
//! many messages, are refused.

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use xxhash_rust::xxh3::xxh3_64;

use super::hex;
use crate::model::MemberId;

/// Length of a public key, and of a secret one.
pub const KEY_BYTES: usize = 32;
/// Length of a signature.
pub(super) const SIGNATURE_BYTES: usize = 64;

pub(super) type Digest = [u8; 32];

/// An Ed25519 key pair. Its memory is cleared when it is dropped.
#[derive(Clone)]
pub struct Identity {
    pair: SigningKey,
}

impl Identity {
    /// The key pair that belongs to a secret: 32 random bytes.
    #[must_use]
    pub fn from_secret(secret: [u8; KEY_BYTES]) -> Self {
        Self { pair: SigningKey::from_bytes(&secret) }
    }

    /// What must not leave the node.
    #[must_use]
    pub fn secret(&self) -> &[u8; KEY_BYTES] {
        self.pair.as_bytes()
    }

    /// What the others know the node by.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.pair.verifying_key().to_bytes())
    }

    /// The short form of the public key.
    #[must_use]
    pub fn id(&self) -> MemberId {
        self.public().id()
    }

    pub(super) fn sign(&self, digest: &Digest) -> [u8; SIGNATURE_BYTES] {
        self.pair.sign(digest).to_bytes()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.public())
    }
}

/// The public half of an [`Identity`]: 64 hexadecimal digits as text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; KEY_BYTES]);

impl PublicKey {
    /// Its short form: xxh3-64.
    #[must_use]
    pub fn id(&self) -> MemberId {
        MemberId(xxh3_64(&self.0))
    }

    /// Whether the owner of this key has signed `digest`. Costs about 60 us: ask what is cheaper
    /// first.
    pub(super) fn has_signed(&self, digest: &Digest, signature: &[u8; SIGNATURE_BYTES]) -> bool {
        let signature = Signature::from_bytes(signature);
        VerifyingKey::from_bytes(&self.0)
            .and_then(|key| key.verify_strict(digest, &signature))
            .is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is no public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a public key, which is 64 hexadecimal digits")]
pub struct KeyError;

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let bytes = hex::decode(text).ok_or(KeyError)?;
        // A key that is no point of the curve would be trusted and never met.
        VerifyingKey::from_bytes(&bytes).map_err(|_| KeyError)?;
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_makes_the_same_identity_each_time() {
        let identity = Identity::from_secret([7; 32]);
        assert_eq!(identity.secret(), &[7; 32]);
        let public = "ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c";
        assert_eq!(identity.public().to_string(), public);
        assert_eq!(identity.id(), identity.public().id());
        assert_eq!(identity.id(), MemberId(xxh3_64(&identity.public().0)));
    }

    #[test]
    fn a_public_key_comes_back_from_its_text() {
        let public = Identity::from_secret([8; 32]).public();
        assert_eq!(public.to_string().parse(), Ok(public));
        assert_eq!("".parse::<PublicKey>(), Err(KeyError));
        assert_eq!("0".repeat(63).parse::<PublicKey>(), Err(KeyError));
        // y = 2 is on no point of the curve.
        assert_eq!(format!("02{}", "00".repeat(31)).parse::<PublicKey>(), Err(KeyError));
    }

    #[test]
    fn only_the_owner_signs_and_only_what_was_signed() {
        let (identity, other) = (Identity::from_secret([1; 32]), Identity::from_secret([2; 32]));
        let signature = identity.sign(&[9; 32]);
        assert!(identity.public().has_signed(&[9; 32], &signature));
        assert!(!other.public().has_signed(&[9; 32], &signature));
        assert!(!identity.public().has_signed(&[8; 32], &signature));
        for at in 0..SIGNATURE_BYTES {
            let mut damaged = signature;
            damaged[at] ^= 1;
            assert!(!identity.public().has_signed(&[9; 32], &damaged), "byte {at}");
        }
    }

    #[test]
    fn a_key_of_small_order_signs_nothing() {
        // The neutral element, as key and as nonce, with the scalar 0: fits every message where
        // signatures are verified loosely.
        let mut point = [0; 32];
        point[0] = 1;
        let mut signature = [0; SIGNATURE_BYTES];
        signature[0] = 1;
        assert!(!PublicKey(point).has_signed(&[9; 32], &signature));
        assert!(!PublicKey([0; 32]).has_signed(&[9; 32], &[0; SIGNATURE_BYTES]));
    }

    #[test]
    fn a_secret_is_not_printed() {
        let identity = Identity::from_secret([0x5a; 32]);
        assert!(!format!("{identity:?}").contains(&hex::encode(identity.secret())));
    }
}
