//! Sessions of peer credentials belong to the connection that the kernel spoke of. No transport tells of its peers yet, so
//! a mechanism of the same number stands in for the kernel.

use margo_rs::{ProviderId, Wait};
use mochi_auth::Identity;
use mochi_auth::mechanism::peer_credentials::PeerCredentials;
use mochi_auth::mechanism::{Acceptor, ClientToken, Initiator, MechanismError, Principal, ServerProof, Step};
use mochi_auth::protocol::client::Answered;
use mochi_auth::protocol::server::{Claim, Verified};
use mochi_auth::protocol::{MechanismId, Psk, Secret, Th1};
use mochi_test_support::comes_to;

use crate::record;
use crate::stage::*;
use crate::tap::{Fate, Tap, Way};
use crate::wire;

/// Takes everybody for Bob.
struct Kernel;

fn psk() -> Psk {
    Psk::shared(Secret::new(|bytes| bytes.fill(5)))
}

impl Acceptor for Kernel {
    fn id(&self) -> MechanismId {
        MechanismId::PeerCredentials
    }

    fn verify(&self, claim: Claim, _: Option<PeerCredentials>) -> Step<'_, Result<Verified, MechanismError>> {
        let principal = Principal { mechanism: MechanismId::PeerCredentials, identity: BOB, name: None };
        Box::pin(std::future::ready(Ok(claim.verified(principal, psk()))))
    }
}

impl Initiator for Kernel {
    fn id(&self) -> MechanismId {
        MechanismId::PeerCredentials
    }

    fn token<'a>(&'a self, _: Th1, _: &'a [u8; 32]) -> Step<'a, Result<ClientToken, MechanismError>> {
        Box::pin(std::future::ready(Ok(ClientToken { token: Vec::new(), psk: psk() })))
    }

    fn check_server<'a>(&'a self, _: &'a Answered) -> Step<'a, Result<ServerProof, MechanismError>> {
        Box::pin(std::future::ready(Ok(ServerProof::SharedSecret)))
    }
}

#[test]
fn a_session_of_peer_credentials_ends_at_its_connection() {
    let stage = Stage::enter();
    let site = stage.serve(builder().mechanism(Kernel));
    let tap = Tap::before(&stage, &site);
    let options = mochi_auth::Connection::builder().mechanism(Kernel).server_uid(Identity::own().uid).service(SERVICE);
    let server = options.open(&stage.client(), tap.address()).wait().expect("a session");
    assert_eq!(server.call(WHO, &()).wait().unwrap(), (BOB.uid, BOB.gid));
    // A request that was never served, sealed with the right key, over another connection.
    tap.take();
    tap.plan(|seen| if seen.way == Way::ToServer { Fate::Drop } else { Fate::Pass });
    let lost = server.call(WHO, &()).start();
    comes_to("one message is seen", || tap.seen(), |seen| *seen == 1);
    let request = tap.take().remove(0);
    let before = site.before();
    let attacker = stage.attacker(&site);
    let count = attacker.send_all(WHO.id(ProviderId::DEFAULT), [request.bytes.clone()]);
    let found = before.unharmed(&stage, &site, count);
    assert_eq!(found[0].field("reason"), "session belongs to another connection");
    drop(lost);
    tap.plan(|_| Fate::Pass);
    assert_eq!(server.call(WHO, &()).wait().unwrap(), (BOB.uid, BOB.gid));
    assert_eq!(request.bytes[wire::SESSION], *site.auth.sessions()[0].id.as_bytes());
}

/// Who sends his first request over a connection of another session is refused; that his session is open is on record all
/// the same, once.
#[test]
fn no_session_is_opened_behind_the_back_of_the_audit_log() {
    let stage = Stage::enter();
    let site = stage.serve(builder().mechanism(Kernel));
    let tap = Tap::before(&stage, &site);
    let options = mochi_auth::Connection::builder().mechanism(Kernel).server_uid(Identity::own().uid).service(SERVICE);
    let server = options.open(&stage.client(), tap.address()).wait().expect("a session");
    tap.take();
    tap.plan(|seen| if seen.way == Way::ToServer { Fate::Drop } else { Fate::Pass });
    let lost = server.call(WHO, &()).start();
    comes_to("one message is seen", || tap.seen(), |seen| *seen == 1);
    let first = tap.take().remove(0).bytes;
    assert_eq!(stage.attacker(&site).send_all(WHO.id(ProviderId::DEFAULT), [first]), 1);
    drop(lost);
    tap.plan(|_| Fate::Pass);
    assert_eq!(server.call(WHO, &()).wait().unwrap(), (BOB.uid, BOB.gid));
    let lines = record::lines();
    let session = lines.iter().find(|line| line.field("event") == "handshake answered").expect("on record");
    let opened = lines.iter().filter(|line| line.field("event") == "session opened");
    let opened: Vec<_> = opened.map(|line| line.field("session")).collect();
    assert_eq!(opened, [session.field("session")]);
}
