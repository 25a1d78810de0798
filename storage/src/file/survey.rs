//! What the files of a directory are, by their first and last blocks.

use gridkv_cluster::Version;

use super::format::{
    DATA_START, FORMAT, FirstBlock, HEADER_COUNT, SEGMENT_BYTES_MIN, SegmentHeader, SegmentId,
    Trailer, first_block, read_trailer,
};
use super::log::{File, State};
use super::recover::{Damage, OpenFailure};
use crate::disk::{BLOCK_BYTES, Buffer, Disk, FileId, zeroed};

/// A segment that was found.
pub(super) struct Found {
    pub(super) file: FileId,
    pub(super) id: SegmentId,
    /// Size of the file.
    pub(super) bytes: usize,
    pub(super) trailer: Option<Trailer>,
    /// Names the key of the tokens in its contents.
    pub(super) token_key: u64,
    /// For the first segment of a run, where the log before it ends.
    pub(super) before: Option<(SegmentId, u32)>,
    /// One of its two headers is not there.
    pub(super) is_half: bool,
}

/// What the files of a directory are.
#[derive(Default)]
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
    /// Files whose header was being written when the log ended, and which hold nothing that counts.
    pub(super) half_free: Vec<FileId>,
}

/// What the header of a file comes to.
enum Head {
    /// Every copy says so.
    Whole(SegmentHeader),
    /// One copy is damaged.
    Patched(SegmentHeader),
    /// One copy is not there: a crash has cut off the first header of a new file, or it is damaged.
    Half(SegmentHeader),
    /// A crash has cut off the writing of the header: nothing was written behind it, or nothing is
    /// needed any more. What both say that only grows is taken.
    Torn([SegmentHeader; HEADER_COUNT]),
    Blank,
    Unknown(u32),
    Damaged,
}

impl Head {
    fn of(blocks: &[u8]) -> Self {
        let mut copies = [FirstBlock::Damaged; HEADER_COUNT];
        for (copy, block) in copies.iter_mut().zip(blocks.chunks(BLOCK_BYTES)) {
            *copy = first_block(block);
        }
        match copies {
            [FirstBlock::Header(one), FirstBlock::Header(other)] if one == other => {
                Self::Whole(one)
            }
            // One of them says that the file is free, or that it is begun: by then it was free.
            [FirstBlock::Header(one), FirstBlock::Header(other)] => Self::Torn([one, other]),
            [FirstBlock::Blank, FirstBlock::Blank] => Self::Blank,
            [FirstBlock::Unknown(format), _] | [_, FirstBlock::Unknown(format)] => {
                Self::Unknown(format)
            }
            [FirstBlock::Header(header), FirstBlock::Blank]
            | [FirstBlock::Blank, FirstBlock::Header(header)] => Self::Half(header),
            [FirstBlock::Header(header), _] | [_, FirstBlock::Header(header)] => {
                Self::Patched(header)
            }
            _ => Self::Damaged,
        }
    }
}

pub(super) fn survey<D: Disk>(disk: &mut D, segment_bytes: usize) -> Result<Survey, OpenFailure> {
    let mut survey = Survey::default();
    for (file, bytes) in disk.files() {
        if file == FileId::CHECKPOINT {
            survey.checkpoint_bytes = Some(bytes);
            continue;
        }
        let index = file.0 as usize;
        if survey.files.len() <= index {
            survey.files.resize(index + 1, None);
        }
        survey.take(disk, file, bytes, segment_bytes)?;
    }
    survey.found.sort_unstable_by_key(|found| (found.id, found.file));
    survey.set_copies_aside(disk);
    Ok(survey)
}

impl Survey {
    fn take<D: Disk>(
        &mut self,
        disk: &mut D,
        file: FileId,
        bytes: u64,
        segment_bytes: usize,
    ) -> Result<(), OpenFailure> {
        let head = if bytes < DATA_START as u64 {
            Head::Blank
        } else {
            Head::of(&read(disk, file, 0, DATA_START)?)
        };
        let is_size = bytes.is_power_of_two()
            && (SEGMENT_BYTES_MIN as u64..=segment_bytes as u64).contains(&bytes);
        let name = disk.name(file);
        let size = u32::try_from(bytes).unwrap_or(u32::MAX);
        let is_half = matches!(head, Head::Half(_));
        let (state, header) = match head {
            Head::Unknown(format) if format < FORMAT => {
                return Err(OpenFailure::OldFormat { file: name, format });
            }
            Head::Unknown(format) => return Err(OpenFailure::UnknownFormat { file: name, format }),
            // Its creation was interrupted.
            Head::Blank if !is_size => (State::Leaving, None),
            Head::Blank => (State::Free, None),
            Head::Torn(headers) => {
                headers.iter().for_each(|header| self.raise(header));
                self.half_free.push(file);
                (State::Leaving, None)
            }
            Head::Damaged => {
                self.damages.push(header_damage(name.clone(), None, DATA_START));
                (State::Damaged, None)
            }
            Head::Patched(header) => {
                self.damages.push(header_damage(name.clone(), header.segment, BLOCK_BYTES));
                (State::Free, Some(header))
            }
            Head::Whole(header) | Head::Half(header) => (State::Free, Some(header)),
        };
        self.files[file.0 as usize] = Some(File::new(state, SegmentId(0), size));
        let Some(header) = header else { return Ok(()) };
        if bytes != u64::from(header.file_bytes) || !is_size {
            let expected = u64::from(header.file_bytes);
            return Err(OpenFailure::Size { file: name, found: bytes, expected });
        }
        self.raise(&header);
        let Some(id) = header.segment else { return Ok(()) };
        self.files[file.0 as usize] = Some(File::new(State::Sealed, id, size));
        let tail = read(disk, file, bytes - BLOCK_BYTES as u64, BLOCK_BYTES)?;
        self.found.push(Found {
            file,
            id,
            bytes: size as usize,
            trailer: read_trailer(id, &tail),
            token_key: header.token_key,
            before: header.before,
            is_half,
        });
        Ok(())
    }

    /// Takes over what a header says that only grows.
    fn raise(&mut self, header: &SegmentHeader) {
        self.version_max = self.version_max.max(header.version_max);
        self.floor = self.floor.max(header.floor);
        self.promised = self.promised.max(header.promised);
        self.segment_max = self.segment_max.max(header.segment.unwrap_or_default());
    }

    /// Of files that say to be the same segment the first is taken: somebody has copied it.
    fn set_copies_aside<D: Disk>(&mut self, disk: &D) {
        let mut last = None;
        self.found.retain(|found| {
            let is_first = last != Some(found.id);
            last = Some(found.id);
            if !is_first {
                let aside = self.files[found.file.0 as usize].as_mut().expect("it was found");
                *aside = File::new(State::Damaged, SegmentId(0), aside.bytes);
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

pub(super) fn header_damage(file: String, segment: Option<SegmentId>, bytes: usize) -> Damage {
    Damage {
        file,
        segment: segment.map(|it| it.0),
        offset: 0,
        bytes: bytes as u64,
        what: if bytes == DATA_START {
            "the header of the segment"
        } else {
            "one of the two headers of the segment"
        },
    }
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
