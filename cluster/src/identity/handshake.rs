//! How two nodes come to know each other at the beginning of a connection.
//!
//! ```text
//!  initiator                                        responder
//!     | introduction: key, ephemeral, nonce, hello     |
//!     |----------------------------------------------->|  is it believed?
//!     | introduction of its own, signature             |
//!     |<-----------------------------------------------|
//!     | signature                                      |
//!     |----------------------------------------------->|  peer, keys
//!   peer, keys
//! ```
//!
//! The bytes are drawn in `introduction.rs`. Each message is the body of a frame with a checksum; all
//! frames after the last one are under the session's keys. Who refuses sends the reason
//! ([`Refusal::encode`]) in place of its next message.
//!
//! # What is signed
//!
//! Both sign the hash of both introductions, each as responder or initiator: the version, the roles,
//! the cluster's name, both keys, ephemerals, nonces and hellos, and the target. As both ephemerals
//! are fresh, a signature is worth nothing on another connection; and whoever changes a byte on the
//! way has changed what one of the two signs.
//!
//! The session's keys, one for each direction, come from the secret that the ephemerals share and
//! from the same hash.
//!
//! # What a stranger can cause
//!
//! A key that is not on the list is refused before anything is computed; where the cluster's key
//! certifies, after one signature was verified. Who shows a trusted key that is another's makes the
//! responder sign once, and is refused at the proof. Nothing outside the handshake changes before it
//! has finished, so a replayed message leaves no trace.

use std::fmt;
use std::mem;

use x25519_dalek::{PublicKey as EphemeralPublic, StaticSecret};

use super::introduction::{Hello, Introduction, Kind, decode_proof, encode_proof, take_signature};
use super::key::{Digest, Identity, PublicKey};
use super::refusal::Refusal;
use super::trust::{Mode, Security};
use super::{Local, is_cluster_name};
use crate::model::MemberId;

const EPHEMERAL: &str = "gridkv 1 handshake, ephemeral secret";
const NONCE: &str = "gridkv 1 handshake, nonce";
const TRANSCRIPT: &str = "gridkv 1 handshake, both introductions";
const SIGNED_BY_INITIATOR: &str = "gridkv 1 handshake, signed by the initiator";
const SIGNED_BY_RESPONDER: &str = "gridkv 1 handshake, signed by the responder";
const TO_RESPONDER: &str = "gridkv 1 handshake, frames from the initiator";
const TO_INITIATOR: &str = "gridkv 1 handshake, frames from the responder";

/// One end of a handshake.
pub struct Handshake {
    state: State,
}

enum State {
    /// The responder waits for the initiator's introduction.
    AwaitInitiator {
        hello: Hello,
        random: [u8; 32],
        target: u16,
    },
    /// The initiator waits for the responder's.
    AwaitResponder {
        hello: Hello,
        target: u16,
        secret: StaticSecret,
        introduction: Vec<u8>,
    },
    /// The responder waits for the proof.
    AwaitProof {
        secret: StaticSecret,
        transcript: Digest,
        peer: Introduction,
    },
    Over,
}

/// What is next.
#[derive(Debug)]
pub enum Step {
    /// Send this and wait for the answer.
    Send(Vec<u8>),
    /// The other end is known. Frames are under the keys after `send`, if there is one.
    Finished {
        /// What is sent before.
        send: Option<Vec<u8>>,
        /// The other end.
        peer: Peer,
    },
}

/// The other end of a connection. Where nodes do not sign, it is whoever it says.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Who it is.
    pub id: MemberId,
    /// Its key.
    pub key: PublicKey,
    /// What it tells of itself.
    pub hello: Hello,
    /// The keys of the connection; `None` where nodes do not sign.
    pub keys: Option<Keys>,
}

/// The keys of a connection, as one end has them.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    /// For the frames that it sends.
    pub send: [u8; 32],
    /// For the frames that it receives.
    pub receive: [u8; 32],
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(..)")
    }
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.state {
            State::AwaitInitiator { .. } => "Handshake(await initiator)",
            State::AwaitResponder { .. } => "Handshake(await responder)",
            State::AwaitProof { .. } => "Handshake(await proof)",
            State::Over => "Handshake(over)",
        })
    }
}

impl Handshake {
    /// The end that has connected, for shard `target` of the other; and its first message. `random`
    /// is used for this handshake only.
    ///
    /// # Panics
    ///
    /// When the cluster's name is none, see [`Local::check`].
    #[must_use]
    pub fn initiate(local: &Local, hello: Hello, random: [u8; 32], target: u16) -> (Self, Vec<u8>) {
        let (secret, introduction) = introduce(local, Kind::Initiator, hello, &random, target);
        let state =
            State::AwaitResponder { hello, target, secret, introduction: introduction.clone() };
        (Self { state }, introduction)
    }

    /// The end that was connected to, at shard `target`. `random` is used for this handshake only.
    ///
    /// # Panics
    ///
    /// When the cluster's name is none, see [`Local::check`].
    #[must_use]
    pub fn respond(local: &Local, hello: Hello, random: [u8; 32], target: u16) -> Self {
        assert!(is_cluster_name(&local.cluster));
        Self { state: State::AwaitInitiator { hello, random, target } }
    }

    /// What the one who has connected says of itself: judged, and not proven yet. It is what is there
    /// to hear of one who ends the connection as soon as it knows who has answered.
    #[must_use]
    pub const fn claimed(&self) -> Option<&Hello> {
        match &self.state {
            State::AwaitProof { peer, .. } => Some(&peer.hello),
            _ => None,
        }
    }

    /// Takes in the other end's next message. `local` is the same each time.
    ///
    /// # Errors
    ///
    /// [`Refusal`]: the handshake is over. Tell the other end ([`Refusal::encode`]) and close.
    pub fn on_message(&mut self, local: &Local, bytes: &[u8]) -> Result<Step, Refusal> {
        let state = mem::replace(&mut self.state, State::Over);
        if let Some(reason) = Refusal::decode(bytes) {
            return Err(Refusal::ByPeer(reason));
        }
        match state {
            State::AwaitInitiator { hello, random, target } => {
                let (step, state) = answer(local, hello, &random, target, bytes)?;
                self.state = state;
                Ok(step)
            }
            State::AwaitResponder { hello, target, secret, introduction } => {
                prove(local, &hello, target, &secret, &introduction, bytes)
            }
            State::AwaitProof { secret, transcript, peer } => {
                finish(local, &secret, &transcript, &peer, bytes)
            }
            State::Over => Err(Refusal::Malformed),
        }
    }
}

/// The responder's answer to the initiator's introduction.
fn answer(
    local: &Local,
    hello: Hello,
    random: &[u8; 32],
    target: u16,
    bytes: &[u8],
) -> Result<(Step, State), Refusal> {
    let (peer, rest) = Introduction::decode(Kind::Initiator, bytes)?;
    if !rest.is_empty() {
        return Err(Refusal::Malformed);
    }
    judge(local, &hello, target, &peer)?;
    let (secret, mut message) = introduce(local, Kind::Responder, hello, random, target);
    let transcript = transcript(bytes, &message);
    if local.security.is_signing() {
        message.extend(sign(&local.identity, SIGNED_BY_RESPONDER, &transcript));
    }
    Ok((Step::Send(message), State::AwaitProof { secret, transcript, peer }))
}

/// The initiator's answer to the responder's introduction.
fn prove(
    local: &Local,
    hello: &Hello,
    target: u16,
    secret: &StaticSecret,
    introduction: &[u8],
    bytes: &[u8],
) -> Result<Step, Refusal> {
    let (peer, rest) = Introduction::decode(Kind::Responder, bytes)?;
    let signature = take_signature(peer.mode, rest)?;
    judge(local, hello, target, &peer)?;
    let transcript = transcript(introduction, &bytes[..bytes.len() - rest.len()]);
    let mode = local.security.mode();
    let Some(signature) = signature else {
        let send = Some(encode_proof(mode, None));
        return Ok(Step::Finished { send, peer: known(&peer, None) });
    };
    if !peer.key.has_signed(&signed(SIGNED_BY_RESPONDER, &transcript), &signature) {
        return Err(Refusal::BadSignature);
    }
    let [to_responder, to_initiator] = session_keys(secret, &peer, &transcript)?;
    let keys = Keys { send: to_responder, receive: to_initiator };
    let proof = sign(&local.identity, SIGNED_BY_INITIATOR, &transcript);
    let send = Some(encode_proof(mode, Some(proof)));
    Ok(Step::Finished { send, peer: known(&peer, Some(keys)) })
}

/// The responder has the initiator's proof.
fn finish(
    local: &Local,
    secret: &StaticSecret,
    transcript: &Digest,
    peer: &Introduction,
    bytes: &[u8],
) -> Result<Step, Refusal> {
    let signs = peer.mode.is_signed();
    // Judged before, but by a node that may have been told otherwise meanwhile.
    if signs != local.security.is_signing() {
        return Err(Refusal::Security { signs });
    }
    let Some(signature) = decode_proof(peer.mode, bytes)? else {
        return Ok(Step::Finished { send: None, peer: known(peer, None) });
    };
    if !peer.key.has_signed(&signed(SIGNED_BY_INITIATOR, transcript), &signature) {
        return Err(Refusal::BadSignature);
    }
    let [to_responder, to_initiator] = session_keys(secret, peer, transcript)?;
    let keys = Keys { send: to_initiator, receive: to_responder };
    Ok(Step::Finished { send: None, peer: known(peer, Some(keys)) })
}

/// Whether to go on with who introduces itself so. What costs most is asked last.
fn judge(local: &Local, hello: &Hello, target: u16, peer: &Introduction) -> Result<(), Refusal> {
    if peer.cluster != local.cluster {
        return Err(Refusal::OtherCluster { name: peer.cluster.clone() });
    }
    let signs = peer.mode.is_signed();
    if signs != local.security.is_signing() {
        return Err(Refusal::Security { signs });
    }
    if peer.target != target {
        return Err(Refusal::OtherTarget { target: peer.target });
    }
    if peer.key.id() == local.identity.id() {
        return Err(Refusal::Own);
    }
    if let Security::Sign(trust) = &local.security {
        trust
            .judge(peer.key, peer.certificate, &local.cluster)
            .map_err(|distrust| Refusal::of_distrust(distrust, peer.key))?;
    }
    let cluster_id = peer.hello.cluster_id;
    if cluster_id != hello.cluster_id && cluster_id != 0 && hello.cluster_id != 0 {
        return Err(Refusal::OtherClusterId { cluster_id });
    }
    Ok(())
}

/// The ephemeral secret of one end, and its introduction.
fn introduce(
    local: &Local,
    kind: Kind,
    hello: Hello,
    random: &[u8; 32],
    target: u16,
) -> (StaticSecret, Vec<u8>) {
    // With the node's own secret mixed in, random bytes that can be guessed make no key that can.
    let secret =
        blake3::derive_key(EPHEMERAL, &[&random[..], &local.identity.secret()[..]].concat());
    let secret = StaticSecret::from(secret);
    let introduction = Introduction {
        kind,
        mode: local.security.mode(),
        target,
        key: local.identity.public(),
        ephemeral: EphemeralPublic::from(&secret).to_bytes(),
        nonce: blake3::derive_key(NONCE, random),
        hello,
        cluster: local.cluster.clone(),
        certificate: local.security.certificate(),
    };
    assert_eq!(introduction.mode == Mode::Certified, introduction.certificate.is_some());
    (secret, introduction.encode())
}

/// The hash of what both have said of themselves. An introduction tells its own length.
fn transcript(initiator: &[u8], responder: &[u8]) -> Digest {
    let mut hash = blake3::Hasher::new_derive_key(TRANSCRIPT);
    hash.update(initiator);
    hash.update(responder);
    *hash.finalize().as_bytes()
}

fn signed(role: &str, transcript: &Digest) -> Digest {
    blake3::derive_key(role, transcript)
}

fn sign(identity: &Identity, role: &str, transcript: &Digest) -> [u8; 64] {
    identity.sign(&signed(role, transcript))
}

/// The keys to the responder and to the initiator.
fn session_keys(
    secret: &StaticSecret,
    peer: &Introduction,
    transcript: &Digest,
) -> Result<[[u8; 32]; 2], Refusal> {
    let shared = secret.diffie_hellman(&EphemeralPublic::from(peer.ephemeral));
    if !shared.was_contributory() {
        return Err(Refusal::WeakKey);
    }
    let material = [&shared.as_bytes()[..], &transcript[..]].concat();
    let keys = [TO_RESPONDER, TO_INITIATOR].map(|context| blake3::derive_key(context, &material));
    assert!(keys[0] != keys[1]);
    Ok(keys)
}

fn known(peer: &Introduction, keys: Option<Keys>) -> Peer {
    Peer { id: peer.key.id(), key: peer.key, hello: peer.hello, keys }
}

#[cfg(test)]
mod tests;
