//! A disk in memory that does what disks do at their worst, the same on each run of a seed.
//!
//! A [`SimulatedDisk`] is a handle: a store owns one, its test keeps another, to crash the machine,
//! change the faults, damage bytes and look at the counters. [`Disk::files`] answers what is there
//! at the moment, so a clone of a handle is as good as a directory just opened.
//!
//! # What it does
//!
//! - Time passes with each [`Disk::poll`], and with nothing else. An operation takes some polls, now
//!   and then many, so operations end in any order.
//! - A read sees all writes that have ended before it started. Of each block of a write that was
//!   under way at the same time it may see the old or the new content.
//! - A write that was not durable of itself may be lost until a sync that *started* after the write
//!   had ended has itself ended well. A durable write makes itself durable and nothing else.
//! - A sync that fails has made some blocks durable, has forgotten others, which are read as written
//!   until the next crash, whatever is synced later, and has left the rest as they were.
//! - A write that fails may have been done in any part.
//! - A crash keeps or loses each block that is not durable, or tears it by sectors. Of writes under
//!   way each sector is old or new. Files that are being made may be absent, too short, or there;
//!   files that are being removed may be there or not.
//! - A file that does not fit is refused when it is made, and is not there then.
//!
//! # Epochs
//!
//! A crash begins a new epoch, to which the handle belongs that caused it, with all that are cloned
//! from it later. Handles of earlier epochs reach nothing: what they start never ends, so a store
//! that is dropped after the crash does no harm.

mod file;
mod world;

use std::cell::{Cell, RefCell, RefMut};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::rc::Rc;

use fastrand::Rng;
use rustix::io::Errno;

use self::file::File;
use self::world::{End, World};
use super::{Buffer, Completion, Disk, FileId, Op, OpId};

/// What goes wrong, and how often: probabilities from 0 to 1 for each operation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Faults {
    /// A sync, or a write that is to be durable, ends with `EIO`.
    pub sync_failure: f64,
    /// A write ends with `EIO`.
    pub write_failure: f64,
    /// A read ends with `EIO`.
    pub read_failure: f64,
    /// An operation takes hundreds of polls.
    pub slow_operation: f64,
    /// Files of more bytes than this altogether do not fit: `ENOSPC`.
    pub capacity_bytes: Option<u64>,
}

impl Faults {
    /// Nothing goes wrong but what a crash does.
    pub const NONE: Self = Self {
        sync_failure: 0.0,
        write_failure: 0.0,
        read_failure: 0.0,
        slow_operation: 0.0,
        capacity_bytes: None,
    };
}

/// What a simulated disk has done, so that a test can see that it has tested something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Files asked for.
    pub create_count: u64,
    /// Writes, those apart that are durable when done.
    pub write_count: u64,
    /// Writes that are durable when done.
    pub durable_write_count: u64,
    /// Syncs.
    pub sync_count: u64,
    /// Reads.
    pub read_count: u64,
    /// Reads that held up the caller.
    pub read_now_count: u64,
    /// Removals.
    pub delete_count: u64,
    /// Syncs made to fail.
    pub failed_sync_count: u64,
    /// Writes made to fail.
    pub failed_write_count: u64,
    /// Reads made to fail.
    pub failed_read_count: u64,
    /// Files that did not fit.
    pub full_count: u64,
    /// Operations made slow.
    pub slow_count: u64,
    /// Written blocks that a failed sync has marked as clean.
    pub doomed_block_count: u64,
    /// Crashes.
    pub crash_count: u64,
    /// Processes killed.
    pub kill_count: u64,
    /// Operations cut off by either.
    pub dropped_count: u64,
    /// Blocks that were not durable and survived a crash as written last.
    pub kept_block_count: u64,
    /// Blocks that a crash has set back as a whole.
    pub lost_block_count: u64,
    /// Blocks of which a crash has set back some sectors.
    pub torn_block_count: u64,
    /// Sectors that a crash has set back.
    pub lost_sector_count: u64,
}

/// The files of a disk, as after a crash that has lost whatever could be lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    files: BTreeMap<FileId, Vec<u8>>,
}

/// A handle of a simulated disk.
#[derive(Clone)]
pub struct SimulatedDisk {
    world: Rc<RefCell<World>>,
    epoch: Cell<u64>,
}

impl fmt::Debug for SimulatedDisk {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.world.borrow().counts;
        formatter.debug_struct("SimulatedDisk").field("counts", &counts).finish_non_exhaustive()
    }
}

impl SimulatedDisk {
    /// An empty disk.
    #[must_use]
    pub fn new(seed: u64, faults: Faults) -> Self {
        Self::from_image(seed, faults, &Image { files: BTreeMap::new() })
    }

    /// A disk with the files of an image.
    #[must_use]
    pub fn from_image(seed: u64, faults: Faults, image: &Image) -> Self {
        let files = image.files.iter().map(|(id, bytes)| (*id, File::new(bytes.clone())));
        let world = World::new(seed, faults, files.collect());
        Self { world: Rc::new(RefCell::new(world)), epoch: Cell::new(0) }
    }

    /// What is durable. Two disks made from it after a crash begin alike.
    #[must_use]
    pub fn snapshot_image(&self) -> Image {
        let world = self.world.borrow();
        let files = world.files.iter().map(|(id, file)| (*id, file.durable().to_vec()));
        Image { files: files.collect() }
    }

    /// Changes what goes wrong from here on, operations under way included.
    pub fn set_faults(&self, faults: Faults) {
        self.world.borrow_mut().faults = faults;
    }

    /// What goes wrong.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.world.borrow().faults
    }

    /// What has happened so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.world.borrow().counts
    }

    /// A hash of all operations and of what came of them: equal in two runs of one seed.
    #[must_use]
    pub fn event_hash(&self) -> u64 {
        self.world.borrow().event_hash
    }

    /// Operations that have not ended.
    #[must_use]
    pub fn under_way_count(&self) -> usize {
        self.world.borrow().under_way_count()
    }

    /// The machine loses its power: whatever is not durable may be lost. A new epoch begins.
    pub fn crash(&self) {
        self.cut_off(End::Crash);
    }

    /// The machine loses its power after so many polls: from then on nothing ends any more. A
    /// [`SimulatedDisk::crash`] shows what is left.
    pub fn lose_power_after(&self, polls: u64) {
        self.world.borrow_mut().lose_power_after(polls);
    }

    /// The process dies and the machine goes on: what was written is still there, durable or not,
    /// and may be lost in a later crash. A new epoch begins.
    pub fn kill(&self) {
        self.cut_off(End::Kill);
    }

    fn cut_off(&self, end: End) {
        let mut world = self.world.borrow_mut();
        world.cut_off(end);
        self.epoch.set(world.epoch);
    }

    /// Changes one bit of a file.
    ///
    /// # Panics
    ///
    /// When there is no such file or no such bit in it.
    pub fn flip_bit(&self, file: FileId, offset: u64, bit: u8) {
        assert!(bit < 8);
        self.with_file(file, |it| it.flip(index(offset), bit));
    }

    /// Changes a bit anywhere, and says in which byte of which file; `None` if there are no bytes.
    pub fn flip_random_bit(&self, rng: &mut Rng) -> Option<(FileId, u64)> {
        let files = self.files();
        let all_bytes: u64 = files.iter().map(|(_, bytes)| bytes).sum();
        let mut at = if all_bytes == 0 { return None } else { rng.u64(..all_bytes) };
        for (file, bytes) in files {
            if at < bytes {
                self.flip_bit(file, at, rng.u8(..8));
                return Some((file, at));
            }
            at -= bytes;
        }
        None
    }

    /// Makes a file shorter, or longer with zeros: for good, and with all that is in it.
    ///
    /// # Panics
    ///
    /// When there is no such file.
    pub fn truncate(&self, file: FileId, len: u64) {
        self.with_file(file, |it| it.resize(index(len)));
    }

    /// Puts bytes into a file, for good, and all else that is in it as well.
    ///
    /// # Panics
    ///
    /// When there is no such file or it ends before.
    pub fn corrupt(&self, file: FileId, offset: u64, bytes: &[u8]) {
        self.with_file(file, |it| {
            let mut all = it.visible();
            all[index(offset)..][..bytes.len()].copy_from_slice(bytes);
            *it = File::new(all);
        });
    }

    /// Puts a file there, for good, in place of the one that may be there.
    pub fn put(&self, file: FileId, bytes: Vec<u8>) {
        self.world.borrow_mut().files.insert(file, File::new(bytes));
    }

    /// Takes a file away, for good.
    pub fn remove(&self, file: FileId) {
        self.world.borrow_mut().files.remove(&file);
    }

    /// What is in a file, as a read would see it that starts after all that is under way.
    #[must_use]
    pub fn bytes(&self, file: FileId) -> Option<Vec<u8>> {
        self.world.borrow().files.get(&file).map(File::visible)
    }

    fn with_file(&self, file: FileId, change: impl FnOnce(&mut File)) {
        let mut world = self.world.borrow_mut();
        change(world.files.get_mut(&file).expect("a test names a file that is there"));
    }

    /// The world, if the handle belongs to its epoch.
    fn live(&self) -> Option<RefMut<'_, World>> {
        let world = self.world.borrow_mut();
        (world.epoch == self.epoch.get()).then_some(world)
    }
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("a simulated file fits into memory")
}

impl Disk for SimulatedDisk {
    fn start(&mut self, op: Op) -> OpId {
        match self.live() {
            Some(mut world) => world.start(op),
            None => self.world.borrow_mut().new_id(),
        }
    }

    fn poll(&mut self) -> Option<Completion> {
        self.live()?.poll()
    }

    fn wait(&mut self) -> io::Result<()> {
        let Some(mut world) = self.live() else {
            return Err(io::Error::other("the machine has crashed since"));
        };
        world.wait()
    }

    fn read_now(&mut self, file: FileId, offset: u64, buffer: &mut Buffer) -> io::Result<()> {
        let Some(mut world) = self.live() else { return Err(Errno::IO.into()) };
        world.read_now(file, offset, buffer)
    }

    fn files(&self) -> Vec<(FileId, u64)> {
        let world = self.world.borrow();
        world.files.iter().map(|(id, file)| (*id, file.len() as u64)).collect()
    }
}

#[cfg(test)]
mod tests;
