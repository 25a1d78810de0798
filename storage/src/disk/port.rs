//! The way from a core's disks to the kernel: the operations under way, and what they point to.
//!
//! ```text
//! DirectDisk --- start ---> table, queue --- next_submission ---> an io_uring of somebody else's
//!     ^                       |   ^                                         |
//!     +------ its inbox <-----+   +---------------- complete ---------------+
//! ```
//!
//! The ring is the core's data ring while the core runs; a store that is opened, closed or checked
//! with no core around is carried by a ring of the port's own ([`IoPort::drive`]).
//!
//! # Invariants
//!
//! - Buffers, names and descriptors that a submission points to stay in the table, where they are,
//!   until [`IoPort::complete`] has been told of its end. If the port is dropped before, they are
//!   never freed: the kernel may still write to the buffers, and a descriptor's number that was
//!   given to another file would be written to in its place.
//! - Whoever hands a submission to a ring tells of its end once, and not before the ring has.
//! - No two submissions need each other's order: what follows an operation is handed out after its
//!   end. They may go into any ring, in any batch.
//! - An operation that was done in part, or that `EINTR` or `EAGAIN` has ended, is handed out again
//!   for the rest. A sync that failed otherwise is never tried again: the second one would succeed,
//!   and the data would be gone.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ffi::CString;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::rc::{Rc, Weak};

use io_uring::{IoUring, opcode, squeue, types};
use rustix::fs::OFlags;

use super::{Buffer, SyncMethod};

/// An operation moves at most this much at once.
const MOVE_BYTES_MAX: usize = 1 << 30;

/// Direct I/O goes on where a sector begins.
const SECTOR_BYTES: usize = 512;

/// Submissions that the port's own ring takes at once.
const SUBMISSION_COUNT: u32 = 64;

/// Generations wrap after this many uses of a slot, so that a token has 56 bits.
const GENERATION_MASK: u32 = (1 << 24) - 1;

/// What the kernel is to do, with all that it needs for it.
#[derive(Debug)]
pub(super) enum Work {
    /// Fills the buffer.
    Read { descriptor: Rc<OwnedFd>, offset: u64, buffer: Buffer },
    /// Writes the buffer, and makes it durable if a method is given.
    Write { descriptor: Rc<OwnedFd>, offset: u64, buffer: Buffer, durable: Option<SyncMethod> },
    /// Makes data durable, and with `is_data_only` no more metadata than reading it back takes.
    Sync { descriptor: Rc<OwnedFd>, is_data_only: bool },
    /// Reserves space from the start of a file on.
    Reserve { descriptor: Rc<OwnedFd>, bytes: u64 },
    /// Opens a file of a directory.
    Open { directory: Rc<OwnedFd>, name: CString, flags: OFlags, opened: Option<OwnedFd> },
    /// Removes a name from a directory.
    Unlink { directory: Rc<OwnedFd>, name: CString },
    /// Closes a descriptor.
    Close { descriptor: Option<OwnedFd> },
}

/// What has become of a piece of work.
#[derive(Debug)]
pub(super) struct Ended {
    /// What it was started with.
    pub(super) tag: u64,
    /// With all that it holds.
    pub(super) work: Work,
    pub(super) result: io::Result<()>,
}

/// Where a disk finds what has ended.
pub(super) type Inbox = Rc<RefCell<VecDeque<Ended>>>;

/// An operation for an io_uring, whose user data is the loop's to set.
#[derive(Debug)]
pub struct Submission {
    /// The operation. What it points to lives until [`IoPort::complete`] is called with the token.
    pub entry: squeue::Entry,
    /// Names it: less than 2^56.
    pub token: u64,
}

/// A piece of work in the table.
struct Job {
    tag: u64,
    work: Work,
    /// Of a disk that may be gone.
    inbox: Weak<RefCell<VecDeque<Ended>>>,
    /// How much of the buffer was moved.
    moved_len: usize,
    is_with_kernel: bool,
}

impl Job {
    /// The next thing for the kernel to do.
    fn entry(&mut self) -> squeue::Entry {
        let moved_len = self.moved_len;
        match &mut self.work {
            Work::Read { descriptor, offset, buffer } => {
                let rest = &mut buffer[moved_len..];
                let len = rest.len().min(MOVE_BYTES_MAX);
                let len = u32::try_from(len).expect("it is bounded");
                opcode::Read::new(types::Fd(descriptor.as_raw_fd()), rest.as_mut_ptr(), len)
                    .offset(*offset + moved_len as u64)
                    .build()
            }
            Work::Write { descriptor, buffer, .. } if moved_len == buffer.len() => {
                fsync(descriptor, true)
            }
            Work::Write { descriptor, offset, buffer, durable } => {
                let rest = &buffer[moved_len..];
                let len = rest.len().min(MOVE_BYTES_MAX);
                let len = u32::try_from(len).expect("it is bounded");
                let is_dsync = *durable == Some(SyncMethod::Dsync);
                opcode::Write::new(types::Fd(descriptor.as_raw_fd()), rest.as_ptr(), len)
                    .offset(*offset + moved_len as u64)
                    .rw_flags(if is_dsync { libc::RWF_DSYNC } else { 0 })
                    .build()
            }
            Work::Sync { descriptor, is_data_only } => fsync(descriptor, *is_data_only),
            Work::Reserve { descriptor, bytes } => {
                opcode::Fallocate::new(types::Fd(descriptor.as_raw_fd()), *bytes).build()
            }
            Work::Open { directory, name, flags, .. } => {
                opcode::OpenAt::new(types::Fd(directory.as_raw_fd()), name.as_ptr())
                    .flags(flags.bits().cast_signed())
                    .mode(0o640)
                    .build()
            }
            Work::Unlink { directory, name } => {
                opcode::UnlinkAt::new(types::Fd(directory.as_raw_fd()), name.as_ptr()).build()
            }
            Work::Close { descriptor } => {
                let descriptor = descriptor.as_ref().expect("it is taken at the end");
                opcode::Close::new(types::Fd(descriptor.as_raw_fd())).build()
            }
        }
    }

    /// Takes in what the kernel says; `None` when there is more to do.
    ///
    /// # Safety
    ///
    /// The kernel says so of the job's [`Job::entry`], and it is said once.
    unsafe fn on_result(&mut self, result: i32) -> Option<io::Result<()>> {
        if let Work::Close { descriptor } = &mut self.work {
            // Closed whatever went wrong, unless the kernel has not begun.
            if result != -libc::ECANCELED {
                let _ = descriptor.take().map(IntoRawFd::into_raw_fd);
            }
            return Some(Ok(()));
        }
        match usize::try_from(result) {
            // SAFETY: as the caller vouches.
            Ok(count) => unsafe { self.on_success(result, count) },
            Err(_) if result == -libc::EINTR || result == -libc::EAGAIN => None,
            Err(_) => Some(Err(io::Error::from_raw_os_error(-result))),
        }
    }

    /// As [`Job::on_result`], when it went well.
    ///
    /// # Safety
    ///
    /// As there.
    unsafe fn on_success(&mut self, result: i32, count: usize) -> Option<io::Result<()>> {
        match &mut self.work {
            Work::Read { buffer, .. } => {
                let end = move_on(&mut self.moved_len, count, buffer.len());
                end.map(|it| it.map_err(|()| io::ErrorKind::UnexpectedEof.into()))
            }
            // The sync behind the write.
            Work::Write { buffer, .. } if self.moved_len == buffer.len() => Some(Ok(())),
            Work::Write { buffer, durable, .. } => {
                match move_on(&mut self.moved_len, count, buffer.len())? {
                    Ok(()) if *durable == Some(SyncMethod::Fdatasync) => None,
                    Ok(()) => Some(Ok(())),
                    Err(()) => Some(Err(io::ErrorKind::WriteZero.into())),
                }
            }
            Work::Open { opened, .. } => {
                // SAFETY: the caller vouches that the kernel has just made this descriptor for this
                // operation; nobody else knows it.
                *opened = Some(unsafe { OwnedFd::from_raw_fd(result) });
                Some(Ok(()))
            }
            Work::Sync { .. } | Work::Reserve { .. } | Work::Unlink { .. } => Some(Ok(())),
            Work::Close { .. } => panic!("a close was dealt with before"),
        }
    }
}

fn fsync(descriptor: &OwnedFd, is_data_only: bool) -> squeue::Entry {
    let flags = if is_data_only { types::FsyncFlags::DATASYNC } else { types::FsyncFlags::empty() };
    opcode::Fsync::new(types::Fd(descriptor.as_raw_fd())).flags(flags).build()
}

/// Counts `count` bytes as moved. `None` when there is more to move; an error when nothing moves.
fn move_on(moved_len: &mut usize, count: usize, len: usize) -> Option<Result<(), ()>> {
    assert!(*moved_len + count <= len, "the kernel moves no more than it was asked to");
    if *moved_len + count == len {
        *moved_len = len;
        return Some(Ok(()));
    }
    let count = count - count % SECTOR_BYTES;
    *moved_len += count;
    if count == 0 { Some(Err(())) } else { None }
}

#[derive(Default)]
struct Slot {
    generation: u32,
    job: Option<Job>,
}

/// All work that has not ended, and the order in which it is handed out.
#[derive(Default)]
struct Table {
    slots: Vec<Slot>,
    free: Vec<u32>,
    queue: VecDeque<u32>,
    in_flight: usize,
}

impl Table {
    fn insert(&mut self, job: Job) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            u32::try_from(self.slots.len() - 1).expect("memory runs out before slots do")
        });
        let entry = &mut self.slots[slot as usize];
        assert!(entry.job.is_none(), "a slot on the free list is free");
        entry.job = Some(job);
        self.queue.push_back(slot);
    }

    fn remove(&mut self, slot: u32) -> Job {
        let entry = &mut self.slots[slot as usize];
        let job = entry.job.take().expect("a job is removed once");
        assert!(!job.is_with_kernel, "what the kernel uses stays in the table");
        entry.generation = (entry.generation + 1) & GENERATION_MASK;
        self.free.push(slot);
        job
    }

    fn next_submission(&mut self) -> Option<Submission> {
        while let Some(slot) = self.queue.pop_front() {
            let entry = &mut self.slots[slot as usize];
            let job = entry.job.as_mut().expect("what is queued is in the table");
            assert!(!job.is_with_kernel);
            if job.inbox.strong_count() == 0 {
                // Its disk is gone: nobody waits for it.
                drop(self.remove(slot));
                continue;
            }
            job.is_with_kernel = true;
            self.in_flight += 1;
            let token = (u64::from(entry.generation) << 32) | u64::from(slot);
            return Some(Submission { entry: job.entry(), token });
        }
        None
    }

    /// Takes in the end of an operation.
    ///
    /// # Safety
    ///
    /// The kernel has ended the operation of this token with this result, and this is told of it once.
    unsafe fn complete(&mut self, token: u64, result: i32) {
        let slot = u32::try_from(token & u64::from(u32::MAX)).expect("it is masked");
        let entry = self.slots.get_mut(slot as usize).expect("a token is one handed out");
        assert_eq!(u64::from(entry.generation), token >> 32, "an operation ends once");
        let job = entry.job.as_mut().expect("an operation ends once");
        assert!(job.is_with_kernel, "an operation ends once");
        job.is_with_kernel = false;
        self.in_flight -= 1;
        // SAFETY: the caller vouches that the kernel has said so of this job, and that it is said once.
        match unsafe { job.on_result(result) } {
            None => self.queue.push_back(slot),
            Some(result) => {
                let Job { tag, work, inbox, .. } = self.remove(slot);
                if let Some(inbox) = inbox.upgrade() {
                    inbox.borrow_mut().push_back(Ended { tag, work, result });
                }
            }
        }
    }
}

impl Drop for Table {
    /// Frees what the kernel does not use, and nothing else.
    fn drop(&mut self) {
        for job in self.slots.iter_mut().filter_map(|slot| slot.job.take()) {
            if job.is_with_kernel {
                std::mem::forget(job);
            }
        }
    }
}

/// The port's own ring.
struct Driver {
    uring: IoUring,
    in_flight: usize,
}

impl Driver {
    fn new() -> io::Result<Self> {
        let uring = IoUring::builder().setup_clamp().dontfork().build(SUBMISSION_COUNT)?;
        Ok(Self { uring, in_flight: 0 })
    }

    /// Queues what there is, as far as there is room.
    fn fill(&mut self, table: &mut Table) {
        while !self.uring.submission().is_full() {
            let Some(Submission { entry, token }) = table.next_submission() else { return };
            let entry = entry.user_data(token);
            // SAFETY: what the entry points to stays in the table until the table is told of the
            // end of the operation, which it is by `reap` alone; a table that is dropped before
            // frees nothing that the kernel uses.
            let pushed = unsafe { self.uring.submission().push(&entry) };
            assert!(pushed.is_ok(), "there is room");
            self.in_flight += 1;
        }
    }

    /// Submits what is queued, waits for a completion if asked to, and takes in all there are.
    fn turn(&mut self, table: &RefCell<Table>, wait: bool) -> io::Result<()> {
        let wanted = usize::from(wait && self.uring.completion().is_empty());
        match self.uring.submitter().submit_and_wait(wanted) {
            Ok(_) => {}
            Err(error) if is_passing(&error) => {}
            Err(error) => return Err(error),
        }
        let mut table = table.borrow_mut();
        for completion in self.uring.completion() {
            self.in_flight -= 1;
            // SAFETY: this ring carries what `fill` has taken from this table, and names the end of each
            // once.
            unsafe { table.complete(completion.user_data(), completion.result()) };
        }
        Ok(())
    }
}

/// Whether the next try may succeed: a signal, or a kernel short of memory or of room.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY | libc::ENOMEM))
}

struct Shared {
    // First, so that the ring is closed before the table looks at what is left.
    driver: RefCell<Option<Driver>>,
    table: RefCell<Table>,
}

/// A handle of what carries out the operations of a core's disks. The disks have one each, and the
/// core's loop has one.
#[derive(Clone)]
pub struct IoPort(Rc<Shared>);

impl Default for IoPort {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for IoPort {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("IoPort").field("in_flight", &self.in_flight()).finish()
    }
}

impl IoPort {
    /// A port with nothing to do.
    #[must_use]
    pub fn new() -> Self {
        Self(Rc::new(Shared { driver: RefCell::new(None), table: RefCell::default() }))
    }

    /// The next operation for the kernel. The caller hands it to an io_uring, and calls
    /// [`IoPort::complete`] with its token when the ring says that it has ended.
    #[must_use]
    pub fn next_submission(&self) -> Option<Submission> {
        self.0.table.borrow_mut().next_submission()
    }

    /// Whether [`IoPort::next_submission`] may have one.
    #[must_use]
    pub fn has_submissions(&self) -> bool {
        !self.0.table.borrow().queue.is_empty()
    }

    /// Takes in the end of an operation; there may be more to submit then.
    ///
    /// # Safety
    ///
    /// The kernel has ended the operation of this token, which [`IoPort::next_submission`] of this
    /// port has handed out, with this result, and this is told of it once: the buffers of the
    /// operation are freed, and the result of an open is taken for a descriptor that nobody else has.
    ///
    /// # Panics
    ///
    /// When no operation of this token is with the kernel.
    pub unsafe fn complete(&self, token: u64, result: i32) {
        // SAFETY: the caller vouches for what the table asks.
        unsafe { self.0.table.borrow_mut().complete(token, result) };
    }

    /// Operations handed out whose end was not told.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.0.table.borrow().in_flight
    }

    /// Hands what there is to a ring of the port's own, waits for one operation to end if asked to,
    /// and takes in those that have ended. Not for a port whose core has a ring for it.
    ///
    /// # Errors
    ///
    /// When the kernel gives no ring or takes nothing from it, and when there is nothing that could
    /// be waited for.
    pub fn drive(&self, wait: bool) -> io::Result<()> {
        let mut driver = self.0.driver.borrow_mut();
        let driver = match &mut *driver {
            Some(driver) => driver,
            none => none.insert(Driver::new()?),
        };
        driver.fill(&mut self.0.table.borrow_mut());
        if wait && driver.in_flight == 0 {
            return Err(io::Error::other("nothing is under way that could be waited for"));
        }
        driver.turn(&self.0.table, wait)
    }

    /// Gives the port's own ring up, once what it has begun has ended. What is left of it to do is
    /// for [`IoPort::next_submission`].
    pub fn stop_driving(&self) {
        let Some(mut driver) = self.0.driver.borrow_mut().take() else { return };
        while driver.in_flight > 0 {
            if let Err(error) = driver.turn(&self.0.table, true) {
                tracing::error!(%error, "operations of a disk are given up");
                break;
            }
        }
    }

    /// Queues work, whose end goes to `inbox`.
    pub(super) fn start(&self, inbox: &Inbox, tag: u64, work: Work) {
        let inbox = Rc::downgrade(inbox);
        let job = Job { tag, work, inbox, moved_len: 0, is_with_kernel: false };
        self.0.table.borrow_mut().insert(job);
    }
}

#[cfg(test)]
mod tests;
