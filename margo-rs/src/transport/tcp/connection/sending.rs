//! The writing half of a connection.

use super::Connection;
use crate::transport::restraint::Restrained;
use crate::transport::{Flush, Link};
use crate::wire::{DataPart, WriteJob};
use rustix::io::Errno;
use std::io::IoSlice;
use std::sync::atomic::Ordering;

/// Bulk data that is written before others get their turn, in bytes. With whole messages the socket is full before.
const WRITE_QUANTUM: usize = 1024 * 1024;
/// What goes out in place of data whose region was taken back.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

impl Connection {
    /// Writes what is queued until the socket is full.
    pub(super) fn write_out(&self) -> Result<(), Errno> {
        let mut outbox = self.outbox.lock();
        if outbox.writing || !self.lifecycle.is_up() || self.unwritable.get().is_some() {
            return Ok(());
        }
        outbox.writing = true;
        outbox.blocked = false;
        outbox.unsent_responses = 0;
        let mut job = std::mem::take(&mut outbox.job);
        let mut bulk = 0;
        let result = loop {
            if job.is_done() {
                outbox.outgoing.queue.written(&mut job);
                if !outbox.outgoing.queue.next_write(&mut job) {
                    break Ok(());
                }
            }
            if bulk >= WRITE_QUANTUM {
                self.go_on_later();
                break Ok(());
            }
            outbox.unblocked = false;
            drop(outbox);
            let is_bulk = job.data().is_some();
            let written = self.write_job(&mut job);
            outbox = self.outbox.lock();
            match written {
                Ok(count) => {
                    job.advance(count);
                    self.restraint.written.add(count);
                    bulk += if is_bulk { count } else { 0 };
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if outbox.unblocked => {}
                Err(Errno::AGAIN) => {
                    outbox.blocked = true;
                    break Ok(());
                }
                Err(error) => break Err(error),
            }
        };
        // What the end of the connection has cleared meanwhile stays so.
        outbox.job = if self.lifecycle.is_closed() { WriteJob::default() } else { job };
        outbox.writing = false;
        let resumes = self.restraint.note_written(&mut outbox.outgoing);
        // The polling thread tells who waits for what was withdrawn.
        let to_tell = outbox.outgoing.queue.has_withdrawn();
        drop(outbox);
        if (resumes || to_tell)
            && let Some(shared) = self.shared.upgrade()
        {
            shared.mark_ready(self.token);
        }
        result
    }

    /// Makes one write call.
    fn write_job(&self, job: &mut WriteJob) -> Result<usize, Errno> {
        let [head, rest] = job.slices();
        let written = match job.data() {
            None => return self.socket.send(head, rest),
            Some(DataPart::Zeros(count)) => {
                let count = count.min(ZEROS.len() as u64) as usize;
                return self.socket.send(head, &ZEROS[..count]);
            }
            Some(DataPart::Region(window, start, end)) if window.is_shared() => {
                let mut copy = vec![0; (end - start) as usize];
                window.copy_out(start, &mut copy).map(|()| self.socket.send_all(head, &[IoSlice::new(&copy)], rest))
            }
            Some(DataPart::Region(window, start, end)) => window.read(start..end, |slices| {
                let here: usize = slices.iter().map(|slice| slice.len()).sum();
                let whole = here as u64 == end - start;
                self.socket.send_all(head, slices, if whole { rest } else { &[] })
            }),
        };
        written.unwrap_or_else(|_| {
            job.data_withdrawn();
            self.write_job(job)
        })
    }

    /// Has the next poll write on.
    fn go_on_later(&self) {
        self.schedule(Flush::Later);
        if let Some(shared) = self.shared.upgrade() {
            shared.poller.wake();
        }
    }

    /// Writes out as a member of the list that [`Flush::Later`] fills.
    pub(in super::super) fn flush_listed(&self) {
        self.listed.store(false, Ordering::Release);
        self.flush();
    }

    /// Tells the peer to send no further requests.
    pub(in super::super) fn go_away(&self) {
        self.outgoing().queue.go_away();
        self.flush();
    }
}
