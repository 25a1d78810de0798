//! Calls of the embedded API, and steps of commands that run as tasks: closures with somebody who
//! waits for what they return.
//!
//! A job whose value is on disk waits until it was read and is run again from its start; what it
//! returns is told when it is durable.

use gridkv_cluster::replication::Level;
use gridkv_cluster::{Token, Version};
use smallvec::SmallVec;

use super::shards::Shards;
use crate::error::Error;

/// The tokens that a job is about.
pub(crate) type Tokens = SmallVec<[Token; 2]>;

/// What a job does with the key it is about, where keys have copies on other nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// It is about this core alone.
    Local,
    /// It reads the key.
    Read,
    /// It may write the key, or delete it.
    Write,
}

/// Work for a core, which sees its shards.
pub(crate) trait Job: Send {
    /// What it does with its key.
    fn access(&self) -> Access {
        Access::Local
    }

    /// Its key; empty for a job about this core alone.
    fn key(&self) -> &[u8] {
        &[]
    }

    /// Memory of what it carries, in bytes; the same for as long as it waits.
    fn memory_bytes(&self) -> usize {
        self.key().len()
    }

    /// How many replicas it waits for.
    fn level(&self) -> Level {
        Level::Quorum
    }

    /// The tokens it is about: it does not overtake what waits for one of them.
    fn tokens(&self) -> &[Token];

    /// Whether it may be run again.
    fn can_wait(&self) -> bool;

    /// Runs it, and keeps what came of it.
    fn run(&mut self, shards: &mut Shards);

    /// The version that it has found, a deletion's perhaps, or that its write was given: told where
    /// copies are on other nodes, before it is finished. While it runs that is not known for sure.
    fn told(&mut self, _version: Version) {}

    /// Tells what came of it: what it has returned, or this error.
    fn finish(self: Box<Self>, end: Result<(), Error>);
}

/// The key that a job is about.
pub(crate) struct About {
    pub(crate) access: Access,
    pub(crate) key: Vec<u8>,
    pub(crate) level: Level,
    /// Memory of what it carries besides, in bytes.
    pub(crate) bytes: usize,
}

/// Puts the version of a write into what is returned.
pub(crate) type Stamp<T> = fn(&mut T, Version);

impl About {
    /// No key.
    pub(crate) const NOTHING: Self =
        Self { access: Access::Local, key: Vec::new(), level: Level::Quorum, bytes: 0 };
}

/// A closure, and who waits for it.
struct Errand<T, F> {
    tokens: Tokens,
    about: About,
    can_wait: bool,
    work: F,
    stamp: Option<Stamp<T>>,
    result: Option<Result<T, Error>>,
    answer: oneshot::Sender<Result<T, Error>>,
}

/// Where the answer of a job arrives. It breaks off when the job's core stops.
pub(crate) type Answer<T> = oneshot::AsyncReceiver<Result<T, Error>>;

impl<T: Send, F: FnMut(&mut Shards) -> Result<T, Error> + Send> Job for Errand<T, F> {
    fn access(&self) -> Access {
        self.about.access
    }

    fn key(&self) -> &[u8] {
        &self.about.key
    }

    fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.about.key.len() + self.about.bytes
    }

    fn level(&self) -> Level {
        self.about.level
    }

    fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    fn can_wait(&self) -> bool {
        self.can_wait
    }

    fn run(&mut self, shards: &mut Shards) {
        self.result = Some((self.work)(shards));
    }

    fn told(&mut self, version: Version) {
        if let (Some(stamp), Some(Ok(result))) = (self.stamp, &mut self.result) {
            stamp(result, version);
        }
    }

    fn finish(self: Box<Self>, end: Result<(), Error>) {
        let Self { result, answer, .. } = *self;
        let result = end.and_then(|()| result.expect("it has run"));
        // Nobody may be waiting any more.
        let _ = answer.send(result);
    }
}

/// A job that is run again when it had to wait: it must change nothing before it fails with
/// [`Error::Busy`], or know what it has changed.
pub(crate) fn repeatable<T: Send + 'static>(
    tokens: Tokens,
    work: impl FnMut(&mut Shards) -> Result<T, Error> + Send + 'static,
) -> (Box<dyn Job>, Answer<T>) {
    repeatable_about(About::NOTHING, tokens, work, None)
}

/// As [`repeatable`], about a key: where it has copies on other nodes, it runs on a stage, and `stamp`
/// puts the version into what it returns.
pub(crate) fn repeatable_about<T: Send + 'static>(
    about: About,
    tokens: Tokens,
    work: impl FnMut(&mut Shards) -> Result<T, Error> + Send + 'static,
    stamp: Option<Stamp<T>>,
) -> (Box<dyn Job>, Answer<T>) {
    let (answer, receiver) = oneshot::async_channel();
    let errand = Errand { tokens, about, can_wait: true, work, stamp, result: None, answer };
    (Box::new(errand), receiver)
}

/// A job that is run once.
pub(crate) fn once<T: Send + 'static>(
    work: impl FnOnce(&mut Shards) -> T + Send + 'static,
) -> (Box<dyn Job>, Answer<T>) {
    let mut work = Some(work);
    let run = move |shards: &mut Shards| Ok(work.take().expect("it is run once")(shards));
    let (answer, receiver) = oneshot::async_channel();
    let (tokens, about) = (Tokens::new(), About::NOTHING);
    let (work, stamp, result) = (run, None, None);
    let errand = Errand { tokens, about, can_wait: false, work, stamp, result, answer };
    (Box::new(errand), receiver)
}
