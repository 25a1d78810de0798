use super::*;
use crate::topology::tests::member;

fn outputs(agreement: &mut Agreement) -> Vec<Output> {
    std::iter::from_fn(|| agreement.poll_output()).collect()
}

#[test]
fn who_asks_to_be_let_in_again_and_again_does_not_stop_the_writes_of_those_who_hold_data() {
    let own = Own { member: member(1), seeds: Vec::new(), replica_count: 3, token_secret: [7; 16] };
    let address = own.member.address;
    let mut agreement = Agreement::new(own, None, 7, 1, Instant::ZERO).unwrap();
    outputs(&mut agreement);
    let now = Instant::ZERO + Duration::from_secs(1);
    let wall = WallTime::from_millis(1_000_000);
    let join = || Input::Request(Via(1), Request::Join(member(2), 0));
    agreement.handle(now, wall, join());
    let asked = outputs(&mut agreement);
    let [Output::Answer(_, Answer::Pending), Output::Ask(_, prepare)] = &asked[..] else {
        panic!("{asked:?}");
    };
    agreement.handle(now, wall, Input::Request(Via(2), prepare.clone()));
    assert_eq!(outputs(&mut agreement), [Output::Survey(Via(2))]);
    assert!(agreement.is_frozen());
    agreement.handle(now, wall, Input::Surveyed(Via(2), Survey { is_empty: false }));
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
    let own = Own { member: member(1), seeds: Vec::new(), replica_count: 3, token_secret: [7; 16] };
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
    let own = Own { member: member(1), seeds: Vec::new(), replica_count: 3, token_secret: [7; 16] };
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
        let join = Input::Request(Via(100 + attempt), Request::Join(member(4), 0));
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
                        let promised = Answer::Promised { ballot, accepted: None, is_empty: true };
                        inputs.push_back(Input::Answer(second, promised));
                    }
                    Output::Survey(via) => {
                        survey_count += 1;
                        inputs.push_back(Input::Surveyed(via, Survey { is_empty: true }));
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
    let own = Own { member: member(1), seeds: Vec::new(), replica_count: 3, token_secret: [7; 16] };
    let mut agreement = Agreement::new(own, None, 7, 1, Instant::ZERO).unwrap();
    outputs(&mut agreement);
    let base = agreement.current().unwrap().clone();
    let wall = WallTime::from_millis(1_000_000);
    let (mut surveyed, mut refused) = (Vec::new(), Vec::new());
    for number in 1..=5_000 {
        let ballot = Ballot { timestamp: number, proposer: 9 };
        let prepare = Request::Prepare { base: base.clone(), ballot, must_be_empty: true };
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
        agreement.handle(Instant::ZERO, wall, Input::Surveyed(via, Survey { is_empty: true }));
        let is_answer = |it: &Output| matches!(it, Output::Answer(of, _) if *of == via);
        let answers = outputs(&mut agreement).iter().filter(|it| is_answer(it)).count();
        assert_eq!(answers, usize::from(!refused.contains(&via)));
    }
}
