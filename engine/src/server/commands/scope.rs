//! Which keys the commands over all keys treat, where keys have copies on several nodes: SCAN, KEYS and
//! DBSIZE.
//!
//! A client that talks to one node wants all keys from it. One that knows of the cluster asks each
//! master and adds up: each answers for the slots that it leads, and so each key is there once. Which
//! of the two a connection belongs to is found at its first such command, and stays so:
//!
//! - it has asked `CLUSTER SLOTS` or `SHARDS` itself, or said `READONLY`, `READWRITE` or `ASKING`; or
//! - it has named its library, and a connection of the same library and version from the same host has
//!   asked any node for `CLUSTER SLOTS`, `SHARDS` or `NODES` ([`kin`](crate::cluster::kin)).
//!
//! `GRIDKV SCOPE` says it instead.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;

use gridkv_cluster::wire::call::Kin;

use super::{Failure, TaskCall};

/// Which keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// All there are.
    All,
    /// Those in slots that this node leads.
    Led,
}

#[derive(Clone, Copy, Debug, Default)]
enum Choice {
    #[default]
    Open,
    /// It follows from what the client does.
    Found(Scope),
    /// The client has said it.
    Fixed(Scope),
}

/// A connection's scope, for its session and its tasks.
#[derive(Clone, Debug, Default)]
pub(crate) struct ScopeCell(Rc<Cell<Choice>>);

impl ScopeCell {
    /// What it is; `None` while it is open.
    pub(crate) fn known(&self) -> Option<Scope> {
        match self.0.get() {
            Choice::Open => None,
            Choice::Found(scope) | Choice::Fixed(scope) => Some(scope),
        }
    }

    /// Takes what follows from what the client does, unless it has said it.
    pub(crate) fn find(&self, scope: Scope) {
        if !matches!(self.0.get(), Choice::Fixed(_)) {
            self.0.set(Choice::Found(scope));
        }
    }

    /// Takes what the client says; `None` for what it was at the start.
    pub(crate) fn fix(&self, scope: Option<Scope>) {
        self.0.set(scope.map_or(Choice::Open, Choice::Fixed));
    }
}

/// What a command that runs as a task knows of its client.
#[derive(Clone, Debug)]
pub(crate) struct Asker {
    /// Where the client has reached this node.
    pub(crate) local_address: Option<SocketAddr>,
    pub(crate) kin: Option<Kin>,
    pub(crate) scope: ScopeCell,
}

/// The client has asked which slots lie where.
pub(super) async fn on_asked(call: &TaskCall) -> Result<(), Failure> {
    call.client.scope.find(Scope::Led);
    on_listed(call).await
}

/// The client has asked who is there: libraries do, and people. Of these nothing follows.
pub(super) async fn on_listed(call: &TaskCall) -> Result<(), Failure> {
    if let Some(kin) = call.client.kin.clone() {
        call.client.scope.find(Scope::Led);
        call.handle.note_kin(kin).await?;
    }
    Ok(())
}

/// The scope of the connection.
pub(super) async fn scope_of(call: &TaskCall) -> Result<Scope, Failure> {
    if !call.handle.is_replicated() {
        return Ok(Scope::All);
    }
    if let Some(scope) = call.client.scope.known() {
        return Ok(scope);
    }
    let has_asked = match &call.client.kin {
        Some(kin) => call.handle.has_asked(kin).await?,
        None => false,
    };
    let scope = if has_asked { Scope::Led } else { Scope::All };
    call.client.scope.find(scope);
    Ok(scope)
}
