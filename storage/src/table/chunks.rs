//! A list that grows without moving what is in it.
//!
//! A vector that doubles copies all it holds at once. Here elements live in chunks of `LEN`, and
//! what doubles is the list of chunks: three words for each.

use super::item::allocation_bytes;

/// The elements of a list that is given away.
pub(crate) type Elements<T> = std::iter::Flatten<std::vec::IntoIter<Vec<T>>>;

/// Elements numbered from 0, in chunks of `LEN`.
pub(crate) struct Chunks<T, const LEN: usize> {
    chunks: Vec<Vec<T>>,
    len: usize,
}

impl<T, const LEN: usize> Chunks<T, LEN> {
    /// No elements, and no memory.
    pub(crate) const fn new() -> Self {
        Self { chunks: Vec::new(), len: 0 }
    }

    /// How many elements there are.
    pub(crate) const fn len(&self) -> u32 {
        self.len as u32
    }

    /// Adds an element. Returns its number.
    pub(crate) fn push(&mut self, element: T) -> u32 {
        if self.len.is_multiple_of(LEN) {
            self.chunks.push(Vec::with_capacity(LEN));
        }
        let number = u32::try_from(self.len).expect("numbers have 32 bits");
        self.chunks.last_mut().expect("a chunk was added").push(element);
        self.len += 1;
        number
    }

    #[inline]
    pub(crate) fn at(&self, number: u32) -> &T {
        let number = number as usize;
        &self.chunks[number / LEN][number % LEN]
    }

    #[inline]
    pub(crate) fn at_mut(&mut self, number: u32) -> &mut T {
        let number = number as usize;
        &mut self.chunks[number / LEN][number % LEN]
    }

    /// The elements in order of their numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flatten()
    }

    /// The elements in order of their numbers, for good. A chunk is freed when its last element
    /// was given away.
    pub(crate) fn into_elements(self) -> Elements<T> {
        self.chunks.into_iter().flatten()
    }

    /// Memory of the list, in bytes, without what elements own.
    pub(crate) const fn bytes(&self) -> u64 {
        list_bytes::<Vec<T>>(self.chunks.capacity())
            + self.chunks.len() as u64 * list_bytes::<T>(LEN)
    }

    /// A bound on the memory that `count` more elements add to the list.
    pub(crate) const fn growth_bytes_max(&self, count: usize) -> u64 {
        let chunk_count = (self.len + count).div_ceil(LEN) - self.chunks.len();
        if chunk_count == 0 {
            return 0;
        }
        let list = list_bytes::<Vec<T>>((self.chunks.capacity() + 4) * 2);
        list + chunk_count as u64 * list_bytes::<T>(LEN)
    }
}

/// Memory of a vector's buffer, in bytes; the allocator may need room to align it.
pub(super) const fn list_bytes<T>(capacity: usize) -> u64 {
    if capacity == 0 {
        return 0;
    }
    allocation_bytes(capacity * size_of::<T>() + align_of::<T>() - 1) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_keep_their_numbers_and_growth_its_bound() {
        let mut chunks: Chunks<u64, 8> = Chunks::new();
        assert_eq!((chunks.len(), chunks.bytes()), (0, 0));
        for count in 0..1_000_u32 {
            let bound = chunks.bytes() + chunks.growth_bytes_max(1);
            assert_eq!(chunks.push(u64::from(count)), count);
            assert!(chunks.bytes() <= bound);
        }
        *chunks.at_mut(500) += 1;
        assert_eq!(*chunks.at(500), 501);
        assert_eq!(chunks.iter().sum::<u64>(), 999 * 500 + 1);
        assert_eq!(chunks.into_elements().sum::<u64>(), 999 * 500 + 1);
    }
}
