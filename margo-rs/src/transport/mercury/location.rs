//! What stands after the `://` of a Mercury address, and what Mercury is to be started with.

use crate::address::Address;
use crate::config::{AddressFormat, MercuryConfig};
use crate::error::{ConnectError, ListenError};
use crate::transport::tcp;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

/// The oldest release that says how long a received message is.
const OLDEST: [u32; 2] = [2, 4];

/// Whether locations of this protocol are hosts with ports, which this crate resolves and checks itself.
fn is_host_and_port(address: &Address) -> bool {
    matches!(base(address.protocol()), "ofi+tcp" | "ofi+sockets")
}

/// A protocol without what Mercury adds to it: `ofi+tcp;ofi_rxm` is `ofi+tcp`.
pub(crate) fn base(protocol: &str) -> &str {
    protocol.split(';').next().unwrap_or(protocol)
}

/// Whether resolving the location asks nobody.
pub(crate) fn is_literal(address: &Address) -> bool {
    !is_host_and_port(address) || tcp::is_literal(address)
}

/// The addresses that `address` stands for. Blocks while it resolves a host name.
pub(crate) fn resolve(address: &Address) -> Result<Vec<Address>, ConnectError> {
    if !is_host_and_port(address) {
        return Ok(vec![address.clone()]);
    }
    let found = tcp::resolve(address)?;
    Ok(found.iter().map(|found| Address::new(address.protocol(), found.location())).collect())
}

/// What Mercury is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Start {
    pub(super) name: String,
    /// The kind of its addresses, where that matters.
    pub(super) format: Option<AddressFormat>,
}

/// What a client starts Mercury with: on the loopback for a server there, and else on the interface that the plugin
/// chooses.
///
/// # Errors
/// The options contradict the address.
pub(super) fn client_start(address: &Address, config: &MercuryConfig) -> Result<Start, ListenError> {
    let (protocol, format) = (address.protocol(), config.na_addr_format);
    if !is_host_and_port(address) {
        return Ok(Start { name: protocol.to_owned(), format });
    }
    let subnet = Subnet::of(config)?;
    let host = host_of(address.location());
    let ip = if host == "localhost" { Some(Ipv4Addr::LOCALHOST.into()) } else { host.parse::<IpAddr>().ok() };
    match (ip, subnet) {
        (Some(ip), _) if ip.is_loopback() => start_at(address, ip, None, format),
        (_, Some(subnet)) => start_at(address, subnet.address_here(address)?, None, format),
        (Some(IpAddr::V6(_)), None) => {
            check_format(address, format, true)?;
            Ok(Start { name: protocol.to_owned(), format: Some(AddressFormat::Ipv6) })
        }
        _ => Ok(Start { name: protocol.to_owned(), format }),
    }
}

/// What a server starts Mercury with. Blocks while it resolves a host name.
///
/// # Errors
/// The address names no interface or host, the port is taken, or the options contradict the address.
pub(super) fn listen_start(address: &Address, config: &MercuryConfig) -> Result<Start, ListenError> {
    let format = config.na_addr_format;
    if !is_host_and_port(address) {
        return Ok(Start { name: address.as_str().to_owned(), format });
    }
    let subnet = Subnet::of(config)?;
    let at = match &subnet {
        Some(subnet) if address.location().is_empty() => SocketAddr::new(subnet.address_here(address)?, 0),
        _ => tcp::listen_at(address)?,
    };
    if let Some(subnet) = subnet.filter(|subnet| !subnet.contains(at.ip())) {
        return Err(ListenError::Option(format!("mercury.ip_subnet: {} is not in {subnet}", at.ip())));
    }
    // Mercury would only say that it does not start.
    match TcpListener::bind(at) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(ListenError::InUse { address: address.clone() }),
        Err(source) => Err(ListenError::Io { address: address.clone(), source }),
        Ok(_) => start_at(address, at.ip(), Some(at.port()).filter(|port| *port != 0), format),
    }
}

/// Mercury takes an IPv4 address as it is. An IPv6 address it would take apart at its colons; the name of an interface
/// it takes, and uses the first IPv6 address there.
fn start_at(
    address: &Address,
    ip: IpAddr,
    port: Option<u16>,
    format: Option<AddressFormat>,
) -> Result<Start, ListenError> {
    check_format(address, format, ip.is_ipv6())?;
    if let IpAddr::V6(ip) = ip
        && ip.segments()[..4] == [0; 4]
    {
        return Err(ListenError::Location {
            address: address.clone(),
            reason: format!(
                "Mercury cannot use {ip}, nor any other address that begins with 64 zero bits; name an \
                             IPv4 address, or use native+tcp"
            ),
        });
    }
    let port = port.map(|port| format!(":{port}")).unwrap_or_default();
    let (host, format) = match ip {
        IpAddr::V4(ip) => (ip.to_string(), format),
        IpAddr::V6(ip) => (interface_of(address, ip)?, Some(AddressFormat::Ipv6)),
    };
    Ok(Start { name: format!("{}://{host}{port}", address.protocol()), format })
}

fn check_format(address: &Address, format: Option<AddressFormat>, is_ipv6: bool) -> Result<(), ListenError> {
    let (wanted, is) = match (format, is_ipv6) {
        (Some(AddressFormat::Ipv4), true) => ("ipv4", "IPv6"),
        (Some(AddressFormat::Ipv6), false) => ("ipv6", "IPv4"),
        _ => return Ok(()),
    };
    Err(ListenError::Option(format!("mercury.na_addr_format: it is {wanted:?}, and {address} is {is}")))
}

/// The interface whose first IPv6 address this is.
fn interface_of(address: &Address, ip: Ipv6Addr) -> Result<String, ListenError> {
    let interfaces = if_addrs::get_if_addrs().map_err(|source| ListenError::Io { address: address.clone(), source })?;
    let firsts = |name: &str| {
        let mut ips = interfaces.iter().filter(|interface| interface.name == name).map(|interface| interface.ip());
        ips.find(IpAddr::is_ipv6)
    };
    let here = interfaces.iter().find(|interface| interface.ip() == IpAddr::V6(ip)).map(|interface| &interface.name);
    match here {
        Some(name) if firsts(name) == Some(IpAddr::V6(ip)) => Ok(name.clone()),
        Some(name) => Err(ListenError::Location {
            address: address.clone(),
            reason: format!(
                "Mercury uses the first IPv6 address of {name} only, and this is another; name that, or an IPv4 \
                 address, or use native+tcp"
            ),
        }),
        None => Err(ListenError::Location {
            address: address.clone(),
            reason: "Mercury listens on IPv6 addresses of interfaces only, and no interface has this one".to_owned(),
        }),
    }
}

/// Why an address cannot be looked up by an engine of a host-and-port protocol whose addresses are IPv6 ones or not.
pub(super) fn other_family(ours_is_ipv6: bool, address: &Address) -> Option<&'static str> {
    if !is_host_and_port(address) {
        return None;
    }
    match (ours_is_ipv6, host_of(address.location()).parse::<IpAddr>().ok()?) {
        (false, IpAddr::V6(_)) => Some(
            "this engine's Mercury speaks IPv4: start it with an IPv6 address, or with \"na_addr_format\": \"ipv6\"",
        ),
        (true, IpAddr::V4(_)) => Some("this engine's Mercury speaks IPv6: start one with an IPv4 address"),
        _ => None,
    }
}

/// The host before the port, without brackets.
fn host_of(location: &str) -> &str {
    if let Some(rest) = location.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    location.split(':').next().unwrap_or(location)
}

/// An IPv4 subnet, `10.0.0.0/8` say. Mercury leaves one aside that no interface is in; here that is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Subnet {
    network: u32,
    bits: u32,
}

impl Subnet {
    fn of(config: &MercuryConfig) -> Result<Option<Self>, ListenError> {
        let Some(text) = &config.ip_subnet else { return Ok(None) };
        let subnet = Self::parse(text).ok_or_else(|| {
            ListenError::Option(format!("mercury.ip_subnet: {text:?} is not an IPv4 subnet such as \"10.0.0.0/8\""))
        })?;
        Ok(Some(subnet))
    }

    fn parse(text: &str) -> Option<Self> {
        let (network, bits) = text.split_once('/')?;
        let (network, bits) = (network.parse::<Ipv4Addr>().ok()?, bits.parse().ok().filter(|bits| *bits <= 32)?);
        Some(Self { network: u32::from(network), bits })
    }

    fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - self.bits).unwrap_or(0)
    }

    fn contains(self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => (u32::from(ip) ^ self.network) & self.mask() == 0,
            IpAddr::V6(_) => false,
        }
    }

    /// An address of this host in it.
    fn address_here(self, address: &Address) -> Result<IpAddr, ListenError> {
        let interfaces =
            if_addrs::get_if_addrs().map_err(|source| ListenError::Io { address: address.clone(), source })?;
        let found = interfaces.iter().map(|interface| interface.ip()).find(|ip| self.contains(*ip));
        found.ok_or_else(|| {
            ListenError::Option(format!("mercury.ip_subnet: no interface of this host has an address in {self}"))
        })
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.network & self.mask()), self.bits)
    }
}

/// Why Mercury may not have started.
pub(super) fn why_not(address: &Address) -> String {
    format!(
        "Mercury does not start with it; with HG_LOG_LEVEL=error in the environment it says why. Was Mercury built with \
         the plugin of {}, and has this host its network?",
        base(address.protocol())
    )
}

/// # Errors
/// This build's Mercury does not say how long a received message is, so that the end of a short one could not be told
/// from what an earlier one left in the buffer.
pub(super) fn check_release(address: &Address) -> Result<(), ListenError> {
    if release_is(OLDEST[0], OLDEST[1]) {
        return Ok(());
    }
    let version = mochi_sys::MERCURY_VERSION.unwrap_or_default();
    Err(ListenError::Location {
        address: address.clone(),
        reason: format!("it needs Mercury 2.4, and this build links {version}"),
    })
}

/// Whether this build links that release of Mercury or a later one.
pub(super) fn release_is(major: u32, minor: u32) -> bool {
    let version = mochi_sys::MERCURY_VERSION.unwrap_or_default();
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    [parts.next().unwrap_or(0), parts.next().unwrap_or(0)] >= [major, minor]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        text.parse().expect("an address")
    }

    fn client_name(text: &str) -> String {
        client_start(&address(text), &MercuryConfig::default()).expect("it starts").name
    }

    fn within(subnet: &str) -> MercuryConfig {
        MercuryConfig { ip_subnet: Some(subnet.to_owned()), ..MercuryConfig::default() }
    }

    #[test]
    fn a_client_of_a_loopback_server_keeps_to_the_loopback() {
        for server in ["ofi+tcp://127.0.0.1:80", "ofi+tcp://127.0.0.1", "ofi+tcp://localhost:80"] {
            assert_eq!(client_name(server), "ofi+tcp://127.0.0.1", "{server}");
        }
        assert_eq!(client_name("ofi+tcp;ofi_rxm://127.0.0.1:80"), "ofi+tcp;ofi_rxm://127.0.0.1");
        for server in ["ofi+tcp", "ofi+tcp://192.0.2.1:80", "ofi+tcp://node7:80"] {
            assert_eq!(client_name(server), "ofi+tcp", "{server}");
        }
        assert_eq!(client_name("na+sm://127-0"), "na+sm");
    }

    #[test]
    fn subnets_hold_their_addresses() {
        let holds = |subnet: &str, ip: &str| Subnet::parse(subnet).expect(subnet).contains(ip.parse().expect(ip));
        assert!(holds("10.0.0.0/8", "10.255.0.1") && !holds("10.0.0.0/8", "11.0.0.1"));
        assert!(holds("0.0.0.0/0", "192.0.2.1") && !holds("0.0.0.0/0", "::1"));
        assert!(holds("192.0.2.7/32", "192.0.2.7") && !holds("192.0.2.7/32", "192.0.2.6"));
        for wrong in ["", "10.0.0.0", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0/8", "::/0", "eth0"] {
            assert_eq!(Subnet::parse(wrong), None, "{wrong}");
        }
        assert_eq!(Subnet::parse("10.1.2.3/8").map(|subnet| subnet.to_string()).as_deref(), Some("10.0.0.0/8"));
    }

    #[test]
    fn a_subnet_chooses_the_address_or_is_an_error() {
        let start = listen_start(&address("ofi+tcp"), &within("127.0.0.0/8")).expect("it starts");
        assert_eq!(start.name, "ofi+tcp://127.0.0.1");
        let start = client_start(&address("ofi+tcp"), &within("127.0.0.0/8")).expect("it starts");
        assert_eq!(start.name, "ofi+tcp://127.0.0.1");
        // Nobody has an address for documentation.
        for (listen, subnet) in [("ofi+tcp", "203.0.113.0/24"), ("ofi+tcp://127.0.0.1", "10.0.0.0/8"), ("ofi+tcp", "x")]
        {
            let error = listen_start(&address(listen), &within(subnet)).expect_err(subnet).to_string();
            assert!(error.contains("mercury.ip_subnet") && error.contains(subnet), "{error}");
        }
    }

    #[test]
    fn ipv6_addresses_are_those_of_an_interface() {
        let refused = |text: &str| listen_start(&address(text), &MercuryConfig::default()).expect_err(text).to_string();
        if TcpListener::bind("[::1]:0").is_ok() {
            assert!(refused("ofi+tcp://[::1]:0").contains("IPv4 address"));
        }
        assert!(refused("ofi+tcp://[2001:db8::1]:0").contains("2001:db8::1"));
        let foreign = "2001:db8::1".parse().expect("an address");
        let error = interface_of(&address("ofi+tcp"), foreign).expect_err("nobody has it").to_string();
        assert!(error.contains("no interface has this one"), "{error}");
        let start = client_start(&address("ofi+tcp://[2001:db8::1]:80"), &MercuryConfig::default()).expect("it starts");
        assert_eq!(start, Start { name: "ofi+tcp".to_owned(), format: Some(AddressFormat::Ipv6) });
        let ipv4 = MercuryConfig { na_addr_format: Some(AddressFormat::Ipv4), ..MercuryConfig::default() };
        let error =
            client_start(&address("ofi+tcp://[2001:db8::1]:80"), &ipv4).expect_err("it contradicts").to_string();
        assert!(error.contains("mercury.na_addr_format"), "{error}");
    }

    #[test]
    fn addresses_of_the_other_family_are_told() {
        assert!(other_family(false, &address("ofi+tcp://[::1]:80")).is_some_and(|why| why.contains("IPv4")));
        assert!(other_family(true, &address("ofi+tcp://127.0.0.1:80")).is_some_and(|why| why.contains("IPv6")));
        for text in ["ofi+tcp://127.0.0.1:80", "ofi+tcp://node7:80", "na+sm://1-0"] {
            assert_eq!(other_family(false, &address(text)), None, "{text}");
        }
        assert_eq!(host_of("[fe80::1]:5"), "fe80::1");
    }

    #[test]
    fn host_names_are_resolved_and_other_locations_left_alone() {
        let found = resolve(&address("ofi+tcp;ofi_rxm://127.0.0.1:80")).expect("an address");
        assert_eq!(found, [address("ofi+tcp;ofi_rxm://127.0.0.1:80")]);
        assert_eq!(resolve(&address("na+sm://1-0")).expect("an address"), [address("na+sm://1-0")]);
        assert!(!is_literal(&address("ofi+tcp://localhost:80")) && is_literal(&address("na+sm://a")));
    }
}
