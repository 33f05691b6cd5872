//! What peers write does not get into the audit log as they would like.

use margo_rs::{HandlerError, Rpc};
use mochi_auth::mechanism::peer_credentials::PeerCredentials;
use mochi_auth::mechanism::{Acceptor, MechanismError, Step};
use mochi_auth::protocol::client::{Begun, Offer};
use mochi_auth::protocol::server::{Claim, Verified};
use mochi_auth::protocol::{BareError, Ephemeral, MechanismId, Protection, Psk, ServerId, Suite};
use mochi_auth::{CallError, Rule};
use ring::rand::SystemRandom;

use crate::record;
use crate::stage::*;
use crate::stand_in::{StandIn, random};

const FORGERY: &str = "x\nINFO mochi_auth::audit: event=\"session opened\" uid=0\r\u{1b}[31m\u{202e}\0";

/// A mechanism that says more about a token than it should.
struct Talkative;

impl Acceptor for Talkative {
    fn id(&self) -> MechanismId {
        MechanismId::Munge
    }

    fn verify(&self, claim: Claim, _: Option<PeerCredentials>) -> Step<'_, Result<Verified, MechanismError>> {
        let words = String::from_utf8_lossy(claim.token()).into_owned();
        Box::pin(std::future::ready(Err(MechanismError::External(words.into()))))
    }
}

fn hello(token: &[u8], site: &Site) -> Vec<u8> {
    let offer = Offer {
        server: ServerId::of(&format!("uid:{}|{}", mochi_auth::Identity::own().uid, site.address())),
        mechanism: MechanismId::Munge,
        suites: &[Suite::Aes256Gcm],
        protection: Protection::Sealed,
        cookie: None,
        client_time_ms: 0,
    };
    let begun = Begun::new(&offer, &random(), Ephemeral::generate(&SystemRandom::new()).unwrap()).unwrap();
    begun.send(token, Psk::none()).unwrap().0
}

#[test]
fn words_of_a_peer_are_escaped_and_cut_in_the_audit_log() {
    let stage = Stage::enter();
    let site = stage.serve(builder().mechanism(Talkative));
    let attacker = stage.attacker(&site);
    let before = site.before();
    for token in [FORGERY.to_owned(), FORGERY.repeat(40)] {
        let answer = attacker.ask(AUTHENTICATE, &hello(token.as_bytes(), &site));
        assert!(matches!(BareError::parse(&answer), Ok(BareError::No { .. })));
    }
    let found = before.unharmed(&stage, &site, 2);
    for line in found {
        let reason = line.field("reason");
        assert!(reason.starts_with("x\\nINFO") && reason.chars().count() <= 10 * 256, "{reason}");
        let plain = |text: &str| text.chars().all(|c| !c.is_control() && c != '\u{202e}');
        assert!(line.fields.iter().all(|(_, value)| plain(value)), "{line:?}");
    }
}

/// A handler's failure is for its caller; the log has nothing of it, nor of names and arguments that callers choose.
#[test]
fn words_of_callers_and_handlers_are_not_in_the_audit_log() {
    const FAIL: Rpc<String, ()> = Rpc::new("fail");
    let stage = Stage::enter();
    let site = stage.serve(builder());
    site.auth.register(FAIL, |_, text: String| async move { Err(HandlerError::from(text)) }).unwrap();
    site.auth.allow(Rule::nobody()).register(Rpc::<String, ()>::new("never"), |_, _| async { Ok(()) }).unwrap();
    let server = stage.connect(&site, ALICE);
    let error = server.call(FAIL, &FORGERY.to_owned()).wait().unwrap_err();
    assert!(matches!(&error, CallError::Handler(text) if text == FORGERY), "{error}");
    let before = site.before();
    let error = server.call(Rpc::<String, ()>::new("never"), &FORGERY.to_owned()).wait().unwrap_err();
    assert!(matches!(error, CallError::Denied(_)), "{error}");
    before.unharmed(&stage, &site, 1);
    let all = record::lines();
    assert!(all.len() >= 4, "{all:?}");
    for line in &all {
        assert!(
            line.fields.iter().all(|(_, value)| !value.contains("\n") && !value.contains("session opened\\\"")),
            "{line:?}"
        );
    }
}

/// Each refusal says who, what and why, and names the session by a hash of its id.
#[test]
fn a_refusal_names_peer_session_and_reason() {
    let stage = Stage::enter();
    let site = stage.serve(builder().rule(Rule::uid(ALICE.uid)));
    let attacker = stage.attacker(&site);
    let bob = StandIn::open(&attacker, BOB);
    let who = WHO.id(margo_rs::ProviderId::DEFAULT);
    let (request, _) = bob.request(WHO, &());
    assert!(BareError::parse(&attacker.ask(who, &request)).is_err(), "he gets a sealed answer");
    attacker.send_all(who, [request]);
    // The denied request was authentic, so that Bob's session is in use now.
    assert_eq!(site.open_sessions(), 1);
    let found = record::refusals();
    let log_id = format!("{:016x}", u64::from_be_bytes(bob.session.id().log_id()));
    assert_eq!(found.len(), 2);
    for (line, event, reason) in [
        (&found[0], "call denied", "the rule of this RPC does not allow it: uid 1501"),
        (&found[1], "request refused", "seen before"),
    ] {
        assert_eq!((line.field("event"), line.field("session")), (event, log_id.as_str()));
        assert!(line.field("reason").contains(reason), "{line:?}");
        let peer = line.field("peer");
        assert!(peer.contains("://127.0.0.1:") || peer.starts_with("na+sm://"), "{line:?}");
        assert_eq!(line.field("rpc"), WHO.name());
    }
    assert_eq!(found[0].field("uid"), BOB.uid.to_string());
}
