//! A TCP connection as one of its ends sees it.

use std::net::{IpAddr, SocketAddr};

/// Both ends of a connection. Where nobody stands between them, both see the same one; and a kernel has no two connections
/// of the same ends at a time, so that no relay on the node can have the client's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Route {
    pub(in super::super) client: SocketAddr,
    pub(in super::super) server: SocketAddr,
}

impl Route {
    /// An IPv4 address written as one of IPv6 is the same one.
    pub(in super::super) fn new(client: SocketAddr, server: SocketAddr) -> Self {
        let canonical = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
        Self { client: canonical(client), server: canonical(server) }
    }

    /// 48 bits to tell routes apart by (FNV-1a, folded), where nobody lies: who wants to be taken for another can be.
    pub(in super::super) fn mark(&self) -> u64 {
        const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
        const PRIME: u64 = 0x0000_0100_0000_01b3;
        let octets = |ip| match ip {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
            IpAddr::V6(ip) => ip.octets(),
        };
        let ends = [self.client, self.server].map(|end| (octets(end.ip()), end.port().to_le_bytes()));
        let bytes = ends.into_iter().flat_map(|(ip, port)| ip.into_iter().chain(port));
        let hash = bytes.fold(OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME));
        (hash ^ hash >> 48) & ((1 << 48) - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(client: &str, server: &str) -> Route {
        Route::new(client.parse().unwrap(), server.parse().unwrap())
    }

    #[test]
    fn both_ends_see_one_route_whatever_family_the_socket_has() {
        let four = route("127.0.0.1:5", "127.0.0.1:6");
        assert_eq!(four, route("[::ffff:127.0.0.1]:5", "[::ffff:127.0.0.1]:6"));
        assert_eq!(four.mark(), 0x0c64_3524_96e4);
    }

    #[test]
    fn each_address_and_port_makes_another_mark() {
        let marks = [
            route("127.0.0.1:5", "127.0.0.1:6"),
            route("127.0.0.1:6", "127.0.0.1:5"),
            route("127.0.0.1:5", "127.0.0.1:7"),
            route("127.0.0.1:5", "127.0.0.2:6"),
            route("127.0.0.2:5", "127.0.0.1:6"),
            route("[::1]:5", "[::1]:6"),
        ]
        .map(|route| route.mark());
        for (at, mark) in marks.iter().enumerate() {
            assert!(!marks[..at].contains(mark), "{at}");
            assert!(*mark < 1 << 48);
        }
    }
}
