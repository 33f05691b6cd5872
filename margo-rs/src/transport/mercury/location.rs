//! What stands after the `://` of a Mercury address, and what Mercury is to be started with.

use crate::address::{Address, AddressError};
use crate::config::{AddressFormat, MercuryConfig};
use crate::error::{ConnectError, ListenError};
use crate::transport::tcp;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

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
        if address.location().is_empty() {
            let reason = "it names no server: use the address that the server printed";
            return Err(AddressError { text: address.to_string(), reason }.into());
        }
        return Ok(vec![address.clone()]);
    }
    let found = tcp::resolve(address)?;
    Ok(found.iter().map(|found| Address::new(address.protocol(), found.location())).collect())
}

/// Why IPv6 is refused: requests over `ofi+tcp` name their sender by its address in front of the message. Mercury's libfabric
/// plugin reads an IPv6 one back without its family (2.2.0 to 2.4.1; mercury-hpc/mercury#858 has a fix), and libfabric
/// takes no such address, so that the receiver drops the request before anybody above the plugin sees it. The plugin
/// also takes `::1` for no address at all.
const NO_IPV6: &str = "Mercury drops requests from IPv6 addresses, which it cannot read back; name an IPv4 address or interface, or use \
     native+tcp";

/// What a client starts Mercury with: on the loopback for a server there, and else on the interface that the plugin
/// chooses.
///
/// # Errors
/// The address is an IPv6 one, or no interface is in the subnet that is asked for.
pub(super) fn client_name(address: &Address, config: &MercuryConfig) -> Result<String, ListenError> {
    let protocol = address.protocol();
    if !is_host_and_port(address) {
        return Ok(protocol.to_owned());
    }
    let subnet = Subnet::of(config)?;
    let host = host_of(address.location());
    let ip = if host == "localhost" { Some(Ipv4Addr::LOCALHOST.into()) } else { host.parse::<IpAddr>().ok() };
    check_family(address, ip, config)?;
    match (ip, subnet) {
        (Some(ip), _) if ip.is_loopback() => Ok(format!("{protocol}://{}", Ipv4Addr::LOCALHOST)),
        (_, Some(subnet)) => Ok(format!("{protocol}://{}", subnet.address_here(address)?)),
        _ => Ok(protocol.to_owned()),
    }
}

/// What a server starts Mercury with. Blocks while it resolves a host name.
///
/// # Errors
/// The address names no interface or host, or an IPv6 address, or one outside of the subnet that is asked for, or the port
/// is taken.
pub(super) fn listen_name(address: &Address, config: &MercuryConfig) -> Result<String, ListenError> {
    if !is_host_and_port(address) {
        return Ok(address.as_str().to_owned());
    }
    let subnet = Subnet::of(config)?;
    let at = match &subnet {
        Some(subnet) if address.location().is_empty() => SocketAddr::new(subnet.address_here(address)?, 0),
        _ => tcp::listen_at(address)?,
    };
    check_family(address, Some(at.ip()), config)?;
    if let Some(subnet) = subnet.filter(|subnet| !subnet.contains(at.ip())) {
        return Err(ListenError::Option(format!("mercury.ip_subnet: {} is not in {subnet}", at.ip())));
    }
    // Mercury would only say that it does not start.
    match TcpListener::bind(at) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(ListenError::InUse { address: address.clone() }),
        Err(source) => Err(ListenError::Io { address: address.clone(), source }),
        Ok(_) if at.port() == 0 => Ok(format!("{}://{}", address.protocol(), at.ip())),
        Ok(_) => Ok(format!("{}://{at}", address.protocol())),
    }
}

fn check_family(address: &Address, ip: Option<IpAddr>, config: &MercuryConfig) -> Result<(), ListenError> {
    if ip.is_some_and(|ip| ip.is_ipv6()) {
        return Err(ListenError::Location { address: address.clone(), reason: NO_IPV6.to_owned() });
    }
    match config.na_addr_format {
        Some(AddressFormat::Ipv6) => Err(ListenError::Option(format!("mercury.na_addr_format: {NO_IPV6}"))),
        _ => Ok(()),
    }
}

/// Why an address cannot be looked up, whatever is there.
pub(super) fn why_unreachable(address: &Address) -> Option<&'static str> {
    let is_ipv6 = || host_of(address.location()).parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6());
    (is_host_and_port(address) && is_ipv6()).then_some(NO_IPV6)
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
        "Mercury's plugin {} does not start here; with HG_LOG_LEVEL=error in the environment it says why. It must be built \
         into Mercury (spack.yaml says how), and this host must have its network; native+tcp works without",
        base(address.protocol())
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        text.parse().expect("an address")
    }

    fn client_of(text: &str) -> String {
        client_name(&address(text), &MercuryConfig::default()).expect("it starts")
    }

    fn within(subnet: &str) -> MercuryConfig {
        MercuryConfig { ip_subnet: Some(subnet.to_owned()), ..MercuryConfig::default() }
    }

    #[test]
    fn a_client_of_a_loopback_server_keeps_to_the_loopback() {
        for server in ["ofi+tcp://127.0.0.1:80", "ofi+tcp://127.0.0.1", "ofi+tcp://localhost:80"] {
            assert_eq!(client_of(server), "ofi+tcp://127.0.0.1", "{server}");
        }
        assert_eq!(client_of("ofi+tcp;ofi_rxm://127.0.0.1:80"), "ofi+tcp;ofi_rxm://127.0.0.1");
        for server in ["ofi+tcp", "ofi+tcp://192.0.2.1:80", "ofi+tcp://node7:80"] {
            assert_eq!(client_of(server), "ofi+tcp", "{server}");
        }
        assert_eq!(client_of("na+sm://127-0"), "na+sm");
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
        let name = listen_name(&address("ofi+tcp"), &within("127.0.0.0/8")).expect("it starts");
        assert_eq!(name, "ofi+tcp://127.0.0.1");
        let name = client_name(&address("ofi+tcp"), &within("127.0.0.0/8")).expect("it starts");
        assert_eq!(name, "ofi+tcp://127.0.0.1");
        // Nobody has an address for documentation.
        for (listen, subnet) in [("ofi+tcp", "203.0.113.0/24"), ("ofi+tcp://127.0.0.1", "10.0.0.0/8"), ("ofi+tcp", "x")]
        {
            let error = listen_name(&address(listen), &within(subnet)).expect_err(subnet).to_string();
            assert!(error.contains("mercury.ip_subnet") && error.contains(subnet), "{error}");
        }
    }

    #[test]
    fn ipv6_is_refused_with_a_way_out() {
        let default = MercuryConfig::default();
        let ipv6 = MercuryConfig { na_addr_format: Some(AddressFormat::Ipv6), ..MercuryConfig::default() };
        for (result, reason) in [
            (listen_name(&address("ofi+tcp://[::1]:0"), &default), "IPv4"),
            (client_name(&address("ofi+tcp://[2001:db8::1]:80"), &default), "IPv4"),
            (listen_name(&address("ofi+tcp://127.0.0.1"), &ipv6), "mercury.na_addr_format"),
            (client_name(&address("ofi+tcp"), &ipv6), "mercury.na_addr_format"),
        ] {
            let error = result.expect_err(reason).to_string();
            assert!(error.contains(reason) && error.contains("native+tcp"), "{error}");
        }
        assert!(why_unreachable(&address("ofi+tcp;ofi_rxm://[::1]:80")).is_some());
        for text in ["ofi+tcp://127.0.0.1:80", "ofi+tcp://node7:80", "na+sm://1-0"] {
            assert_eq!(why_unreachable(&address(text)), None, "{text}");
        }
        assert_eq!(host_of("[fe80::1]:5"), "fe80::1");
    }

    #[test]
    fn host_names_are_resolved_and_other_locations_left_alone() {
        let found = resolve(&address("ofi+tcp;ofi_rxm://127.0.0.1:80")).expect("an address");
        assert_eq!(found, [address("ofi+tcp;ofi_rxm://127.0.0.1:80")]);
        assert_eq!(resolve(&address("na+sm://1-0")).expect("an address"), [address("na+sm://1-0")]);
        assert!(!is_literal(&address("ofi+tcp://localhost:80")) && is_literal(&address("na+sm://a")));
        for nobody in ["na+sm", "ofi+tcp", "ofi+cxi", "uid"] {
            let error = resolve(&address(nobody)).expect_err(nobody).to_string();
            assert!(error.contains("the address that the server printed"), "{error}");
        }
    }
}
