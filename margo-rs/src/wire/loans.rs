//! Transfers whose data is lent instead of sent: the receiver copies it by itself. How, it says with
//! [`Transfers::target`] and [`Transfers::handle_data`], as if the data had arrived.

use super::frame::{Kind, Loan, TransferHead};
use super::outbound::Outbound;
use super::transfers::{Ours, Outcome, Served, Transfers};
use crate::bulk::{Direction, Transfer, Window};

impl Transfers {
    /// Begins a pull of ours whose data may be lent.
    ///
    /// # Errors
    /// The descriptor is none of ours.
    pub fn begin_borrowing(&mut self, call: u64, transfer: Transfer, out: &mut Outbound) -> Outcome {
        debug_assert_eq!(transfer.direction, Direction::Pull);
        let ours = Ours { borrows: true, ..Ours::new(transfer)? };
        out.frame(Kind::Borrow, call, |body| ours.head.encode(body));
        self.ours.insert(call, ours);
        Ok(())
    }

    /// Begins a push of ours whose data is lent. It is sent only if the owner asks for it.
    ///
    /// # Errors
    /// The descriptor is none of ours.
    pub fn begin_lending(&mut self, call: u64, transfer: Transfer, loan: Loan, out: &mut Outbound) -> Outcome {
        debug_assert_eq!(transfer.direction, Direction::Push);
        let ours = Ours { lends: true, ..Ours::new(transfer)? };
        out.frame(Kind::Lend, call, |body| {
            ours.head.encode(body);
            loan.encode(body);
        });
        self.ours.insert(call, ours);
        Ok(())
    }

    /// Answers a pull of the peer's, which was granted, with a loan. It is the peer's matter from then on.
    pub fn serve_lent(&mut self, call: u64, loan: Loan, out: &mut Outbound) {
        out.frame(Kind::Lent, call, |body| loan.encode(body));
    }

    /// Begins to serve a push of the peer's, which was granted a window that is not empty. Its data is lent, and will be
    /// copied; or it cannot be, and is asked for.
    pub fn serve_borrowing(&mut self, call: u64, window: Window, copied: bool, out: &mut Outbound) {
        debug_assert!(!window.is_empty());
        if !copied {
            out.frame(Kind::PushReady, call, |_| ());
        }
        self.served.insert(call, Served { direction: Direction::Push, window, received: 0 });
    }

    /// The owner lends the data of a pull of ours. `false` if nobody wants it any more.
    ///
    /// # Errors
    /// It was not asked to, or has answered before.
    pub fn handle_lent(&mut self, call: u64) -> Result<bool, &'static str> {
        let Some(ours) = self.ours.get_mut(&call) else { return Ok(false) };
        if !std::mem::take(&mut ours.borrows) {
            return Err("lent what nobody wanted to borrow");
        }
        Ok(true)
    }

    /// Has the data of a pull of ours sent, because what was lent cannot be used.
    pub fn ask_for_data(&mut self, call: u64, out: &mut Outbound) {
        let Some(ours) = self.ours.get(&call) else { return };
        let TransferHead { key, offset, length } = ours.head;
        let head = TransferHead { key, offset: offset + ours.received, length: length - ours.received };
        out.frame(Kind::Pull, call, |body| head.encode(body));
    }
}

impl Outbound {
    /// Tells the peer that what was lent to it is taken back.
    pub fn loan_end(&mut self, loan: u64) {
        self.frame(Kind::LoanEnd, loan, |_| ());
    }

    /// Tells the peer that what it has lent is not used any more.
    pub fn loan_return(&mut self, loan: u64) {
        self.frame(Kind::LoanReturn, loan, |_| ());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bulk::{Access, BulkDescriptor, Permission, Refusal, RegionKey, RemoteRange, Store};
    use crate::wire::{Header, WriteJob};
    use std::sync::Arc;

    const LOAN: Loan = Loan { id: 3, offset: 4096 };

    fn store(length: usize) -> Arc<Store> {
        Arc::new(Store::new::<()>(Box::new(vec![7u8; length]), |_| Ok(None)).unwrap().unwrap())
    }

    fn transfer(direction: Direction, length: u64) -> Transfer {
        let key = RegionKey { instance: 1, id: 2, secret: 3 };
        let access = if direction == Direction::Pull { Access::Write } else { Access::Read };
        let local = store(length as usize).window(access, 0, length).unwrap();
        let descriptor = BulkDescriptor::native(key, 1 << 30, Permission::ReadWrite, None);
        Transfer {
            direction,
            local,
            remote: RemoteRange { descriptor, offset: 100, length },
            whole: 100..100 + length,
            lent: true,
        }
    }

    /// The kinds and calls of the frames that are queued, and the last one's body.
    fn frames(out: &mut Outbound) -> (Vec<(Kind, u64)>, Vec<u8>) {
        let mut job = WriteJob::default();
        let (mut found, mut body) = (Vec::new(), Vec::new());
        if !out.next_write(&mut job) {
            return (found, body);
        }
        let mut bytes = job.slices()[0];
        while let Some((head, rest)) = bytes.split_first_chunk() {
            let header = Header::decode(head, 1 << 20).unwrap();
            let (now, later) = rest.split_at((header.length as usize).min(rest.len()));
            found.push((header.kind, header.call));
            (body, bytes) = (now.to_vec(), later);
        }
        (found, body)
    }

    #[test]
    fn a_loan_is_taken_only_where_it_was_asked_for_and_only_once() {
        let (mut transfers, mut out) = (Transfers::new(4), Outbound::new(1 << 18));
        transfers.begin_borrowing(1, transfer(Direction::Pull, 1000), &mut out).unwrap();
        transfers.begin(2, transfer(Direction::Pull, 1000), &mut out).unwrap();
        transfers.begin_lending(3, transfer(Direction::Push, 1000), LOAN, &mut out).unwrap();
        assert_eq!(transfers.handle_lent(1), Ok(true));
        assert!(transfers.handle_lent(1).is_err(), "twice");
        assert!(transfers.handle_lent(2).is_err(), "not asked for");
        assert!(transfers.handle_lent(3).is_err(), "a push");
        assert_eq!(transfers.handle_lent(4), Ok(false), "nobody's");
        let (kinds, body) = frames(&mut out);
        assert_eq!(kinds, [(Kind::Borrow, 1), (Kind::Pull, 2), (Kind::Lend, 3)]);
        assert_eq!(Loan::decode(body[TransferHead::LEN..].try_into().unwrap()), LOAN);
    }

    #[test]
    fn a_borrowed_pull_is_over_when_all_was_copied() {
        let (mut transfers, mut out) = (Transfers::new(4), Outbound::new(1 << 18));
        transfers.begin_borrowing(1, transfer(Direction::Pull, 1000), &mut out).unwrap();
        assert_eq!(transfers.handle_lent(1), Ok(true));
        let (window, at) = transfers.target(Direction::Pull, 1, 0).unwrap().unwrap();
        assert_eq!((window.len(), at), (1000, 0));
        assert_eq!(transfers.handle_data(Direction::Pull, 1, 600, true, &mut out), None);
        assert!(transfers.handle_end(1, 0, &mut out).is_err(), "not all of it");
        transfers.begin_borrowing(2, transfer(Direction::Pull, 1000), &mut out).unwrap();
        assert_eq!(transfers.handle_data(Direction::Pull, 2, 1000, true, &mut out), None);
        assert_eq!(transfers.handle_end(2, 0, &mut out), Ok(Some(Ok(()))));
    }

    #[test]
    fn what_cannot_be_borrowed_is_asked_for() {
        let (mut transfers, mut out) = (Transfers::new(4), Outbound::new(1 << 18));
        transfers.begin_borrowing(1, transfer(Direction::Pull, 1000), &mut out).unwrap();
        transfers.handle_lent(1).unwrap();
        transfers.handle_data(Direction::Pull, 1, 300, true, &mut out);
        transfers.ask_for_data(1, &mut out);
        transfers.ask_for_data(9, &mut out);
        let (kinds, body) = frames(&mut out);
        assert_eq!(kinds, [(Kind::Borrow, 1), (Kind::Pull, 1)]);
        let head = TransferHead::decode(body[..].try_into().unwrap());
        assert_eq!((head.offset, head.length), (400, 700), "the rest");
        // The same for a push, whose data then comes.
        let window = store(1000).window(Access::Write, 0, 1000).unwrap();
        assert_eq!(transfers.handle_wish(5, &mut out), Ok(true));
        transfers.serve_borrowing(5, window.clone(), false, &mut out);
        assert_eq!(transfers.handle_wish(6, &mut out), Ok(true));
        transfers.serve_borrowing(6, window, true, &mut out);
        assert_eq!(frames(&mut out).0, [(Kind::PushReady, 5)]);
        assert_eq!(transfers.handle_data(Direction::Push, 6, 1000, true, &mut out), None);
        let (kinds, body) = frames(&mut out);
        assert_eq!((&kinds[..], &body[..]), (&[(Kind::TransferEnd, 6)][..], &[0; 4][..]));
        assert_eq!(transfers.handle_wish(5, &mut out), Err("begun twice"));
    }

    #[test]
    fn a_lent_push_is_sent_only_when_the_owner_asks() {
        let (mut transfers, mut out) = (Transfers::new(4), Outbound::new(1 << 18));
        transfers.begin_lending(1, transfer(Direction::Push, 1000), LOAN, &mut out).unwrap();
        assert_eq!(frames(&mut out).0, [(Kind::Lend, 1)]);
        assert!(!out.has_data(Kind::PushData, 1));
        transfers.handle_ready(1, &mut out);
        assert!(out.has_data(Kind::PushData, 1));
        let refused = transfers.handle_end(1, Refusal::Revoked.code(), &mut out);
        assert_eq!(refused, Ok(Some(Err(Refusal::Revoked.into()))));
        assert!(!out.has_data(Kind::PushData, 1));
        // The owner has copied it, or says so too soon.
        transfers.begin_lending(2, transfer(Direction::Push, 1000), LOAN, &mut out).unwrap();
        assert_eq!(transfers.handle_end(2, 0, &mut out), Ok(Some(Ok(()))));
        transfers.begin_lending(3, transfer(Direction::Push, 1000), LOAN, &mut out).unwrap();
        transfers.handle_ready(3, &mut out);
        assert!(transfers.handle_end(3, 0, &mut out).is_err());
    }
}
