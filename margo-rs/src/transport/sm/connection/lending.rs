//! Bulk data that goes past the ring: what this connection lends and borrows, and the copying.

use super::super::loan::LENT_MIN;
use super::super::loan::borrower::{Mapping, Taken};
use super::super::loan::copy::STREAMED_MIN;
use super::super::loan::lendable::{Lendable, Lending};
use super::super::socket::Drained;
use super::Connection;
use crate::bulk::{Direction, Transfer, Window, Withdrawn};
use crate::transport::outgoing::{Outgoing, WrongTransfer};
use crate::transport::restraint::Restrained;
use crate::transport::{CallId, Flush, LinkEvents};
use crate::wire::{Loan, TransferHead};
use rustix::fd::OwnedFd;
use std::io::IoSliceMut;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What is copied before others get their turn, in bytes. The region is locked for as long.
const PIECE: u64 = 1024 * 1024;
/// So often the socket is asked for a loan that must be there.
const SEARCHES_MAX: usize = 16;

/// How the data of a transfer of ours goes.
pub(super) enum DataWay {
    Ring,
    /// The owner may lend it.
    Borrow,
    /// It is lent.
    Lend(Loan),
}

/// A transfer whose data we copy, from a pull of ours or for a push of the peer's.
#[derive(Debug)]
pub(super) struct Copying {
    direction: Direction,
    call: u64,
    from: Arc<Mapping>,
    /// Where the data starts there: any number.
    offset: u64,
}

impl Copying {
    /// Copies what comes next to where it goes in the window.
    ///
    /// # Errors
    /// The window's memory was taken back, or (`Ok(None)`) the data is not in what was lent.
    fn copy(&self, window: &Window, at: u64) -> Result<Option<u64>, Withdrawn> {
        let Some(mut offset) = self.offset.checked_add(at) else { return Ok(None) };
        let count = (window.len() - at).min(PIECE);
        let streamed = window.len() >= STREAMED_MIN;
        window.write(at..at + count, |slices: &mut [IoSliceMut<'_>]| {
            let before = offset;
            for slice in slices {
                self.from.copy(offset, slice, streamed)?;
                offset += slice.len() as u64;
            }
            Some(offset - before)
        })
    }
}

impl Connection {
    /// How the data of a transfer of ours should go.
    pub(super) fn way_of(&self, transfer: &Transfer) -> DataWay {
        let local = &transfer.local;
        match transfer.direction {
            Direction::Pull if local.len() >= LENT_MIN && !local.is_shared() => DataWay::Borrow,
            Direction::Push if transfer.lent => self.lend(local, true).map_or(DataWay::Ring, DataWay::Lend),
            _ => DataWay::Ring,
        }
    }

    /// Lends the data of a transfer from a region of ours, if that may be and is worth it. `whole`: only if it is all of
    /// the region.
    fn lend(&self, window: &Window, whole: bool) -> Option<Loan> {
        let this = self.this.upgrade().filter(|_| window.len() >= LENT_MIN && self.lifecycle.is_up())?;
        // Under the region's lock: it is not taken back meanwhile.
        let lent = window.with_registration(|registration, offset| {
            let lendable = registration?.as_any().downcast_ref::<Lending>()?.lendable();
            if whole && (offset != 0 || window.len() != lendable.length() as u64) {
                return None;
            }
            Some(Loan { id: lendable.lend(&this, window.len())?, offset })
        });
        lent.ok().flatten()
    }

    /// Gives the peer a file, and the number under which it has it.
    pub(in super::super) fn hand_over(&self, file: &OwnedFd, lendable: &Arc<Lendable>) -> Option<u64> {
        let mut lender = self.lender.lock();
        let loan = lender.next()?;
        self.socket.send_loan(loan, file).ok()?;
        lender.note(loan, lendable);
        Some(loan)
    }

    /// Takes back what the peer has under this number.
    pub(in super::super) fn end_loan(&self, loan: u64) {
        self.lender.lock().end(loan);
        if self.lifecycle.is_closed() {
            return;
        }
        self.outgoing().queue.loan_end(loan);
        self.schedule(Flush::Now);
    }

    /// Everything lent and borrowed is over, with the connection.
    pub(super) fn end_loans(&self) {
        let lent = self.lender.lock().end_all();
        for (loan, lendable) in lent {
            lendable.forget(loan, self);
        }
        self.borrowed.lock().clear();
        self.copying.lock().clear();
    }

    /// The peer has let go of what it had under this number.
    pub(super) fn handle_loan_return(&self, loan: u64) {
        let lent = self.lender.lock().end(loan);
        if let Some(lendable) = lent {
            lendable.forget(loan, self);
        }
        if let Some(shared) = self.shared.upgrade() {
            shared.loans.sweep();
        }
    }

    /// The peer has taken back what we have under this number.
    pub(super) fn handle_loan_end(&self, loan: u64) -> Result<(), WrongTransfer> {
        let mut known = self.borrowed.lock().end(loan);
        if !known {
            // It may be in the socket still, to be found there later.
            self.search_socket(loan, || {
                known = self.borrowed.lock().end(loan);
                known
            })?;
        }
        if known {
            self.return_loan(loan);
        }
        Ok(())
    }

    fn return_loan(&self, loan: u64) {
        let mut outgoing = self.outgoing();
        outgoing.queue.loan_return(loan);
        self.send_what_that_took(outgoing);
    }

    /// Takes in what is in the socket: bells, and what the peer lends.
    ///
    /// # Errors
    /// The peer breaks the rules: what is wrong.
    pub(super) fn drain_socket(&self) -> Result<Drained, &'static str> {
        let Some(shared) = self.shared.upgrade() else { return Ok(Drained::Closed) };
        let mut twice = false;
        let drained = self.socket.drain(|loan, file| {
            let taken = self.borrowed.lock().take_in(loan, &file, shared.loans.mapped());
            match taken {
                Taken::Kept => {}
                Taken::InPlaceOf(other) => self.return_loan(other),
                Taken::Refused => self.return_loan(loan),
                Taken::Twice => twice = true,
            }
        });
        if self.lifecycle.is_closed() {
            // Closed meanwhile, perhaps after everything was given back.
            self.borrowed.lock().clear();
        }
        if twice {
            return Err("two loans have the same number");
        }
        // An honest peer reads our answers to its loans before it hands over more.
        if self.restraint().is_overstrained(&self.outgoing()) {
            return Err("more loans than may be, and it reads no answers");
        }
        Ok(drained)
    }

    /// Looks through the socket for a loan until `found`, or until nothing more is there.
    fn search_socket(&self, loan: u64, mut found: impl FnMut() -> bool) -> Result<(), WrongTransfer> {
        for _ in 0..SEARCHES_MAX {
            let drained = self.drain_socket().map_err(|what| (loan, what))?;
            if drained == Drained::Closed {
                self.hangup.store(true, Ordering::Release);
            }
            if found() || drained != Drained::More {
                break;
            }
        }
        Ok(())
    }

    /// What the peer lends, to copy from, if it is there and has the data.
    fn borrow(&self, loan: Loan, length: u64) -> Result<Option<Arc<Mapping>>, WrongTransfer> {
        let mut mapping = self.borrowed.lock().find(loan.id);
        if mapping.is_none() {
            // Its packet was sent before the frame that names it, and may not have been looked at yet.
            self.search_socket(loan.id, || {
                mapping = self.borrowed.lock().find(loan.id);
                mapping.is_some()
            })?;
        }
        Ok(mapping.filter(|mapping| mapping.has(loan.offset, length)))
    }

    /// The peer wants a transfer. `false` if it was refused here.
    fn take_wish(&self, call: u64) -> Result<bool, WrongTransfer> {
        let mut outgoing = self.outgoing();
        let Outgoing { queue, transfers, .. } = &mut *outgoing;
        let taken = transfers.handle_wish(call, queue).map_err(|what| (call, what))?;
        self.send_what_that_took(outgoing);
        Ok(taken)
    }

    /// The peer wants to pull from a region of ours, and would borrow the data.
    pub(super) fn handle_borrow(
        &self,
        call: u64,
        head: &TransferHead,
        events: &dyn LinkEvents,
    ) -> Result<(), WrongTransfer> {
        if !self.take_wish(call)? {
            return Ok(());
        }
        let granted = events.grant(&head.key, Direction::Pull, head.offset, head.length);
        let loan = granted.as_ref().ok().and_then(|window| self.lend(window, false));
        let mut outgoing = self.outgoing();
        let Outgoing { queue, transfers, .. } = &mut *outgoing;
        match loan {
            Some(loan) => transfers.serve_lent(call, loan, queue),
            None => transfers.serve(call, Direction::Pull, granted, queue),
        }
        self.send_what_that_took(outgoing);
        Ok(())
    }

    /// The peer wants to push into a region of ours, and lends the data.
    pub(super) fn handle_lend(
        &self,
        call: u64,
        head: &TransferHead,
        loan: Loan,
        events: &dyn LinkEvents,
    ) -> Result<(), WrongTransfer> {
        if !self.take_wish(call)? {
            return Ok(());
        }
        let granted = events.grant(&head.key, Direction::Push, head.offset, head.length);
        let from = match &granted {
            Ok(window) if !window.is_shared() => self.borrow(loan, head.length)?,
            _ => None,
        };
        let mut outgoing = self.outgoing();
        let Outgoing { queue, transfers, .. } = &mut *outgoing;
        match granted {
            Ok(window) if !window.is_empty() => {
                transfers.serve_borrowing(call, window, from.is_some(), queue);
                self.copy_from(Direction::Push, call, from, loan);
            }
            other => transfers.serve(call, Direction::Push, other, queue),
        }
        self.send_what_that_took(outgoing);
        Ok(())
    }

    /// The owner lends the data of a pull of ours.
    pub(super) fn handle_lent(&self, call: u64, loan: Loan) -> Result<(), WrongTransfer> {
        let target = {
            let mut outgoing = self.outgoing();
            if !outgoing.transfers.handle_lent(call).map_err(|what| (call, what))? {
                return Ok(());
            }
            outgoing.transfers.target(Direction::Pull, call, 0).map_err(|what| (call, what))?
        };
        let Some((window, _)) = target else { return Ok(()) };
        let from = self.borrow(loan, window.len())?;
        let mut outgoing = self.outgoing();
        if from.is_none() {
            let Outgoing { queue, transfers, .. } = &mut *outgoing;
            transfers.ask_for_data(call, queue);
        }
        self.copy_from(Direction::Pull, call, from, loan);
        self.send_what_that_took(outgoing);
        Ok(())
    }

    fn copy_from(&self, direction: Direction, call: u64, from: Option<Arc<Mapping>>, loan: Loan) {
        if let Some(from) = from {
            self.copying.lock().push_back(Copying { direction, call, from, offset: loan.offset });
            self.copies.store(true, Ordering::Relaxed);
        }
    }

    /// Copies what comes next of one of the transfers that are copied. `true` if there was anything. Called by the polling
    /// thread only.
    pub(super) fn copy_on(&self) -> Result<bool, WrongTransfer> {
        if !self.copies.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let Some(copying) = self.copying.lock().pop_front() else {
            self.copies.store(false, Ordering::Relaxed);
            return Ok(false);
        };
        let Copying { direction, call, .. } = copying;
        let wrong = |what| (call, what);
        let target = self.outgoing().transfers.target(direction, call, 0).map_err(wrong)?;
        // Gone if it was cancelled, or its owner has ended it.
        let Some((window, at)) = target else { return Ok(true) };
        let copied = copying.copy(&window, at);
        let mut outgoing = self.outgoing();
        let Outgoing { queue, transfers, .. } = &mut *outgoing;
        let mut goes_on = false;
        let ended = match copied {
            Ok(Some(count)) => {
                let ended = transfers.handle_data(direction, call, count, true, queue);
                goes_on = at + count < window.len();
                match direction {
                    Direction::Pull if !goes_on => transfers.handle_end(call, 0, queue).map_err(wrong)?,
                    _ => ended,
                }
            }
            Ok(None) => return Err((call, "its data is not in what was lent")),
            Err(Withdrawn) => transfers.handle_data(direction, call, 0, false, queue),
        };
        if goes_on {
            self.copying.lock().push_back(copying);
        }
        self.send_what_that_took(outgoing);
        if let Some(outcome) = ended {
            let events = self.lifecycle.events();
            if let Some(events) = events {
                events.on_transferred(CallId(call), outcome);
            }
        }
        Ok(true)
    }
}
