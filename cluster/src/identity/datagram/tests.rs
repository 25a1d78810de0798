use proptest::prelude::*;

use super::*;
use crate::identity::Identity;

const WALL: WallTime = WallTime::from_millis(1_700_000_000_000);
const RUN: u64 = 1_600_000_000_000;
const PAYLOAD: &[u8] = b"some gossip";

fn identity(number: u16) -> Identity {
    let mut secret = [7; 32];
    secret[..2].copy_from_slice(&number.to_le_bytes());
    Identity::from_secret(secret)
}

fn local(number: u16, security: Security) -> Local {
    Local { identity: identity(number), security, cluster: "blue".to_owned() }
}

fn listed(number: u16, trusted: &[u16]) -> Local {
    let keys = trusted.iter().map(|it| identity(*it).public()).collect();
    local(number, Security::Sign(Trust::Keys(keys)))
}

fn certified(number: u16, cluster_key: u16, cluster: &str) -> Local {
    let node = identity(number).public();
    let certificate = Certificate::issue(&identity(cluster_key), node, cluster);
    let key = identity(999).public();
    local(number, Security::Sign(Trust::ClusterKey { key, certificate }))
}

/// Sender and receiver of each security.
fn pairs() -> [(Local, Local); 3] {
    [
        (local(1, Security::Off), local(2, Security::Off)),
        (listed(1, &[2]), listed(2, &[1, 3])),
        (certified(1, 999, "blue"), certified(2, 999, "blue")),
    ]
}

fn sent(sender: &Local) -> Vec<u8> {
    DatagramSeal::new(RUN).seal(sender, WALL, PAYLOAD)
}

/// What a receiver that has heard nothing says.
fn first_heard(receiver: &Local, bytes: &[u8]) -> Result<MemberId, DatagramError> {
    DatagramSeal::new(RUN).open(receiver, WALL, bytes).map(|(sender, _)| sender)
}

#[test]
fn a_datagram_tells_its_sender_and_its_payload() {
    let overheads = [32, 128, 192];
    for ((sender, receiver), overhead) in pairs().into_iter().zip(overheads) {
        for payload in [&b""[..], PAYLOAD, &[7; PAYLOAD_BYTES_MAX]] {
            let (mut sending, mut receiving) = (DatagramSeal::new(RUN), DatagramSeal::new(RUN));
            let bytes = sending.seal(&sender, WALL, payload);
            assert_eq!(bytes.len(), payload.len() + overhead);
            let opened = receiving.open(&receiver, WALL, &bytes);
            assert_eq!(opened, Ok((sender.identity.id(), payload)));
            assert_eq!(receiving.stats(), DatagramStats { accepted: 1, ..Default::default() });
        }
    }
}

#[test]
fn any_byte_changed_is_found_and_not_remembered() {
    for (sender, receiver) in pairs() {
        let (bytes, mut receiving) = (sent(&sender), DatagramSeal::new(RUN));
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            // A budget of its own for each byte.
            let wall = WALL + Duration::from_secs(at as u64 % 20);
            assert!(receiving.open(&receiver, wall, &changed).is_err(), "byte {at}");
        }
        assert!(receiving.senders.is_empty());
        assert_eq!(receiving.stats().accepted + receiving.stats().throttled, 0);
        assert!(receiving.open(&receiver, WALL, &bytes).is_ok());
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_dropped_without_a_panic(mut bytes: Vec<u8>, mode in 0_u8..4) {
        for (_, receiver) in pairs() {
            prop_assert_eq!(first_heard(&receiver, &bytes), Err(DatagramError::Malformed));
        }
        let mut begun = [&MAGIC[..], &[FORMAT, mode, 0, 0]].concat();
        begun.extend(xxh3_64(b"blue").to_le_bytes());
        begun.append(&mut bytes);
        for (_, receiver) in pairs() {
            prop_assert!(first_heard(&receiver, &begun).is_err());
        }
    }
}

#[test]
fn a_datagram_cut_or_too_long_is_dropped() {
    for (sender, receiver) in pairs() {
        let bytes = sent(&sender);
        for len in 0..bytes.len() {
            assert!(first_heard(&receiver, &bytes[..len]).is_err(), "{len} bytes");
        }
        let mut long = bytes;
        long.resize(DATAGRAM_BYTES_MAX + 1, 0);
        assert_eq!(first_heard(&receiver, &long), Err(DatagramError::Malformed));
    }
}

#[test]
fn a_datagram_is_taken_once() {
    let [_, signed @ ..] = pairs();
    for (sender, receiver) in signed {
        let (mut sending, mut receiving) = (DatagramSeal::new(RUN), DatagramSeal::new(RUN));
        let bytes: Vec<_> = (0..70).map(|_| sending.seal(&sender, WALL, PAYLOAD)).collect();
        let mut open = |at: usize| receiving.open(&receiver, WALL, &bytes[at]).map(|_| ());
        assert_eq!([open(5), open(5)], [Ok(()), Err(DatagramError::Replayed)]);
        // They may overtake each other, within the window.
        assert_eq!([open(3), open(3)], [Ok(()), Err(DatagramError::Replayed)]);
        assert_eq!(open(69), Ok(()));
        assert_eq!([open(5), open(6)], [Err(DatagramError::Replayed), Ok(())]);
        assert_eq!([open(4), open(0)], [Err(DatagramError::Replayed); 2]);
        let stats = receiving.stats();
        assert_eq!((stats.accepted, stats.replayed), (4, 5));
    }
}

#[test]
fn a_restart_goes_on_above_and_a_clock_set_back_is_forgiven_after_a_silence() {
    let (sender, receiver) = (listed(1, &[2]), listed(2, &[1]));
    let mut receiving = DatagramSeal::new(RUN);
    let mut before = DatagramSeal::new(RUN);
    let old: Vec<_> = (0..9).map(|_| before.seal(&sender, WALL, PAYLOAD)).collect();
    assert!(receiving.open(&receiver, WALL, &old[7]).is_ok());
    let later = DatagramSeal::new(RUN + 1).seal(&sender, WALL, PAYLOAD);
    assert!(receiving.open(&receiver, WALL, &later).is_ok());
    assert_eq!(receiving.open(&receiver, WALL, &old[8]), Err(DatagramError::Replayed));
    let mut back = DatagramSeal::new(RUN - 10_000);
    let silence = 2 * CLOCK_DIFFERENCE_MAX;
    for (wall, is_heard) in
        [(WALL, false), (WALL + silence, false), (WALL + silence + Duration::from_millis(1), true)]
    {
        let bytes = back.seal(&sender, wall, PAYLOAD);
        assert_eq!(receiving.open(&receiver, wall, &bytes).is_ok(), is_heard);
        // What was taken before is too old by then.
        assert!(receiving.open(&receiver, wall, &later).is_err());
    }
}

#[test]
fn clocks_may_differ_by_so_much() {
    let (sender, receiver) = (listed(1, &[2]), listed(2, &[1]));
    let bytes = sent(&sender);
    let (edge, over) = (CLOCK_DIFFERENCE_MAX, CLOCK_DIFFERENCE_MAX + Duration::from_millis(1));
    for (wall, is_heard) in
        [(WALL + edge, true), (WALL - edge, true), (WALL + over, false), (WALL - over, false)]
    {
        let opened = DatagramSeal::new(RUN).open(&receiver, wall, &bytes).map(|_| ());
        assert_eq!(opened, if is_heard { Ok(()) } else { Err(DatagramError::Skewed) });
    }
}

#[test]
fn strangers_other_clusters_and_other_securities_are_dropped() {
    let receiver = listed(2, &[1]);
    let dropped = |sender: &Local| first_heard(&receiver, &sent(sender)).unwrap_err();
    assert_eq!(dropped(&listed(3, &[2])), DatagramError::Untrusted);
    assert_eq!(dropped(&local(1, Security::Off)), DatagramError::Security);
    let mut red = listed(1, &[2]);
    red.cluster = "red".to_owned();
    assert_eq!(dropped(&red), DatagramError::Foreign);
    // With the tag changed, the name is still part of what was signed.
    let mut moved = sent(&red);
    moved[8..16].copy_from_slice(&tag(&receiver).to_le_bytes());
    assert_eq!(first_heard(&receiver, &moved), Err(DatagramError::Forged));
    let off = local(2, Security::Off);
    assert_eq!(first_heard(&off, &sent(&listed(1, &[2]))), Err(DatagramError::Security));
}

#[test]
fn a_copy_of_the_data_directory_is_heard() {
    for own in [listed(2, &[1]), local(2, Security::Off), certified(2, 999, "blue")] {
        let heard = first_heard(&own, &sent(&own));
        assert_eq!(heard, Ok(own.identity.id()));
    }
}

#[test]
fn a_certificate_must_be_of_this_cluster_key_and_for_this_cluster() {
    let receiver = certified(2, 999, "blue");
    for stranger in [certified(1, 998, "blue"), certified(1, 999, "red"), listed(1, &[2])] {
        assert_eq!(first_heard(&receiver, &sent(&stranger)), Err(DatagramError::Untrusted));
    }
    // Another's certificate is public, and worth nothing.
    let mut thief = certified(1, 999, "blue");
    thief.identity = identity(3);
    assert_eq!(first_heard(&receiver, &sent(&thief)), Err(DatagramError::Untrusted));
}

#[test]
fn a_certificate_is_verified_once() {
    let (sender, receiver) = (certified(1, 999, "blue"), certified(2, 999, "blue"));
    let (mut sending, mut receiving) = (DatagramSeal::new(RUN), DatagramSeal::new(RUN));
    for _ in 0..3 {
        let bytes = sending.seal(&sender, WALL, PAYLOAD);
        assert!(receiving.open(&receiver, WALL, &bytes).is_ok());
    }
    // Certificate and signature of the first, signatures of the others.
    assert!(receiving.budget.spend(WALL, 5));
    assert!(!receiving.budget.spend(WALL, 5));
}

#[test]
fn a_flood_is_not_verified_and_does_not_silence_the_others() {
    let receiver = listed(2, &[1, 3, 4]);
    let mut receiving = DatagramSeal::new(RUN);
    let (known, mut sending) = (listed(1, &[2]), DatagramSeal::new(RUN));
    let (flooded, mut flood) = (listed(3, &[2]), DatagramSeal::new(RUN));
    let first = sending.seal(&known, WALL, PAYLOAD);
    assert!(receiving.open(&receiver, WALL, &first).is_ok());
    let first = flood.seal(&flooded, WALL, PAYLOAD);
    assert!(receiving.open(&receiver, WALL, &first).is_ok());
    // Forged datagrams of a sender that is known, and of one that is not.
    for forged in [flood.seal(&flooded, WALL, PAYLOAD), sent(&listed(4, &[2]))] {
        let mut forged = forged;
        *forged.last_mut().unwrap() ^= 1;
        for _ in 0..1_000 {
            assert!(receiving.open(&receiver, WALL, &forged).is_err());
        }
    }
    let stats = receiving.stats();
    assert_eq!(stats.forged + 2, u64::from(2 * VERIFICATIONS_PER_SENDER));
    assert_eq!(stats.throttled, 2_000 - stats.forged);
    let bytes = sending.seal(&known, WALL, PAYLOAD);
    assert!(receiving.open(&receiver, WALL, &bytes).is_ok());
    let later = WALL + Duration::from_secs(1);
    let bytes = flood.seal(&flooded, later, PAYLOAD);
    assert!(receiving.open(&receiver, later, &bytes).is_ok());
}

#[test]
fn there_is_a_bound_for_all_senders_together() {
    let numbers: Vec<u16> = (10..22).collect();
    let receiver = listed(2, &numbers);
    let mut receiving = DatagramSeal::new(RUN);
    let mut forged = Vec::new();
    for number in numbers {
        let (sender, mut sending) = (listed(number, &[2]), DatagramSeal::new(RUN));
        let bytes = sending.seal(&sender, WALL, PAYLOAD);
        assert!(receiving.open(&receiver, WALL, &bytes).is_ok());
        let mut bytes = sending.seal(&sender, WALL, PAYLOAD);
        *bytes.last_mut().unwrap() ^= 1;
        forged.push(bytes);
    }
    let later = WALL + Duration::from_secs(1);
    for bytes in &forged {
        for _ in 0..VERIFICATIONS_PER_SENDER {
            assert!(receiving.open(&receiver, later, bytes).is_err());
        }
    }
    assert_eq!(receiving.stats().forged, u64::from(VERIFICATIONS_PER_SECOND));
    assert_eq!(receiving.stats().throttled, u64::from(4 * VERIFICATIONS_PER_SENDER));
}
