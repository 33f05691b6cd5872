//! The writing half of a connection.

use super::super::ring::{Broken, Producer, RECORD_MAX};
use super::super::segment::Segment;
use super::{Connection, Outbox};
use crate::bulk::Withdrawn;
use crate::transport::Flush;
use crate::transport::lifecycle::{Ending, PROTOCOL_ERROR};
use crate::transport::outgoing::Outgoing;
use crate::transport::restraint::Restrained;
use crate::transport::restraint::UNREAD;
use crate::wire::{DataPart, Header, Kind, RequestHead, WriteJob};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A message up to this size goes straight into the ring if there is room and nothing waits, in bytes: as one record.
/// Longer ones take turns with others.
const DIRECT_MAX: usize = RECORD_MAX - 64;

/// Bulk data that is written before others get their turn, in bytes.
const WRITE_QUANTUM: usize = 1024 * 1024;
/// What goes out in place of data whose region was taken back.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// What is left to do after a message was put into the ring: the peer is to be woken, or it broke the rules.
pub(super) type Ringing = Result<bool, Broken>;

impl Outbox {
    /// Puts a small request straight into the ring. `None` if it must queue.
    pub(super) fn send_request(&mut self, call: u64, head: RequestHead, payload: &[u8]) -> Option<Ringing> {
        let flags = if head.one_way { Header::ONE_WAY } else { 0 };
        let length = (RequestHead::LEN + payload.len()) as u32;
        let mut bytes = [0; Header::LEN + RequestHead::LEN];
        bytes[..Header::LEN].copy_from_slice(&Header { length, kind: Kind::Request, flags, call }.to_bytes());
        bytes[Header::LEN..].copy_from_slice(&head.to_bytes());
        self.send(&bytes, payload)
    }

    /// Puts a small response straight into the ring. `None` if it must queue.
    pub(super) fn send_response(&mut self, call: u64, payload: &[u8]) -> Option<Ringing> {
        let length = payload.len() as u32;
        self.send(&Header { length, kind: Kind::Response, flags: 0, call }.to_bytes(), payload)
    }

    fn send(&mut self, head: &[u8], payload: &[u8]) -> Option<Ringing> {
        let wanted = head.len() + payload.len();
        if wanted > DIRECT_MAX || !self.outgoing.queue.is_empty() || !self.job.is_done() {
            return None;
        }
        let writer = self.writer.as_mut()?;
        match writer.producer.room(wanted) {
            Ok(room) if room < wanted => return None,
            Ok(_) => {}
            Err(broken) => return Some(Err(broken)),
        }
        writer.producer.put([head, payload]);
        Some(Ok(writer.lane.bell.must_ring()))
    }
}

/// Writes as much of the next part of a job as there is room for. Bulk data goes from its region straight into the ring.
fn write_part(producer: &mut Producer<Arc<Segment>>, job: &mut WriteJob) -> Result<usize, Broken> {
    let [head, rest] = job.slices();
    if !head.is_empty() {
        return producer.write(head);
    }
    let written = match job.data() {
        None => return producer.write(rest),
        Some(DataPart::Zeros(count)) => {
            let count = count.min(ZEROS.len() as u64) as usize;
            return producer.write(&ZEROS[..count]);
        }
        Some(DataPart::Region(window, start, end)) if window.is_shared() => {
            let room = producer.room((end - start).min(RECORD_MAX as u64) as usize)?;
            let mut copy = [0; RECORD_MAX];
            let copy = &mut copy[..room];
            window.copy_out(start, copy).map(|()| producer.write(copy))
        }
        Some(DataPart::Region(window, start, end)) => window.read(start..end, |slices| {
            let mut sum = 0;
            for slice in slices {
                let written = producer.write(slice)?;
                sum += written;
                if written < slice.len() {
                    break;
                }
            }
            Ok(sum)
        }),
    };
    match written {
        Ok(written) => written,
        Err(Withdrawn) => {
            job.data_withdrawn();
            write_part(producer, job)
        }
    }
}

impl Connection {
    pub(super) fn after_direct(&self, ringing: Ringing) {
        match ringing {
            Ok(false) => {}
            Ok(true) => self.socket.ring(),
            Err(broken) => self.fail_broken(broken),
        }
    }

    /// The peer broke the rules of the ring.
    pub(super) fn fail_broken(&self, Broken(what): Broken) {
        self.fail(&format!("{PROTOCOL_ERROR}: {what}"));
    }

    /// Writes what is queued until the ring is full.
    pub(super) fn write_out(&self) {
        let mut outbox = self.outbox.lock();
        match self.write_queued(&mut outbox) {
            Ok(ringing) => {
                let resumes = self.restraint.note_written(&mut outbox.outgoing);
                drop(outbox);
                if ringing {
                    self.socket.ring();
                }
                if resumes && let Some(shared) = self.shared.upgrade() {
                    shared.mark_ready(self.token);
                }
            }
            Err(broken) => {
                drop(outbox);
                self.fail_broken(broken);
            }
        }
    }

    /// Says whether the peer is to be woken for what was written.
    fn write_queued(&self, outbox: &mut Outbox) -> Result<bool, Broken> {
        let Outbox { outgoing: Outgoing { queue, .. }, job, writer, .. } = outbox;
        let Some(writer) = writer.as_mut() else { return Ok(false) };
        let mut wrote = false;
        let mut bulk = 0;
        let blocked = loop {
            if job.is_done() {
                queue.written(job);
                if !queue.next_write(job) {
                    break false;
                }
            }
            if bulk >= WRITE_QUANTUM {
                // The peer keeps up with us; others of ours must get their turn.
                self.go_on_later();
                break false;
            }
            let is_bulk = job.data().is_some();
            let count = write_part(&mut writer.producer, job)?;
            if count == 0 {
                break true;
            }
            job.advance(count);
            self.restraint.written.add(count);
            bulk += if is_bulk { count } else { 0 };
            wrote = true;
        };
        self.queues.store(!queue.is_empty() || !job.is_done(), Ordering::Release);
        if blocked && !self.blocked.swap(true, Ordering::SeqCst) {
            self.note_blocked(&writer.lane);
        } else if !blocked {
            self.blocked.store(false, Ordering::SeqCst);
        }
        if queue.has_withdrawn()
            && let Some(shared) = self.shared.upgrade()
        {
            // The polling thread tells who waits for them.
            self.withdrawn.store(true, Ordering::Release);
            shared.mark_ready(self.token);
        }
        Ok(wrote && writer.lane.bell.must_ring())
    }

    /// Has the next poll write on.
    fn go_on_later(&self) {
        self.schedule(Flush::Later);
        if let Some(shared) = self.shared.upgrade() {
            shared.poller.wake();
        }
    }

    /// Whoever polls must look for room from now on, also if it sleeps right now; and for how long there is none.
    fn note_blocked(&self, lane: &super::Lane) {
        let Some(shared) = self.shared.upgrade() else { return };
        shared.attend(self.token);
        if !self.watched_blocked.swap(true, Ordering::AcqRel) {
            self.taken.store(lane.read_by_peer(), Ordering::Relaxed);
            shared.watch_unread(self.token);
        }
    }

    /// Whether something waits for room in the ring.
    pub(in super::super) fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::SeqCst)
    }

    /// Whether there is room for what waits; also if the peer breaks the rules, which the next write finds out.
    pub(in super::super) fn has_room(&self) -> bool {
        let mut outbox = self.outbox.lock();
        outbox.writer.as_mut().is_some_and(|writer| writer.producer.room(1) != Ok(0))
    }

    /// Whether somebody looks whether the peer reads.
    pub(in super::super) fn is_watched_for_reading(&self) -> bool {
        self.watched_blocked.load(Ordering::Acquire)
    }

    /// Looks, after the time that a peer may read nothing, whether it did. `true` to look again after the same time.
    pub(in super::super) fn check_reading(&self) -> bool {
        let lane = self.lane();
        let Some(lane) = lane.filter(|_| self.is_blocked()) else {
            self.watched_blocked.store(false, Ordering::Release);
            return false;
        };
        let taken = lane.read_by_peer();
        if self.taken.swap(taken, Ordering::Relaxed) == taken {
            self.fail(UNREAD);
            return false;
        }
        true
    }

    /// Writes out as a member of the list that [`Flush::Later`] fills.
    pub(in super::super) fn flush_listed(&self) {
        self.listed.store(false, Ordering::Release);
        self.write_out();
    }

    /// Tells the peer to send no further requests.
    pub(in super::super) fn go_away(&self) {
        self.outgoing().queue.go_away();
        self.write_out();
    }
}
