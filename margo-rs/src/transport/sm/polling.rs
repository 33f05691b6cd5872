//! What whoever polls does, in turns: writes what waits, looks at the links in use, asks epoll, runs timers.

use super::super::lifecycle::Ending;
use super::super::restraint::Restrained;
use super::super::timers::Watch;
use super::active::Polling;
use super::{HANGUP, LISTENER, Shared};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// While links are busy, the sockets are asked this rarely, in polls that found something...
const EPOLL_EVERY: u32 = 256;
/// ...of which one that found nothing counts as so many.
const IDLE_WEIGHT: u32 = 16;

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
                Watch::Connecting if connection.lifecycle().is_connecting() => self.connect_on(&connection),
                Watch::Message if connection.check_progress() => self.look_after(token, watch),
                Watch::Reading if connection.check_reading() => self.watch_unread(token),
                Watch::Answers if connection.check_reader() => self.look_after(token, watch),
                _ => {}
            }
        }
    }

    fn flush_dirty(&self, polling: &mut Polling) -> bool {
        if !self.some_dirty.load(Ordering::Relaxed) {
            return false;
        }
        self.some_dirty.store(false, Ordering::Release);
        std::mem::swap(&mut *self.dirty.lock(), &mut polling.dirty);
        let some = !polling.dirty.is_empty();
        for connection in polling.dirty.drain(..) {
            connection.flush_listed();
        }
        some
    }

    pub(super) fn poll(self: &Arc<Self>, polling: &mut Polling) -> bool {
        if polling.armed && !self.parked.load(Ordering::SeqCst) {
            polling.disarm();
        }
        let mut progress = self.flush_dirty(polling);
        let looks = if polling.active.is_empty() { 0 } else { polling.patience.looks() };
        for before in 0..looks {
            if polling.look() {
                polling.patience.found(before);
                progress = true;
                break;
            }
            let wanted = || self.attention.load(Ordering::Relaxed) || self.some_dirty.load(Ordering::Relaxed);
            if before + 1 == looks {
                polling.patience.missed();
            }
            if progress || wanted() {
                break;
            }
            std::hint::spin_loop();
        }
        progress |= self.flush_dirty(polling);
        polling.since_epoll += if progress { 1 } else { IDLE_WEIGHT };
        if polling.since_epoll >= polling.epoll_every || self.attention.load(Ordering::Relaxed) {
            self.attention.store(false, Ordering::SeqCst);
            polling.since_epoll = 0;
            progress |= self.poll_all(polling);
            progress |= self.flush_dirty(polling);
            if !self.ready.lock().is_empty() {
                // Whoever polls may leave now; then the work goes on with the thread that is parked.
                self.attention.store(true, Ordering::SeqCst);
                self.poller.wake();
            }
        }
        if self.parked.load(Ordering::SeqCst) && polling.has_work() {
            // Its bell has been rung, and whoever polls may leave now.
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
            let Some(connection) = self.connections.lock().get(&token).cloned() else { continue };
            if connection.handle_ready(hangup) {
                self.list_ready(token);
            }
            if !connection.lifecycle().is_up() {
                continue;
            }
            let Some((at, is_new)) = polling.activate(&connection, self.parked.load(Ordering::SeqCst)) else {
                continue;
            };
            others |= is_new;
            progress |= polling.active[at].attend(&mut polling.scratch);
        }
        polling.ready = ready;
        polling.epoll_every =
            if others || polling.active.is_empty() { 1 } else { (polling.epoll_every * 2).min(EPOLL_EVERY) };
        self.run_timers();
        self.bury(polling);
        progress
    }

    /// Drops what ended connections hold. Only by whoever holds `polling`, because nobody else may wait for an inbox: its
    /// owner may be inside of a callback that never ends, or waits for this very thread.
    fn bury(&self, polling: &mut Polling) {
        let ended = std::mem::take(&mut *self.ended.lock());
        if ended.is_empty() {
            return;
        }
        polling.active.retain(|active| !active.connection.lifecycle().is_closed());
        for connection in ended {
            connection.clear_inbox();
            if let Some(uid) = connection.guest() {
                self.places.give_back(uid);
            }
        }
    }

    pub(super) fn bury_if_idle(&self) {
        if let Some(mut polling) = self.polling.try_lock() {
            self.bury(&mut polling);
        }
    }
}
