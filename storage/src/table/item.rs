//! A record in memory: one allocation, owned by one index slot.
//!
//! ```text
//!  0        8        16                 24
//!  +--------+--------+------------------+---------+-----------+
//!  | time-  | packed | expires_at in ms | key     | value     |
//!  | stamp  |        | (if it has one)  |         |           |
//!  +--------+--------+------------------+---------+-----------+
//!
//!  packed   63          62..47  46..30   29..0
//!           has_expiry  node    key_len  value_len; all ones = tombstone
//!
//!  slot     63          62..48  47..0
//!           has_expiry  stamp   address of the item; a slot of 0 is empty
//! ```
//!
//! The slot repeats `has_expiry` for what has a value, so that a search for expired records touches no
//! others, and keeps a `stamp`, which means nothing here. A tombstone with an expiry is a record that
//! has ended, whose value was freed.
//!
//! This is the one file of the table with unsafe code. What it relies on:
//!
//! - a slot that is not 0 holds the address of a live allocation that it alone owns, of
//!   [`allocation_bytes`] of the item's size, written by `write_item`;
//! - an [`Item`] borrows the slot, so it cannot outlive or see a change of the allocation.
//!
//! # Why items ask for no alignment
//!
//! mimalloc serves a request for an aligned block with a larger one whenever its size is not a
//! power of two, even where every block is aligned anyway: 112 bytes for 96, measured. Reading an
//! unaligned word costs nothing on the processors of today.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::marker::PhantomData;
use std::ptr::{copy_nonoverlapping, with_exposed_provenance, with_exposed_provenance_mut};
use std::slice;

use gridkv_cluster::{Mutation, NodeId, Timestamp, Version, WallTime};

/// Longest key that an item can hold.
pub(crate) const KEY_LEN_MAX: usize = 1 << 16;
/// Longest value that an item can hold.
pub(crate) const VALUE_LEN_MAX: usize = (1 << VALUE_LEN_BITS) - 2;
/// Stamps are kept modulo this.
pub(crate) const STAMP_COUNT: u16 = 1 << 15;

const VALUE_LEN_BITS: u32 = 30;
const KEY_LEN_BITS: u32 = 17;
const NODE_SHIFT: u32 = VALUE_LEN_BITS + KEY_LEN_BITS;
const EXPIRY_SHIFT: u32 = NODE_SHIFT + u16::BITS;
const TOMBSTONE: u64 = (1 << VALUE_LEN_BITS) - 1;

const ADDRESS_BITS: u32 = 48;
const ADDRESS_MASK: u64 = (1 << ADDRESS_BITS) - 1;
const SLOT_EXPIRY: u64 = 1 << 63;

const HEADER_BYTES: usize = size_of::<Header>();
const EXPIRY_BYTES: usize = size_of::<u64>();
const ALIGNMENT: usize = 1;

const _: () = assert!(HEADER_BYTES == 16);
const _: () = assert!(EXPIRY_SHIFT == 63);
const _: () = assert!(KEY_LEN_MAX < 1 << KEY_LEN_BITS);
const _: () = assert!(size_of::<Option<Item<'_>>>() <= 16);

/// What the allocator takes for a request of `size` bytes.
///
/// These are the size classes of mimalloc: multiples of 16 to 128, then four classes a doubling,
/// then whole pages. Items ask for whole classes, so an overwrite within the class needs no other
/// allocation; with another allocator the sum of memory is an estimate.
#[must_use]
pub(crate) const fn allocation_bytes(size: usize) -> usize {
    const PAGES_FROM: usize = 512 << 10;
    if size <= 128 {
        size.next_multiple_of(16)
    } else if size <= PAGES_FROM {
        let shift = (size - 1).ilog2() - 2;
        (((size - 1) >> shift) + 1) << shift
    } else {
        size.next_multiple_of(4096)
    }
}

/// Bytes of memory that the item of `mutation` takes.
#[must_use]
pub(crate) const fn item_bytes(mutation: &Mutation<'_>) -> usize {
    let value_len = match mutation.value {
        Some(value) => value.len(),
        None => 0,
    };
    allocation_bytes(used_bytes(mutation.key.len(), value_len, mutation.expires_at.is_some()))
}

const fn used_bytes(key_len: usize, value_len: usize, has_expiry: bool) -> usize {
    HEADER_BYTES + if has_expiry { EXPIRY_BYTES } else { 0 } + key_len + value_len
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Header {
    timestamp: u64,
    packed: u64,
}

impl Header {
    fn of(mutation: &Mutation<'_>) -> Self {
        assert!(mutation.key.len() <= KEY_LEN_MAX);
        let value_len = mutation.value.map_or(TOMBSTONE, |value| {
            assert!(value.len() <= VALUE_LEN_MAX);
            value.len() as u64
        });
        let packed = value_len
            | (mutation.key.len() as u64) << VALUE_LEN_BITS
            | u64::from(mutation.version.node.0) << NODE_SHIFT
            | u64::from(mutation.expires_at.is_some()) << EXPIRY_SHIFT;
        Self { timestamp: mutation.version.timestamp.0, packed }
    }

    #[inline]
    const fn is_tombstone(self) -> bool {
        self.packed & TOMBSTONE == TOMBSTONE
    }

    #[inline]
    const fn value_len(self) -> usize {
        if self.is_tombstone() { 0 } else { (self.packed & TOMBSTONE) as usize }
    }

    #[inline]
    const fn key_len(self) -> usize {
        ((self.packed >> VALUE_LEN_BITS) & ((1 << KEY_LEN_BITS) - 1)) as usize
    }

    #[inline]
    const fn has_expiry(self) -> bool {
        self.packed >> EXPIRY_SHIFT != 0
    }

    #[inline]
    const fn key_at(self) -> usize {
        HEADER_BYTES + if self.has_expiry() { EXPIRY_BYTES } else { 0 }
    }

    const fn allocation_bytes(self) -> usize {
        allocation_bytes(used_bytes(self.key_len(), self.value_len(), self.has_expiry()))
    }
}

/// The allocation for an item of `bytes` bytes, a whole class.
fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, ALIGNMENT).expect("an item is below 2 GiB")
}

/// Writes the item of `mutation`.
///
/// # Safety
///
/// `base` must be valid for writes of [`item_bytes`] of `mutation`, and overlap nothing that
/// `mutation` borrows.
unsafe fn write_item(base: *mut u8, mutation: &Mutation<'_>) {
    let header = Header::of(mutation);
    // SAFETY: by the contract of the function, base is valid for the header, the expiry if there is
    // one, the key and the value, in this order, and apart from key and value.
    unsafe {
        base.cast::<Header>().write_unaligned(header);
        if let Some(expires_at) = mutation.expires_at {
            base.add(HEADER_BYTES).cast::<u64>().write_unaligned(expires_at.as_millis());
        }
        let key_at = base.add(header.key_at());
        copy_nonoverlapping(mutation.key.as_ptr(), key_at, mutation.key.len());
        if let Some(value) = mutation.value {
            copy_nonoverlapping(value.as_ptr(), key_at.add(mutation.key.len()), value.len());
        }
    }
}

/// The flag of a slot whose item can expire.
const fn expiry_flag(mutation: &Mutation<'_>) -> u64 {
    if mutation.expires_at.is_some() && mutation.value.is_some() { SLOT_EXPIRY } else { 0 }
}

/// A place in the index: empty, or the owner of an item.
#[repr(transparent)]
pub(crate) struct Slot(u64);

impl Slot {
    /// A slot without an item.
    pub(crate) const EMPTY: Self = Self(0);

    /// A slot with a new item, its stamp 0.
    pub(crate) fn new(mutation: &Mutation<'_>) -> Self {
        let layout = layout(item_bytes(mutation));
        // SAFETY: an item has a header, so the layout's size is not zero.
        let base = unsafe { alloc(layout) };
        if base.is_null() {
            handle_alloc_error(layout);
        }
        // SAFETY: the allocation is fresh and as large as the item.
        unsafe { write_item(base, mutation) };
        let address = base.expose_provenance() as u64;
        assert!(address <= ADDRESS_MASK, "a user-space address has at most 48 bits");
        Self(address | expiry_flag(mutation))
    }

    /// Puts another record into the slot, in place where the size class is the same. The stamp
    /// stays.
    pub(crate) fn overwrite(&mut self, mutation: &Mutation<'_>) {
        let item = self.item().expect("a slot that is overwritten holds an item");
        let stamp = self.stamp();
        if item.allocation_bytes() == item_bytes(mutation) {
            let base = with_exposed_provenance_mut(self.address());
            // SAFETY: the slot owns the allocation and is borrowed exclusively, so nothing the
            // mutation borrows lies in it; its size was compared.
            unsafe { write_item(base, mutation) };
            self.0 &= !SLOT_EXPIRY;
            self.0 |= expiry_flag(mutation);
        } else {
            *self = Self::new(mutation);
            self.set_stamp(stamp);
        }
    }

    /// The item, if the slot holds one.
    #[inline]
    pub(crate) const fn item(&self) -> Option<Item<'_>> {
        if self.is_empty() {
            None
        } else {
            Some(Item { address: self.address(), slot: PhantomData })
        }
    }

    /// Whether the slot holds no item.
    #[inline]
    pub(crate) const fn is_empty(&self) -> bool {
        self.0 == 0
    }

    /// Whether the item has a value with an expiry; false for an empty slot. Does not touch the item.
    #[inline]
    pub(crate) const fn has_expiry(&self) -> bool {
        self.0 & SLOT_EXPIRY != 0
    }

    /// Where the item lies, for prefetching.
    #[inline]
    pub(super) const fn address(&self) -> usize {
        (self.0 & ADDRESS_MASK) as usize
    }

    /// The stamp, below [`STAMP_COUNT`].
    #[inline]
    pub(crate) const fn stamp(&self) -> u16 {
        ((self.0 & !SLOT_EXPIRY) >> ADDRESS_BITS) as u16
    }

    /// Sets the stamp; writes only where it differs, so that a line of the cache stays clean.
    #[inline]
    pub(crate) fn set_stamp(&mut self, stamp: u16) {
        debug_assert!(stamp < STAMP_COUNT);
        if self.stamp() != stamp {
            self.0 &= ADDRESS_MASK | SLOT_EXPIRY;
            self.0 |= u64::from(stamp) << ADDRESS_BITS;
        }
    }
}

impl Drop for Slot {
    #[inline]
    fn drop(&mut self) {
        if let Some(item) = self.item() {
            let layout = layout(item.allocation_bytes());
            // SAFETY: the slot owns the allocation, which was made with this layout: an overwrite
            // in place keeps the class.
            unsafe { dealloc(with_exposed_provenance_mut(self.address()), layout) };
        }
    }
}

/// A look at a slot's item.
#[derive(Clone, Copy)]
pub(crate) struct Item<'a> {
    address: usize,
    slot: PhantomData<&'a Slot>,
}

impl<'a> Item<'a> {
    #[inline]
    fn header(self) -> Header {
        // SAFETY: the slot is borrowed, so the allocation lives; it begins with a header.
        unsafe { with_exposed_provenance::<Header>(self.address).read_unaligned() }
    }

    #[inline]
    fn bytes(self, at: usize, len: usize) -> &'a [u8] {
        debug_assert!(at + len <= self.allocation_bytes());
        // SAFETY: the slot is borrowed for 'a, so the allocation lives and does not change; `at`
        // and `len` come from the header, by which the bytes are within it and written.
        unsafe { slice::from_raw_parts(with_exposed_provenance::<u8>(self.address).add(at), len) }
    }

    /// The key.
    #[inline]
    pub(crate) fn key(self) -> &'a [u8] {
        let header = self.header();
        self.bytes(header.key_at(), header.key_len())
    }

    /// The value; `None` for a tombstone.
    #[inline]
    pub(crate) fn value(self) -> Option<&'a [u8]> {
        let header = self.header();
        if header.is_tombstone() {
            return None;
        }
        Some(self.bytes(header.key_at() + header.key_len(), header.value_len()))
    }

    /// The version of the mutation that wrote the item.
    #[inline]
    pub(crate) fn version(self) -> Version {
        let header = self.header();
        #[expect(clippy::cast_possible_truncation, reason = "the 16 bits of the node are meant")]
        let node = NodeId((header.packed >> NODE_SHIFT) as u16);
        Version { timestamp: Timestamp(header.timestamp), node }
    }

    /// When the record stops to exist.
    #[inline]
    pub(crate) fn expires_at(self) -> Option<WallTime> {
        if !self.header().has_expiry() {
            return None;
        }
        let bytes = self.bytes(HEADER_BYTES, EXPIRY_BYTES);
        let millis = u64::from_ne_bytes(bytes.try_into().expect("an expiry has 8 bytes"));
        Some(WallTime::from_millis(millis))
    }

    /// Whether the item says that its key was deleted.
    #[inline]
    pub(crate) fn is_tombstone(self) -> bool {
        self.header().is_tombstone()
    }

    /// Bytes of key and value.
    pub(crate) fn payload_bytes(self) -> u64 {
        let header = self.header();
        header.key_len() as u64 + header.value_len() as u64
    }

    /// Bytes of memory that the item takes.
    pub(crate) fn allocation_bytes(self) -> usize {
        self.header().allocation_bytes()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mutation<'a>(key: &'a [u8], value: Option<&'a [u8]>, expires: Option<u64>) -> Mutation<'a> {
        Mutation {
            key,
            value,
            version: Version { timestamp: Timestamp(u64::MAX), node: NodeId(u16::MAX) },
            expires_at: expires.map(WallTime::from_millis),
        }
    }

    fn assert_holds(slot: &Slot, mutation: &Mutation<'_>) {
        let item = slot.item().unwrap();
        assert_eq!(item.key(), mutation.key);
        assert_eq!(item.value(), mutation.value);
        assert_eq!(item.version(), mutation.version);
        assert_eq!(item.expires_at(), mutation.expires_at);
        assert_eq!(item.is_tombstone(), mutation.value.is_none());
        assert_eq!(item.allocation_bytes(), item_bytes(mutation));
        let can_expire = mutation.expires_at.is_some() && mutation.value.is_some();
        assert_eq!(slot.has_expiry(), can_expire);
    }

    proptest! {
        #[test]
        fn an_item_gives_back_what_was_written_over_it(
            writes in proptest::collection::vec(
                (any::<Option<Vec<u8>>>(), proptest::option::of(0..1_u64 << 48)), 1..8),
            key: Vec<u8>, stamp in 0..STAMP_COUNT,
        ) {
            let mut slot = Slot::new(&mutation(&key, None, None));
            slot.set_stamp(stamp);
            for (value, expires) in &writes {
                let mutation = mutation(&key, value.as_deref(), *expires);
                slot.overwrite(&mutation);
                assert_holds(&slot, &mutation);
                prop_assert_eq!(slot.stamp(), stamp);
            }
        }

        #[test]
        fn an_allocation_is_a_class_of_its_own_and_wastes_at_most_a_quarter(size in 1_usize..1 << 31) {
            let bytes = allocation_bytes(size);
            prop_assert!(bytes >= size);
            prop_assert!(bytes <= size + size / 4 + 16);
            prop_assert_eq!(allocation_bytes(bytes), bytes);
        }
    }

    #[test]
    fn an_overwrite_of_the_same_class_stays_in_place() {
        let mut slot = Slot::new(&mutation(b"key", Some(&[1; 64]), None));
        let address = slot.address();
        for (value_len, expires) in [(64, None), (70, None), (60, Some(9)), (77, None)] {
            let value = vec![2; value_len];
            let next = mutation(b"key", Some(&value), expires);
            slot.overwrite(&next);
            assert_holds(&slot, &next);
            assert_eq!(slot.address(), address);
        }
    }

    #[test]
    fn the_longest_key_and_an_empty_one_fit() {
        for key in [vec![7; KEY_LEN_MAX], Vec::new()] {
            for value in [Some(&b""[..]), Some(&[1; 1_000]), None] {
                let mutation = mutation(&key, value, None);
                assert_holds(&Slot::new(&mutation), &mutation);
            }
        }
    }

    #[test]
    fn classes_are_those_of_the_allocator() {
        let classes = [
            (0, 0),
            (1, 16),
            (17, 32),
            (128, 128),
            (129, 160),
            (161, 192),
            (257, 320),
            (513, 640),
            (1_025, 1_280),
            (8_193, 10_240),
            (524_289, 528_384),
        ];
        for (size, bytes) in classes {
            assert_eq!(allocation_bytes(size), bytes, "{size}");
        }
    }
}
