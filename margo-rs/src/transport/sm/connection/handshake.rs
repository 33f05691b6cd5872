//! The beginning of a connection: from connecting to the peer's hello.

use super::super::Shared;
use super::super::credentials;
use super::super::ring::{Bell, Consumer, Producer};
use super::super::segment::Segment;
use super::super::socket::{self, Drained};
use super::receiving::Up;
use super::{Connection, Inbox, Lane, RING, Target, Writer};
use crate::error::ConnectError;
use crate::transport::Link;
use crate::transport::intake::Intake;
use crate::transport::lifecycle::{CLOSED_BY_PEER, Ending, PROTOCOL_ERROR};
use crate::transport::same_node::{Door, Offer};
use crate::wire::{EXTRA_LEN, Hello};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

impl Connection {
    /// Connects and says hello. `false` if the server's queue is full: try again a little later.
    ///
    /// # Errors
    /// Nobody listens there, or somebody else than the address says.
    pub(in super::super) fn try_connect(&self, shared: &Shared) -> Result<bool, ConnectError> {
        let unreachable = |error: io::Error| ConnectError::Unreachable {
            address: self.lifecycle.peer().clone(),
            source: Arc::new(error),
        };
        let Some(Target { at, uid, offer }) = &self.to else { return Ok(true) };
        let socket = match socket::connect(at) {
            Ok(socket) => socket,
            Err(Errno::AGAIN) => return Ok(false),
            Err(Errno::NOENT) => {
                let path = at.path_bytes().map(String::from_utf8_lossy).unwrap_or_default();
                let reason = format!("no server of this name on this node ({path} is not there)");
                return Err(unreachable(io::Error::new(io::ErrorKind::NotFound, reason)));
            }
            Err(error) => return Err(unreachable(error.into())),
        };
        let (credentials, _) = credentials::of(&socket).map_err(|error| unreachable(error.into()))?;
        if credentials.uid != *uid {
            let reason = format!("uid {} listens there, not uid {uid} as the address says", credentials.uid);
            return Err(ConnectError::Handshake { address: self.lifecycle.peer().clone(), reason });
        }
        let _ = self.credentials.set(credentials);
        self.socket.set(socket);
        if !self.lifecycle.begin_greeting() {
            self.socket.close();
            return Ok(true);
        }
        self.greet(shared, offer.as_ref().map_or([0; EXTRA_LEN], Offer::ask_bytes)).map_err(unreachable)?;
        Ok(true)
    }

    /// Sends our hello and our segment.
    fn greet(&self, shared: &Shared, extra: [u8; EXTRA_LEN]) -> io::Result<()> {
        let (segment, file) = Segment::create(RING)?;
        self.outbox.lock().own = Some(Arc::new(segment));
        Ok(self.socket.send_greeting(&shared.allowances.hello(extra).encode(), &file)?)
    }

    /// Takes notice of readiness of the socket. Called by the polling thread only. `true` if there may be more.
    pub(in super::super) fn handle_ready(&self, hangup: bool) -> bool {
        if self.lifecycle.is_greeting() {
            match self.socket.receive_greeting() {
                Ok(Some((hello, segment))) => {
                    let result = Hello::decode(&hello)
                        .map_err(|error| error.to_string())
                        .and_then(|hello| self.come_up(&hello, segment));
                    if let Err(reason) = result {
                        self.refuse(reason);
                    }
                }
                Ok(None) => self.refuse("it says something else than hello".to_owned()),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(Errno::CONNRESET) => self.refuse(CLOSED_BY_PEER.to_owned()),
                Err(error) => self.fail_connecting(error.into()),
            }
        }
        if !self.lifecycle.is_up() {
            return false;
        }
        let drained = match self.drain_socket() {
            Ok(drained) => drained,
            Err(what) => {
                self.fail(&format!("{PROTOCOL_ERROR}: {what}"));
                return false;
            }
        };
        if hangup || drained == Drained::Closed {
            self.hangup.store(true, Ordering::Release);
        }
        drained == Drained::More
    }

    /// The peer's hello and segment are here.
    fn come_up(&self, hello: &Hello, segment: OwnedFd) -> Result<(), String> {
        let shared = self.shared.upgrade().ok_or("the engine was shut down")?;
        let this = self.this.upgrade().ok_or("the connection was closed")?;
        let peer = Arc::new(Segment::open(segment).map_err(|error| error.to_string())?);
        if self.lifecycle.was_accepted() {
            let extra = match shared.door.get() {
                Some(door) => self.enter(&**door, hello, this.clone())?,
                None => [0; EXTRA_LEN],
            };
            self.greet(&shared, extra).map_err(|error| error.to_string())?;
        } else if let Some(Target { offer: Some(offer), .. }) = &self.to
            && !offer.is_answered_by(&hello.extra)
        {
            return Err("it is not the server that offered shared memory".to_owned());
        }
        let own = self.outbox.lock().own.take().ok_or("the connection was closed")?;
        let lane = Arc::new(Lane {
            bell: Bell::new(own.clone(), peer.clone()),
            peer: peer.clone(),
            position: AtomicU64::new(0),
        });
        let events = self.lifecycle.events_of(this.clone(), &shared.acceptor)?;
        let link: Arc<dyn Link> = this;
        let mut outbox = self.outbox.lock();
        outbox.outgoing.queue.limit_frame(hello.max_frame);
        outbox.writer = Some(Writer { producer: Producer::new(own.clone(), peer.clone()), lane: lane.clone() });
        drop(outbox);
        let inbound = shared.allowances.inbound();
        let intake = Intake::new(events.clone(), shared.allowances.held());
        *self.inbox.lock() = Inbox::Up(Up::new(Consumer::new(own, peer), lane, inbound, intake));
        if !self.lifecycle.come_up() {
            self.clear_inbox();
            self.outbox.lock().writer = None;
            return Ok(());
        }
        events.on_up(&link, hello.into());
        self.flush();
        Ok(())
    }

    /// Lets the peer in if it brings an offer that stands. Returns what to answer.
    fn enter(&self, door: &dyn Door, hello: &Hello, this: Arc<Self>) -> Result<[u8; EXTRA_LEN], String> {
        let (answer, events) = door.enter(&hello.extra, this).ok_or("it was not invited")?;
        self.lifecycle.tell(events);
        Ok(answer)
    }
}
