//! Making a file: opened, reserved, written with zeros, synced, and its name with it.
//!
//! ```text
//! clear -> open -> reserve -> zeros, piece by piece -> sync the file -> sync the directory -> made
//!             \________\______________\______________________\___________________\
//!                                                        remove -> sync the directory -> failed
//! ```
//!
//! What has the name before loses it, and is not written to: a snapshot may have the same file under a
//! name of its own.
//!
//! A [`Creation`] is a leaf: it starts nothing, and says what is to be done next.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::disk::port::Work;
use crate::disk::{BLOCK_BYTES, Buffer, FileId, zeroed};

/// Zeros are written in pieces of this size, so that other writes come in between.
const ZEROS_BYTES: u64 = 256 << 10;

const _: () = assert!(ZEROS_BYTES.is_multiple_of(BLOCK_BYTES as u64));

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Clear,
    Open,
    Reserve,
    Zeros { offset: u64 },
    SyncFile,
    SyncDirectory,
    Remove,
    SyncRemoval,
}

/// What comes of a step.
#[derive(Debug)]
pub(super) enum Progress {
    /// This is next.
    Next(Work),
    /// The file is there and durable.
    Made(Rc<OwnedFd>),
    /// It is not there; a descriptor may have to be closed.
    Failed(io::Error, Option<Rc<OwnedFd>>),
}

/// A file in the making.
#[derive(Debug)]
pub(super) struct Creation {
    pub(super) file: FileId,
    pub(super) bytes: u64,
    /// Whether the file is opened for direct I/O; not if the file system refuses.
    pub(super) is_direct: bool,
    is_written: bool,
    directory: Rc<OwnedFd>,
    name: CString,
    descriptor: Option<Rc<OwnedFd>>,
    step: Step,
    failure: Option<io::Error>,
}

impl Creation {
    pub(super) fn new(
        file: FileId,
        bytes: u64,
        is_written: bool,
        directory: Rc<OwnedFd>,
        name: CString,
        is_direct: bool,
    ) -> Self {
        assert!(bytes > 0);
        assert!(bytes.is_multiple_of(BLOCK_BYTES as u64));
        Self {
            file,
            bytes,
            is_direct,
            is_written,
            directory,
            name,
            descriptor: None,
            step: Step::Clear,
            failure: None,
        }
    }

    /// What to begin with.
    pub(super) fn clear(&self) -> Work {
        assert_eq!(self.step, Step::Clear);
        Work::Unlink { directory: Rc::clone(&self.directory), name: self.name.clone() }
    }

    fn open(&mut self) -> Work {
        self.step = Step::Open;
        let direct = if self.is_direct { OFlags::DIRECT } else { OFlags::empty() };
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC | direct;
        let (directory, name) = (Rc::clone(&self.directory), self.name.clone());
        Work::Open { directory, name, flags, opened: None }
    }

    /// The step has ended.
    pub(super) fn on_ended(&mut self, work: Work, result: io::Result<()>) -> Progress {
        if let Work::Open { opened: Some(opened), .. } = work {
            self.descriptor = Some(Rc::new(opened));
            self.step = Step::Reserve;
            return Progress::Next(self.reserve());
        }
        match result {
            Ok(()) => self.on_done(work),
            Err(error) => self.on_failed(error),
        }
    }

    fn on_done(&mut self, work: Work) -> Progress {
        match self.step {
            Step::Clear => Progress::Next(self.open()),
            Step::Open => panic!("a file that was opened has a descriptor"),
            Step::Reserve if self.is_written => self.zeros(0, zeroed(0)),
            Step::Reserve => self.sync_file(),
            Step::Zeros { offset } => {
                let Work::Write { buffer, .. } = work else { panic!("zeros are written") };
                let offset = offset + buffer.len() as u64;
                if offset == self.bytes { self.sync_file() } else { self.zeros(offset, buffer) }
            }
            Step::SyncFile => {
                self.step = Step::SyncDirectory;
                self.sync_directory()
            }
            Step::SyncDirectory => {
                Progress::Made(self.descriptor.take().expect("an open file is synced"))
            }
            Step::Remove => {
                self.step = Step::SyncRemoval;
                self.sync_directory()
            }
            Step::SyncRemoval => self.fail(),
        }
    }

    fn on_failed(&mut self, error: io::Error) -> Progress {
        let errno = Errno::from_io_error(&error);
        match self.step {
            Step::Clear if errno == Some(Errno::NOENT) => Progress::Next(self.open()),
            // It is not ours to remove what has the name.
            Step::Clear => Progress::Failed(error, None),
            Step::Open if self.is_direct && errno == Some(Errno::INVAL) => {
                self.is_direct = false;
                Progress::Next(self.open())
            }
            Step::Reserve if matches!(errno, Some(Errno::OPNOTSUPP | Errno::NOSYS)) => {
                self.zeros(0, zeroed(0))
            }
            // What failed first is what is told.
            Step::Remove | Step::SyncRemoval => self.fail(),
            Step::Open
            | Step::Reserve
            | Step::Zeros { .. }
            | Step::SyncFile
            | Step::SyncDirectory => {
                self.failure = Some(error);
                self.step = Step::Remove;
                let (directory, name) = (Rc::clone(&self.directory), self.name.clone());
                Progress::Next(Work::Unlink { directory, name })
            }
        }
    }

    fn fail(&mut self) -> Progress {
        let failure = self.failure.take().expect("a file is removed after a failure");
        Progress::Failed(failure, self.descriptor.take())
    }

    fn open_descriptor(&self) -> Rc<OwnedFd> {
        Rc::clone(self.descriptor.as_ref().expect("the file is open"))
    }

    fn reserve(&self) -> Work {
        Work::Reserve { descriptor: self.open_descriptor(), bytes: self.bytes }
    }

    /// Writes the next piece, with the buffer of the last one.
    fn zeros(&mut self, offset: u64, mut buffer: Buffer) -> Progress {
        assert!(offset < self.bytes);
        self.step = Step::Zeros { offset };
        let len = (self.bytes - offset).min(ZEROS_BYTES);
        buffer.resize(usize::try_from(len).expect("a piece is small"), 0);
        let descriptor = self.open_descriptor();
        Progress::Next(Work::Write { descriptor, offset, buffer, durable: None })
    }

    fn sync_file(&mut self) -> Progress {
        self.step = Step::SyncFile;
        Progress::Next(Work::Sync { descriptor: self.open_descriptor(), is_data_only: false })
    }

    fn sync_directory(&self) -> Progress {
        let descriptor = Rc::clone(&self.directory);
        Progress::Next(Work::Sync { descriptor, is_data_only: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    fn creation(bytes: u64, is_written: bool) -> Creation {
        let directory = Rc::new(descriptor());
        Creation::new(FileId(1), bytes, is_written, directory, c"1.log".into(), true)
    }

    /// The file is opened, where there was none of its name.
    fn opened(it: &mut Creation) -> Work {
        let work = it.clear();
        assert!(matches!(work, Work::Unlink { .. }));
        let work = next(it.on_ended(work, Err(Errno::NOENT.into())));
        let Work::Open { directory, name, flags, .. } = work else { panic!("it is opened") };
        assert!(flags.contains(OFlags::EXCL));
        assert!(!flags.contains(OFlags::TRUNC));
        Work::Open { directory, name, flags, opened: Some(descriptor()) }
    }

    fn next(progress: Progress) -> Work {
        let Progress::Next(work) = progress else { panic!("there is more to do: {progress:?}") };
        work
    }

    #[test]
    fn zeros_are_written_a_piece_at_a_time_up_to_the_end() {
        let bytes = 2 * ZEROS_BYTES + 4096;
        let mut it = creation(bytes, true);
        let open = opened(&mut it);
        let mut work = next(it.on_ended(open, Ok(())));
        assert!(matches!(work, Work::Reserve { bytes: of, .. } if of == bytes));
        let mut written = Vec::new();
        loop {
            work = next(it.on_ended(work, Ok(())));
            let Work::Write { offset, buffer, durable: None, .. } = &work else { break };
            assert!(buffer.iter().all(|byte| *byte == 0));
            written.push((*offset, buffer.len() as u64));
        }
        let pieces = [(0, ZEROS_BYTES), (ZEROS_BYTES, ZEROS_BYTES), (2 * ZEROS_BYTES, 4096)];
        assert_eq!(written, pieces);
        assert!(matches!(work, Work::Sync { is_data_only: false, .. }));
        work = next(it.on_ended(work, Ok(())));
        assert!(matches!(work, Work::Sync { is_data_only: false, .. }));
        assert!(matches!(it.on_ended(work, Ok(())), Progress::Made(_)));
    }

    #[test]
    fn a_file_that_does_not_fit_is_removed_for_good_and_the_failure_told() {
        let mut it = creation(4096, false);
        let open = opened(&mut it);
        let work = next(it.on_ended(open, Ok(())));
        let work = next(it.on_ended(work, Err(Errno::NOSPC.into())));
        assert!(matches!(work, Work::Unlink { .. }));
        let work = next(it.on_ended(work, Ok(())));
        assert!(matches!(work, Work::Sync { .. }));
        let Progress::Failed(error, Some(_)) = it.on_ended(work, Err(Errno::IO.into())) else {
            panic!("it has failed, with a descriptor to close");
        };
        assert_eq!(Errno::from_io_error(&error), Some(Errno::NOSPC));
    }

    #[test]
    fn a_file_whose_name_cannot_be_cleared_is_not_made_and_the_one_there_not_touched() {
        let mut it = creation(4096, true);
        let clear = it.clear();
        let Progress::Failed(error, None) = it.on_ended(clear, Err(Errno::BUSY.into())) else {
            panic!("it has failed, with nothing to close");
        };
        assert_eq!(Errno::from_io_error(&error), Some(Errno::BUSY));
    }

    #[test]
    fn where_direct_io_and_reserving_are_refused_the_file_is_buffered_and_written() {
        let mut it = creation(4096, false);
        let clear = it.clear();
        let open = next(it.on_ended(clear, Ok(())));
        let work = next(it.on_ended(open, Err(Errno::INVAL.into())));
        assert!(matches!(&work, Work::Open { flags, .. } if !flags.contains(OFlags::DIRECT)));
        assert!(!it.is_direct);
        let Work::Open { directory, name, flags, .. } = work else { panic!("it is opened") };
        let open = Work::Open { directory, name, flags, opened: Some(descriptor()) };
        let work = next(it.on_ended(open, Ok(())));
        let work = next(it.on_ended(work, Err(Errno::OPNOTSUPP.into())));
        assert!(matches!(work, Work::Write { .. }));
    }
}
