//! Entering the kernel: the one system call of a turn.

use std::io;

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring};

use super::Wait;

/// How a ring is entered on this kernel.
pub(super) struct Enter {
    /// Flags of each entry that waits.
    waiting: EnterFlags,
}

impl Enter {
    pub(super) fn new(uring: &IoUring) -> Self {
        let mut waiting = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        if uring.params().is_feature_no_iowait() {
            // A core that waits for clients is idle, not held up by a disk.
            waiting |= EnterFlags::NO_IOWAIT;
        }
        Self { waiting }
    }

    /// Submits, runs deferred work, and waits for one completion if asked to and none is there.
    pub(super) fn turn(&self, uring: &mut IoUring, wait: Wait) -> io::Result<()> {
        let queued = uring.submission().len();
        let idle = uring.completion().is_empty();
        let result = match wait {
            Wait::AtMost(limit) if idle => {
                let limit = Timespec::from(limit);
                let args = SubmitArgs::new().timespec(&limit);
                let to_submit = u32::try_from(queued).expect("a ring has at most 32,768 entries");
                // SAFETY: `args` and the time it points to outlive the call; the flags say that it
                // is of this type.
                unsafe { uring.submitter().enter(to_submit, 1, self.waiting.bits(), Some(&args)) }
            }
            // With nothing queued the kernel is entered only for what it has said it has: deferred
            // work, or completions for which the queue had no room.
            _ if queued == 0 && !is_wanted(uring) => return Ok(()),
            _ => {
                let to_submit = u32::try_from(queued).expect("a ring has at most 32,768 entries");
                let flags = EnterFlags::GETEVENTS.bits();
                // SAFETY: no argument is passed.
                unsafe { uring.submitter().enter::<libc::sigset_t>(to_submit, 0, flags, None) }
            }
        };
        match result {
            Ok(_) => Ok(()),
            Err(error) if is_passing(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Submits what is queued, so that the submission queue has room.
    pub(super) fn make_room(&self, uring: &mut IoUring) {
        // What keeps the kernel from taking entries passes; `push` comes back until it has.
        let _ = self.turn(uring, Wait::No);
    }
}

/// Whether the kernel has something for the ring that it hands over when it is entered.
pub(super) fn is_wanted(uring: &mut IoUring) -> bool {
    let submission = uring.submission();
    submission.taskrun() || submission.cq_overflow()
}

/// Whether the next try may succeed: a signal, the wait's end, or a kernel short of memory or of
/// room for completions.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINTR | libc::ETIME | libc::EAGAIN | libc::EBUSY | libc::ENOMEM)
    )
}
