//! Setting a ring up on the kernel that is there.

use std::io;

use io_uring::IoUring;

/// How a ring is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// Submissions that fit in before the kernel must be entered; a power of two.
    pub submission_count: u32,
    /// Receive buffers; a power of two, at most 32,768.
    pub buffer_count: u16,
    /// Size of a receive buffer in bytes.
    pub buffer_bytes: u32,
}

/// The ring could not be set up. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The kernel or a seccomp profile forbids io_uring.
    #[error(
        "io_uring is not permitted here: set kernel.io_uring_disabled=0 with sysctl, and in a \
         container allow io_uring_setup, io_uring_enter and io_uring_register in the seccomp profile"
    )]
    Refused(#[source] io::Error),
    /// The kernel does not have io_uring, or not enough of it.
    #[error("this kernel has no io_uring that GridKV can use: Linux 6.1 or later is needed")]
    Unsupported(#[source] io::Error),
    /// Not enough memory may be locked.
    #[error(
        "not enough lockable memory for io_uring: raise RLIMIT_MEMLOCK (ulimit -l, or LimitMEMLOCK \
         in the service) to 64 MiB or more"
    )]
    MemoryLocked(#[source] io::Error),
    /// Anything else.
    #[error("io_uring could not be set up")]
    Other(#[source] io::Error),
}

impl From<io::Error> for SetupError {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::Refused(error),
            Some(libc::ENOSYS | libc::EINVAL) => Self::Unsupported(error),
            Some(libc::ENOMEM) => Self::MemoryLocked(error),
            _ => Self::Other(error),
        }
    }
}

/// Sets up the io_uring with the best options that the kernel takes.
pub(super) fn build(config: &Config) -> io::Result<IoUring> {
    let completions = config.submission_count * 8;
    let deferred = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_clamp()
        .setup_cqsize(completions)
        .dontfork()
        .build(config.submission_count);
    match deferred {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            tracing::warn!("no deferred task running in this kernel's io_uring: slower");
            IoUring::builder()
                .setup_coop_taskrun()
                .setup_taskrun_flag()
                .setup_clamp()
                .setup_cqsize(completions)
                .dontfork()
                .build(config.submission_count)
        }
        result => result,
    }
}
