mod net;

use self::net::{Net, Packet, Sent};
use super::*;
use crate::topology::tests::member;

fn outputs(agreement: &mut Agreement) -> Vec<Output> {
    std::iter::from_fn(|| agreement.poll_output()).collect()
}

#[test]
fn who_asks_to_be_let_in_again_and_again_does_not_stop_the_writes_of_those_who_hold_data() {
    let own = net::own(1);
    let address = own.member.address;
    let mut agreement = Agreement::new(own, None, 7, 1, Instant::ZERO).unwrap();
    outputs(&mut agreement);
    let now = Instant::ZERO + Duration::from_secs(1);
    let wall = WallTime::from_millis(1_000_000);
    let join =
        || Input::Request(Via(1), Request::Join { member: member(2), cluster: 0, is_empty: true });
    agreement.handle(now, wall, join());
    let asked = outputs(&mut agreement);
    let [Output::Answer(_, Answer::Pending), Output::Ask(_, prepare)] = &asked[..] else {
        panic!("{asked:?}");
    };
    agreement.handle(now, wall, Input::Request(Via(2), prepare.clone()));
    assert_eq!(outputs(&mut agreement), [Output::Survey(Via(2))]);
    assert!(agreement.is_frozen());
    agreement.handle(now, wall, Input::Surveyed(Via(2), Survey { is_empty: false, latest: 0 }));
    assert!(!agreement.is_frozen());
    let answered = outputs(&mut agreement);
    let [Output::Thaw, Output::Keep(_), Output::Answer(Via(2), promised)] = &answered[..] else {
        panic!("{answered:?}");
    };
    agreement.handle(now, wall, Input::Answer(address, promised.clone()));
    assert_eq!(outputs(&mut agreement), []);
    let refused = Output::Answer(Via(1), Answer::Rejected(Refusal::HoldsData));
    agreement.handle(now, wall, join());
    assert_eq!(outputs(&mut agreement), [refused]);
}

#[test]
fn a_newer_topology_is_asked_for_until_it_is_there() {
    let own = net::own(1);
    let mut agreement = Agreement::new(own, None, 7, 1, Instant::ZERO).unwrap();
    outputs(&mut agreement);
    let (other, wall) = (member(2).address, WallTime::from_millis(1_000_000));
    let ask = Output::Ask(other, Request::Ask);
    agreement.handle(Instant::ZERO, wall, Input::Heard(other, Epoch(2)));
    assert_eq!(outputs(&mut agreement), std::slice::from_ref(&ask));
    for _ in 0..3 {
        let due = agreement.poll_timeout().unwrap();
        agreement.handle(due, wall, Input::Timeout);
        assert_eq!(outputs(&mut agreement), std::slice::from_ref(&ask), "no answer has come");
    }
    let newer = agreement.current().unwrap().after(&Change::Join(member(2))).unwrap().unwrap();
    let answer = Answer::Current(Some(newer.clone()));
    let due = agreement.poll_timeout().unwrap();
    agreement.handle(due, wall, Input::Answer(other, answer));
    assert!(outputs(&mut agreement).contains(&Output::Install(newer)));
    assert_eq!(agreement.poll_timeout(), None);
}

#[test]
fn a_newcomer_waits_while_some_member_does_not_answer() {
    let own = net::own(1);
    let mut agreement = Agreement::new(own, None, 7, 1, Instant::ZERO).unwrap();
    outputs(&mut agreement);
    let wall = WallTime::from_millis(1_000_000);
    for number in 2..=3 {
        let join = Change::Join(member(number));
        let next = agreement.current().unwrap().after(&join).unwrap().unwrap();
        agreement.handle(Instant::ZERO, wall, Input::Request(Via(1), Request::Chosen(next)));
        outputs(&mut agreement);
    }
    let (first, second) = (member(1).address, member(2).address);
    let (mut now, mut survey_count) = (Instant::ZERO, 0);
    for attempt in 0..200_u64 {
        now = now + Duration::from_millis(300);
        let join = Input::Request(
            Via(100 + attempt),
            Request::Join { member: member(4), cluster: 0, is_empty: true },
        );
        let mut inputs = VecDeque::from([join]);
        while let Some(input) = inputs.pop_front() {
            agreement.handle(now, wall, input);
            for output in outputs(&mut agreement) {
                match output {
                    // This node asks itself, the second answers, the third does not.
                    Output::Ask(to, request @ Request::Prepare { .. }) if to == first => {
                        inputs.push_back(Input::Request(Via(0), request));
                    }
                    Output::Ask(to, Request::Prepare { ballot, .. }) if to == second => {
                        let promised = Answer::Promised {
                            ballot,
                            accepted: None,
                            is_empty: true,
                            is_sound: true,
                            latest: 0,
                        };
                        inputs.push_back(Input::Answer(second, promised));
                    }
                    Output::Survey(via) => {
                        survey_count += 1;
                        inputs
                            .push_back(Input::Surveyed(via, Survey { is_empty: true, latest: 0 }));
                    }
                    Output::Answer(Via(0), answer) => {
                        inputs.push_back(Input::Answer(first, answer));
                    }
                    _ => {}
                }
            }
        }
    }
    assert!((2..40).contains(&survey_count), "{survey_count} in a minute");
}

#[test]
fn whoever_asks_for_promises_without_end_costs_a_bounded_amount() {
    let own = net::own(1);
    let mut agreement = Agreement::new(own, None, 7, 1, Instant::ZERO).unwrap();
    outputs(&mut agreement);
    let base = agreement.current().unwrap().clone();
    let wall = WallTime::from_millis(1_000_000);
    let (mut surveyed, mut refused) = (Vec::new(), Vec::new());
    for number in 1..=5_000 {
        let ballot = Ballot { timestamp: number, proposer: 9 };
        let prepare =
            Request::Prepare { base: base.clone(), ballot, must_be_empty: true, is_barrier: false };
        agreement.handle(Instant::ZERO, wall, Input::Request(Via(number), prepare));
        for output in outputs(&mut agreement) {
            match output {
                Output::Survey(via) => surveyed.push(via),
                Output::Answer(via, Answer::Refused(_)) => refused.push(via),
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!((surveyed.len(), refused.len()), (5_000, 5_000 - PREPARE_COUNT_MAX));
    // The latest are surveyed for still; those who were refused are not answered again.
    for via in surveyed {
        agreement.handle(
            Instant::ZERO,
            wall,
            Input::Surveyed(via, Survey { is_empty: true, latest: 0 }),
        );
        let is_answer = |it: &Output| matches!(it, Output::Answer(of, _) if *of == via);
        let answers = outputs(&mut agreement).iter().filter(|it| is_answer(it)).count();
        assert_eq!(answers, usize::from(!refused.contains(&via)));
    }
}

fn is_accept(sent: &Sent) -> bool {
    matches!(sent.packet, Packet::Request(_, Request::Accept { .. }))
}

/// The members are cut in two right after the proposer has accepted its own wish: no majority can be
/// heard, and yet the vote is there, and is found when the two halves are one again.
#[test]
fn a_wish_that_was_voted_on_is_unknown_and_not_refused() {
    let mut net = Net::of(3);
    let (first, tag) = (member(1).address, Tag(1));
    net.handle(1, Input::Wish(tag, Change::Clear(77, 1)));
    net.deliver_until(|sent| is_accept(sent) && sent.to == first);
    net.cut.push(first);
    net.run(Duration::from_secs(10));
    assert_eq!(net.done, [(tag, Err(Failure::Unknown(Refusal::NoMajority)))]);
    net.cut.clear();
    net.run(Duration::from_secs(10));
    assert_eq!(net.node(2).current().map(|it| it.cleared_timestamp), Some(77), "it was found");
}

#[test]
fn a_wish_that_nobody_was_asked_to_vote_on_is_refused() {
    let mut net = Net::of(3);
    let (first, tag) = (member(1).address, Tag(1));
    net.cut.push(first);
    net.handle(1, Input::Wish(tag, Change::Clear(77, 1)));
    net.run(Duration::from_secs(10));
    assert_eq!(net.done, [(tag, Err(Failure::Refused(Refusal::NoMajority)))]);
    net.cut.clear();
    net.run(Duration::from_secs(10));
    assert_eq!(net.node(2).current().map(|it| it.cleared_timestamp), Some(0));
}

/// What was voted on before another change was decided in its place is over: a wish that then finds no
/// majority for its next attempt is refused.
#[test]
fn a_vote_ends_with_the_epoch_it_was_about() {
    let mut net = Net::of(3);
    let (first, second) = (member(1).address, member(2).address);
    net.handle(1, Input::Wish(Tag(1), Change::Clear(1 << 40, 1)));
    // Nobody takes the votes but the proposer, whose vote nobody hears of.
    net.deliver_until(|sent| is_accept(sent) && sent.to == first);
    net.cut.push(first);
    net.handle(2, Input::Wish(Tag(2), Change::Clear(50, 2)));
    net.run(Duration::from_secs(2));
    assert_eq!(net.done, [(Tag(2), Ok(Epoch(4)))]);
    let chosen = net.node(2).current().unwrap().clone();
    // The proposer hears of the other's, and nothing else.
    net.handle(1, Input::Answer(second, Answer::Current(Some(chosen))));
    net.run(Duration::from_secs(10));
    assert_eq!(net.done[1..], [(Tag(1), Err(Failure::Refused(Refusal::NoMajority)))]);
    net.cut.clear();
    net.run(Duration::from_secs(10));
    for number in 1..=3 {
        assert_eq!(
            net.node(number).current().map(|it| it.cleared_timestamp),
            Some((500 << 16) + 1)
        );
    }
}

#[test]
fn a_wish_of_a_node_that_is_no_member_is_refused_in_time() {
    let mut agreement = Agreement::new(net::own(2), None, 7, 1, Instant::ZERO).unwrap();
    let wall = WallTime::from_millis(1_000_000);
    agreement.handle(Instant::ZERO, wall, Input::Wish(Tag(1), Change::Clear(77, 1)));
    let mut now = Instant::ZERO;
    let mut seen = outputs(&mut agreement);
    while now < Instant::ZERO + Duration::from_secs(10) {
        now = agreement.poll_timeout().expect("it has something to do").max(now);
        agreement.handle(now, wall, Input::Timeout);
        seen.extend(outputs(&mut agreement));
    }
    let done = Output::Done(Tag(1), Err(Failure::Refused(Refusal::NoMajority)));
    assert_eq!(seen.iter().filter(|it| **it == done).count(), 1);
}

/// A member of two, and the cluster with a third.
fn second_of_two() -> (Agreement, Topology, Topology) {
    let mut agreement = Agreement::new(net::own(2), None, 7, 1, Instant::ZERO).unwrap();
    let base = crate::topology::tests::topology(2, 3);
    let value = base.after(&Change::Join(member(3))).unwrap().unwrap();
    let chosen = Input::Request(Via(1), Request::Chosen(base.clone()));
    agreement.handle(Instant::ZERO, WallTime::EPOCH, chosen);
    outputs(&mut agreement);
    (agreement, base, value)
}

const EARLY: Ballot = Ballot { timestamp: 5, proposer: 1 };
const LATE: Ballot = Ballot { timestamp: 6, proposer: 1 };

/// A member that was empty for one attempt has taken writes since, and is asked by another: the vote
/// that the first attempt asks for comes late, and is about what the member no longer is.
#[test]
fn what_moves_data_is_accepted_only_while_the_freeze_of_its_own_survey_lasts() {
    let (mut agreement, base, value) = second_of_two();
    let (wall, mut now) = (WallTime::EPOCH, Instant::ZERO);
    let prepare = |ballot| Request::Prepare {
        base: base.clone(),
        ballot,
        must_be_empty: true,
        is_barrier: false,
    };
    agreement.handle(now, wall, Input::Request(Via(2), prepare(EARLY)));
    assert_eq!(outputs(&mut agreement), [Output::Survey(Via(2))]);
    agreement.handle(now, wall, Input::Surveyed(Via(2), Survey { is_empty: true, latest: 0 }));
    let promised = Answer::Promised {
        ballot: EARLY,
        accepted: None,
        is_empty: true,
        is_sound: true,
        latest: 0,
    };
    assert_eq!(outputs(&mut agreement)[1..], [Output::Answer(Via(2), promised)]);
    now = now + FREEZE;
    agreement.handle(now, wall, Input::Timeout);
    assert_eq!(outputs(&mut agreement), [Output::Thaw]);
    agreement.handle(now, wall, Input::Request(Via(3), prepare(LATE)));
    assert_eq!(outputs(&mut agreement), [Output::Survey(Via(3))]);
    let accept = Request::Accept { base: base.clone(), ballot: EARLY, value };
    agreement.handle(now, wall, Input::Request(Via(4), accept));
    assert_eq!(outputs(&mut agreement), [Output::Answer(Via(4), Answer::Refused(EARLY))]);
    agreement.handle(now, wall, Input::Surveyed(Via(3), Survey { is_empty: false, latest: 0 }));
    let promised = Answer::Promised {
        ballot: LATE,
        accepted: None,
        is_empty: false,
        is_sound: true,
        latest: 0,
    };
    assert_eq!(outputs(&mut agreement).last(), Some(&Output::Answer(Via(3), promised)));
}

/// Whoever wanted the move has gone; the freeze of who has accepted it ends again and again while an
/// attempt of its own is under way.
#[test]
fn who_brings_to_its_end_what_it_has_accepted_is_not_due_all_the_time() {
    let (mut agreement, base, value) = second_of_two();
    let (wall, mut now) = (WallTime::EPOCH, Instant::ZERO);
    let ballot = EARLY;
    let prepare =
        Request::Prepare { base: base.clone(), ballot, must_be_empty: true, is_barrier: false };
    agreement.handle(now, wall, Input::Request(Via(2), prepare));
    agreement.handle(now, wall, Input::Surveyed(Via(2), Survey { is_empty: true, latest: 0 }));
    let accept = Request::Accept { base, ballot, value };
    agreement.handle(now, wall, Input::Request(Via(3), accept));
    assert_eq!(
        outputs(&mut agreement).last(),
        Some(&Output::Answer(Via(3), Answer::Accepted(EARLY)))
    );
    let end = now + FREEZE * 20;
    while now < end {
        let due = agreement.poll_timeout().expect("it goes on trying");
        assert!(due > now, "what was due at {now:?} is due at {due:?}");
        now = due;
        agreement.handle(now, wall, Input::Timeout);
        outputs(&mut agreement);
    }
}

/// A core that is slow to say whether it is empty says what it was before writes were taken again.
#[test]
fn a_survey_is_worth_nothing_once_its_freeze_is_over() {
    let (mut agreement, base, value) = second_of_two();
    let (wall, mut now) = (WallTime::EPOCH, Instant::ZERO);
    let prepare = |ballot| Request::Prepare {
        base: base.clone(),
        ballot,
        must_be_empty: true,
        is_barrier: false,
    };
    agreement.handle(now, wall, Input::Request(Via(2), prepare(EARLY)));
    assert_eq!(outputs(&mut agreement), [Output::Survey(Via(2))]);
    now = now + FREEZE;
    agreement.handle(now, wall, Input::Timeout);
    let refused = Output::Answer(Via(2), Answer::Refused(Ballot::default()));
    assert_eq!(outputs(&mut agreement), [Output::Thaw, refused]);
    agreement.handle(now, wall, Input::Request(Via(3), prepare(LATE)));
    assert_eq!(outputs(&mut agreement), [Output::Survey(Via(3))]);
    agreement.handle(now, wall, Input::Surveyed(Via(2), Survey { is_empty: true, latest: 0 }));
    assert_eq!(outputs(&mut agreement), [], "it was answered");
    let accept = Request::Accept { base: base.clone(), ballot: EARLY, value };
    agreement.handle(now, wall, Input::Request(Via(4), accept));
    let refused = Output::Answer(Via(4), Answer::Refused(Ballot::default()));
    assert_eq!(outputs(&mut agreement), [refused]);
}

/// It was a node alone, or its directory was restored.
#[test]
fn a_newcomer_that_holds_keys_is_not_let_in_and_stops_nobody() {
    let mut net = Net::of(3);
    let newcomer = member(4).address;
    net.full.push(newcomer);
    net.start(4);
    let heard = Input::Heard(member(1).address, Epoch(3));
    net.handle(4, heard);
    for _ in 0..50 {
        net.run(Duration::from_millis(100));
        assert!((1..=3).all(|number| !net.node(number).is_frozen()));
    }
    assert!(net.rejected.contains(&(newcomer, Refusal::HoldsOwnData)));
    assert_eq!(
        net.node(4).current(),
        None,
        "it takes in nothing of a cluster that it is not part of"
    );
    assert_eq!(net.node(1).current().map(|it| it.epoch), Some(3));
    // The same node with nothing in it is let in.
    net.full.clear();
    net.start(4);
    net.run(Duration::from_secs(1));
    assert_eq!(net.node(4).current().map(|it| it.members.len()), Some(4));
}

/// Whoever lets a newcomer in has its word that it is empty; it stands by that when it is asked to
/// accept.
#[test]
fn a_newcomer_accepts_its_admission_only_while_it_holds_nothing() {
    let base = crate::topology::tests::topology(2, 3);
    let value = base.after(&Change::Join(member(3))).unwrap().unwrap();
    for is_empty in [true, false] {
        let mut agreement = Agreement::new(net::own(3), None, 7, 1, Instant::ZERO).unwrap();
        let (wall, now) = (WallTime::EPOCH, Instant::ZERO);
        agreement.handle(now, wall, Input::Timeout);
        assert_eq!(outputs(&mut agreement), [Output::Survey(Via::OWN_SURVEY)]);
        agreement.handle(
            now,
            wall,
            Input::Surveyed(Via::OWN_SURVEY, Survey { is_empty, latest: 0 }),
        );
        let join = Request::Join { member: member(3), cluster: 0, is_empty };
        assert_eq!(outputs(&mut agreement), [Output::Ask(member(1).address, join)]);
        let accept = Request::Accept { base: base.clone(), ballot: EARLY, value: value.clone() };
        agreement.handle(now, wall, Input::Request(Via(1), accept));
        let accepted = Output::Answer(Via(1), Answer::Accepted(EARLY));
        assert_eq!(outputs(&mut agreement).contains(&accepted), is_empty);
        assert_eq!(agreement.current().is_some(), is_empty, "what it is no part of is not its own");
    }
}

/// A node that may be the first of its cluster.
fn perhaps_first() -> (Agreement, WallTime) {
    let own = Own { forming: Forming::Unheard, ..net::own(1) };
    let agreement = Agreement::new(own, None, 7, 1, Instant::ZERO).unwrap();
    assert_eq!((agreement.current(), agreement.is_listening()), (None, true));
    (agreement, WallTime::EPOCH)
}

/// Runs until then. Returns all that was put out, and when it had a topology.
fn run(
    agreement: &mut Agreement,
    (from, to): (Instant, Instant),
) -> (Vec<Output>, Option<Instant>) {
    let (mut now, mut seen, mut had_at) = (from, Vec::new(), None);
    loop {
        agreement.handle(now, WallTime::EPOCH, Input::Timeout);
        while let Some(output) = agreement.poll_output() {
            if let Output::Survey(via) = output {
                agreement.handle(
                    now,
                    WallTime::EPOCH,
                    Input::Surveyed(via, Survey { is_empty: true, latest: 0 }),
                );
            }
            seen.push(output);
        }
        had_at = had_at.or_else(|| agreement.current().map(|_| now));
        match agreement.poll_timeout() {
            Some(due) if due < to => now = due.max(now),
            _ => return (seen, had_at),
        }
    }
}

#[test]
fn the_first_node_forms_a_cluster_once_it_has_listened_for_one() {
    let (mut agreement, _) = perhaps_first();
    let start = Instant::ZERO + Duration::from_secs(3);
    let (seen, formed_at) = run(&mut agreement, (start, start + Duration::from_secs(10)));
    assert_eq!(formed_at, Some(start + LISTEN), "from when it runs");
    let first = Topology::first(7, [7; 16], 3, member(1));
    let [Output::Survey(_), Output::Keep(_), Output::Install(installed)] = &seen[..] else {
        panic!("{seen:?}");
    };
    assert_eq!(*installed, first);
    assert!(!agreement.is_listening());
}

#[test]
fn who_is_told_to_form_a_cluster_does_so_at_once_and_who_joins_one_never() {
    let agreement = Agreement::new(net::own(1), None, 7, 1, Instant::ZERO).unwrap();
    assert_eq!(agreement.current().map(|it| it.epoch), Some(1));
    let mut agreement = Agreement::new(net::own(2), None, 7, 1, Instant::ZERO).unwrap();
    let hour = (Instant::ZERO, Instant::ZERO + Duration::from_secs(3_600));
    assert_eq!(run(&mut agreement, hour).1, None);
}

/// Its directory was lost, and the same command started it again: the others are still there, and one
/// of them probes or dials it.
#[test]
fn who_hears_of_a_live_cluster_forms_none_and_asks_to_be_let_into_that_one() {
    let (mut agreement, wall) = perhaps_first();
    let now = Instant::ZERO + Duration::from_millis(1_400);
    let (_, had_at) = run(&mut agreement, (Instant::ZERO, now));
    assert_eq!(had_at, None);
    let (other, lost) = (member(2).address, Member { id: 99, ..member(1) });
    agreement.handle(now, wall, Input::Heard(other, Epoch(2)));
    let told = Output::Rejected(other, Refusal::ClusterLives);
    assert_eq!(outputs(&mut agreement), [told.clone(), Output::Ask(other, Request::Ask)]);
    let end = now + Duration::from_secs(3_600);
    let (seen, had_at) = run(&mut agreement, (now, end));
    assert_eq!(had_at, None);
    assert!(!seen.contains(&told), "it is told once");
    // It asks to be let in, in the place of the one whose address it has.
    let topology = Topology::first(5, [5; 16], 3, lost);
    let topology = topology.after(&Change::Join(member(2))).unwrap().unwrap();
    agreement.handle(end, wall, Input::Answer(other, Answer::Current(Some(topology.clone()))));
    assert_eq!(agreement.current(), Some(&topology));
    outputs(&mut agreement);
    let (seen, _) = run(&mut agreement, (end + ASK, end + ASK * 2));
    let join = Request::Join { member: member(1), cluster: 5, is_empty: true };
    assert!(seen.contains(&Output::Ask(other, join)), "{seen:?}");
}

#[test]
fn a_pause_of_the_process_is_no_listening() {
    let (mut agreement, wall) = perhaps_first();
    let mut now = Instant::ZERO;
    for _ in 0..LOOK_COUNT {
        agreement.handle(now, wall, Input::Timeout);
        now = now + LISTEN;
    }
    assert!(agreement.is_listening());
    agreement.handle(now, wall, Input::Heard(member(2).address, Epoch(2)));
    assert!(!agreement.is_listening());
}

/// A newcomer without a topology is no cluster.
#[test]
fn others_who_have_no_cluster_either_keep_nobody_from_forming_one() {
    let (mut agreement, wall) = perhaps_first();
    agreement.handle(Instant::ZERO, wall, Input::Heard(member(2).address, Epoch(0)));
    let join = Request::Join { member: member(2), cluster: 0, is_empty: true };
    agreement.handle(Instant::ZERO, wall, Input::Request(Via(1), join));
    let while_listening = (Instant::ZERO, Instant::ZERO + LISTEN * 2);
    assert_eq!(run(&mut agreement, while_listening).1, Some(Instant::ZERO + LISTEN));
}

/// Who asks a node that is no member hears who is.
#[test]
fn a_node_that_is_no_member_sends_newcomers_to_those_who_are() {
    let mut agreement = Agreement::new(net::own(3), None, 7, 1, Instant::ZERO).unwrap();
    let wall = WallTime::EPOCH;
    run(&mut agreement, (Instant::ZERO, Instant::ZERO + ASK));
    let topology = crate::topology::tests::topology(2, 3);
    let known = Input::Answer(member(1).address, Answer::Current(Some(topology.clone())));
    agreement.handle(Instant::ZERO, wall, known);
    outputs(&mut agreement);
    let join = Request::Join { member: member(4), cluster: 0, is_empty: true };
    agreement.handle(Instant::ZERO, wall, Input::Request(Via(1), join));
    let told = Output::Answer(Via(1), Answer::Current(Some(topology)));
    assert!(outputs(&mut agreement).contains(&told));
}

/// A ballot above which there is none would end the proposer by an overflow, and the votes for ever.
#[test]
fn a_ballot_that_leaves_no_room_above_it_is_no_message() {
    let base = crate::topology::tests::topology(2, 3);
    let room = Ballot { timestamp: Ballot::TIMESTAMP_MAX, proposer: 9 };
    for (ballot, is_valid) in [(room, true), (Ballot { timestamp: u64::MAX, proposer: 0 }, false)] {
        let prepare = Request::Prepare {
            base: base.clone(),
            ballot,
            must_be_empty: false,
            is_barrier: false,
        };
        assert_eq!(Request::decode(&prepare.encode()).is_ok(), is_valid);
        assert_eq!(Answer::decode(&Answer::Refused(ballot).encode()).is_ok(), is_valid);
    }
    let last = Topology { epoch: u64::MAX, ..base };
    assert!(Request::decode(&Request::Chosen(last).encode()).is_err());

    // Who has heard of the last ballot says that nothing can be agreed on.
    let mut agreement = Agreement::new(net::own(1), None, 7, 1, Instant::ZERO).unwrap();
    outputs(&mut agreement);
    let (wall, refused) = (WallTime::EPOCH, Answer::Refused(room));
    agreement.handle(Instant::ZERO, wall, Input::Answer(member(2).address, refused));
    agreement.handle(Instant::ZERO, wall, Input::Wish(Tag(1), Change::Clear(1, 1)));
    let done = Output::Done(Tag(1), Err(Failure::Refused(Refusal::NoMajority)));
    assert_eq!(outputs(&mut agreement), [done]);
}

/// Two topologies of one epoch are never decided: who speaks of another one has made it up.
#[test]
fn nothing_is_promised_or_accepted_on_another_base_than_the_one_that_holds() {
    let (mut agreement, base, _) = second_of_two();
    let forged = Topology { replica_count: 1, ..base.clone() };
    let value = forged.after(&Change::Clear(7, 1)).unwrap().unwrap();
    let requests = [
        Request::Prepare {
            base: forged.clone(),
            ballot: EARLY,
            must_be_empty: false,
            is_barrier: false,
        },
        Request::Accept { base: forged, ballot: EARLY, value },
    ];
    for (via, request) in (10..).map(Via).zip(requests) {
        agreement.handle(Instant::ZERO, WallTime::EPOCH, Input::Request(via, request));
        let current = Answer::Current(Some(base.clone()));
        assert_eq!(outputs(&mut agreement), [Output::Answer(via, current)]);
    }
}
