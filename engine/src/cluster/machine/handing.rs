//! Agreed changes are proposed best by one node: the first replica of the key that answers. Others
//! hand it the command, and get its reply. So changes of one key do not outbid each other, and those
//! that come together share a round.
//!
//! How they travel: [`wire::command`](gridkv_cluster::wire::command). A command is not begun after its
//! deadline, since who has asked has given up by then. A node that stood still finds commands in its sockets, and refuses them: who
//! has asked may have been told that their end is unknown, and gone on. Where not, it does them itself.
//!
//! # Invariants
//!
//! - A command that was handed over has one end: its reply, or *unknown*.
//! - Commands of one client on one key keep their order: while one is with another node, what else is
//!   asked here about the key waits, unless it goes the same way; and nothing is handed over while
//!   something about the key is under way here. (By token: two keys of one token wait for each other.)

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use gridkv_cluster::replication::Why;
use gridkv_cluster::wire::command::{Command, CommandReply, End};
use gridkv_cluster::{Instant, NodeId, Now, Token, WallTime};
use gridkv_net::resp::Protocol;

use super::{Incoming, LinkId, Machine, Output, Place, place};
use crate::core::request::{Asker, Request};
use crate::core::shards::Shards;
use crate::error::Error;
use crate::server::commands::{Part, command_of};

const UNKNOWN: &str = "a command is none that is handed over";

/// How long a command and its reply may be on their way.
const ON_THE_WAY: Duration = Duration::from_millis(150);

/// What is under way about one token.
#[derive(Default)]
struct Lane {
    /// With this core's coordinator.
    here: u32,
    /// With another node.
    away: u32,
    waiting: VecDeque<Incoming>,
}

/// A command that another node runs.
pub(super) struct Handed {
    request: Box<Request>,
    pub(super) node: NodeId,
    pub(super) until: Instant,
}

/// What one core has handed over, and what waits for it.
#[derive(Default)]
pub(super) struct Handing {
    lanes: BTreeMap<Token, Lane>,
    handed: BTreeMap<u64, Handed>,
    next_id: u64,
}

impl Handing {
    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.handed.is_empty() && self.lanes.values().all(|lane| lane.waiting.is_empty())
    }

    /// How many were ever handed over.
    pub(super) const fn count(&self) -> u64 {
        self.next_id
    }

    pub(super) fn due_at(&self) -> Option<Instant> {
        // All have the same patience: the first was handed over first.
        self.handed.values().next().map(|handed| handed.until)
    }

    /// Whether something about the token has to wait: what goes away for what is here, and the other
    /// way round; all behind what waits already.
    pub(super) fn must_wait(&self, token: Token, goes_away: bool) -> bool {
        self.lanes.get(&token).is_some_and(|lane| {
            let others = if goes_away { lane.here } else { lane.away };
            others > 0 || !lane.waiting.is_empty()
        })
    }

    pub(super) fn wait(&mut self, token: Token, incoming: Incoming) {
        self.lanes.entry(token).or_default().waiting.push_back(incoming);
    }

    /// Something about the token is begun here.
    pub(super) fn begin_here(&mut self, token: Token) {
        self.lanes.entry(token).or_default().here += 1;
    }

    /// Something about the token has ended here. What has waited for it comes back.
    #[must_use]
    pub(super) fn end_here(&mut self, token: Token) -> VecDeque<Incoming> {
        let lane = self.lanes.get_mut(&token).expect("it was begun");
        assert!(lane.here > 0, "what has ended here was begun here");
        lane.here -= 1;
        self.end(token)
    }

    fn end_away(&mut self, token: Token) -> VecDeque<Incoming> {
        let lane = self.lanes.get_mut(&token).expect("it was begun");
        assert!(lane.away > 0, "what has come back was handed over");
        lane.away -= 1;
        self.end(token)
    }

    fn end(&mut self, token: Token) -> VecDeque<Incoming> {
        let lane = self.lanes.get(&token).expect("it was just looked at");
        if lane.here > 0 || lane.away > 0 {
            return VecDeque::new();
        }
        self.lanes.remove(&token).expect("it was just looked at").waiting
    }
}

impl Machine {
    /// The node that proposes changes of the token best, if that is another. It does nothing for one that
    /// is no member.
    pub(super) fn proposer(&self, token: Token) -> Option<Place> {
        let view = self.coordinator.view()?;
        let own = view.own?;
        let node = view.preferred(token).filter(|node| *node != own)?;
        place(self.state.as_ref()?, node, token)
    }

    /// Hands a command to another node.
    pub(super) fn hand_over(&mut self, now: Now, to: Place, request: Box<Request>) {
        let (id, token) = (self.handing.next_id, request.token);
        let deadline = now.wall + self.request_timeout;
        let entry = encode_command(id, deadline, &request);
        self.handing.next_id += 1;
        // Who runs it has as long from when it begins.
        let until = now.at + self.request_timeout + ON_THE_WAY;
        self.handing.handed.insert(id, Handed { request, node: to.node, until });
        self.handing.lanes.entry(token).or_default().away += 1;
        self.outputs.push_back(Output::Command { to, id, entry });
    }

    /// A command could not be sent: it is done here.
    pub(crate) fn on_unsent(&mut self, now: Now, shards: &mut Shards, id: u64) {
        self.assert_drained();
        self.take_back(id);
        self.run(now, shards);
    }

    /// Nobody else has begun a command, or will: it is done here.
    fn take_back(&mut self, id: u64) {
        let Some(handed) = self.handing.handed.remove(&id) else { return };
        let token = handed.request.token;
        let lane = self.handing.lanes.get_mut(&token).expect("it was begun");
        lane.waiting.push_front(Incoming::unsent(handed.request));
        self.end_handed(token);
    }

    /// Commands that another node has handed over.
    ///
    /// # Errors
    ///
    /// What is wrong with them; those before were taken in.
    pub(crate) fn on_commands(
        &mut self,
        now: Now,
        shards: &mut Shards,
        link: LinkId,
        mut rest: &[u8],
    ) -> Result<(), &'static str> {
        self.assert_drained();
        self.expire(now, shards);
        while !rest.is_empty() {
            let Command { id, deadline, protocol, words } = Command::take(&mut rest)?;
            let protocol = if protocol == 3 { Protocol::Resp3 } else { Protocol::Resp2 };
            let (name, arguments) = words.split_first().expect("a command has a name");
            let command = command_of(name, || None).ok_or(UNKNOWN)?;
            if !command.can_be_handed_over(arguments.len()) {
                return Err(UNKNOWN);
            }
            let token = shards.token_key().token(arguments[command.key_of_part()]);
            if !shards.owns(token) {
                return Err("a command is about another core's key");
            }
            if now.wall > deadline || now.at < self.refuses_until {
                self.outputs.push_back(Output::CommandReply { link, entry: encode_unbegun(id) });
                continue;
            }
            let asker = Asker::Peer { link, id };
            let request = Request::new(&self.waiting, asker, command, protocol, token, arguments);
            self.incoming.push_back(Incoming::handed(request));
        }
        self.run(now, shards);
        Ok(())
    }

    /// Replies to commands that were handed over.
    ///
    /// # Errors
    ///
    /// What is wrong with them; those before were taken in.
    pub(crate) fn on_command_replies(
        &mut self,
        now: Now,
        shards: &mut Shards,
        mut rest: &[u8],
    ) -> Result<(), &'static str> {
        self.assert_drained();
        while !rest.is_empty() {
            let CommandReply { id, end, bytes } = CommandReply::take(&mut rest)?;
            let part = match end {
                End::Reply => Part::Reply,
                End::Count(counts) => Part::Count(counts),
                End::Failed => Part::Failed,
                End::Unbegun => {
                    self.take_back(id);
                    continue;
                }
            };
            if let Some(handed) = self.handing.handed.remove(&id) {
                self.reply(handed.request.asker, part, bytes.to_vec());
                self.end_handed(handed.request.token);
            }
        }
        self.run(now, shards);
        Ok(())
    }

    /// Nobody waits any longer for some of what was handed over: it has no known end.
    pub(super) fn give_up_handed(&mut self, is_over: impl Fn(&Handed) -> bool) {
        let handed = &self.handing.handed;
        let ids: Vec<u64> = handed.iter().filter(|it| is_over(it.1)).map(|it| *it.0).collect();
        for id in ids {
            let handed = self.handing.handed.remove(&id).expect("it was just listed");
            let why = Why::TimedOut { answered: 0, needed: 1 };
            self.fail(handed.request.asker, Error::Unknown { why });
            self.end_handed(handed.request.token);
        }
    }

    fn end_handed(&mut self, token: Token) {
        let waiting = self.handing.end_away(token);
        self.ask_first(waiting);
    }
}

/// What a command is handed over as.
fn encode_command(id: u64, deadline: WallTime, request: &Request) -> Vec<u8> {
    let protocol = if request.protocol() == Protocol::Resp3 { 3 } else { 2 };
    Command { id, deadline, protocol, words: request.words() }.encode()
}

/// What a command that was refused unbegun is answered with.
fn encode_unbegun(id: u64) -> Vec<u8> {
    CommandReply { id, end: End::Unbegun, bytes: &[] }.encode()
}

/// What a command is answered with.
pub(super) fn encode_reply(id: u64, part: Part, bytes: &[u8]) -> Vec<u8> {
    let end = match part {
        Part::Reply => End::Reply,
        Part::Count(counts) => End::Count(counts),
        Part::Failed | Part::Wait => End::Failed,
    };
    CommandReply { id, end, bytes }.encode()
}
