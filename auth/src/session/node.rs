use std::net::IpAddr;

/// Where a peer is, for limits per address: an IPv4 address, the /64 of an IPv6 address, this host, or a user of this host.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct NodeAddress([u8; 16]);

impl NodeAddress {
    /// Peers on this host: Unix sockets, shared memory.
    pub const LOCAL: Self = Self([0; 16]);

    /// A user of this host, where the kernel says who a peer is: users do not use up each other's limits.
    pub fn of_user(uid: u32) -> Self {
        let mut bytes = [0; 16];
        bytes[0] = 0xff; // a multicast address, which no peer has
        bytes[12..].copy_from_slice(&uid.to_be_bytes());
        Self(bytes)
    }

    pub(super) fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl From<IpAddr> for NodeAddress {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self(v4.to_ipv6_mapped().octets()),
            IpAddr::V6(v6) => {
                let mut octets = v6.octets();
                octets[8..].fill(0); // one node may have all addresses of its /64
                Self(octets)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_node_has_one_address() {
        let node = |text: &str| NodeAddress::from(text.parse::<IpAddr>().expect("an address"));
        assert_eq!(node("10.0.0.1"), node("::ffff:10.0.0.1"));
        assert_ne!(node("10.0.0.1"), node("10.0.0.2"));
        assert_ne!(NodeAddress::of_user(0), NodeAddress::LOCAL);
        assert_ne!(NodeAddress::of_user(1), NodeAddress::of_user(2));
        assert_eq!(node("2001:db8::1"), node("2001:db8::ffff:1"));
        assert_ne!(node("2001:db8::1"), node("2001:db8:0:1::1"));
    }
}
