//! What the files of a directory are, by their first and last blocks.

use gridkv_cluster::Version;

use super::format::{FirstBlock, SegmentId, Trailer, first_block, read_trailer};
use super::log::{File, State};
use super::recover::{Damage, OpenFailure};
use crate::disk::{BLOCK_BYTES, Buffer, Disk, FileId, zeroed};

/// A segment that was found.
pub(super) struct Found {
    pub(super) file: FileId,
    pub(super) id: SegmentId,
    pub(super) trailer: Option<Trailer>,
}

/// What the files of a directory are.
pub(super) struct Survey {
    pub(super) files: Vec<Option<File>>,
    pub(super) found: Vec<Found>,
    pub(super) version_max: Version,
    pub(super) floor: Version,
    pub(super) promised: Version,
    pub(super) damages: Vec<Damage>,
    /// The highest segment that a header names.
    pub(super) segment_max: SegmentId,
    /// Size of the checkpoint, if there is one.
    pub(super) checkpoint_bytes: Option<u64>,
}

pub(super) fn survey<D: Disk>(disk: &mut D, segment_bytes: usize) -> Result<Survey, OpenFailure> {
    let mut survey = Survey {
        files: Vec::new(),
        found: Vec::new(),
        version_max: Version::ZERO,
        floor: Version::ZERO,
        promised: Version::ZERO,
        damages: Vec::new(),
        segment_max: SegmentId(0),
        checkpoint_bytes: None,
    };
    for (file, bytes) in disk.files() {
        if file == FileId::CHECKPOINT {
            survey.checkpoint_bytes = Some(bytes);
            continue;
        }
        let name = disk.name(file);
        let index = file.0 as usize;
        if survey.files.len() <= index {
            survey.files.resize(index + 1, None);
        }
        if bytes != segment_bytes as u64 {
            if is_unfinished(disk, file, bytes)? {
                survey.files[index] = Some(File::new(State::Leaving, SegmentId(0)));
                continue;
            }
            let expected = segment_bytes as u64;
            return Err(OpenFailure::Size { file: name, found: bytes, expected });
        }
        let block = read(disk, file, 0, BLOCK_BYTES)?;
        let tail = read(disk, file, (segment_bytes - BLOCK_BYTES) as u64, BLOCK_BYTES)?;
        match first_block(&block) {
            FirstBlock::Unknown(format) => {
                return Err(OpenFailure::UnknownFormat { file: name, format });
            }
            FirstBlock::Blank => {
                survey.files[index] = Some(File::new(State::Free, SegmentId(0)));
            }
            FirstBlock::Damaged => {
                survey.files[index] = Some(File::new(State::Damaged, SegmentId(0)));
                survey.damages.push(Damage {
                    file: name,
                    segment: None,
                    offset: 0,
                    bytes: BLOCK_BYTES as u64,
                    what: "the header of the segment",
                });
            }
            FirstBlock::Header(header) => {
                survey.version_max = survey.version_max.max(header.version_max);
                survey.floor = survey.floor.max(header.floor);
                survey.promised = survey.promised.max(header.promised);
                let Some(id) = header.segment else {
                    survey.files[index] = Some(File::new(State::Free, SegmentId(0)));
                    continue;
                };
                survey.segment_max = survey.segment_max.max(id);
                survey.files[index] = Some(File::new(State::Sealed, id));
                survey.found.push(Found { file, id, trailer: read_trailer(id, &tail) });
            }
        }
    }
    survey.found.sort_unstable_by_key(|found| (found.id, found.file));
    survey.set_copies_aside(disk);
    Ok(survey)
}

impl Survey {
    /// Of files that say to be the same segment the first is taken: somebody has copied it.
    fn set_copies_aside<D: Disk>(&mut self, disk: &D) {
        let mut last = None;
        self.found.retain(|found| {
            let is_first = last != Some(found.id);
            last = Some(found.id);
            if !is_first {
                self.files[found.file.0 as usize] = Some(File::new(State::Damaged, SegmentId(0)));
                self.damages.push(Damage {
                    file: disk.name(found.file),
                    segment: Some(found.id.0),
                    offset: 0,
                    bytes: 0,
                    what: "the number of the segment, which another file has",
                });
            }
            is_first
        });
    }
}

/// Whether a file of another size is one whose creation was interrupted: it holds nothing.
fn is_unfinished<D: Disk>(disk: &mut D, file: FileId, bytes: u64) -> Result<bool, OpenFailure> {
    if bytes < BLOCK_BYTES as u64 {
        return Ok(true);
    }
    let block = read(disk, file, 0, BLOCK_BYTES)?;
    Ok(first_block(&block) == FirstBlock::Blank)
}

/// Reads a part of a file, the caller waiting.
pub(super) fn read<D: Disk>(
    disk: &mut D,
    file: FileId,
    offset: u64,
    len: usize,
) -> Result<Buffer, OpenFailure> {
    let mut buffer = zeroed(len);
    disk.read_now(file, offset, &mut buffer)
        .map_err(|source| OpenFailure::Read { file: disk.name(file), source })?;
    Ok(buffer)
}
