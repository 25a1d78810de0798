//! The backend `file` over a disk with a gate in front of it: while the gate is shut, nothing that is
//! written is said to be written.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gridkv::storage::disk::{Buffer, Completion, DirectDisk, Disk, FileId, Op, OpId};
use gridkv::storage::file::{FileStorage, Setup};
use gridkv::storage::{OpenError, OpenFn, Options, Storage};
use gridkv::{Builder, WallTime};

/// A gate that all shards of a node share. It is open at first.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<AtomicBool>);

impl Gate {
    /// Has writes wait.
    pub fn shut(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Lets them go, those first that have waited. A core looks at its next tick.
    pub fn open(&self) {
        self.0.store(false, Ordering::Release);
    }

    fn is_shut(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Has a node keep its data behind this gate.
    #[must_use]
    pub fn install(&self, builder: Builder) -> Builder {
        let gate = self.clone();
        let open: Arc<OpenFn> = Arc::new(move |options| open(options, &gate));
        builder.register_backend("file", open).storage("file")
    }
}

fn open(options: &Options, gate: &Gate) -> Result<Box<dyn Storage>, OpenError> {
    let Some(disk) = &options.disk else { return Err(OpenError::Backend("no disk".into())) };
    let opened = DirectDisk::open(&disk.directory, disk.io.clone(), disk.sync_method);
    let gated = Gated {
        disk: opened.map_err(|error| OpenError::Backend(error.into()))?,
        gate: gate.clone(),
        writes: BTreeSet::new(),
        held: VecDeque::new(),
    };
    let setup = Setup {
        cache_bytes_max: disk.cache_bytes_max,
        durability: disk.durability,
        segment_bytes: disk.segment_bytes,
        directory: disk.directory.display().to_string(),
    };
    let opened = FileStorage::open(gated, setup, options, WallTime::EPOCH);
    let (store, _) = opened.map_err(|error| OpenError::Backend(error.into()))?;
    disk.io.stop_driving();
    Ok(Box::new(store))
}

struct Gated {
    disk: DirectDisk,
    gate: Gate,
    /// Writes and syncs under way.
    writes: BTreeSet<OpId>,
    /// What has ended while the gate was shut.
    held: VecDeque<Completion>,
}

impl Disk for Gated {
    fn start(&mut self, op: Op) -> OpId {
        let is_write = matches!(op, Op::Write { .. } | Op::Sync { .. });
        let id = self.disk.start(op);
        if is_write {
            self.writes.insert(id);
        }
        id
    }

    fn poll(&mut self) -> Option<Completion> {
        if !self.gate.is_shut()
            && let Some(completion) = self.held.pop_front()
        {
            return Some(completion);
        }
        while let Some(completion) = self.disk.poll() {
            if !self.writes.remove(&completion.id) || !self.gate.is_shut() {
                return Some(completion);
            }
            self.held.push_back(completion);
        }
        None
    }

    fn wait(&mut self) -> io::Result<()> {
        if self.held.is_empty() { self.disk.wait() } else { Ok(()) }
    }

    fn read_now(&mut self, file: FileId, offset: u64, buffer: &mut Buffer) -> io::Result<()> {
        self.disk.read_now(file, offset, buffer)
    }

    fn files(&self) -> Vec<(FileId, u64)> {
        self.disk.files()
    }

    fn is_shared(&self, file: FileId) -> bool {
        self.disk.is_shared(file)
    }
}
