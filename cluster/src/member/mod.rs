//! A node's membership: who is there ([`swim`]) and who belongs
//! ([`agreement`]), composed.
//!
//! ```text
//!   datagrams, exchanges ---> Swim -------- a newer epoch ------+
//!                              ^                                v
//!                              +--- epoch, addresses ---- Agreement <--- requests, answers, wishes
//!                              |                                |
//!                              +------------> State <-----------+
//! ```
//!
//! Each machine is drained before the other goes on. What holds, who answers and how this node stands
//! leave as one [`State`], whenever it has changed; before a [`Output::Survey`] the state says that the
//! node takes no writes. Nodes and the simulator drive the same one.

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use crate::model::{MemberId, NodeId};
use crate::replication::Standing;
use crate::swim::{self, Swim};
use crate::time::{Instant, Now};
use crate::topology::agreement::{self, Agreement, Answer, Failure, Request, Survey, Tag, Via};
use crate::topology::placement::Placement;
use crate::topology::{self, Change, Epoch, Refusal, Topology};

/// Answers of this node to itself.
const VIA_OWN: Via = Via(0);

/// What happens to the machine.
#[derive(Debug)]
pub enum Input<'a> {
    /// [`Member::poll_timeout`] has come.
    Timeout,
    /// A datagram, without its signature.
    Datagram {
        /// Where it came from, and where an answer goes.
        from: SocketAddr,
        /// The packet.
        bytes: &'a [u8],
    },
    /// A full exchange, request or reply, over a connection.
    Exchange {
        /// The packet.
        bytes: &'a [u8],
    },
    /// A node asks about the topology. The way back is not [`Via`] 0, nor [`Via::OWN_SURVEY`].
    Request(Via, Request),
    /// The node at this address answers.
    Answer(SocketAddr, Answer),
    /// Answer to [`Output::Survey`]: sent after every core has stopped taking writes.
    Surveyed(Via, Survey),
    /// Somebody here wants a change of the topology.
    Wish(Tag, Change),
    /// The node at this address says that it belongs to a cluster of the name, of this epoch.
    Heard(SocketAddr, Epoch),
    /// Somebody at this address seems to have this node's identity.
    Twin(SocketAddr),
    /// Others are found through these addresses from here on: those of the same seeds, perhaps.
    Seeds(Vec<SocketAddr>),
    /// Go: the others are told.
    Leave,
}

/// What is to be done, in this order.
#[derive(Clone, Debug)]
pub enum Output {
    /// Keep these bytes, durably, before anything after it is done.
    Keep(Vec<u8>),
    /// Send a datagram.
    Datagram {
        /// To whom.
        to: SocketAddr,
        /// The packet.
        bytes: Vec<u8>,
    },
    /// Send a full exchange over a connection.
    Exchange {
        /// To whom.
        to: SocketAddr,
        /// The packet.
        bytes: Vec<u8>,
    },
    /// Send a request to another node.
    Ask(SocketAddr, Request),
    /// Answer a request.
    Answer(Via, Answer),
    /// Say whether there is data, once nothing takes writes any more.
    Survey(Via),
    /// This holds from here on.
    State(State),
    /// A topology was installed: the state that follows has it.
    Installed(Arc<Topology>),
    /// The topology that was installed knows another store of this node's: its data is lost.
    Lost,
    /// Another member is new, or anything about it has changed.
    Changed(swim::Member),
    /// A member that was gone for long is no longer remembered.
    Forgotten(MemberId),
    /// Another process with this node's identity, which started before this one, runs there.
    Conflict(SocketAddr),
    /// What came of a wish.
    Done(Tag, Result<Epoch, Failure>),
    /// The member at this address does not let this node in. Told when the reason changes.
    Rejected(SocketAddr, Refusal),
}

/// What holds, as far as this node knows.
#[derive(Clone, Debug)]
pub struct State {
    /// The topology.
    pub topology: Arc<Topology>,
    /// Replicas of each slot, computed from that topology: their epochs are equal.
    pub placement: Arc<Placement>,
    /// This node's number; `None` for one that is no member.
    pub own: Option<NodeId>,
    /// Members that answer, as far as is known: one that was not heard of yet may.
    pub alive: BTreeSet<NodeId>,
    /// Those of them that have not answered when they were asked last.
    pub suspected: BTreeSet<NodeId>,
    /// Whether this node serves its copies.
    pub standing: Standing,
}

/// The machine.
pub struct Member {
    swim: Swim,
    agreement: Agreement,
    /// The latest that was told.
    state: Option<State>,
    /// What the one machine is to be told of the other.
    new_epoch: Option<u64>,
    new_members: Option<Vec<SocketAddr>>,
    /// Requests of this node to itself.
    to_own: VecDeque<Request>,
    /// Members that were dead for so long that [`Swim`] has forgotten them: unlike those that were not
    /// heard of yet, they do not answer.
    gone: BTreeSet<MemberId>,
    /// Why this node is not let in, as was told last.
    told_refusal: Option<Refusal>,
    /// When [`Swim`] has something to do: it takes a while to find out.
    swim_due: Option<Instant>,
    outputs: VecDeque<Output>,
}

impl Member {
    /// A node that starts, with its two machines as they start. What it wants done at once can be
    /// polled.
    #[must_use]
    pub fn new(now: Now, swim: Swim, agreement: Agreement) -> Self {
        let mut machine = Self {
            new_members: Some(agreement.own().seeds.clone()),
            swim_due: swim.poll_timeout(),
            swim,
            agreement,
            state: None,
            new_epoch: None,
            to_own: VecDeque::new(),
            gone: BTreeSet::new(),
            told_refusal: None,
            outputs: VecDeque::new(),
        };
        machine.drain(now);
        machine.assert_invariants();
        machine
    }

    /// Takes in what has happened.
    ///
    /// # Panics
    ///
    /// When an output was not polled.
    pub fn handle(&mut self, now: Now, input: Input<'_>) {
        assert!(self.outputs.is_empty(), "outputs are polled before the next input");
        match input {
            Input::Timeout => self.handle_timeout(now),
            Input::Datagram { from, bytes } => {
                self.tell_swim(now, swim::Input::Datagram { from, bytes });
            }
            Input::Exchange { bytes } => self.tell_swim(now, swim::Input::Exchange { bytes }),
            Input::Twin(address) => self.tell_swim(now, swim::Input::Twin(address)),
            Input::Leave => self.tell_swim(now, swim::Input::Leave),
            Input::Seeds(seeds) => self.on_seeds(now, seeds),
            Input::Request(via, request) => {
                assert_ne!(via, VIA_OWN, "the node itself asks without a driver");
                assert_ne!(via, Via::OWN_SURVEY, "nobody else has asked");
                self.tell_agreement(now, agreement::Input::Request(via, request));
            }
            Input::Answer(from, answer) => {
                self.tell_agreement(now, agreement::Input::Answer(from, answer));
            }
            Input::Heard(from, epoch) => {
                self.tell_agreement(now, agreement::Input::Heard(from, epoch));
            }
            Input::Surveyed(via, survey) => {
                self.tell_agreement(now, agreement::Input::Surveyed(via, survey));
            }
            Input::Wish(tag, change) => {
                self.tell_agreement(now, agreement::Input::Wish(tag, change));
            }
        }
        self.drain(now);
        self.assert_invariants();
    }

    /// What is to be done next.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.swim_due, self.agreement.poll_timeout()].into_iter().flatten().min()
    }

    /// What holds; `None` before there is a topology.
    #[must_use]
    pub const fn state(&self) -> Option<&State> {
        self.state.as_ref()
    }

    /// Who is there, as far as this node knows.
    #[must_use]
    pub const fn swim(&self) -> &Swim {
        &self.swim
    }

    /// Whether this node forms a cluster, unless it hears of one that lives.
    #[must_use]
    pub fn is_listening(&self) -> bool {
        self.agreement.is_listening()
    }

    /// Why this node is not let into the cluster, as it was told last; `None` once it is in.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        self.told_refusal.filter(|_| self.agreement.must_join())
    }

    /// Whether the node takes no writes while the topology is changed.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.agreement.is_frozen()
    }

    /// Whether nobody else is known to live, or this node is not let in yet: its seeds are tried for as
    /// long.
    #[must_use]
    pub fn needs_seeds(&self) -> bool {
        self.agreement.must_join() || !self.swim.members().skip(1).any(|it| it.state.is_live())
    }

    fn on_seeds(&mut self, now: Now, seeds: Vec<SocketAddr>) {
        self.tell_agreement(now, agreement::Input::Seeds(seeds));
        let members = self.state.iter().flat_map(|state| &state.topology.members);
        self.new_members = Some(self.others(members.map(|member| member.address)));
    }

    /// Where others may be found: members, and seeds.
    fn others(&self, members: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
        let own = self.agreement.own();
        let mut others: Vec<SocketAddr> = members.chain(own.seeds.iter().copied()).collect();
        others.sort_unstable();
        others.dedup();
        others.retain(|address| *address != own.member.address);
        others
    }

    fn handle_timeout(&mut self, now: Now) {
        if self.swim_due.is_some_and(|at| at <= now.at) {
            self.tell_swim(now, swim::Input::Timeout);
        }
        self.drain(now);
        if self.agreement.poll_timeout().is_some_and(|at| at <= now.at) {
            self.tell_agreement(now, agreement::Input::Timeout);
        }
    }

    fn tell_swim(&mut self, now: Now, input: swim::Input<'_>) {
        self.swim.handle(now.at, input);
        self.swim_due = self.swim.poll_timeout();
    }

    fn tell_agreement(&mut self, now: Now, input: agreement::Input) {
        self.agreement.handle(now.at, now.wall, input);
    }

    /// Does what each machine wants of the other, until there is nothing more.
    fn drain(&mut self, now: Now) {
        loop {
            self.drain_swim(now);
            self.drain_agreement(now);
            if let Some(epoch) = self.new_epoch.take() {
                self.tell_swim(now, swim::Input::Epoch(epoch));
            } else if let Some(members) = self.new_members.take() {
                self.tell_swim(now, swim::Input::Join(&members));
            } else {
                break;
            }
        }
        if self.state.as_ref().is_some_and(|state| state.standing != self.standing(&state.topology))
        {
            self.tell_again();
        }
    }

    fn drain_swim(&mut self, now: Now) {
        let mut has_changed = false;
        while let Some(output) = self.swim.poll_output() {
            let output = match output {
                swim::Output::Datagram { to, bytes } => Output::Datagram { to, bytes },
                swim::Output::Exchange { to, bytes } => Output::Exchange { to, bytes },
                swim::Output::Changed(member) => {
                    has_changed = true;
                    self.gone.remove(&member.id);
                    Output::Changed(member)
                }
                swim::Output::Forgotten(member) => {
                    has_changed = true;
                    self.gone.insert(member);
                    Output::Forgotten(member)
                }
                swim::Output::Conflict { address } => Output::Conflict(address),
                swim::Output::Epoch { from, epoch } => {
                    self.tell_agreement(now, agreement::Input::Heard(from, Epoch(epoch)));
                    continue;
                }
            };
            self.outputs.push_back(output);
        }
        if has_changed {
            self.tell_again();
        }
    }

    fn drain_agreement(&mut self, now: Now) {
        loop {
            while let Some(output) = self.agreement.poll_output() {
                self.on_agreement(now, output);
            }
            let Some(request) = self.to_own.pop_front() else { return };
            self.tell_agreement(now, agreement::Input::Request(VIA_OWN, request));
        }
    }

    fn on_agreement(&mut self, now: Now, output: agreement::Output) {
        let output = match output {
            agreement::Output::Keep(bytes) => Output::Keep(bytes),
            agreement::Output::Ask(to, request) if to == self.agreement.own().member.address => {
                return self.to_own.push_back(request);
            }
            agreement::Output::Ask(to, request) => Output::Ask(to, request),
            agreement::Output::Answer(VIA_OWN, answer) => {
                let answer = agreement::Input::Answer(self.agreement.own().member.address, answer);
                return self.tell_agreement(now, answer);
            }
            agreement::Output::Answer(via, answer) => Output::Answer(via, answer),
            agreement::Output::Survey(via) => {
                self.tell_again();
                Output::Survey(via)
            }
            // As whatever else changes the standing, it is told when all is done.
            agreement::Output::Thaw => return,
            agreement::Output::Install(topology) => return self.install(topology),
            agreement::Output::Done(tag, result) => Output::Done(tag, result),
            agreement::Output::Rejected(from, refusal) => {
                // It asks again and again.
                if self.told_refusal.replace(refusal) == Some(refusal) {
                    return;
                }
                Output::Rejected(from, refusal)
            }
        };
        self.outputs.push_back(output);
    }

    fn install(&mut self, topology: Topology) {
        let members = topology.members.iter().map(|member| member.address);
        self.new_members = Some(self.others(members));
        self.new_epoch = Some(topology.epoch);
        self.told_refusal = None;
        self.gone.retain(|id| topology.member(*id).is_some());
        let (placement, topology) = (Arc::new(Placement::new(&topology)), Arc::new(topology));
        self.outputs.push_back(Output::Installed(Arc::clone(&topology)));
        self.tell(topology, placement);
        if self.state.as_ref().is_some_and(|state| state.standing == Standing::Empty) {
            self.outputs.push_back(Output::Lost);
        }
    }

    /// As [`Member::tell`], for the topology that holds already.
    fn tell_again(&mut self) {
        if let Some(state) = &self.state {
            let (topology, placement) = (Arc::clone(&state.topology), Arc::clone(&state.placement));
            self.tell(topology, placement);
        }
    }

    fn tell(&mut self, topology: Arc<Topology>, placement: Arc<Placement>) {
        let is_known_alive = |id| self.swim.member(id).map(|it| it.state.is_live());
        let is_alive = |id| is_known_alive(id).unwrap_or_else(|| !self.gone.contains(&id));
        let is_suspected =
            |id| self.swim.member(id).is_some_and(|it| it.state == swim::State::Suspect);
        let alive = topology.members.iter().filter(|member| is_alive(member.id()));
        let suspected = alive.clone().filter(|member| is_suspected(member.id()));
        let state = State {
            own: topology.member(self.agreement.own().member.id()).map(topology::Member::node),
            suspected: suspected.map(topology::Member::node).collect(),
            alive: alive.map(topology::Member::node).collect(),
            standing: self.standing(&topology),
            topology,
            placement,
        };
        self.state = Some(state.clone());
        self.outputs.push_back(Output::State(state));
    }

    /// Whether this node serves its copies, where this topology holds.
    fn standing(&self, topology: &Topology) -> Standing {
        let own = &self.agreement.own().member;
        let has_lost_data = |member: &topology::Member| member.store != own.store;
        if topology.member(own.id()).is_some_and(has_lost_data) {
            Standing::Empty
        } else if self.agreement.is_frozen() {
            Standing::Frozen
        } else {
            Standing::Serving
        }
    }

    fn assert_invariants(&self) {
        assert!(self.to_own.is_empty() && self.new_epoch.is_none() && self.new_members.is_none());
        let installed = self.agreement.current().map(|it| it.epoch);
        let told = self.state.as_ref().map(|it| it.topology.epoch);
        assert_eq!(installed, told, "what holds was told");
        let standing = self.state.as_ref().map(|it| (it.standing, self.standing(&it.topology)));
        assert!(standing.is_none_or(|(told, is)| told == is), "how the node stands was told");
    }
}
