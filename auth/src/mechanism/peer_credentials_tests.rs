use super::*;
use crate::fixtures::{answer, ephemeral, offer, policy};
use crate::protocol::Hello;
use crate::protocol::client::{Begun, Offer};
use crate::protocol::server::Received;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Command;

fn claim(token: &[u8]) -> Claim {
    let offer = Offer { mechanism: MechanismId::PeerCredentials, ..offer() };
    let begun = Begun::new(&offer, &[1; 32], ephemeral()).expect("an offer");
    let (hello, _) = begun.send(token, Psk::none()).expect("short");
    Received::begin(&Hello::parse(&hello).expect("parsed"), &policy()).expect("received").claim()
}

#[test]
fn a_socket_pair_shows_this_user() {
    let (one, other) = UnixStream::pair().expect("a pair");
    for end in [&one, &other] {
        let identity = PeerCredentials::of(end).expect("a Unix socket").identity();
        assert!(identity == Ok(Identity::own()) || Identity::own().uid == OVERFLOW_ID);
    }
}

/// Such a peer has no process id here (the kernel says 0), and a user all the same: as between containers of one node.
#[test]
fn a_peer_of_another_pid_namespace_has_its_user() {
    const INSIDE: &str = "MOCHI_AUTH_TEST_IN_A_PID_NAMESPACE";
    const NAME: &str = "mechanism::peer_credentials::tests::a_peer_of_another_pid_namespace_has_its_user";
    if std::env::var_os(INSIDE).is_some() {
        let peer = PeerCredentials::of(std::io::stdin()).expect("a Unix socket");
        assert_eq!(peer, PeerCredentials::from_kernel(Identity::own().uid, Identity::own().gid));
        return;
    }
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--"]);
        command
    };
    if !unshare().arg("true").output().is_ok_and(|made| made.status.success()) {
        eprintln!("skipped: this user may make no PID namespace");
        return;
    }
    let (_ours, theirs) = UnixStream::pair().expect("a pair");
    let myself = std::env::current_exe().expect("a test program");
    let mut inside = unshare();
    inside.arg(myself).args(["--exact", NAME]).env(INSIDE, "1").stdin(OwnedFd::from(theirs));
    let ran = inside.output().expect("a process");
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&ran.stderr));
}

#[test]
fn another_socket_shows_nobody() {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    match PeerCredentials::of(&socket) {
        Err(_) => {}
        Ok(credentials) => assert_eq!(credentials.identity(), Err(PeerRefused::Overflow)),
    }
}

#[test]
fn overflow_ids_are_nobody() {
    for (uid, gid) in [(65534, 100), (100, 65534), (u32::MAX, 0), (0, u32::MAX)] {
        let peer = PeerCredentials::from_kernel(uid, gid);
        assert_eq!(peer.identity(), Err(PeerRefused::Overflow));
        assert_eq!(peer.check_server(uid), Err(PeerRefused::Overflow));
        assert_eq!(PeerAcceptor::check(claim(b""), Some(peer)).err(), Some(PeerRefused::Overflow));
    }
}

#[test]
fn a_server_of_another_uid_is_refused() {
    let peer = PeerCredentials::from_kernel(2003, 100);
    assert_eq!(peer.check_server(2003).map(|server| server.uid()), Ok(2003));
    assert_eq!(peer.check_server(0), Err(PeerRefused::OtherServer { found: 2003, expected: 0 }));
}

#[test]
fn the_kernels_word_is_taken_and_nothing_else() {
    let peer = PeerCredentials::from_kernel(1000, 100);
    let verified = PeerAcceptor::check(claim(b""), Some(peer)).expect("somebody");
    assert_eq!(verified.principal().identity, Identity { uid: 1000, gid: 100 });
    assert_eq!(PeerAcceptor::check(claim(b""), None).err(), Some(PeerRefused::None));
    assert_eq!(PeerAcceptor::check(claim(b"uid 0"), Some(peer)).err(), Some(PeerRefused::Token(5)));
}

#[tokio::test]
async fn a_token_of_another_mechanism_is_refused() {
    let hello = crate::fixtures::say_hello(&offer()).0;
    assert!(answer(&hello, &policy(), 1).is_ok());
    let claim = Received::begin(&Hello::parse(&hello).expect("parsed"), &policy()).expect("received").claim();
    let refused = PeerAcceptor.verify(claim, Some(PeerCredentials::from_kernel(1, 1))).await;
    assert!(matches!(refused, Err(MechanismError::Other(MechanismId::KeyFile))));
}
