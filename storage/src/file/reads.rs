//! Bringing records into memory for commands that need them.
//!
//! A [`Ticket`] stands for one or more records. What was read for it stays until it is released,
//! however often its readers look; then it may move into the cache.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use gridkv_cluster::WallTime;

use super::FileStorage;
use super::format::{
    RECORD_HEADER_BYTES, Record, SegmentId, parse_record, read_key, read_record, record_bytes_max,
};
use super::index::{Ident, Known, Place};
use super::log::State;
use crate::backend::{ReadError, Ticket};
use crate::disk::{BLOCK_BYTES, Buffer, Disk, Op, OpId};

/// Where only the key is wanted, so much is read of a record at first.
const KEY_READ_BYTES: usize = BLOCK_BYTES;

/// A record in memory.
#[derive(Clone)]
pub(super) struct Loaded {
    bytes: Rc<Buffer>,
    start: usize,
    place: Place,
    segment: SegmentId,
    /// The whole record is there, and its checksum holds.
    is_whole: bool,
    user_count: u32,
}

impl Loaded {
    /// The whole record.
    pub(super) fn record(&self) -> Option<Record<'_>> {
        let bytes = self.is_whole.then(|| &self.bytes[self.start..])?;
        parse_record(self.segment, bytes)
    }

    pub(super) fn key(&self) -> Option<&[u8]> {
        read_key(&self.bytes[self.start..])
    }
}

/// A read under way.
struct Reading {
    ident: Ident,
    known: Known,
    ticket: Ticket,
    start: usize,
    needs_value: bool,
}

#[derive(Default)]
struct Pending {
    /// Reads that are still under way.
    left: usize,
    error: Option<ReadError>,
    idents: Vec<Ident>,
    /// Whether what was read is worth a place in the cache.
    is_use: bool,
}

/// Records being read, and records read.
#[derive(Default)]
pub(super) struct Reads {
    next_ticket: u64,
    reading: BTreeMap<OpId, Reading>,
    pending: BTreeMap<Ticket, Pending>,
    loaded: BTreeMap<Ident, Loaded>,
    ready: VecDeque<(Ticket, Result<(), ReadError>)>,
    /// Tickets that wait for room in the log.
    room: Vec<Ticket>,
    pub(super) count: u64,
    pub(super) error_count: u64,
}

impl Reads {
    pub(super) fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket)
    }

    /// A ticket that becomes ready when the log has room.
    pub(super) fn wait_for_room(&mut self) -> Ticket {
        let ticket = self.ticket();
        self.room.push(ticket);
        ticket
    }

    /// Tells those who wait for room to try again.
    pub(super) fn room_made(&mut self) {
        self.ready.extend(self.room.drain(..).map(|ticket| (ticket, Ok(()))));
    }

    pub(super) fn poll_ready(&mut self) -> Option<(Ticket, Result<(), ReadError>)> {
        self.ready.pop_front()
    }

    /// The record in memory, if it is the one that the index means.
    pub(super) fn loaded(&self, ident: Ident, place: Place) -> Option<&Loaded> {
        self.loaded.get(&ident).filter(|loaded| loaded.place == place)
    }

    /// Whether an operation is a read for a ticket.
    pub(super) fn contains(&self, id: OpId) -> bool {
        self.reading.contains_key(&id)
    }
}

/// What to bring in.
pub(super) struct Wanted {
    pub(super) ident: Ident,
    pub(super) known: Known,
    pub(super) needs_value: bool,
}

impl<D: Disk> FileStorage<D> {
    /// Starts to bring records in.
    pub(super) fn start_loading(&mut self, wanted: Vec<Wanted>, is_use: bool) -> Ticket {
        let ticket = self.reads.ticket();
        self.reads.pending.insert(ticket, Pending { is_use, ..Pending::default() });
        for Wanted { ident, known, needs_value } in wanted {
            if !self.load_staged(ident, &known, ticket) {
                self.start_read(ident, known, needs_value, ticket);
            }
        }
        self.settle(ticket);
        ticket
    }

    fn load_staged(&mut self, ident: Ident, known: &Known, ticket: Ticket) -> bool {
        let Some(staged) = self.log.staged(known.place) else { return false };
        let mut bytes = Buffer::new();
        let len = record_bytes_max(known.payload_bytes as usize).min(staged.len());
        bytes.extend_from_slice(&staged[..len]);
        // It was made here and has not left.
        self.take_in(ident, known.place, (Rc::new(bytes), 0, true), ticket);
        true
    }

    fn start_read(&mut self, ident: Ident, known: Known, needs_value: bool, ticket: Ticket) {
        let mut len = record_bytes_max(known.payload_bytes as usize);
        if !needs_value {
            len = len.min(KEY_READ_BYTES);
        }
        let (offset, start, buffer) = extent(known.place, len);
        let file = known.place.file;
        self.log.file_mut(file).reader_count += 1;
        let id = self.log.disk.start(Op::Read { file, offset, buffer });
        self.reads.count += 1;
        self.reads.pending.get_mut(&ticket).expect("its ticket was just made").left += 1;
        self.reads.reading.insert(id, Reading { ident, known, ticket, start, needs_value });
    }

    /// Takes in the end of a read. `false` if it is none.
    pub(super) fn complete_read(
        &mut self,
        id: OpId,
        result: &std::io::Result<()>,
        buffer: Option<Buffer>,
    ) -> bool {
        let Some(reading) = self.reads.reading.remove(&id) else { return false };
        let Reading { ident, known, ticket, start, needs_value } = reading;
        let file = known.place.file;
        self.log.file_mut(file).reader_count -= 1;
        let current = self.index.find(ident);
        let mut again = None;
        let error = match (result, buffer) {
            _ if current.is_none_or(|it| it.place != known.place) => {
                // It was moved or written anew, if it is still there.
                again = current.filter(|it| !self.load_staged(ident, it, ticket));
                None
            }
            (Ok(()), Some(bytes)) => {
                match self.judge(ident, &known, &bytes[start..], needs_value) {
                    Judgement::Good { is_whole } => {
                        self.take_in(ident, known.place, (Rc::new(bytes), start, is_whole), ticket);
                        None
                    }
                    Judgement::Short => {
                        again = Some(known);
                        None
                    }
                    Judgement::Bad => Some(self.damaged(known.place)),
                }
            }
            (Err(error), _) => Some(self.unreadable(known.place, error)),
            (Ok(()), None) => unreachable!("a read gives its buffer back"),
        };
        if let Some(known) = again {
            self.start_read(ident, known, true, ticket);
        }
        let pending = self.reads.pending.get_mut(&ticket).expect("a read is waited for");
        pending.left -= 1;
        if let Some(error) = error {
            pending.error.get_or_insert(error);
        }
        self.settle(ticket);
        true
    }

    /// Whether bytes are the record that the index means.
    fn judge(&self, ident: Ident, known: &Known, bytes: &[u8], needs_value: bool) -> Judgement {
        let segment = self.log.file(known.place.file).id;
        if let Some(record) = read_record(segment, bytes) {
            let key = record.mutation.key;
            let is_meant = record.mutation.version == known.version
                && self.ident(self.token_key.token(key), key) == ident;
            return if is_meant { Judgement::Good { is_whole: true } } else { Judgement::Bad };
        }
        let is_whole = bytes.len() >= record_bytes_max(known.payload_bytes as usize);
        if needs_value || is_whole {
            return Judgement::Bad;
        }
        // The key comes first and is proven by its hashes.
        match read_key(bytes) {
            Some(key) if self.ident(self.token_key.token(key), key) == ident => {
                Judgement::Good { is_whole: false }
            }
            _ => Judgement::Short,
        }
    }

    pub(super) fn damaged(&mut self, place: Place) -> ReadError {
        let file = self.log.disk.name(place.file);
        let offset = u64::from(place.offset);
        if self.damaged_places.insert(place) {
            self.damaged_count += 1;
            tracing::error!(directory = %self.directory, file, offset, "a record is damaged");
        }
        let state = &mut self.log.file_mut(place.file).state;
        if *state == State::Sealed {
            *state = State::Damaged;
        }
        ReadError::Damaged { file, offset }
    }

    fn unreadable(&mut self, place: Place, error: &std::io::Error) -> ReadError {
        let file = self.log.disk.name(place.file);
        let offset = u64::from(place.offset);
        self.reads.error_count += 1;
        tracing::error!(directory = %self.directory, file, offset, %error, "a record cannot be read");
        ReadError::Disk { file, offset, reason: error.to_string() }
    }

    fn take_in(
        &mut self,
        ident: Ident,
        place: Place,
        (bytes, start, is_whole): (Rc<Buffer>, usize, bool),
        ticket: Ticket,
    ) {
        let segment = self.log.file(place.file).id;
        let loaded = Loaded { bytes, start, place, segment, is_whole, user_count: 0 };
        let entry = self.reads.loaded.entry(ident).or_insert_with(|| loaded.clone());
        let is_complete = entry.place == place && entry.is_whole;
        if !is_complete {
            *entry = Loaded { user_count: entry.user_count, ..loaded };
        }
        entry.user_count += 1;
        self.reads.pending.get_mut(&ticket).expect("it is waited for").idents.push(ident);
    }

    /// Makes a ticket ready that waits for nothing any more.
    fn settle(&mut self, ticket: Ticket) {
        let pending = self.reads.pending.get_mut(&ticket).expect("a ticket lives until released");
        if pending.left == 0 {
            let result = pending.error.take().map_or(Ok(()), Err);
            self.reads.ready.push_back((ticket, result));
        }
    }

    /// Reads a record with the caller waiting.
    pub(super) fn read_now(&mut self, ident: Ident, known: &Known) -> Result<Ticket, ReadError> {
        let ticket = self.reads.ticket();
        self.reads.pending.insert(ticket, Pending { is_use: true, ..Pending::default() });
        if self.load_staged(ident, known, ticket) {
            return Ok(ticket);
        }
        let len = record_bytes_max(known.payload_bytes as usize);
        let (offset, start, mut bytes) = extent(known.place, len);
        self.reads.count += 1;
        let result = match self.log.disk.read_now(known.place.file, offset, &mut bytes) {
            Err(error) => Err(self.unreadable(known.place, &error)),
            Ok(()) => match self.judge(ident, known, &bytes[start..], true) {
                Judgement::Good { .. } => Ok(()),
                Judgement::Short | Judgement::Bad => Err(self.damaged(known.place)),
            },
        };
        if let Err(error) = result {
            self.reads.pending.remove(&ticket);
            return Err(error);
        }
        self.take_in(ident, known.place, (Rc::new(bytes), start, true), ticket);
        Ok(ticket)
    }

    /// Lets go of what was read for a ticket.
    pub(super) fn release_loaded(&mut self, ticket: Ticket) {
        let Some(pending) = self.reads.pending.remove(&ticket) else { return };
        assert_eq!(pending.left, 0, "a ticket is released after it was ready");
        for ident in pending.idents {
            let loaded = self.reads.loaded.get_mut(&ident).expect("it stays until released");
            loaded.user_count -= 1;
            if loaded.user_count > 0 {
                continue;
            }
            let loaded = self.reads.loaded.remove(&ident).expect("it was just there");
            let is_current = self.index.find(ident).is_some_and(|it| it.place == loaded.place);
            if pending.is_use && is_current {
                self.keep_loaded(&loaded);
            }
        }
    }

    fn keep_loaded(&mut self, loaded: &Loaded) {
        let now: WallTime = self.now;
        if let Some(record) = loaded.record() {
            let mutation = record.mutation;
            if mutation.value.is_some() && mutation.expires_at.is_none_or(|at| at > now) {
                self.cache.keep(self.token_key.token(mutation.key), &mutation, now);
            }
        }
    }

    /// Reads under way.
    pub(super) fn is_reading(&self) -> bool {
        !self.reads.reading.is_empty()
    }
}

enum Judgement {
    /// The record, or no more than its key.
    Good {
        is_whole: bool,
    },
    /// The key reaches beyond what was read.
    Short,
    Bad,
}

/// The blocks around `len` bytes at `place`: where they begin, where the bytes begin in them, and a
/// buffer for them.
pub(super) fn extent(place: Place, len: usize) -> (u64, usize, Buffer) {
    let start = place.offset as usize % BLOCK_BYTES;
    let offset = place.offset as usize - start;
    let buffer = crate::disk::zeroed((start + len).next_multiple_of(BLOCK_BYTES));
    (offset as u64, start, buffer)
}

const _: () = assert!(KEY_READ_BYTES > RECORD_HEADER_BYTES);
