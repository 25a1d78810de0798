//! Agreements on a network that a test cuts where it wants.

use std::collections::BTreeMap;

use super::*;

/// What is on its way: a request with the way back, or an answer.
#[derive(Clone, Debug)]
pub(super) enum Packet {
    Request(Via, Request),
    Answer(Answer),
}

/// A packet with its two ends.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) packet: Packet,
}

/// Nodes 1 to n: the first has formed the cluster, and the others are members.
pub(super) struct Net {
    pub(super) nodes: BTreeMap<SocketAddr, Agreement>,
    pub(super) packets: VecDeque<Sent>,
    /// What came of wishes.
    pub(super) done: Vec<(Tag, Result<Epoch, Failure>)>,
    /// Who was refused, and why.
    pub(super) rejected: Vec<(SocketAddr, Refusal)>,
    /// Nodes that hold data.
    pub(super) full: Vec<SocketAddr>,
    /// Surveys are answered at once; otherwise they wait here.
    pub(super) surveys: Option<Vec<(SocketAddr, Via)>>,
    /// Nodes that nobody reaches, and that reach nobody.
    pub(super) cut: Vec<SocketAddr>,
    pub(super) now: Instant,
    vias: BTreeMap<Via, SocketAddr>,
    via_count: u64,
}

pub(super) fn own(number: u16) -> Own {
    let is_first = number == 1;
    let seeds = if is_first { Vec::new() } else { vec![member(1).address] };
    let forming = if is_first { Forming::AtOnce } else { Forming::Never };
    Own { member: member(number), seeds, forming, replica_count: 3, token_secret: [7; 16] }
}

impl Net {
    pub(super) fn of(count: u16) -> Self {
        let mut net = Self {
            nodes: BTreeMap::new(),
            packets: VecDeque::new(),
            done: Vec::new(),
            rejected: Vec::new(),
            full: Vec::new(),
            surveys: None,
            cut: Vec::new(),
            now: Instant::ZERO,
            vias: BTreeMap::new(),
            via_count: 0,
        };
        for number in 1..=count {
            net.start(number);
            net.run(Duration::from_secs(1));
        }
        for node in net.nodes.values() {
            assert_eq!(node.current().map(|it| it.members.len()), Some(usize::from(count)));
        }
        net
    }

    pub(super) fn start(&mut self, number: u16) {
        let seed = u64::from(number);
        let node = Agreement::new(own(number), None, 7, seed, self.now).unwrap();
        self.nodes.insert(member(number).address, node);
        self.drain(member(number).address);
    }

    pub(super) fn node(&self, number: u16) -> &Agreement {
        &self.nodes[&member(number).address]
    }

    pub(super) fn handle(&mut self, number: u16, input: Input) {
        self.tell(member(number).address, input);
    }

    fn tell(&mut self, at: SocketAddr, input: Input) {
        let wall = WallTime::from_millis(1_000_000) + self.now.saturating_since(Instant::ZERO);
        self.nodes.get_mut(&at).unwrap().handle(self.now, wall, input);
        self.drain(at);
    }

    fn drain(&mut self, at: SocketAddr) {
        while let Some(output) = self.nodes.get_mut(&at).unwrap().poll_output() {
            match output {
                Output::Ask(to, request) => {
                    self.via_count += 1;
                    let via = Via(self.via_count);
                    self.vias.insert(via, at);
                    let packet = Packet::Request(via, request);
                    self.packets.push_back(Sent { from: at, to, packet });
                }
                Output::Answer(via, answer) => {
                    let to = self.vias.remove(&via).expect("a request has one answer");
                    self.packets.push_back(Sent { from: at, to, packet: Packet::Answer(answer) });
                }
                Output::Survey(via) => match &mut self.surveys {
                    Some(surveys) => surveys.push((at, via)),
                    None => self.survey(at, via),
                },
                Output::Done(tag, result) => self.done.push((tag, result)),
                Output::Rejected(_, refusal) => self.rejected.push((at, refusal)),
                Output::Keep(_) | Output::Thaw | Output::Install(_) => {}
            }
        }
    }

    /// Answers a survey.
    pub(super) fn survey(&mut self, at: SocketAddr, via: Via) {
        let is_empty = !self.full.contains(&at);
        self.tell(at, Input::Surveyed(via, Survey { is_empty, latest: 0 }));
    }

    /// Delivers a packet, if its ends reach each other.
    pub(super) fn deliver(&mut self, sent: Sent) {
        let Sent { from, to, packet } = sent;
        let is_cut = from != to && (self.cut.contains(&from) || self.cut.contains(&to));
        if is_cut || !self.nodes.contains_key(&to) {
            return;
        }
        match packet {
            Packet::Request(via, request) => self.tell(to, Input::Request(via, request)),
            Packet::Answer(answer) => self.tell(to, Input::Answer(from, answer)),
        }
    }

    /// Delivers packets in order until one is as wanted, which stays on top.
    pub(super) fn deliver_until(&mut self, is_wanted: impl Fn(&Sent) -> bool) {
        for _ in 0..1_000 {
            if self.packets.front().is_some_and(&is_wanted) {
                return;
            }
            match self.packets.pop_front() {
                Some(sent) => self.deliver(sent),
                None => self.step(),
            }
        }
        panic!("no such packet");
    }

    fn step(&mut self) {
        self.now = self.now + Duration::from_millis(10);
        for at in self.nodes.keys().copied().collect::<Vec<_>>() {
            if self.nodes[&at].poll_timeout().is_some_and(|due| due <= self.now) {
                self.tell(at, Input::Timeout);
            }
        }
    }

    pub(super) fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            self.step();
            while let Some(sent) = self.packets.pop_front() {
                self.deliver(sent);
            }
        }
    }
}
