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
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use margo_rs::{Address, Endpoint, ProviderId, Rpc, Timer};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use builder::ConnectionBuilder;
pub use call::Call;
pub use error::{CallError, OpenError, RpcName};

use lane::{Fitness, Lane, Live, Ticket};

use crate::bulk::{Level, Offer, ProtectedBulkError, Sink};
use crate::clock;
use crate::mechanism::{Initiator, ServerIdentity};
use crate::protocol::message::{Draft, OVERHEAD};
use crate::protocol::{BareError, Protection, ServerId, Suite, Terms};
use crate::session::Reply;

/// Requests longer than this may be overtaken by shorter ones on their way, in bytes.
const OVERTAKEN: usize = 16 << 10;
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
/// Calls with more than 16 KiB of arguments go into a session of their own, made when it is first needed.
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
    timer: Timer,
    default_timeout: Duration,
    handshake_timeout: Duration,
    initiator: Box<dyn Initiator>,
    server: ServerId,
    suites: Vec<Suite>,
    protection: Protection,
    lanes: [Lane; LANES],
    closed: AtomicBool,
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

    /// Ends the session, for all clones: the server forgets it once the calls that run have ended. Calls that are made from
    /// now on fail with [`CallError::Closed`].
    ///
    /// Dropping the last clone does the same without waiting for the server's answer.
    ///
    /// # Errors
    /// The server could not be told; it will end the session when its time has come.
    pub async fn close(&self) -> Result<(), CallError> {
        if self.inner.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let mut closed = Ok(());
        for lane in &self.inner.lanes {
            if let Some(live) = lane.take() {
                // Both are tried, whatever becomes of the one.
                closed = closed.and(self.close_session(&live).await);
            }
        }
        closed
    }

    async fn close_session(&self, live: &Live) -> Result<(), CallError> {
        let Ok((message, call)) = live.session.close(clock::now()) else { return Ok(()) };
        let mut reply = self.inner.endpoint.call_raw(handshake::rpc(), &message).await?;
        if BareError::parse(&reply).is_ok() {
            return Ok(()); // the server has forgotten it already, or somebody says so, who could also have dropped this
        }
        match live.session.open(call, &mut reply, clock::now()) {
            Ok(Reply::Result { .. }) => Ok(()),
            Ok(Reply::Error(_)) | Err(_) => Err(CallError::SessionLost(self.address().clone())),
        }
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
    fn lane_of(&self, body: &Draft) -> usize {
        usize::from(body.body_len() + OVERHEAD + size_of::<u64>() > OVERTAKEN)
    }

    /// A place in the lane's session, if there is one at once.
    fn try_ticket(&self, lane: usize) -> Option<Ticket> {
        let live = self.lanes[lane].current()?;
        let now = clock::now();
        match live.fitness(self.endpoint.connection(), now) {
            Fitness::Good if !self.closed.load(Ordering::Acquire) => live.try_enter(now),
            _ => None,
        }
    }

    /// A place in a session of the lane, which is made if need be.
    async fn ticket(self: &Arc<Self>, lane: usize) -> Result<Ticket, CallError> {
        loop {
            if self.closed.load(Ordering::Acquire) {
                return Err(CallError::Closed);
            }
            let live = self.lanes[lane].current();
            let fitness = |live: &Arc<Live>| live.fitness(self.endpoint.connection(), clock::now());
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
        if self.closed.load(Ordering::Acquire) {
            return Err(OpenError::Closed);
        }
        let session = handshake::open(self).await?;
        let before = self.lanes[lane].replace(Arc::new(Live::new(session, self.endpoint.connection())));
        if let Some(before) = before.filter(|before| before.is_unused()) {
            self.send_close(&before);
        }
        if self.closed.load(Ordering::Acquire) {
            // Closed meanwhile, by somebody who did not see this one.
            if let Some(live) = self.lanes[lane].take() {
                self.send_close(&live);
            }
            return Err(OpenError::Closed);
        }
        Ok(())
    }

    /// Tells the server that a session is over, as far as that goes without waiting.
    fn send_close(&self, live: &Live) {
        let now = clock::now();
        if live.fitness(self.endpoint.connection(), now) == Fitness::Unfit {
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
            if let Some(live) = lane.take() {
                self.send_close(&live);
            }
        }
    }
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
