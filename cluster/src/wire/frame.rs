//! Frames: what nodes send each other on a connection.
//!
//! ```text
//!  0      4        5      6      8      12     16     24        32      48
//!  | GKVF | format | kind | zero | body | zero | wall | counter | check | body ... |
//! ```
//!
//! Numbers are little-endian. `body` is the length of the body in bytes, a multiple of 8; `wall` the
//! sender's clock in milliseconds since 1970; `counter` counts the frames of one direction from 0.
//! A frame is followed by zeros up to a multiple of 16.
//!
//! `check` covers all before it and the body: xxh3-128 on a connection without keys, the first 16
//! bytes of keyed BLAKE3 on one with. So on a connection with keys a frame can neither be made up,
//! nor changed, repeated, left out or moved.
//!
//! A frame is valid when its check agrees, and its counter is the next. One that is not ends the
//! connection: there is no telling where the next frame would begin.
//!
//! A [`FrameReader`] gathers what arrives in a buffer that is aligned for archives, so that a body is
//! read where it lies.

use rkyv::util::AlignedVec;
use xxhash_rust::xxh3::Xxh3;

/// Length of what comes before the body.
pub const HEADER_BYTES: usize = 48;
/// Longest body: a value of the largest size there may be, and its key.
pub const BODY_BYTES_MAX: usize = 513 << 20;
/// Longest body of one who has not said who it is.
pub const STRANGER_BODY_BYTES_MAX: usize = 4 << 10;

const MAGIC: [u8; 4] = *b"GKVF";
const FORMAT: u8 = 1;
const CHECK_AT: usize = 32;
const CHECK_BYTES: usize = 16;
/// What frames begin at a multiple of, so that their bodies do.
const ALIGNMENT: usize = 16;
/// Room that a reader keeps when it has nothing, at most; and room that it gives back when it has used
/// much less of it for a while.
const IDLE_BYTES_MAX: usize = 1 << 20;
const IDLE_BYTES: usize = 64 << 10;

const _: () = assert!(CHECK_AT + CHECK_BYTES == HEADER_BYTES);
const _: () = assert!(HEADER_BYTES.is_multiple_of(ALIGNMENT));

/// What a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A part of the handshake.
    Handshake = 1,
    /// Messages between coordinators and replicas.
    Messages = 2,
    /// A question about the topology, or its answer.
    Agreement = 3,
    /// A full exchange of members.
    Exchange = 4,
    /// A command that another node is to run, or its answer.
    Command = 5,
}

/// What checks frames of one direction.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Seal {
    /// A checksum: finds accidents.
    Checksum,
    /// A secret that only the two ends know: finds forgers too.
    Key([u8; 32]),
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Checksum => "Checksum",
            Self::Key(_) => "Key(..)",
        })
    }
}

impl Seal {
    fn check(&self, header: &[u8], body: &[u8]) -> [u8; CHECK_BYTES] {
        match self {
            Self::Checksum => {
                let mut hash = Xxh3::new();
                hash.update(header);
                hash.update(body);
                hash.digest128().to_le_bytes()
            }
            Self::Key(key) => {
                let mut hash = blake3::Hasher::new_keyed(key);
                hash.update(header);
                hash.update(body);
                let mut check = [0; CHECK_BYTES];
                check.copy_from_slice(&hash.finalize().as_bytes()[..CHECK_BYTES]);
                check
            }
        }
    }
}

/// Why a connection is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// It does not begin as a frame does.
    #[error("not a frame")]
    NotAFrame,
    /// It announces more than may come.
    #[error("a frame of {bytes} bytes is longer than the {max} allowed")]
    TooLong {
        /// What it announces.
        bytes: usize,
        /// What is allowed.
        max: usize,
    },
    /// Its check does not agree.
    #[error("a frame's check does not agree")]
    Damaged,
    /// It is not the next.
    #[error("a frame was repeated, or one was left out")]
    OutOfOrder,
}

/// A frame that has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What its body is.
    pub kind: Kind,
    /// The sender's clock, in milliseconds since 1970.
    pub wall_ms: u64,
    /// The body, aligned for archives.
    pub body: &'a [u8],
}

/// Makes room in `out` for a frame's header: what is appended from here on is its body. The start of the
/// frame, for [`FrameWriter::finish`].
pub fn begin(out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.resize(start + HEADER_BYTES, 0);
    start
}

/// Makes the frames of one direction.
#[derive(Debug)]
pub struct FrameWriter {
    seal: Seal,
    counter: u64,
}

impl Default for FrameWriter {
    fn default() -> Self {
        Self { seal: Seal::Checksum, counter: 0 }
    }
}

impl FrameWriter {
    /// Checks frames in this way from here on.
    pub fn set_seal(&mut self, seal: Seal) {
        self.seal = seal;
    }

    /// Appends a frame to `out`.
    ///
    /// # Panics
    ///
    /// When the body's length is not a multiple of 8, or above [`BODY_BYTES_MAX`].
    pub fn write(&mut self, kind: Kind, wall_ms: u64, body: &[u8], out: &mut Vec<u8>) {
        let start = begin(out);
        out.extend_from_slice(body);
        self.finish(kind, wall_ms, start, out);
    }

    /// Makes a frame of what was appended to `out` since [`begin`] has given `start`.
    ///
    /// # Panics
    ///
    /// As [`FrameWriter::write`].
    pub fn finish(&mut self, kind: Kind, wall_ms: u64, start: usize, out: &mut Vec<u8>) {
        let (header, body) = out[start..].split_at_mut(HEADER_BYTES);
        assert!(body.len().is_multiple_of(8));
        assert!(body.len() <= BODY_BYTES_MAX);
        header[..4].copy_from_slice(&MAGIC);
        header[4] = FORMAT;
        header[5] = kind as u8;
        let len = u32::try_from(body.len()).expect("compared above");
        header[8..12].copy_from_slice(&len.to_le_bytes());
        header[16..24].copy_from_slice(&wall_ms.to_le_bytes());
        header[24..32].copy_from_slice(&self.counter.to_le_bytes());
        let check = self.seal.check(&header[..CHECK_AT], body);
        header[CHECK_AT..].copy_from_slice(&check);
        self.counter += 1;
        out.resize(start + padded(out.len() - start), 0);
    }
}

/// Gathers the frames of one direction from what arrives.
pub struct FrameReader {
    seal: Seal,
    counter: u64,
    body_bytes_max: usize,
    buffer: AlignedVec,
    /// Where the first frame that was not taken begins.
    start: usize,
    /// How much it has held at a time of late, in bytes.
    usual_bytes: usize,
}

impl Default for FrameReader {
    fn default() -> Self {
        Self {
            seal: Seal::Checksum,
            counter: 0,
            body_bytes_max: STRANGER_BODY_BYTES_MAX,
            buffer: AlignedVec::new(),
            start: 0,
            usual_bytes: 0,
        }
    }
}

impl FrameReader {
    /// The sender has said who it is: frames are checked in this way and may be longer, from the next
    /// one on.
    pub fn admit(&mut self, seal: Seal) {
        self.seal = seal;
        self.body_bytes_max = BODY_BYTES_MAX;
    }

    /// Takes in bytes. Never holds more than the frame that was announced, and what came with it.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            let rest = self.buffer.len() - self.start;
            self.buffer.as_mut_slice().copy_within(self.start.., 0);
            self.buffer.resize(rest, 0);
            self.start = 0;
        }
        if self.buffer.is_empty() {
            self.usual_bytes -= self.usual_bytes / 16;
            let is_much = self.buffer.capacity() > IDLE_BYTES.max(self.usual_bytes * 4);
            if is_much || self.buffer.capacity() > IDLE_BYTES_MAX {
                self.buffer = AlignedVec::new();
            }
        }
        self.buffer.extend_from_slice(bytes);
        self.usual_bytes = self.usual_bytes.max(self.buffer.len());
    }

    /// Bytes held.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    /// The next frame that has arrived whole.
    ///
    /// # Errors
    ///
    /// [`FrameError`]: the connection is of no more use.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, FrameError> {
        let rest = &self.buffer[self.start..];
        let Some(header) = rest.get(..HEADER_BYTES) else {
            let known = rest.len().min(MAGIC.len());
            return if rest[..known] == MAGIC[..known] {
                Ok(None)
            } else {
                Err(FrameError::NotAFrame)
            };
        };
        let number = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&header[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        let kind = kind_of(header[5]);
        let (true, Some(kind)) = (header[..4] == MAGIC && header[4] == FORMAT, kind) else {
            return Err(FrameError::NotAFrame);
        };
        let bytes = usize::try_from(number(8) & 0xffff_ffff).expect("32 bits");
        if bytes > self.body_bytes_max {
            return Err(FrameError::TooLong { bytes, max: self.body_bytes_max });
        }
        if !bytes.is_multiple_of(8) {
            return Err(FrameError::NotAFrame);
        }
        let (wall_ms, counter) = (number(16), number(24));
        let end = HEADER_BYTES + bytes;
        if rest.len() < padded(end) {
            return Ok(None);
        }
        if counter != self.counter {
            return Err(FrameError::OutOfOrder);
        }
        if self.seal.check(&header[..CHECK_AT], &rest[HEADER_BYTES..end]) != header[CHECK_AT..] {
            return Err(FrameError::Damaged);
        }
        self.counter += 1;
        let body = self.start + HEADER_BYTES..self.start + end;
        self.start += padded(end);
        assert!(self.start.is_multiple_of(ALIGNMENT));
        Ok(Some(Frame { kind, wall_ms, body: &self.buffer[body] }))
    }
}

/// A frame's length on the wire.
const fn padded(len: usize) -> usize {
    len.next_multiple_of(ALIGNMENT)
}

const fn kind_of(byte: u8) -> Option<Kind> {
    Some(match byte {
        1 => Kind::Handshake,
        2 => Kind::Messages,
        3 => Kind::Agreement,
        4 => Kind::Exchange,
        5 => Kind::Command,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: Seal = Seal::Key([7; 32]);

    fn frames(seal: Seal, bodies: &[Vec<u8>]) -> Vec<u8> {
        let (mut writer, mut out) = (FrameWriter::default(), Vec::new());
        writer.set_seal(seal);
        for body in bodies {
            writer.write(Kind::Messages, 77, body, &mut out);
        }
        out
    }

    fn reader(seal: Seal) -> FrameReader {
        let mut reader = FrameReader::default();
        reader.admit(seal);
        reader
    }

    proptest! {
        #[test]
        fn frames_come_back_however_they_are_cut(
            lens in proptest::collection::vec(0_usize..40, 1..8),
            cut in 1_usize..200,
            has_key: bool,
        ) {
            let seal = if has_key { KEY } else { Seal::Checksum };
            let bodies: Vec<Vec<u8>> = (0_u8..).zip(&lens).map(|(it, len)| vec![it; len * 8]).collect();
            let bytes = frames(seal, &bodies);
            let (mut reader, mut found) = (reader(seal), Vec::new());
            for piece in bytes.chunks(cut) {
                reader.push(piece);
                while let Some(frame) = reader.next_frame().unwrap() {
                    prop_assert_eq!(frame.body.as_ptr().align_offset(16), 0);
                    prop_assert_eq!(frame.wall_ms, 77);
                    found.push(frame.body.to_vec());
                }
            }
            prop_assert_eq!(found, bodies);
        }

        #[test]
        fn arbitrary_bytes_are_refused_without_a_panic(bytes: Vec<u8>) {
            let mut reader = reader(KEY);
            reader.push(&bytes);
            prop_assert!(!matches!(reader.next_frame(), Ok(Some(_))));
        }

        #[test]
        fn a_flipped_bit_is_found(at: prop::sample::Index, bit in 0..8, has_key: bool) {
            let seal = if has_key { KEY } else { Seal::Checksum };
            let mut bytes = frames(seal, &[vec![1; 64]]);
            let at = at.index(bytes.len());
            bytes[at] ^= 1_u8 << bit;
            let mut reader = reader(seal);
            reader.push(&bytes);
            prop_assert!(!matches!(reader.next_frame(), Ok(Some(_))));
        }
    }

    #[test]
    fn a_frame_repeated_left_out_or_made_without_the_key_is_refused() {
        let bytes = frames(KEY, &[vec![1; 8], vec![2; 8]]);
        let half = bytes.len() / 2;
        let mut twice = reader(KEY);
        twice.push(&bytes[..half]);
        assert!(twice.next_frame().unwrap().is_some());
        twice.push(&bytes[..half]);
        assert_eq!(twice.next_frame(), Err(FrameError::OutOfOrder));
        let mut second = reader(KEY);
        second.push(&bytes[half..]);
        assert_eq!(second.next_frame(), Err(FrameError::OutOfOrder));
        let mut other = reader(KEY);
        other.push(&frames(Seal::Key([8; 32]), &[vec![1; 8]]));
        assert_eq!(other.next_frame(), Err(FrameError::Damaged));
        let mut unsealed = reader(KEY);
        unsealed.push(&frames(Seal::Checksum, &[vec![1; 8]]));
        assert_eq!(unsealed.next_frame(), Err(FrameError::Damaged));
    }

    #[test]
    fn a_stranger_cannot_announce_much() {
        let bytes = frames(Seal::Checksum, &[vec![1; STRANGER_BODY_BYTES_MAX + 8]]);
        let mut reader = FrameReader::default();
        reader.push(&bytes[..HEADER_BYTES]);
        let (bytes, max) = (STRANGER_BODY_BYTES_MAX + 8, STRANGER_BODY_BYTES_MAX);
        assert_eq!(reader.next_frame(), Err(FrameError::TooLong { bytes, max }));
        let mut text = FrameReader::default();
        text.push(b"GET ");
        assert_eq!(text.next_frame(), Err(FrameError::NotAFrame));
    }
}
