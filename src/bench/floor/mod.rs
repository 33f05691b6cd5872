//! The floors of calls and bulk transfers: the same bytes, moved by the same means, and nothing else. Under Mercury, where
//! Margo is installed, it is Margo.

pub(super) mod cipher;
mod copy;
mod mapping;
mod margo;
pub(super) mod shared;
pub(super) mod stream;
pub(super) mod tcp;
mod waiting;

use margo_rs::Address;
use mochi_rs::program::Outcome;

pub(super) use self::margo::Margo;
use self::waiting::Waiting;
use super::case::{Case, Kind};
use super::rounds::Span;
use super::sample::Sample;
use super::target::SAME_NODE;
use super::{Setup, machine};

/// What is under a transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ground {
    Tcp,
    SharedMemory,
}

/// What is under a transport, as far as it is known.
fn ground(transport: &str) -> Option<Ground> {
    if transport == SAME_NODE {
        return Some(Ground::SharedMemory);
    }
    let address: Address = transport.parse().ok()?;
    let protocol = address.protocol();
    let ends_with = |name| protocol.rsplit('+').next() == Some(name);
    match protocol {
        _ if ends_with("tcp") => Some(Ground::Tcp),
        _ if ends_with("sm") => Some(Ground::SharedMemory),
        _ => None,
    }
}

/// Whether it makes a difference over the transport which memory bulk data is in.
pub(super) fn has_memory_of_its_own(transport: &str) -> bool {
    // Mercury's copies once whatever the memory is.
    transport.parse().is_ok_and(|address: Address| matches!(address.protocol(), "sm" | "native+sm"))
}

/// Measures the floor of the case, an echo or a bulk transfer. `None` where there is none: under a network that is not
/// known here, and towards a server that runs elsewhere.
pub(super) fn measure(setup: &Setup<'_>, case: Case, span: Span) -> Outcome<Option<Sample>> {
    if setup.options.server.is_some() {
        return Ok(None);
    }
    if let Some(Ok(margo)) = setup.margo {
        return margo.measure(setup, case, span).map(Some);
    }
    let moves = case.kind.moves();
    let sample = match ground(setup.transport) {
        None => return Ok(None),
        Some(Ground::Tcp) if moves => stream::measure(setup, case, span)?,
        Some(Ground::Tcp) => better(setup, case, span, tcp::measure)?,
        Some(Ground::SharedMemory) if moves => copy::measure(case, span)?,
        Some(Ground::SharedMemory) => better(setup, case, span, shared::measure)?,
    };
    Ok(Some(sample))
}

/// Whether a transport is one of Mercury's, which others than us can use.
pub(super) fn is_mercurys(transport: &str) -> bool {
    transport != SAME_NODE && transport.parse().is_ok_and(|address: Address| !address.protocol().starts_with("native+"))
}

/// What the floor of the case is, where it depends on what is installed.
pub(super) fn name(setup: &Setup<'_>, case: Case) -> Option<String> {
    let is_bare = !case.sealed && matches!(case.kind, Kind::Call | Kind::Pull | Kind::Push);
    match setup.margo.filter(|_| is_bare && setup.options.server.is_none())? {
        Ok(margo) => Some(margo.name()),
        Err(reason) => ground(setup.transport).map(|_| format!("no Mercury: {reason}")),
    }
}

/// The better of spinning without end and of giving the processor to others between two looks, which is slower unless
/// others want it.
fn better(
    setup: &Setup<'_>,
    case: Case,
    span: Span,
    measure: fn(&Setup<'_>, Case, Span, bool) -> Outcome<Sample>,
) -> Outcome<Sample> {
    let shared = match setup.options.pin {
        Some(pins) => pins.client == pins.server,
        None => machine::processors() == 1,
    };
    if shared {
        // Without giving way, each would use up its time slice before the other can answer.
        return measure(setup, case, span, true);
    }
    let half = Span { duration: span.duration / 2, ..span };
    let greedy = measure(setup, case, half, false)?;
    let polite = measure(setup, case, half, true)?;
    Ok(case.aspect().better(greedy, polite))
}

/// Arguments of both echoes' server processes.
fn echo_arguments(setup: &Setup<'_>, case: Case, polite: bool) -> Vec<String> {
    let mut arguments = vec![format!("--frame={}", case.size), format!("--in-flight={}", case.count)];
    arguments.extend(setup.options.pin.map(|pins| format!("--pin={}", pins.server)));
    if polite {
        arguments.push("--polite".to_owned());
    }
    arguments
}

/// What an echo's server process is told.
#[derive(clap::Args)]
pub(crate) struct EchoArguments {
    /// Bytes of payload
    #[arg(long)]
    frame: usize,
    #[arg(long)]
    in_flight: usize,
    #[arg(long)]
    pin: Option<usize>,
    /// Let others have the processor between two looks
    #[arg(long)]
    polite: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ground_of_a_transport_is_known_by_its_protocol() {
        for tcp in ["tcp", "native+tcp://127.0.0.1:0", "ofi+tcp"] {
            assert_eq!(ground(tcp), Some(Ground::Tcp), "{tcp}");
        }
        for memory in ["sm", "native+sm", "na+sm", "same-node"] {
            assert_eq!(ground(memory), Some(Ground::SharedMemory), "{memory}");
        }
        assert!(
            is_mercurys("ofi+tcp://127.0.0.1")
                && is_mercurys("na+sm")
                && !is_mercurys("native+tcp")
                && !is_mercurys(SAME_NODE)
        );
        assert_eq!(ground("ofi+verbs"), None);
        assert_eq!(ground("ofi+cxi"), None);
    }
}
