//! Snapshots of a node that serves.
//!
//! ```text
//!   cores   pin ---> pass the cut ---> roll, durable ---------------------> unpin
//!   thread      cut           waits            links, SNAPSHOT, rename
//! ```
//!
//! A thread of its own leads; cores are asked for short steps, and go on serving between them.
//!
//! 1. The shards keep all files of their logs from here on.
//! 2. The cut is the end of a millisecond that no clock of the node has passed, and none of another
//!    node's whose writes are here. Each clock of this node passes it: what it writes from then on is
//!    newer, and is not in the snapshot.
//! 3. Each shard rolls its log, so that all that is older is in files which are not written to any
//!    more, and waits until it is durable.
//! 4. The files get a second name in the snapshot's directory.
//!
//! # What a snapshot holds
//!
//! Every write whose version is at most the cut, and no other. A write that was answered before the
//! snapshot was asked for is there; one that was begun after it was taken is not. The wall clock is
//! waited for before the clocks are told, so that of two writes, one made after the other was
//! answered, the later is not there alone.
//!
//! # Invariants
//!
//! - One snapshot at a time.
//! - What is pinned is unpinned, whatever becomes of the snapshot.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures_lite::future::block_on;
use gridkv_cluster::{Timestamp, WallTime};
use gridkv_storage::directory::{Contents, DirectoryError, NameError, SnapshotName};

use crate::core::job::Tokens;
use crate::core::shards::Shards;
use crate::core::{Core, wall_time};
use crate::data::Data;
use crate::error::Error;
use crate::handle::Handle;
use crate::shard::Shard;

/// How long the wall clock is waited for: it is past the cut within a millisecond, unless it was set
/// back.
const WALL_LIMIT: Duration = Duration::from_millis(20);

/// A snapshot that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Its name.
    pub name: String,
    /// Its directory.
    pub path: PathBuf,
    /// The highest timestamp of a write that is in it.
    pub cut: Timestamp,
    /// When it was asked for.
    pub created_at: WallTime,
    /// Files of logs in it.
    pub file_count: usize,
    /// Their bytes, which they share with the node's own files for as long as it keeps these.
    pub bytes: u64,
    /// How long it took.
    pub took: Duration,
}

/// A snapshot was not taken. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The store keeps no files.
    #[error("snapshots need a store on disk: this node's `storage` is {storage}")]
    NotOnDisk {
        /// The backend.
        storage: String,
    },
    /// There is one under way.
    #[error("a snapshot is being taken already: try again when it is done")]
    UnderWay,
    /// It cannot be called so.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A shard could not take part.
    #[error(transparent)]
    Shard(#[from] Error),
    /// Its files could not be made.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// No thread could be started.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

/// The snapshots of a node.
pub(crate) struct Snapshots {
    /// A handle may outlive its engine, and must not keep others out of the directory.
    data: Weak<Data>,
    state: Mutex<State>,
}

/// What is known about the snapshots of this run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SnapshotFigures {
    /// Since when one is under way.
    pub(crate) begun_at: Option<Instant>,
    /// When the last one that succeeded was asked for; before the first, when the node started.
    pub(crate) saved_at: WallTime,
    /// Whether the last one has succeeded.
    pub(crate) is_well: bool,
    /// How long the last one took.
    pub(crate) took: Option<Duration>,
    /// How many have succeeded.
    pub(crate) count: u64,
    /// Records written by all shards up to the last one that succeeded.
    pub(crate) record_count: u64,
}

struct State {
    figures: SnapshotFigures,
    thread: Option<JoinHandle<()>>,
}

/// Where what comes of a snapshot arrives.
type Outcome = oneshot::AsyncReceiver<Result<SnapshotInfo, SnapshotError>>;

impl Snapshots {
    pub(crate) fn new(data: Option<&Arc<Data>>, started_at: WallTime) -> Self {
        let figures = SnapshotFigures {
            begun_at: None,
            saved_at: started_at,
            is_well: true,
            took: None,
            count: 0,
            record_count: 0,
        };
        let state = Mutex::new(State { figures, thread: None });
        Self { data: data.map_or_else(Weak::new, Arc::downgrade), state }
    }

    pub(crate) fn figures(&self) -> SnapshotFigures {
        self.state().figures
    }

    /// Waits until none is under way.
    pub(crate) fn finish(&self) {
        let thread = self.state().thread.take();
        if let Some(thread) = thread {
            // A panic there has been reported by its own thread.
            let _ = thread.join();
        }
    }

    /// What is in it is whole after each step, so a panic elsewhere does no harm.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what has come of the one under way.
    fn end(&self, took: Duration, taken: Option<(WallTime, u64)>) {
        let figures = &mut self.state().figures;
        figures.begun_at = None;
        figures.took = Some(took);
        figures.is_well = taken.is_some();
        if let Some((saved_at, record_count)) = taken {
            figures.saved_at = saved_at;
            figures.record_count = record_count;
            figures.count += 1;
        }
    }
}

/// Starts a snapshot, named by the time unless it is given a name.
pub(crate) fn start(handle: &Handle, name: Option<&str>) -> Result<Outcome, SnapshotError> {
    let snapshots = &handle.node().snapshots;
    let Some(data) = snapshots.data.upgrade() else {
        let storage = handle.node().config.storage.clone();
        return Err(SnapshotError::NotOnDisk { storage });
    };
    let created_at = wall_time();
    let name = match name {
        Some(name) => SnapshotName::new(name)?,
        None => SnapshotName::new(&name_of(created_at))?,
    };
    let (sender, outcome) = oneshot::async_channel();
    let mut state = snapshots.state();
    // A thread that has panicked has not said that it is over.
    let is_running = state.thread.as_ref().is_some_and(|it| !it.is_finished());
    if is_running && state.figures.begun_at.is_some() {
        return Err(SnapshotError::UnderWay);
    }
    let begun_at = Instant::now();
    let leader =
        Leader { handle: Handle::of_command(handle.node()), data, name, created_at, begun_at };
    let lead = move || {
        let taken = leader.lead();
        // The directory is let go of before anybody is told.
        drop(leader);
        // Nobody may be waiting.
        let _ = sender.send(taken);
    };
    let thread = std::thread::Builder::new().name("gridkv-snapshot".to_owned()).spawn(lead);
    state.thread = Some(thread.map_err(SnapshotError::Thread)?);
    state.figures.begun_at = Some(begun_at);
    Ok(outcome)
}

/// A name that sorts by time.
fn name_of(time: WallTime) -> String {
    let time = std::time::UNIX_EPOCH + Duration::from_millis(time.as_millis());
    humantime::format_rfc3339_millis(time).to_string().replace(':', "-")
}

/// What leads a snapshot.
struct Leader {
    handle: Handle,
    data: Arc<Data>,
    name: SnapshotName,
    created_at: WallTime,
    begun_at: Instant,
}

/// What a core's shards add to a snapshot.
struct Rolled {
    /// Names of files, by shard.
    files: Vec<Vec<String>>,
    /// Records written so far.
    record_count: u64,
}

impl Leader {
    fn lead(&self) -> Result<SnapshotInfo, SnapshotError> {
        let taken = self.take();
        let took = self.begun_at.elapsed();
        let name = self.name.as_str();
        match &taken {
            Ok((info, _)) => tracing::info!(
                name, path = %info.path.display(), files = info.file_count, bytes = info.bytes,
                ?took, "snapshot taken"
            ),
            Err(error) => tracing::error!(name, %error, "a snapshot has failed"),
        }
        let known = taken.as_ref().ok().map(|(_, record_count)| (self.created_at, *record_count));
        self.handle.node().snapshots.end(took, known);
        taken.map(|(info, _)| SnapshotInfo { took, ..info })
    }

    fn take(&self) -> Result<(SnapshotInfo, u64), SnapshotError> {
        let mut pins = Pins { handle: &self.handle, cores: Vec::new() };
        let latest = pins.pin()?;
        let cut = Timestamp::last_of(wall_time().max(latest.wall()));
        let waited_from = Instant::now();
        while wall_time() <= cut.wall() && waited_from.elapsed() < WALL_LIMIT {
            std::thread::sleep(Duration::from_micros(200));
        }
        let pass = move |core: &mut Core| {
            core.world.shards.iter_mut().for_each(|shard| shard.pass(cut));
            if let Some(machine) = &mut core.world.machine {
                machine.pass(cut);
            }
        };
        block_on(self.handle.on_all_cores(pass))?;
        let (mut files, mut record_count) = (Vec::new(), 0);
        for core in 0..self.handle.node().layout.core_count {
            let rolled = block_on(roll(&self.handle, core))?;
            files.extend(rolled.files);
            record_count += rolled.record_count;
        }
        let created_ms = self.created_at.as_millis();
        let contents = Contents { name: &self.name, cut, created_ms, files: &files };
        let is_cancelled = || self.handle.node().quit.load(Ordering::Acquire);
        let (path, note) = self.data.directory().take_snapshot(&contents, &is_cancelled)?;
        let info = SnapshotInfo {
            name: self.name.as_str().to_owned(),
            path,
            cut,
            created_at: self.created_at,
            file_count: note.file_count,
            bytes: note.bytes,
            took: Duration::ZERO,
        };
        Ok((info, record_count))
    }
}

/// Rolls the logs of a core's shards; returns when what went before is durable.
async fn roll(handle: &Handle, core: usize) -> Result<Rolled, Error> {
    let mut rolled_count = 0;
    // Run again when a log has no room to roll: what was rolled stays so.
    let work = move |shards: &mut Shards| {
        for shard in shards.iter_mut().skip(rolled_count) {
            shard.roll()?;
            rolled_count += 1;
        }
        let logs = shards.iter().filter_map(Shard::log_stats);
        let record_count = logs.map(|log| log.record_count).sum();
        let files = shards.iter_mut().map(Shard::settled_files).collect();
        Ok(Rolled { files, record_count })
    };
    handle.again_on(core, Tokens::new(), work).await
}

/// The cores whose shards keep their files.
struct Pins<'a> {
    handle: &'a Handle,
    cores: Vec<usize>,
}

impl Pins<'_> {
    /// Pins all shards. Returns the highest timestamp that one of them knows.
    fn pin(&mut self) -> Result<Timestamp, Error> {
        let mut latest = Timestamp::ZERO;
        for core in 0..self.handle.node().layout.core_count {
            let pin = |shards: &mut Shards| {
                shards.iter_mut().map(Shard::pin).max().unwrap_or(Timestamp::ZERO)
            };
            latest = latest.max(block_on(self.handle.on_shards(core, pin))?);
            self.cores.push(core);
        }
        Ok(latest)
    }
}

impl Drop for Pins<'_> {
    fn drop(&mut self) {
        for core in self.cores.drain(..) {
            let unpin = |shards: &mut Shards| shards.iter_mut().for_each(Shard::unpin);
            // Fails only when the core has ended, and its pins with it.
            let _ = block_on(self.handle.on_shards(core, unpin));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_made_of_the_time_is_one_and_says_when() {
        let name = name_of(WallTime::from_millis(1_795_305_600_123));
        assert_eq!(name, "2026-11-22T00-00-00.123Z");
        assert_eq!(SnapshotName::new(&name).unwrap().as_str(), name);
    }
}
