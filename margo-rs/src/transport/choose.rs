//! Which transport an address means, in this build.

use super::sm::{self, SmTransport};
use super::tcp::{self, TcpTransport};
use super::{Acceptor, SameNode, Transport};
use crate::address::Address;
use crate::config::MercuryConfig;
use crate::error::{ConnectError, ListenError, UnsupportedProtocol};
use crate::limits::Limits;
use std::sync::Arc;

#[cfg(mercury)]
use super::mercury::{self, GivenContext, MercuryTransport};

/// The protocol of addresses that Mercury gives to a server on shared memory and a network at once.
const EITHER: &str = "uid";

/// A transport that was started, and how to say where the links go that peers open.
pub(crate) struct Started {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) set_acceptor: Box<dyn FnOnce(Arc<dyn Acceptor>)>,
    /// The options of Mercury in effect, if it is Mercury.
    pub(crate) mercury: Option<MercuryConfig>,
}

/// What a transport is started with.
pub(crate) struct Options<'a> {
    pub(crate) limits: &'a Limits,
    /// Random, to tell engines apart.
    pub(crate) instance: u64,
    /// For `native+tcp` alone.
    pub(crate) same_node: bool,
    /// For Mercury alone.
    pub(crate) mercury: Option<&'a MercuryConfig>,
    /// The engine never parks while anything is in flight.
    #[cfg(mercury)]
    pub(crate) busy: bool,
    /// A Mercury that runs already.
    #[cfg(mercury)]
    pub(crate) given: Option<GivenContext>,
}

/// Whether an engine that is busy may spare the network the trouble of waking who waits. Not over Mercury's shared memory:
/// there, processes that can be woken and such that cannot do not reach each other.
#[cfg(mercury)]
fn may_not_block(protocol: &str, config: &MercuryConfig) -> bool {
    protocol.starts_with("ofi+") && config.auto_sm != Some(true)
}

/// Starts the transport of an address. Blocks while a host name is resolved.
///
/// # Errors
/// See [`Engine::listen`](crate::Engine::listen).
pub(crate) fn start(address: &Address, listening: bool, options: Options<'_>) -> Result<Started, ListenError> {
    let Options { limits, instance, same_node, mercury, .. } = options;
    #[cfg(mercury)]
    if options.given.is_some() || is_mercury(address.protocol()) {
        let defaults = MercuryConfig::default();
        let config = mercury.unwrap_or(&defaults);
        let mercury = Arc::new(match options.given {
            Some(given) => {
                if let Some(key) = config.first_key() {
                    let reason = "the Mercury that was given has been started with its options already";
                    return Err(ListenError::Option(format!("mercury.{key}: {reason}")));
                }
                MercuryTransport::on(given, address, limits.clone(), listening)?
            }
            None => {
                let mut config = config.clone();
                if options.busy && may_not_block(address.protocol(), &config) {
                    config.na_no_block.get_or_insert(true);
                }
                match listening {
                    true => MercuryTransport::listen(address, limits.clone(), &config)?,
                    false => MercuryTransport::client(address, limits.clone(), &config)?,
                }
            }
        });
        let (transport, config) = (mercury.clone(), mercury.config().clone());
        let set_acceptor = Box::new(move |acceptor| mercury.set_acceptor(acceptor));
        return Ok(Started { transport, set_acceptor, mercury: Some(config) });
    }
    if let Some(key) = mercury.and_then(MercuryConfig::first_key) {
        let protocol = address.protocol();
        return Err(ListenError::Option(format!(
            "mercury.{key} has no meaning for {protocol}, which is not Mercury's"
        )));
    }
    if address.protocol() == sm::PROTOCOL {
        let sm = Arc::new(if listening {
            SmTransport::listen(address, limits.clone(), instance)?
        } else {
            SmTransport::client(limits.clone(), instance)?
        });
        let transport = sm.clone();
        let set_acceptor = Box::new(move |acceptor| sm.set_acceptor(acceptor));
        return Ok(Started { transport, set_acceptor, mercury: None });
    }
    if same_node {
        let node = Arc::new(if listening {
            SameNode::listen(address, limits.clone(), instance)?
        } else {
            SameNode::client(limits.clone(), instance)?
        });
        let transport = node.clone();
        let set_acceptor = Box::new(move |acceptor| node.set_acceptor(acceptor));
        return Ok(Started { transport, set_acceptor, mercury: None });
    }
    let tcp = Arc::new(if listening {
        TcpTransport::listen(address, limits.clone(), instance)?
    } else {
        TcpTransport::client(limits.clone(), instance)?
    });
    let transport = tcp.clone();
    let set_acceptor = Box::new(move |acceptor| tcp.set_acceptor(acceptor));
    Ok(Started { transport, set_acceptor, mercury: None })
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
/// has several names for some of its protocols, and addresses of two protocols at once (`auto_sm`).
pub(crate) fn in_words_of(ours: &Address, address: &Address) -> Option<Address> {
    if address == ours {
        return Some(address.clone());
    }
    let base = |address: &Address| address.protocol().split(';').next().map(str::to_owned);
    match (over_network(ours), over_network(address)) {
        (None, None) => (base(ours) == base(address)).then(|| Address::new(ours.protocol(), address.location())),
        (our, their) => {
            let (our, their) = (our.as_ref().unwrap_or(ours), their.as_ref().unwrap_or(address));
            (base(our) == base(their)).then(|| address.clone())
        }
    }
}

/// What an address of two protocols (`uid://7#na+sm://31404-0#ofi+tcp://192.0.2.2:36377`) is over the network.
pub(crate) fn over_network(address: &Address) -> Option<Address> {
    (address.protocol() == EITHER).then(|| address.location().rsplit('#').next()?.parse().ok())?
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
        || protocol == EITHER
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

    #[test]
    fn an_address_of_two_protocols_is_one_of_the_network() {
        let parse = |text: &str| text.parse::<Address>().expect("an address");
        let either = parse("uid://8323328#na+sm://30777-0#ofi+tcp;ofi_rxm://192.0.2.2:36751");
        assert_eq!(over_network(&either), Some(parse("ofi+tcp;ofi_rxm://192.0.2.2:36751")));
        assert_eq!(in_words_of(&parse("ofi+tcp"), &either), Some(either.clone()));
        assert_eq!(in_words_of(&either, &parse("ofi+tcp://192.0.2.3:1")), Some(parse("ofi+tcp://192.0.2.3:1")));
        assert_eq!(in_words_of(&parse("na+sm"), &either), None);
        assert_eq!(in_words_of(&parse("ofi+tcp"), &parse("uid://nonsense")), None);
        assert_eq!(over_network(&parse("ofi+tcp://127.0.0.1:80")), None);
    }
}
