//! The bodies of frames that are not messages.
//!
//! ```text
//!   | len 4 | bytes ... | zeros, to 8 |
//! ```
//!
//! What comes in such a body from one who asks, and from one who answers, begins with a byte that tells
//! which: [`ASK`] or [`ANSWER`].

use super::frame::{self, FrameWriter, Kind};

/// The first byte of what asks.
pub const ASK: u8 = 0;
/// The first byte of what answers.
pub const ANSWER: u8 = 1;

const LEN_BYTES: usize = 4;

/// Makes room in `out` for the header of a frame and the length of its body; what is appended from here on
/// is the body. The start of the frame, for [`finish`].
pub fn begin(out: &mut Vec<u8>) -> usize {
    let start = frame::begin(out);
    out.extend_from_slice(&[0; LEN_BYTES]);
    start
}

/// Makes a frame of what was appended to `out` since [`begin`] has given `start`.
///
/// # Panics
///
/// When the body is above [`frame::BODY_BYTES_MAX`].
pub fn finish(writer: &mut FrameWriter, kind: Kind, wall_ms: u64, start: usize, out: &mut Vec<u8>) {
    let body = start + frame::HEADER_BYTES;
    let len = u32::try_from(out.len() - body - LEN_BYTES).expect("a frame is below 4 GiB");
    out[body..body + LEN_BYTES].copy_from_slice(&len.to_le_bytes());
    out.resize(body + (out.len() - body).next_multiple_of(8), 0);
    writer.finish(kind, wall_ms, start, out);
}

/// Appends a frame of `bytes` to `out`.
///
/// # Panics
///
/// When the body is above [`frame::BODY_BYTES_MAX`].
pub fn write(writer: &mut FrameWriter, kind: Kind, wall_ms: u64, bytes: &[u8], out: &mut Vec<u8>) {
    let start = begin(out);
    out.extend_from_slice(bytes);
    finish(writer, kind, wall_ms, start, out);
}

/// The bytes of a body; `None` when its length does not agree.
#[must_use]
pub fn read(body: &[u8]) -> Option<&[u8]> {
    let (len, rest) = body.split_first_chunk::<LEN_BYTES>()?;
    rest.get(..u32::from_le_bytes(*len) as usize)
}

/// `bytes` behind the byte that tells what they do.
#[must_use]
pub fn tagged(tag: u8, bytes: &[u8]) -> Vec<u8> {
    let mut tagged = Vec::with_capacity(bytes.len() + 1);
    tagged.push(tag);
    tagged.extend_from_slice(bytes);
    tagged
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::frame::{FrameReader, HEADER_BYTES, Seal};
    use super::*;

    proptest! {
        #[test]
        fn bodies_come_back_as_they_were(
            bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 1..5),
        ) {
            let (mut writer, mut out) = (FrameWriter::default(), Vec::new());
            for body in &bodies {
                write(&mut writer, Kind::Command, 1, body, &mut out);
            }
            let mut reader = FrameReader::default();
            reader.admit(Seal::Checksum);
            reader.push(&out);
            for body in &bodies {
                let frame = reader.next_frame().expect("it is sound").expect("it is whole");
                prop_assert_eq!(read(frame.body), Some(&body[..]));
            }
        }

        #[test]
        fn a_length_beyond_the_body_is_none(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let len = read(&bytes).map(<[u8]>::len);
            prop_assert!(len.is_none_or(|len| len + LEN_BYTES <= bytes.len()));
        }
    }

    /// What was begun and not finished is not a frame.
    #[test]
    fn a_frame_has_room_for_its_header_and_its_length() {
        let mut out = vec![7; 16];
        assert_eq!(begin(&mut out), 16);
        assert_eq!(out.len(), 16 + HEADER_BYTES + LEN_BYTES);
    }
}
