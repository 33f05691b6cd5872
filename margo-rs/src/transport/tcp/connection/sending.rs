//! The writing half of a connection.

use super::Connection;
use crate::transport::{Flush, Link};
use rustix::io::Errno;
use std::sync::atomic::Ordering;

impl Connection {
    /// Writes what is queued until the socket is full.
    pub(super) fn write_out(&self) -> Result<(), Errno> {
        let mut outbox = self.outbox.lock();
        if outbox.writing || !self.is_up() || self.unwritable.get().is_some() {
            return Ok(());
        }
        outbox.writing = true;
        outbox.blocked = false;
        let mut job = std::mem::take(&mut outbox.job);
        let result = loop {
            if job.is_done() {
                outbox.queue.written(&mut job);
                if !outbox.queue.next_write(&mut job) {
                    break Ok(());
                }
            }
            outbox.unblocked = false;
            drop(outbox);
            let [head, chunk] = job.slices();
            let written = self.socket.send(head, chunk);
            outbox = self.outbox.lock();
            match written {
                Ok(count) => job.advance(count),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if outbox.unblocked => {}
                Err(Errno::AGAIN) => {
                    outbox.blocked = true;
                    break Ok(());
                }
                Err(error) => break Err(error),
            }
        };
        outbox.job = job;
        outbox.writing = false;
        if outbox.reading_paused
            && let Some(shared) = self.shared.upgrade()
            && !outbox.queue.has_responses_beyond(self.max_queued / 2)
        {
            outbox.reading_paused = false;
            drop(outbox);
            shared.mark_ready(self.token);
        }
        result
    }

    /// Flushes now, or puts the connection on the list for the next poll.
    pub(super) fn schedule(&self, flush: Flush) {
        match flush {
            Flush::Now => self.flush(),
            Flush::Later => {
                if !self.listed.swap(true, Ordering::AcqRel)
                    && let (Some(shared), Some(this)) = (self.shared.upgrade(), self.this.upgrade())
                {
                    shared.list_dirty(this);
                }
            }
        }
    }

    /// Writes out as a member of the list that [`Flush::Later`] fills.
    pub(in super::super) fn flush_listed(&self) {
        self.listed.store(false, Ordering::Release);
        self.flush();
    }

    /// Tells the peer to send no further requests.
    pub(in super::super) fn go_away(&self) {
        self.outbox.lock().queue.go_away();
        self.flush();
    }
}
