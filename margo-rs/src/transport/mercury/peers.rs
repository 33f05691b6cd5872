//! Who comes in: engines of this crate, which say hello, and all others, which just ask.

use super::envelope::{Answer, HELLO, Head, Hello, Kind, Purpose, TUNNEL, TUNNEL_ONE_WAY, Welcome};
use super::fabric::{Incoming, Receiver, explain};
use super::link::MercuryLink;
use super::progress::Inside;
use super::shared::Shared;
use super::wire_id;
use crate::address::Address;
use crate::error::Status;
use crate::rpc::RpcId;
use crate::transport::Link;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Shared {
    /// A peer of this crate opens a link, or wants to know whether it stands.
    fn on_hello(self: &Arc<Self>, request: &Arc<Incoming>, hello: Hello) {
        let known = self.links.lock().get(&hello.link).cloned();
        let welcome = match (hello.purpose, known) {
            (Purpose::Ping, Some(_)) => Welcome::Up(self.limits_stated()),
            (Purpose::Open, None) if self.is_accepting() && self.accept(request, hello) => {
                Welcome::Up(self.limits_stated())
            }
            _ => Welcome::Refused,
        };
        if let Err(code) = request.respond(&welcome.encode(), &[]) {
            tracing::debug!(reason = explain(code), "a hello cannot be answered");
        }
    }

    fn accept(self: &Arc<Self>, request: &Arc<Incoming>, hello: Hello) -> bool {
        let (Some(acceptor), Ok(addr), Some(peer)) = (self.acceptor.get(), request.origin(), origin_address(request))
        else {
            return false;
        };
        if !self.admit() {
            return false;
        }
        let link = MercuryLink::accepted(self, peer, addr, hello.link);
        self.add(&link);
        let events = acceptor.accept(link.clone());
        link.come_up(events, hello.limits);
        true
    }

    /// The link of a plain peer.
    fn guest(self: &Arc<Self>, request: &Arc<Incoming>) -> Option<Arc<MercuryLink>> {
        let peer = origin_address(request)?;
        if let Some(link) = self.guests.lock().get(peer.as_str()) {
            return Some(link.clone());
        }
        let acceptor = self.acceptor.get().filter(|_| self.listening && !self.closed.load(Ordering::Acquire))?;
        let (addr, id) = (request.origin().ok()?, getrandom::u64().ok()?);
        if !self.admit() {
            return None;
        }
        let link = MercuryLink::guest(self, peer, addr, id);
        self.guests.lock().insert(link.peer().as_str().to_owned(), link.clone());
        self.add(&link);
        let events = acceptor.accept(link.clone());
        link.come_up(events, self.limits_stated());
        Some(link)
    }
}

impl Receiver for Shared {
    fn enter(&self) -> Inside {
        Shared::enter(self)
    }

    fn wake(&self) {
        Shared::wake(self);
    }

    fn on_request(&self, request: &Arc<Incoming>) {
        let Some(this) = self.this.upgrade() else { return };
        let id = RpcId::from_raw(request.id());
        if id == TUNNEL || id == TUNNEL_ONE_WAY {
            let head = request.read(|payload| Head::decode(payload.bytes()));
            let link = match head {
                Ok(Some(Head { link, call, kind: Kind::Release })) => return this.grants.release(link, call),
                Ok(Some(head)) => this.links.lock().get(&head.link).cloned().map(|link| (link, head)),
                _ => None,
            };
            match link {
                Some((link, head)) => link.on_enveloped(request, head),
                None if id == TUNNEL => drop(request.respond(&Answer::Gone.encode(), &[])),
                None => {}
            }
            return;
        }
        if id == HELLO
            && let Ok(Some(hello)) = request.read(|payload| Hello::decode(payload.bytes()))
        {
            return this.on_hello(request, hello);
        }
        match this.guest(request) {
            Some(link) => link.on_plain_request(request, id),
            None if request.is_one_way() => {}
            None => drop(request.respond(&Status::PERMISSION.0.to_le_bytes(), &[])),
        }
    }
}

/// The answer to a request of that id on the wire that was not served to its end.
pub(super) fn unserved(id: u64) -> [u8; Answer::LEN] {
    if id == wire_id::on_wire(TUNNEL.as_u64()) { Answer::Gone.encode() } else { Status::PERMISSION.0.to_le_bytes() }
}

/// Where a request came from, if Mercury's words for it are an address.
fn origin_address(request: &Incoming) -> Option<Address> {
    request.peer().ok()?.parse().ok()
}
