//! How many bytes are under way.
//!
//! What holds bytes holds a [`Charge`] for them, so the sum is right however it ends.

use std::cell::Cell;
use std::rc::Rc;

/// The sum of all charges.
#[derive(Debug, Default)]
pub(super) struct Account {
    bytes: Rc<Cell<usize>>,
}

/// Some bytes that are held for as long as this is.
#[derive(Debug)]
pub(super) struct Charge {
    account: Rc<Cell<usize>>,
    bytes: usize,
}

impl Account {
    /// What is charged at the moment.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// Charges bytes until the last copy of the charge is dropped.
    pub(super) fn charge(&self, bytes: usize) -> Rc<Charge> {
        self.bytes.set(self.bytes.get() + bytes);
        Rc::new(Charge { account: Rc::clone(&self.bytes), bytes })
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let left = self.account.get().checked_sub(self.bytes);
        self.account.set(left.expect("what is given back was charged"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_charged_until_their_last_holder_is_gone() {
        let account = Account::default();
        let first = account.charge(10);
        let (second, copy) = (account.charge(5), Rc::clone(&first));
        assert_eq!(account.bytes(), 15);
        drop(first);
        drop(second);
        assert_eq!(account.bytes(), 10);
        drop(copy);
        assert_eq!(account.bytes(), 0);
    }
}
