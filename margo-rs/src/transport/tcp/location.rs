//! What stands after `native+tcp://`: hosts, ports, interface names; and which address to print.

use crate::address::{Address, AddressError};
use crate::error::{ConnectError, ListenError};
use if_addrs::Interface;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;

/// The protocol's name.
pub(crate) const PROTOCOL: &str = "native+tcp";

/// A location taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    Ip(IpAddr),
    Name(String),
}

/// Splits `host`, `host:port`, `[v6]`, `[v6]:port`.
fn split(location: &str) -> Result<(Host, Option<u16>), &'static str> {
    if let Ok(address) = location.parse::<SocketAddr>() {
        return Ok((Host::Ip(address.ip()), Some(address.port())));
    }
    if let Ok(ip) = location.parse::<IpAddr>() {
        return Ok((Host::Ip(ip), None));
    }
    let (host, port) = match location.strip_prefix('[') {
        Some(rest) => {
            let (ip, after) = rest.split_once(']').ok_or("`[` without `]`")?;
            let ip: IpAddr = ip.parse().map_err(|_| "no IPv6 address between `[` and `]`")?;
            match after {
                "" => return Ok((Host::Ip(ip), None)),
                _ => return Err("expected `:port` with a port from 0 to 65535 after `]`"),
            }
        }
        None => match location.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (location, None),
        },
    };
    let port = match port {
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(port.parse().map_err(|_| "the port is not a number from 0 to 65535")?)
        }
        Some(_) => return Err("the port is not a number from 0 to 65535 (IPv6 addresses stand in brackets)"),
        None => None,
    };
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if host.is_empty() || !host.bytes().all(allowed) {
        return Err("expected a host, an interface name or an IP address");
    }
    Ok((Host::Name(host.to_owned()), port))
}

/// Where to bind, and which IP to print if that is a wildcard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ListenAt {
    pub(super) bind: SocketAddr,
    pub(super) printed: IpAddr,
}

/// Finds out where to listen. Blocks while it resolves a host name.
pub(super) fn listen_at(address: &Address) -> Result<ListenAt, ListenError> {
    let interfaces = if_addrs::get_if_addrs().map_err(|source| ListenError::Io { address: address.clone(), source })?;
    if address.location().is_empty() {
        let ip = routable(&interfaces);
        return Ok(ListenAt { bind: SocketAddr::new(ip, 0), printed: ip });
    }
    let (host, port) = split(address.location())
        .map_err(|reason| ListenError::Location { address: address.clone(), reason: reason.to_owned() })?;
    let port = port.unwrap_or(0);
    let name = match host {
        Host::Ip(ip) if ip.is_unspecified() => {
            let same_family = |interface: &&Interface| ip.is_ipv6() || interface.ip().is_ipv4();
            let candidates: Vec<_> = interfaces.iter().filter(same_family).cloned().collect();
            return Ok(ListenAt { bind: SocketAddr::new(ip, port), printed: routable(&candidates) });
        }
        Host::Ip(ip) => return Ok(ListenAt { bind: SocketAddr::new(ip, port), printed: ip }),
        Host::Name(name) => name,
    };
    let here: Vec<_> = interfaces.iter().filter(|interface| interface.name == name).cloned().collect();
    if let Some(ip) = best(&here, |_| true) {
        return Ok(ListenAt { bind: SocketAddr::new(ip, port), printed: ip });
    }
    match (name.as_str(), port).to_socket_addrs().ok().and_then(|mut found| found.next()) {
        Some(bind) => Ok(ListenAt { bind, printed: bind.ip() }),
        None => {
            let mut known: Vec<_> = interfaces.into_iter().map(|interface| interface.name).collect();
            known.sort();
            known.dedup();
            Err(ListenError::UnknownInterface { address: address.clone(), name, known: known.join(", ") })
        }
    }
}

/// The addresses that a location means to a client. Blocks while it resolves a host name.
pub(super) fn resolve(address: &Address) -> Result<Vec<SocketAddr>, ConnectError> {
    let malformed = |reason| AddressError { text: address.to_string(), reason };
    if address.location().is_empty() {
        return Err(malformed("it names no host and port: use the address that the server printed").into());
    }
    let (host, port) = split(address.location()).map_err(malformed)?;
    let port = match port {
        Some(port) if port != 0 => port,
        _ => return Err(malformed("a client needs the server's port: use the address that the server printed").into()),
    };
    match host {
        Host::Ip(ip) => Ok(vec![SocketAddr::new(ip, port)]),
        Host::Name(name) => match (name.as_str(), port).to_socket_addrs() {
            Ok(found) => Ok(found.collect()),
            Err(source) => Err(ConnectError::Resolve { address: address.clone(), source: Arc::new(source) }),
        },
    }
}

/// Whether resolving the location asks nobody.
pub(crate) fn is_literal(address: &Address) -> bool {
    !matches!(split(address.location()), Ok((Host::Name(_), _)))
}

/// The printed form of a socket address.
pub(super) fn printed(address: SocketAddr) -> Address {
    Address::new(PROTOCOL, &address.to_string())
}

/// The address that other hosts most probably reach this one by: IPv4 before IPv6, loopback only if there is nothing
/// else.
fn routable(interfaces: &[Interface]) -> IpAddr {
    best(interfaces, |ip| !ip.is_loopback())
        .or_else(|| best(interfaces, |_| true))
        .unwrap_or(Ipv4Addr::LOCALHOST.into())
}

fn best(interfaces: &[Interface], wanted: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    let mut ips = interfaces.iter().map(Interface::ip).filter(|ip| wanted(*ip) && !is_link_local(*ip));
    let first = ips.next()?;
    if first.is_ipv4() { Some(first) } else { Some(ips.find(IpAddr::is_ipv4).unwrap_or(first)) }
}

/// Link-local addresses mean nothing without an interface, so they cannot be printed for others to use.
fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use if_addrs::{IfAddr, Ifv4Addr, Ifv6Addr};
    use std::net::Ipv6Addr;

    fn interface(name: &str, ip: &str) -> Interface {
        let addr = match ip.parse().unwrap() {
            IpAddr::V4(ip) => {
                IfAddr::V4(Ifv4Addr { ip, netmask: Ipv4Addr::UNSPECIFIED, prefixlen: 24, broadcast: None })
            }
            IpAddr::V6(ip) => {
                IfAddr::V6(Ifv6Addr { ip, netmask: Ipv6Addr::UNSPECIFIED, prefixlen: 64, broadcast: None })
            }
        };
        Interface { name: name.to_owned(), addr, index: None, oper_status: if_addrs::IfOperStatus::Up, is_p2p: false }
    }

    #[test]
    fn locations_are_split_into_host_and_port() {
        let ip = |text: &str| Host::Ip(text.parse().unwrap());
        let name = |text: &str| Host::Name(text.to_owned());
        for (location, expected) in [
            ("127.0.0.1:80", (ip("127.0.0.1"), Some(80))),
            ("127.0.0.1", (ip("127.0.0.1"), None)),
            ("[::1]:80", (ip("::1"), Some(80))),
            ("[::1]", (ip("::1"), None)),
            ("::1", (ip("::1"), None)),
            ("eth0", (name("eth0"), None)),
            ("eth0:5", (name("eth0"), Some(5))),
            ("node-7.cluster:65535", (name("node-7.cluster"), Some(65535))),
        ] {
            assert_eq!(split(location), Ok(expected), "{location}");
        }
    }

    #[test]
    fn malformed_locations_are_refused() {
        for location in [
            "",
            ":80",
            "host:",
            "host:-1",
            "host:65536",
            "host:+5",
            "[::1",
            "[::1]x",
            "[::1]:99999",
            "a/b",
            "h:1:2",
            "[x]:1",
        ] {
            assert!(split(location).is_err(), "{location}");
        }
    }

    #[test]
    fn a_routable_ipv4_address_is_printed_if_there_is_one() {
        let all = [
            interface("lo", "127.0.0.1"),
            interface("lo", "::1"),
            interface("ib0", "fe80::1"),
            interface("ib0", "fd00::7"),
            interface("eth0", "169.254.3.4"),
            interface("eth0", "192.0.2.9"),
        ];
        assert_eq!(routable(&all).to_string(), "192.0.2.9");
        assert_eq!(routable(&all[..4]).to_string(), "fd00::7");
        assert_eq!(routable(&all[..3]).to_string(), "127.0.0.1");
        assert_eq!(routable(&[]).to_string(), "127.0.0.1");
    }

    #[test]
    fn an_unknown_interface_is_named_with_the_ones_there_are() {
        let error = listen_at(&"tcp://no_such_if0".parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains("no_such_if0") && error.contains("lo"), "{error}");
    }

    #[test]
    fn a_client_address_needs_a_port() {
        for text in ["tcp", "tcp://127.0.0.1", "tcp://127.0.0.1:0"] {
            let error = resolve(&text.parse().unwrap()).unwrap_err().to_string();
            assert!(error.contains("port") || error.contains("host"), "{error}");
        }
    }
}
