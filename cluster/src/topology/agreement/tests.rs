use super::*;
use crate::topology::tests::member;

fn outputs(agreement: &mut Agreement) -> Vec<Output> {
    std::iter::from_fn(|| agreement.poll_output()).collect()
}

#[test]
fn who_asks_to_be_let_in_again_and_again_does_not_stop_the_writes_of_those_who_hold_data() {
    let own = Own { member: member(1), seeds: Vec::new(), replica_count: 3 };
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
    let own = Own { member: member(1), seeds: Vec::new(), replica_count: 3 };
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
fn attempts_that_come_to_nothing_leave_time_for_writes() {
    let own = Own { member: member(1), seeds: Vec::new(), replica_count: 3 };
    let mut agreement = Agreement::new(own, None, 7, 1, Instant::ZERO).unwrap();
    outputs(&mut agreement);
    let base = agreement.current().unwrap().clone();
    let wall = WallTime::from_millis(1_000_000);
    let mut frozen_count = 0;
    for tenth in 0..600_u64 {
        let now = Instant::ZERO + Duration::from_millis(tenth * 100);
        let ballot = Ballot { timestamp: tenth + 1, proposer: 2 };
        let prepare = Request::Prepare { base: base.clone(), ballot, must_be_empty: true };
        let via = Via(tenth + 1);
        agreement.handle(now, wall, Input::Request(via, prepare));
        if outputs(&mut agreement).contains(&Output::Survey(via)) {
            agreement.handle(now, wall, Input::Surveyed(via, Survey { is_empty: true }));
            outputs(&mut agreement);
        }
        frozen_count += usize::from(agreement.is_frozen());
    }
    assert!((100..400).contains(&frozen_count), "{frozen_count} of 600");
}
