//! The sessions of a connection: one that calls go into, and how it is replaced.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::error::OpenError;
use super::pace::{OnItsWay, Pace};
use super::places::Places;
use crate::clock;
use crate::protocol::Tick;
use crate::session::{self, ClientSession};
use futures_util::FutureExt;
use futures_util::future::{Shared, WeakShared};
use margo_rs::{RawCall, Standing};
use parking_lot::{Mutex, RwLock};

/// Servers keep a session at least this long that was not used yet, less a second for the way there.
const UNUSED_MAX: Duration = Duration::from_secs(4);
/// How long before its end a session is replaced; less for sessions that do not live ten times as long.
const RENEW_BEFORE: Duration = Duration::from_secs(30);

/// A session of this client.
pub(super) struct Live {
    pub(super) session: ClientSession,
    /// The connection it was made over: if that is lost, the server may be another one.
    connection: Option<Standing>,
    opened: Tick,
    /// When a new one should be made.
    renew_at: AtomicU64,
    /// Idle time after which the server may have ended it, in ms.
    idle_max: u64,
    last_used: AtomicU64,
    /// A request was sent in it.
    used: AtomicBool,
    /// No more calls go into it.
    spent: AtomicBool,
    /// The server does not know it any more.
    lost: AtomicBool,
    places: Places,
    pace: Pace,
    /// The message that closes it, once it is made: whoever gives up waiting for its answer leaves it to the next.
    pub(super) closing: Mutex<Option<Closing>>,
}

/// A closing message that is on its way.
pub(super) struct Closing {
    pub(super) raw: RawCall,
    pub(super) call: session::Call,
}

/// The wait after a failed attempt to replace a session that is still good.
const RENEW_AGAIN: Duration = Duration::from_secs(5);

/// Whether a session will do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fitness {
    Good,
    /// Good, and a new one should be made.
    Old,
    Unfit,
}

impl Live {
    pub(super) fn new(session: ClientSession, connection: Option<Standing>) -> Self {
        let now = clock::now();
        let terms = *session.terms();
        let ahead = RENEW_BEFORE.min(terms.absolute / 10);
        Self {
            connection,
            opened: now,
            renew_at: AtomicU64::new(session.ends().0.saturating_sub(ahead.as_millis() as u64)),
            // The server's clock may run a little faster, and the way there takes time.
            idle_max: terms.idle.mul_f32(0.9).saturating_sub(Duration::from_millis(500)).as_millis() as u64,
            last_used: AtomicU64::new(now.0),
            used: AtomicBool::new(false),
            spent: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            places: Places::new(terms.max_in_flight),
            pace: Pace::new(terms.window_bits),
            closing: Mutex::new(None),
            session,
        }
    }

    #[inline]
    pub(super) fn fitness(&self, now: Tick) -> Fitness {
        if self.spent.load(Ordering::SeqCst) || self.has_ended(now) {
            Fitness::Unfit
        } else if now.0 >= self.renew_at.load(Ordering::Relaxed) {
            Fitness::Old
        } else {
            Fitness::Good
        }
    }

    /// Whether the server will have forgotten it.
    #[inline]
    pub(super) fn has_ended(&self, now: Tick) -> bool {
        let is_unused = !self.used.load(Ordering::Relaxed) && now >= self.opened.after(UNUSED_MAX);
        let is_idle = now.0.saturating_sub(self.last_used.load(Ordering::Relaxed)) >= self.idle_max;
        let is_other = !self.connection.as_ref().is_some_and(Standing::holds);
        self.lost.load(Ordering::Acquire) || is_unused || is_idle || is_other || now >= self.session.ends()
    }

    /// A place for one more call, if there is one at once.
    pub(super) fn try_enter(self: Arc<Self>, now: Tick) -> Option<Ticket> {
        if !self.places.try_take() {
            return None;
        }
        let mut ticket = Ticket { live: self, on_its_way: None };
        let live = &*ticket.live;
        ticket.on_its_way = Some(live.pace.begin(|| live.session.next_number())?);
        // Now that it is counted: whoever spends the session looks at the counts after that.
        if live.spent.load(Ordering::SeqCst) {
            return None;
        }
        live.note_use(now);
        Some(ticket)
    }

    /// A place for one more call, in turn.
    pub(super) async fn enter(self: &Arc<Self>) -> Ticket {
        self.places.take().await;
        let mut ticket = Ticket { live: Arc::clone(self), on_its_way: None };
        loop {
            ticket.on_its_way = self.pace.begin(|| self.session.next_number());
            if ticket.on_its_way.is_some() {
                self.note_use(clock::now());
                return ticket;
            }
            self.pace.wait(|| self.session.next_number()).await;
        }
    }

    #[inline]
    fn note_use(&self, now: Tick) {
        if self.last_used.load(Ordering::Relaxed) < now.0 {
            self.last_used.store(now.0, Ordering::Relaxed);
        }
    }

    /// A request has gone to the server in this session, soon enough for the session to be there.
    #[inline]
    pub(super) fn note_sent(&self) {
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }

    /// Puts off its replacement, which has just failed.
    pub(super) fn renew_later(&self) {
        self.renew_at.store(clock::now().after(RENEW_AGAIN).0, Ordering::Relaxed);
    }

    /// Whether the server has been sent the message that closes it.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.lock().as_ref().is_some_and(|closing| closing.raw.is_sent())
    }

    /// Whether no call is in flight in it.
    pub(super) fn is_unused(&self) -> bool {
        self.places.are_all_free(self.session.terms().max_in_flight)
    }

    /// No more calls go into it.
    pub(super) fn spend(&self) {
        self.spent.store(true, Ordering::SeqCst);
    }

    /// The server has said that it does not know it.
    pub(super) fn lose(&self) {
        self.lost.store(true, Ordering::Release);
        self.spend();
    }

    /// Waits until all requests are where a message that is sent now comes after them.
    pub(super) async fn all_arrived(&self) {
        self.pace.all_arrived().await;
    }
}

/// A place for one call in a session, given back when it is dropped.
pub(super) struct Ticket {
    pub(super) live: Arc<Live>,
    /// Others stay near this call until it is where they cannot overtake it.
    on_its_way: Option<OnItsWay>,
}

impl Ticket {
    /// The call cannot be overtaken any more.
    #[inline]
    pub(super) fn arrived(&mut self) {
        if let Some(begun) = self.on_its_way.take() {
            self.live.pace.end(begun);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.arrived();
        self.live.places.give_back();
    }
}

/// A session that is being made: whoever waits for it drives it, and it is given up when nobody does.
type Making = Shared<Handshake>;
type Handshake = Pin<Box<dyn Future<Output = Result<(), Arc<OpenError>>> + Send>>;

/// Where calls of one size go. Long requests may be overtaken by short ones on their way, so they have a session of their
/// own: the replay window of the short ones runs ahead of nothing.
#[derive(Default)]
pub(super) struct Lane {
    current: RwLock<Option<Arc<Live>>>,
    /// Sessions before that, in which calls were in flight when they were replaced.
    replaced: Mutex<Vec<Arc<Live>>>,
    making: Mutex<Option<WeakShared<Handshake>>>,
}

impl Lane {
    #[inline]
    pub(super) fn current(&self) -> Option<Arc<Live>> {
        self.current.read().clone()
    }

    /// Replaces the session; calls in flight end in the one before. Gives back those that were replaced and have no calls in
    /// flight any more.
    pub(super) fn replace(&self, live: Arc<Live>) -> Vec<Arc<Live>> {
        let before = self.current.write().replace(live);
        before.iter().for_each(|before| before.spend());
        let mut replaced = self.replaced.lock();
        replaced.extend(before);
        let (unused, used) = std::mem::take(&mut *replaced).into_iter().partition(|live| live.is_unused());
        *replaced = used;
        unused
    }

    /// The sessions that there are.
    pub(super) fn all(&self) -> Vec<Arc<Live>> {
        let mut all = self.replaced.lock().clone();
        all.extend(self.current());
        all
    }

    /// Lets go of a session that was ended.
    pub(super) fn forget(&self, live: &Arc<Live>) {
        self.current.write().take_if(|current| Arc::ptr_eq(current, live));
        self.replaced.lock().retain(|replaced| !Arc::ptr_eq(replaced, live));
    }

    /// The session that is being made, or else `make` begins.
    pub(super) fn making<F>(&self, make: impl FnOnce() -> F) -> Making
    where
        F: Future<Output = Result<(), Arc<OpenError>>> + Send + 'static,
    {
        let mut making = self.making.lock();
        if let Some(made) = making.as_ref().and_then(WeakShared::upgrade)
            && made.peek().is_none()
        {
            return made;
        }
        let future: Handshake = Box::pin(make());
        let shared = future.shared();
        *making = shared.downgrade();
        shared
    }
}
