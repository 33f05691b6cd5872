//! The numbers that shared memory's plugin gives to the classes of one process.

use parking_lot::Mutex;

/// The plugin of shared memory, where it is to choose an address.
pub(super) const SHARED_MEMORY: &[u8] = b"na+sm";

/// The plugin of shared memory numbers the classes of a process from 0 to 255 and around again, without a look at those
/// that live: one that listens under a number in use writes over the other's memory, and then does not start. This
/// keeps the numbers apart.
pub(super) struct Numbers {
    /// Of the next class, once one has told its own.
    next: Option<u8>,
    in_use: [bool; 256],
}

pub(super) static NUMBERS: Mutex<Numbers> = Mutex::new(Numbers { next: None, in_use: [false; 256] });

impl Numbers {
    /// Whether the next class would get a number that is in use. `None` if there is no other.
    pub(super) fn is_next_in_use(&self) -> Option<bool> {
        let next = self.next.is_some_and(|next| self.in_use[usize::from(next)]);
        (!next || self.in_use.contains(&false)).then_some(next)
    }

    /// The next number went to a class that is gone already.
    pub(super) fn pass(&mut self) {
        self.next = self.next.map(|next| next.wrapping_add(1));
    }

    pub(super) fn take(&mut self, number: u8) {
        self.in_use[usize::from(number)] = true;
        self.next = Some(number.wrapping_add(1));
    }

    pub(super) fn give_back(&mut self, number: u8) {
        self.in_use[usize::from(number)] = false;
    }
}

/// The number in `na+sm://4711-3`.
pub(super) fn number_in(address: &str) -> Option<u8> {
    address.rsplit_once('-')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_use_are_passed_over() {
        let mut numbers = Numbers { next: None, in_use: [false; 256] };
        assert_eq!(numbers.is_next_in_use(), Some(false));
        numbers.take(number_in("na+sm://4711-0").expect("a number"));
        numbers.take(255);
        assert_eq!(numbers.is_next_in_use(), Some(true), "0 lives");
        numbers.pass();
        assert_eq!(numbers.is_next_in_use(), Some(false), "1 is free");
        (0..=255).for_each(|number| numbers.take(number));
        assert_eq!(numbers.is_next_in_use(), None);
        numbers.give_back(0);
        assert_eq!(numbers.is_next_in_use(), Some(false));
        assert_eq!(number_in("ofi+tcp://127.0.0.1:80"), None);
    }
}
