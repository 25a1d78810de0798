//! One part of a request, on its own: copied out of where it arrived, because it has to wait.

use gridkv_cluster::Token;
use gridkv_net::resp::Protocol;
use smallvec::SmallVec;

use super::account::{Account, Weight};
use super::forward::Waiter;
use super::job::Access;
use crate::cluster::machine::LinkId;
use crate::server::commands::{Command, Part};
use crate::shard::Shard;

/// Who has asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asker {
    /// A client of this core.
    Client(Waiter),
    /// Another core, for a client of its own.
    Core { core: usize, id: u64 },
    /// Another node, for a client of its own.
    Peer { link: LinkId, id: u64 },
}

/// A part of a request.
pub(crate) struct Request {
    pub(crate) asker: Asker,
    command: &'static Command,
    protocol: Protocol,
    pub(crate) token: Token,
    arguments: Vec<Vec<u8>>,
    /// Counts it for as long as it waits, wherever.
    weight: Weight,
}

impl Request {
    pub(crate) fn new(
        waiting: &Account,
        asker: Asker,
        command: &'static Command,
        protocol: Protocol,
        token: Token,
        arguments: &[&[u8]],
    ) -> Self {
        let arguments: Vec<_> = arguments.iter().map(|argument| argument.to_vec()).collect();
        let own_bytes = |argument: &Vec<u8>| size_of::<Vec<u8>>() + argument.capacity();
        let bytes = size_of::<Self>() + arguments.iter().map(own_bytes).sum::<usize>();
        Self { asker, command, protocol, token, arguments, weight: waiting.weigh(bytes) }
    }

    /// Its memory, in bytes.
    pub(crate) const fn memory_bytes(&self) -> usize {
        self.weight.bytes()
    }

    /// What it does with its key.
    pub(crate) fn access(&self) -> Access {
        self.command.access()
    }

    /// How its client wants to be answered.
    pub(crate) fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Its name, and its arguments as they stand in a part of a request.
    pub(crate) fn words(&self) -> SmallVec<[&[u8]; 8]> {
        let name = std::iter::once(self.command.name.as_bytes());
        name.chain(self.arguments.iter().map(Vec::as_slice)).collect()
    }

    /// Its key.
    pub(crate) fn key(&self) -> &[u8] {
        &self.arguments[self.command.key_of_part()]
    }

    /// Runs it; the reply is appended to `out`.
    pub(crate) fn run(&self, shard: &mut Shard, out: &mut Vec<u8>) -> Part {
        let arguments: SmallVec<[&[u8]; 8]> = self.arguments.iter().map(Vec::as_slice).collect();
        self.command.run_part(shard, self.token, &arguments, out, self.protocol)
    }
}
