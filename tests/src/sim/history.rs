//! What clients wanted, and what came of it.

use std::collections::BTreeSet;
use std::fmt;

use gridkv::Outcome;
use gridkv::simulation::Called;
use gridkv_cluster::replication::Level;
use gridkv_cluster::{Instant, Version, WallTime};

use super::process::End;

/// What a key is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Anything at any level.
    Mixed,
    /// Anything at level linearizable, and reads at any.
    Register,
    /// Increments, and reads at level linearizable.
    Counter,
}

impl Class {
    /// Whether all that is written was agreed.
    pub(super) const fn is_agreed(self) -> bool {
        matches!(self, Self::Register | Self::Counter)
    }
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
    /// Everything is removed: no client's.
    Flush,
}

impl Kind {
    /// Whether it is made of what it replaces.
    pub(super) const fn is_change(self) -> bool {
        matches!(self, Self::Increment | Self::Append | Self::SetIfAbsent | Self::CompareAndSet)
    }
}

/// A key's value: none, or some bytes.
pub(super) type Value = Option<Vec<u8>>;

/// What a key has: a value, and when that stops to exist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) value: Value,
    pub(super) expires_at: Option<WallTime>,
}

/// How an operation has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Not yet; or never, for its node has died.
    None,
    Found(Option<(Version, Value)>),
    /// With its version, where that is told: not by who was handed the command.
    Acknowledged(Option<Version>),
    NotApplied,
    Unknown,
}

/// What a change's client can tell of what it was made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Before {
    Exactly(Value),
    /// So many bytes, or nothing.
    Bytes(usize),
    /// Anything but nothing.
    Something,
}

impl Before {
    /// Whether it may have been this.
    pub(super) fn fits(&self, value: &Value) -> bool {
        match self {
            Self::Exactly(before) => before == value,
            Self::Bytes(count) => value.as_ref().map_or(0, Vec::len) == *count,
            Self::Something => value.is_some(),
        }
    }

    /// All of it, where that is known.
    pub(super) fn exactly(&self) -> Option<&Value> {
        match self {
            Self::Exactly(before) => Some(before),
            Self::Bytes(_) | Self::Something => None,
        }
    }
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
        if let Some(expires_at) = self.expires_at {
            write!(f, ", until {expires_at}")?;
        }
        write!(f, ", from {} us to {completed:?}", millis(*invoked))?;
        if let Some(before) = before {
            let exactly = before.exactly().map(|it| it.as_deref().map(text));
            write!(f, ", made of {exactly:?} {:?}", exactly.is_none().then_some(before))?;
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
    /// What a change was made of, as its reply tells.
    pub(super) before: Option<Before>,
    pub(super) ending: Ending,
}

impl Operation {
    /// What the operation makes of a value; `None` where it leaves it.
    pub(super) fn apply(&self, before: &Value) -> Option<Value> {
        match self.kind {
            Kind::Read => None,
            Kind::Write => Some(Some(self.value.clone())),
            Kind::Delete | Kind::Flush => Some(None),
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

    /// What the operation makes of what a key has.
    pub(super) fn apply_to(&self, before: &Held) -> Option<Held> {
        let value = self.apply(&before.value)?;
        // What is appended to keeps its expiry; what replaces it brings its own.
        let keeps = matches!(self.kind, Kind::Append | Kind::Increment);
        let expires_at = if keeps { before.expires_at } else { self.expires_at };
        let expires_at = expires_at.filter(|_| value.is_some());
        Some(Held { value, expires_at })
    }

    /// Whether it may have changed something.
    pub(super) fn may_have_written(&self) -> bool {
        self.kind != Kind::Read && self.ending != Ending::NotApplied
    }

    /// Whether it was acknowledged and has changed something: with which version.
    pub(super) fn written(&self) -> Option<Version> {
        let Ending::Acknowledged(version) = self.ending else { return None };
        version.filter(|_| self.has_changed())
    }

    /// Whether it has changed something, if it was acknowledged.
    fn has_changed(&self) -> bool {
        let before = self.before.as_ref().and_then(Before::exactly);
        before.is_none_or(|before| self.apply(before).is_some())
    }

    /// Whether it has changed something.
    pub(super) fn has_written(&self) -> bool {
        matches!(self.ending, Ending::Acknowledged(_)) && self.has_changed()
    }

    /// Whether it has seen something, and does not tell what.
    pub(super) fn hides_what_it_saw(&self) -> bool {
        self.before.as_ref().is_some_and(|before| before.exactly().is_none())
    }

    /// The words of the command, for what is made of what it replaces.
    pub(super) fn words(&self, key: &[u8]) -> Vec<Vec<u8>> {
        let words: Vec<&[u8]> = match (self.kind, &self.expected) {
            (Kind::Increment, _) => vec![b"INCR", key],
            (Kind::Append, _) => vec![b"APPEND", key, &self.value],
            (Kind::CompareAndSet, Some(expected)) => {
                vec![b"SET", key, &self.value, b"IFEQ", expected, b"GET"]
            }
            (Kind::SetIfAbsent | Kind::CompareAndSet, _) => {
                vec![b"SET", key, &self.value, b"NX", b"GET"]
            }
            (Kind::Read | Kind::Write | Kind::Delete, _) => unreachable!("these are calls"),
            (Kind::Flush, _) => unreachable!("it is about all keys"),
        };
        let mut words: Vec<Vec<u8>> = words.into_iter().map(<[u8]>::to_vec).collect();
        if let Some(expires_at) = self.expires_at {
            words.extend([b"PXAT".to_vec(), expires_at.as_millis().to_string().into_bytes()]);
        }
        words
    }

    /// What the reply to that tells.
    fn on_reply(&mut self, reply: &[u8]) {
        let number = || {
            let digits = reply.strip_prefix(b":").and_then(|it| it.strip_suffix(b"\r\n"));
            let digits = std::str::from_utf8(digits.expect("an integer")).expect("digits");
            digits.parse::<usize>().expect("an integer")
        };
        self.before = Some(match self.kind {
            Kind::Increment => match number() - 1 {
                0 => Before::Exactly(None),
                before => Before::Exactly(Some(before.to_string().into_bytes())),
            },
            Kind::Append => Before::Bytes(number() - self.value.len()),
            _ if reply == b"_\r\n" => Before::Exactly(None),
            _ => {
                let end = reply.windows(2).position(|it| it == b"\r\n").expect("a bulk string");
                Before::Exactly(Some(reply[end + 2..reply.len() - 2].to_vec()))
            }
        });
        self.ending = Ending::Acknowledged(None);
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
    /// By their numbers.
    pub(super) pending: BTreeSet<usize>,
}

impl Ledger {
    /// An operation has ended: which, if a client waits for it.
    pub(super) fn end(&mut self, tag: u64, at: Instant, end: End) -> Option<usize> {
        let index = usize::try_from(tag).expect("an index");
        if !self.pending.remove(&index) {
            return None;
        }
        let operation = &mut self.operations[index];
        assert_eq!(operation.ending, Ending::None, "an operation ends once");
        operation.completed = Some(at);
        match end {
            End::Called(Ok(Called::Found(version, value))) => {
                let found = (version > Version::ZERO).then_some((version, value));
                operation.ending = Ending::Found(found);
            }
            End::Called(Ok(Called::Written(version))) => {
                operation.ending = Ending::Acknowledged(Some(version));
            }
            End::Called(Ok(Called::Deleted(version, was_there))) => {
                let nothing = Before::Exactly(None);
                operation.before = Some(if was_there { Before::Something } else { nothing });
                operation.ending = Ending::Acknowledged(Some(version).filter(|_| was_there));
            }
            End::Called(Err(error)) => {
                operation.ending = match error.outcome() {
                    Outcome::NotApplied => Ending::NotApplied,
                    Outcome::Unknown => Ending::Unknown,
                };
            }
            End::Replied(Ok(reply)) => operation.on_reply(&reply),
            End::Replied(Err(text)) => {
                let is_unknown = text.starts_with("UNKNOWN");
                operation.ending = if is_unknown { Ending::Unknown } else { Ending::NotApplied };
            }
        }
        Some(index)
    }

    /// A node has died: what its clients wait for never ends. Whose that was.
    pub(super) fn abandon(&mut self, node: usize) -> Vec<usize> {
        let mut clients = Vec::new();
        let operations = &self.operations;
        self.pending.retain(|index| {
            let operation = &operations[*index];
            if operation.node == node {
                clients.push(operation.client);
            }
            operation.node != node
        });
        clients
    }
}
