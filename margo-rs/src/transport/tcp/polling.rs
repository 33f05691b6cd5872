//! What whoever polls does, in turns: writes what waits, reads where something came last, asks epoll, runs timers.

use super::super::lifecycle::Ending;
use super::super::restraint::Restrained;
use super::super::timers::Watch;
use super::connection::ReadOutcome;
use super::{GUEST, HANGUP, LISTENER, Polling, Shared};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// While a single connection is busy, epoll is asked about the others this rarely (in polls).
const EPOLL_EVERY: u32 = 8;

impl Shared {
    fn run_timers(self: &Arc<Self>) {
        let now = Instant::now();
        while let Some((token, watch)) = self.timers.take_due(now) {
            if watch == Watch::Accepting {
                self.accept_waits.store(false, Ordering::Release);
                self.accept();
                continue;
            }
            let Some(connection) = self.connections.lock().get(&token).cloned() else { continue };
            match watch {
                Watch::Handshake if connection.lifecycle().is_past_handshake() => {}
                Watch::Handshake => connection.time_out(if connection.lifecycle().was_accepted() {
                    self.allowances.limits.handshake_timeout
                } else {
                    self.allowances.limits.connect_timeout
                }),
                Watch::Message if connection.check_progress() => self.look_after(token, watch),
                Watch::Answers if connection.check_reader() => self.look_after(token, watch),
                _ => {}
            }
        }
    }

    fn flush_dirty(&self, polling: &mut Polling) -> bool {
        std::mem::swap(&mut *self.dirty.lock(), &mut polling.dirty);
        let some = !polling.dirty.is_empty();
        for connection in polling.dirty.drain(..) {
            connection.flush_listed();
        }
        some
    }

    pub(super) fn poll(self: &Arc<Self>, polling: &mut Polling) -> bool {
        let mut progress = self.flush_dirty(polling);
        if let Some(hot) = &polling.hot {
            match hot.read(&mut polling.scratch) {
                ReadOutcome::Nothing => {}
                ReadOutcome::Drained => progress = true,
                ReadOutcome::MoreToCome => {
                    self.ready.lock().push(hot.token);
                    progress = true;
                }
            }
            if hot.lifecycle().is_closed() {
                polling.hot = None;
            }
        }
        polling.since_epoll += 1;
        if polling.since_epoll >= polling.epoll_every {
            polling.since_epoll = 0;
            progress |= self.poll_all(polling);
        }
        progress |= self.flush_dirty(polling);
        if !self.ready.lock().is_empty() {
            // Whoever polls may leave now; then the work goes on with the thread that is parked.
            self.poller.wake();
        }
        progress
    }

    /// Handles everything that epoll has noticed.
    fn poll_all(self: &Arc<Self>, polling: &mut Polling) -> bool {
        std::mem::swap(&mut *self.ready.lock(), &mut polling.ready);
        let mut ready = std::mem::take(&mut polling.ready);
        self.poller.take_ready(|token| ready.push(token));
        let mut progress = false;
        let mut others = false;
        for token in ready.drain(..) {
            let (token, hangup) = (token & !HANGUP, token & HANGUP != 0);
            if token == LISTENER {
                progress |= self.accept();
                continue;
            }
            if token == GUEST {
                self.guest_ready.store(true, Ordering::Release);
                continue;
            }
            let Some(connection) = self.connections.lock().get(&token).cloned() else { continue };
            let outcome = connection.handle_ready(hangup, &mut polling.scratch);
            if outcome == ReadOutcome::MoreToCome {
                self.ready.lock().push(token);
            }
            if outcome != ReadOutcome::Nothing {
                progress = true;
                if polling.hot.as_ref().is_none_or(|hot| hot.token != token) {
                    others = true;
                    polling.hot = Some(connection);
                }
            }
        }
        polling.ready = ready;
        polling.epoll_every = match (others, &polling.hot) {
            (true, _) | (_, None) => 1,
            _ => (polling.epoll_every * 2).min(EPOLL_EVERY),
        };
        self.run_timers();
        self.bury();
        progress
    }

    /// Drops what ended connections hold. Only by whoever holds `polling`, because nobody else may wait for an inbox: its
    /// owner may be inside of a callback that never ends, or waits for this very thread.
    fn bury(&self) {
        let ended = std::mem::take(&mut *self.ended.lock());
        for connection in ended {
            connection.clear_inbox();
            if connection.lifecycle().was_accepted() {
                self.accepted.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    pub(super) fn bury_if_idle(&self) {
        if let Some(mut polling) = self.polling.try_lock() {
            polling.hot = None;
            self.bury();
        }
    }
}
