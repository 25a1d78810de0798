//! The beginning of a run: waiting for its first segment, and what is done where there is no room for
//! one.

use std::io;

use super::FileStorage;
use super::checkpoint::carry_out;
use super::log::{File, Log, State};
use super::recover::OpenFailure;
use super::scan::scan;
use super::survey::read;
use crate::disk::{BLOCK_BYTES, Disk, FileId, Op, zeroed};

/// Zeros are written in pieces of this size.
const ZEROS_BYTES: usize = 1 << 20;

impl<D: Disk> FileStorage<D> {
    pub(super) fn turn_until(
        &mut self,
        is_over: impl Fn(&Log<D>) -> bool,
    ) -> Result<(), OpenFailure> {
        while !is_over(&self.log) {
            self.log.turn(self.log.now());
            self.log.disk.wait().map_err(OpenFailure::Begin)?;
            self.reap();
            if self.log.has_failed() {
                return Err(OpenFailure::Begin(io::Error::other("the disk refuses writes")));
            }
        }
        Ok(())
    }

    /// The disk is full, and no file is free: the last segment is taken up again, so that compaction
    /// has somewhere to move records to, and deletions make room. What lies behind its records is
    /// zeros, durably, before anything is appended; by then all other segments are sealed, so nothing
    /// that was cut off is left anywhere.
    pub(super) fn go_on_in_last(&mut self) -> Result<(), OpenFailure> {
        self.turn_until(|log| log.has_active() || log.is_stuck())?;
        if self.log.has_active() {
            return Ok(());
        }
        let numbered = (0..).map(FileId).zip(&self.log.files);
        let sealed = numbered.filter_map(|(number, file)| {
            let file = file.filter(|it| it.state == State::Sealed)?;
            Some((file.id, number))
        });
        let Some((id, file)) = sealed.max() else { return Ok(()) };
        let File { bytes: file_bytes, data_end, .. } = *self.log.file(file);
        let (file_bytes, data_end) = (file_bytes as usize, data_end as usize);
        let bytes = read(&mut self.log.disk, file, 0, data_end)?;
        let scanned = scan(id, &bytes, &self.token_key);
        if scanned.end != data_end || !scanned.holes.is_empty() {
            // It is damaged, which whoever reads it is told.
            return Ok(());
        }
        // The trailer goes first: without it the segment is one that was not sealed.
        let trailer_at = file_bytes - BLOCK_BYTES;
        self.write_zeros(file, trailer_at, BLOCK_BYTES)?;
        for offset in (data_end..trailer_at).step_by(ZEROS_BYTES) {
            self.write_zeros(file, offset, ZEROS_BYTES.min(trailer_at - offset))?;
        }
        tracing::warn!(
            directory = %self.directory, file = self.log.disk.name(file),
            "the disk is full: the log goes on in its last file, and takes deletions"
        );
        let next_commit = scanned.commits.last().map_or(0, |(_, index)| index + 1);
        let entries = scanned.entries.iter().map(|(_, entry)| entry);
        self.log.take_up(file, next_commit, entries);
        Ok(())
    }

    fn write_zeros(&mut self, file: FileId, offset: usize, len: usize) -> Result<(), OpenFailure> {
        let op = Op::Write { file, offset: offset as u64, buffer: zeroed(len), is_durable: true };
        carry_out(&mut self.log.disk, op).map(|_| ()).map_err(OpenFailure::Begin)
    }
}
