//! What stands after the `://` of a Mercury address, and what Mercury is to be started with.

use crate::address::Address;
use crate::error::{ConnectError, ListenError};
use crate::transport::tcp;
use std::io;
use std::net::{IpAddr, Ipv4Addr, TcpListener};

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

/// What a client starts Mercury with.
pub(super) fn client_name(address: &Address) -> String {
    let host = address.location().rsplit_once(':').map_or(address.location(), |(host, _)| host);
    let loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback() && ip.is_ipv4());
    match is_host_and_port(address) && loopback {
        true => format!("{}://{}", address.protocol(), Ipv4Addr::LOCALHOST),
        false => address.protocol().to_owned(),
    }
}

/// What a server starts Mercury with. Blocks while it resolves a host name.
///
/// # Errors
/// The address names no interface or host, or the port is taken.
pub(super) fn listen_name(address: &Address) -> Result<String, ListenError> {
    if !is_host_and_port(address) {
        return Ok(address.as_str().to_owned());
    }
    let at = tcp::listen_at(address)?;
    if at.ip().is_ipv6() {
        return Err(ListenError::Location {
            address: address.clone(),
            reason: "IPv6 is not supported over Mercury; name an IPv4 address or interface, or use native+tcp"
                .to_owned(),
        });
    }
    // Mercury would only say that it does not start.
    match TcpListener::bind(at) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(ListenError::InUse { address: address.clone() }),
        Err(source) => Err(ListenError::Io { address: address.clone(), source }),
        Ok(_) if at.port() == 0 => Ok(format!("{}://{}", address.protocol(), at.ip())),
        Ok(_) => Ok(format!("{}://{at}", address.protocol())),
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
    let version = mochi_sys::MERCURY_VERSION.unwrap_or_default();
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    if [parts.next().unwrap_or(0), parts.next().unwrap_or(0)] >= OLDEST {
        return Ok(());
    }
    Err(ListenError::Location {
        address: address.clone(),
        reason: format!("it needs Mercury 2.4, and this build links {version}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        text.parse().expect("an address")
    }

    #[test]
    fn a_client_of_a_loopback_server_keeps_to_the_loopback() {
        for server in ["ofi+tcp://127.0.0.1:80", "ofi+tcp://127.0.0.1", "ofi+tcp://localhost:80"] {
            assert_eq!(client_name(&address(server)), "ofi+tcp://127.0.0.1", "{server}");
        }
        assert_eq!(client_name(&address("ofi+tcp;ofi_rxm://127.0.0.1:80")), "ofi+tcp;ofi_rxm://127.0.0.1");
        for server in ["ofi+tcp", "ofi+tcp://192.0.2.1:80", "ofi+tcp://node7:80"] {
            assert_eq!(client_name(&address(server)), "ofi+tcp", "{server}");
        }
        assert_eq!(client_name(&address("na+sm://127-0")), "na+sm");
    }

    #[test]
    fn host_names_are_resolved_and_other_locations_left_alone() {
        let found = resolve(&address("ofi+tcp;ofi_rxm://127.0.0.1:80")).expect("an address");
        assert_eq!(found, [address("ofi+tcp;ofi_rxm://127.0.0.1:80")]);
        assert_eq!(resolve(&address("na+sm://1-0")).expect("an address"), [address("na+sm://1-0")]);
        assert!(!is_literal(&address("ofi+tcp://localhost:80")) && is_literal(&address("na+sm://a")));
    }
}
