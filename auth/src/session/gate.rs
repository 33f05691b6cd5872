use super::cookie::CookieJar;
use super::node::NodeAddress;
use super::rate::{Rate, RateLimiter};
use crate::protocol::{BareError, Hello, Secret, Tick};

/// Addresses remembered for their rates.
const ADDRESSES_MAX: usize = 65_536;

/// What a HELLO meets first, before any daemon is asked, any key agreed, or anything remembered for the client but its
/// rate.
pub struct Gate {
    jar: CookieJar,
    handshakes: RateLimiter,
    refusals: RateLimiter,
}

/// What to do with a HELLO.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// Go on with it.
    Proceed,
    /// Send this: a RETRY, since the server is under load.
    Retry(BareError),
    /// Send this: a RETRY, since its address says HELLO too often. An honest client waits before it does.
    Slower(BareError),
}

impl Gate {
    /// With a random secret for cookies.
    pub fn new(secret: Secret<32>, handshakes: Rate, now: Tick) -> Self {
        Self {
            jar: CookieJar::new(secret, now),
            handshakes: RateLimiter::new(handshakes, ADDRESSES_MAX),
            refusals: RateLimiter::new(Rate::REFUSALS, ADDRESSES_MAX),
        }
    }

    /// Looks at a HELLO. `under_load`: more than half of the places for waiting credentials are taken.
    ///
    /// Under load only a client that shows a cookie, and so gets what is sent to its address, uses up that address's
    /// rate: nobody can use up another's.
    pub fn admit(&mut self, hello: &Hello<'_>, node: NodeAddress, under_load: bool, now: Tick) -> Admission {
        let key = hello.public_key();
        if under_load && !hello.cookie().is_some_and(|cookie| self.jar.accepts(cookie, node, key, now)) {
            return Admission::Retry(self.retry(hello, node));
        }
        if self.handshakes.take(node, now) { Admission::Proceed } else { Admission::Slower(self.retry(hello, node)) }
    }

    /// The answer that asks for another HELLO with a cookie.
    pub fn retry(&self, hello: &Hello<'_>, node: NodeAddress) -> BareError {
        BareError::Retry { cookie: self.jar.bake(node, hello.public_key()) }
    }

    /// Whether this address may be sent one more NO for an unknown session.
    pub fn may_refuse(&mut self, node: NodeAddress, now: Tick) -> bool {
        self.refusals.take(node, now)
    }

    /// Whether [`rotate`](Self::rotate) is due.
    pub fn is_due(&self, now: Tick) -> bool {
        self.jar.is_due(now)
    }

    /// Takes a new random secret for cookies.
    pub fn rotate(&mut self, secret: Secret<32>, now: Tick) {
        self.jar.rotate(secret, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{offer, say_hello, secret};
    use crate::protocol::client::Offer;

    const NODE: NodeAddress = NodeAddress::LOCAL;

    #[test]
    fn without_load_no_cookie_is_asked_for() {
        let mut gate = Gate::new(secret(1), Rate { per_second: 20, burst: 50 }, Tick(0));
        let (wire, _) = say_hello(&offer());
        let hello = Hello::parse(&wire).expect("parsed");
        for _ in 0..50 {
            assert_eq!(gate.admit(&hello, NODE, false, Tick(0)), Admission::Proceed);
        }
        assert!(matches!(gate.admit(&hello, NODE, false, Tick(0)), Admission::Slower(_)));
        assert_eq!(gate.admit(&hello, NODE, false, Tick(50)), Admission::Proceed);
    }

    #[test]
    fn under_load_a_cookie_is_asked_for_and_taken() {
        let mut gate = Gate::new(secret(1), Rate::HANDSHAKES, Tick(0));
        let ephemeral = crate::fixtures::ephemeral();
        let key = *ephemeral.public_key();
        let begun = crate::protocol::client::Begun::new(&offer(), &[1; 32], ephemeral).expect("an offer");
        let (wire, _) = begun.send(b"", crate::protocol::Psk::none()).expect("short");
        for _ in 0..1000 {
            let asked = gate.admit(&Hello::parse(&wire).expect("parsed"), NODE, true, Tick(0));
            assert_eq!(asked, Admission::Retry(BareError::Retry { cookie: gate.jar.bake(NODE, &key) }));
        }
        // The same key with the cookie; the fixture makes a new key, so the wire is written by hand.
        let (other, _) = say_hello(&Offer { cookie: Some(gate.jar.bake(NODE, &key)), ..offer() });
        let mut with_cookie = other.clone();
        with_cookie[40..72].copy_from_slice(&key);
        let admitted =
            |wire: &[u8], gate: &mut Gate| gate.admit(&Hello::parse(wire).expect("parsed"), NODE, true, Tick(0));
        assert_eq!(admitted(&with_cookie, &mut gate), Admission::Proceed, "asking used up no rate");
        assert!(matches!(admitted(&other, &mut gate), Admission::Retry(_)), "the cookie is of another key");
    }

    #[test]
    fn refusals_are_ten_a_second() {
        let mut gate = Gate::new(secret(1), Rate::HANDSHAKES, Tick(0));
        assert_eq!((0..100).filter(|_| gate.may_refuse(NODE, Tick(0))).count(), 10);
        assert_eq!((0..100).filter(|_| gate.may_refuse(NODE, Tick(1000))).count(), 10);
    }
}
