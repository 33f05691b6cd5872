//! What was lent to the peer of one connection.

use super::lendable::Lendable;
use std::collections::HashMap;
use std::sync::{Arc, Weak};

/// Files lent to one peer at a time.
const LOANS_MAX: usize = 64;

/// The files that a peer has, by number.
#[derive(Debug, Default)]
pub(in super::super) struct Lender {
    last: u64,
    loans: HashMap<u64, Weak<Lendable>>,
}

impl Lender {
    /// A number that was never used on this connection, unless the peer has as many files as it may have.
    pub(in super::super) fn next(&mut self) -> Option<u64> {
        if self.loans.len() >= LOANS_MAX {
            return None;
        }
        self.last += 1;
        Some(self.last)
    }

    /// The peer has been given a file.
    pub(in super::super) fn note(&mut self, loan: u64, file: &Arc<Lendable>) {
        self.loans.insert(loan, Arc::downgrade(file));
    }

    /// A loan is over. Returns what was lent, if it is known and exists.
    pub(in super::super) fn end(&mut self, loan: u64) -> Option<Arc<Lendable>> {
        self.loans.remove(&loan)?.upgrade()
    }

    /// All loans are over.
    pub(in super::super) fn end_all(&mut self) -> Vec<(u64, Arc<Lendable>)> {
        self.loans.drain().filter_map(|(loan, file)| Some((loan, file.upgrade()?))).collect()
    }
}
