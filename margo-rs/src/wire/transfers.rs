//! The bulk transfers of a connection: what was begun, what is being served, and which frames that takes.

use super::frame::{Header, Kind, TransferHead};
use super::outbound::Outbound;
use crate::bulk::{Direction, Refusal, Transfer, TransferError, Window};
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// A push up to this size is sent without asking first, in bytes.
pub const EAGER_MAX: u64 = 256 * 1024;

/// The transfers of one connection, both ways. Holds a window for each, and no data.
#[derive(Debug)]
pub struct Transfers {
    /// Begun by us.
    pub(super) ours: HashMap<u64, Ours>,
    /// Begun by the peer, and granted.
    pub(super) served: HashMap<u64, Served>,
    served_max: usize,
}

#[derive(Debug)]
pub(super) struct Ours {
    pub(super) direction: Direction,
    /// Where the remote end is, for whoever has to ask again.
    pub(super) head: TransferHead,
    pub(super) window: Window,
    /// Of a pull: bytes that have arrived.
    pub(super) received: u64,
    /// Of a push: its data was queued.
    pub(super) sending: bool,
    /// Of a pull: the owner may answer with a loan.
    pub(super) borrows: bool,
    /// Of a push: the owner need not ask for the data.
    pub(super) lends: bool,
}

#[derive(Debug)]
pub(super) struct Served {
    pub(super) direction: Direction,
    pub(super) window: Window,
    /// Of a push: bytes that have arrived.
    pub(super) received: u64,
}

/// What became of a transfer of ours.
pub(super) type Outcome = Result<(), TransferError>;

/// The end of a transfer as a frame.
pub(super) fn end_frame(call: u64, code: u32) -> [u8; Header::LEN + 4] {
    let mut bytes = Vec::with_capacity(Header::LEN + 4);
    Header { length: 4, kind: Kind::TransferEnd, flags: 0, call }.encode(&mut bytes);
    let mut frame = [0; Header::LEN + 4];
    frame[..Header::LEN].copy_from_slice(&bytes);
    frame[Header::LEN..].copy_from_slice(&code.to_le_bytes());
    frame
}

impl Transfers {
    /// No transfers; at most `served_max` of the peer's at a time.
    pub fn new(served_max: usize) -> Self {
        Self { ours: HashMap::new(), served: HashMap::new(), served_max }
    }

    /// Forgets all of them.
    pub fn clear(&mut self) {
        self.ours = HashMap::new();
        self.served = HashMap::new();
    }

    /// Whether data may be on its way here.
    pub fn expects_data(&self) -> bool {
        !self.ours.is_empty() || !self.served.is_empty()
    }

    /// Begins a transfer of ours.
    ///
    /// # Errors
    /// The descriptor is none of ours.
    pub fn begin(&mut self, call: u64, transfer: Transfer, out: &mut Outbound) -> Outcome {
        let ours = Ours::new(transfer)?;
        let Ours { direction, head, ref window, .. } = ours;
        let kind = match direction {
            Direction::Pull => Kind::Pull,
            Direction::Push => Kind::Push,
        };
        out.frame(kind, call, |body| head.encode(body));
        let eager = direction == Direction::Push && window.len() <= EAGER_MAX;
        if eager && !window.is_empty() {
            out.data(Kind::PushData, call, window.clone());
        }
        self.ours.insert(call, Ours { sending: eager, ..ours });
        Ok(())
    }

    /// Gives up a transfer of ours. `false` if there is none of that number.
    pub fn cancel(&mut self, call: u64, out: &mut Outbound) -> bool {
        let Some(ours) = self.ours.remove(&call) else { return false };
        if ours.direction == Direction::Push {
            out.give_up_data(Kind::PushData, call);
        }
        out.frame(Kind::TransferCancel, call, |_| ());
        true
    }

    /// The owner waits for the data of a push.
    pub fn handle_ready(&mut self, call: u64, out: &mut Outbound) {
        // It may have been cancelled, or the peer may say so twice.
        if let Some(ours) = self.ours.get_mut(&call)
            && ours.direction == Direction::Push
            && !std::mem::replace(&mut ours.sending, true)
        {
            out.data(Kind::PushData, call, ours.window.clone());
        }
    }

    /// The owner says that a transfer of ours is over; how, if somebody still wants to know.
    ///
    /// # Errors
    /// It claims a success that cannot be.
    pub fn handle_end(&mut self, call: u64, code: u32, out: &mut Outbound) -> Result<Option<Outcome>, &'static str> {
        let Some(ours) = self.ours.remove(&call) else { return Ok(None) };
        if ours.direction == Direction::Push {
            let unsent = if ours.sending { out.has_data(Kind::PushData, call) } else { !ours.lends };
            out.give_up_data(Kind::PushData, call);
            if code == 0 && unsent {
                return Err("ended before its data was sent");
            }
        } else if code == 0 && ours.received < ours.window.len() {
            return Err("ended before its data was here");
        }
        Ok(Some(match (code, Refusal::from_code(code)) {
            (0, _) => Ok(()),
            (_, Some(refusal)) => Err(refusal.into()),
            (code, None) => Err(TransferError::Failed(format!("the owner answered with code {code}"))),
        }))
    }

    /// The peer wants a transfer. `Ok(false)` if it was refused here, else [`Transfers::serve`] follows.
    ///
    /// # Errors
    /// It uses a number that it uses already.
    pub fn handle_wish(&mut self, call: u64, out: &mut Outbound) -> Result<bool, &'static str> {
        self.forget_sent(out);
        if self.served.contains_key(&call) {
            return Err("begun twice");
        }
        let room = self.served.len() < self.served_max;
        if !room {
            out.frame(Kind::TransferEnd, call, |body| {
                body.extend_from_slice(&Refusal::Overloaded.code().to_le_bytes())
            });
        }
        Ok(room)
    }

    /// Begins to serve a transfer of the peer's, or refuses it.
    pub fn serve(&mut self, call: u64, direction: Direction, granted: Result<Window, Refusal>, out: &mut Outbound) {
        let window = match granted {
            Ok(window) if !window.is_empty() => window,
            other => {
                let code = other.err().map_or(0, Refusal::code);
                return out.frame(Kind::TransferEnd, call, |body| body.extend_from_slice(&code.to_le_bytes()));
            }
        };
        match direction {
            Direction::Pull => out.data(Kind::PullData, call, window.clone()),
            Direction::Push if window.len() > EAGER_MAX => out.frame(Kind::PushReady, call, |_| ()),
            Direction::Push => {}
        }
        self.served.insert(call, Served { direction, window, received: 0 });
    }

    /// Counts out the pulls whose data was sent.
    fn forget_sent(&mut self, out: &mut Outbound) {
        for call in out.take_sent() {
            self.served.remove(&call);
        }
    }

    /// The peer gives up its transfer.
    pub fn handle_cancel(&mut self, call: u64, out: &mut Outbound) {
        self.forget_sent(out);
        // Searched for only if it is there: a peer may send any number of these.
        if self.served.remove(&call).is_some_and(|served| served.direction == Direction::Pull) {
            out.give_up_data(Kind::PullData, call);
        }
    }

    /// Where arriving data goes; nowhere if nobody wants it.
    ///
    /// # Errors
    /// It is more than was agreed on.
    pub fn target(&self, direction: Direction, call: u64, length: u64) -> Result<Option<(Window, u64)>, &'static str> {
        let (window, received) = match direction {
            Direction::Pull => match self.ours.get(&call) {
                Some(ours) if ours.direction == Direction::Pull => (&ours.window, ours.received),
                _ => return Ok(None),
            },
            Direction::Push => match self.served.get(&call) {
                Some(served) if served.direction == Direction::Push => (&served.window, served.received),
                _ => return Ok(None),
            },
        };
        if length > window.len() - received {
            return Err("more data than was asked for");
        }
        Ok(Some((window.clone(), received)))
    }

    /// Data has arrived, to where [`Transfers::target`] said, or its region was taken back. Says how a transfer of ours
    /// ended by that.
    pub fn handle_data(
        &mut self,
        direction: Direction,
        call: u64,
        length: u64,
        in_place: bool,
        out: &mut Outbound,
    ) -> Option<Outcome> {
        match direction {
            Direction::Pull => {
                // Gone if it was cancelled meanwhile.
                let ours = self.ours.get_mut(&call)?;
                ours.received += length;
                if in_place {
                    return None;
                }
                self.cancel(call, out);
                Some(Err(TransferError::LocalRevoked))
            }
            Direction::Push => {
                let Entry::Occupied(mut served) = self.served.entry(call) else { return None };
                served.get_mut().received += length;
                if !in_place || served.get().received == served.get().window.len() {
                    served.remove();
                    let code = if in_place { 0 } else { Refusal::Revoked.code() };
                    out.frame(Kind::TransferEnd, call, |body| body.extend_from_slice(&code.to_le_bytes()));
                }
                None
            }
        }
    }
}

impl Ours {
    /// A transfer of which nothing was sent yet.
    pub(super) fn new(transfer: Transfer) -> Result<Self, TransferError> {
        let key = *transfer.remote.descriptor.key().ok_or(TransferError::OtherTransport)?;
        let (direction, window) = (transfer.direction, transfer.local);
        let head = TransferHead { key, offset: transfer.remote.offset, length: window.len() };
        Ok(Self { direction, head, window, received: 0, sending: false, borrows: false, lends: false })
    }
}

#[cfg(test)]
#[path = "transfers_tests.rs"]
mod tests;
