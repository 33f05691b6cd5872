//! The client's side: a [`Connection`] is a server's address and a session with it.

mod builder;
mod call;
mod error;
mod handshake;
mod lane;
mod pace;
mod peer;
mod places;

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use margo_rs::{Address, Endpoint, ProviderId, Rpc, Timer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;

pub use builder::ConnectionBuilder;
pub use call::Call;
pub use error::{CallError, OpenError, RpcName};

use lane::{Closing, Fitness, Lane, Live, Ticket};

use crate::bulk::{Level, Offer, ProtectedBulkError, Sink};
use crate::clock;
use crate::mechanism::{Initiator, ServerIdentity};
use crate::protocol::message::{Draft, OVERHEAD_MAX};
use crate::protocol::{BareError, Protection, ServerId, Suite, Terms, Tick};
use crate::session::Reply;

/// How long a call waits for the replacement of a session that is still good.
const RENEWAL_MAX: Duration = Duration::from_secs(1);
/// Lanes: short requests, and long ones.
const LANES: usize = 2;

/// A server, and a session in which it knows who calls.
///
/// Made by one handshake, cheap to clone, and good for any number of calls from any number of threads at once. A session
/// that ends (by its age, by idleness, with the server's connection) is replaced when the next call is made, which then takes
/// a handshake longer. A call that was sent is never sent again.
///
/// Calls with more arguments than the transport [keeps in order](Endpoint::kept_in_order) (16 KiB, over Mercury about 4 KiB) go
/// into a session of their own, made when it is first needed.
///
/// ```no_run
/// # use margo_rs::{Engine, Rpc};
/// # use mochi_auth::{Connection, munge::Munge};
/// const GREET: Rpc<String, String> = Rpc::new("greet");
///
/// # async fn call(address: &str) -> Result<(), Box<dyn std::error::Error>> {
/// let engine = Engine::connect(address)?;
/// let server = Connection::builder().munge(Munge::builder().build()?).server_uid(2003).open(&engine, address).await?;
/// println!("{}", server.call(GREET, &"world".to_owned()).await?);
/// server.close().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Connection {
    inner: Arc<Inner>,
}

struct Inner {
    endpoint: Endpoint,
    /// Requests longer than this may be overtaken by shorter ones on their way, in bytes.
    kept_in_order: usize,
    timer: Timer,
    default_timeout: Duration,
    handshake_timeout: Duration,
    initiator: Box<dyn Initiator>,
    server: ServerId,
    suites: Vec<Suite>,
    protection: Protection,
    lanes: [Lane; LANES],
    /// No more calls are taken.
    closed: AtomicBool,
    /// Wakes calls that have no place yet.
    closing: Notify,
    /// Held by whoever closes.
    closer: tokio::sync::Mutex<()>,
    /// The latest deadline of a call, as a [`Tick`].
    last_deadline: AtomicU64,
}

impl Connection {
    /// A connection with options; see [`ConnectionBuilder::open`].
    pub fn builder() -> ConnectionBuilder {
        ConnectionBuilder::default()
    }

    /// Where calls go.
    pub fn address(&self) -> &Address {
        self.inner.endpoint.address()
    }

    /// Who the server is, as every handshake of this connection has to prove; `None` where the mechanism names nobody.
    pub fn server_identity(&self) -> Option<ServerIdentity> {
        self.inner.initiator.server()
    }

    /// Calls an RPC that is registered without a provider. See [`Call`] for when it is sent and how it ends.
    pub fn call<In: Serialize, Out: DeserializeOwned>(&self, rpc: Rpc<In, Out>, args: &In) -> Call<Out> {
        Call::new(&self.inner, rpc, ProviderId::DEFAULT, args)
    }

    /// A provider of that server. Nothing is sent.
    pub fn provider(&self, id: ProviderId) -> ConnectedProvider {
        ConnectedProvider { connection: self.clone(), id }
    }

    /// Data for a handler to pull: its ticket goes into the arguments of a call. Hashes or encrypts the data now.
    ///
    /// # Errors
    /// The transport has no bulk transfers, or the engine has ended.
    pub fn offer(&self, data: Vec<u8>, level: Level) -> Result<Offer, ProtectedBulkError> {
        Offer::new(&self.inner.endpoint, data, level)
    }

    /// Room of so many bytes for a handler to push into: its ticket goes into the arguments of a call, whose result brings
    /// the [`Receipt`](crate::bulk::Receipt).
    ///
    /// # Errors
    /// The transport has no bulk transfers, or the engine has ended.
    pub fn sink(&self, room: usize, level: Level) -> Result<Sink, ProtectedBulkError> {
        Sink::new(&self.inner.endpoint, room, level)
    }

    /// Time until the current session ends at the latest; `None` while there is none. It is replaced before.
    pub fn session_left(&self) -> Option<Duration> {
        let live = self.inner.lanes[0].current()?;
        Some(Duration::from_millis(live.session.ends().0.saturating_sub(clock::now().0)))
    }

    /// What the server granted the current session: its lifetimes and limits; `None` while there is none.
    pub fn terms(&self) -> Option<Terms> {
        Some(*self.inner.lanes[0].current()?.session.terms())
    }

    /// Makes a new session for short requests now, whatever the state of the old one; calls in flight end in that.
    ///
    /// # Errors
    /// See [`OpenError`]; the old session stays then.
    pub async fn reauthenticate(&self) -> Result<(), Arc<OpenError>> {
        self.inner.renew(0).await
    }

    /// Ends the connection, for all clones: calls in flight are finished, later ones fail with [`CallError::Closed`].
    ///
    /// A call is in flight when it has been started, polled or waited for, and had its place in a session. Such calls are let
    /// through to the server, and this waits until their handlers have ended; their results can be picked up before and
    /// after. Calls that still wait for a place or for a session fail with [`CallError::Closed`] at once, without having been
    /// sent.
    ///
    /// A call with more arguments than the transport [keeps in order](Endpoint::kept_in_order) is known to be at the server when
    /// its answer was taken: one that was started, and that nobody polls or waits for, holds this up until its deadline.
    ///
    /// Over Mercury's `na+sm` a close may overtake requests beyond 64 in flight: such calls are refused by the server, and
    /// fail with [`CallError::SessionLost`].
    ///
    /// It takes no longer than the longest deadline of the calls in flight, or the default timeout if that is longer.
    /// Dropping the future stops the wait; the connection takes no calls all the same. Its sessions end, and handlers are
    /// waited for, when `close` is called again, which goes on where the first was given up; or they end when the last clone
    /// is dropped.
    ///
    /// Dropping the last clone, and the last call, ends the sessions without waiting for anything: there is nothing in flight
    /// then but messages that want no answer.
    ///
    /// # Errors
    /// The server could not be told, or calls have not ended in time; it will end the sessions when their time has come.
    pub async fn close(&self) -> Result<(), CallError> {
        let inner = &self.inner;
        inner.closed.store(true, Ordering::SeqCst);
        inner.closing.notify_waiters();
        let _one_at_a_time = inner.closer.lock().await;
        let mut closed = Ok(());
        for lane in &inner.lanes {
            for live in lane.all() {
                // All are tried, whatever becomes of the first.
                closed = closed.and(inner.end_session(&live).await);
                lane.forget(&live);
            }
        }
        closed
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("address", self.address())
            .field("mechanism", &self.inner.initiator.id())
            .field("server", &self.server_identity())
            .field("session_left", &self.session_left())
            .finish_non_exhaustive()
    }
}

/// One provider of a server, called in a session.
#[derive(Clone, Debug)]
pub struct ConnectedProvider {
    connection: Connection,
    id: ProviderId,
}

impl ConnectedProvider {
    /// The connection.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The provider's id.
    pub fn provider_id(&self) -> ProviderId {
        self.id
    }

    /// Calls an RPC of this provider. See [`Call`] for when it is sent and how it ends.
    pub fn call<In: Serialize, Out: DeserializeOwned>(&self, rpc: Rpc<In, Out>, args: &In) -> Call<Out> {
        Call::new(&self.connection.inner, rpc, self.id, args)
    }
}

impl Inner {
    #[inline]
    fn lane_of(&self, body: &Draft) -> usize {
        usize::from(body.body_len() + OVERHEAD_MAX + size_of::<u64>() > self.kept_in_order)
    }

    /// A place in the lane's session, if there is one at once.
    fn try_ticket(&self, lane: usize, timeout: Duration, now: Tick) -> Option<Ticket> {
        let deadline = now.after(timeout).0;
        if self.last_deadline.load(Ordering::Relaxed) < deadline {
            self.last_deadline.fetch_max(deadline, Ordering::Relaxed);
        }
        let live = self.lanes[lane].current()?;
        match live.fitness(now) {
            Fitness::Good => live.try_enter(now).filter(|_| self.is_open()),
            _ => None,
        }
    }

    /// Whether calls are taken. To be asked by a call that has its place: either it is told, or whoever closes sees it there.
    #[inline]
    fn is_open(&self) -> bool {
        !self.closed.load(Ordering::SeqCst)
    }

    /// A place in a session of the lane, which is made if need be; or word that the connection was closed, when it is.
    async fn ticket(self: &Arc<Self>, lane: usize) -> Result<Ticket, CallError> {
        let mut closing = pin!(self.closing.notified());
        closing.as_mut().enable();
        let mut ticket = pin!(self.find_ticket(lane));
        let found = poll_fn(|cx| {
            if !self.is_open() {
                return Poll::Ready(None);
            }
            match ticket.as_mut().poll(cx) {
                Poll::Ready(found) => Poll::Ready(Some(found)),
                Poll::Pending => closing.as_mut().poll(cx).map(|()| None),
            }
        });
        found.await.filter(|_| self.is_open()).unwrap_or(Err(CallError::Closed))
    }

    async fn find_ticket(self: &Arc<Self>, lane: usize) -> Result<Ticket, CallError> {
        loop {
            let live = self.lanes[lane].current();
            let fitness = |live: &Arc<Live>| live.fitness(clock::now());
            let live = match live.map(|live| (fitness(&live), live)) {
                Some((Fitness::Good, live)) => live,
                Some((Fitness::Old, live)) => {
                    match within(&self.timer, Instant::now() + RENEWAL_MAX, self.renew(lane)).await {
                        Some(Ok(())) => continue,
                        Some(Err(error)) => tracing::warn!(%error, "the session is not renewed yet; using the old one"),
                        None => tracing::warn!("the session is not renewed in time; using the old one"),
                    }
                    live.renew_later();
                    live
                }
                Some((Fitness::Unfit, _)) | None => {
                    self.renew(lane).await.map_err(CallError::NoSession)?;
                    continue;
                }
            };
            let ticket = live.enter().await;
            // It may have been a long wait.
            if fitness(&live) != Fitness::Unfit {
                return Ok(ticket);
            }
        }
    }

    /// Makes a session for the lane, together with all who want one now.
    async fn renew(self: &Arc<Self>, lane: usize) -> Result<(), Arc<OpenError>> {
        let this = Arc::clone(self);
        self.lanes[lane].making(|| async move { this.make_session(lane).await.map_err(Arc::new) }).await
    }

    async fn make_session(&self, lane: usize) -> Result<(), OpenError> {
        if !self.is_open() {
            return Err(OpenError::Closed);
        }
        let session = handshake::open(self).await?;
        let live = Arc::new(Live::new(session, self.endpoint.standing()));
        for before in self.lanes[lane].replace(Arc::clone(&live)) {
            self.send_close(&before);
        }
        if !self.is_open() {
            // Closed meanwhile, perhaps by somebody who did not see this one.
            live.spend();
            self.all_arrived(&live).await;
            self.send_close(&live);
            self.lanes[lane].forget(&live);
            return Err(OpenError::Closed);
        }
        Ok(())
    }

    /// When all calls in flight will have come to their end.
    fn last_deadline(&self) -> Instant {
        let last = Tick(self.last_deadline.load(Ordering::SeqCst));
        deadline_after(Duration::from_millis(last.0.saturating_sub(clock::now().0)))
    }

    /// Lets the requests of a session get to the server; those that are not sent by their deadlines will not be.
    async fn all_arrived(&self, live: &Live) {
        within(&self.timer, self.last_deadline(), live.all_arrived()).await;
    }

    /// Ends a session once the server has all of its requests, and waits until it has served them.
    async fn end_session(&self, live: &Live) -> Result<(), CallError> {
        live.spend();
        self.all_arrived(live).await;
        if live.closing.lock().is_none() {
            let Ok((message, call)) = live.session.close(clock::now()) else { return Ok(()) };
            let left = self.last_deadline().saturating_duration_since(Instant::now());
            let raw = self.endpoint.call_raw(handshake::rpc(), &message).timeout(left.max(self.default_timeout));
            *live.closing.lock() = Some(Closing { raw, call });
        }
        let closed = poll_fn(|cx| {
            let mut closing = live.closing.lock();
            let answered = ready!(Pin::new(&mut closing.as_mut().expect("only taken here").raw).poll(cx));
            Poll::Ready((answered, closing.take().expect("it is here").call))
        });
        // Nobody else is here: whoever closes holds `closer`.
        let (answered, call) = closed.await;
        let mut reply = answered?;
        if BareError::is_one(&reply) {
            return Ok(()); // the server has forgotten it already, or somebody says so, who could also have dropped this
        }
        match live.session.open(call, &mut reply, clock::now()) {
            Ok(Reply::Result { .. }) => Ok(()),
            Ok(Reply::Error(_)) | Err(_) => Err(CallError::SessionLost(self.endpoint.address().clone())),
        }
    }

    /// Tells the server that a session is over, as far as that goes without waiting.
    fn send_close(&self, live: &Live) {
        let now = clock::now();
        if live.is_closing() || live.has_ended(now) {
            return; // the server has forgotten it
        }
        if let Ok((message, _)) = live.session.close(now) {
            drop(self.endpoint.send_raw(handshake::rpc(), &message).start());
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        for lane in &self.lanes {
            lane.all().iter().for_each(|live| self.send_close(live));
        }
    }
}

/// `timeout` from now; any duration will do.
fn deadline_after(timeout: Duration) -> Instant {
    const FOREVER: Duration = Duration::from_secs(30 * 365 * 86_400);
    Instant::now() + timeout.min(FOREVER)
}

/// What `future` gives, if it does before the deadline.
async fn within<T>(timer: &Timer, deadline: Instant, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut sleep = pin!(timer.sleep_until(deadline));
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => sleep.as_mut().poll(cx).map(|()| None),
    })
    .await
}
