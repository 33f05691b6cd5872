//! How many calls may be in flight.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::Notify;

/// Places for calls: a semaphore that takes no lock while there is room, unlike tokio's, whose every release does.
pub(super) struct Places {
    free: AtomicU32,
    waiting: AtomicU32,
    freed: Notify,
}

impl Places {
    pub(super) fn new(count: u32) -> Self {
        Self { free: AtomicU32::new(count), waiting: AtomicU32::new(0), freed: Notify::new() }
    }

    /// Takes a place, unless there is none or others wait for one.
    #[inline]
    pub(super) fn try_take(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) == 0 && self.take_free()
    }

    #[inline]
    fn take_free(&self) -> bool {
        self.free.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |free| free.checked_sub(1)).is_ok()
    }

    /// Takes a place, about in turn.
    pub(super) async fn take(&self) {
        let waiting = Waiting::new(self);
        while !self.take_free() {
            self.freed.notified().await;
        }
        // Two places that were freed at once may have woken only this one.
        drop(waiting);
        self.wake_next();
    }

    #[inline]
    pub(super) fn give_back(&self) {
        self.free.fetch_add(1, Ordering::SeqCst);
        self.wake_next();
    }

    /// Whether all of so many places are free.
    pub(super) fn are_all_free(&self, count: u32) -> bool {
        self.free.load(Ordering::SeqCst) == count
    }

    #[inline]
    fn wake_next(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 && self.free.load(Ordering::SeqCst) > 0 {
            self.freed.notify_one();
        }
    }
}

struct Waiting<'a>(&'a Places);

impl<'a> Waiting<'a> {
    fn new(places: &'a Places) -> Self {
        places.waiting.fetch_add(1, Ordering::SeqCst);
        Self(places)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
        // It may have been woken and then dropped: the next one takes its turn.
        self.0.wake_next();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use margo_rs::Wait;
    use std::sync::atomic::AtomicU32;
    use std::thread;

    #[test]
    fn there_are_so_many_places() {
        let places = Places::new(2);
        assert!(places.try_take() && places.try_take() && !places.try_take());
        places.give_back();
        places.take().wait();
        assert!(!places.try_take());
    }

    #[test]
    fn all_who_wait_get_their_turn_and_none_is_one_too_many() {
        let places = Places::new(3);
        let inside = AtomicU32::new(0);
        thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    for round in 0..2000 {
                        if round % 3 > 0 || !places.try_take() {
                            places.take().wait();
                        }
                        assert!(inside.fetch_add(1, Ordering::SeqCst) < 3);
                        inside.fetch_sub(1, Ordering::SeqCst);
                        places.give_back();
                    }
                });
            }
        });
        assert_eq!(places.free.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn whoever_gives_up_passes_the_place_on() {
        let places = Places::new(1);
        places.take().wait();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let mut first = Box::pin(places.take());
            let mut second = Box::pin(places.take());
            tokio::select! { biased; () = &mut first => panic!("taken"), () = &mut second => panic!("taken"), () = async {} => {} }
            places.give_back();
            drop(first);
            second.await;
        });
        assert!(!places.try_take());
    }
}
