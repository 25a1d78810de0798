use proptest::prelude::*;

use super::*;
use crate::identity::{Certificate, MESSAGE_BYTES_MAX, Reason, Trust};

const TARGET: u16 = 3;

fn identity(seed: u8) -> Identity {
    Identity::from_secret([seed; 32])
}

fn hello(seed: u8) -> Hello {
    let address = format!("10.0.0.{seed}:7000").parse().unwrap();
    let number = u64::from(seed);
    Hello { address, store: number, epoch: 2, run: 1_000 + number, cluster_id: 0 }
}

fn local(seed: u8, security: Security) -> Local {
    Local { identity: identity(seed), security, cluster: "blue".to_owned() }
}

/// A node that trusts those of these seeds.
fn listed(seed: u8, trusted: &[u8]) -> Local {
    let keys = trusted.iter().map(|seed| identity(*seed).public()).collect();
    local(seed, Security::Sign(Trust::Keys(keys)))
}

/// A node with a certificate of the cluster key of this seed, for a cluster.
fn certified(seed: u8, cluster_key: u8, cluster: &str) -> Local {
    let certificate = Certificate::issue(&identity(cluster_key), identity(seed).public(), cluster);
    let key = identity(9).public();
    local(seed, Security::Sign(Trust::ClusterKey { key, certificate }))
}

fn pairs() -> [(Local, Local); 3] {
    [
        (local(1, Security::Off), local(2, Security::Off)),
        (listed(1, &[1, 2]), listed(2, &[1, 2])),
        (certified(1, 9, "blue"), certified(2, 9, "blue")),
    ]
}

struct Ends<'a> {
    initiator: (&'a Local, Handshake),
    responder: (&'a Local, Handshake),
}

/// Both ends, and the first message.
fn start<'a>(initiator: &'a Local, responder: &'a Local) -> (Ends<'a>, Vec<u8>) {
    let (handshake, first) = Handshake::initiate(initiator, hello(1), [11; 32], TARGET);
    let answering = Handshake::respond(responder, hello(2), [22; 32], TARGET);
    (Ends { initiator: (initiator, handshake), responder: (responder, answering) }, first)
}

fn send(step: Step) -> Vec<u8> {
    let Step::Send(message) = step else { panic!("{step:?}") };
    message
}

fn finished(step: Step) -> (Option<Vec<u8>>, Peer) {
    let Step::Finished { send, peer } = step else { panic!("{step:?}") };
    (send, peer)
}

impl Ends<'_> {
    fn tell_responder(&mut self, bytes: &[u8]) -> Result<Step, Refusal> {
        self.responder.1.on_message(self.responder.0, bytes)
    }

    fn tell_initiator(&mut self, bytes: &[u8]) -> Result<Step, Refusal> {
        self.initiator.1.on_message(self.initiator.0, bytes)
    }
}

/// Both ends' peers, where each message goes through `change` with its number.
fn run(
    initiator: &Local,
    responder: &Local,
    mut change: impl FnMut(usize, &mut Vec<u8>),
) -> Result<(Peer, Peer), Refusal> {
    let (mut ends, mut first) = start(initiator, responder);
    change(0, &mut first);
    let mut second = send(ends.tell_responder(&first)?);
    change(1, &mut second);
    let (third, responder_seen) = finished(ends.tell_initiator(&second)?);
    let mut third = third.unwrap();
    change(2, &mut third);
    let (last, initiator_seen) = finished(ends.tell_responder(&third)?);
    assert_eq!(last, None);
    Ok((responder_seen, initiator_seen))
}

fn refusal(initiator: &Local, responder: &Local) -> Refusal {
    run(initiator, responder, |_, _| {}).unwrap_err()
}

#[test]
fn both_ends_know_each_other_and_share_keys_of_their_own() {
    for (initiator, responder) in pairs() {
        let mut lens = Vec::new();
        let (second, first) = run(&initiator, &responder, |_, message| {
            assert!(message.len().is_multiple_of(8));
            assert!(message.len() <= MESSAGE_BYTES_MAX);
            lens.push(message.len());
        })
        .unwrap();
        assert_eq!((second.id, second.key), (responder.identity.id(), responder.identity.public()));
        assert_eq!((first.id, first.key), (initiator.identity.id(), initiator.identity.public()));
        assert_eq!((second.hello, first.hello), (hello(2), hello(1)));
        let expected = match initiator.security.mode() {
            Mode::Unsigned => [224, 224, 8],
            Mode::Signed => [224, 288, 72],
            Mode::Certified => [288, 352, 72],
        };
        assert_eq!(lens, expected);
        assert_eq!(second.keys.is_some(), initiator.security.is_signing());
        if let (Some(second), Some(first)) = (second.keys, first.keys) {
            assert_eq!((second.send, second.receive), (first.receive, first.send));
            assert_ne!(second.send, second.receive);
        }
    }
}

#[test]
fn other_random_bytes_make_other_keys() {
    let (initiator, responder) = (listed(1, &[2]), listed(2, &[1]));
    let (one, _) = run(&initiator, &responder, |_, _| {}).unwrap();
    let (mut other, first) = Handshake::initiate(&initiator, hello(1), [12; 32], TARGET);
    let mut answering = Handshake::respond(&responder, hello(2), [22; 32], TARGET);
    let second = send(answering.on_message(&responder, &first).unwrap());
    let (_, two) = finished(other.on_message(&initiator, &second).unwrap());
    assert_ne!(one.keys, two.keys);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn arbitrary_bytes_are_refused_without_a_panic(bytes: Vec<u8>) {
        for (initiator, responder) in pairs() {
            let (mut ends, _) = start(&initiator, &responder);
            prop_assert!(ends.tell_responder(&bytes).is_err());
            prop_assert!(ends.tell_initiator(&bytes).is_err());
        }
    }
}

#[test]
fn any_byte_changed_on_the_way_ends_a_signed_handshake() {
    for (initiator, responder) in &pairs()[1..] {
        let mut lens = [0; 3];
        run(initiator, responder, |number, message| lens[number] = message.len()).unwrap();
        for (number, len) in lens.into_iter().enumerate() {
            for at in 0..len {
                let changed = run(initiator, responder, |it, message| {
                    if it == number {
                        message[at] ^= 1;
                    }
                });
                assert!(changed.is_err(), "message {number}, byte {at}");
            }
        }
    }
}

#[test]
fn a_message_cut_or_with_more_after_it_is_refused() {
    for (initiator, responder) in &pairs() {
        for number in 0..3 {
            let longer = run(initiator, responder, |it, message| {
                if it == number {
                    message.extend([0; 8]);
                }
            });
            assert_eq!(longer.unwrap_err(), Refusal::Malformed);
            let shorter = run(initiator, responder, |it, message| {
                if it == number {
                    message.truncate(message.len() - 1);
                }
            });
            assert_eq!(shorter.unwrap_err(), Refusal::Malformed);
        }
    }
}

#[test]
fn a_replayed_introduction_finishes_nothing() {
    let (initiator, responder) = (listed(1, &[2]), listed(2, &[1]));
    let mut messages = Vec::new();
    run(&initiator, &responder, |_, message| messages.push(message.clone())).unwrap();
    let mut again = Handshake::respond(&responder, hello(2), [33; 32], TARGET);
    let second = send(again.on_message(&responder, &messages[0]).unwrap());
    assert_ne!(second, messages[1]);
    let replayed = again.on_message(&responder, &messages[2]);
    assert_eq!(replayed.unwrap_err(), Refusal::BadSignature);
    // What was the responder's answer then is none to another introduction.
    let (mut other, _) = Handshake::initiate(&initiator, hello(1), [12; 32], TARGET);
    let replayed = other.on_message(&initiator, &messages[1]);
    assert_eq!(replayed.unwrap_err(), Refusal::BadSignature);
}

#[test]
fn messages_sent_back_to_their_sender_are_refused() {
    for (initiator, responder) in pairs() {
        let (mut ends, first) = start(&initiator, &responder);
        assert_eq!(ends.tell_initiator(&first).unwrap_err(), Refusal::Malformed);
        // On another connection to the same node, where it responds.
        let mut same = Handshake::respond(&initiator, hello(1), [44; 32], TARGET);
        assert_eq!(same.on_message(&initiator, &first).unwrap_err(), Refusal::Own);
        // The responder's own signature is no proof of the initiator.
        let second = send(ends.tell_responder(&first).unwrap());
        let signature = &second[second.len() - 64..];
        if let Ok(signature) = signature.try_into()
            && initiator.security.is_signing()
        {
            let proof = encode_proof(initiator.security.mode(), Some(signature));
            assert_eq!(ends.tell_responder(&proof).unwrap_err(), Refusal::BadSignature);
        }
    }
}

#[test]
fn nothing_is_taken_in_after_the_end() {
    let (initiator, responder) = (listed(1, &[2]), listed(2, &[1]));
    let (mut ends, first) = start(&initiator, &responder);
    assert_eq!(ends.tell_responder(&[]).unwrap_err(), Refusal::Malformed);
    assert_eq!(ends.tell_responder(&first).unwrap_err(), Refusal::Malformed);
}

#[test]
fn a_node_that_begins_to_sign_in_the_middle_lets_nobody_in_unsigned() {
    let (initiator, responder) = (local(1, Security::Off), local(2, Security::Off));
    let (mut ends, first) = start(&initiator, &responder);
    let second = send(ends.tell_responder(&first).unwrap());
    let (proof, _) = finished(ends.tell_initiator(&second).unwrap());
    let signing = listed(2, &[1]);
    let (_, mut answering) = ends.responder;
    let refused = answering.on_message(&signing, &proof.unwrap()).unwrap_err();
    assert_eq!(refused, Refusal::Security { signs: false });
}

#[test]
fn strangers_are_refused_before_a_signature_is_looked_at() {
    let stranger = listed(3, &[1, 2]);
    let expected = Refusal::Untrusted(stranger.identity.public());
    assert_eq!(refusal(&stranger, &listed(2, &[1, 2])), expected);
    // The responder trusts the initiator, which does not trust it.
    let (initiator, responder) = (listed(1, &[2]), listed(3, &[1]));
    let (mut ends, first) = start(&initiator, &responder);
    let second = send(ends.tell_responder(&first).unwrap());
    assert_eq!(ends.tell_initiator(&second).unwrap_err(), expected);
}

#[test]
fn a_certificate_must_be_of_this_cluster_key_and_for_this_cluster() {
    let responder = certified(2, 9, "blue");
    let key = identity(1).public();
    let expected = Refusal::BadCertificate(key);
    assert_eq!(refusal(&certified(1, 8, "blue"), &responder), expected);
    assert_eq!(refusal(&certified(1, 9, "red"), &responder), expected);
    assert_eq!(refusal(&listed(1, &[2]), &responder), Refusal::NoCertificate(key));
}

#[test]
fn a_node_with_a_certificate_can_be_on_a_list() {
    let (initiator, responder) = (certified(1, 9, "blue"), listed(2, &[1]));
    let (mut ends, first) = start(&initiator, &responder);
    let second = send(ends.tell_responder(&first).unwrap());
    // The other way round it takes a certificate.
    let expected = Refusal::NoCertificate(responder.identity.public());
    assert_eq!(ends.tell_initiator(&second).unwrap_err(), expected);
}

#[test]
fn another_cluster_another_shard_and_another_security_are_told_apart() {
    let responder = listed(2, &[1]);
    let mut red = listed(1, &[2]);
    red.cluster = "red".to_owned();
    assert_eq!(refusal(&red, &responder), Refusal::OtherCluster { name: "red".to_owned() });
    let unsigned = local(1, Security::Off);
    assert_eq!(refusal(&unsigned, &responder), Refusal::Security { signs: false });
    assert_eq!(
        refusal(&listed(1, &[2]), &local(2, Security::Off)),
        Refusal::Security { signs: true }
    );
    let initiator = listed(1, &[2]);
    let (_, first) = Handshake::initiate(&initiator, hello(1), [1; 32], TARGET + 1);
    let mut answering = Handshake::respond(&responder, hello(2), [2; 32], TARGET);
    assert_eq!(
        answering.on_message(&responder, &first).unwrap_err(),
        Refusal::OtherTarget { target: TARGET + 1 }
    );
}

#[test]
fn two_clusters_of_one_name_do_not_meet_but_a_node_without_one_may_join() {
    let (initiator, responder) = (listed(1, &[2]), listed(2, &[1]));
    let with = |cluster_id, seed| Hello { cluster_id, ..hello(seed) };
    for (theirs, own, is_fine) in
        [(0, 0, true), (7, 0, true), (0, 7, true), (7, 7, true), (7, 8, false)]
    {
        let (_, first) = Handshake::initiate(&initiator, with(theirs, 1), [1; 32], TARGET);
        let mut answering = Handshake::respond(&responder, with(own, 2), [2; 32], TARGET);
        match answering.on_message(&responder, &first) {
            Ok(_) => assert!(is_fine),
            Err(refusal) => {
                assert!(!is_fine);
                assert_eq!(refusal, Refusal::OtherClusterId { cluster_id: theirs });
            }
        }
    }
}

#[test]
fn a_node_that_connects_to_itself_or_its_copy_notices() {
    for (initiator, _) in pairs() {
        assert_eq!(refusal(&initiator, &initiator), Refusal::Own);
    }
}

#[test]
fn a_part_of_the_key_that_fixes_the_secret_is_refused() {
    let (initiator, responder) = (listed(1, &[2]), listed(2, &[1]));
    // A trusted node that misbehaves: it signs what it has sent.
    let mut one = [0; 32];
    one[0] = 1;
    for weak in [[0; 32], one] {
        let (mut ends, mut first) = start(&initiator, &responder);
        first[40..72].copy_from_slice(&weak);
        let State::AwaitResponder { introduction, .. } = &mut ends.initiator.1.state else {
            panic!("it has introduced itself")
        };
        introduction.clone_from(&first);
        let second = send(ends.tell_responder(&first).unwrap());
        let (proof, _) = finished(ends.tell_initiator(&second).unwrap());
        assert_eq!(ends.tell_responder(&proof.unwrap()).unwrap_err(), Refusal::WeakKey);
    }
}

#[test]
fn who_is_refused_hears_why() {
    let stranger = listed(3, &[1, 2]);
    let responder = listed(2, &[1]);
    let (mut ends, first) = start(&stranger, &responder);
    let refusal = ends.tell_responder(&first).unwrap_err();
    let heard = ends.tell_initiator(&refusal.encode().unwrap()).unwrap_err();
    assert_eq!(heard, Refusal::ByPeer(Reason::Untrusted));
    assert_eq!(heard.encode(), None);
    assert!(heard.to_string().starts_with("the other node refuses: it does not trust"));
}

#[test]
fn keys_are_not_printed() {
    let (peer, _) = run(&listed(1, &[2]), &listed(2, &[1]), |_, _| {}).unwrap();
    assert!(format!("{peer:?}").contains("Keys(..)"));
}
