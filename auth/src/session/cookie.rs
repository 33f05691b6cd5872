use std::time::Duration;

use super::node::NodeAddress;
use crate::protocol::kdf::mac;
use crate::protocol::{Secret, Tick};

/// Makes and checks the cookies of RETRY, which show that a client gets what is sent to its address, before anything is
/// computed or remembered for it.
pub struct CookieJar {
    current: Secret<32>,
    previous: Option<Secret<32>>,
    since: Tick,
}

impl CookieJar {
    /// Age at which a secret is replaced. A cookie is good for one to two of these.
    pub const ROTATION: Duration = Duration::from_secs(120);

    /// With a random secret.
    pub fn new(secret: Secret<32>, now: Tick) -> Self {
        Self { current: secret, previous: None, since: now }
    }

    /// Whether [`rotate`](Self::rotate) is due.
    pub fn is_due(&self, now: Tick) -> bool {
        now >= self.since.after(Self::ROTATION)
    }

    /// Takes a new random secret and keeps the one before; that too is dropped when nobody called for long.
    pub fn rotate(&mut self, secret: Secret<32>, now: Tick) {
        let before = std::mem::replace(&mut self.current, secret);
        self.previous = (now < self.since.after(Self::ROTATION * 2)).then_some(before);
        self.since = now;
    }

    /// The cookie of a client with this address and X25519 key.
    pub fn bake(&self, node: NodeAddress, public_key: &[u8; 32]) -> [u8; 16] {
        *cookie(&self.current, node, public_key).expose()
    }

    /// Whether the cookie was made for this address and key, not too long ago. In constant time.
    pub fn accepts(&self, given: &[u8; 16], node: NodeAddress, public_key: &[u8; 32], now: Tick) -> bool {
        if now >= self.since.after(Self::ROTATION * 2) {
            return false; // nobody rotates
        }
        let is_of = |secret| cookie(secret, node, public_key).same(given);
        is_of(&self.current) | self.previous.as_ref().is_some_and(is_of)
    }
}

fn cookie(secret: &Secret<32>, node: NodeAddress, public_key: &[u8; 32]) -> Secret<16> {
    let mac = mac(secret.expose(), &[b"hgrpc1 cookie", node.as_bytes(), public_key]);
    Secret::new(|out| out.copy_from_slice(&mac.expose()[..16]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn secret(byte: u8) -> Secret<32> {
        Secret::new(|bytes| bytes.fill(byte))
    }

    fn node(last: u8) -> NodeAddress {
        std::net::IpAddr::from(Ipv4Addr::new(10, 0, 0, last)).into()
    }

    #[test]
    fn a_cookie_is_good_for_its_address_and_key_alone() {
        let jar = CookieJar::new(secret(1), Tick(0));
        let cookie = jar.bake(node(1), &[5; 32]);
        assert!(jar.accepts(&cookie, node(1), &[5; 32], Tick(0)));
        assert!(!jar.accepts(&cookie, node(2), &[5; 32], Tick(0)));
        assert!(!jar.accepts(&cookie, node(1), &[6; 32], Tick(0)));
        for bit in 0..128 {
            let mut flipped = cookie;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!jar.accepts(&flipped, node(1), &[5; 32], Tick(0)));
        }
    }

    #[test]
    fn a_cookie_outlives_one_rotation_and_not_two() {
        let mut jar = CookieJar::new(secret(1), Tick(0));
        let cookie = jar.bake(node(1), &[5; 32]);
        assert!(!jar.is_due(Tick(119_999)));
        assert!(jar.is_due(Tick(120_000)));
        jar.rotate(secret(2), Tick(120_000));
        assert!(jar.accepts(&cookie, node(1), &[5; 32], Tick(200_000)));
        jar.rotate(secret(3), Tick(240_000));
        assert!(!jar.accepts(&cookie, node(1), &[5; 32], Tick(240_000)));
    }

    #[test]
    fn a_jar_that_nobody_rotates_goes_stale() {
        let mut jar = CookieJar::new(secret(1), Tick(0));
        let cookie = jar.bake(node(1), &[5; 32]);
        assert!(!jar.accepts(&cookie, node(1), &[5; 32], Tick(240_000)));
        jar.rotate(secret(2), Tick(500_000));
        assert!(!jar.accepts(&cookie, node(1), &[5; 32], Tick(500_000)));
    }
}
