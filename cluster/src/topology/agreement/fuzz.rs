//! The agreement, and the bytes of what is asked and answered: see [`crate::fuzz`].

use std::collections::BTreeSet;

use super::*;
use crate::fuzz::{self, Source};
use crate::topology::tests::member as plain;

/// Values that hold together: with these the machine gets far.
#[derive(Default)]
pub(crate) struct Known {
    ballots: Vec<Ballot>,
    topologies: Vec<Topology>,
}

impl Known {
    /// Takes over what the machine has asked.
    pub(crate) fn note(&mut self, request: &Request) {
        match request {
            Request::Prepare { base, ballot, .. } => self.add(*ballot, [base]),
            Request::Accept { base, ballot, value } => self.add(*ballot, [base, value]),
            _ => {}
        }
    }

    fn add<const N: usize>(&mut self, ballot: Ballot, topologies: [&Topology; N]) {
        self.ballots.push(ballot);
        self.topologies.extend(topologies.map(Clone::clone));
        self.ballots.drain(..self.ballots.len().saturating_sub(8));
        self.topologies.drain(..self.topologies.len().saturating_sub(8));
    }

    fn ballot(&self, source: &mut Source<'_>) -> Ballot {
        if source.is_rare(3) || self.ballots.is_empty() {
            return Ballot { timestamp: source.number(), proposer: source.number() };
        }
        source.pick(&self.ballots)
    }

    fn topology(&self, source: &mut Source<'_>) -> Topology {
        let known = !source.is_rare(3) && !self.topologies.is_empty();
        let mut topology = if known {
            source.pick(&self.topologies)
        } else {
            let count = 1 + u16::from(source.byte() % 4);
            crate::topology::tests::topology(count, 1 + source.byte() % 4)
        };
        if source.is_rare(3) {
            tamper(source, &mut topology);
        }
        topology
    }

    pub(crate) fn request(&self, source: &mut Source<'_>) -> Request {
        match source.below(7) {
            0 => Request::Ask,
            1 => Request::Prepare {
                base: self.topology(source),
                ballot: self.ballot(source),
                must_be_empty: source.flag(),
                is_barrier: source.flag(),
            },
            2 => {
                let base = self.topology(source);
                let mut value = self.topology(source);
                if !source.is_rare(8) {
                    value.epoch = base.epoch.wrapping_add(1);
                }
                Request::Accept { base, ballot: self.ballot(source), value }
            }
            3 => Request::Chosen(self.topology(source)),
            4 => Request::Dropped(self.ballot(source), Refusal::HoldsData),
            _ => Request::Join {
                member: member(source),
                cluster: source.pick(&[0, 7, 8]),
                is_empty: source.flag(),
            },
        }
    }

    pub(crate) fn answer(&self, source: &mut Source<'_>) -> Answer {
        match source.below(7) {
            0 => Answer::Current(source.flag().then(|| self.topology(source))),
            1 | 2 => Answer::Promised {
                ballot: self.ballot(source),
                accepted: source.flag().then(|| (self.ballot(source), self.topology(source))),
                is_empty: source.flag(),
                is_sound: source.flag(),
                latest: source.number(),
            },
            3 => Answer::Accepted(self.ballot(source)),
            4 => Answer::Refused(self.ballot(source)),
            5 => Answer::Pending,
            _ => Answer::Rejected(source.pick(&[Refusal::HoldsData, Refusal::Full, Refusal::Busy])),
        }
    }
}

fn tamper(source: &mut Source<'_>, topology: &mut Topology) {
    let at = source.below(topology.members.len());
    match source.below(9) {
        0 => topology.epoch = source.number(),
        1 => topology.cluster = source.number(),
        2 => topology.next_node = source.number().to_le_bytes()[0].into(),
        3 => topology.next_node = u16::MAX,
        4 => topology.members[at].address = address(source),
        5 => topology.members[at].id = source.number(),
        6 => topology.members[at] = Member { node: topology.members[at].node, ..member(source) },
        7 => topology.cleared_timestamp = source.number(),
        _ => topology.replica_count = source.byte(),
    }
}

pub(crate) fn address(source: &mut Source<'_>) -> SocketAddr {
    plain(1 + u16::from(source.byte() % 6)).address
}

fn member(source: &mut Source<'_>) -> Member {
    let mut member = plain(1 + u16::from(source.byte() % 6));
    match source.below(8) {
        0 => member.store = source.number(),
        1 => member.weight = source.number().to_le_bytes()[0].into(),
        2 => member.address = address(source),
        3 => member.id = source.number(),
        4 => member.node = u16::from(source.byte()),
        _ => {}
    }
    member
}

pub(crate) fn own(source: &mut Source<'_>) -> Own {
    let number = 1 + u16::from(source.byte() % 4);
    let seeds = (1..=u16::from(source.byte() % 4)).map(|it| plain(it).address).collect();
    let forming = source.pick(&[Forming::AtOnce, Forming::Unheard, Forming::Never]);
    Own { member: plain(number), seeds, forming, replica_count: 3, token_secret: [7; 16] }
}

pub(crate) fn change(source: &mut Source<'_>) -> Change {
    if source.flag() {
        Change::Clear(source.number(), u16::from(source.byte()))
    } else {
        Change::Join(member(source))
    }
}

/// What comes over the wire, or nothing where that is none.
pub(crate) fn request_on_the_wire(source: &mut Source<'_>, known: &Known) -> Option<Request> {
    let mut bytes = known.request(source).encode();
    source.damage(&mut bytes);
    Request::decode(&bytes).ok()
}

pub(crate) fn answer_on_the_wire(source: &mut Source<'_>, known: &Known) -> Option<Answer> {
    let mut bytes = known.answer(source).encode();
    source.damage(&mut bytes);
    Answer::decode(&bytes).ok()
}

struct Rig {
    own: Own,
    agreement: Agreement,
    now: Instant,
    wall: WallTime,
    kept: Option<Vec<u8>>,
    known: Known,
    /// Requests without an answer.
    open: BTreeSet<Via>,
    surveys: Vec<Via>,
    via_count: u64,
}

impl Rig {
    fn new(source: &mut Source<'_>) -> Self {
        let own = own(source);
        let agreement = Agreement::new(own.clone(), None, 7, 1, Instant::ZERO).unwrap();
        let mut rig = Self {
            own,
            agreement,
            now: Instant::ZERO,
            wall: WallTime::from_millis(1_000_000),
            kept: None,
            known: Known::default(),
            open: BTreeSet::new(),
            surveys: Vec::new(),
            via_count: 0,
        };
        rig.drain();
        rig
    }

    fn step(&mut self, source: &mut Source<'_>) {
        self.now = self.now + source.pause();
        if source.is_rare(8) {
            self.wall = WallTime::from_millis(source.number());
        }
        let input = match source.below(9) {
            0 => {
                let due = self.agreement.poll_timeout();
                self.now = due.map_or(self.now, |due| due.max(self.now));
                Input::Timeout
            }
            1..=3 => {
                let Some(request) = request_on_the_wire(source, &self.known) else { return };
                self.via_count += 1;
                self.open.insert(Via(self.via_count));
                Input::Request(Via(self.via_count), request)
            }
            4 | 5 => {
                let Some(answer) = answer_on_the_wire(source, &self.known) else { return };
                Input::Answer(address(source), answer)
            }
            6 => {
                let via = match self.surveys.len() {
                    0 => Via(source.number()),
                    len => self.surveys.remove(source.below(len.min(256))),
                };
                Input::Surveyed(via, Survey { is_empty: source.flag(), latest: 0 })
            }
            7 if source.is_rare(4) => return self.restart(),
            7 => Input::Wish(Tag(source.number()), change(source)),
            _ => Input::Heard(address(source), Epoch(source.number())),
        };
        self.agreement.handle(self.now, self.wall, input);
        self.drain();
    }

    /// Dies, and starts with what it has kept.
    fn restart(&mut self) {
        let kept = self.kept.as_deref();
        let started = Agreement::new(self.own.clone(), kept, 7, 1, self.now);
        self.agreement = started.expect("what is kept can be read");
        self.open.clear();
        self.surveys.clear();
        self.drain();
    }

    fn drain(&mut self) {
        let mut count = 0;
        while let Some(output) = self.agreement.poll_output() {
            count += 1;
            assert!(count <= 1_000, "one event leads to so much");
            match output {
                Output::Keep(bytes) => self.kept = Some(bytes),
                Output::Ask(_, request) => {
                    assert_eq!(Request::decode(&request.encode()).as_ref(), Ok(&request));
                    self.known.note(&request);
                }
                Output::Answer(via, answer) => {
                    assert!(self.open.remove(&via), "a request has one answer");
                    assert_eq!(Answer::decode(&answer.encode()).as_ref(), Ok(&answer));
                }
                Output::Survey(via) => self.surveys.push(via),
                Output::Thaw | Output::Install(_) | Output::Done(..) | Output::Rejected(..) => {}
            }
        }
        // What is not answered at once waits for a survey, and those are bounded.
        assert!(self.open.len() <= PREPARE_COUNT_MAX);
    }
}

fn whatever_comes(source: &mut Source<'_>) {
    let mut rig = Rig::new(source);
    while !source.is_empty() {
        rig.step(source);
    }
}

#[test]
fn fuzz_whatever_comes_the_agreement_goes_on() {
    fuzz::run(2_000, 1_500, whatever_comes);
}

#[test]
fn fuzz_arbitrary_bytes_are_no_request_no_answer_no_topology_and_nothing_kept() {
    fuzz::run(4_000, 600, |source| {
        let bytes = source.bytes(600);
        let read = [
            Request::decode(&bytes).is_ok(),
            Answer::decode(&bytes).is_ok(),
            Topology::decode(&bytes).is_ok(),
            Kept::decode(&bytes).is_ok(),
        ];
        // Whatever it was read as.
        std::hint::black_box(read);
    });
}

#[test]
fn fuzz_a_damaged_file_of_the_topology_is_refused_or_read() {
    fuzz::run(2_000, 400, |source| {
        let known = Known::default();
        let vote = Vote {
            promised: known.ballot(source),
            accepted: source.flag().then(|| (known.ballot(source), known.topology(source))),
        };
        let current = source.flag().then(|| known.topology(source));
        let mut bytes = Kept { current, vote }.encode();
        source.damage(&mut bytes);
        let own = own(source);
        let Ok(mut agreement) = Agreement::new(own, Some(&bytes), 7, 1, Instant::ZERO) else {
            return;
        };
        for step in 0..4_u32 {
            while agreement.poll_output().is_some() {}
            let now = Instant::ZERO + Duration::from_secs(1) * step;
            agreement.handle(now, WallTime::EPOCH, Input::Timeout);
        }
    });
}
