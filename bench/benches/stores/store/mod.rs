//! Embedded stores of other people, behind traits that say no more than a workload asks.
//!
//! A [`Session`] does some [`Act`]s at a time. Those of one call belong together: where a store has
//! transactions or batches, the writes among them are one.

mod fjall_store;
mod redb_store;

use std::collections::BTreeSet;
use std::hint::black_box;
use std::path::PathBuf;

use clap::ValueEnum;
use gridkv_bench::options::{CallStyle, MeasureOptions};
use gridkv_bench::record::Answer;
use gridkv_bench::target::callers::{Calls, OwnedRequest, call};
use gridkv_bench::target::{Failure, Measurement, Preparation, Target};
use gridkv_bench::workload::{Generator, Operation, Workload};

pub(crate) use fjall_store::open as open_fjall;
pub(crate) use redb_store::open as open_redb;

/// When a write is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Durability {
    /// When it is on disk.
    Commit,
    /// At once; the store keeps it in memory where it can.
    None,
}

/// How a store is opened.
#[derive(Clone, Debug)]
pub(crate) struct StoreOptions {
    /// The store's own directory: it exists.
    pub(crate) directory: PathBuf,
    /// When a write is answered.
    pub(crate) durability: Durability,
    /// Memory for what is on disk.
    pub(crate) cache_bytes: u64,
}

/// Something to do, and where to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Act<'a> {
    /// Reads a key.
    Get(&'a [u8]),
    /// Asks whether a key is there.
    Exists(&'a [u8]),
    /// Writes a key.
    Set(&'a [u8], &'a [u8]),
    /// Reads a key, then writes it.
    Change(&'a [u8], &'a [u8]),
    /// Removes a key.
    Delete(&'a [u8]),
    /// Reads so many keys from the first that is not before this one.
    Scan(&'a [u8], usize),
}

impl Act<'_> {
    fn is_write(&self) -> bool {
        matches!(self, Self::Set(..) | Self::Change(..) | Self::Delete(_))
    }
}

/// Is shown each value that was read, without a copy where the store has none to make.
pub(crate) type See<'a> = &'a mut dyn FnMut(&[u8]);

/// An open store. Dropping it, and its sessions, closes it.
pub(crate) trait Store {
    /// One thread's way to it.
    fn session(&self) -> Box<dyn Session>;

    /// Writes so many requests' keys, in whichever way is quickest.
    ///
    /// # Errors
    ///
    /// In the store's words.
    fn load(&self, requests: &mut Generator, count: u64) -> Result<(), String>;
}

/// One thread's way to a store.
pub(crate) trait Session: Send {
    /// Does all of `acts`, the writes as one group; says of each whether the key was there, and of
    /// what only writes, that it was written.
    ///
    /// # Errors
    ///
    /// In the store's words.
    fn run(&mut self, acts: &[Act<'_>], see: See<'_>) -> Result<Vec<bool>, String>;
}

/// Opens a store.
pub(crate) type OpenFn = fn(&StoreOptions) -> Result<Box<dyn Store>, String>;

/// A store as a target.
pub(crate) struct StoreTarget {
    name: &'static str,
    open: OpenFn,
    options: StoreOptions,
    workload: Workload,
    measure: MeasureOptions,
    store: Option<Box<dyn Store>>,
}

impl StoreTarget {
    /// A store to be opened by [`Target::prepare`].
    pub(crate) fn new(
        name: &'static str,
        open: OpenFn,
        options: StoreOptions,
        workload: Workload,
        measure: MeasureOptions,
    ) -> Self {
        Self { name, open, options, workload, measure, store: None }
    }

    fn failed(&self, text: &str) -> Failure {
        Failure::Engine(format!("{}: {text}", self.name))
    }

    fn check(&self) -> Result<(), Failure> {
        let unfit = |why: String| Err(Failure::Unfit { target: self.name.to_owned(), why });
        if self.workload.time_to_live.is_some() {
            return unfit("what it holds lives for ever: leave out --ttl".to_owned());
        }
        let refused = self.workload.mix.parts().iter().find(|it| !is_offered(it.0));
        refused.map_or(Ok(()), |it| unfit(format!("it has no {}", self.workload.name_of(it.0))))
    }
}

impl Target for StoreTarget {
    fn prepare(&mut self) -> Result<Preparation, Failure> {
        self.rest();
        self.check()?;
        let store = (self.open)(&self.options).map_err(|text| self.failed(&text))?;
        if self.measure.load {
            let count = self.workload.key_count;
            let mut requests = self.workload.loading(0..count);
            store.load(&mut requests, count).map_err(|text| self.failed(&text))?;
        }
        self.store = Some(store);
        Ok(Preparation::default())
    }

    fn measure(&mut self) -> Result<Measurement, Failure> {
        if self.store.is_none() {
            self.prepare()?;
        }
        let store = self.store.as_ref().expect("prepared above");
        let is_batch = self.measure.engine.calls == CallStyle::Batch;
        let calls =
            |_| -> Box<dyn Calls> { Box::new(SessionCalls { session: store.session(), is_batch }) };
        let calls = (0..self.measure.threads).map(calls).collect();
        // Without the option they may run anywhere: the store has no CPU of its own.
        let cpus = self.measure.client_cpus.as_ref().map_or_else(BTreeSet::new, |it| it.0.clone());
        call(calls, &self.workload, &self.measure, &cpus)
    }

    fn rest(&mut self) {
        self.store = None;
    }
}

/// Whether all stores have `operation`.
fn is_offered(operation: Operation) -> bool {
    match operation {
        Operation::Get
        | Operation::Set
        | Operation::Insert
        | Operation::Scan
        | Operation::ReadModifyWrite
        | Operation::Delete
        | Operation::Exists => true,
        Operation::Increment | Operation::Append | Operation::Command(_) => false,
    }
}

/// How requests become calls.
struct SessionCalls {
    session: Box<dyn Session>,
    is_batch: bool,
}

impl Calls for SessionCalls {
    fn make(&mut self, requests: &mut [OwnedRequest]) -> Vec<Result<Answer, String>> {
        let acts: Vec<Act<'_>> = requests.iter().map(act).collect();
        let group_len = if self.is_batch { acts.len().max(1) } else { 1 };
        let mut answers = Vec::with_capacity(acts.len());
        for group in acts.chunks(group_len) {
            match self.session.run(group, &mut look) {
                Ok(found) => answers.extend(found.into_iter().map(|it| Ok(answer(it)))),
                Err(text) => answers.extend(group.iter().map(|_| Err(text.clone()))),
            }
        }
        answers
    }
}

fn act(request: &OwnedRequest) -> Act<'_> {
    let OwnedRequest { operation, key, value, rows, .. } = request;
    match operation {
        Operation::Get => Act::Get(key),
        Operation::Exists => Act::Exists(key),
        Operation::Set | Operation::Insert => Act::Set(key, value),
        Operation::ReadModifyWrite => Act::Change(key, value),
        Operation::Delete => Act::Delete(key),
        Operation::Scan => Act::Scan(key, rows.len()),
        Operation::Increment | Operation::Append | Operation::Command(_) => {
            unreachable!("refused when the target was prepared")
        }
    }
}

fn answer(is_found: bool) -> Answer {
    if is_found { Answer::Done } else { Answer::Missing }
}

/// The least that a caller does with a value.
fn look(value: &[u8]) {
    black_box(value.first().copied().unwrap_or(0) ^ value.last().copied().unwrap_or(0));
}
