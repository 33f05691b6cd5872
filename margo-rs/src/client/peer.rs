//! A process that calls go to, over whatever link reaches it at the moment.

use crate::address::Address;
use crate::engine::{Core, LinkState};
use crate::error::CallError;
use crate::transport::PeerCredentials;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Names one connection of an engine, whoever opened it. A connection that is lost and made anew has another name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectionId(pub(crate) u64);

impl ConnectionId {
    /// The number, unique in this process.
    pub fn as_u64(self) -> u64 {
        self.0
    }
}

/// One connection, to be asked whether it still stands: a look costs one load.
#[derive(Debug, Clone)]
pub struct Standing {
    id: ConnectionId,
    ending: Arc<AtomicBool>,
}

impl Standing {
    /// The connection's name.
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// Whether the connection stands and takes calls. Once it does not, it never does again.
    pub fn holds(&self) -> bool {
        !self.ending.load(Ordering::Acquire)
    }
}

/// A peer, shared by all endpoints that name it.
pub(crate) struct Peer {
    core: Arc<Core>,
    address: Address,
    route: Route,
}

enum Route {
    /// We open links as needed: a lost one is replaced at the next call.
    Dialed(Mutex<Dialed>),
    /// The peer opened the link; when it is gone, so is the way back.
    Given(Arc<LinkState>),
}

#[derive(Default)]
struct Dialed {
    current: Option<Arc<LinkState>>,
    /// Links whose peer takes no new requests, while calls are still in flight on them.
    retired: Vec<Arc<LinkState>>,
}

impl Dialed {
    /// Puts a link aside that takes no new calls, and closes those that have none left.
    fn retire_current(&mut self) {
        self.retired.extend(self.current.take());
        self.retired.retain(|link| {
            let busy = link.calls.in_flight() > 0;
            if !busy {
                link.close("no longer used");
            }
            busy
        });
    }
}

impl Peer {
    /// A peer that is connected to when it is first used.
    pub(crate) fn dialed(core: Arc<Core>, address: Address) -> Self {
        Self { core, address, route: Route::Dialed(Mutex::default()) }
    }

    /// The other end of a link that exists.
    pub(crate) fn given(core: Arc<Core>, link: Arc<LinkState>) -> Self {
        Self { core, address: link.peer().clone(), route: Route::Given(link) }
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// Lets calls that wait for room ask again, because one of them has gone that may have been told to.
    pub(crate) fn wake_waiting(&self) {
        if let Some(link) = self.current() {
            link.calls.wake_waiting();
        }
    }

    /// Who is at the other end, where the transport knows.
    pub(crate) fn credentials(&self) -> Option<PeerCredentials> {
        self.current()?.link()?.peer_credentials()
    }

    /// Whether a connection stands whose bytes go through shared memory.
    pub(crate) fn is_through_memory(&self) -> bool {
        self.current().and_then(|link| Some(link.link()?.is_through_memory())).unwrap_or(false)
    }

    fn current(&self) -> Option<Arc<LinkState>> {
        match &self.route {
            Route::Given(link) => Some(link.clone()),
            Route::Dialed(dialed) => dialed.lock().current.clone(),
        }
    }

    /// The connection that stands, if one does.
    pub(crate) fn standing(&self) -> Option<Standing> {
        let link = self.current()?;
        let standing = Standing { id: link.id(), ending: link.ending().clone() };
        standing.holds().then_some(standing)
    }

    /// The link for the next call; a new one is begun if there is none or it ends.
    pub(crate) fn link(&self) -> Result<Arc<LinkState>, Box<CallError>> {
        let dialed = match &self.route {
            Route::Given(link) => return Ok(link.clone()),
            Route::Dialed(dialed) => dialed,
        };
        let mut dialed = dialed.lock();
        if let Some(link) = dialed.current.as_ref().filter(|link| !link.is_ending()) {
            return Ok(link.clone());
        }
        dialed.retire_current();
        if !self.core.is_running() {
            return Err(Box::new(CallError::ShutDown));
        }
        let state = LinkState::new(&self.core, self.address.clone(), false);
        let link = self
            .core
            .transport
            .connect(&self.address, state.clone())
            .map_err(|error| Box::new(CallError::Unreachable(error)))?;
        state.attach(link);
        if !self.core.is_running() {
            // The engine may have closed all links just before this one.
            state.close("the engine was shut down");
            return Err(Box::new(CallError::ShutDown));
        }
        dialed.current = Some(state.clone());
        Ok(state)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Nobody can make calls over it any more, and none are in flight: they hold the peer.
        if let Route::Dialed(dialed) = &mut self.route {
            let dialed = dialed.get_mut();
            for link in dialed.current.take().into_iter().chain(dialed.retired.drain(..)) {
                link.close("no longer used");
            }
        }
    }
}
