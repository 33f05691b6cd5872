use crate::protocol::{SessionId, Tick};

/// Slots of one second each; what is due later is looked at again after a round.
const SLOTS: u64 = 1024;

/// A timer wheel: each session is in one slot, and is looked at when that comes up. The cost is of those that come up, not
/// of all there are.
pub(super) struct Wheel {
    slots: Vec<Vec<SessionId>>,
    /// The last second whose slot was taken.
    done: u64,
}

impl Wheel {
    pub(super) fn new(now: Tick) -> Self {
        Self { slots: (0..SLOTS).map(|_| Vec::new()).collect(), done: now.0 / 1000 }
    }

    /// Brings `id` up at `at` or up to a second later; or, when that is past the horizon, at the horizon.
    pub(super) fn insert(&mut self, id: SessionId, at: Tick) {
        let second = at.0.div_ceil(1000).clamp(self.done + 1, self.done + SLOTS - 1);
        self.slots[(second % SLOTS) as usize].push(id);
    }

    /// When the next session comes up.
    pub(super) fn next_due(&self) -> Option<Tick> {
        let seconds = self.done + 1..self.done + SLOTS;
        seconds
            .into_iter()
            .find(|second| !self.slots[(second % SLOTS) as usize].is_empty())
            .map(|second| Tick(second * 1000))
    }

    /// Takes what is up at `now`, at least one slot at a time, until there are `enough`.
    pub(super) fn take(&mut self, now: Tick, enough: usize) -> Vec<SessionId> {
        let mut up = Vec::new();
        let now = now.0 / 1000;
        if now > self.done + SLOTS {
            self.done = now - SLOTS; // one round takes every slot
        }
        while self.done < now && up.len() < enough {
            self.done += 1;
            let slot = &mut self.slots[(self.done % SLOTS) as usize];
            if up.is_empty() {
                up = std::mem::take(slot);
            } else {
                up.append(slot);
                *slot = Vec::new();
            }
        }
        up
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> SessionId {
        SessionId::new([number; 16])
    }

    #[test]
    fn it_brings_up_what_is_due_and_not_before() {
        let mut wheel = Wheel::new(Tick(10_000));
        wheel.insert(id(1), Tick(15_000));
        wheel.insert(id(2), Tick(15_001));
        wheel.insert(id(3), Tick(0));
        assert_eq!(wheel.next_due(), Some(Tick(11_000)));
        assert_eq!(wheel.take(Tick(10_999), 100), []);
        assert_eq!(wheel.take(Tick(11_000), 100), [id(3)]);
        assert_eq!(wheel.next_due(), Some(Tick(15_000)));
        assert_eq!(wheel.take(Tick(14_999), 100), []);
        assert_eq!(wheel.take(Tick(15_999), 100), [id(1)]);
        assert_eq!(wheel.take(Tick(16_000), 100), [id(2)]);
        assert_eq!(wheel.next_due(), None);
    }

    #[test]
    fn what_is_far_away_comes_up_at_the_horizon() {
        let mut wheel = Wheel::new(Tick(0));
        wheel.insert(id(1), Tick(u64::MAX));
        assert_eq!(wheel.take(Tick(1_022_999), 100), []);
        assert_eq!(wheel.take(Tick(1_023_000), 100), [id(1)]);
    }

    #[test]
    fn after_a_long_sleep_everything_comes_up_once() {
        let mut wheel = Wheel::new(Tick(0));
        for number in 0..200 {
            wheel.insert(id(number), Tick(u64::from(number) * 5_000));
        }
        assert_eq!(wheel.take(Tick(100_000_000), usize::MAX).len(), 200);
        assert_eq!(wheel.take(Tick(200_000_000), usize::MAX).len(), 0);
    }

    #[test]
    fn it_stops_when_there_are_enough_and_goes_on() {
        let mut wheel = Wheel::new(Tick(0));
        for number in 1..=100u8 {
            wheel.insert(id(number), Tick(u64::from(number) * 1000));
        }
        let mut seen = 0;
        while let up @ 1.. = wheel.take(Tick(100_000), 10).len() {
            assert_eq!(up, 10);
            seen += up;
        }
        assert_eq!(seen, 100);
    }
}
