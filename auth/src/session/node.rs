use std::net::IpAddr;

/// The node a peer is on, for limits per address: an IPv4 address, the /64 of an IPv6 address, or this host.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct NodeAddress([u8; 16]);

impl NodeAddress {
    /// Peers on this host: Unix sockets, shared memory.
    pub const LOCAL: Self = Self([0; 16]);

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
        assert_eq!(node("2001:db8::1"), node("2001:db8::ffff:1"));
        assert_ne!(node("2001:db8::1"), node("2001:db8:0:1::1"));
    }
}
