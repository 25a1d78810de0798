//! Bytes that wait in one core: counted when something begins to wait, and off when it is over.

use std::cell::Cell;
use std::rc::Rc;

/// A sum of bytes, which all who add to it on one core share.
#[derive(Clone, Debug, Default)]
pub(crate) struct Account(Rc<Cell<usize>>);

impl Account {
    /// The sum.
    #[inline]
    pub(crate) fn bytes(&self) -> usize {
        self.0.get()
    }

    pub(crate) fn add(&self, bytes: usize) {
        self.0.set(self.0.get().saturating_add(bytes));
    }

    /// Takes off what was added.
    ///
    /// # Panics
    ///
    /// When more is taken off than was added.
    pub(crate) fn subtract(&self, bytes: usize) {
        let left = self.0.get().checked_sub(bytes);
        self.0.set(left.expect("what is taken off was added"));
    }

    /// Replaces a part of the sum.
    #[inline]
    pub(crate) fn replace(&self, before: usize, after: usize) {
        if before != after {
            self.subtract(before);
            self.add(after);
        }
    }

    /// Adds bytes for as long as what is returned lives.
    pub(crate) fn weigh(&self, bytes: usize) -> Weight {
        self.add(bytes);
        Weight { account: self.clone(), bytes }
    }
}

/// Bytes that are counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Weight {
    account: Account,
    bytes: usize,
}

impl Weight {
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.account.subtract(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_weighed_is_off_when_it_is_over() {
        let account = Account::default();
        let (one, other) = (account.weigh(3), account.weigh(4));
        account.add(5);
        assert_eq!(account.bytes(), 12);
        drop(one);
        account.replace(5, 1);
        assert_eq!(account.bytes(), 5);
        drop(other);
        account.subtract(1);
        assert_eq!(account.bytes(), 0);
    }

    #[test]
    #[should_panic(expected = "was added")]
    fn more_than_was_added_is_never_taken_off() {
        let account = Account::default();
        account.add(1);
        account.subtract(2);
    }
}
