//! Where the arguments of a request lie.
//!
//! Arguments are ranges into the bytes of the request; only quoted words of inline commands, whose
//! text differs from their bytes, lie in a side buffer. One [`Arguments`] serves one request after
//! another and keeps its room, up to a bound.

/// Set in the offset of an argument that lies in the side buffer.
const UNQUOTED: u32 = 1 << 31;

/// The largest offset that a request can reach.
pub(super) const OFFSET_MAX: usize = (UNQUOTED - 1) as usize;

/// How many arguments a cleared list may keep room for.
const RETAINED_COUNT_MAX: usize = 4096;

/// How many bytes a cleared side buffer may keep room for.
const RETAINED_BYTES_MAX: usize = 4096;

#[derive(Clone, Copy, Debug)]
struct Span {
    offset: u32,
    len: u32,
}

const _: () = assert!(size_of::<Span>() == 8);

/// The arguments of one request, the name of the command first.
///
/// Filled by [`Parser::parse`](super::Parser::parse), and read together with the input that was
/// parsed.
#[derive(Debug, Default)]
pub struct Arguments {
    spans: Vec<Span>,
    unquoted: Vec<u8>,
}

impl Arguments {
    /// No arguments, and no memory.
    #[must_use]
    pub const fn new() -> Self {
        Self { spans: Vec::new(), unquoted: Vec::new() }
    }

    /// How many arguments there are.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there are none.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Argument `index` of the request at the start of `input`.
    ///
    /// # Panics
    ///
    /// When there is no such argument, or `input` is shorter than the request.
    #[inline]
    #[must_use]
    pub fn get<'a>(&'a self, index: usize, input: &'a [u8]) -> &'a [u8] {
        self.resolve(self.spans[index], input)
    }

    /// All arguments of the request at the start of `input`, in order.
    ///
    /// # Panics
    ///
    /// The iterator, when `input` is shorter than the request.
    pub fn iter<'a>(
        &'a self,
        input: &'a [u8],
    ) -> impl DoubleEndedIterator<Item = &'a [u8]> + ExactSizeIterator + Clone + 'a {
        self.spans.iter().map(move |&span| self.resolve(span, input))
    }

    #[inline]
    fn resolve<'a>(&'a self, span: Span, input: &'a [u8]) -> &'a [u8] {
        let Span { offset, len } = span;
        let (bytes, start) = if offset & UNQUOTED == 0 {
            (input, offset as usize)
        } else {
            (self.unquoted.as_slice(), (offset & !UNQUOTED) as usize)
        };
        &bytes[start..start + len as usize]
    }

    #[inline]
    pub(super) fn clear(&mut self) {
        self.spans.clear();
        self.unquoted.clear();
        if self.spans.capacity() > RETAINED_COUNT_MAX {
            self.spans.shrink_to(RETAINED_COUNT_MAX);
        }
        if self.unquoted.capacity() > RETAINED_BYTES_MAX {
            self.unquoted.shrink_to(RETAINED_BYTES_MAX);
        }
    }

    /// Adds the argument at `offset` of the input. The parser keeps a request within
    /// [`OFFSET_MAX`], so neither cast loses anything.
    #[inline]
    pub(super) fn push_range(&mut self, offset: usize, len: usize) {
        debug_assert!(offset + len <= OFFSET_MAX);
        self.spans.push(Span { offset: offset as u32, len: len as u32 });
    }

    /// Adds an argument with the text that `write` appends to the side buffer, or nothing when it
    /// finds no text. Side text is never longer than the line it comes from.
    pub(super) fn push_unquoted<T>(
        &mut self,
        write: impl FnOnce(&mut Vec<u8>) -> Option<T>,
    ) -> Option<T> {
        let start = self.unquoted.len();
        let found = write(&mut self.unquoted)?;
        let len = self.unquoted.len() - start;
        debug_assert!(start + len <= OFFSET_MAX);
        self.spans.push(Span { offset: start as u32 | UNQUOTED, len: len as u32 });
        Some(found)
    }

    /// Bytes of memory held.
    #[cfg(test)]
    pub(super) fn memory_bytes(&self) -> usize {
        self.spans.capacity() * size_of::<Span>() + self.unquoted.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_lie_in_the_input_or_beside_it() {
        let input = b"set key";
        let mut arguments = Arguments::new();
        arguments.push_range(0, 3);
        arguments.push_unquoted(|out| {
            out.extend_from_slice(b"a\nb");
            Some(())
        });
        arguments.push_range(4, 3);
        arguments.push_range(7, 0);

        assert_eq!(arguments.len(), 4);
        assert_eq!(arguments.get(1, input), b"a\nb");
        let all: Vec<&[u8]> = arguments.iter(input).collect();
        assert_eq!(all, [&b"set"[..], b"a\nb", b"key", b""]);
    }

    #[test]
    fn a_cleared_list_gives_back_what_a_huge_request_needed() {
        let mut arguments = Arguments::new();
        (0..100_000).for_each(|at| arguments.push_range(at, 1));
        arguments.clear();
        assert!(arguments.is_empty());
        assert_eq!(arguments.memory_bytes(), RETAINED_COUNT_MAX * size_of::<Span>());
    }
}
