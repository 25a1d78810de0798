//! One part of a request, on its own: copied out of where it arrived, because it has to wait.

use gridkv_cluster::Token;
use gridkv_net::resp::Protocol;
use smallvec::SmallVec;

use super::forward::Waiter;
use crate::server::commands::{Command, Part};
use crate::shard::Shard;

/// Who has asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asker {
    /// A client of this core.
    Client(Waiter),
    /// Another core, for a client of its own.
    Core { core: usize, id: u64 },
}

/// A part of a request.
pub(crate) struct Request {
    pub(crate) asker: Asker,
    command: &'static Command,
    protocol: Protocol,
    pub(crate) token: Token,
    arguments: Vec<Vec<u8>>,
}

impl Request {
    pub(crate) fn new(
        asker: Asker,
        command: &'static Command,
        protocol: Protocol,
        token: Token,
        arguments: &[&[u8]],
    ) -> Self {
        let arguments = arguments.iter().map(|argument| argument.to_vec()).collect();
        Self { asker, command, protocol, token, arguments }
    }

    /// Runs it; the reply is appended to `out`.
    pub(crate) fn run(&self, shard: &mut Shard, out: &mut Vec<u8>) -> Part {
        let arguments: SmallVec<[&[u8]; 8]> = self.arguments.iter().map(Vec::as_slice).collect();
        self.command.run_part(shard, self.token, &arguments, out, self.protocol)
    }
}
