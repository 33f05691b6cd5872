//! Readiness of sockets: a thin, safe layer over epoll.

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use std::io;
use std::time::{Duration, Instant};

/// Readiness events taken at a time.
const EVENTS_MAX: usize = 256;
/// Added to a token whose peer has closed its side, or whose connection failed.
pub(super) const HANGUP: u64 = 1 << 63;
/// Token of the wake-up descriptor.
const WAKE: u64 = 0;

/// Edge-triggered readiness of many descriptors, for any number of threads.
#[derive(Debug)]
pub(super) struct Poller {
    epoll: OwnedFd,
    wake: OwnedFd,
}

impl Poller {
    pub(super) fn new() -> io::Result<Self> {
        let poller = Self {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        };
        // Level-triggered: a wake-up stays until `wait` has seen it, even if others ask for readiness in between.
        epoll::add(&poller.epoll, &poller.wake, EventData::new_u64(WAKE), EventFlags::IN)?;
        Ok(poller)
    }

    /// Watches a descriptor until it is closed. `token` must not be 0.
    pub(super) fn watch(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        self.watch_for(fd, token, EventFlags::IN | EventFlags::OUT)
    }

    /// As [`Poller::watch`], for one that is never waited for to take more.
    pub(super) fn watch_input(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        self.watch_for(fd, token, EventFlags::IN)
    }

    fn watch_for(&self, fd: impl AsFd, token: u64, flags: EventFlags) -> io::Result<()> {
        debug_assert_ne!(token, WAKE);
        let flags = flags | EventFlags::RDHUP | EventFlags::ET;
        Ok(epoll::add(&self.epoll, fd, EventData::new_u64(token), flags)?)
    }

    /// Watches another poller: its token is handed over as long as something there is ready or it was woken.
    pub(super) fn watch_poller(&self, other: &Poller, token: u64) -> io::Result<()> {
        debug_assert_ne!(token, WAKE);
        Ok(epoll::add(&self.epoll, &other.epoll, EventData::new_u64(token), EventFlags::IN)?)
    }

    /// Watches no longer.
    pub(super) fn forget(&self, fd: impl AsFd) {
        // Fails only for a descriptor that is not watched, which is what is wanted.
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// Ends a [`Poller::wait`].
    pub(super) fn wake(&self) {
        // Fails only if the counter is full, and then the waiter has been woken.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Hands over the tokens of descriptors that became ready; blocks until there is one, a wake-up, or `until` has
    /// passed.
    pub(super) fn wait(&self, until: Option<Instant>, ready: impl FnMut(u64)) {
        if self.take(until.map(|until| until.saturating_duration_since(Instant::now())), ready) {
            // Fails only if there is nothing to read.
            let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        }
    }

    /// Hands over the tokens of descriptors that are ready now.
    pub(super) fn take_ready(&self, ready: impl FnMut(u64)) {
        self.take(Some(Duration::ZERO), ready);
    }

    /// Whether there was a wake-up among what is ready.
    fn take(&self, timeout: Option<Duration>, mut ready: impl FnMut(u64)) -> bool {
        let mut woken = false;
        const NOTHING: Event = Event { flags: EventFlags::empty(), data: EventData::new_u64(WAKE) };
        let mut events = [NOTHING; EVENTS_MAX];
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: timeout.as_secs().min(1 << 30) as i64,
            tv_nsec: timeout.subsec_nanos().into(),
        });
        match epoll::wait(&self.epoll, &mut events, timeout.as_ref()) {
            Ok(count) => {
                for event in &events[..count] {
                    let token = event.data.u64();
                    if token == WAKE {
                        woken = true;
                    } else {
                        let flags = event.flags;
                        let over = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
                        ready(if over { token | HANGUP } else { token });
                    }
                }
            }
            Err(Errno::INTR) => {}
            Err(error) => tracing::error!(%error, "epoll failed"),
        }
        woken
    }
}
