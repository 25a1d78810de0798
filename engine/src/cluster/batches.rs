//! What waits for a peer, as the frames in which it will leave: entries are put where the socket takes
//! them from, behind room for their frame's header.
//!
//! A frame's body is bounded ([`BODY_BYTES_MAX`]), what a client may have sent is not by as much: a value
//! may be half a gigabyte, and others wait with it. So entries share a body while it is below
//! [`SHARED_BYTES_MAX`], a larger one has its own, and one that no frame could take is refused before it
//! is copied.

use gridkv_cluster::wire::body;
use gridkv_cluster::wire::frame::{self, BODY_BYTES_MAX};

/// Entries share a body that is not longer.
const SHARED_BYTES_MAX: usize = 64 << 20;

/// Room that is made at once, at most.
const ROOM_BYTES_MAX: usize = 1 << 20;

/// What a body and an entry have beside an entry's own bytes, at most: lengths, heads, paddings.
const AROUND_BYTES_MAX: usize = 512;

/// Entries of one kind that wait.
pub(super) struct Batches {
    /// The first byte of a body; `None` for messages.
    tag: Option<u8>,
    /// Frames to which nothing is added, the oldest first.
    closed: Vec<Vec<u8>>,
    /// The frame to which entries are added; without any it is empty.
    open: Vec<u8>,
    closed_bytes: usize,
    /// How long frames are of late: that much room is made at once.
    usual_bytes: usize,
}

impl Batches {
    /// Messages.
    pub(super) const fn of_messages() -> Self {
        Self::new(None)
    }

    /// What comes in [bodies](body) that begin with `tag`.
    pub(super) const fn of_bodies(tag: u8) -> Self {
        Self::new(Some(tag))
    }

    const fn new(tag: Option<u8>) -> Self {
        Self { tag, closed: Vec::new(), open: Vec::new(), closed_bytes: 0, usual_bytes: 0 }
    }

    /// Bytes that wait.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.closed_bytes + self.open.len()
    }

    /// The frame for an entry of so many bytes, to be appended; `None` when no frame could take it.
    pub(super) fn frame_for(&mut self, bytes: usize) -> Option<&mut Vec<u8>> {
        if bytes > BODY_BYTES_MAX - AROUND_BYTES_MAX {
            return None;
        }
        let is_shared = self.open.len() + bytes + AROUND_BYTES_MAX <= SHARED_BYTES_MAX;
        if !is_shared && !self.open.is_empty() {
            self.closed_bytes += self.open.len();
            self.closed.push(std::mem::take(&mut self.open));
        }
        if self.open.is_empty() {
            let usual = self.usual_bytes.min(ROOM_BYTES_MAX);
            self.open.reserve(usual.max(bytes + AROUND_BYTES_MAX));
            match self.tag {
                None => {
                    frame::begin(&mut self.open);
                }
                Some(tag) => {
                    body::begin(&mut self.open);
                    self.open.push(tag);
                }
            }
        }
        Some(&mut self.open)
    }

    /// Takes out the frames, the oldest first, each without its header. Nothing waits then.
    pub(super) fn take(&mut self) -> impl Iterator<Item = Vec<u8>> + use<> {
        self.closed_bytes = 0;
        let closed = std::mem::take(&mut self.closed);
        let open = std::mem::take(&mut self.open);
        if !open.is_empty() {
            // Grows at once and shrinks slowly: what is made too small is copied.
            self.usual_bytes = open.len().max(self.usual_bytes - self.usual_bytes / 16);
        }
        closed.into_iter().chain((!open.is_empty()).then_some(open))
    }
}

#[cfg(test)]
mod tests {
    use gridkv_cluster::wire::frame::HEADER_BYTES;

    use super::*;

    /// What comes before the first entry.
    const BEFORE: usize = HEADER_BYTES + 4 + 1;

    fn add(batches: &mut Batches, byte: u8, len: usize) {
        batches.frame_for(len).expect("it fits").extend_from_slice(&vec![byte; len]);
    }

    fn bodies(batches: &mut Batches) -> Vec<(u8, usize)> {
        let bodies = batches.take().map(|frame| (frame[BEFORE], frame.len() - BEFORE)).collect();
        assert_eq!(batches.waiting_bytes(), 0);
        bodies
    }

    /// Sixty-four megabytes may wait when the longest value comes: together they fit into no frame.
    #[test]
    fn what_waits_together_leaves_in_as_many_frames_as_it_takes() {
        let mut batches = Batches::of_bodies(9);
        let (third, whole) = (SHARED_BYTES_MAX / 3, SHARED_BYTES_MAX + 1);
        for (byte, len) in [(1, third), (1, third), (2, third), (3, whole), (4, 10), (4, 10)] {
            add(&mut batches, byte, len);
        }
        assert_eq!(batches.waiting_bytes(), third * 3 + whole + 20 + 4 * BEFORE);
        assert_eq!(bodies(&mut batches), [(1, third * 2), (2, third), (3, whole), (4, 20)]);
        add(&mut batches, 5, 1);
        assert_eq!(bodies(&mut batches), [(5, 1)]);
    }

    #[test]
    fn what_fits_into_no_frame_is_refused_before_it_is_copied() {
        let mut batches = Batches::of_bodies(9);
        add(&mut batches, 1, 10);
        assert!(batches.frame_for(BODY_BYTES_MAX).is_none());
        assert!(batches.frame_for(usize::MAX).is_none());
        assert_eq!(bodies(&mut batches), [(1, 10)]);
        // The longest value with the longest key does.
        let value_and_key = (512 << 20) + crate::shard::KEY_BYTES_MAX;
        assert!(batches.frame_for(value_and_key + AROUND_BYTES_MAX).is_some());
    }
}
