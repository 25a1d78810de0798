//! Which replies of an output are held, and what for.
//!
//! # Invariants
//!
//! - Marks are in the order of the output and do not overlap; none is empty.

use std::collections::VecDeque;

use crate::core::held::{Hold, Standing};

/// Replies that wait for the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    /// Where the first begins and the last ends.
    start: usize,
    end: usize,
    reply_count: usize,
    hold: Hold,
}

/// The marks of one output.
#[derive(Default)]
pub(super) struct Marks {
    marks: VecDeque<Mark>,
}

impl Marks {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }

    pub(super) fn first(&self) -> Option<Hold> {
        self.marks.front().map(|mark| mark.hold)
    }

    /// Marks a reply, behind all others.
    #[inline]
    pub(super) fn add(&mut self, start: usize, end: usize, hold: Hold) {
        assert!(start < end);
        match self.marks.back_mut() {
            Some(last) if last.hold == hold && last.end == start => {
                last.end = end;
                last.reply_count += 1;
            }
            last => {
                assert!(last.is_none_or(|last| last.end <= start));
                self.marks.push_back(Mark { start, end, reply_count: 1, hold });
            }
        }
    }

    /// Adds the marks of an output that begins at `offset` of this one.
    pub(super) fn append(&mut self, later: Self, offset: usize) {
        self.marks.extend(later.marks.into_iter().map(|mark| Mark {
            start: mark.start + offset,
            end: mark.end + offset,
            ..mark
        }));
    }

    /// Takes marks off that are held no more, replacing the replies under those that are lost.
    /// Returns how much of the output is then free to go; the marks that stay count from there.
    pub(super) fn settle(
        &mut self,
        output: &mut Vec<u8>,
        standing: impl Fn(Hold) -> Standing,
        lost: impl Fn() -> Vec<u8>,
    ) -> usize {
        while let Some(mark) = self.marks.front().copied() {
            let standing = standing(mark.hold);
            if standing == Standing::Waiting {
                break;
            }
            self.marks.pop_front();
            if standing == Standing::Lost {
                let errors = lost().repeat(mark.reply_count);
                let (before, after) = (mark.end - mark.start, errors.len());
                output.splice(mark.start..mark.end, errors);
                for later in &mut self.marks {
                    later.start = later.start + after - before;
                    later.end = later.end + after - before;
                }
            }
        }
        let free = self.marks.front().map_or(output.len(), |mark| mark.start);
        for mark in &mut self.marks {
            mark.start -= free;
            mark.end -= free;
        }
        free
    }
}
