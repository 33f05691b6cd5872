//! Sessions by MUNGE, with a real munged on each side: what is not a credential for this server and this HELLO gets
//! nowhere.

use std::time::Duration;

use margo_rs::Wait;
use mochi_auth::mechanism::munge::MungeRefused;
use mochi_auth::mechanism::{ClientToken, Initiator, MechanismError, ServerProof, Step};
use mochi_auth::munge::{EncodeOptions, Munge};
use mochi_auth::protocol::client::{Answered, HandshakeError};
use mochi_auth::protocol::{BareError, MechanismId, Psk, Secret, Th1};
use mochi_auth::testing::{MungeRealm, Munged};
use mochi_auth::{AuthServerBuilder, Connection, ConnectionBuilder, Identity, OpenError};

use crate::rogue::{self, Guess};
use crate::stage::*;
use crate::tap::{Tap, Way};
use crate::wire;

pub(crate) fn handle(munged: &Munged) -> Munge {
    Munge::builder().socket(munged.socket()).timeout(LONG).build().expect("a handle")
}

/// A server that also takes keys, by which its being unharmed is checked.
pub(crate) fn by_both(munge: Munge) -> AuthServerBuilder {
    builder().munge(munge)
}

pub(crate) fn by_munge(munge: Munge) -> ConnectionBuilder {
    Connection::builder().munge(munge).service(SERVICE).handshake_timeout(LONG)
}

pub(crate) fn own() -> (u32, u32) {
    (Identity::own().uid, Identity::own().gid)
}

/// A client that asks munged for another credential than it should.
struct Crooked {
    munge: Munge,
    make: fn(Vec<u8>) -> EncodeOptions,
}

impl Initiator for Crooked {
    fn id(&self) -> MechanismId {
        MechanismId::Munge
    }

    fn token<'a>(&'a self, th1: Th1, random: &'a [u8; 32]) -> Step<'a, Result<ClientToken, MechanismError>> {
        Box::pin(async move {
            let payload = [&[1], &th1.as_bytes()[..], random].concat();
            let credential = self.munge.encode((self.make)(payload)).await.map_err(MungeRefused::from)?;
            let psk = Psk::shared(Secret::new(|secret| *secret = *random));
            Ok(ClientToken { token: credential.as_str().as_bytes().to_vec(), psk })
        })
    }

    fn check_server<'a>(&'a self, _: &'a Answered) -> Step<'a, Result<ServerProof, MechanismError>> {
        Box::pin(std::future::ready(Ok(ServerProof::SharedSecret)))
    }
}

fn honest(payload: Vec<u8>) -> EncodeOptions {
    EncodeOptions::new().payload(payload).ttl(Duration::from_secs(30)).restrict_uid(own().0)
}

/// Says what the audit log has about a log-in that must be refused.
fn refused(stage: &Stage, site: &Site, options: ConnectionBuilder) -> String {
    let before = site.before();
    let error = options.open(&stage.client(), site.address()).wait().unwrap_err();
    assert!(matches!(error, OpenError::Refused(_)), "{error}");
    before.unharmed(stage, site, 1)[0].field("reason").to_owned()
}

fn crooked_refused(make: fn(Vec<u8>) -> EncodeOptions) -> Option<String> {
    let realm = MungeRealm::for_test()?;
    let stage = Stage::enter();
    let munged = realm.start().expect("munged");
    let site = stage.serve(by_both(handle(&munged)));
    let options = |make| {
        let crooked = Crooked { munge: handle(&munged), make };
        Connection::builder().mechanism(crooked).service(SERVICE).handshake_timeout(LONG)
    };
    let taken = options(honest).open(&stage.client(), site.address()).wait().expect("as it should be, it is taken");
    taken.close().wait().expect("closed");
    Some(refused(&stage, &site, options(make)))
}

#[test]
fn a_user_of_the_realm_is_seen_as_who_he_is() {
    let Some(realm) = MungeRealm::for_test() else { return };
    let stage = Stage::enter();
    let (here, there) = (realm.start().expect("munged"), realm.start().expect("munged"));
    let site = stage.serve(by_both(handle(&here)));
    let server = by_munge(handle(&there)).open(&stage.client(), site.address()).wait().expect("a session");
    assert_eq!(server.call(WHO, &()).wait().unwrap(), own());
    server.reauthenticate().wait().expect("another credential");
    assert_eq!(server.call(WHO, &()).wait().unwrap(), own());
}

#[test]
fn a_credential_of_another_realm_is_refused() {
    let (Some(ours), Some(theirs)) = (MungeRealm::for_test(), MungeRealm::for_test()) else { return };
    let stage = Stage::enter();
    let (ours, theirs) = (ours.start().expect("munged"), theirs.start().expect("munged"));
    let site = stage.serve(by_both(handle(&ours)));
    let reason = refused(&stage, &site, by_munge(handle(&theirs)));
    assert!(reason.contains("another realm"), "{reason}");
}

#[test]
fn an_unrestricted_credential_is_refused() {
    let Some(reason) = crooked_refused(|payload| EncodeOptions::new().payload(payload)) else { return };
    assert!(reason.contains("no uid restriction"), "{reason}");
    // A group's other members could read its secret.
    let group = |payload| EncodeOptions::new().payload(payload).restrict_gid(own().1);
    let reason = crooked_refused(group).expect("munged was there");
    assert!(reason.contains("no uid restriction"), "{reason}");
}

#[test]
fn a_credential_for_another_uid_is_refused() {
    let Some(reason) = crooked_refused(|payload| honest(payload).restrict_uid(own().0 + 1)) else { return };
    assert!(reason.contains("18") || reason.contains("another user") || reason.contains("restricted"), "{reason}");
}

/// Such as any other service of the realm gets: in the examples in C, 32 bytes were taken for a key.
#[test]
fn a_credential_with_another_payload_is_refused() {
    for make in [
        (|payload| honest(payload[..32].to_vec())) as fn(Vec<u8>) -> EncodeOptions,
        |payload| honest(payload[..64].to_vec()),
        |mut payload| {
            payload.push(0);
            honest(payload)
        },
        |_| honest(Vec::new()),
        |mut payload| {
            payload[0] = 2;
            honest(payload)
        },
    ] {
        let Some(reason) = crooked_refused(make) else { return };
        assert!(reason.contains("not one of this protocol"), "{reason}");
    }
}

#[test]
fn a_credential_made_for_another_hello_is_refused() {
    let other = |mut payload: Vec<u8>| {
        payload[5] ^= 1;
        honest(payload)
    };
    let Some(reason) = crooked_refused(other) else { return };
    assert!(reason.contains("another HELLO"), "{reason}");
}

#[test]
fn expired_and_rewound_credentials_are_refused() {
    let Some(realm) = MungeRealm::for_test() else { return };
    let Some(past) = realm.daemon().clock_offset(-400).start_for_test() else { return };
    let Some(future) = realm.daemon().clock_offset(400).start_for_test() else { return };
    let stage = Stage::enter();
    let here = realm.start().expect("munged");
    let site = stage.serve(by_both(handle(&here)));
    let reason = refused(&stage, &site, by_munge(handle(&past)));
    assert!(reason.contains("expired"), "{reason}");
    let reason = refused(&stage, &site, by_munge(handle(&future)));
    assert!(reason.contains("ahead"), "{reason}");
}

/// A HELLO with a good credential, as it was on the way.
fn recorded_hello(stage: &Stage, site: &Site, munge: Munge) -> Vec<u8> {
    let tap = Tap::before(stage, site);
    let server = by_munge(munge).open(&stage.client(), tap.address()).wait().expect("a session");
    server.close().wait().expect("closed");
    tap.take().into_iter().find(|seen| seen.way == Way::ToServer).expect("a HELLO").bytes
}

#[test]
fn a_replayed_credential_is_refused() {
    let Some(realm) = MungeRealm::for_test() else { return };
    let stage = Stage::enter();
    let munged = realm.start().expect("munged");
    let site = stage.serve(by_both(handle(&munged)));
    let hello = recorded_hello(&stage, &site, handle(&munged));
    let before = site.before();
    let answer = stage.attacker(&site).ask(AUTHENTICATE, &hello);
    assert!(matches!(BareError::parse(&answer), Ok(BareError::No { .. })));
    let reason = before.unharmed(&stage, &site, 1)[0].field("reason").to_owned();
    assert!(reason.contains("replay") || reason.contains("before"), "{reason}");
}

/// Another host's munged, or one that was restarted, has not seen it: all that comes of it is a session without a client.
#[test]
fn a_credential_replayed_where_munged_has_not_seen_it_leads_to_no_session_that_can_be_used() {
    let Some(realm) = MungeRealm::for_test() else { return };
    let stage = Stage::enter();
    let (here, there) = (realm.start().expect("munged"), realm.start().expect("munged"));
    let (first, second) = (stage.serve(by_both(handle(&here))), stage.serve(by_both(handle(&there))));
    let hello = recorded_hello(&stage, &first, handle(&here));
    let attacker = stage.attacker(&second);
    let before = second.before();
    let answer = attacker.ask(AUTHENTICATE, &hello);
    assert!(BareError::parse(&answer).is_err(), "the service has this name there, too");
    // Without the key of the client's X25519 share: any tag he likes.
    let session = &answer[wire::REPLY_SESSION];
    let forged = (0..20u8).map(|filler| {
        let mut request = vec![filler; 64];
        request[..8].copy_from_slice(&[0xA1, 1, 1, 0, 0, 0, 0, 0]);
        request[wire::SESSION].copy_from_slice(session);
        request[wire::SEQ].copy_from_slice(&0u64.to_le_bytes());
        let who = WHO.id(margo_rs::ProviderId::DEFAULT);
        request[wire::RPC].copy_from_slice(&who.as_u64().to_le_bytes());
        request[wire::PROVIDER].copy_from_slice(&who.provider_id().as_u16().to_le_bytes());
        request[42..48].fill(0);
        request
    });
    let count = attacker.send_all(WHO.id(margo_rs::ProviderId::DEFAULT), forged);
    let found = before.unharmed(&stage, &second, count);
    assert!(found.iter().all(|line| line.field("reason") == "wrong tag"), "{found:?}");
}

#[test]
fn a_client_that_means_a_server_of_another_uid_is_refused() {
    let Some(realm) = MungeRealm::for_test() else { return };
    let stage = Stage::enter();
    let munged = realm.start().expect("munged");
    let site = stage.serve(by_both(handle(&munged)));
    let reason = refused(&stage, &site, by_munge(handle(&munged)).server_uid(own().0 + 1));
    assert!(reason.contains("another server"), "{reason}");
}

/// A rogue that answers in the server's place, of the right name and in the right form: it cannot decode what is
/// restricted to another uid, and so cannot know `m`. (Here it does not even ask.)
#[test]
fn a_rogue_server_that_cannot_decode_the_credential_is_found_out() {
    let Some(realm) = MungeRealm::for_test() else { return };
    let stage = Stage::enter();
    let munged = realm.start().expect("munged");
    for guess in [Guess::Nothing, Guess::Zeros, Guess::Random] {
        let engine = stage.listen();
        rogue::install(&engine, guess);
        let options = by_munge(handle(&munged)).server_uid(own().0 + 1);
        let error = options.open(&stage.client(), engine.address()).wait().unwrap_err();
        assert!(matches!(error, OpenError::Server { source: HandshakeError::WrongFinished, .. }), "{guess:?}: {error}");
        let error = by_key(ALICE).open(&stage.client(), engine.address()).wait().unwrap_err();
        assert!(matches!(error, OpenError::Server { source: HandshakeError::WrongFinished, .. }), "{guess:?}: {error}");
    }
}
