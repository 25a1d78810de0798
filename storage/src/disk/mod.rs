//! What a log is written to: files of one directory, in aligned blocks.
//!
//! A [`Disk`] is given [`Op`]s and later says how each has ended, in any order. It never waits, but
//! for [`Disk::wait`] and [`Disk::read_now`], for callers that have nothing else to do.
//!
//! | implementation | for |
//! |---|---|
//! | [`DirectDisk`] | direct I/O, carried out by whatever io_uring its [`IoPort`] is given to |
//! | [`SimulatedDisk`] | tests: loses what was not synced, tears blocks, fills up, fails, on a seed |

#[cfg(test)]
mod contract;
mod direct;
#[expect(unsafe_code, reason = "the kernel is handed buffers and descriptors")]
mod port;
mod probe;
mod simulated;

use std::io;

use rkyv::util::AlignedVec;

pub use self::direct::DirectDisk;
pub use self::port::{IoPort, Submission};
pub use self::probe::probe;
pub use self::simulated::{Counts, Faults, Image, SimulatedDisk};

/// Offsets, lengths and addresses of reads and writes are multiples of this.
pub const BLOCK_BYTES: usize = 4096;

/// Bytes aligned for direct I/O.
pub type Buffer = AlignedVec<BLOCK_BYTES>;

/// A file of the directory, named after its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub u32);

impl FileId {
    /// What a store leaves behind to be opened quickly.
    pub const CHECKPOINT: Self = Self(u32::MAX);

    /// How the file is called in its directory.
    #[must_use]
    pub fn name(self) -> String {
        if self == Self::CHECKPOINT {
            return CHECKPOINT_NAME.to_owned();
        }
        format!("{:010}.log", self.0)
    }
}

const CHECKPOINT_NAME: &str = "checkpoint";

/// An operation that was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub u64);

/// How a write is made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncMethod {
    /// A write and an `fdatasync` behind it.
    Fdatasync,
    /// One write with `RWF_DSYNC`: less work where the disk can write through its cache.
    Dsync,
}

/// Something to do.
#[derive(Debug)]
pub enum Op {
    /// Makes a file of so many zero bytes, in place of the one that may be there. It, its size and
    /// its name are durable when this is done.
    Create {
        /// Which.
        file: FileId,
        /// Its size, a multiple of [`BLOCK_BYTES`].
        bytes: u64,
        /// Whether zeros are written, so that later writes change data only; else the space is
        /// merely reserved, which is quick, but makes each first write of a block slower.
        is_written: bool,
    },
    /// Writes a buffer. Without `is_durable` it may be lost in a crash, in whole or in any of its
    /// blocks, until the file is synced; with it, it is durable when done, and so is nothing else.
    Write {
        /// Where to.
        file: FileId,
        /// From which byte on.
        offset: u64,
        /// What. Its length is a multiple of [`BLOCK_BYTES`].
        buffer: Buffer,
        /// Whether it is to be durable when done.
        is_durable: bool,
    },
    /// Makes all that was written durable, as `fdatasync` does. What is written meanwhile may be
    /// or not.
    Sync {
        /// Of which file.
        file: FileId,
    },
    /// Fills a buffer.
    Read {
        /// Where from.
        file: FileId,
        /// From which byte on.
        offset: u64,
        /// Its length says how much, a multiple of [`BLOCK_BYTES`], within the file.
        buffer: Buffer,
    },
    /// Removes a file, for good when done.
    Delete {
        /// Which.
        file: FileId,
    },
}

impl Op {
    /// The file that it is about.
    #[must_use]
    pub const fn file(&self) -> FileId {
        match self {
            Self::Create { file, .. }
            | Self::Write { file, .. }
            | Self::Sync { file }
            | Self::Read { file, .. }
            | Self::Delete { file } => *file,
        }
    }
}

/// How an operation has ended.
#[derive(Debug)]
pub struct Completion {
    /// Which.
    pub id: OpId,
    /// Whether it was done as a whole.
    pub result: io::Result<()>,
    /// The buffer of a read or a write.
    pub buffer: Option<Buffer>,
}

/// The files of one directory.
pub trait Disk {
    /// Starts an operation. Operations overlap: whoever needs an order waits for the first.
    fn start(&mut self, op: Op) -> OpId;

    /// The next operation that has ended.
    fn poll(&mut self) -> Option<Completion>;

    /// Waits until [`Disk::poll`] has something to tell. Not to be called while nothing is under
    /// way, or while another thread of control carries the operations out.
    ///
    /// # Errors
    ///
    /// When the operating system takes no operations any more.
    fn wait(&mut self) -> io::Result<()>;

    /// Fills a buffer as [`Op::Read`] does, holding up the caller.
    ///
    /// # Errors
    ///
    /// As the operating system says.
    fn read_now(&mut self, file: FileId, offset: u64, buffer: &mut Buffer) -> io::Result<()>;

    /// The files that were there when the directory was opened, with their sizes in bytes.
    fn files(&self) -> Vec<(FileId, u64)>;

    /// Whether another directory has the file too, so that it must not be written to again.
    fn is_shared(&self, file: FileId) -> bool {
        let _ = file;
        false
    }

    /// How a file is called, for messages.
    fn name(&self, file: FileId) -> String {
        file.name()
    }
}

/// A buffer of `len` zero bytes.
#[must_use]
pub fn zeroed(len: usize) -> Buffer {
    let mut buffer = Buffer::with_capacity(len);
    buffer.resize(len, 0);
    buffer
}
