//! Taking in the links that peers open.

use super::super::timers::Watch;
use super::connection::Connection;
use super::{LISTENER, Shared, socket};
use rustix::io::Errno;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Connections accepted in one poll.
const ACCEPTED_MAX: usize = 64;
/// Pause after the process ran out of descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

impl Shared {
    /// Accepts what waits, a bounded number at a time.
    pub(super) fn accept(self: &Arc<Self>) -> bool {
        let Some(listener) = &self.listener else { return false };
        for _ in 0..ACCEPTED_MAX {
            if !self.accepting.load(Ordering::Acquire) {
                return true;
            }
            match socket::accept(&listener.socket) {
                Ok(socket) => {
                    self.out_of_descriptors.store(false, Ordering::Release);
                    if let Err(error) = self.take_in(socket)
                        && self.warnings.allow(Instant::now())
                    {
                        tracing::warn!(%error, "connection not accepted");
                    }
                }
                Err(Errno::AGAIN) => return true,
                Err(error @ (Errno::MFILE | Errno::NFILE)) => {
                    if !self.accept_waits.swap(true, Ordering::AcqRel) {
                        self.add_timer(ACCEPT_RETRY, LISTENER, Watch::Accepting);
                    }
                    if !self.out_of_descriptors.swap(true, Ordering::AcqRel) {
                        tracing::warn!(%error, "out of descriptors: connections wait until some are closed");
                    }
                    return true;
                }
                // The peer gave up, or a signal came: the next one may be fine.
                Err(_) => {}
            }
        }
        self.list_ready(LISTENER);
        true
    }

    fn take_in(self: &Arc<Self>, socket: rustix::fd::OwnedFd) -> io::Result<()> {
        let connection = Connection::accepted(self, self.new_token(), socket)?;
        let uid = connection.guest().expect("the kernel has said whose it is");
        self.places.take(uid, &self.allowances.limits).map_err(io::Error::other)?;
        self.connections.lock().insert(connection.token, connection.clone());
        if let Err(error) = self.watch(&connection) {
            self.connections.lock().remove(&connection.token);
            self.places.give_back(uid);
            return Err(error);
        }
        self.add_timer(self.allowances.limits.handshake_timeout, connection.token, Watch::Handshake);
        // Its hello may be here already, noticed by epoll or not.
        self.list_ready(connection.token);
        Ok(())
    }
}
