//! What waits for a peer, as the bodies of the frames in which it will leave.
//!
//! A frame's body is bounded ([`BODY_BYTES_MAX`]), what a client may have sent is not by as much: a value
//! may be half a gigabyte, and others wait with it. So entries share a body while it is below
//! [`SHARED_BYTES_MAX`], a larger one has its own, and one that no frame could take is refused before it
//! is copied.

use gridkv_net::wire::frame::BODY_BYTES_MAX;
use rkyv::util::AlignedVec;

/// Entries share a body that is not longer.
const SHARED_BYTES_MAX: usize = 64 << 20;

/// Room that is kept for what comes next.
const KEPT_BYTES_MAX: usize = 1 << 20;

/// What a body and an entry have beside an entry's own bytes, at most: lengths, heads, paddings.
const AROUND_BYTES_MAX: usize = 512;

/// Entries of one kind that wait.
#[derive(Default)]
pub(super) struct Batches {
    /// Bodies to which nothing is added, the oldest first.
    closed: Vec<AlignedVec>,
    /// The body to which entries are added.
    open: AlignedVec,
    closed_bytes: usize,
}

impl Batches {
    /// Bytes that wait.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.closed_bytes + self.open.len()
    }

    /// The body for an entry of so many bytes; `None` when no frame could take it.
    pub(super) fn body_for(&mut self, bytes: usize) -> Option<&mut AlignedVec> {
        if bytes > BODY_BYTES_MAX - AROUND_BYTES_MAX {
            return None;
        }
        let is_shared = self.open.len() + bytes + AROUND_BYTES_MAX <= SHARED_BYTES_MAX;
        if !is_shared && !self.open.is_empty() {
            self.closed_bytes += self.open.len();
            self.closed.push(std::mem::take(&mut self.open));
        }
        Some(&mut self.open)
    }

    /// Hands out the bodies, the oldest first. Nothing waits then.
    pub(super) fn drain(&mut self, mut write: impl FnMut(&[u8])) {
        for body in std::mem::take(&mut self.closed) {
            write(&body);
        }
        if !self.open.is_empty() {
            write(&self.open);
        }
        // Its room is kept for what comes next, unless it was for something large.
        self.open.clear();
        if self.open.capacity() > KEPT_BYTES_MAX {
            self.open = AlignedVec::new();
        }
        self.closed_bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(batches: &mut Batches, byte: u8, len: usize) {
        batches.body_for(len).expect("it fits").extend_from_slice(&vec![byte; len]);
    }

    fn bodies(batches: &mut Batches) -> Vec<(u8, usize)> {
        let mut bodies = Vec::new();
        batches.drain(|body| bodies.push((body[0], body.len())));
        assert_eq!(batches.waiting_bytes(), 0);
        bodies
    }

    /// Sixty-four megabytes may wait when the longest value comes: together they fit into no frame.
    #[test]
    fn what_waits_together_leaves_in_as_many_frames_as_it_takes() {
        let mut batches = Batches::default();
        let (third, whole) = (SHARED_BYTES_MAX / 3, SHARED_BYTES_MAX + 1);
        for (byte, len) in [(1, third), (1, third), (2, third), (3, whole), (4, 10), (4, 10)] {
            add(&mut batches, byte, len);
        }
        assert_eq!(batches.waiting_bytes(), third * 3 + whole + 20);
        assert_eq!(bodies(&mut batches), [(1, third * 2), (2, third), (3, whole), (4, 20)]);
        add(&mut batches, 5, 1);
        assert_eq!(bodies(&mut batches), [(5, 1)]);
    }

    #[test]
    fn what_fits_into_no_frame_is_refused_before_it_is_copied() {
        let mut batches = Batches::default();
        add(&mut batches, 1, 10);
        assert!(batches.body_for(BODY_BYTES_MAX).is_none());
        assert!(batches.body_for(usize::MAX).is_none());
        assert_eq!(bodies(&mut batches), [(1, 10)]);
        // The longest value with the longest key does.
        let value_and_key = (512 << 20) + crate::shard::KEY_BYTES_MAX;
        assert!(batches.body_for(value_and_key + AROUND_BYTES_MAX).is_some());
    }
}
