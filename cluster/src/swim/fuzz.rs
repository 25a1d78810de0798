//! The membership, and its packets: see [`crate::fuzz`].

use super::packet;
use super::*;
use crate::fuzz::{self, Source};

const CLUSTER: u64 = 1;
const DATAGRAM_BYTES_MAX: usize = Config::lan().datagram_bytes_max;

fn id(source: &mut Source<'_>) -> MemberId {
    if source.is_rare(16) { MemberId(source.number()) } else { MemberId(1 + source.number() % 5) }
}

pub(crate) fn address(source: &mut Source<'_>) -> SocketAddr {
    let host = 1 + source.byte() % 5;
    SocketAddr::from(([127, 0, 0, host], 7_000))
}

fn member(source: &mut Source<'_>) -> Member {
    let states = [State::Alive, State::Suspect, State::Dead, State::Left];
    let run = if source.is_rare(4) { source.number() >> 1 } else { 1_000 };
    let incarnation = source.pick(&[0, 1, 2, u32::MAX - 1, u32::MAX]);
    let (id, state) = (id(source), source.pick(&states));
    Member { id, address: address(source), state, incarnation, run }
}

fn body(source: &mut Source<'_>) -> Body {
    let (target, nonce) = (id(source), source.number());
    match source.below(9) {
        0 | 1 => Body::Ping { target, nonce },
        2 => Body::PingRequest { target, nonce, address: address(source) },
        3 => Body::Ack { nonce },
        4 => [Body::RelayedAck { nonce }, Body::Nack { nonce }][source.below(2)],
        5 => Body::Gossip,
        6 => Body::Correction,
        7 => Body::ExchangeRequest,
        _ => Body::ExchangeReply,
    }
}

/// What a member, or whoever has its key, may send.
pub(crate) fn packet_of(source: &mut Source<'_>) -> Vec<u8> {
    let mut sender = member(source);
    if !sender.state.is_live() || sender.state == State::Suspect {
        sender.state = State::Alive;
    }
    if source.is_rare(8) {
        sender.state = State::Left;
    }
    let epoch = if source.is_rare(4) { source.number() } else { 0 };
    let cluster = if source.is_rare(16) { source.number() } else { CLUSTER };
    let header = Header { cluster, sender, started: sender.run, epoch };
    let mut writer = Writer::new(&header, body(source), DATAGRAM_BYTES_MAX);
    for _ in 0..source.below(6) {
        writer.push(&Claim { member: member(source), by: id(source) });
    }
    let mut bytes = writer.finish();
    source.damage(&mut bytes);
    bytes
}

pub(crate) fn machine(number: u8) -> Swim {
    let own = Own {
        id: MemberId(number.into()),
        address: SocketAddr::from(([127, 0, 0, number], 7_000)),
        run: 1_000,
        cluster: CLUSTER,
    };
    Swim::new(Config::lan(), own, number.into(), Instant::ZERO)
}

fn whatever_comes(source: &mut Source<'_>) {
    let (mut swim, mut now) = (machine(1), Instant::ZERO);
    while !source.is_empty() {
        now = now + source.pause();
        let bytes = packet_of(source);
        let seeds = [address(source), address(source)];
        let input = match source.below(12) {
            0..=2 => {
                now = swim.poll_timeout().map_or(now, |due| due.max(now));
                Input::Timeout
            }
            3..=6 => Input::Datagram { from: address(source), bytes: &bytes },
            7..=8 => Input::Exchange { bytes: &bytes },
            9 => Input::Join(&seeds),
            10 => Input::Twin(address(source)),
            _ if source.is_rare(32) => Input::Leave,
            _ => Input::Epoch(source.number()),
        };
        swim.handle(now, input);
        let mut count = 0;
        while let Some(output) = swim.poll_output() {
            count += 1;
            assert!(count <= 1_000, "one event leads to so much");
            match output {
                Output::Datagram { bytes, .. } => {
                    assert!(bytes.len() <= DATAGRAM_BYTES_MAX);
                    assert!(packet::parse(&bytes).is_some_and(|it| !it.body.is_exchange()));
                }
                Output::Exchange { bytes, .. } => {
                    assert!(packet::parse(&bytes).is_some_and(|it| it.body.is_exchange()));
                }
                _ => {}
            }
        }
    }
}

#[test]
fn fuzz_whatever_comes_the_membership_goes_on() {
    fuzz::run(2_000, 1_500, whatever_comes);
}

#[test]
fn fuzz_arbitrary_bytes_are_a_packet_or_none() {
    fuzz::run(4_000, 400, |source| {
        let bytes = source.bytes(400);
        if let Some(packet) = packet::parse(&bytes) {
            let mut writer = Writer::new(&packet.header, packet.body, usize::MAX);
            assert!(packet.claims.iter().all(|claim| writer.push(claim)));
            assert_eq!(writer.finish(), bytes, "it has one form");
        }
    });
}
