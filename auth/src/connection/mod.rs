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
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use builder::ConnectionBuilder;
pub use call::Call;
pub use error::{CallError, OpenError, RpcName};

use lane::{Fitness, Lane, Live, Ticket};

use crate::bulk::{Level, Offer, ProtectedBulkError, Sink};
use crate::clock;
use crate::mechanism::Initiator;
use crate::protocol::message::{Draft, OVERHEAD};
use crate::protocol::{BareError, Protection, ServerId, Suite, Terms};
use crate::session::Reply;

/// Requests longer than this may be overtaken by shorter ones on their way, in bytes.
const OVERTAKEN: usize = 16 << 10;
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
    /// Which attempt to make a session failed last, and why; those who waited for it fail with it.
    failed: Mutex<Option<(Instant, Arc<OpenError>)>>,
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

    /// Makes a new session now, whatever the state of the old one; calls in flight end in that.
    ///
    /// # Errors
    /// See [`OpenError`]; the old session stays then.
    pub async fn reauthenticate(&self) -> Result<(), OpenError> {
        let lane = &self.inner.lanes[0];
        let _making = lane.making.lock().await;
        self.inner.make_session(lane).await
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
        for lane in &self.inner.lanes {
            let Some(live) = lane.take() else { continue };
            let Ok((message, call)) = live.session.close(clock::now()) else { continue };
            let mut reply = self.inner.endpoint.call_raw(handshake::rpc(), &message).await?;
            if BareError::parse(&reply).is_ok() {
                continue; // the server has forgotten it already, or somebody says so, who could also have dropped this
            }
            match live.session.open(call, &mut reply, clock::now()) {
                Ok(Reply::Result { .. }) => {}
                Ok(Reply::Error(_)) | Err(_) => return Err(CallError::SessionLost(self.address().clone())),
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("address", self.address())
            .field("mechanism", &self.inner.initiator.id())
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
    async fn ticket(&self, lane: usize) -> Result<Ticket, CallError> {
        let begun = Instant::now();
        let lane = &self.lanes[lane];
        loop {
            if self.closed.load(Ordering::Acquire) {
                return Err(CallError::Closed);
            }
            let live = lane.current();
            let fitness =
                live.as_ref().map_or(Fitness::Unfit, |live| live.fitness(self.endpoint.connection(), clock::now()));
            if let (Some(live), Fitness::Good | Fitness::Old) = (live, fitness) {
                if fitness == Fitness::Old
                    && let Ok(_making) = lane.making.try_lock()
                {
                    match self.make_session(lane).await {
                        Ok(()) => continue,
                        Err(error) => tracing::warn!(%error, "the session is not renewed yet; using the old one"),
                    }
                }
                let ticket = live.enter().await;
                // It may have been a long wait.
                if live.fitness(self.endpoint.connection(), clock::now()) == Fitness::Unfit {
                    continue;
                }
                return Ok(ticket);
            }
            let _making = lane.making.lock().await;
            if let Some((at, error)) = &*self.failed.lock()
                && *at > begun
            {
                return Err(CallError::NoSession(Arc::clone(error)));
            }
            let connection = self.endpoint.connection();
            if lane.current().is_some_and(|live| live.fitness(connection, clock::now()) != Fitness::Unfit) {
                continue; // somebody else made one meanwhile
            }
            self.make_session(lane).await.map_err(|error| {
                let error = Arc::new(error);
                *self.failed.lock() = Some((Instant::now(), Arc::clone(&error)));
                CallError::NoSession(error)
            })?;
        }
    }

    async fn make_session(&self, lane: &Lane) -> Result<(), OpenError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(OpenError::Closed);
        }
        let session = handshake::open(self).await?;
        lane.replace(Arc::new(Live::new(session, self.endpoint.connection())));
        Ok(())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        for lane in &self.lanes {
            let now = clock::now();
            let Some(live) = lane.take().filter(|live| live.fitness(self.endpoint.connection(), now) != Fitness::Unfit)
            else {
                continue; // the server has forgotten it
            };
            if let Ok((message, _)) = live.session.close(now) {
                // As far as it goes without waiting.
                drop(self.endpoint.send_raw(handshake::rpc(), &message).start());
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
