//! Handshakes and signed datagrams, and the bytes that they read: see [`crate::fuzz`].

use super::*;
use crate::fuzz::{self, Source};
use crate::model::MemberId;
use crate::time::WallTime;

const TARGET: u16 = 3;

fn identity(number: u8) -> Identity {
    Identity::from_secret([number; 32])
}

/// A node of one of the three kinds of security; number 4 is trusted by nobody.
fn local(number: u8, security: usize) -> Local {
    let identity = identity(number);
    let security = match security {
        0 => Security::Off,
        1 => Security::Sign(Trust::Keys((1..=3).map(|it| self::identity(it).public()).collect())),
        _ => {
            let issuer = if number == 4 { self::identity(8) } else { self::identity(9) };
            let certificate = Certificate::issue(&issuer, identity.public(), "blue");
            Security::Sign(Trust::ClusterKey { key: self::identity(9).public(), certificate })
        }
    };
    Local { identity, security, cluster: "blue".to_owned() }
}

fn hello(source: &mut Source<'_>, number: u8) -> Hello {
    let address = std::net::SocketAddr::from(([10, 0, 0, number], 7_000));
    let cluster_id = source.pick(&[0, 0, 7, 8]);
    Hello { address, store: number.into(), epoch: source.number(), run: 1_000, cluster_id }
}

/// Several handshakes at once, whose messages reach whom they are not for, late, twice or damaged.
fn whoever_shakes_hands(source: &mut Source<'_>) {
    let kinds = [source.below(3), source.below(3)];
    let (mut ends, mut messages) = (Vec::new(), vec![Vec::new()]);
    for at in 0..4_u8 {
        let number = 1 + source.byte() % 4;
        let local = local(number, kinds[usize::from(at) / 2]);
        let (hello, random) = (hello(source, number), [at; 32]);
        let end = if at % 2 == 0 {
            let (handshake, first) = Handshake::initiate(&local, hello, random, TARGET);
            messages.push(first);
            handshake
        } else {
            Handshake::respond(&local, hello, random, TARGET)
        };
        ends.push((local, end));
    }
    while !source.is_empty() {
        let mut message = source.pick(&messages);
        if source.is_rare(8) {
            message = source.bytes(64);
        }
        source.damage(&mut message);
        let at = source.below(ends.len());
        let (local, end) = &mut ends[at];
        let said = match end.on_message(local, &message) {
            Ok(Step::Send(bytes)) => Some(bytes),
            Ok(Step::Finished { send, peer }) => {
                let is_trusted = peer.key != identity(4).public() || !local.security.is_signing();
                assert!(is_trusted, "nobody trusts it");
                assert_ne!(peer.id, local.identity.id());
                send
            }
            Err(refusal) => refusal.encode(),
        };
        messages.extend(said.filter(|it| it.len() <= MESSAGE_BYTES_MAX));
        messages.drain(..messages.len().saturating_sub(12));
    }
}

/// A few senders, one of them unknown, and a receiver to whom all of it comes in any order, at any time.
fn whoever_sends_datagrams(source: &mut Source<'_>) {
    let kind = source.below(3);
    let receiver = local(1, kind);
    let mut receiving = DatagramSeal::new(1_000);
    let mut senders: Vec<(Local, DatagramSeal)> =
        (2..=4).map(|it| (local(it, kind), DatagramSeal::new(1_000))).collect();
    let mut wall = WallTime::from_millis(1_700_000_000_000);
    let (mut caught, mut taken) = (Vec::new(), Vec::<(MemberId, Vec<u8>)>::new());
    while !source.is_empty() {
        wall = if source.is_rare(32) {
            WallTime::from_millis(source.number())
        } else {
            wall + source.pause()
        };
        if source.is_rare(3) || caught.is_empty() {
            let (local, seal) = &mut senders[source.below(3)];
            // Each of them another.
            let payload = [&caught.len().to_le_bytes()[..], &source.bytes(4)].concat();
            caught.push(seal.seal(local, wall, &payload));
        }
        let mut bytes = source.pick(&caught);
        source.damage(&mut bytes);
        if let Ok((sender, _)) = receiving.open(&receiver, wall, &bytes) {
            let is_trusted = sender != identity(4).id() || kind == 0;
            assert!(is_trusted, "nobody trusts it");
            let is_first = !taken.contains(&(sender, bytes.clone()));
            assert!(is_first || kind == 0, "a datagram is taken once");
            taken.push((sender, bytes));
        }
    }
}

#[test]
fn fuzz_whoever_shakes_hands_nobody_untrusted_is_let_in() {
    fuzz::run(150, 200, whoever_shakes_hands);
}

#[test]
fn fuzz_whoever_sends_datagrams_they_are_taken_once_and_of_the_trusted_only() {
    fuzz::run(150, 200, whoever_sends_datagrams);
}

#[test]
fn fuzz_arbitrary_bytes_are_no_reason_and_no_certificate() {
    let valid = Refusal::of_distrust(trust::Distrust::NotListed, identity(2).public());
    fuzz::run(2_000, 200, |source| {
        let mut bytes = valid.encode().unwrap_or_default();
        source.damage(&mut bytes);
        let _ = Refusal::decode(&bytes);
        let bytes = source.bytes(200);
        let _ = Refusal::decode(&bytes);
        if let Some(bytes) = bytes.first_chunk::<CERTIFICATE_BYTES>() {
            let certificate = Certificate::from_bytes(*bytes);
            let (key, node) = (identity(9).public(), identity(1).public());
            assert!(!certificate.certifies(key, node, "blue"), "nobody has signed it");
        }
    });
}
