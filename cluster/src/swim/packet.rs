//! The bytes of a packet. Integers are little-endian.
//!
//! ```text
//! offset  0        1      2         10        18    26         34            38      46
//!         version  kind   cluster   sender    run   started    incarnation   epoch   sender's state
//!         u8 = 1   u8     u64       u64       u64   u64        u32           u64     u8
//! offset 47: sender's address, what the kind needs, claim count (u32), claims; nothing after them
//!
//! address   family (u8: 4 or 6), 4 or 16 bytes, port (u16, not 0)
//! claim     state (u8), member (u64), run (u64), incarnation (u32), address,
//!           and of a suspicion: by whom (u64)
//! kind      0 ping          target (u64), nonce (u64)
//!           1 ping request  target (u64), nonce (u64), target's address
//!           2 ack           nonce (u64)
//!           3 relayed ack   nonce (u64)
//!           4 nack          nonce (u64)
//!           5 gossip, 6 correction, 7 exchange request, 8 exchange reply: nothing
//! ```
//!
//! `started` is when the sender's process began. `run` is that, or larger where the sender had to
//! outdo an earlier run of its node whose clock was ahead.
//!
//! A packet is valid as a whole or not at all: version, kind, states and addresses are known, runs are
//! plausible, the claims are as many as announced and at most [`CLAIMS_MAX`], and not a byte remains. What is not
//! valid changes nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::config::MEMBERS_MAX;
use super::member::{Claim, Member, State};
use crate::model::MemberId;

pub(super) const VERSION: u8 = 1;
/// Far beyond any wall clock.
pub(super) const RUN_MAX: u64 = u64::MAX / 2;
/// A list of all members, the sender's own claim aside, and as many corrections.
pub(super) const CLAIMS_MAX: usize = 2 * MEMBERS_MAX;
/// Of a claim: a suspicion with an IPv6 address.
pub(super) const CLAIM_BYTES_MAX: usize = 1 + 8 + 8 + 4 + ADDRESS_BYTES_MAX + 8;
const ADDRESS_BYTES_MAX: usize = 1 + 16 + 2;
/// The shortest claim, which bounds what a claim count may announce.
const CLAIM_BYTES_MIN: usize = 1 + 8 + 8 + 4 + 1 + 4 + 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) cluster: u64,
    /// The sender, as it sees itself: alive, or gone.
    pub(super) sender: Member,
    pub(super) started: u64,
    pub(super) epoch: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    Ping { target: MemberId, nonce: u64 },
    PingRequest { target: MemberId, nonce: u64, address: SocketAddr },
    Ack { nonce: u64 },
    RelayedAck { nonce: u64 },
    Nack { nonce: u64 },
    Gossip,
    Correction,
    ExchangeRequest,
    ExchangeReply,
}

impl Body {
    pub(super) const fn is_exchange(self) -> bool {
        matches!(self, Self::ExchangeRequest | Self::ExchangeReply)
    }

    const fn kind(self) -> u8 {
        match self {
            Self::Ping { .. } => 0,
            Self::PingRequest { .. } => 1,
            Self::Ack { .. } => 2,
            Self::RelayedAck { .. } => 3,
            Self::Nack { .. } => 4,
            Self::Gossip => 5,
            Self::Correction => 6,
            Self::ExchangeRequest => 7,
            Self::ExchangeReply => 8,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) header: Header,
    pub(super) body: Body,
    pub(super) claims: Vec<Claim>,
}

/// Writes a packet claim by claim, up to a number of bytes.
pub(super) struct Writer {
    bytes: Vec<u8>,
    bytes_max: usize,
    count_offset: usize,
    count: u32,
}

impl Writer {
    pub(super) fn new(header: &Header, body: Body, bytes_max: usize) -> Self {
        let mut bytes = Vec::with_capacity(128);
        let sender = &header.sender;
        bytes.extend([VERSION, body.kind()]);
        for number in [header.cluster, sender.id.0, sender.run, header.started] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(sender.incarnation.to_le_bytes());
        bytes.extend(header.epoch.to_le_bytes());
        bytes.push(state_byte(sender.state));
        put_address(&mut bytes, sender.address);
        match body {
            Body::Ping { target, nonce } => bytes.extend(pair(target.0, nonce)),
            Body::PingRequest { target, nonce, address } => {
                bytes.extend(pair(target.0, nonce));
                put_address(&mut bytes, address);
            }
            Body::Ack { nonce } | Body::RelayedAck { nonce } | Body::Nack { nonce } => {
                bytes.extend(nonce.to_le_bytes());
            }
            Body::Gossip | Body::Correction | Body::ExchangeRequest | Body::ExchangeReply => {}
        }
        let count_offset = bytes.len();
        bytes.extend([0; 4]);
        assert!(bytes.len() <= bytes_max, "a packet without claims fits");
        Self { bytes, bytes_max, count_offset, count: 0 }
    }

    /// Whether the claim had room.
    pub(super) fn push(&mut self, claim: &Claim) -> bool {
        let before = self.bytes.len();
        let member = &claim.member;
        self.bytes.push(state_byte(member.state));
        self.bytes.extend(pair(member.id.0, member.run));
        self.bytes.extend(member.incarnation.to_le_bytes());
        put_address(&mut self.bytes, member.address);
        if member.state == State::Suspect {
            self.bytes.extend(claim.by.0.to_le_bytes());
        }
        assert!(self.bytes.len() - before >= CLAIM_BYTES_MIN);
        if self.bytes.len() > self.bytes_max {
            self.bytes.truncate(before);
            return false;
        }
        self.count += 1;
        true
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        let count = self.count.to_le_bytes();
        self.bytes[self.count_offset..self.count_offset + 4].copy_from_slice(&count);
        assert!(self.bytes.len() <= self.bytes_max);
        self.bytes
    }
}

fn pair(first: u64, second: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&first.to_le_bytes());
    bytes[8..].copy_from_slice(&second.to_le_bytes());
    bytes
}

const fn state_byte(state: State) -> u8 {
    match state {
        State::Alive => 0,
        State::Suspect => 1,
        State::Dead => 2,
        State::Left => 3,
    }
}

fn put_address(bytes: &mut Vec<u8>, address: SocketAddr) {
    match address.ip() {
        IpAddr::V4(ip) => {
            bytes.push(4);
            bytes.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            bytes.push(6);
            bytes.extend(ip.octets());
        }
    }
    bytes.extend(address.port().to_le_bytes());
}

/// The packet that `bytes` are; `None` when they are none.
pub(super) fn parse(bytes: &[u8]) -> Option<Packet> {
    let mut reader = Reader { rest: bytes };
    if reader.u8()? != VERSION {
        return None;
    }
    let kind = reader.u8()?;
    let cluster = reader.u64()?;
    let (id, run, started) = (MemberId(reader.u64()?), reader.u64()?, reader.u64()?);
    let (incarnation, epoch, state) = (reader.u32()?, reader.u64()?, reader.state()?);
    if !matches!(state, State::Alive | State::Left) || started > run || run > RUN_MAX {
        return None;
    }
    let sender = Member { id, address: reader.address()?, state, incarnation, run };
    let body = reader.body(kind)?;
    let claims = reader.claims()?;
    let header = Header { cluster, sender, started, epoch };
    reader.rest.is_empty().then_some(Packet { header, body, claims })
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*first)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|[it]| it)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn state(&mut self) -> Option<State> {
        Some(match self.u8()? {
            0 => State::Alive,
            1 => State::Suspect,
            2 => State::Dead,
            3 => State::Left,
            _ => return None,
        })
    }

    fn address(&mut self) -> Option<SocketAddr> {
        let ip = match self.u8()? {
            4 => IpAddr::V4(Ipv4Addr::from(self.take::<4>()?)),
            6 => IpAddr::V6(Ipv6Addr::from(self.take::<16>()?)),
            _ => return None,
        };
        let port = self.take().map(u16::from_le_bytes)?;
        (port != 0 && !ip.is_unspecified()).then_some(SocketAddr::new(ip, port))
    }

    fn body(&mut self, kind: u8) -> Option<Body> {
        Some(match kind {
            0 => Body::Ping { target: MemberId(self.u64()?), nonce: self.u64()? },
            1 => Body::PingRequest {
                target: MemberId(self.u64()?),
                nonce: self.u64()?,
                address: self.address()?,
            },
            2 => Body::Ack { nonce: self.u64()? },
            3 => Body::RelayedAck { nonce: self.u64()? },
            4 => Body::Nack { nonce: self.u64()? },
            5 => Body::Gossip,
            6 => Body::Correction,
            7 => Body::ExchangeRequest,
            8 => Body::ExchangeReply,
            _ => return None,
        })
    }

    fn claims(&mut self) -> Option<Vec<Claim>> {
        let count = usize::try_from(self.u32()?).ok()?;
        if count > CLAIMS_MAX || count * CLAIM_BYTES_MIN > self.rest.len() {
            return None;
        }
        let mut claims = Vec::with_capacity(count);
        for _ in 0..count {
            let state = self.state()?;
            let (id, run) = (MemberId(self.u64()?), self.u64()?);
            let (incarnation, address) = (self.u32()?, self.address()?);
            if run > RUN_MAX {
                return None;
            }
            let by = if state == State::Suspect { MemberId(self.u64()?) } else { id };
            claims.push(Claim { member: Member { id, address, state, incarnation, run }, by });
        }
        Some(claims)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn member(id: u64, state: State, is_v6: bool) -> Member {
        let ip = if is_v6 { "[fd00::1]:7000" } else { "10.0.0.1:7000" };
        let address = ip.parse().unwrap();
        Member { id: MemberId(id), address, state, incarnation: 3, run: 1_700_000_000_000 }
    }

    fn written(body: Body, claims: &[Claim]) -> (Packet, Vec<u8>) {
        let sender = member(1, State::Alive, true);
        let header = Header { cluster: 7, sender, started: sender.run, epoch: 9 };
        let mut writer = Writer::new(&header, body, 4_000);
        for claim in claims {
            assert!(writer.push(claim));
        }
        (Packet { header, body, claims: claims.to_vec() }, writer.finish())
    }

    fn packets() -> Vec<(Packet, Vec<u8>)> {
        let address = "10.0.0.9:80".parse().unwrap();
        let (target, nonce) = (MemberId(5), 0xdead_beef);
        let states = [State::Alive, State::Suspect, State::Dead, State::Left];
        let claims: Vec<Claim> = states
            .iter()
            .flat_map(|it| [member(2, *it, false), member(3, *it, true)])
            .map(|member| Claim {
                member,
                by: if member.state == State::Suspect { MemberId(8) } else { member.id },
            })
            .collect();
        [
            Body::Ping { target, nonce },
            Body::PingRequest { target, nonce, address },
            Body::Ack { nonce },
            Body::RelayedAck { nonce },
            Body::Nack { nonce },
            Body::Gossip,
            Body::Correction,
            Body::ExchangeRequest,
            Body::ExchangeReply,
        ]
        .map(|body| written(body, &claims))
        .to_vec()
    }

    #[test]
    fn every_kind_comes_back_as_it_was() {
        for (packet, bytes) in packets() {
            assert_eq!(parse(&bytes), Some(packet));
        }
    }

    #[test]
    fn neither_a_byte_less_nor_one_more_is_a_packet() {
        for (_, mut bytes) in packets() {
            for end in 0..bytes.len() {
                assert_eq!(parse(&bytes[..end]), None);
            }
            bytes.push(0);
            assert_eq!(parse(&bytes), None);
        }
    }

    #[test]
    fn a_claim_that_has_no_room_leaves_the_packet_as_it_was() {
        let sender = member(1, State::Alive, false);
        let header = Header { cluster: 7, sender, started: sender.run, epoch: 9 };
        let mut writer = Writer::new(&header, Body::Gossip, 256);
        let claim = Claim { member: member(2, State::Suspect, true), by: MemberId(3) };
        let mut count = 0;
        while writer.push(&claim) {
            count += 1;
        }
        let bytes = writer.finish();
        assert!(bytes.len() <= 256);
        assert!(bytes.len() + CLAIM_BYTES_MAX > 256);
        assert_eq!(parse(&bytes).unwrap().claims.len(), count);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_packet_or_none(bytes: Vec<u8>) {
            prop_assert!(parse(&bytes).is_none_or(|it| it.claims.len() <= CLAIMS_MAX));
        }

        #[test]
        fn a_damaged_packet_never_panics(which in 0_usize..9, at: prop::sample::Index, byte: u8) {
            let (_, mut bytes) = packets().swap_remove(which);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = parse(&bytes);
        }
    }
}
