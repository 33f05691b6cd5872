//! Taking in the links that peers open.

use super::core::Core;
use super::link::LinkState;
use crate::buffer::Payload;
use crate::bulk::{self, Direction, RegionKey, TransferError, Window};
use crate::transport::{Acceptor, CallId, Link, LinkError, LinkEvents, PeerLimits};
use crate::wire::{Refusal, RequestHead};
use std::sync::{Arc, Weak};

/// Takes in the links that peers open.
pub(super) struct Accepting {
    pub(super) core: Weak<Core>,
}

impl Acceptor for Accepting {
    fn accept(&self, link: Arc<dyn Link>) -> Arc<dyn LinkEvents> {
        match self.core.upgrade() {
            Some(core) => {
                let state = LinkState::new(&core, link.peer().clone(), false);
                state.attach(link);
                state
            }
            None => Arc::new(Nobody),
        }
    }
}

/// Takes the events of a link that came up while its engine ended.
struct Nobody;

impl LinkEvents for Nobody {
    fn on_up(&self, link: &Arc<dyn Link>, _: PeerLimits) {
        link.close("the engine was shut down");
    }

    fn on_request(&self, _: CallId, _: RequestHead, _: Payload<'_>) {}
    fn on_request_refused(&self, _: CallId, _: RequestHead, _: Refusal) {}

    fn expects(&self, _: CallId) -> bool {
        false
    }

    fn on_response(&self, _: CallId, _: Payload<'_>) {}
    fn on_refused(&self, _: CallId, _: Refusal) {}
    fn on_cancel(&self, _: CallId) {}
    fn on_transferred(&self, _: CallId, _: Result<(), TransferError>) {}

    fn grant(&self, _: &RegionKey, _: Direction, _: u64, _: u64) -> Result<Window, bulk::Refusal> {
        Err(bulk::Refusal::ShuttingDown)
    }

    fn on_go_away(&self) {}
    fn on_lost(&self, _: &LinkError) {}
}
