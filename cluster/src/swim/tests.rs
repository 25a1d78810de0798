//! One machine, which is handed packets. Whole clusters are in [`cluster`], chance in [`chance`].

mod chance;
mod cluster;
mod probing;

use super::packet::Body;
use super::*;

const SECOND: Duration = Duration::from_secs(1);
const CLUSTER: u64 = 1;

fn address(id: u64) -> SocketAddr {
    simulation::Simulation::address(usize::try_from(id).unwrap())
}

fn member(id: u64, state: State, incarnation: u32) -> Member {
    Member { id: MemberId(id), address: address(id), state, incarnation, run: 1_000 }
}

/// Number 1, which has received nothing.
fn alone(config: Config) -> Swim {
    let own = Own { id: MemberId(1), address: address(1), run: 1_000, cluster: CLUSTER };
    Swim::new(config, own, 7, Instant::ZERO)
}

fn packet(sender: Member, body: Body, claims: &[Member]) -> Vec<u8> {
    let header = Header { cluster: CLUSTER, sender, started: sender.run, epoch: 0 };
    let mut writer = Writer::new(&header, body, usize::MAX);
    for claim in claims {
        assert!(writer.push(&Claim { member: *claim, by: sender.id }));
    }
    writer.finish()
}

fn outputs(swim: &mut Swim) -> Vec<Output> {
    std::iter::from_fn(|| swim.poll_output()).collect()
}

fn datagram(swim: &mut Swim, now: Instant, bytes: &[u8]) -> Vec<Output> {
    swim.handle(now, Input::Datagram { from: address(2), bytes });
    outputs(swim)
}

fn changes(outputs: &[Output]) -> Vec<Member> {
    let changed = outputs.iter().filter_map(|it| match it {
        Output::Changed(member) => Some(*member),
        _ => None,
    });
    changed.collect()
}

fn sent(outputs: &[Output]) -> Vec<(SocketAddr, Packet)> {
    let datagrams = outputs.iter().filter_map(|it| match it {
        Output::Datagram { to, bytes } => Some((*to, packet::parse(bytes).unwrap())),
        _ => None,
    });
    datagrams.collect()
}

const AT: Instant = Instant::ZERO;

#[test]
fn a_ping_makes_a_member_and_is_answered() {
    let mut swim = alone(Config::lan());
    let two = member(2, State::Alive, 0);
    let ping = Body::Ping { target: MemberId(1), nonce: 5 };
    let outputs = datagram(&mut swim, AT, &packet(two, ping, &[]));
    assert_eq!(changes(&outputs), [two]);
    let sent = sent(&outputs);
    assert_eq!(sent.len(), 1);
    assert_eq!((sent[0].0, sent[0].1.body), (address(2), Body::Ack { nonce: 5 }));
    assert_eq!(swim.members().count(), 2);
}

#[test]
fn a_ping_for_who_was_here_before_is_not_answered() {
    let mut swim = alone(Config::lan());
    let ping = Body::Ping { target: MemberId(9), nonce: 5 };
    let outputs = datagram(&mut swim, AT, &packet(member(2, State::Alive, 0), ping, &[]));
    assert_eq!(sent(&outputs), []);
}

#[test]
fn a_suspicion_of_itself_is_refuted_with_a_higher_incarnation_and_at_once() {
    let mut swim = alone(Config::lan());
    for state in [State::Suspect, State::Dead, State::Left] {
        let before = swim.member(MemberId(1)).unwrap().incarnation;
        let said = member(1, state, before + 3);
        let gossip = packet(member(2, State::Alive, 0), Body::Gossip, &[said]);
        let answers = sent(&datagram(&mut swim, AT, &gossip));
        assert_eq!(answers.len(), 1);
        let (to, answer) = &answers[0];
        assert_eq!(*to, address(2));
        assert_eq!(answer.header.sender, member(1, State::Alive, before + 4));
        // Said again it is no news, but who says it hears the answer again.
        let answers = sent(&datagram(&mut swim, AT, &gossip));
        assert_eq!(answers[0].1.header.sender, member(1, State::Alive, before + 4));
    }
    assert_eq!(swim.stats().refutation_count, 3);
    assert_eq!(swim.members().count(), 2);
}

#[test]
fn incarnations_that_are_used_up_end_in_a_new_run() {
    let mut swim = alone(Config::lan());
    let said = member(1, State::Dead, u32::MAX);
    datagram(&mut swim, AT, &packet(member(2, State::Alive, 0), Body::Gossip, &[said]));
    let me = swim.member(MemberId(1)).unwrap();
    assert_eq!((me.run, me.incarnation, me.state), (1_001, 0, State::Alive));
}

/// What it says of itself has to be above what was made up, and something that others can read.
#[test]
fn a_run_that_nothing_is_above_is_refuted_by_an_incarnation() {
    for (run, expected) in [(packet::RUN_MAX - 1, (0, 1)), (packet::RUN_MAX, (4, 0))] {
        let mut swim = alone(Config::lan());
        let made_up = Member { run, ..member(1, State::Dead, 3) };
        let bytes = packet(member(2, State::Alive, 0), Body::Gossip, &[made_up]);
        let told = sent(&datagram(&mut swim, Instant::ZERO, &bytes));
        let me = told.first().expect("others can read it").1.header.sender;
        assert_eq!((me.incarnation, me.run), (expected.0, run + expected.1));
        assert!(me.rank() > made_up.rank());
    }
}

#[test]
fn nobody_raises_the_incarnation_of_another() {
    let mut swim = alone(Config::lan());
    let two = member(2, State::Alive, 4);
    let claims = [member(3, State::Alive, 2)];
    datagram(&mut swim, AT, &packet(two, Body::Gossip, &claims));
    let mut now = AT;
    for _ in 0..200 {
        now = swim.poll_timeout().unwrap().max(now);
        swim.handle(now, Input::Timeout);
        outputs(&mut swim);
    }
    assert_eq!(swim.member(MemberId(2)), Some(&member(2, State::Dead, 4)));
    assert_eq!(swim.member(MemberId(3)), Some(&member(3, State::Dead, 2)));
}

#[test]
fn the_death_of_the_unknown_is_not_heard() {
    let mut swim = alone(Config::lan());
    let claims = [member(3, State::Dead, 0), member(4, State::Left, 0)];
    let two = member(2, State::Alive, 0);
    datagram(&mut swim, AT, &packet(two, Body::Gossip, &claims));
    swim.handle(AT, Input::Exchange { bytes: &packet(two, Body::ExchangeReply, &claims) });
    outputs(&mut swim);
    assert_eq!(swim.members().count(), 2);
}

#[test]
fn a_request_has_one_reply_and_a_reply_none() {
    let mut swim = alone(Config::lan());
    let two = member(2, State::Alive, 0);
    for (body, reply_count) in [(Body::ExchangeRequest, 1), (Body::ExchangeReply, 0)] {
        let bytes = packet(two, body, &[member(3, State::Alive, 0)]);
        swim.handle(AT, Input::Exchange { bytes: &bytes });
        let outputs = outputs(&mut swim);
        let replies = outputs.iter().filter(|it| matches!(it, Output::Exchange { .. }));
        assert_eq!(replies.count(), reply_count);
        assert_eq!(sent(&outputs), []);
    }
}

#[test]
fn who_speaks_of_the_dead_as_alive_is_corrected_and_only_he() {
    let mut swim = alone(Config::lan());
    let (two, three) = (member(2, State::Alive, 0), member(3, State::Dead, 0));
    let alive = Member { state: State::Alive, ..three };
    datagram(&mut swim, AT, &packet(two, Body::Gossip, &[alive]));
    datagram(&mut swim, AT, &packet(two, Body::Gossip, &[three]));
    let answers = sent(&datagram(&mut swim, AT, &packet(two, Body::Gossip, &[alive])));
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0].1.claims.iter().map(|it| it.member).collect::<Vec<_>>(), [three]);
    let request = packet(two, Body::ExchangeRequest, &[]);
    swim.handle(AT, Input::Exchange { bytes: &request });
    let Some(Output::Exchange { bytes, .. }) = swim.poll_output() else { panic!("no reply") };
    assert_eq!(packet::parse(&bytes).unwrap().claims, [Claim::plain(two)]);
}

#[test]
fn the_forgotten_come_back_by_themselves_only() {
    let config = Config { forget_after: SECOND, ..Config::lan() };
    let mut swim = alone(config);
    let (two, three) = (member(2, State::Alive, 0), member(3, State::Alive, 0));
    let dead = Member { state: State::Dead, ..three };
    datagram(&mut swim, AT, &packet(two, Body::Gossip, &[three]));
    datagram(&mut swim, AT, &packet(two, Body::Gossip, &[dead]));
    let now = AT + SECOND;
    swim.handle(now, Input::Timeout);
    assert!(outputs(&mut swim).contains(&Output::Forgotten(MemberId(3))));
    let answers = sent(&datagram(&mut swim, now, &packet(two, Body::Gossip, &[three])));
    assert_eq!(answers[0].1.claims[0].member, dead);
    swim.handle(now, Input::Exchange { bytes: &packet(two, Body::ExchangeReply, &[three]) });
    outputs(&mut swim);
    assert_eq!(swim.member(MemberId(3)), None);
    // It hears what it is believed to be, and goes above it.
    let ping = Body::Ping { target: MemberId(1), nonce: 5 };
    let answers = sent(&datagram(&mut swim, now, &packet(three, ping, &[])));
    assert_eq!(answers[0].1.claims[0].member, dead);
    let back = Member { incarnation: 1, ..three };
    datagram(&mut swim, now, &packet(back, ping, &[]));
    assert_eq!(swim.member(MemberId(3)), Some(&back));
}

#[test]
fn a_death_in_an_exchange_is_a_suspicion_of_which_the_suspected_hears_at_once() {
    let mut swim = alone(Config::lan());
    let (two, three) = (member(2, State::Alive, 0), member(3, State::Alive, 0));
    datagram(&mut swim, AT, &packet(two, Body::Gossip, &[three]));
    let dead = Member { state: State::Dead, ..three };
    swim.handle(AT, Input::Exchange { bytes: &packet(two, Body::ExchangeReply, &[dead]) });
    let outputs = outputs(&mut swim);
    let suspect = Member { state: State::Suspect, ..three };
    assert_eq!(changes(&outputs), [suspect]);
    let told = sent(&outputs);
    assert_eq!((told.len(), told[0].0), (1, address(3)));
    assert_eq!(told[0].1.claims[0].member, suspect);
}

#[test]
fn a_new_run_wins_at_any_address_and_whatever_was_said_of_the_old() {
    let mut swim = alone(Config::lan());
    let old = member(2, State::Alive, 9);
    datagram(&mut swim, AT, &packet(old, Body::Gossip, &[]));
    let left = member(2, State::Left, 9);
    datagram(&mut swim, AT, &packet(member(3, State::Alive, 0), Body::Gossip, &[left]));
    let new = Member { run: 2_000, address: address(8), ..member(2, State::Alive, 0) };
    let outputs = datagram(&mut swim, AT, &packet(new, Body::Gossip, &[]));
    assert_eq!(changes(&outputs), [new]);
    assert_eq!(swim.member(MemberId(2)), Some(&new));
}

#[test]
fn an_epoch_is_told_once_and_only_if_it_is_newer() {
    let mut swim = alone(Config::lan());
    swim.handle(AT, Input::Epoch(5));
    let sender = member(2, State::Alive, 0);
    let mut told = Vec::new();
    for epoch in [4, 5, 6, 6, 5, 9] {
        let header = Header { cluster: CLUSTER, sender, started: sender.run, epoch };
        let bytes = Writer::new(&header, Body::Gossip, 1_000).finish();
        told.extend(datagram(&mut swim, AT, &bytes).into_iter().filter_map(|it| match it {
            Output::Epoch { from, epoch } => Some((from, epoch)),
            _ => None,
        }));
    }
    assert_eq!(told, [(address(2), 6), (address(2), 9)]);
    let ping = Body::Ping { target: MemberId(1), nonce: 5 };
    let answers = sent(&datagram(&mut swim, AT, &packet(sender, ping, &[])));
    assert_eq!(answers[0].1.header.epoch, 5);
}

#[test]
fn packets_of_other_clusters_and_ways_change_nothing() {
    let mut swim = alone(Config::lan());
    let sender = member(2, State::Alive, 0);
    let header = Header { cluster: CLUSTER + 1, sender, started: sender.run, epoch: 9 };
    let foreign = Writer::new(&header, Body::Gossip, 1_000).finish();
    assert_eq!(datagram(&mut swim, AT, &foreign), []);
    let exchange = packet(sender, Body::ExchangeRequest, &[]);
    assert_eq!(datagram(&mut swim, AT, &exchange), []);
    swim.handle(AT, Input::Exchange { bytes: &packet(sender, Body::Gossip, &[]) });
    assert_eq!(outputs(&mut swim), []);
    assert_eq!(swim.stats().foreign_packet_count, 1);
    assert_eq!(swim.stats().bad_packet_count, 2);
    assert_eq!(swim.members().count(), 1);
}

#[test]
fn a_node_that_left_says_so_and_falls_silent() {
    let mut swim = alone(Config::lan());
    let two = member(2, State::Alive, 0);
    datagram(&mut swim, AT, &packet(two, Body::Gossip, &[]));
    swim.handle(AT, Input::Leave);
    let farewells = sent(&outputs(&mut swim));
    assert_eq!(farewells[0].1.header.sender, member(1, State::Left, 0));
    let ping = Body::Ping { target: MemberId(1), nonce: 5 };
    assert_eq!(datagram(&mut swim, AT, &packet(two, ping, &[])), []);
    swim.handle(AT, Input::Join(&[address(3)]));
    assert_eq!(outputs(&mut swim), []);
    let mut rounds = 0;
    while let Some(at) = swim.poll_timeout() {
        swim.handle(at, Input::Timeout);
        outputs(&mut swim);
        rounds += 1;
        assert!(rounds < 20, "it falls silent");
    }
}

#[test]
fn members_are_bounded_and_the_dead_make_room() {
    let mut swim = alone(Config::lan());
    let two = member(2, State::Alive, 0);
    let flood = |ids: std::ops::Range<u64>, state| {
        let claims: Vec<Member> = ids.map(|id| member(id, state, 0)).collect();
        packet(two, Body::ExchangeReply, &claims)
    };
    let count = MEMBERS_MAX as u64;
    swim.handle(AT, Input::Exchange { bytes: &flood(3..count + 1_003, State::Alive) });
    outputs(&mut swim);
    assert_eq!(swim.members().count(), MEMBERS_MAX + 1);
    assert_eq!(swim.stats().refused_member_count, 1_001);
    let left = packet(two, Body::Gossip, &[member(3, State::Left, 0)]);
    datagram(&mut swim, AT, &left);
    let late = member(count + 2_000, State::Alive, 0);
    let outputs = datagram(&mut swim, AT, &packet(late, Body::Gossip, &[]));
    assert!(outputs.contains(&Output::Forgotten(MemberId(3))));
    assert_eq!(swim.member(late.id), Some(&late));
    assert_eq!(swim.members().count(), MEMBERS_MAX + 1);
}

#[test]
fn a_node_that_ran_late_starts_its_probes_afresh() {
    let mut swim = alone(Config::lan());
    datagram(&mut swim, AT, &packet(member(2, State::Alive, 0), Body::Gossip, &[]));
    let now = swim.poll_timeout().unwrap();
    swim.handle(now, Input::Timeout);
    outputs(&mut swim);
    swim.handle(now + SECOND * 30, Input::Timeout);
    assert_eq!(changes(&outputs(&mut swim)), []);
    assert_eq!(swim.local_health(), 1);
    assert_eq!(swim.stats().pause_count, 1);
    assert_eq!(swim.stats().failed_probe_count, 0);
}

#[test]
fn a_node_that_is_its_own_seed_is_alone() {
    let mut swim = alone(Config::lan());
    swim.handle(AT, Input::Join(&[address(1)]));
    assert_eq!(outputs(&mut swim), []);
    // Under another name of the same address its own packet comes back.
    swim.handle(AT, Input::Join(&[address(5)]));
    let Some(Output::Exchange { bytes, .. }) = swim.poll_output() else { panic!("no request") };
    swim.handle(AT, Input::Exchange { bytes: &bytes });
    assert_eq!(outputs(&mut swim), []);
    assert_eq!(swim.members().count(), 1);
}
