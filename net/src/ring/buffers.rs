//! The receive buffers of a data ring: memory lent to the kernel, which picks a buffer when bytes
//! arrive. A connection that waits for its client holds none.
//!
//! ```text
//! shared with the kernel: entries[0..count] of 16 bytes (address u64, length u32, id u16, tail u16)
//!                         the tail is that of entry 0, in place of its last two bytes
//! lent:                   count buffers of `bytes` bytes, buffer i at base + i * bytes
//! ```
//!
//! # Invariants
//!
//! - A buffer is with the kernel or with the reader of one [`Lent`] range, never with both. A range
//!   bears the number of its ring: no other reads it or takes it back.
//! - Memory and entries live until the ring that they are registered with is gone: [`DataRing`]
//!   drops its io_uring first.
//!
//! [`DataRing`]: super::DataRing

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// The only buffer group of a data ring.
pub(super) const GROUP: u16 = 0;

/// The number of the next ring's buffers, of all rings in the process.
static NEXT_OWNER: AtomicU64 = AtomicU64::new(0);

/// A mapping of zeroed pages.
struct Pages {
    base: NonNull<u8>,
    bytes: usize,
}

impl Pages {
    fn map(bytes: usize) -> io::Result<Self> {
        // SAFETY: an anonymous private mapping at an address of the kernel's choice touches nothing
        // that exists.
        let base = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )?
        };
        let base = NonNull::new(base.cast()).expect("a mapping is never at address zero");
        Ok(Self { base, bytes })
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: `base` and `bytes` are those of our own mapping, and nothing borrows it any more.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.bytes) };
        assert!(unmapped.is_ok(), "unmapping one's own mapping does not fail");
    }
}

/// A buffer that the kernel filled.
#[derive(Debug)]
pub(super) struct Lent {
    owner: u64,
    id: u16,
    len: u32,
}

/// The ring of provided buffers.
pub(super) struct Buffers {
    entries: Pages,
    memory: Pages,
    count: u16,
    buffer_bytes: u32,
    tail: u16,
    owner: u64,
    lent_count: u16,
}

impl Buffers {
    /// Maps `count` (a power of two, at most 32,768) buffers of `buffer_bytes` bytes, registers
    /// them and lends all to the kernel.
    pub(super) fn register(
        submitter: &Submitter<'_>,
        count: u16,
        buffer_bytes: u32,
    ) -> io::Result<Self> {
        assert!(count.is_power_of_two());
        let entries = Pages::map(usize::from(count) * size_of::<BufRingEntry>())?;
        let memory = Pages::map(usize::from(count) * buffer_bytes as usize)?;
        let address = entries.base.as_ptr().addr() as u64;
        // SAFETY: the entries are page-aligned, `count` of them are mapped, and they stay mapped
        // until the ring is gone (see the invariants).
        unsafe { submitter.register_buf_ring_with_flags(address, count, GROUP, 0)? };
        let owner = NEXT_OWNER.fetch_add(1, Ordering::Relaxed);
        let mut buffers =
            Self { entries, memory, count, buffer_bytes, tail: 0, owner, lent_count: 0 };
        for id in 0..count {
            buffers.stage(id);
        }
        buffers.publish();
        Ok(buffers)
    }

    /// Takes over buffer `id`, in which the kernel has put `len` bytes.
    ///
    /// # Panics
    ///
    /// When the kernel names a buffer that there is not.
    pub(super) fn take(&mut self, id: u16, len: u32) -> Lent {
        assert!(id < self.count);
        assert!(len <= self.buffer_bytes);
        assert!(self.lent_count < self.count, "a buffer is lent once");
        self.lent_count += 1;
        Lent { owner: self.owner, id, len }
    }

    /// Buffers that are with the kernel, as far as its completions have been looked at.
    pub(super) const fn free_count(&self) -> usize {
        (self.count - self.lent_count) as usize
    }

    /// The received bytes.
    ///
    /// # Panics
    ///
    /// When another ring has lent them.
    pub(super) fn bytes(&self, lent: &Lent) -> &[u8] {
        assert_eq!(lent.owner, self.owner, "a buffer is read from the ring that lent it");
        let offset = usize::from(lent.id) * self.buffer_bytes as usize;
        // SAFETY: `take`, of these very buffers, checked that the range lies within the mapping; the
        // kernel does not write to a buffer between its completion and `recycle`, which takes
        // `&mut self` and the `Lent`.
        unsafe {
            std::slice::from_raw_parts(self.memory.base.as_ptr().add(offset), lent.len as usize)
        }
    }

    /// Gives a buffer back to the kernel.
    ///
    /// # Panics
    ///
    /// When another ring has lent it.
    #[expect(clippy::needless_pass_by_value, reason = "the buffer must not be read after this")]
    pub(super) fn recycle(&mut self, lent: Lent) {
        assert_eq!(lent.owner, self.owner, "a buffer goes back to the ring that lent it");
        self.lent_count -= 1;
        self.stage(lent.id);
        self.publish();
    }

    /// Writes the entry at the tail.
    fn stage(&mut self, id: u16) {
        let index = usize::from(self.tail & (self.count - 1));
        let offset = usize::from(id) * self.buffer_bytes as usize;
        let address = self.memory.base.as_ptr().addr() + offset;
        // SAFETY: `index` is below `count`, so the entry lies within the mapping. The kernel reads
        // entries below the published tail only; this one is at the tail, and there are as many
        // entries as buffers, so it does not hold a buffer that is still lent.
        let entry = unsafe { &mut *self.entries.base.as_ptr().cast::<BufRingEntry>().add(index) };
        entry.set_addr(address as u64);
        entry.set_len(self.buffer_bytes);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Makes the staged entries visible to the kernel.
    fn publish(&mut self) {
        // SAFETY: entry 0 is mapped; the tail overlays its reserved field, which is 2-aligned and
        // which nothing else writes.
        let tail = unsafe {
            let tail = BufRingEntry::tail(self.entries.base.as_ptr().cast::<BufRingEntry>());
            AtomicU16::from_ptr(tail.cast_mut())
        };
        tail.store(self.tail, Ordering::Release);
    }
}
