//! What the keys of one client may hold, in a cluster whose nodes fail.
//!
//! A client has one request under way at a time. What it is told decides:
//!
//! | answer | the write |
//! |---|---|
//! | OK | has happened: the key holds it, or a later one |
//! | `NOQUORUM` | has not happened, and never will |
//! | anything else, or none | may have happened, or happen yet |
//!
//! A write that may have happened is settled by a later one that has: that one is newer, whichever
//! node took it. It is also settled by a linearizable read that finds it, or one after it: those do not
//! go back in time. A read at quorum may: of replicas that it did not ask, another may ask one.

use crate::durability::mark::Mark;

/// What came of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It has happened.
    Done,
    /// It has not, and will not.
    Refused,
    /// Nobody knows.
    Unknown,
}

/// A write of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    /// Its number among the client's.
    pub sequence: u64,
    /// Whether it deletes the key.
    pub is_deletion: bool,
}

/// What one key may hold.
#[derive(Clone, Debug)]
struct Page {
    /// The newest write that has happened, as far as is known.
    settled: Write,
    /// Writes after it that may have, oldest first.
    open: Vec<Write>,
}

/// What one client has written, and what came of it.
#[derive(Clone, Debug)]
pub struct Book {
    client: u16,
    sequence: u64,
    pages: Vec<Page>,
    /// Writes that have happened.
    pub done_count: u64,
    /// Writes of which nobody knows.
    pub unknown_count: u64,
    /// Writes that were refused.
    pub refused_count: u64,
}

impl Book {
    /// A client that has written nothing.
    #[must_use]
    pub fn new(client: u16, key_count: usize) -> Self {
        let nothing = Write { sequence: 0, is_deletion: true };
        let pages = vec![Page { settled: nothing, open: Vec::new() }; key_count];
        Self { client, sequence: 0, pages, done_count: 0, unknown_count: 0, refused_count: 0 }
    }

    /// How many keys it has.
    #[must_use]
    pub fn key_count(&self) -> usize {
        self.pages.len()
    }

    /// What a key is called.
    #[must_use]
    pub fn key_name(&self, key: usize) -> String {
        format!("book:{}:{key}", self.client)
    }

    /// A new write, and its value; `None` for a deletion.
    pub fn begin(&mut self, is_deletion: bool, filler_len: usize) -> (Write, Option<Vec<u8>>) {
        self.sequence += 1;
        let mark = Mark { client: self.client, sequence: self.sequence, filler_len };
        let value = (!is_deletion).then(|| mark.value());
        (Write { sequence: self.sequence, is_deletion }, value)
    }

    /// Notes what came of a write.
    pub fn end(&mut self, key: usize, write: Write, fate: Fate) {
        let page = &mut self.pages[key];
        match fate {
            Fate::Done => {
                *page = Page { settled: write, open: Vec::new() };
                self.done_count += 1;
            }
            Fate::Refused => self.refused_count += 1,
            Fate::Unknown => {
                page.open.push(write);
                self.unknown_count += 1;
            }
        }
    }

    /// Compares what was read under a key with what it may hold. With `settles`, what was found is
    /// settled.
    ///
    /// # Errors
    ///
    /// When it may not hold that.
    pub fn check(&mut self, key: usize, value: Option<&[u8]>, settles: bool) -> Result<(), String> {
        let name = self.key_name(key);
        let mark = value.map(Mark::read).transpose();
        let mark = mark.map_err(|wrong| format!("{name} holds {wrong}"))?;
        let page = &mut self.pages[key];
        let is_it = |write: &Write| match mark {
            None => write.is_deletion,
            Some(mark) => {
                mark.client == self.client && mark.sequence == write.sequence && !write.is_deletion
            }
        };
        if is_it(&page.settled) {
            return Ok(());
        }
        let Some(index) = page.open.iter().position(is_it) else {
            let found = mark.map_or_else(|| "nothing".to_owned(), |mark| mark.to_string());
            return Err(format!("{name} holds {found}, but it must be one of {page:?}"));
        };
        if settles {
            page.settled = page.open[index];
            page.open.drain(..=index);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(sequence: u64) -> Vec<u8> {
        Mark { client: 7, sequence, filler_len: 3 }.value()
    }

    #[test]
    fn what_was_done_must_be_there_and_what_is_unknown_may_be() {
        let mut book = Book::new(7, 1);
        book.check(0, None, true).unwrap();
        let (first, bytes) = book.begin(false, 3);
        assert_eq!(bytes, Some(value(1)));
        book.end(0, first, Fate::Done);
        let (second, _) = book.begin(false, 3);
        book.end(0, second, Fate::Refused);
        let (third, _) = book.begin(false, 3);
        book.end(0, third, Fate::Unknown);
        book.check(0, Some(&value(1)), true).unwrap();
        book.check(0, None, true).unwrap_err();
        book.check(0, Some(&value(2)), true).unwrap_err();
        book.check(0, Some(&value(3)), false).unwrap();
        book.check(0, Some(&value(1)), false).unwrap();
        book.check(0, Some(&value(3)), true).unwrap();
        book.check(0, Some(&value(1)), true).unwrap_err();
        assert_eq!((book.done_count, book.unknown_count, book.refused_count), (1, 1, 1));
    }

    #[test]
    fn a_deletion_that_is_done_settles_what_was_unknown() {
        let mut book = Book::new(7, 1);
        let (first, _) = book.begin(false, 3);
        book.end(0, first, Fate::Unknown);
        let (second, bytes) = book.begin(true, 3);
        assert_eq!(bytes, None);
        book.end(0, second, Fate::Done);
        book.check(0, None, true).unwrap();
        book.check(0, Some(&value(1)), false).unwrap_err();
    }
}
