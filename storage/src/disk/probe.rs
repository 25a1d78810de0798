//! Which way of making a write durable is quicker on a disk: measured, for it cannot be known.
//!
//! A disk with power-loss protection takes a write through its cache for nothing, while a sync has
//! to ask it whether it has one; a disk without takes twice as long for a write through its cache
//! as for a write and a flush, or half as long, depending on what its makers have thought of.
//!
//! Where they are nearly alike the write through the cache is taken: it is one operation, while a
//! sync behind a write is another, for which the kernel wakes a thread (72 against 92 us of
//! processor time a write, measured).

use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, ReadWriteFlags};

use super::{BLOCK_BYTES, Buffer, SyncMethod, zeroed};

/// Overwritten in turn. They were written before, so that a write changes data only, as it does in
/// a log.
const BLOCK_COUNT: u64 = 8;
/// Pairs of writes at most, and at least as long as time permits.
const ROUND_COUNT_MAX: usize = 32;
const ROUND_COUNT_MIN: usize = 5;
/// After this a disk that has answered often enough is asked no more, and after that none is.
const TIME_WANTED: Duration = Duration::from_millis(80);
const TIME_MAX: Duration = Duration::from_millis(800);

/// Finds the quicker [`SyncMethod`] in a directory, with a file of its own that is gone afterwards.
/// Holds up the caller for some 100 milliseconds, on a slow disk for up to a second.
///
/// # Errors
///
/// As the operating system says when it refuses to make, write or sync a file there.
pub fn probe(directory: &Path) -> io::Result<SyncMethod> {
    let file = scratch(directory)?;
    let buffer = zeroed(BLOCK_BYTES);
    for block in 0..BLOCK_COUNT {
        write(&file, block, &buffer, ReadWriteFlags::empty())?;
    }
    rustix::fs::fsync(&file)?;
    let mut measured = Measured::default();
    let started = Instant::now();
    while measured.wants_more(started.elapsed()) {
        let block = measured.dsync.len() as u64 % BLOCK_COUNT;
        let before = Instant::now();
        match write(&file, block, &buffer, ReadWriteFlags::DSYNC) {
            Ok(()) => measured.dsync.push(before.elapsed()),
            Err(error) if is_unsupported(&error) => return Ok(SyncMethod::Fdatasync),
            Err(error) => return Err(error),
        }
        let before = Instant::now();
        write(&file, block, &buffer, ReadWriteFlags::empty())?;
        rustix::fs::fdatasync(&file)?;
        measured.fdatasync.push(before.elapsed());
    }
    Ok(measured.choose())
}

/// The times of both methods, as many of the one as of the other.
#[derive(Default)]
struct Measured {
    dsync: Vec<Duration>,
    fdatasync: Vec<Duration>,
}

impl Measured {
    fn wants_more(&self, elapsed: Duration) -> bool {
        assert_eq!(self.dsync.len(), self.fdatasync.len());
        match self.dsync.len() {
            0 => true,
            1..ROUND_COUNT_MIN => elapsed < TIME_MAX,
            ROUND_COUNT_MIN..ROUND_COUNT_MAX => elapsed < TIME_WANTED,
            _ => false,
        }
    }

    fn choose(mut self) -> SyncMethod {
        let dsync = median(&mut self.dsync);
        let fdatasync = median(&mut self.fdatasync);
        tracing::debug!(?dsync, ?fdatasync, "time of a durable write of one block");
        if dsync * 3 <= fdatasync * 4 { SyncMethod::Dsync } else { SyncMethod::Fdatasync }
    }
}

fn median(times: &mut [Duration]) -> Duration {
    assert!(!times.is_empty());
    times.sort_unstable();
    times[times.len() / 2]
}

/// A file that has lost its name already, so nothing is left however the probe ends.
fn scratch(directory: &Path) -> io::Result<OwnedFd> {
    let path = directory.join("probe.tmp");
    let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::RDWR | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    let file = match rustix::fs::open(&path, flags | OFlags::DIRECT, mode) {
        Err(Errno::INVAL) => rustix::fs::open(&path, flags, mode)?,
        file => file?,
    };
    match rustix::fs::unlink(&path) {
        // Another probe of this directory may have been quicker.
        Ok(()) | Err(Errno::NOENT) => Ok(file),
        Err(error) => Err(error.into()),
    }
}

fn write(file: &OwnedFd, block: u64, buffer: &Buffer, flags: ReadWriteFlags) -> io::Result<()> {
    let offset = block * BLOCK_BYTES as u64;
    loop {
        match rustix::io::pwritev2(file, &[IoSlice::new(buffer)], offset, flags) {
            Ok(BLOCK_BYTES) => return Ok(()),
            Ok(_) => return Err(io::ErrorKind::WriteZero.into()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_probed_in_a_short_time_and_left_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let method = probe(directory.path()).unwrap();
        assert!([SyncMethod::Dsync, SyncMethod::Fdatasync].contains(&method));
        assert!(std::fs::read_dir(directory.path()).unwrap().next().is_none());
        assert!(probe(&directory.path().join("missing")).is_err());
    }

    #[test]
    fn the_smaller_median_wins_whatever_the_outliers() {
        let times = |all: [u64; 3]| all.map(Duration::from_micros).to_vec();
        let through = Measured { dsync: times([10, 9_000, 12]), fdatasync: times([30, 20, 1]) };
        assert_eq!(through.choose(), SyncMethod::Dsync);
        let behind = Measured { dsync: times([50, 60, 1]), fdatasync: times([30, 9_000, 20]) };
        let alike = Measured { dsync: times([35, 35, 1]), fdatasync: times([30, 9_000, 20]) };
        assert_eq!(alike.choose(), SyncMethod::Dsync);
        assert_eq!(behind.choose(), SyncMethod::Fdatasync);
    }

    #[test]
    fn a_slow_disk_is_asked_less_often() {
        let asked = |count: usize| Measured {
            dsync: vec![Duration::ZERO; count],
            fdatasync: vec![Duration::ZERO; count],
        };
        assert!(asked(0).wants_more(Duration::from_secs(10)));
        assert!(asked(ROUND_COUNT_MIN - 1).wants_more(TIME_WANTED));
        assert!(!asked(1).wants_more(TIME_MAX));
        assert!(asked(ROUND_COUNT_MIN).wants_more(Duration::ZERO));
        assert!(!asked(ROUND_COUNT_MIN).wants_more(TIME_WANTED));
        assert!(!asked(ROUND_COUNT_MAX).wants_more(Duration::ZERO));
    }
}
