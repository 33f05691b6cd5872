//! Tasks that wait for a link to come up or for room on it.

use std::collections::{BTreeMap, HashMap};
use std::task::Waker;
use std::time::Instant;

/// Wakers in the order in which they came to wait, each of them once however often its task asks again.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Each with the earliest deadline that its task has named.
    tasks: BTreeMap<u64, (Waker, Instant)>,
    /// The place of each in `tasks`.
    places: HashMap<Identity, u64>,
    next_place: u64,
}

/// Two wakers wake the same task if both of these are equal, as in [`Waker::will_wake`]. The waker in `tasks` keeps what is
/// behind the address from going to another one.
type Identity = (usize, usize);

fn identity(waker: &Waker) -> Identity {
    (waker.data().addr(), std::ptr::from_ref(waker.vtable()).addr())
}

impl Waiting {
    /// Has a task wait, until `deadline` at the latest.
    pub(super) fn add(&mut self, waker: Waker, deadline: Instant) {
        let identity = identity(&waker);
        // One task may wait for several calls, and ask for each of them as often as it likes.
        if let Some((_, earliest)) = self.places.get(&identity).and_then(|place| self.tasks.get_mut(place)) {
            *earliest = deadline.min(*earliest);
            return;
        }
        self.places.insert(identity, self.next_place);
        self.tasks.insert(self.next_place, (waker, deadline));
        self.next_place += 1;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Takes out those that have waited longest, up to so many.
    pub(super) fn take(&mut self, count: usize) -> Vec<Waker> {
        let count = count.min(self.tasks.len());
        let first = std::iter::from_fn(|| self.tasks.pop_first()).take(count);
        let wakers: Vec<Waker> = first.map(|(_, (waker, _))| waker).collect();
        for waker in &wakers {
            self.places.remove(&identity(waker));
        }
        wakers
    }

    /// Takes all of them out.
    pub(super) fn take_all(&mut self) -> Vec<Waker> {
        self.places.clear();
        std::mem::take(&mut self.tasks).into_values().map(|(waker, _)| waker).collect()
    }

    /// Takes out those whose deadline has passed. Returns the next deadline too.
    pub(super) fn expire(&mut self, now: Instant) -> (Vec<Waker>, Option<Instant>) {
        let mut expired = Vec::new();
        let mut next: Option<Instant> = None;
        let places = &mut self.places;
        self.tasks.retain(|_, (waker, deadline)| {
            if *deadline <= now {
                places.remove(&identity(waker));
                expired.push(waker.clone());
                return false;
            }
            next = Some(next.map_or(*deadline, |next| next.min(*deadline)));
            true
        });
        (expired, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::task::Wake;
    use std::time::Duration;

    struct Task;

    impl Wake for Task {
        fn wake(self: Arc<Self>) {}
    }

    fn tasks<const N: usize>() -> [Waker; N] {
        std::array::from_fn(|_| Arc::new(Task).into())
    }

    #[test]
    fn tasks_that_ask_again_in_turn_wait_once_each() {
        let now = Instant::now();
        let mut waiting = Waiting::default();
        let [first, second] = tasks();
        for _ in 0..1000 {
            waiting.add(first.clone(), now);
            waiting.add(second.clone(), now);
        }
        assert_eq!((waiting.tasks.len(), waiting.places.len()), (2, 2));
        assert!(waiting.take(1)[0].will_wake(&first));
        waiting.add(first.clone(), now);
        assert!(waiting.take(1)[0].will_wake(&second), "who was woken goes to the end");
        assert!(waiting.take(7)[0].will_wake(&first));
        assert!(waiting.is_empty() && waiting.places.is_empty());
    }

    #[test]
    fn a_task_is_woken_at_the_earliest_of_its_deadlines() {
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let mut waiting = Waiting::default();
        let [first, second] = tasks();
        waiting.add(first.clone(), at(5));
        waiting.add(second.clone(), at(3));
        waiting.add(first.clone(), at(1));
        waiting.add(first.clone(), at(9));
        let (expired, next) = waiting.expire(at(2));
        assert!(expired.len() == 1 && expired[0].will_wake(&first));
        assert_eq!(next, Some(at(3)));
        waiting.add(first.clone(), at(9));
        assert_eq!(waiting.take_all().len(), 2);
        assert_eq!(waiting.expire(at(100)).0.len(), 0);
        assert!(waiting.places.is_empty());
    }
}
