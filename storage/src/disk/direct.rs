//! The files of a real directory, read and written past the page cache.
//!
//! Once the directory is open nothing here waits: each operation goes through the [`IoPort`] as one
//! submission after the other. Opening, [`Disk::read_now`] and [`Disk::wait`] are the exceptions.
//!
//! # Invariants
//!
//! - A file is written and synced only while it is there: between the ends of its creation and the
//!   start of its removal. Whatever else comes is refused with `ENOENT`.
//! - A descriptor is closed when its file was removed and nothing that uses it is under way.
//! - Errors are told as they came, and nothing that failed is tried again.
//!
//! # Why direct I/O
//!
//! A log is written once, in order, and a record that is read is kept by the store if it is worth
//! it: the page cache would hold a second copy, and write it when it likes. Where the file system
//! refuses direct I/O the page cache is used; what is durable is made so by syncs in either case.

mod creation;

use std::collections::{BTreeMap, VecDeque};
use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use self::creation::{Creation, Progress};
use super::port::{Ended, Inbox, IoPort, Work};
use super::{BLOCK_BYTES, Buffer, Completion, Disk, FileId, Op, OpId, SyncMethod};

/// A file that is there.
#[derive(Debug)]
struct OpenFile {
    descriptor: Rc<OwnedFd>,
    bytes: u64,
    /// Writes and syncs under way.
    write_count: u32,
    read_count: u32,
    /// It is being removed.
    is_leaving: bool,
}

impl OpenFile {
    fn new(descriptor: Rc<OwnedFd>, bytes: u64) -> Self {
        Self { descriptor, bytes, write_count: 0, read_count: 0, is_leaving: false }
    }

    fn holds(&self, offset: u64, len: usize) -> bool {
        offset.checked_add(len as u64).is_some_and(|end| end <= self.bytes)
    }
}

/// What an operation under way is for.
#[derive(Debug)]
enum UnderWay {
    Read(FileId),
    Write(FileId),
    Create(Box<Creation>),
    Unlink(FileId),
    SyncUnlinked(FileId),
    /// Of a file that is gone. Nobody is told.
    Close,
}

/// The log files of one directory.
#[derive(Debug)]
pub struct DirectDisk {
    port: IoPort,
    inbox: Inbox,
    path: PathBuf,
    directory: Rc<OwnedFd>,
    method: SyncMethod,
    /// Whether the file system takes direct I/O, as far as is known.
    is_direct: bool,
    found: Vec<(FileId, u64)>,
    files: BTreeMap<FileId, OpenFile>,
    under_way: BTreeMap<OpId, UnderWay>,
    ended: VecDeque<Completion>,
    /// Descriptors of files that are gone, in use by reads that are under way.
    leaving: Vec<Rc<OwnedFd>>,
    last_id: u64,
}

impl DirectDisk {
    /// Opens the log files that are in `directory`, holding up the caller.
    ///
    /// # Errors
    ///
    /// As the operating system says, with the name of what it refused.
    pub fn open(directory: &Path, port: IoPort, method: SyncMethod) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let descriptor = rustix::fs::open(directory, flags, Mode::empty());
        let descriptor = descriptor.map_err(|error| named(error.into(), directory))?;
        let mut disk = Self {
            port,
            inbox: Inbox::default(),
            path: directory.to_owned(),
            directory: Rc::new(descriptor),
            method,
            is_direct: true,
            found: Vec::new(),
            files: BTreeMap::new(),
            under_way: BTreeMap::new(),
            ended: VecDeque::new(),
            leaving: Vec::new(),
            last_id: 0,
        };
        for entry in std::fs::read_dir(directory).map_err(|error| named(error, directory))? {
            let name = entry.map_err(|error| named(error, directory))?.file_name();
            if let Some(file) = name.to_str().and_then(file_of) {
                disk.open_file(file).map_err(|error| named(error, &directory.join(&name)))?;
            }
        }
        // Names that a process before this one has made or removed stay so from here on.
        rustix::fs::fsync(&disk.directory).map_err(|error| named(error.into(), directory))?;
        disk.found = disk.files.iter().map(|(id, file)| (*id, file.bytes)).collect();
        Ok(disk)
    }

    fn open_file(&mut self, file: FileId) -> io::Result<()> {
        let name = self.name(file);
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let open = |flags| rustix::fs::openat(&self.directory, &name, flags, Mode::empty());
        let direct = if self.is_direct { OFlags::DIRECT } else { OFlags::empty() };
        let descriptor = match open(flags | direct) {
            Err(Errno::INVAL) if self.is_direct => {
                let descriptor = open(flags)?;
                self.on_direct_refused();
                descriptor
            }
            result => result?,
        };
        let bytes = rustix::fs::fstat(&descriptor)?.st_size;
        let bytes = u64::try_from(bytes).map_err(|_| io::ErrorKind::InvalidData)?;
        self.files.insert(file, OpenFile::new(Rc::new(descriptor), bytes));
        Ok(())
    }

    fn on_direct_refused(&mut self) {
        if self.is_direct {
            self.is_direct = false;
            let directory = self.path.display();
            tracing::warn!(%directory, "no direct I/O on this file system: the page cache is used");
        }
    }

    /// A file that can be read, written and synced.
    fn usable(&mut self, file: FileId) -> Option<&mut OpenFile> {
        self.files.get_mut(&file).filter(|it| !it.is_leaving)
    }

    fn name_for_kernel(&self, file: FileId) -> CString {
        CString::new(self.name(file)).expect("the name of a file has no zero byte")
    }

    fn begin(&mut self, id: OpId, purpose: UnderWay, work: Work) {
        self.under_way.insert(id, purpose);
        self.port.start(&self.inbox, id.0, work);
    }

    fn end(&mut self, id: OpId, result: io::Result<()>, buffer: Option<Buffer>) {
        self.ended.push_back(Completion { id, result, buffer });
    }

    fn next_id(&mut self) -> OpId {
        self.last_id += 1;
        OpId(self.last_id)
    }

    fn start_create(&mut self, id: OpId, file: FileId, bytes: u64, is_written: bool) {
        let is_creating =
            |it: &UnderWay| matches!(it, UnderWay::Create(other) if other.file == file);
        assert!(!self.under_way.values().any(is_creating), "a file is created once at a time");
        if let Some(old) = self.files.remove(&file) {
            assert_eq!(old.read_count + old.write_count, 0, "a file in use is not replaced");
            assert!(!old.is_leaving, "a file that is being removed is not replaced");
            self.leaving.push(old.descriptor);
        }
        let (directory, name) = (Rc::clone(&self.directory), self.name_for_kernel(file));
        let creation = Creation::new(file, bytes, is_written, directory, name, self.is_direct);
        let work = creation.clear();
        self.begin(id, UnderWay::Create(Box::new(creation)), work);
        self.close_what_is_free();
    }

    fn start_write(
        &mut self,
        id: OpId,
        file: FileId,
        offset: u64,
        buffer: Buffer,
        is_durable: bool,
    ) {
        assert_aligned(offset, &buffer);
        let durable = is_durable.then_some(self.method);
        let Some(entry) = self.usable(file) else {
            return self.end(id, Err(Errno::NOENT.into()), Some(buffer));
        };
        assert!(entry.holds(offset, buffer.len()), "a write does not make its file longer");
        entry.write_count += 1;
        let descriptor = Rc::clone(&entry.descriptor);
        let work = Work::Write { descriptor, offset, buffer, durable };
        self.begin(id, UnderWay::Write(file), work);
    }

    fn start_sync(&mut self, id: OpId, file: FileId) {
        let Some(entry) = self.usable(file) else {
            return self.end(id, Err(Errno::NOENT.into()), None);
        };
        entry.write_count += 1;
        let descriptor = Rc::clone(&entry.descriptor);
        self.begin(id, UnderWay::Write(file), Work::Sync { descriptor, is_data_only: true });
    }

    fn start_read(&mut self, id: OpId, file: FileId, offset: u64, buffer: Buffer) {
        assert_aligned(offset, &buffer);
        let Some(entry) = self.usable(file) else {
            return self.end(id, Err(Errno::NOENT.into()), Some(buffer));
        };
        if !entry.holds(offset, buffer.len()) {
            return self.end(id, Err(io::ErrorKind::UnexpectedEof.into()), Some(buffer));
        }
        entry.read_count += 1;
        let descriptor = Rc::clone(&entry.descriptor);
        self.begin(id, UnderWay::Read(file), Work::Read { descriptor, offset, buffer });
    }

    fn start_delete(&mut self, id: OpId, file: FileId) {
        let Some(entry) = self.usable(file) else {
            return self.end(id, Err(Errno::NOENT.into()), None);
        };
        assert_eq!(entry.write_count, 0, "a file that is being written is not removed");
        entry.is_leaving = true;
        let (directory, name) = (Rc::clone(&self.directory), self.name_for_kernel(file));
        self.begin(id, UnderWay::Unlink(file), Work::Unlink { directory, name });
    }

    /// Takes in all that the port has to tell.
    fn advance(&mut self) {
        loop {
            // The inbox is not borrowed while what came out of it is dealt with.
            let ended = self.inbox.borrow_mut().pop_front();
            let Some(ended) = ended else { return };
            self.on_ended(ended);
            if !self.leaving.is_empty() {
                self.close_what_is_free();
            }
        }
    }

    fn on_ended(&mut self, ended: Ended) {
        let Ended { tag, work, result } = ended;
        let id = OpId(tag);
        let purpose = self.under_way.remove(&id).expect("an operation ends once");
        match purpose {
            UnderWay::Read(file) => {
                // The file may have been removed meanwhile, and another one made of that name.
                if let Some(entry) = self.files.get_mut(&file)
                    && let Work::Read { descriptor, .. } = &work
                    && Rc::ptr_eq(descriptor, &entry.descriptor)
                {
                    entry.read_count -= 1;
                }
                self.end(id, result, buffer_of(work));
            }
            UnderWay::Write(file) => {
                let entry = self.files.get_mut(&file).expect("it is not removed meanwhile");
                entry.write_count -= 1;
                self.end(id, result, buffer_of(work));
            }
            UnderWay::Create(creation) => self.on_creation(id, creation, work, result),
            UnderWay::Unlink(file) => self.on_unlinked(id, file, result),
            UnderWay::SyncUnlinked(file) => self.on_removed(id, file, result),
            UnderWay::Close => {}
        }
    }

    fn on_creation(
        &mut self,
        id: OpId,
        mut creation: Box<Creation>,
        work: Work,
        result: io::Result<()>,
    ) {
        let progress = creation.on_ended(work, result);
        if !creation.is_direct {
            self.on_direct_refused();
        }
        match progress {
            Progress::Next(work) => self.begin(id, UnderWay::Create(creation), work),
            Progress::Made(descriptor) => {
                self.files.insert(creation.file, OpenFile::new(descriptor, creation.bytes));
                self.end(id, Ok(()), None);
            }
            Progress::Failed(error, descriptor) => {
                self.leaving.extend(descriptor);
                self.end(id, Err(error), None);
            }
        }
    }

    fn on_unlinked(&mut self, id: OpId, file: FileId, result: io::Result<()>) {
        match result {
            Ok(()) => {
                let descriptor = Rc::clone(&self.directory);
                let work = Work::Sync { descriptor, is_data_only: false };
                self.begin(id, UnderWay::SyncUnlinked(file), work);
            }
            Err(error) => {
                self.files.get_mut(&file).expect("it is there until it is gone").is_leaving = false;
                self.end(id, Err(error), None);
            }
        }
    }

    fn on_removed(&mut self, id: OpId, file: FileId, result: io::Result<()>) {
        let entry = self.files.remove(&file).expect("a file is removed once");
        assert!(entry.is_leaving);
        self.leaving.push(entry.descriptor);
        self.end(id, result, None);
    }

    /// Closes descriptors that nothing under way uses. The last close of a removed file gives its
    /// space back, which takes time: it is for the kernel to wait for.
    fn close_what_is_free(&mut self) {
        for descriptor in std::mem::take(&mut self.leaving) {
            match Rc::try_unwrap(descriptor) {
                Ok(descriptor) => {
                    let id = self.next_id();
                    let work = Work::Close { descriptor: Some(descriptor) };
                    self.begin(id, UnderWay::Close, work);
                }
                Err(in_use) => self.leaving.push(in_use),
            }
        }
    }
}

impl Disk for DirectDisk {
    fn start(&mut self, op: Op) -> OpId {
        let id = self.next_id();
        match op {
            Op::Create { file, bytes, is_written } => {
                self.start_create(id, file, bytes, is_written);
            }
            Op::Write { file, offset, buffer, is_durable } => {
                self.start_write(id, file, offset, buffer, is_durable);
            }
            Op::Sync { file } => self.start_sync(id, file),
            Op::Read { file, offset, buffer } => self.start_read(id, file, offset, buffer),
            Op::Delete { file } => self.start_delete(id, file),
        }
        id
    }

    fn poll(&mut self) -> Option<Completion> {
        self.advance();
        self.ended.pop_front()
    }

    fn wait(&mut self) -> io::Result<()> {
        loop {
            self.advance();
            if !self.ended.is_empty() {
                return Ok(());
            }
            self.port.drive(true)?;
        }
    }

    fn read_now(&mut self, file: FileId, offset: u64, buffer: &mut Buffer) -> io::Result<()> {
        assert_aligned(offset, buffer);
        let Some(entry) = self.usable(file) else { return Err(Errno::NOENT.into()) };
        if !entry.holds(offset, buffer.len()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut read_len = 0;
        while read_len < buffer.len() {
            let rest = &mut buffer[read_len..];
            match rustix::io::pread(&entry.descriptor, rest, offset + read_len as u64) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => read_len += count,
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn files(&self) -> Vec<(FileId, u64)> {
        self.found.clone()
    }

    fn is_shared(&self, file: FileId) -> bool {
        let open = self.files.get(&file);
        // What cannot be looked at is left alone.
        open.is_some_and(|open| {
            rustix::fs::fstat(&open.descriptor).map_or(true, |stat| stat.st_nlink > 1)
        })
    }
}

fn assert_aligned(offset: u64, buffer: &Buffer) {
    assert!(offset.is_multiple_of(BLOCK_BYTES as u64));
    assert!(buffer.len().is_multiple_of(BLOCK_BYTES));
    assert!(!buffer.is_empty());
}

fn buffer_of(work: Work) -> Option<Buffer> {
    match work {
        Work::Read { buffer, .. } | Work::Write { buffer, .. } => Some(buffer),
        _ => None,
    }
}

/// The file of this name, if it is a log file.
fn file_of(name: &str) -> Option<FileId> {
    if name == FileId::CHECKPOINT.name() {
        return Some(FileId::CHECKPOINT);
    }
    let digits = name.strip_suffix(".log")?;
    let is_number = digits.len() == 10 && digits.bytes().all(|it| it.is_ascii_digit());
    digits.parse().ok().filter(|_| is_number).map(FileId)
}

/// An error that says what it is about.
fn named(error: io::Error, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests;
