//! What each key of one client may hold.
//!
//! A client owns its keys and gets its answers in the order of its requests. So a key holds what
//! its last *acknowledged* write left, or what one of the writes behind it did that were sent and
//! not answered before the node was killed. Once it was looked at after a restart, it is known
//! again.
//!
//! Nothing here waits, sends or looks at a clock: `now` is an argument, the time since the run
//! began.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use gridkv_net::resp::Value;

use super::deed::{Deed, Keys, key_name};
use super::mark::Mark;
use crate::client::{encode, ok};

/// What a node's clock may differ by from ours, its own rounding included.
const CLOCK_SLACK: Duration = Duration::from_millis(200);

/// A span of time in which something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Not before.
    pub from: Duration,
    /// Not after.
    pub to: Duration,
}

/// What a key holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Absent,
    /// As good as absent, but perhaps not yet collected.
    Expired,
    Number(i64),
    /// A text, and when it dies.
    Text(Mark, Option<Span>),
}

/// What was found under a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    Number(i64),
    Text(Mark),
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    key: usize,
    deed: Deed,
    sequence: u64,
    at: Duration,
}

/// What one client has written, and what came of it.
#[derive(Clone, Debug)]
pub struct Ledger {
    client: u16,
    keys: Keys,
    sequence: u64,
    settled: Vec<State>,
    /// Oldest first.
    unanswered: VecDeque<Sent>,
}

/// What a look at all keys has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Keys that were looked at.
    pub key_count: usize,
    /// Writes that had no answer.
    pub unanswered_count: usize,
    /// Of these, those that have happened all the same.
    pub kept_count: usize,
    /// Keys that are there for good.
    pub lasting_count: usize,
    /// Keys that may be counted by who counts what has expired and was not collected.
    pub counted_max: usize,
}

impl Verified {
    /// Adds another's.
    pub fn add(&mut self, other: &Self) {
        self.key_count += other.key_count;
        self.unanswered_count += other.unanswered_count;
        self.kept_count += other.kept_count;
        self.lasting_count += other.lasting_count;
        self.counted_max += other.counted_max;
    }
}

impl Ledger {
    /// A client that has written nothing.
    #[must_use]
    pub fn new(client: u16, keys: Keys) -> Self {
        let settled = vec![State::Absent; keys.count()];
        Self { client, keys, sequence: 0, settled, unanswered: VecDeque::new() }
    }

    /// Whose it is.
    #[must_use]
    pub fn client(&self) -> u16 {
        self.client
    }

    /// Its keys.
    #[must_use]
    pub fn keys(&self) -> Keys {
        self.keys
    }

    /// Notes a write that is about to be sent, and returns the request.
    pub fn send(&mut self, key: usize, deed: Deed, now: Duration) -> Vec<u8> {
        match deed {
            Deed::Increment => assert!(self.keys.is_number(key)),
            Deed::Set { .. } => assert!(!self.keys.is_number(key)),
            Deed::Delete => {}
        }
        self.sequence += 1;
        let sequence = self.sequence;
        self.unanswered.push_back(Sent { key, deed, sequence, at: now });
        let name = key_name(self.client, key);
        match deed {
            Deed::Delete => encode(&[b"DEL", name.as_slice()]),
            Deed::Increment => encode(&[b"INCR", name.as_slice()]),
            Deed::Set { filler_len, life } => {
                let value = Mark { client: self.client, sequence, filler_len }.value();
                let Some(life) = life else { return encode(&[b"SET", name.as_slice(), &value]) };
                let millis = life.as_millis().to_string();
                encode(&[b"SET", name.as_slice(), &value, b"PX", millis.as_bytes()])
            }
        }
    }

    /// The oldest write without an answer was answered so: it has happened.
    ///
    /// # Errors
    ///
    /// When that is not the answer that it must have.
    ///
    /// # Panics
    ///
    /// When all were answered.
    pub fn answer(&mut self, reply: &Value, now: Duration) -> Result<(), String> {
        let sent = self.unanswered.pop_front().expect("an answer belongs to a write");
        let before = self.settled[sent.key];
        let done = Span { from: sent.at, to: now };
        let after = self.state_after(before, &sent, done);
        let is_right = match (sent.deed, after) {
            (Deed::Increment, State::Number(number)) => *reply == Value::Integer(number),
            (Deed::Delete, _) => {
                *reply == Value::Integer(1) && before.may_be_there(done)
                    || *reply == Value::Integer(0) && before.may_be_gone(done)
            }
            _ => *reply == ok(),
        };
        self.settled[sent.key] = after;
        if is_right {
            return Ok(());
        }
        Err(format!(
            "{}: {:?} was answered with {reply:?}, although it held {before}",
            self.name(sent.key),
            sent.deed
        ))
    }

    /// Another client has read this write of a key: it has happened, and those before it.
    pub fn see(&mut self, key: usize, sequence: u64, now: Duration) {
        let is_unanswered =
            self.unanswered.iter().any(|it| it.key == key && it.sequence == sequence);
        if !is_unanswered {
            return;
        }
        for sent in std::mem::take(&mut self.unanswered) {
            if sent.key == key && sent.sequence <= sequence {
                let done = Span { from: sent.at, to: now };
                self.settled[key] = self.state_after(self.settled[key], &sent, done);
            } else {
                self.unanswered.push_back(sent);
            }
        }
    }

    /// Compares all keys, by index, with what they may hold; `asked` is when they were read. After
    /// that no write is without an outcome.
    ///
    /// # Errors
    ///
    /// The first key that holds something else.
    pub fn verify(&mut self, values: &[Option<Vec<u8>>], asked: Span) -> Result<Verified, String> {
        assert_eq!(values.len(), self.keys.count());
        let mut unanswered = vec![Vec::new(); values.len()];
        let mut verified = Verified {
            key_count: values.len(),
            unanswered_count: self.unanswered.len(),
            ..Verified::default()
        };
        for sent in self.unanswered.drain(..) {
            unanswered[sent.key].push(sent);
        }
        for (key, value) in values.iter().enumerate() {
            let found = self.read(key, value.as_deref())?;
            let mut states = vec![self.settled[key]];
            for sent in &unanswered[key] {
                let done = Span { from: sent.at, to: asked.from };
                states.push(self.state_after(states[states.len() - 1], sent, done));
            }
            // The latest, if several are the same.
            let Some(outcome) = states.iter().rposition(|it| it.allows(found, asked)) else {
                return Err(self.contradiction(key, &states, found));
            };
            verified.kept_count += outcome;
            self.settled[key] = match (states[outcome], found) {
                (State::Text(..), Found::Nothing) => State::Expired,
                (state, _) => state,
            };
            let is_lasting = matches!(self.settled[key], State::Number(_) | State::Text(_, None));
            verified.lasting_count += usize::from(is_lasting);
            verified.counted_max += usize::from(self.settled[key] != State::Absent);
        }
        Ok(verified)
    }

    fn state_after(&self, before: State, sent: &Sent, done: Span) -> State {
        match (sent.deed, before) {
            // What has expired need not be deleted, and is collected at leisure.
            (Deed::Delete, State::Expired) => State::Expired,
            (Deed::Delete, State::Text(..)) if before.may_be_gone(done) => State::Expired,
            (Deed::Delete, _) => State::Absent,
            (Deed::Increment, State::Number(number)) => State::Number(number + 1),
            (Deed::Increment, _) => State::Number(1),
            (Deed::Set { filler_len, life }, _) => {
                let mark = Mark { client: self.client, sequence: sent.sequence, filler_len };
                let dies = life.map(|life| Span { from: done.from + life, to: done.to + life });
                State::Text(mark, dies)
            }
        }
    }

    fn read(&self, key: usize, value: Option<&[u8]>) -> Result<Found, String> {
        let Some(value) = value else { return Ok(Found::Nothing) };
        let found = if self.keys.is_number(key) {
            let text = std::str::from_utf8(value).ok();
            let number = text.and_then(|it| it.parse().ok()).map(Found::Number);
            number.ok_or_else(|| format!("no number: {}", value.escape_ascii()))
        } else {
            Mark::read(value).map(Found::Text)
        };
        found.map_err(|wrong| format!("{}: half a write: holds {wrong}", self.name(key)))
    }

    fn contradiction(&self, key: usize, states: &[State], found: Found) -> String {
        let mut text = format!("{}: holds {found}, but {} ", self.name(key), states[0]);
        text += "was acknowledged";
        for state in &states[1..] {
            text += &format!(", then {state} sent without an answer");
        }
        text
    }

    fn name(&self, key: usize) -> String {
        String::from_utf8_lossy(&key_name(self.client, key)).into_owned()
    }
}

impl State {
    fn allows(self, found: Found, asked: Span) -> bool {
        match (self, found) {
            (_, Found::Nothing) => self.may_be_gone(asked),
            (Self::Number(held), Found::Number(number)) => held == number,
            (Self::Text(held, _), Found::Text(mark)) => held == mark && self.may_be_there(asked),
            _ => false,
        }
    }

    /// Whether a look within a span may find it.
    fn may_be_there(self, asked: Span) -> bool {
        match self {
            Self::Absent | Self::Expired => false,
            Self::Text(_, Some(dies)) => asked.from <= dies.to + CLOCK_SLACK,
            Self::Number(_) | Self::Text(_, None) => true,
        }
    }

    /// Whether a look within a span may find nothing.
    fn may_be_gone(self, asked: Span) -> bool {
        match self {
            Self::Absent | Self::Expired => true,
            Self::Text(_, Some(dies)) => asked.to + CLOCK_SLACK >= dies.from,
            Self::Number(_) | Self::Text(_, None) => false,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("nothing"),
            Self::Expired => f.write_str("nothing, as it had expired,"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(mark, None) => write!(f, "{mark}"),
            Self::Text(mark, Some(dies)) => {
                write!(f, "{mark}, which dies between {:?} and {:?},", dies.from, dies.to)
            }
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(mark) => write!(f, "{mark}"),
        }
    }
}

#[cfg(test)]
mod tests;
