//! What one machine does on its own: whom it probes, what it makes of silence, whom it tells.

use super::*;

/// Number 1, which knows those up to number `last` and has no news to spread.
fn acquainted(last: u64) -> (Swim, Instant) {
    let mut swim = alone(Config::lan());
    let claims: Vec<Member> = (3..=last).map(|id| member(id, State::Alive, 0)).collect();
    let two = member(2, State::Alive, 0);
    swim.handle(AT, Input::Exchange { bytes: &packet(two, Body::ExchangeReply, &claims) });
    outputs(&mut swim);
    assert_eq!(swim.members().count() as u64, last);
    (swim, AT)
}

/// Lets the machine's own time pass until it sends what `is_it` looks for.
fn next(
    swim: &mut Swim,
    now: &mut Instant,
    is_it: impl Fn(&Body) -> bool,
) -> Vec<(SocketAddr, Packet)> {
    for _ in 0..1_000 {
        *now = swim.poll_timeout().unwrap().max(*now);
        swim.handle(*now, Input::Timeout);
        let sent = sent(&outputs(swim));
        if sent.iter().any(|(_, it)| is_it(&it.body)) {
            return sent;
        }
    }
    panic!("it never comes");
}

fn is_ping(body: &Body) -> bool {
    matches!(body, Body::Ping { .. })
}

#[test]
fn the_silent_are_pinged_again_and_through_others_then_suspected_and_told() {
    let (mut swim, mut now) = acquainted(5);
    let first = next(&mut swim, &mut now, is_ping);
    let (target, ping) = (first[0].0, first[0].1.body);
    let Body::Ping { target: id, .. } = ping else { panic!("a ping") };
    let second = next(&mut swim, &mut now, is_ping);
    assert_eq!((second[0].0, second[0].1.body), (target, ping));
    let asked: Vec<_> = second[1..].iter().map(|(to, it)| (*to, it.body)).collect();
    assert_eq!(asked.len(), 3);
    for (to, body) in asked {
        assert_ne!(to, target);
        assert!(matches!(body, Body::PingRequest { target, .. } if target == id));
    }
    let told = next(&mut swim, &mut now, |it| *it == Body::Correction);
    assert_eq!((told[0].0, told[0].1.claims[0].member.state), (target, State::Suspect));
    assert_eq!(told[0].1.claims[0].by, MemberId(1));
    let again = next(&mut swim, &mut now, |it| *it == Body::Correction);
    assert!(again.iter().any(|(to, _)| *to == target), "it may have been lost");
    assert_eq!(swim.member(id).unwrap().state, State::Suspect);
    // Nobody asked answered either: the fault may be here.
    assert_eq!(swim.local_health(), 3);
}

#[test]
fn a_refusal_shows_that_the_fault_is_not_here_and_an_ack_ends_the_probe() {
    for (is_acked, failed_count) in [(false, 1), (true, 0)] {
        let (mut swim, mut now) = acquainted(5);
        next(&mut swim, &mut now, is_ping);
        for (to, asked) in next(&mut swim, &mut now, is_ping) {
            let Body::PingRequest { nonce, .. } = asked.body else { continue };
            let id = (2..=5).find(|it| address(*it) == to).unwrap();
            let body = if is_acked { Body::RelayedAck { nonce } } else { Body::Nack { nonce } };
            datagram(&mut swim, now, &packet(member(id, State::Alive, 0), body, &[]));
        }
        next(&mut swim, &mut now, is_ping);
        assert_eq!(swim.stats().failed_probe_count, failed_count);
        assert_eq!(swim.local_health(), 0);
    }
}

#[test]
fn an_ack_of_another_or_of_another_probe_is_none() {
    let (mut swim, mut now) = acquainted(2);
    let ping = next(&mut swim, &mut now, is_ping);
    let Body::Ping { nonce, .. } = ping[0].1.body else { panic!("a ping") };
    let wrong = [(member(3, State::Alive, 0), nonce), (member(2, State::Alive, 0), nonce ^ 1)];
    for (sender, nonce) in wrong {
        datagram(&mut swim, now, &packet(sender, Body::Ack { nonce }, &[]));
    }
    next(&mut swim, &mut now, is_ping);
    next(&mut swim, &mut now, is_ping);
    assert_eq!(swim.stats().failed_probe_count, 1);
}

#[test]
fn a_probe_for_another_passes_on_an_answer_and_makes_none() {
    let (mut swim, now) = acquainted(3);
    let two = member(2, State::Alive, 0);
    for is_answered in [true, false] {
        let asked = Body::PingRequest { target: MemberId(9), nonce: 5, address: address(9) };
        let pings = sent(&datagram(&mut swim, now, &packet(two, asked, &[])));
        assert_eq!((pings.len(), pings[0].0), (1, address(9)));
        let Body::Ping { nonce, .. } = pings[0].1.body else { panic!("a ping") };
        if is_answered {
            let ack = packet(member(9, State::Alive, 0), Body::Ack { nonce }, &[]);
            let answers = sent(&datagram(&mut swim, now, &ack));
            assert_eq!(
                (answers[0].0, answers[0].1.body),
                (address(2), Body::RelayedAck { nonce: 5 })
            );
        } else {
            let mut now = now;
            let nack = Body::Nack { nonce: 5 };
            next(&mut swim, &mut now, |it| *it == nack);
        }
    }
}

#[test]
fn a_refutation_is_spread() {
    let (mut swim, mut now) = acquainted(4);
    let said = packet(member(2, State::Alive, 0), Body::Gossip, &[member(1, State::Dead, 0)]);
    datagram(&mut swim, now, &said);
    let news = next(&mut swim, &mut now, |it| *it == Body::Gossip);
    let claims: Vec<Member> = news[0].1.claims.iter().map(|it| it.member).collect();
    assert_eq!(claims[0], member(1, State::Alive, 1));
}

#[test]
fn who_is_behind_with_what_it_is_believed_to_be_is_told() {
    let (mut swim, now) = acquainted(3);
    let newer = Member { run: 2_000, ..member(2, State::Alive, 0) };
    datagram(&mut swim, now, &packet(member(3, State::Alive, 0), Body::Gossip, &[newer]));
    let behind = packet(member(2, State::Alive, 7), Body::Gossip, &[]);
    let told = sent(&datagram(&mut swim, now, &behind));
    assert_eq!((told.len(), told[0].1.claims[0].member), (1, newer));
}

#[test]
fn a_suspicion_does_not_end_while_the_machine_sleeps() {
    let (mut swim, now) = acquainted(2);
    let suspect = member(2, State::Suspect, 0);
    datagram(&mut swim, now, &packet(member(3, State::Alive, 0), Body::Gossip, &[suspect]));
    let awake = now + SECOND * 30;
    swim.handle(awake, Input::Timeout);
    outputs(&mut swim);
    assert_eq!(swim.member(MemberId(2)), Some(&suspect));
    let refuted = member(2, State::Alive, 1);
    datagram(&mut swim, awake, &packet(refuted, Body::Gossip, &[]));
    assert_eq!(swim.member(MemberId(2)), Some(&refuted));
}

#[test]
fn one_of_the_dead_that_answers_again_is_asked_for_all_it_knows() {
    let (mut swim, mut now) = acquainted(2);
    let dead = member(2, State::Dead, 0);
    datagram(&mut swim, now, &packet(member(3, State::Left, 0), Body::Gossip, &[dead]));
    assert_eq!(swim.member(MemberId(2)), Some(&dead));
    let recall = next(&mut swim, &mut now, is_ping);
    let Body::Ping { nonce, .. } = recall[0].1.body else { panic!("a ping") };
    assert_eq!(recall[0].1.claims[0].member, dead, "it hears what to refute");
    let back = member(2, State::Alive, 1);
    let outputs = datagram(&mut swim, now, &packet(back, Body::Ack { nonce }, &[]));
    assert_eq!(changes(&outputs), [back]);
    let requests = outputs.iter().filter(|it| matches!(it, Output::Exchange { .. }));
    assert_eq!(requests.count(), 1);
}

#[test]
fn a_newcomer_does_not_spread_what_all_know() {
    let (mut swim, mut now) = acquainted(5);
    let first = next(&mut swim, &mut now, |it| is_ping(it) || *it == Body::Gossip);
    let claims: Vec<Member> = first[0].1.claims.iter().map(|it| it.member).collect();
    assert_eq!(claims, [member(2, State::Alive, 0)], "only whom it met itself");
}
