//! Segments that take no more records: their contents are written behind them.

use std::collections::VecDeque;
use std::io;

use super::{Active, File, Log, Purpose, State};
use crate::backend::LogPosition;
use crate::disk::{Buffer, Disk, FileId, Op};
use crate::file::contents::Contents;
use crate::file::format::{Entry, SegmentId, Trailer, contents_bytes};

/// A segment whose contents are on their way to disk.
pub(super) struct Closing {
    pub(super) id: SegmentId,
    file: FileId,
    data_end: usize,
    /// All its commits are durable from this position on.
    pub(super) after: LogPosition,
    progress: Progress,
    is_writing: bool,
}

enum Progress {
    /// The segment may not be durable yet.
    Making(Contents),
    /// What is left of the contents, and where it goes.
    Writing { pieces: VecDeque<Buffer>, offset: u64 },
}

impl Closing {
    /// Memory of the contents.
    pub(super) fn bytes(&self) -> usize {
        match &self.progress {
            Progress::Making(contents) => contents.bytes(),
            Progress::Writing { pieces, .. } => pieces.iter().map(Buffer::capacity).sum(),
        }
    }
}

impl<D: Disk> Log<D> {
    /// Closes the segment that was appended to.
    pub(super) fn begin_closing(&mut self, active: Active) {
        self.file_mut(active.file).state = State::Closing;
        self.closing.push_back(Closing {
            id: active.id,
            file: active.file,
            data_end: active.end,
            after: self.position,
            progress: Progress::Making(active.contents),
            is_writing: false,
        });
    }

    /// Takes over the entries of a segment that was not sealed when the log was opened.
    pub(in crate::file) fn close_recovered(&mut self, file: FileId, entries: &[Entry]) {
        let File { id, data_end, bytes, .. } = *self.file(file);
        let mut contents = Contents::new(bytes as usize);
        entries.iter().for_each(|entry| contents.push(entry));
        self.file_mut(file).state = State::Closing;
        self.closing.push_back(Closing {
            id,
            file,
            data_end: data_end as usize,
            after: LogPosition(0),
            progress: Progress::Making(contents),
            is_writing: false,
        });
    }

    /// Takes up a segment again, whose records are these; behind them there is nothing.
    pub(in crate::file) fn take_up<'e>(
        &mut self,
        file: FileId,
        commit_index: u32,
        entries: impl Iterator<Item = &'e Entry>,
    ) {
        assert!(self.active.is_none());
        assert!(self.closing.is_empty());
        let File { id, data_end, bytes, .. } = *self.file(file);
        let mut contents = Contents::new(bytes as usize);
        entries.for_each(|entry| contents.push(entry));
        self.file_mut(file).state = State::Active;
        // The log before goes on.
        self.before = None;
        let (bytes, end) = (bytes as usize, data_end as usize);
        self.active = Some(Active { file, id, bytes, end, commit_index, contents });
    }

    /// Whether all segments are sealed, nothing is under way, and no file is free.
    pub(in crate::file) fn is_stuck(&self) -> bool {
        self.closing.is_empty() && !self.is_busy() && self.free.is_empty()
    }

    /// Writes the next piece of the contents of a segment whose records are durable.
    pub(super) fn write_contents(&mut self) {
        let version_max = self.version_max;
        let Some(closing) = self.closing.front_mut() else { return };
        if closing.is_writing || closing.after > self.durable {
            return;
        }
        if let Progress::Making(contents) = &mut closing.progress {
            let file_bytes =
                self.files[closing.file.0 as usize].expect("it is there").bytes as usize;
            let contents = std::mem::replace(contents, Contents::new(file_bytes));
            let trailer = Trailer {
                count: contents.count(),
                data_end: u32::try_from(closing.data_end).expect("a segment has at most 64 MiB"),
                version_max,
            };
            let offset = (file_bytes - contents_bytes(contents.count() as usize)) as u64;
            let pieces = contents.close(closing.id, &trailer);
            closing.progress = Progress::Writing { pieces, offset };
        }
        let Progress::Writing { pieces, offset } = &mut closing.progress else { return };
        let buffer = pieces.pop_front().expect("what is whole is not closing any more");
        let (file, at) = (closing.file, *offset);
        *offset += buffer.len() as u64;
        closing.is_writing = true;
        self.start(Purpose::Contents, Op::Write { file, offset: at, buffer, is_durable: true });
    }

    pub(super) fn complete_contents(&mut self, result: &io::Result<()>) {
        let closing = self.closing.front_mut().expect("contents were being written");
        closing.is_writing = false;
        if let Err(error) = result {
            return self.fail(error);
        }
        if matches!(&closing.progress, Progress::Writing { pieces, .. } if pieces.is_empty()) {
            let file = closing.file;
            self.closing.pop_front();
            let file = self.file_mut(file);
            if file.state == State::Closing {
                file.state = State::Sealed;
            }
        }
    }
}
