//! Which transport an address means, in this build.

use super::sm::{self, SmTransport};
use super::tcp::{self, TcpTransport};
use super::{Acceptor, SameNode, Transport};
use crate::address::Address;
use crate::error::{ConnectError, ListenError, UnsupportedProtocol};
use crate::limits::Limits;
use std::sync::Arc;

#[cfg(mercury)]
use super::mercury::{self, MercuryTransport};

/// A transport that was started, and how to say where the links go that peers open.
pub(crate) struct Started {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) set_acceptor: Box<dyn FnOnce(Arc<dyn Acceptor>)>,
}

/// Starts the transport of an address. Blocks while a host name is resolved. `same_node` is for `native+tcp` alone.
///
/// # Errors
/// See [`Engine::listen`](crate::Engine::listen).
pub(crate) fn start(
    address: &Address,
    listening: bool,
    limits: &Limits,
    instance: u64,
    same_node: bool,
) -> Result<Started, ListenError> {
    #[cfg(mercury)]
    if is_mercury(address.protocol()) {
        let mercury = Arc::new(if listening {
            MercuryTransport::listen(address, limits.clone())?
        } else {
            MercuryTransport::client(address, limits.clone())?
        });
        let transport = mercury.clone();
        return Ok(Started { transport, set_acceptor: Box::new(move |acceptor| mercury.set_acceptor(acceptor)) });
    }
    if address.protocol() == sm::PROTOCOL {
        let sm = Arc::new(if listening {
            SmTransport::listen(address, limits.clone(), instance)?
        } else {
            SmTransport::client(limits.clone(), instance)?
        });
        let transport = sm.clone();
        return Ok(Started { transport, set_acceptor: Box::new(move |acceptor| sm.set_acceptor(acceptor)) });
    }
    if same_node {
        let node = Arc::new(if listening {
            SameNode::listen(address, limits.clone(), instance)?
        } else {
            SameNode::client(limits.clone(), instance)?
        });
        let transport = node.clone();
        return Ok(Started { transport, set_acceptor: Box::new(move |acceptor| node.set_acceptor(acceptor)) });
    }
    let tcp = Arc::new(if listening {
        TcpTransport::listen(address, limits.clone(), instance)?
    } else {
        TcpTransport::client(limits.clone(), instance)?
    });
    let transport = tcp.clone();
    Ok(Started { transport, set_acceptor: Box::new(move |acceptor| tcp.set_acceptor(acceptor)) })
}

/// Whether resolving the location of an address asks nobody.
pub(crate) fn is_literal(address: &Address) -> bool {
    #[cfg(mercury)]
    if is_mercury(address.protocol()) {
        return mercury::is_literal(address);
    }
    address.protocol() == sm::PROTOCOL || tcp::is_literal(address)
}

/// The addresses that `address` stands for, in full. Blocks while it resolves a host name.
///
/// # Errors
/// The host is not known, or the address names none, or no server where its protocol has those.
pub(crate) fn resolve(address: &Address) -> Result<Vec<Address>, ConnectError> {
    #[cfg(mercury)]
    if is_mercury(address.protocol()) {
        return mercury::resolve(address);
    }
    if address.protocol() == sm::PROTOCOL {
        return Ok(vec![sm::resolve(address)?]);
    }
    tcp::resolve(address)
}

/// An address in the words of the engine whose own address is `ours`, or `None` if it is of another protocol. Mercury
/// has several names for some of its protocols.
pub(crate) fn in_words_of(ours: &Address, address: &Address) -> Option<Address> {
    let base = |address: &Address| address.protocol().split(';').next().map(str::to_owned);
    (base(ours) == base(address)).then(|| Address::new(ours.protocol(), address.location()))
}

/// # Errors
/// The protocol is not part of this build.
pub(crate) fn check_protocol(address: &Address) -> Result<(), UnsupportedProtocol> {
    match protocol_help(address.protocol()) {
        None => Ok(()),
        Some(help) => Err(UnsupportedProtocol { protocol: address.protocol().to_owned(), help }),
    }
}

/// Why a protocol cannot be used here and what to do, or `None` if it can.
pub fn protocol_help(protocol: &str) -> Option<String> {
    if protocol == tcp::PROTOCOL || protocol == sm::PROTOCOL || (cfg!(mercury) && is_mercury(protocol)) {
        return None;
    }
    Some(match protocol {
        _ if is_mercury(protocol) => {
            format!(
                "it needs Mercury, which this build does not link: {}; or use native+tcp, which needs no C library",
                mochi_sys::HOW_TO_INSTALL
            )
        }
        _ => "no transport has that name; use tcp, or a full name such as native+tcp".to_owned(),
    })
}

/// Protocols that Mercury's plugins know.
fn is_mercury(protocol: &str) -> bool {
    let plugin = protocol.split('+').next().unwrap_or("");
    let bare = protocol.split(';').next().unwrap_or("");
    matches!(plugin, "ofi" | "ucx" | "na" | "bmi" | "mpi" | "psm" | "psm2")
        || matches!(bare, "verbs" | "cxi" | "psm2" | "psm" | "opx" | "gni" | "shm" | "sockets")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_that_are_not_here_say_what_to_do() {
        assert_eq!(protocol_help("native+tcp"), None);
        for protocol in ["ofi+tcp", "ofi+verbs;ofi_rxm", "na+sm", "ucx+all", "cxi", "verbs"] {
            let help = protocol_help(protocol);
            assert_eq!(help.is_none(), mochi_sys::LINKED, "{protocol}");
            assert!(help.is_none_or(|help| help.contains("Mercury")), "{protocol}");
        }
        assert_eq!(protocol_help("native+sm"), None);
        assert!(protocol_help("http").is_some_and(|help| help.contains("no transport")));
    }

    #[test]
    fn one_protocol_under_two_names_is_one() {
        let parse = |text: &str| text.parse::<Address>().expect("an address");
        let ours = parse("ofi+tcp;ofi_rxm://127.0.0.1:80");
        assert_eq!(in_words_of(&ours, &parse("ofi+tcp://127.0.0.1:80")), Some(ours.clone()));
        assert_eq!(in_words_of(&ours, &parse("native+tcp://127.0.0.1:80")), None);
    }
}
