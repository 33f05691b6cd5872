//! Whether a peer that does not answer may still touch memory that it was granted.
//!
//! A network card forgets memory when it is told to, which happens before the memory is given back. Where software moves
//! the bytes, a transfer that has begun goes on whatever the owner does, as long as the other process lives.

use crate::address::Address;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longest wait for a host that says nothing.
const CONNECT: Duration = Duration::from_secs(1);

/// Whether nothing of the peer touches memory of ours any more. May block for a second.
pub(super) fn is_out_of_reach(peer: &Address) -> bool {
    let protocol = peer.protocol().split(';').next().unwrap_or_default();
    match protocol {
        "na+sm" => peer.location().split('-').next().and_then(|pid| pid.parse().ok()).is_some_and(is_gone),
        "ofi+tcp" | "ofi+sockets" => peer.location().parse().is_ok_and(is_refused),
        "ofi+verbs" | "ofi+cxi" | "ofi+psm2" | "ofi+opx" | "ofi+gni" => true,
        // Not known: its memory stays until the engine ends.
        _ => false,
    }
}

/// Whether a process of this host has ended.
fn is_gone(pid: u32) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        // One that is only waited for by its parent has no memory and no threads.
        Ok(stat) => stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with(['Z', 'X'])),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Whether the peer's host says that nobody listens there. Every engine on libfabric does as long as it lives.
fn is_refused(at: SocketAddr) -> bool {
    let refused = TcpStream::connect_timeout(&at, CONNECT);
    refused.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::process::Command;

    fn is_out(address: String) -> bool {
        is_out_of_reach(&address.parse().expect("an address"))
    }

    #[test]
    fn only_processes_that_have_ended_are_out_of_reach() {
        assert!(!is_out(format!("na+sm://{}-0", std::process::id())));
        let mut child = Command::new("true").spawn().expect("a process");
        let pid = child.id();
        while !is_out(format!("na+sm://{pid}-3")) {
            // It ends, and stays behind until it is waited for.
            std::thread::yield_now();
        }
        child.wait().expect("it has ended");
        assert!(!is_out("na+sm://nonsense".to_owned()));
    }

    #[test]
    fn only_ports_that_refuse_are_out_of_reach() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("it has one");
        assert!(!is_out(format!("ofi+tcp;ofi_rxm://{address}")));
        drop(listener);
        assert!(is_out(format!("ofi+tcp;ofi_rxm://{address}")));
        assert!(!is_out(format!("ucx+tcp://{address}")), "not known");
    }
}
