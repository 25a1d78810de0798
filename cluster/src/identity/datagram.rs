//! Datagrams: who sent one, and that it was not sent before.
//!
//! ```text
//!  0      4        5      6      8
//!  | GKVD | format | mode | zero | cluster tag |
//!
//!  mode 0, unsigned
//!  16       24      32
//!  | sender | check | payload ... |
//!
//!  mode 1, signed; mode 2, signed and certified
//!  16    48         56     64
//!  | key | sequence | wall | certificate (mode 2) | signature | payload ... |
//! ```
//!
//! Integers are little-endian. The tag is xxh3-64 of the cluster's name, `sender` a member's id,
//! `check` xxh3-64 of all before it and the payload, `wall` the sender's clock in milliseconds since
//! 1970. The signature covers the cluster's name, all before it and the payload.
//!
//! `sequence` is larger with each datagram: it begins at the start of the process in milliseconds,
//! times 65,536, and counts up, so that a process that starts anew goes on above.
//!
//! # What is asked, in this order
//!
//! Length and format; the cluster; whether both sign; the clocks; whether the key is trusted, if that
//! is free; the sequence; the certificate of a sender that was not heard before; the signature. What
//! costs most is last, and nothing is remembered of a datagram whose signature does not fit.
//!
//! # This node's own key
//!
//! A datagram that is signed with it is taken like any other's: it is this node's, come back, or that
//! of a process with a copy of its data directory. The membership tells them apart, and has to hear
//! both ends of it.
//!
//! # A flood
//!
//! A verification costs about 60 us. Each sender has a share of them in each second, senders that
//! were not heard before have one together, and there is a bound for all. So who floods a node with
//! datagrams of unknown senders does not keep it from hearing those it knows, who floods it with those
//! of one sender takes this sender's place alone, and neither takes more than a part of one core.
//!
//! # Replays
//!
//! Of each sender the window of sequences is kept. A datagram is refused when its clock differs from
//! the receiver's by more than [`CLOCK_DIFFERENCE_MAX`]. One that was taken is too old for that twice
//! this time later, so after such a silence the window begins anew: a node whose clock was set back
//! over a restart is heard again.

use std::collections::BTreeMap;
use std::time::Duration;

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::certificate::{CERTIFICATE_BYTES, Certificate};
use super::introduction::take;
use super::key::{Digest, KEY_BYTES, PublicKey, SIGNATURE_BYTES};
use super::trust::{Mode, Security, Trust};
use super::window::{Budget, Window};
use super::{Local, hash_name};
use crate::model::MemberId;
use crate::time::WallTime;

/// Longest payload.
pub const PAYLOAD_BYTES_MAX: usize = 1_200;
/// Longest datagram: goes through the networks there are in one piece.
pub const DATAGRAM_BYTES_MAX: usize = 1_400;
/// What comes before a payload at most.
pub const OVERHEAD_BYTES_MAX: usize = SIGNED_BYTES + CERTIFICATE_BYTES + SIGNATURE_BYTES;
/// How far clocks may differ.
pub const CLOCK_DIFFERENCE_MAX: Duration = Duration::from_secs(30);
/// Signatures that are verified in a second.
pub const VERIFICATIONS_PER_SECOND: u32 = 2_000;
/// Those for one sender, or for all that were not heard before.
pub const VERIFICATIONS_PER_SENDER: u32 = 250;

const MAGIC: [u8; 4] = *b"GKVD";
const FORMAT: u8 = 1;
const HEADER_BYTES: usize = 16;
const UNSIGNED_BYTES: usize = HEADER_BYTES + 8 + 8;
const SIGNED_BYTES: usize = HEADER_BYTES + KEY_BYTES + 8 + 8;
const CHECK_AT: usize = UNSIGNED_BYTES - 8;
/// Senders that are remembered: as many as a cluster may have members.
const SENDERS_MAX: usize = 10_000;
const CONTEXT: &str = "gridkv 1 datagram";

const _: () = assert!(OVERHEAD_BYTES_MAX == 192);
const _: () = assert!(UNSIGNED_BYTES < OVERHEAD_BYTES_MAX);
const _: () = assert!(PAYLOAD_BYTES_MAX + OVERHEAD_BYTES_MAX <= DATAGRAM_BYTES_MAX);
const _: () = assert!(VERIFICATIONS_PER_SENDER < VERIFICATIONS_PER_SECOND);

/// Why a datagram was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DatagramError {
    /// It is no datagram of a node.
    #[error("not a datagram between nodes, or damaged")]
    Malformed,
    /// It is of a cluster of another name.
    #[error("of another cluster")]
    Foreign,
    /// It is signed and this node does not sign, or the other way round.
    #[error("signed where this node does not sign, or not signed where it does")]
    Security,
    /// The clocks differ too much.
    #[error("the sender's clock differs by more than {} seconds", CLOCK_DIFFERENCE_MAX.as_secs())]
    Skewed,
    /// Its sender is not trusted.
    #[error("of a sender that is not trusted")]
    Untrusted,
    /// It was taken before, or is too old to tell.
    #[error("a repetition")]
    Replayed,
    /// Its signature does not fit.
    #[error("the signature does not fit")]
    Forged,
    /// There are more datagrams than this node verifies.
    #[error("more datagrams than are verified")]
    Throttled,
}

/// What became of the datagrams that arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DatagramStats {
    /// Taken.
    pub accepted: u64,
    /// Of a sequence that was taken, or too old to tell.
    pub replayed: u64,
    /// With a signature that does not fit.
    pub forged: u64,
    /// Of senders that are not trusted, or do not sign where this node does.
    pub untrusted: u64,
    /// Of clusters of other names.
    pub foreign: u64,
    /// Damaged, or none.
    pub malformed: u64,
    /// Dropped unverified.
    pub throttled: u64,
    /// Of senders whose clocks differ too much.
    pub skewed: u64,
}

impl DatagramStats {
    /// All that were not taken, for whatever reason.
    #[must_use]
    pub const fn refused(&self) -> u64 {
        self.replayed
            + self.forged
            + self.untrusted
            + self.foreign
            + self.malformed
            + self.throttled
            + self.skewed
    }
}

/// Seals and opens the datagrams of one node. Made anew when the node's trust changes.
#[derive(Debug)]
pub struct DatagramSeal {
    sequence_next: u64,
    /// Those of which a signature was verified, and a certificate where it takes one.
    senders: BTreeMap<PublicKey, Sender>,
    budget: Budget,
    budget_of_strangers: Budget,
    stats: DatagramStats,
}

#[derive(Debug)]
struct Sender {
    window: Window,
    heard_at: WallTime,
    budget: Budget,
}

impl Sender {
    /// Whether whatever was taken of it is too old to be taken again.
    fn is_silent(&self, wall: WallTime) -> bool {
        wall.saturating_since(self.heard_at) > 2 * CLOCK_DIFFERENCE_MAX
    }
}

impl DatagramSeal {
    /// For a process that started at `run`, in milliseconds since 1970.
    ///
    /// # Panics
    ///
    /// When `run` is above [`WallTime::MAX`].
    #[must_use]
    pub fn new(run: u64) -> Self {
        assert!(run <= WallTime::MAX.as_millis());
        Self {
            sequence_next: run << 16,
            senders: BTreeMap::new(),
            budget: Budget::default(),
            budget_of_strangers: Budget::default(),
            stats: DatagramStats::default(),
        }
    }

    /// What became of the datagrams that arrived.
    #[must_use]
    pub const fn stats(&self) -> DatagramStats {
        self.stats
    }

    /// The datagram with this payload.
    ///
    /// # Panics
    ///
    /// When the payload is longer than [`PAYLOAD_BYTES_MAX`].
    #[must_use]
    pub fn seal(&mut self, local: &Local, wall: WallTime, payload: &[u8]) -> Vec<u8> {
        assert!(payload.len() <= PAYLOAD_BYTES_MAX);
        let mut bytes = Vec::with_capacity(OVERHEAD_BYTES_MAX + payload.len());
        bytes.extend(MAGIC);
        bytes.extend([FORMAT, local.security.mode() as u8, 0, 0]);
        bytes.extend(tag(local).to_le_bytes());
        if local.security.is_signing() {
            bytes.extend(local.identity.public().0);
            bytes.extend(self.sequence_next.to_le_bytes());
            bytes.extend(wall.as_millis().to_le_bytes());
            bytes.extend(local.security.certificate().iter().flat_map(Certificate::to_bytes));
            let signature = local.identity.sign(&digest(local, &bytes, payload));
            bytes.extend(signature);
            self.sequence_next += 1;
        } else {
            bytes.extend(local.identity.id().0.to_le_bytes());
            bytes.extend(check(&bytes, payload).to_le_bytes());
        }
        assert!(bytes.len() <= OVERHEAD_BYTES_MAX);
        bytes.extend(payload);
        bytes
    }

    /// Who has sent a datagram, and its payload. Where nodes do not sign, it is whoever it says.
    ///
    /// # Errors
    ///
    /// [`DatagramError`]: drop it.
    pub fn open<'a>(
        &mut self,
        local: &Local,
        wall: WallTime,
        bytes: &'a [u8],
    ) -> Result<(MemberId, &'a [u8]), DatagramError> {
        let opened = self.open_any(local, wall, bytes);
        let counter = match opened {
            Ok(_) => &mut self.stats.accepted,
            Err(DatagramError::Malformed) => &mut self.stats.malformed,
            Err(DatagramError::Foreign) => &mut self.stats.foreign,
            Err(DatagramError::Security | DatagramError::Untrusted) => &mut self.stats.untrusted,
            Err(DatagramError::Skewed) => &mut self.stats.skewed,
            Err(DatagramError::Replayed) => &mut self.stats.replayed,
            Err(DatagramError::Forged) => &mut self.stats.forged,
            Err(DatagramError::Throttled) => &mut self.stats.throttled,
        };
        *counter += 1;
        opened
    }

    fn open_any<'a>(
        &mut self,
        local: &Local,
        wall: WallTime,
        bytes: &'a [u8],
    ) -> Result<(MemberId, &'a [u8]), DatagramError> {
        let (mode, tag_found, rest) = read_header(bytes).ok_or(DatagramError::Malformed)?;
        if tag_found != tag(local) {
            return Err(DatagramError::Foreign);
        }
        match &local.security {
            Security::Off if mode == Mode::Unsigned => open_unsigned(bytes, rest),
            Security::Sign(trust) if mode.is_signed() => {
                let signed = Signed::read(mode, bytes, rest).ok_or(DatagramError::Malformed)?;
                self.open_signed(local, trust, wall, &signed)?;
                Ok((signed.key.id(), signed.payload))
            }
            _ => Err(DatagramError::Security),
        }
    }

    fn open_signed(
        &mut self,
        local: &Local,
        trust: &Trust,
        wall: WallTime,
        signed: &Signed<'_>,
    ) -> Result<(), DatagramError> {
        let Signed { key, sequence, certificate, .. } = *signed;
        let difference = wall.saturating_since(signed.wall).max(signed.wall.saturating_since(wall));
        if difference > CLOCK_DIFFERENCE_MAX {
            return Err(DatagramError::Skewed);
        }
        let sender = self.senders.get(&key);
        let takes_certificate = match trust {
            // Its own, perhaps.
            Trust::Keys(_) if key == local.identity.public() => false,
            Trust::Keys(_) => {
                trust.judge(key, None, &local.cluster).map_err(|_| DatagramError::Untrusted)?;
                false
            }
            Trust::ClusterKey { .. } => sender.is_none(),
        };
        if sender.is_some_and(|it| !it.is_silent(wall) && !it.window.is_new(sequence)) {
            return Err(DatagramError::Replayed);
        }
        if takes_certificate {
            if certificate.is_none() {
                return Err(DatagramError::Untrusted);
            }
            self.spend(key, wall)?;
            let judged = trust.judge(key, certificate, &local.cluster);
            judged.map_err(|_| DatagramError::Untrusted)?;
        }
        self.spend(key, wall)?;
        if !key.has_signed(&digest(local, signed.covered, signed.payload), &signed.signature) {
            return Err(DatagramError::Forged);
        }
        self.remember(key, sequence, wall)
    }

    /// Before a signature is verified.
    fn spend(&mut self, key: PublicKey, wall: WallTime) -> Result<(), DatagramError> {
        let share = match self.senders.get_mut(&key) {
            Some(sender) => &mut sender.budget,
            None => &mut self.budget_of_strangers,
        };
        let may = share.spend(wall, VERIFICATIONS_PER_SENDER)
            && self.budget.spend(wall, VERIFICATIONS_PER_SECOND);
        if may { Ok(()) } else { Err(DatagramError::Throttled) }
    }

    /// After its signature was verified.
    fn remember(
        &mut self,
        key: PublicKey,
        sequence: u64,
        wall: WallTime,
    ) -> Result<(), DatagramError> {
        if let Some(sender) = self.senders.get_mut(&key) {
            if sender.is_silent(wall) {
                sender.window = Window::starting_at(sequence);
            } else {
                sender.window.mark(sequence);
            }
            sender.heard_at = sender.heard_at.max(wall);
            return Ok(());
        }
        if self.senders.len() >= SENDERS_MAX {
            self.senders.retain(|_, sender| !sender.is_silent(wall));
        }
        if self.senders.len() >= SENDERS_MAX {
            return Err(DatagramError::Throttled);
        }
        let window = Window::starting_at(sequence);
        self.senders.insert(key, Sender { window, heard_at: wall, budget: Budget::default() });
        Ok(())
    }
}

/// A signed datagram.
struct Signed<'a> {
    key: PublicKey,
    sequence: u64,
    wall: WallTime,
    certificate: Option<Certificate>,
    signature: [u8; SIGNATURE_BYTES],
    /// What comes before the signature.
    covered: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Signed<'a> {
    /// Reads what follows the header.
    fn read(mode: Mode, bytes: &'a [u8], after_header: &'a [u8]) -> Option<Self> {
        let mut rest = after_header;
        let key = PublicKey(take(&mut rest)?);
        let sequence = u64::from_le_bytes(take(&mut rest)?);
        let wall = WallTime::from_millis(u64::from_le_bytes(take(&mut rest)?));
        let certificate = match mode {
            Mode::Certified => Some(Certificate::from_bytes(take(&mut rest)?)),
            Mode::Unsigned | Mode::Signed => None,
        };
        let covered = &bytes[..bytes.len() - rest.len()];
        let signature = take(&mut rest)?;
        Some(Self { key, sequence, wall, certificate, signature, covered, payload: rest })
    }
}

/// Mode, tag and what follows the header.
fn read_header(bytes: &[u8]) -> Option<(Mode, u64, &[u8])> {
    if bytes.len() > DATAGRAM_BYTES_MAX {
        return None;
    }
    let mut rest = bytes;
    if take(&mut rest)? != MAGIC {
        return None;
    }
    let [FORMAT, mode, 0, 0] = take(&mut rest)? else { return None };
    let tag = u64::from_le_bytes(take(&mut rest)?);
    Some((Mode::from_byte(mode)?, tag, rest))
}

fn open_unsigned<'a>(
    bytes: &[u8],
    after_header: &'a [u8],
) -> Result<(MemberId, &'a [u8]), DatagramError> {
    let mut rest = after_header;
    let mut number = || take(&mut rest).map(u64::from_le_bytes).ok_or(DatagramError::Malformed);
    let (sender, check_found) = (MemberId(number()?), number()?);
    if check(&bytes[..CHECK_AT], rest) != check_found {
        return Err(DatagramError::Malformed);
    }
    Ok((sender, rest))
}

fn tag(local: &Local) -> u64 {
    xxh3_64(local.cluster.as_bytes())
}

fn check(covered: &[u8], payload: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(covered);
    hash.update(payload);
    hash.digest()
}

/// What is signed. How long `covered` is, is told by the mode in it.
fn digest(local: &Local, covered: &[u8], payload: &[u8]) -> Digest {
    let mut hash = blake3::Hasher::new_derive_key(CONTEXT);
    hash_name(&mut hash, &local.cluster);
    hash.update(covered);
    hash.update(payload);
    *hash.finalize().as_bytes()
}

#[cfg(test)]
mod tests;
