//! Taking in the connections that peers open.

use super::super::timers::Watch;
use super::connection::Connection;
use super::{LISTENER, Shared, location};
use rustix::io::Errno;
use std::io;
use std::net::{SocketAddr, TcpStream};
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
        let Some((listener, _)) = &self.listener else { return false };
        for _ in 0..ACCEPTED_MAX {
            if !self.accepting.load(Ordering::Acquire) {
                return true;
            }
            match listener.accept() {
                Ok((stream, peer)) => {
                    self.out_of_descriptors.store(false, Ordering::Release);
                    if let Err(error) = self.take_in(stream, peer)
                        && self.warnings.allow(Instant::now())
                    {
                        tracing::warn!(%peer, %error, "connection not accepted");
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::MFILE | Errno::NFILE)) => {
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
        self.ready.lock().push(LISTENER);
        true
    }

    fn take_in(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
        let elsewhere = self.offers.get().map_or(0, |offers| offers.taken());
        if self.accepted.load(Ordering::Relaxed) + elsewhere >= self.allowances.limits.max_connections {
            return Err(io::Error::other("too many connections"));
        }
        stream.set_nonblocking(true)?;
        self.tune(&stream)?;
        Self::tune_distance(&stream, &peer);
        let connection = Connection::new(self, self.new_token(), stream, location::printed(peer), None);
        self.add(&connection, self.allowances.limits.handshake_timeout)?;
        self.accepted.fetch_add(1, Ordering::Relaxed);
        connection.greet();
        // Its hello may be here already, noticed by epoll or not.
        self.ready.lock().push(connection.token);
        Ok(())
    }
}
