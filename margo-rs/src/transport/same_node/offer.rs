//! What a server says, in its hello over TCP, to a client on the same node.

use super::route::Route;
use crate::wire::EXTRA_LEN;

/// How the kernel shows users that a user namespace does not have: it may be anybody.
const OVERFLOW_UID: u32 = 65_534;
/// Bits of [`Offer::ask`].
const ASK_BITS: u32 = 48;

/// An offer to go on through shared memory, good for one connection and one use.
///
/// ```text
///  0  u32  uid of the server          4  u16  port of the client
///  6  u48  ask, not zero             12  u32  answer
/// ```
///
/// In the hello over shared memory, the client's bytes hold the ask, and before it the mark of the connection as the client
/// sees it; the server's hold only the answer.
///
/// ```text
///  0  u48  mark of the route          6  u48  ask               12  u32  zero
/// ```
#[doc(hidden)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// Who listens.
    pub(in super::super) uid: u32,
    /// The client's port, as the server sees it: another one if somebody relays the connection.
    pub(in super::super) port: u16,
    /// What the client must show, 48 bits.
    pub(in super::super) ask: u64,
    /// What the server must show.
    pub(in super::super) answer: u32,
    /// The mark of the connection, as whoever holds this sees it. Not a part of what is said.
    pub(in super::super) mark: u64,
}

impl Offer {
    /// An offer with the secrets that are in `random`.
    pub(super) fn new(uid: u32, route: &Route, random: u128) -> Option<Self> {
        let ask = random as u64 & ((1 << ASK_BITS) - 1);
        let answer = (random >> 64) as u32;
        (ask != 0).then_some(Self { uid, port: route.client.port(), ask, answer, mark: route.mark() })
    }

    pub(in super::super) fn encode(&self) -> [u8; EXTRA_LEN] {
        let mut bytes = [0; EXTRA_LEN];
        bytes[6..12].copy_from_slice(&self.ask.to_le_bytes()[..6]);
        bytes[0..4].copy_from_slice(&self.uid.to_le_bytes());
        bytes[4..6].copy_from_slice(&self.port.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.answer.to_le_bytes());
        bytes
    }

    /// `None` if there is no offer, one that cannot be followed safely, or one for somebody else than the client of
    /// `route`.
    pub(in super::super) fn decode(bytes: &[u8; EXTRA_LEN], route: &Route) -> Option<Self> {
        let offer = Self {
            uid: u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
            port: u16::from_le_bytes([bytes[4], bytes[5]]),
            ask: ask_in(bytes),
            answer: u32::from_le_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]),
            mark: route.mark(),
        };
        let is_ours = offer.port == route.client.port();
        (is_ours && offer.ask != 0 && offer.uid != OVERFLOW_UID).then_some(offer)
    }

    /// What a client shows.
    pub(in super::super) fn ask_bytes(&self) -> [u8; EXTRA_LEN] {
        let mut bytes = [0; EXTRA_LEN];
        bytes[0..6].copy_from_slice(&self.mark.to_le_bytes()[..6]);
        bytes[6..12].copy_from_slice(&self.ask.to_le_bytes()[..6]);
        bytes
    }

    /// Whether a client that shows this has the connection for which the offer was made.
    pub(super) fn is_asked_by(&self, bytes: &[u8; EXTRA_LEN]) -> bool {
        *bytes == self.ask_bytes()
    }

    /// What the server shows to whoever has shown the ask.
    pub(super) fn answer_bytes(&self) -> [u8; EXTRA_LEN] {
        let mut bytes = [0; EXTRA_LEN];
        bytes[12..16].copy_from_slice(&self.answer.to_le_bytes());
        bytes
    }

    pub(in super::super) fn is_answered_by(&self, bytes: &[u8; EXTRA_LEN]) -> bool {
        *bytes == self.answer_bytes()
    }
}

/// The ask that a client shows; 0 if it shows none.
pub(super) fn ask_in(bytes: &[u8; EXTRA_LEN]) -> u64 {
    let mut ask = [0; 8];
    ask[..6].copy_from_slice(&bytes[6..12]);
    u64::from_le_bytes(ask)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANDOM: u128 = 0x0D0E_0F10 << 64 | 0xFFFF_0708_090A_0B0C;

    fn route() -> Route {
        Route::new("127.0.0.1:1286".parse().unwrap(), "127.0.0.1:80".parse().unwrap())
    }

    fn offer() -> Offer {
        Offer::new(0x0102_0304, &route(), RANDOM).unwrap()
    }

    #[test]
    fn offer_bytes_are_golden() {
        let golden = [4, 3, 2, 1, 6, 5, 0x0C, 0x0B, 0x0A, 9, 8, 7, 0x10, 0x0F, 0x0E, 0x0D];
        let offer = offer();
        assert_eq!(offer.encode(), golden);
        assert!(Offer::decode(&golden, &route()) == Some(offer));
        let mark = route().mark().to_le_bytes();
        assert_eq!(offer.ask_bytes()[0..6], mark[0..6]);
        assert_eq!(offer.ask_bytes()[6..16], [0x0C, 0x0B, 0x0A, 9, 8, 7, 0, 0, 0, 0]);
        assert_eq!(offer.answer_bytes(), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0x0F, 0x0E, 0x0D]);
        assert_eq!(ask_in(&golden), offer.ask);
    }

    #[test]
    fn a_hello_without_an_offer_has_none() {
        assert!(Offer::decode(&[0; EXTRA_LEN], &route()).is_none());
        assert!(Offer::new(1, &route(), 0).is_none());
    }

    #[test]
    fn an_offer_of_an_unnameable_user_is_not_followed() {
        let bytes = Offer { uid: OVERFLOW_UID, ..offer() }.encode();
        assert!(Offer::decode(&bytes, &route()).is_none());
    }

    #[test]
    fn an_offer_for_another_connection_is_not_followed() {
        let relayed = Route::new("127.0.0.1:1287".parse().unwrap(), "127.0.0.1:80".parse().unwrap());
        assert!(Offer::decode(&offer().encode(), &relayed).is_none());
    }

    /// A relay whose port happens to be the client's: the client cannot tell, and the server can.
    #[test]
    fn only_the_connection_that_an_offer_was_made_for_can_use_it() {
        let relayed = Route::new("127.0.0.1:1286".parse().unwrap(), "127.0.0.1:81".parse().unwrap());
        let seen = Offer::decode(&offer().encode(), &relayed).unwrap();
        assert!(!offer().is_asked_by(&seen.ask_bytes()));
        let seen = Offer::decode(&offer().encode(), &route()).unwrap();
        assert!(offer().is_asked_by(&seen.ask_bytes()));
    }

    #[test]
    fn only_the_whole_answer_answers() {
        let offer = offer();
        assert!(offer.is_answered_by(&offer.answer_bytes()));
        for at in 0..EXTRA_LEN {
            let mut bytes = offer.answer_bytes();
            bytes[at] ^= 1;
            assert!(!offer.is_answered_by(&bytes), "byte {at}");
        }
        assert!(!offer.is_answered_by(&offer.ask_bytes()));
    }
}
