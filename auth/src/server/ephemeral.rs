//! X25519 key pairs for handshakes, one of them made ahead of time: while nobody waits for it.

use parking_lot::Mutex;
use ring::rand::SystemRandom;

use crate::clock::NoRandom;
use crate::fork::Process;
use crate::protocol::Ephemeral;

/// Gives each handshake a key pair of its own.
pub(super) struct Ephemerals {
    random: SystemRandom,
    /// Never given to anybody yet, and the process that made it: a fork's copy would be the parent's pair a second time.
    spare: Mutex<Option<(Process, Ephemeral)>>,
}

impl Default for Ephemerals {
    fn default() -> Self {
        Self { random: SystemRandom::new(), spare: Mutex::new(None) }
    }
}

impl Ephemerals {
    /// A pair that nobody had before.
    pub(super) fn take(&self) -> Result<Ephemeral, NoRandom> {
        let spare = self.spare.lock().take();
        match spare.filter(|(maker, _)| *maker == Process::current()) {
            Some((_, pair)) => Ok(pair),
            None => self.generate(),
        }
    }

    /// Makes the next one ahead, if there is none. Takes some tens of microseconds then.
    pub(super) fn prepare(&self) {
        let is_there = self.spare.lock().as_ref().is_some_and(|(maker, _)| *maker == Process::current());
        if is_there {
            return;
        }
        // Without random bytes there is none, and the handshake that finds none says so.
        if let Ok(pair) = self.generate() {
            *self.spare.lock() = Some((Process::current(), pair));
        }
    }

    fn generate(&self) -> Result<Ephemeral, NoRandom> {
        Ephemeral::generate(&self.random).ok_or(NoRandom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fork::holds_in_a_child;

    #[test]
    fn no_pair_is_given_twice() {
        let pairs = Ephemerals::default();
        pairs.prepare();
        pairs.prepare();
        let given: Vec<_> = (0..3).map(|_| *pairs.take().unwrap().public_key()).collect();
        assert!(given[0] != given[1] && given[1] != given[2] && given[0] != given[2]);
    }

    #[test]
    fn what_was_prepared_is_taken_first() {
        let pairs = Ephemerals::default();
        pairs.prepare();
        let prepared = pairs.spare.lock().as_ref().map(|(_, pair)| *pair.public_key());
        assert_eq!(Some(*pairs.take().unwrap().public_key()), prepared);
        assert!(pairs.spare.lock().is_none());
    }

    #[test]
    fn a_forked_child_does_not_take_its_parents_pair() {
        let pairs = Ephemerals::default();
        pairs.prepare();
        let prepared = pairs.spare.lock().as_ref().map(|(_, pair)| *pair.public_key());
        assert!(holds_in_a_child(|| Some(*pairs.take().unwrap().public_key()) != prepared));
        assert_eq!(Some(*pairs.take().unwrap().public_key()), prepared);
    }
}
