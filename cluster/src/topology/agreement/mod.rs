//! How members agree on the next topology.
//!
//! Each epoch's topology is decided once (single-decree Paxos, Lamport, "The Part-Time Parliament",
//! 1998), by the voters of the topology before it, and accepted by a majority of its own voters too.
//! So the topologies form one chain, whoever proposes, and nobody acts on one before it is decided.
//!
//! ```text
//!   newcomer --Join--> member --Prepare--> voters --Promised--> member --Accept--> voters, newcomer
//!                                                                  |
//!               everybody <--Chosen-- member <--Accepted-----------+
//! ```
//!
//! Every request has one answer, sent at once. What is lost is asked for again.
//!
//! # A change that moves data
//!
//! Moving keys from their old to their new replicas is not part of this protocol, so a change of who
//! keeps what needs a cluster that is empty, and stays so until the change is decided. All members
//! are asked: each stops taking writes and says whether it is empty ([`Output::Survey`]). Who has
//! accepted such a change takes no writes before it is decided; who has only promised does after
//! [`FREEZE`]. Such a change is accepted only at the ballot that the member was found empty for, and
//! only while it has taken no writes since.
//!
//! A newcomer brings no data either. It asks itself first what it holds, says so when it asks to be
//! let in, and takes in the topology of a cluster that does not know it only while it holds nothing; so
//! what it says still is so when it is asked to accept.
//!
//! # A cluster is formed once
//!
//! A directory that was in a cluster remembers it, and forms no other. One that is new cannot tell
//! whether it is the first, or took the place of one that was lost: its node listens for a while
//! ([`LISTEN`]), since the others of a cluster that had a member at this address probe and dial it. When
//! it hears of a live cluster of the name it forms none, says so, and asks to be let into that one.
//!
//! # Invariants
//!
//! - [`Output::Keep`] comes before every answer that depends on it.
//! - A topology is current only if it was decided.
//! - A wish is refused only if nothing will come of it: once a vote for it was asked for, its end is
//!   unknown until some topology is decided for that epoch.

#![allow(missing_docs, reason = "what rkyv derives beside an enum has none")]

mod acceptor;
#[cfg(test)]
pub(crate) mod fuzz;
mod joining;
mod proposal;
mod proposing;
mod request;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use fastrand::Rng;

use self::acceptor::{Kept, Vote};
use self::proposal::{Promise, Proposal};
use super::{Change, DecodeError, Epoch, Member, Refusal, Topology};
use crate::model::MemberId;
use crate::time::{Instant, WallTime};

pub use self::acceptor::Ballot;
pub use self::request::{Answer, Request};

/// How long a node that may form a cluster listens for one of the name that lives already. The members
/// of a cluster that this address belonged to dial it at least once a second, and probe it.
pub const LISTEN: Duration = Duration::from_millis(1_500);
/// So often a node that listens looks whether it has heard of one: a pause of the process is one look.
const LOOK_COUNT: u32 = 10;
/// How long one who has promised takes no writes.
pub const FREEZE: Duration = Duration::from_secs(2);
/// How long an attempt may take.
const ATTEMPT: Duration = Duration::from_millis(800);
/// How long all members are waited for where a majority is enough.
const PRESS: Duration = Duration::from_millis(250);
/// How long a change is tried.
const WISH: Duration = Duration::from_secs(4);
/// How often a newcomer asks to join, and how often a newer topology is asked for.
const ASK: Duration = Duration::from_millis(300);
/// How long nobody is asked again whether the cluster is empty, once it was found not to be.
const REST: Duration = Duration::from_secs(10);
/// Changes that wait, at most.
const WISH_COUNT_MAX: usize = 64;
/// Promises that are asked for and wait for a survey, at most.
const PREPARE_COUNT_MAX: usize = 64;

/// Names the way on which an answer goes back. The driver's, but for [`Via::OWN_SURVEY`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Via(pub u64);

impl Via {
    /// No way at all: a newcomer asks itself what it holds.
    pub const OWN_SURVEY: Self = Self(u64::MAX);
}

/// Names a change that somebody waits for. The driver's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tag(pub u64);

/// What happens to the machine.
#[derive(Clone, Debug)]
pub enum Input {
    /// Time has passed.
    Timeout,
    /// A node asks.
    Request(Via, Request),
    /// The node at this address answers.
    Answer(SocketAddr, Answer),
    /// What [`Output::Survey`] asked for.
    Surveyed(Via, Survey),
    /// Somebody here wants a change.
    Wish(Tag, Change),
    /// The node at this address has a newer topology.
    Heard(SocketAddr, Epoch),
    /// Whom to ask to join, from here on.
    Seeds(Vec<SocketAddr>),
}

/// Why a change that somebody wanted is not known to hold, and what it leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Nobody was asked to vote for it, or another change was decided in its place: nothing will come
    /// of it.
    #[error("{0}")]
    Refused(Refusal),
    /// Members were asked to vote for it, and whoever finds such a vote brings it to its end: it may
    /// hold already, or later.
    #[error("{0}")]
    Unknown(Refusal),
}

/// Whether the node holds anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Survey {
    /// No keys and no tombstones.
    pub is_empty: bool,
    /// The latest timestamp that a clock of the node has given out or seen, since it takes no writes.
    pub latest: u64,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Keep these bytes, durably, before anything after it is done.
    Keep(Vec<u8>),
    /// Send a request to the node at this address: maybe this one.
    Ask(SocketAddr, Request),
    /// Answer.
    Answer(Via, Answer),
    /// Take no writes until [`Output::Thaw`] or [`Output::Install`], and say whether there is data.
    Survey(Via),
    /// Writes may be taken again.
    Thaw,
    /// This topology holds from here on.
    Install(Topology),
    /// What came of a wish.
    Done(Tag, Result<Epoch, Failure>),
    /// A member has refused this node, for this reason.
    Rejected(SocketAddr, Refusal),
}

/// What tokens are made with, by what a node has kept; `None` where that is no topology.
#[must_use]
pub fn kept_token_secret(kept: &[u8]) -> Option<[u8; 16]> {
    Some(Kept::decode(kept).ok()?.current?.token_secret)
}

/// Whether a node that belongs to no cluster forms one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forming {
    /// It joins the one of its seeds.
    Never,
    /// It listens first, and forms none when it hears of one: see [`LISTEN`].
    Unheard,
    /// It was told to, and knows nobody whom it could ask.
    AtOnce,
}

/// What the node says of itself.
#[derive(Clone, Debug)]
pub struct Own {
    /// Its place in the topology; the number is not known yet.
    pub member: Member,
    /// Whom it asks to join.
    pub seeds: Vec<SocketAddr>,
    /// Whether it forms a cluster of its own.
    pub forming: Forming,
    /// Copies of each key, for a cluster that this node forms.
    pub replica_count: u8,
    /// What tokens are made with in such a cluster.
    pub token_secret: [u8; 16],
}

struct Wish {
    tag: Option<Tag>,
    change: Change,
    until: Instant,
    /// Votes for it were asked for, about the epoch after the present one.
    is_voted_on: bool,
}

/// Why no writes are taken.
#[derive(Clone, Copy, Debug)]
struct Freeze {
    /// Until then, or until what was accepted is decided.
    until: Instant,
    /// The attempt for which this node was found empty, and takes no writes since: what it asks for may
    /// move data, and what no other does.
    empty_for: Option<Ballot>,
}

/// The machine: acceptor, proposer and learner of one node.
pub struct Agreement {
    own: Own,
    kept: Kept,
    rng: Rng,
    /// Timestamps of ballots are above it.
    ballot_min: u64,
    wall: WallTime,
    proposal: Option<(Proposal, Instant)>,
    /// When those who have not promised are waited for no longer, where they need not be.
    press_at: Option<Instant>,
    wishes: VecDeque<Wish>,
    /// When the first wish is tried again.
    retry_at: Option<Instant>,
    /// Members are asked for whether they are empty: what the next attempt needs.
    ask_all: bool,
    /// Writes are not taken.
    freeze: Option<Freeze>,
    /// Attempts that need all members come to nothing until then: some do not answer.
    rest_until: Option<Instant>,
    /// The cluster was found to hold data, or perhaps to have held some: what would move it is refused
    /// until then, for that reason.
    full_until: Option<(Instant, Refusal)>,
    /// Since this node started, everything was removed from all nodes: whatever it may have lost before
    /// is gone for all.
    has_cleared: bool,
    ask_at: Option<Instant>,
    /// The node forms a cluster after so many looks; and when the next one is due.
    listening: Option<(u32, Instant)>,
    /// The identity of a cluster that this node forms.
    new_cluster: u64,
    /// What this node holds, as long as it is a newcomer: it takes no writes, so that stays so.
    holds: Option<Survey>,
    /// Who has said that there is a newer topology, and when it is asked for again.
    heard: Option<(SocketAddr, Epoch, Instant)>,
    asked_count: usize,
    rejected: BTreeMap<MemberId, Refusal>,
    prepares: BTreeMap<Via, (Topology, Ballot, bool)>,
    outputs: VecDeque<Output>,
}

impl Agreement {
    /// A node that starts. `kept` is what it last kept.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] when `kept` is damaged.
    pub fn new(
        own: Own,
        kept: Option<&[u8]>,
        cluster: u64,
        seed: u64,
        now: Instant,
    ) -> Result<Self, DecodeError> {
        let mut kept = kept.map(Kept::decode).transpose()?.unwrap_or_default();
        let mut outputs = VecDeque::new();
        if kept.current.is_none() && own.forming == Forming::AtOnce {
            kept.install(&first_topology(&own, cluster));
            outputs.push_back(Output::Keep(kept.encode()));
        }
        let is_listening = kept.current.is_none() && own.forming == Forming::Unheard;
        if let Some(current) = &kept.current {
            outputs.push_back(Output::Install(current.clone()));
        }
        let mut machine = Self {
            own,
            kept,
            rng: Rng::with_seed(seed),
            ballot_min: 0,
            wall: WallTime::EPOCH,
            proposal: None,
            press_at: None,
            wishes: VecDeque::new(),
            retry_at: None,
            ask_all: false,
            freeze: None,
            rest_until: None,
            full_until: None,
            has_cleared: false,
            ask_at: None,
            listening: is_listening.then_some((LOOK_COUNT, now)),
            new_cluster: cluster,
            holds: None,
            heard: None,
            asked_count: 0,
            rejected: BTreeMap::new(),
            prepares: BTreeMap::new(),
            outputs,
        };
        machine.ask_at = machine.must_join().then_some(now);
        if let Some((_, value)) = &machine.kept.vote.accepted
            && machine.kept.current.as_ref().is_some_and(|current| current.moves_data(value))
        {
            // It was under way when the node stopped: nothing is written before it is decided.
            machine.freeze = Some(Freeze { until: now, empty_for: None });
        }
        Ok(machine)
    }

    /// What this node says of itself.
    #[must_use]
    pub const fn own(&self) -> &Own {
        &self.own
    }

    /// The latest topology that was decided.
    #[must_use]
    pub fn current(&self) -> Option<&Topology> {
        self.kept.current.as_ref()
    }

    /// Whether writes must not be taken.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.freeze.is_some()
    }

    /// Whether this node forms a cluster, unless it hears of one that lives.
    #[must_use]
    pub fn is_listening(&self) -> bool {
        self.listening.is_some()
    }

    /// Takes in one event. Drain [`Self::poll_output`] before the next call.
    pub fn handle(&mut self, now: Instant, wall: WallTime, input: Input) {
        self.wall = wall;
        match input {
            Input::Timeout => {}
            Input::Request(via, request) => self.on_request(now, via, request),
            Input::Answer(from, answer) => self.on_answer(now, from, answer),
            Input::Surveyed(via, survey) => self.on_surveyed(now, via, survey),
            Input::Wish(tag, change) => self.wish(now, Some(tag), change),
            Input::Heard(from, epoch) => self.on_heard(now, from, epoch),
            Input::Seeds(seeds) => self.own.seeds = seeds,
        }
        self.run_timers(now);
        self.assert_invariants();
    }

    /// The next thing to do, oldest first.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call `handle(now, Input::Timeout)`, if nothing else happens first.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let attempt = self.proposal.as_ref().map(|(_, until)| *until);
        let heard = self.heard.map(|(.., at)| at);
        let thaw = self.freeze.map(|freeze| freeze.until);
        let look = self.listening.map(|(_, at)| at);
        // The next attempt begins when the present one has ended, and not before.
        let retry = self.retry_at.filter(|_| self.proposal.is_none());
        let times = [attempt, self.press_at, retry, thaw, self.ask_at, heard, look];
        times.into_iter().flatten().min()
    }

    fn on_request(&mut self, now: Instant, via: Via, request: Request) {
        match request {
            Request::Ask => self.answer(via, Answer::Current(self.kept.current.clone())),
            Request::Chosen(topology) => {
                self.learn(now, &topology);
                self.answer(via, Answer::Current(None));
            }
            Request::Dropped(ballot, refusal) => {
                if ballot == self.kept.vote.promised {
                    self.note_full(now, refusal);
                }
                self.answer(via, Answer::Current(None));
            }
            Request::Join { member, cluster, is_empty } => {
                self.on_join(now, via, member, (cluster, is_empty));
            }
            Request::Prepare { base, ballot, must_be_empty, is_barrier } => {
                self.learn(now, &base);
                if self.kept.current.as_ref() != Some(&base) {
                    return self.answer(via, Answer::Current(self.kept.current.clone()));
                }
                if ballot <= self.kept.vote.promised {
                    return self.answer(via, Answer::Refused(self.kept.vote.promised));
                }
                if !must_be_empty && !is_barrier {
                    return self.promise(via, ballot, Survey { is_empty: false, latest: 0 });
                }
                self.freeze_on(now);
                self.prepares.insert(via, (base, ballot, must_be_empty));
                self.outputs.push_back(Output::Survey(via));
                if self.prepares.len() > PREPARE_COUNT_MAX {
                    // Its survey may have been lost. Who is in earnest asks again.
                    let (oldest, _) = self.prepares.pop_first().expect("there are many");
                    self.answer(oldest, Answer::Refused(self.kept.vote.promised));
                }
            }
            Request::Accept { base, ballot, value } => {
                self.learn(now, &base);
                if self.kept.current.as_ref() != Some(&base) {
                    return self.answer(via, Answer::Current(self.kept.current.clone()));
                }
                // Who has been free to take writes since it was found empty must not accept what moves.
                let moves = base.moves_data(&value);
                let is_empty = match self.freeze {
                    _ if !self.is_member(&base) => self.is_empty_newcomer(),
                    freeze => freeze.is_some_and(|it| it.empty_for == Some(ballot)),
                };
                let may = !moves || is_empty;
                if !may || !self.kept.vote.accept(ballot, &value) {
                    return self.answer(via, Answer::Refused(self.kept.vote.promised));
                }
                if moves {
                    self.freeze_on(now);
                }
                self.keep();
                self.answer(via, Answer::Accepted(ballot));
            }
        }
    }

    fn is_member(&self, topology: &Topology) -> bool {
        topology.member(self.own.member.id()).is_some()
    }

    fn on_surveyed(&mut self, now: Instant, via: Via, survey: Survey) {
        if via == Via::OWN_SURVEY {
            return self.on_own_survey(now, survey);
        }
        let prepare = self.prepares.remove(&via);
        // Who is asked for its clocks only may hold what it likes.
        let must_be_empty = prepare.as_ref().is_none_or(|(.., must_be_empty)| *must_be_empty);
        if !survey.is_empty && must_be_empty {
            self.note_full(now, Refusal::HoldsData);
        }
        let Some((base, ballot, _)) = prepare else { return };
        if self.kept.slot() != base.epoch + 1 {
            return self.answer(via, Answer::Current(self.kept.current.clone()));
        }
        if ballot <= self.kept.vote.promised {
            return self.answer(via, Answer::Refused(self.kept.vote.promised));
        }
        if let Some(freeze) = &mut self.freeze {
            freeze.empty_for = survey.is_empty.then_some(ballot);
        }
        self.promise(via, ballot, survey);
    }

    /// Takes no writes for a while, or for a while longer.
    fn freeze_on(&mut self, now: Instant) {
        let empty_for = self.freeze.and_then(|freeze| freeze.empty_for);
        self.freeze = Some(Freeze { until: now + FREEZE, empty_for });
    }

    /// Takes writes again. What was surveyed until here is no longer so.
    fn thaw(&mut self) {
        self.freeze = None;
        self.outputs.push_back(Output::Thaw);
        for via in std::mem::take(&mut self.prepares).into_keys() {
            self.answer(via, Answer::Refused(self.kept.vote.promised));
        }
    }

    /// The cluster holds data, or may have. Who asks again and again to be let in must not stop its
    /// writes.
    fn note_full(&mut self, now: Instant, refusal: Refusal) {
        self.full_until = Some((now + REST, refusal));
        if self.freeze.is_some() && !self.has_accepted() {
            self.thaw();
        }
    }

    fn promise(&mut self, via: Via, ballot: Ballot, survey: Survey) {
        let Vote { accepted, .. } = self.kept.vote.clone();
        assert!(self.kept.vote.promise(ballot), "it was compared");
        self.keep();
        let (Survey { is_empty, latest }, is_sound) = (survey, self.is_sound());
        self.answer(via, Answer::Promised { ballot, accepted, is_empty, is_sound, latest });
    }

    fn on_answer(&mut self, now: Instant, from: SocketAddr, answer: Answer) {
        if !matches!(answer, Answer::Current(None)) {
            self.note_live(from);
        }
        match answer {
            Answer::Current(Some(topology)) => {
                let is_known = self.kept.current.as_ref().map(|it| it.cluster);
                if is_known.is_some_and(|cluster| cluster != topology.cluster) {
                    self.outputs.push_back(Output::Rejected(from, Refusal::OtherCluster));
                } else if self.is_full_newcomer_to(&topology) {
                    self.heard = None;
                    self.outputs.push_back(Output::Rejected(from, Refusal::HoldsOwnData));
                } else {
                    self.learn(now, &topology);
                }
            }
            Answer::Current(None) | Answer::Pending => {}
            Answer::Rejected(refusal) => self.outputs.push_back(Output::Rejected(from, refusal)),
            Answer::Refused(ballot) => {
                self.ballot_min = self.ballot_min.max(ballot.timestamp);
                let is_mine = self.proposal.as_ref().is_some_and(|(mine, _)| mine.ballot < ballot);
                if is_mine {
                    self.give_up(now, Refusal::Busy);
                }
            }
            Answer::Promised { ballot, accepted, is_empty, is_sound, latest } => {
                let Some((proposal, node)) = self.proposal_of(from, ballot) else { return };
                let promise = Promise { accepted, is_empty, is_sound, latest };
                let progress = proposal.on_promise(node, promise);
                self.on_progress(now, progress);
            }
            Answer::Accepted(ballot) => {
                let Some((proposal, node)) = self.proposal_of(from, ballot) else { return };
                let progress = proposal.on_accepted(node);
                self.on_progress(now, progress);
            }
        }
    }

    /// A topology was decided.
    fn learn(&mut self, now: Instant, topology: &Topology) {
        self.note_live(topology.members[0].address);
        let is_other = |current: &Topology| current.cluster != topology.cluster;
        let cleared = self.kept.current.as_ref().map(Topology::cleared);
        if self.kept.current.is_none() && self.is_new_to(topology) && !self.is_empty_newcomer() {
            return;
        }
        if self.kept.current.as_ref().is_some_and(is_other) || !self.kept.install(topology) {
            return;
        }
        self.has_cleared |= cleared.is_some_and(|cleared| cleared < topology.cleared());
        self.proposal = None;
        self.rest_until = None;
        self.freeze = None;
        self.listening = None;
        // It may have removed what there was.
        self.full_until = None;
        self.keep();
        self.outputs.push_back(Output::Install(topology.clone()));
        for via in std::mem::take(&mut self.prepares).into_keys() {
            self.answer(via, Answer::Current(self.kept.current.clone()));
        }
        self.ask_at = self.must_join().then_some(now + ASK);
        let wishes = std::mem::take(&mut self.wishes);
        for wish in wishes {
            // Votes for it were about this epoch, or one before, and are over.
            let wish = Wish { is_voted_on: false, ..wish };
            match topology.after(&wish.change) {
                Ok(Some(_)) => self.wishes.push_back(wish),
                Ok(None) => self.end_wish(&wish, Ok(topology.epoch())),
                Err(refusal) => self.end_wish(&wish, Err(refusal)),
            }
        }
        self.retry_at = (!self.wishes.is_empty()).then_some(now);
    }

    fn run_timers(&mut self, now: Instant) {
        if self.press_at.is_some_and(|at| at <= now) {
            self.press(now);
        }
        if let Some((proposal, until)) = &self.proposal
            && *until <= now
        {
            let refusal = proposal.timed_out();
            self.give_up(now, refusal);
        }
        if self.freeze.is_some_and(|freeze| freeze.until <= now) {
            if self.has_accepted_a_move() {
                // Whoever has proposed it did not bring it to its end: this node does.
                self.freeze_on(now);
                self.ask_all = true;
                self.retry_at.get_or_insert(now);
            } else {
                self.thaw();
            }
        }
        if self.retry_at.is_some_and(|at| at <= now) && self.proposal.is_none() {
            self.retry_at = None;
            self.propose(now);
        }
        if self.listening.is_some_and(|(_, at)| at <= now) {
            self.look(now);
        }
        if self.ask_at.is_some_and(|at| at <= now) {
            self.ask_to_join(now);
        }
        if self.heard.is_some_and(|(.., at)| at <= now) {
            self.ask_for_newer(now);
        }
    }

    fn keep(&mut self) {
        self.outputs.push_back(Output::Keep(self.kept.encode()));
    }

    fn answer(&mut self, via: Via, answer: Answer) {
        self.outputs.push_back(Output::Answer(via, answer));
    }

    fn assert_invariants(&self) {
        assert!(
            self.listening.is_none() || self.kept.current.is_none(),
            "a cluster is formed once"
        );
        if let Some((proposal, _)) = &self.proposal {
            assert_eq!(proposal.base.epoch + 1, self.kept.slot(), "an attempt is about the next");
        }
        assert!(self.wishes.len() <= WISH_COUNT_MAX);
        assert!(self.prepares.len() <= PREPARE_COUNT_MAX);
        assert!(
            self.prepares.is_empty() || self.freeze.is_some(),
            "who is surveyed takes no writes"
        );
    }
}

/// A cluster that the node forms.
fn first_topology(own: &Own, cluster: u64) -> Topology {
    Topology::first(cluster, own.token_secret, own.replica_count, own.member.clone())
}

#[cfg(test)]
mod tests;
