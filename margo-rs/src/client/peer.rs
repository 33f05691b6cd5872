//! A process that calls go to, over whatever link reaches it at the moment.

use crate::address::Address;
use crate::engine::{Core, LinkState};
use crate::error::CallError;
use parking_lot::Mutex;
use std::sync::Arc;

/// A peer, shared by all endpoints that name it.
pub(crate) struct Peer {
    core: Arc<Core>,
    address: Address,
    route: Route,
}

enum Route {
    /// We open links as needed: a lost one is replaced at the next call.
    Dialed(Mutex<Option<Arc<LinkState>>>),
    /// The peer opened the link; when it is gone, so is the way back.
    Given(Arc<LinkState>),
}

impl Peer {
    /// A peer that is connected to when it is first used.
    pub(crate) fn dialed(core: Arc<Core>, address: Address) -> Self {
        Self { core, address, route: Route::Dialed(Mutex::new(None)) }
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
        let link = match &self.route {
            Route::Given(link) => Some(link.clone()),
            Route::Dialed(current) => current.lock().clone(),
        };
        if let Some(link) = link {
            link.calls.wake_waiting();
        }
    }

    /// The link for the next call; a new one is begun if there is none or it ends.
    pub(crate) fn link(&self) -> Result<Arc<LinkState>, Box<CallError>> {
        let current = match &self.route {
            Route::Given(link) => return Ok(link.clone()),
            Route::Dialed(current) => current,
        };
        let mut current = current.lock();
        if let Some(link) = current.as_ref().filter(|link| !link.is_ending()) {
            return Ok(link.clone());
        }
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
        *current = Some(state.clone());
        Ok(state)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Nobody can make calls over it any more, and none are in flight: they hold the peer.
        if let Route::Dialed(current) = &mut self.route
            && let Some(link) = current.get_mut().take()
        {
            link.close("no longer used");
        }
    }
}
