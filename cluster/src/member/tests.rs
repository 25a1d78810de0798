//! Nodes on a network that loses nothing and takes no time.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::time::WallTime;
use crate::topology::agreement::{Forming, LISTEN};

const STEP: Duration = Duration::from_millis(50);
const FORGET: Duration = Duration::from_secs(60);

fn address(number: u16) -> SocketAddr {
    ([127, 0, 0, 1], 7_000 + number).into()
}

/// A message on its way.
enum Packet {
    Datagram(Vec<u8>),
    Exchange(Vec<u8>),
    Request(Request),
    Answer(Answer),
}

struct Node {
    member: Member,
    kept: Option<Vec<u8>>,
    /// The standings that were told, and `None` for each survey.
    told: Vec<Option<Standing>>,
    vias: BTreeMap<Via, SocketAddr>,
}

#[derive(Default)]
struct Net {
    nodes: BTreeMap<SocketAddr, Node>,
    packets: VecDeque<(SocketAddr, SocketAddr, Packet)>,
    via_count: u64,
    now: Duration,
}

impl Net {
    fn now(&self) -> Now {
        Now {
            at: Instant::ZERO + self.now,
            wall: WallTime::from_millis(1_700_000_000_000) + self.now,
        }
    }

    /// Starts a node; the first one forms the cluster.
    fn start(&mut self, number: u16, store: u64, kept: Option<Vec<u8>>) {
        self.start_as(MemberId(u64::from(number) + 1_000), number, store, kept);
    }

    fn start_as(&mut self, id: MemberId, number: u16, store: u64, kept: Option<Vec<u8>>) {
        let run = u64::try_from(self.now.as_millis()).unwrap() + 1;
        let swim = swim::Own { id, address: address(number), run, cluster: 1 };
        let at = self.now().at;
        let config = swim::Config { forget_after: FORGET, ..swim::Config::lan() };
        let swim = Swim::new(config, swim, u64::from(number), at);
        let mut member = topology::tests::member(number);
        (member.id, member.address, member.store) = (id.0, address(number), store);
        let seeds = if number == 1 { Vec::new() } else { vec![address(1)] };
        let own = agreement::Own {
            member,
            forming: if seeds.is_empty() { Forming::Unheard } else { Forming::Never },
            seeds,
            replica_count: 3,
            token_secret: [7; 16],
        };
        let agreement = Agreement::new(own, kept.as_deref(), id.0, u64::from(number), at).unwrap();
        let member = Member::new(self.now(), swim, agreement);
        let node = Node { member, kept, told: Vec::new(), vias: BTreeMap::new() };
        self.nodes.insert(address(number), node);
        self.drain(address(number));
    }

    fn handle(&mut self, to: SocketAddr, input: Input<'_>) {
        let now = self.now();
        self.nodes.get_mut(&to).unwrap().member.handle(now, input);
        self.drain(to);
    }

    fn drain(&mut self, at: SocketAddr) {
        let mut surveys = Vec::new();
        let node = self.nodes.get_mut(&at).unwrap();
        while let Some(output) = node.member.poll_output() {
            let (to, packet) = match output {
                Output::Datagram { to, bytes } => (to, Packet::Datagram(bytes)),
                Output::Exchange { to, bytes } => (to, Packet::Exchange(bytes)),
                Output::Ask(to, request) => (to, Packet::Request(request)),
                Output::Answer(via, answer) => (node.vias[&via], Packet::Answer(answer)),
                Output::Keep(bytes) => {
                    node.kept = Some(bytes);
                    continue;
                }
                Output::State(state) => {
                    node.told.push(Some(state.standing));
                    continue;
                }
                Output::Survey(via) => {
                    // Who asks itself is no member.
                    if via != Via::OWN_SURVEY {
                        node.told.push(None);
                    }
                    surveys.push(via);
                    continue;
                }
                _ => continue,
            };
            let is_asked = matches!(packet, Packet::Request(_));
            assert!(!is_asked || to != at, "a node asks itself without the network");
            self.packets.push_back((at, to, packet));
        }
        for via in surveys {
            self.handle(at, Input::Surveyed(via, Survey { is_empty: true, latest: 0 }));
        }
    }

    fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            self.now += STEP;
            let at = self.now().at;
            for address in self.nodes.keys().copied().collect::<Vec<_>>() {
                while self.nodes[&address].member.poll_timeout().is_some_and(|due| due <= at) {
                    self.handle(address, Input::Timeout);
                }
            }
            while let Some((from, to, packet)) = self.packets.pop_front() {
                let Some(node) = self.nodes.get_mut(&to) else { continue };
                match packet {
                    Packet::Datagram(bytes) => {
                        self.handle(to, Input::Datagram { from, bytes: &bytes });
                    }
                    Packet::Exchange(bytes) => self.handle(to, Input::Exchange { bytes: &bytes }),
                    Packet::Answer(answer) => self.handle(to, Input::Answer(from, answer)),
                    Packet::Request(request) => {
                        self.via_count += 1;
                        let via = Via(self.via_count);
                        node.vias.insert(via, from);
                        self.handle(to, Input::Request(via, request));
                    }
                }
            }
        }
    }

    fn three() -> Self {
        let mut net = Self::default();
        (1..=3).for_each(|number| net.start(number, 1, None));
        net.run(Duration::from_secs(10));
        net
    }

    fn state(&self, number: u16) -> &State {
        self.nodes[&address(number)].member.state().expect("there is a topology")
    }
}

#[test]
fn nodes_find_each_other_and_all_are_told_the_same() {
    let net = Net::three();
    for number in 1..=3 {
        let state = net.state(number);
        assert_eq!(state.topology.members.len(), 3);
        assert_eq!(state.topology.epoch(), net.state(1).topology.epoch());
        assert_eq!(state.placement.epoch(), state.topology.epoch());
        let own = state.topology.by_node(state.own.unwrap()).unwrap();
        assert_eq!(own.address, address(number));
        assert_eq!(state.alive.len(), 3);
        assert_eq!(state.standing, Standing::Serving);
    }
}

/// A host name may come to mean another address while the node waits to be let in.
#[test]
fn a_node_whose_seeds_are_found_elsewhere_asks_there() {
    let mut net = Net::default();
    net.start(2, 1, None);
    net.handle(address(2), Input::Seeds(vec![address(8), address(9)]));
    // What it sent at first finds nobody.
    net.run(STEP);
    net.start(1, 1, None);
    net.run(Duration::from_secs(10));
    let two = &net.nodes[&address(2)].member;
    assert!(two.state().is_none() && two.needs_seeds());
    assert_eq!(net.state(1).topology.members.len(), 1);
    net.handle(address(2), Input::Seeds(vec![address(8), address(1), address(9)]));
    net.run(Duration::from_secs(10));
    assert_eq!(net.state(2).alive.len(), 2);
    assert!(!net.nodes[&address(2)].member.needs_seeds());
    // Everybody is gone: they may come back elsewhere.
    net.nodes.remove(&address(1));
    net.run(Duration::from_secs(10));
    assert!(net.nodes[&address(2)].member.needs_seeds());
}

#[test]
fn nothing_is_written_from_before_a_survey_until_it_is_decided() {
    let net = Net::three();
    let told = &net.nodes[&address(1)].told;
    assert!(told.contains(&None), "who joined was surveyed for");
    for (at, _) in told.iter().enumerate().filter(|(_, told)| told.is_none()) {
        assert_eq!(told[..at].iter().rfind(|it| it.is_some()), Some(&Some(Standing::Frozen)));
    }
}

#[test]
fn who_is_gone_is_told_as_gone_and_who_is_back_as_back() {
    let mut net = Net::three();
    let kept = net.nodes.remove(&address(3)).unwrap().kept;
    net.run(Duration::from_secs(10));
    assert_eq!((net.state(1).alive.len(), net.state(2).alive.len()), (2, 2));
    assert_eq!(net.state(1).standing, Standing::Serving);
    assert_eq!(net.state(1).suspected.len(), 0, "that is no suspicion any more");
    net.start(3, 1, kept);
    assert_eq!(net.state(3).topology.members.len(), 3, "what was kept holds at once");
    net.run(Duration::from_secs(10));
    assert_eq!((net.state(1).alive.len(), net.state(3).alive.len()), (3, 3));
}

/// Who waits for it goes to somebody else long before it is given up.
#[test]
fn who_does_not_answer_is_told_as_suspected_before_it_is_told_as_gone() {
    let mut net = Net::three();
    net.nodes.remove(&address(3));
    let mut waited = Duration::ZERO;
    while net.state(1).suspected.is_empty() {
        assert_eq!(net.state(1).alive.len(), 3);
        net.run(Duration::from_millis(10));
        waited += Duration::from_millis(10);
    }
    assert!(waited < Duration::from_millis(1_200), "{waited:?}");
    let state = net.state(1);
    let gone = state.topology.members.iter().find(|it| it.address == address(3)).unwrap().node();
    assert!(state.suspected.contains(&gone) && state.alive.contains(&gone));
}

#[test]
fn who_has_lost_its_store_says_so_until_it_was_taken_in_again() {
    let mut net = Net::three();
    let kept = net.nodes.remove(&address(3)).unwrap().kept;
    net.start(3, 2, kept);
    assert_eq!(net.state(3).standing, Standing::Empty);
    assert_eq!(net.nodes[&address(3)].told, [Some(Standing::Empty)]);
    net.run(Duration::from_secs(20));
    assert_eq!(net.state(3).standing, Standing::Serving);
}

#[test]
#[should_panic(expected = "polled before")]
fn outputs_are_polled_before_the_next_input() {
    let mut net = Net::three();
    let now = net.now();
    let node = net.nodes.get_mut(&address(1)).unwrap();
    node.member.handle(now, Input::Leave);
    node.member.handle(now, Input::Timeout);
}

#[test]
fn those_whose_seed_is_gone_find_each_other_by_the_topology_that_they_have_kept() {
    let mut net = Net::three();
    let kept = [1, 2, 3].map(|number| net.nodes.remove(&address(number)).unwrap().kept);
    net.packets.clear();
    net.start(2, 1, kept[1].clone());
    net.start(3, 1, kept[2].clone());
    net.run(Duration::from_secs(20));
    for number in [2, 3] {
        let seen = net.nodes[&address(number)].member.swim().members();
        let live: Vec<_> = seen.filter(|it| it.state.is_live()).map(|it| it.address).collect();
        assert!(live.contains(&address(5 - number)), "{live:?}");
    }
}

#[test]
fn who_was_gone_for_so_long_that_it_is_forgotten_is_not_told_as_alive() {
    let mut net = Net::three();
    let kept = net.nodes.remove(&address(3)).unwrap().kept;
    net.run(FORGET * 3);
    let is_remembered =
        net.nodes[&address(1)].member.swim().members().any(|it| it.address == address(3));
    assert!(!is_remembered, "the test is about one that is forgotten");
    assert_eq!((net.state(1).alive.len(), net.state(2).alive.len()), (2, 2));
    net.start(3, 1, kept);
    net.run(Duration::from_secs(20));
    assert_eq!((net.state(1).alive.len(), net.state(3).alive.len()), (3, 3));
}

/// The same command on a new disk: a node of another identity at the address of a member.
#[test]
fn a_first_node_that_has_lost_its_directory_forms_no_second_cluster() {
    let mut net = Net::three();
    let cluster = net.state(2).topology.cluster;
    net.nodes.remove(&address(1));
    net.packets.clear();
    net.start_as(MemberId(77), 1, 2, None);
    net.run(Duration::from_secs(30));
    let lost = &net.nodes[&address(1)].member;
    assert_eq!(lost.refusal(), Some(Refusal::AddressTaken));
    let state = lost.state().expect("it has asked for the topology");
    assert_eq!((state.topology.cluster, state.own), (cluster, None));
    for number in [2, 3] {
        assert_eq!(net.state(number).standing, Standing::Serving);
        assert_eq!(net.state(number).topology.members.len(), 3);
    }
}

/// The others have given it up, so that nobody probes it; but they dial it for as long as it is a
/// member.
#[test]
fn who_is_dialled_by_a_member_of_a_live_cluster_forms_no_second_one() {
    let mut net = Net::three();
    net.nodes.remove(&address(1));
    net.run(Duration::from_secs(10));
    net.start_as(MemberId(77), 1, 2, None);
    net.run(LISTEN / 2);
    assert!(net.nodes[&address(1)].member.is_listening());
    net.handle(address(1), Input::Heard(address(2), Epoch(3)));
    assert!(!net.nodes[&address(1)].member.is_listening());
    net.run(Duration::from_secs(10));
    let told = &net.nodes[&address(1)].member;
    assert_eq!(told.state().map(|state| state.own), Some(None));
    assert_eq!(told.refusal(), Some(Refusal::AddressTaken));
}
