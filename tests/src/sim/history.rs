//! What clients wanted, and what came of it.

use std::collections::BTreeMap;
use std::fmt;

use gridkv_cluster::replication::{Computed, Level, OpId, Outcome};
use gridkv_cluster::{Instant, Version, WallTime};

use super::process::{End, Functions};

/// What a key is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Anything at any level.
    Mixed,
    /// Anything at level linearizable.
    Register,
    /// Increments, and reads at level linearizable.
    Counter,
}

/// What a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Read,
    Write,
    Delete,
    Increment,
    Append,
    SetIfAbsent,
    CompareAndSet,
}

impl Kind {
    /// Whether it is made of what it replaces.
    pub(super) const fn is_change(self) -> bool {
        matches!(self, Self::Increment | Self::Append | Self::SetIfAbsent | Self::CompareAndSet)
    }
}

/// A key's value: none, or some bytes.
pub(super) type Value = Option<Vec<u8>>;

/// How an operation has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Not yet; or never, for its node has died.
    None,
    Found(Option<(Version, Value)>),
    Acknowledged(Version),
    NotApplied,
    Unknown,
}

/// A value in a few characters.
pub(super) fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(&value[..value.len().min(40)]).replace("xxxx", "")
}

impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = |at: Instant| at.as_nanos() / 1_000 % 1_000_000_000;
        let Self { client, node, key, kind, level, invoked, completed, before, ending, .. } = self;
        let completed = completed.map(millis);
        write!(
            f,
            "client {client} at n{node}, key-{key} {kind:?} {level:?} {}",
            text(&self.value)
        )?;
        write!(f, ", from {} us to {completed:?}", millis(*invoked))?;
        if let Some(before) = before {
            write!(f, ", made of {:?}", before.as_deref().map(text))?;
        }
        match ending {
            Ending::Found(Some((version, value))) => {
                let (version, value) = (version.timestamp.0, value.as_deref().map(text));
                write!(f, ": found {version} {value:?}")
            }
            ending => write!(f, ": {ending:?}"),
        }
    }
}

/// One operation.
#[derive(Clone)]
pub(super) struct Operation {
    pub(super) client: usize,
    pub(super) node: usize,
    pub(super) key: usize,
    pub(super) kind: Kind,
    pub(super) level: Level,
    /// Replicas that it waits for.
    pub(super) needed: usize,
    /// What it writes, appends or sets.
    pub(super) value: Vec<u8>,
    /// What a compare-and-set compares with.
    pub(super) expected: Value,
    pub(super) expires_at: Option<WallTime>,
    pub(super) invoked: Instant,
    pub(super) completed: Option<Instant>,
    /// What a change was last made of.
    pub(super) before: Option<Value>,
    pub(super) ending: Ending,
}

impl Operation {
    /// What the operation makes of a value; `None` where it leaves it.
    pub(super) fn apply(&self, before: &Value) -> Option<Value> {
        match self.kind {
            Kind::Read => None,
            Kind::Write => Some(Some(self.value.clone())),
            Kind::Delete => Some(None),
            Kind::Increment => {
                let number = before.as_deref().map_or(0, number);
                Some(Some((number + 1).to_string().into_bytes()))
            }
            Kind::Append => {
                let mut after = before.clone().unwrap_or_default();
                after.extend_from_slice(&self.value);
                Some(Some(after))
            }
            Kind::SetIfAbsent => before.is_none().then(|| Some(self.value.clone())),
            Kind::CompareAndSet => (*before == self.expected).then(|| Some(self.value.clone())),
        }
    }

    /// Whether it may have changed something.
    pub(super) fn may_have_written(&self) -> bool {
        self.kind != Kind::Read && self.ending != Ending::NotApplied
    }

    /// Whether it was acknowledged and has changed something: with which version.
    pub(super) fn written(&self) -> Option<Version> {
        let Ending::Acknowledged(version) = self.ending else { return None };
        let is_kept = self.before.as_ref().is_some_and(|before| self.apply(before).is_none());
        (!is_kept).then_some(version)
    }

    /// Whether it may have changed something, and nobody knows.
    pub(super) fn is_uncertain(&self) -> bool {
        self.kind != Kind::Read && matches!(self.ending, Ending::None | Ending::Unknown)
    }
}

/// The number that a counter shows.
pub(super) fn number(text: &[u8]) -> u64 {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).unwrap_or(u64::MAX / 2)
}

/// All operations, and which are under way.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) operations: Vec<Operation>,
    pub(super) pending: BTreeMap<(usize, OpId), usize>,
}

impl Ledger {
    /// An operation of a node has ended: which, if a client waits for it.
    pub(super) fn end(&mut self, node: usize, op: OpId, at: Instant, end: End) -> Option<usize> {
        let index = self.pending.remove(&(node, op))?;
        let operation = &mut self.operations[index];
        assert_eq!(operation.ending, Ending::None, "an operation ends once");
        operation.completed = Some(at);
        operation.ending = match end {
            End::Record(found) => Ending::Found(found),
            End::Done(Outcome::Acknowledged { version, .. }) => Ending::Acknowledged(version),
            End::Done(Outcome::NotApplied(_)) => Ending::NotApplied,
            End::Done(Outcome::Unknown(_)) => Ending::Unknown,
        };
        Some(index)
    }

    /// A node has died: what its clients wait for never ends. Whose that was.
    pub(super) fn abandon(&mut self, node: usize) -> Vec<usize> {
        let mut clients = Vec::new();
        self.pending.retain(|(at, _), index| {
            if *at == node {
                clients.push(self.operations[*index].client);
            }
            *at != node
        });
        clients
    }
}

impl Functions for Ledger {
    fn compute(&mut self, node: usize, op: OpId, before: Option<&[u8]>) -> Computed {
        // A change whose client has given up is told to nobody.
        let Some(index) = self.pending.get(&(node, op)) else { return Computed::Keep };
        let operation = &mut self.operations[*index];
        let before = before.map(<[u8]>::to_vec);
        let after = operation.apply(&before);
        operation.before = Some(before);
        match after {
            None => Computed::Keep,
            Some(value) => Computed::Put { value, expires_at: None },
        }
    }
}
