//! The lock of a data directory: one user at a time.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::{DirectoryError, LOCK, io};

/// A directory is this one's until this is dropped, or the process ends.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Lock {
    /// Locks a directory that is there, and writes down who did.
    ///
    /// # Errors
    ///
    /// [`DirectoryError::Locked`] where another process has it, or another part of this one;
    /// [`DirectoryError::Io`].
    pub(super) fn take(directory: &Path) -> Result<Self, DirectoryError> {
        let path = directory.join(LOCK);
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(io("open", &path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut text = String::new();
                // The number is a courtesy: without it the message is still right.
                let _ = file.take(32).read_to_string(&mut text);
                let process = text.trim().parse().ok();
                return Err(DirectoryError::Locked { path: directory.to_owned(), process });
            }
            Err(error) => return Err(io("lock", &path)(error.into())),
        }
        let mut lock = Self(file);
        let file = &mut lock.0;
        let written = file.set_len(0).and_then(|()| file.rewind());
        let written = written.and_then(|()| writeln!(file, "{}", std::process::id()));
        written.map_err(io("write", &path))?;
        Ok(lock)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the file is not enough: a process that another thread has forked off holds it
        // too until it runs its own program (flock(2): a lock ends with its last descriptor, or
        // when it is given back through any of them).
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_forked_meanwhile_does_not_keep_the_lock() {
        let directory = tempfile::tempdir().unwrap();
        let lock = Lock::take(directory.path()).unwrap();
        // As a process that is forked off has it until it runs its own program.
        let inherited = lock.0.try_clone().unwrap();
        assert!(matches!(Lock::take(directory.path()), Err(DirectoryError::Locked { .. })));
        drop(lock);
        Lock::take(directory.path()).unwrap();
        drop(inherited);
    }
}
