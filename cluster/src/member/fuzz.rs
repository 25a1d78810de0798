//! The composed membership: see [`crate::fuzz`]. What its two machines ask of each other comes of what
//! both are told.

use super::*;
use crate::fuzz::{self, Source};
use crate::swim::fuzz::{address, machine, packet_of};
use crate::time::WallTime;
use crate::topology::agreement::fuzz::{
    Known, address as member_address, answer_on_the_wire, change, own as topology_own,
    request_on_the_wire,
};

struct Rig {
    member: Member,
    known: Known,
    now: Now,
    open: BTreeSet<Via>,
    surveys: Vec<Via>,
    via_count: u64,
}

impl Rig {
    fn new(source: &mut Source<'_>) -> Self {
        let number = 1 + source.byte() % 4;
        let now = Now { at: Instant::ZERO, wall: WallTime::from_millis(1_000_000) };
        let own = topology_own(source);
        let agreement = Agreement::new(own, None, 7, 1, now.at).unwrap();
        let member = Member::new(now, machine(number), agreement);
        let (known, open, surveys) = (Known::default(), BTreeSet::new(), Vec::new());
        let mut rig = Self { member, known, now, open, surveys, via_count: 0 };
        rig.drain();
        rig
    }

    fn step(&mut self, source: &mut Source<'_>) {
        self.now.at = self.now.at + source.pause();
        if source.is_rare(8) {
            self.now.wall = WallTime::from_millis(source.number());
        }
        let bytes = packet_of(source);
        let input = match source.below(14) {
            0..=2 => {
                let due = self.member.poll_timeout();
                self.now.at = due.map_or(self.now.at, |due| due.max(self.now.at));
                Input::Timeout
            }
            3 | 4 => Input::Datagram { from: address(source), bytes: &bytes },
            5 => Input::Exchange { bytes: &bytes },
            6 | 7 => {
                let Some(request) = request_on_the_wire(source, &self.known) else { return };
                self.via_count += 1;
                self.open.insert(Via(self.via_count));
                Input::Request(Via(self.via_count), request)
            }
            8 | 9 => {
                let Some(answer) = answer_on_the_wire(source, &self.known) else { return };
                Input::Answer(member_address(source), answer)
            }
            10 => {
                let via = self.surveys.pop().unwrap_or_else(|| Via(source.number()));
                Input::Surveyed(via, Survey { is_empty: source.flag(), latest: 0 })
            }
            11 => Input::Wish(Tag(source.number()), change(source)),
            12 => Input::Heard(address(source), Epoch(source.number())),
            _ if source.is_rare(16) => Input::Leave,
            _ if source.is_rare(4) => Input::Seeds(vec![address(source), member_address(source)]),
            _ => Input::Twin(address(source)),
        };
        self.member.handle(self.now, input);
        self.drain();
    }

    fn drain(&mut self) {
        let mut count = 0;
        while let Some(output) = self.member.poll_output() {
            count += 1;
            assert!(count <= 2_000, "one event leads to so much");
            match output {
                Output::Ask(_, request) => self.known.note(&request),
                Output::Answer(via, _) => assert!(self.open.remove(&via), "it is answered once"),
                Output::Survey(via) => self.surveys.push(via),
                _ => {}
            }
        }
        assert!(self.open.len() <= 64, "what waits for a survey is bounded");
    }
}

#[test]
fn fuzz_whatever_comes_the_composed_membership_goes_on() {
    fuzz::run(1_500, 1_500, |source| {
        let mut rig = Rig::new(source);
        while !source.is_empty() {
            rig.step(source);
        }
    });
}
