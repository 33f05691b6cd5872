//! How far calls may run ahead of those that are still on their way.

use std::num::NonZeroU8;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::Notify;

/// Blocks of numbers that are told apart.
const BLOCKS: u64 = 8;
/// A number may be taken while none is on its way from this many blocks before.
const AHEAD: u64 = 3;

/// Keeps the numbers of a session close enough together for the server's replay window.
///
/// Between a number's taking and its sending, its thread may stand still while others go on: the server would find it too
/// old. So numbers on their way are counted by blocks of an eighth of the window, or the power of two below that, and no
/// number is taken more than three blocks after one of them. At most half a window of callers can have looked before and taken after, which makes less than
/// a window in all.
pub(super) struct Pace {
    /// Numbers in a block, as the power of two that they are.
    block_bits: u32,
    /// Numbers on their way, by block.
    on_their_way: [AtomicU32; BLOCKS as usize],
    waiting: AtomicU32,
    fewer: Notify,
}

/// A number on its way, whichever it is: it was none of an earlier block.
#[must_use]
#[derive(Debug)]
pub(super) struct OnItsWay {
    /// One more than the slot: so that a place for a call fits into two registers.
    slot: NonZeroU8,
}

impl OnItsWay {
    fn new(slot: usize) -> Self {
        Self { slot: NonZeroU8::MIN.saturating_add(slot as u8) }
    }

    fn slot(&self) -> usize {
        usize::from(self.slot.get() - 1)
    }
}

impl Pace {
    /// For a window of so many calls, at least 64.
    pub(super) fn new(window: u16) -> Self {
        Self {
            block_bits: (u64::from(window) / BLOCKS).ilog2(),
            on_their_way: std::array::from_fn(|_| AtomicU32::new(0)),
            waiting: AtomicU32::new(0),
            fewer: Notify::new(),
        }
    }

    /// Allows for one number to be taken after this. `next` says which would be the next one.
    #[inline]
    pub(super) fn begin(&self, next: impl Fn() -> u64) -> Option<OnItsWay> {
        loop {
            let block = next() >> self.block_bits;
            if self.is_behind(block) {
                return None; // before anything is counted: whoever waits must not wake itself
            }
            let slot = (block % BLOCKS) as usize;
            self.on_their_way[slot].fetch_add(1, Ordering::SeqCst);
            let begun = OnItsWay::new(slot);
            if next() >> self.block_bits == block && !self.is_behind(block) {
                return Some(begun);
            }
            self.end(begun); // counted for a block that is over
        }
    }

    /// Whether a number is still on its way that one of this block would leave behind.
    #[inline]
    fn is_behind(&self, block: u64) -> bool {
        self.on_their_way[((block + BLOCKS - AHEAD) % BLOCKS) as usize].load(Ordering::SeqCst) > 0
    }

    /// The number is where none can overtake it, or is not needed any more.
    #[inline]
    pub(super) fn end(&self, begun: OnItsWay) {
        if self.on_their_way[begun.slot()].fetch_sub(1, Ordering::SeqCst) == 1
            && self.waiting.load(Ordering::SeqCst) > 0
        {
            self.fewer.notify_waiters();
        }
    }

    /// Waits until `begin` may succeed; `next` as there.
    pub(super) async fn wait(&self, next: impl Fn() -> u64) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let _waiting = Waiting(&self.waiting);
        let mut fewer = std::pin::pin!(self.fewer.notified());
        fewer.as_mut().enable();
        if self.is_behind(next() >> self.block_bits) {
            fewer.await;
        }
    }

    /// Waits until no number is on its way.
    pub(super) async fn all_arrived(&self) {
        loop {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            let _waiting = Waiting(&self.waiting);
            let mut fewer = std::pin::pin!(self.fewer.notified());
            fewer.as_mut().enable();
            if self.on_their_way.iter().all(|numbers| numbers.load(Ordering::SeqCst) == 0) {
                return;
            }
            fewer.await;
        }
    }
}

/// One of those who wait.
struct Waiting<'a>(&'a AtomicU32);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::sync::Mutex;
    use std::sync::atomic::AtomicU64;
    use std::thread;

    #[test]
    fn none_runs_far_ahead_of_one_on_its_way() {
        let pace = Pace::new(64);
        let next = AtomicU64::new(0);
        let take = || {
            let begun = pace.begin(|| next.load(Ordering::SeqCst))?;
            next.fetch_add(1, Ordering::SeqCst);
            Some(begun)
        };
        let first = take().expect("nothing is on its way");
        while let Some(begun) = take() {
            pace.end(begun);
        }
        assert_eq!(next.load(Ordering::SeqCst), 24, "three blocks of eight");
        pace.end(first);
        pace.end(take().expect("the first has arrived"));
    }

    /// A wait that woke itself would spin inside of one poll, past every deadline.
    #[test]
    fn whoever_waits_is_woken_by_others_alone() {
        let pace = Pace::new(64);
        let next = AtomicU64::new(0);
        let first = pace.begin(|| 0).expect("nothing is on its way");
        next.store(24, Ordering::SeqCst);
        let mut waiting = Box::pin(pace.wait(|| next.load(Ordering::SeqCst)));
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        for _ in 0..100 {
            assert!(pace.begin(|| next.load(Ordering::SeqCst)).is_none());
            assert!(waiting.as_mut().poll(&mut cx).is_pending());
        }
        pace.end(first);
        assert!(waiting.as_mut().poll(&mut cx).is_ready());
    }

    /// A model of the whole: threads that may stand still anywhere, and the server's window behind them.
    #[test]
    fn threads_that_stand_still_are_not_left_behind() {
        const WINDOW: u16 = 64;
        let pace = Pace::new(WINDOW);
        let next = AtomicU64::new(0);
        let window = Mutex::new(crate::protocol::Window::new(WINDOW));
        let places = Mutex::new(i32::from(WINDOW) / 2);
        thread::scope(|scope| {
            for _ in 0..40 {
                scope.spawn(|| {
                    let mut sent = 0;
                    while sent < 500 {
                        {
                            let mut places = places.lock().expect("no panic");
                            if *places == 0 {
                                continue;
                            }
                            *places -= 1;
                        }
                        if let Some(begun) = pace.begin(|| next.load(Ordering::SeqCst)) {
                            let number = next.fetch_add(1, Ordering::SeqCst);
                            if number.is_multiple_of(7) {
                                thread::yield_now();
                            }
                            window.lock().expect("no panic").accept(number).expect("in the window");
                            pace.end(begun);
                            sent += 1;
                        }
                        *places.lock().expect("no panic") += 1;
                    }
                });
            }
        });
        assert_eq!(next.load(Ordering::SeqCst), 20_000);
    }
}
