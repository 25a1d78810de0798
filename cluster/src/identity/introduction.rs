//! The bytes of a handshake. Integers are little-endian.
//!
//! ```text
//!  0      1      2         4                          8
//!  | kind | mode | version | what the kind needs ...  |
//!
//!  kind 1, 2: introduction of the initiator, of the responder
//!  4        6          7        8     40          72      104     112     120   128
//!  | target | name len | family | key | ephemeral | nonce | store | epoch | run | cluster id |
//!  136       152    154    160    224
//!  | address | port | zero | name | certificate (mode 2) | signature (kind 2, modes 1 and 2) |
//!
//!  kind 3: proof of the initiator
//!  4      8
//!  | zero | signature (modes 1 and 2) |
//!
//!  kind 4: refusal; `mode` is the reason
//!  4      8
//!  | zero |
//! ```
//!
//! `mode` is 0 unsigned, 1 signed, 2 signed and certified. `family` is 4 or 6; an IPv4 address has 4
//! bytes and 12 zeros. The name is filled with zeros up to 64 bytes.
//!
//! A message is valid as a whole or not at all: each field is in its range, what is zero is zero, and
//! not a byte remains. So what can be read has one form only, and a hash over the bytes covers the
//! meaning. Each is a multiple of 8 bytes long, as the bodies of frames are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::certificate::{CERTIFICATE_BYTES, Certificate};
use super::key::{KEY_BYTES, PublicKey, SIGNATURE_BYTES};
use super::trust::Mode;
use super::{CLUSTER_NAME_BYTES_MAX, is_cluster_name};

/// The version of the handshake.
pub(super) const VERSION: u16 = 1;
/// Longest message of a handshake.
pub const MESSAGE_BYTES_MAX: usize = INTRODUCTION_BYTES + CERTIFICATE_BYTES + SIGNATURE_BYTES;

const HEADER_BYTES: usize = 8;
const NONCE_BYTES: usize = 32;
const ADDRESS_BYTES: usize = 16 + 2 + 6;
const INTRODUCTION_BYTES: usize =
    HEADER_BYTES + 2 * KEY_BYTES + NONCE_BYTES + 4 * 8 + ADDRESS_BYTES + CLUSTER_NAME_BYTES_MAX;

const _: () = assert!(INTRODUCTION_BYTES == 224);
const _: () = assert!(MESSAGE_BYTES_MAX == 352);
const _: () = assert!(INTRODUCTION_BYTES.is_multiple_of(8));
const _: () = assert!(CERTIFICATE_BYTES.is_multiple_of(8));
const _: () = assert!(SIGNATURE_BYTES.is_multiple_of(8));

/// What a node tells of itself in a handshake. Its signature covers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Where it listens for the other nodes.
    pub address: SocketAddr,
    /// Which data it has: another number after it has lost them.
    pub store: u64,
    /// The topology that it knows.
    pub epoch: u64,
    /// When its process started, in milliseconds since 1970.
    pub run: u64,
    /// The number of its cluster; 0 while it knows none.
    pub cluster_id: u64,
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Initiator = 1,
    Responder = 2,
    Proof = 3,
    Refusal = 4,
}

/// Why bytes are not the message that was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DecodeError {
    Malformed,
    Version(u16),
}

/// A node introduces itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Introduction {
    pub(super) kind: Kind,
    pub(super) mode: Mode,
    pub(super) target: u16,
    pub(super) key: PublicKey,
    pub(super) ephemeral: [u8; KEY_BYTES],
    pub(super) nonce: [u8; NONCE_BYTES],
    pub(super) hello: Hello,
    pub(super) cluster: String,
    pub(super) certificate: Option<Certificate>,
}

impl Introduction {
    /// Its bytes, without a signature.
    pub(super) fn encode(&self) -> Vec<u8> {
        assert!(is_cluster_name(&self.cluster));
        assert_eq!(self.certificate.is_some(), self.mode == Mode::Certified);
        let mut bytes = Vec::with_capacity(MESSAGE_BYTES_MAX);
        let (family, address) = match self.hello.address.ip() {
            IpAddr::V4(ip) => (4, ipv4_bytes(ip)),
            IpAddr::V6(ip) => (6, ip.octets()),
        };
        let name_len = u8::try_from(self.cluster.len()).expect("a name is short");
        put_header(&mut bytes, self.kind, self.mode as u8);
        bytes.extend(self.target.to_le_bytes());
        bytes.extend([name_len, family]);
        bytes.extend(self.key.0);
        bytes.extend(self.ephemeral);
        bytes.extend(self.nonce);
        let Hello { store, epoch, run, cluster_id, .. } = self.hello;
        for number in [store, epoch, run, cluster_id] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(address);
        bytes.extend(self.hello.address.port().to_le_bytes());
        bytes.extend([0; 6]);
        bytes.extend(self.cluster.as_bytes());
        bytes.resize(INTRODUCTION_BYTES, 0);
        if let Some(certificate) = self.certificate {
            bytes.extend(certificate.to_bytes());
        }
        bytes
    }

    /// Reads one of this kind, and gives back what follows it.
    pub(super) fn decode(kind: Kind, bytes: &[u8]) -> Result<(Self, &[u8]), DecodeError> {
        let mut rest = bytes;
        let mode = take_header(&mut rest, kind)?;
        let mode = Mode::from_byte(mode).ok_or(DecodeError::Malformed)?;
        Self::decode_fields(kind, mode, rest).ok_or(DecodeError::Malformed)
    }

    fn decode_fields(kind: Kind, mode: Mode, bytes: &[u8]) -> Option<(Self, &[u8])> {
        let mut rest = bytes;
        let target = u16::from_le_bytes(take(&mut rest)?);
        let [name_len, family] = take(&mut rest)?;
        let key = PublicKey(take(&mut rest)?);
        let (ephemeral, nonce) = (take(&mut rest)?, take(&mut rest)?);
        let mut number = || take(&mut rest).map(u64::from_le_bytes);
        let (store, epoch, run, cluster_id) = (number()?, number()?, number()?, number()?);
        let ip = take_ip(&mut rest, family)?;
        let address = SocketAddr::new(ip, u16::from_le_bytes(take(&mut rest)?));
        take_zeros::<6>(&mut rest)?;
        let padded: [u8; CLUSTER_NAME_BYTES_MAX] = take(&mut rest)?;
        let (name, zeros) = padded.split_at_checked(usize::from(name_len))?;
        let cluster = str::from_utf8(name).ok().filter(|name| is_cluster_name(name))?.to_owned();
        if zeros.iter().any(|byte| *byte != 0) {
            return None;
        }
        let certificate = match mode {
            Mode::Certified => Some(Certificate::from_bytes(take(&mut rest)?)),
            Mode::Unsigned | Mode::Signed => None,
        };
        let hello = Hello { address, store, epoch, run, cluster_id };
        let introduction =
            Self { kind, mode, target, key, ephemeral, nonce, hello, cluster, certificate };
        Some((introduction, rest))
    }
}

/// The initiator's last message.
pub(super) fn encode_proof(mode: Mode, signature: Option<[u8; SIGNATURE_BYTES]>) -> Vec<u8> {
    assert_eq!(signature.is_some(), mode.is_signed());
    let mut bytes = Vec::with_capacity(HEADER_BYTES + SIGNATURE_BYTES);
    put_header(&mut bytes, Kind::Proof, mode as u8);
    bytes.extend([0; 4]);
    bytes.extend(signature.iter().flatten());
    bytes
}

/// The signature in the initiator's last message, of a handshake in this mode.
pub(super) fn decode_proof(
    mode: Mode,
    bytes: &[u8],
) -> Result<Option<[u8; SIGNATURE_BYTES]>, DecodeError> {
    let mut rest = bytes;
    let found = take_header(&mut rest, Kind::Proof)?;
    if found != mode as u8 {
        return Err(DecodeError::Malformed);
    }
    take_zeros::<4>(&mut rest).ok_or(DecodeError::Malformed)?;
    take_signature(mode, rest)
}

/// What remains of a message: a signature where the mode has one, otherwise nothing.
pub(super) fn take_signature(
    mode: Mode,
    rest: &[u8],
) -> Result<Option<[u8; SIGNATURE_BYTES]>, DecodeError> {
    if !mode.is_signed() {
        return if rest.is_empty() { Ok(None) } else { Err(DecodeError::Malformed) };
    }
    rest.try_into().map(Some).map_err(|_| DecodeError::Malformed)
}

pub(super) fn encode_refusal(reason: u8) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES);
    put_header(&mut bytes, Kind::Refusal, reason);
    bytes.extend([0; 4]);
    bytes
}

/// The reason, and the version of who refuses; `None` for any other message.
pub(super) fn decode_refusal(bytes: &[u8]) -> Option<(u8, u16)> {
    let [kind, reason, version_low, version_high, 0, 0, 0, 0] = *bytes else { return None };
    (kind == Kind::Refusal as u8).then(|| (reason, u16::from_le_bytes([version_low, version_high])))
}

fn put_header(bytes: &mut Vec<u8>, kind: Kind, mode: u8) {
    bytes.extend([kind as u8, mode]);
    bytes.extend(VERSION.to_le_bytes());
}

/// The mode of a message of this kind.
fn take_header(rest: &mut &[u8], kind: Kind) -> Result<u8, DecodeError> {
    let [found, mode] = take(rest).ok_or(DecodeError::Malformed)?;
    let version = u16::from_le_bytes(take(rest).ok_or(DecodeError::Malformed)?);
    if found != kind as u8 {
        return Err(DecodeError::Malformed);
    }
    if version == VERSION { Ok(mode) } else { Err(DecodeError::Version(version)) }
}

/// The next `N` bytes.
pub(super) fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (first, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(*first)
}

fn take_zeros<const N: usize>(rest: &mut &[u8]) -> Option<()> {
    (take::<N>(rest)? == [0; N]).then_some(())
}

fn take_ip(rest: &mut &[u8], family: u8) -> Option<IpAddr> {
    let address: [u8; 16] = take(rest)?;
    match family {
        4 => {
            let ip = Ipv4Addr::new(address[0], address[1], address[2], address[3]);
            (address == ipv4_bytes(ip)).then_some(IpAddr::V4(ip))
        }
        6 => Some(IpAddr::V6(Ipv6Addr::from(address))),
        _ => None,
    }
}

fn ipv4_bytes(ip: Ipv4Addr) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&ip.octets());
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn introduction(mode: Mode, address: SocketAddr, cluster: &str) -> Introduction {
        Introduction {
            kind: Kind::Initiator,
            mode,
            target: 3,
            key: PublicKey([1; 32]),
            ephemeral: [2; 32],
            nonce: [3; 32],
            hello: Hello { address, store: 4, epoch: 5, run: 6, cluster_id: 7 },
            cluster: cluster.to_owned(),
            certificate: (mode == Mode::Certified).then(|| Certificate::from_bytes([8; 64])),
        }
    }

    const MODES: [Mode; 3] = [Mode::Unsigned, Mode::Signed, Mode::Certified];

    proptest! {
        #[test]
        fn an_introduction_comes_back(
            mode in proptest::sample::select(&MODES[..]),
            ip: IpAddr,
            port: u16,
            cluster in "[!-~]{1,64}",
            tail: [u8; 3],
        ) {
            let introduction = introduction(mode, SocketAddr::new(ip, port), &cluster);
            let mut bytes = introduction.encode();
            prop_assert_eq!(bytes.len() % 8, 0);
            bytes.extend(tail);
            let (found, rest) = Introduction::decode(Kind::Initiator, &bytes).unwrap();
            prop_assert_eq!(found, introduction);
            prop_assert_eq!(rest, tail);
        }

        #[test]
        fn what_can_be_read_has_one_form(at: prop::sample::Index, byte: u8) {
            let address = "10.0.0.1:7000".parse().unwrap();
            let mut bytes = introduction(Mode::Certified, address, "blue").encode();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok((found, rest)) = Introduction::decode(Kind::Initiator, &bytes) {
                let mut again = found.encode();
                again.extend_from_slice(rest);
                prop_assert_eq!(again, bytes);
            }
        }

        #[test]
        fn arbitrary_bytes_are_read_without_a_panic(mut bytes: Vec<u8>, header: bool) {
            if header && bytes.len() > 4 {
                bytes[..4].copy_from_slice(&[1, 2, 1, 0]);
            }
            let _ = Introduction::decode(Kind::Initiator, &bytes);
            let _ = decode_proof(Mode::Signed, &bytes);
            let _ = decode_refusal(&bytes);
        }
    }

    #[test]
    fn a_message_that_is_too_short_or_too_long_is_refused() {
        let bytes = introduction(Mode::Certified, "[::1]:1".parse().unwrap(), "blue").encode();
        for len in 0..bytes.len() {
            let cut = Introduction::decode(Kind::Initiator, &bytes[..len]);
            assert_eq!(cut, Err(DecodeError::Malformed), "{len} bytes");
        }
        let proof = encode_proof(Mode::Signed, Some([5; 64]));
        assert_eq!(decode_proof(Mode::Signed, &proof), Ok(Some([5; 64])));
        assert_eq!(decode_proof(Mode::Certified, &proof), Err(DecodeError::Malformed));
        assert_eq!(decode_proof(Mode::Signed, &proof[..71]), Err(DecodeError::Malformed));
        let unsigned = encode_proof(Mode::Unsigned, None);
        assert_eq!(decode_proof(Mode::Unsigned, &unsigned), Ok(None));
        let longer = [unsigned.as_slice(), &[0; 64]].concat();
        assert_eq!(decode_proof(Mode::Unsigned, &longer), Err(DecodeError::Malformed));
    }

    #[test]
    fn another_version_is_told_from_damage() {
        let mut bytes = introduction(Mode::Signed, "[::1]:1".parse().unwrap(), "blue").encode();
        bytes[2] = 9;
        let found = Introduction::decode(Kind::Initiator, &bytes);
        assert_eq!(found, Err(DecodeError::Version(9)));
        let other_kind = Introduction::decode(Kind::Responder, &bytes);
        assert_eq!(other_kind, Err(DecodeError::Malformed));
    }
}
