//! The numbers that shared memory's plugin gives to the classes of one process.

use parking_lot::Mutex;

/// The plugin of shared memory numbers the classes of a process from 0 to 255 and around again, without a look at those
/// that live: one that listens under a number in use writes over the other's memory, and then does not start. This
/// keeps the numbers apart.
pub(super) struct Numbers {
    /// Of the next class, unless somebody else in this process has started some.
    next: u8,
    in_use: [bool; 256],
}

pub(super) static NUMBERS: Mutex<Numbers> = Mutex::new(Numbers { next: 0, in_use: [false; 256] });

impl Numbers {
    /// The number that the next class gets, unless a class of ours has it.
    pub(super) fn next(&self) -> Option<u8> {
        (!self.in_use[usize::from(self.next)]).then_some(self.next)
    }

    /// The next number went to a class that is gone already, or is called otherwise.
    pub(super) fn pass(&mut self) {
        self.next = self.next.wrapping_add(1);
    }

    pub(super) fn take(&mut self, number: u8) {
        self.in_use[usize::from(number)] = true;
        self.next = number.wrapping_add(1);
    }

    pub(super) fn give_back(&mut self, number: u8) {
        self.in_use[usize::from(number)] = false;
    }
}

/// The number in `4711-3`, the location of a class of this process.
pub(super) fn number_in(location: &str) -> Option<u8> {
    let (process, number) = location.split_once('-')?;
    number.parse().ok().filter(|_| process.parse() == Ok(std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_use_are_passed_over() {
        let mut numbers = Numbers { next: 0, in_use: [false; 256] };
        assert_eq!(numbers.next(), Some(0));
        numbers.take(0);
        numbers.take(255);
        assert_eq!(numbers.next(), None, "0 lives");
        numbers.pass();
        assert_eq!(numbers.next(), Some(1), "1 is free");
        (0..=255).for_each(|number| numbers.take(number));
        assert_eq!(numbers.next(), None);
        numbers.give_back(0);
        assert_eq!(numbers.next(), Some(0));
    }

    #[test]
    fn a_number_is_that_of_a_class_of_this_process() {
        let process = std::process::id();
        assert_eq!(number_in(&format!("{process}-3")), Some(3));
        for other in [format!("{process}-256"), format!("{}-3", process + 1), "mine".to_owned(), String::new()] {
            assert_eq!(number_in(&other), None, "{other}");
        }
    }
}
