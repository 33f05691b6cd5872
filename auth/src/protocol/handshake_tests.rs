//! Both sides of the handshake against each other, and against what an attacker makes of it.

use super::*;
use crate::fixtures::{
    PROTECTIONS, SUITES, answer, complete, ephemeral, hex, offer, policy, principal, say_hello, secret, tampered, terms,
};
use crate::mechanism::ReplyToken;
use crate::mechanism::peer_credentials::PeerCredentials;
use crate::protocol::server::{Claim, HelloRefused, Received};
use crate::protocol::{Hello, Tick};
use std::time::Duration;

#[test]
fn an_honest_handshake_gives_both_ends_the_same_secrets_and_terms() {
    for suite in SUITES {
        for protection in PROTECTIONS {
            let (hello, sent) = say_hello(&Offer { suites: &[suite], protection, ..offer() });
            let server = answer(&hello, &policy(), 1000).expect("accepted");
            let client = complete(sent, &server.reply).expect("completed");
            assert_eq!(client.id, server.session);
            assert_eq!(client.terms, server.terms);
            assert_eq!((client.terms.suite, client.terms.protection), (suite, protection));
            for (of_client, of_server) in [
                (&client.secrets.client_to_server, &server.secrets.client_to_server),
                (&client.secrets.server_to_client, &server.secrets.server_to_client),
                (&client.secrets.exporter, &server.secrets.exporter),
                (&client.export("app"), &server.export("app")),
            ] {
                assert!(of_client.same(of_server.expose()));
            }
            assert!(!client.export("app").same(client.export("other").expose()));
        }
    }
}

/// The mechanism here believes everything: even then no changed HELLO leads to a session of both ends.
#[test]
fn a_changed_hello_never_completes() {
    let (length, _) = say_hello(&offer());
    for at in 0..tampered(&length).count() {
        let (hello, sent) = say_hello(&offer());
        let changed = tampered(&hello).nth(at).expect("as many as before");
        let Ok(established) = answer(&changed, &policy(), 1000) else {
            continue;
        };
        assert!(complete(sent, &established.reply).is_err(), "change {at}");
    }
}

#[test]
fn a_changed_reply_never_completes() {
    let (hello, sent) = say_hello(&offer());
    let reply = answer(&hello, &policy(), 1000).expect("accepted").reply;
    drop(sent);
    for at in 0..tampered(&reply).count() {
        let (hello, sent) = say_hello(&offer());
        let reply = answer(&hello, &policy(), 1000).expect("accepted").reply;
        let changed = tampered(&reply).nth(at).expect("as many as before");
        assert!(complete(sent, &changed).is_err(), "change {at}");
    }
}

#[test]
fn a_reply_of_another_handshake_does_not_complete() {
    let (first, _) = say_hello(&offer());
    let (_, second) = say_hello(&offer());
    let reply = answer(&first, &policy(), 1000).expect("accepted").reply;
    assert_eq!(complete(second, &reply).err(), Some(HandshakeError::WrongFinished));
}

#[test]
fn a_replayed_hello_gives_another_session_with_other_keys() {
    let (hello, _sent) = say_hello(&offer());
    let first = answer(&hello, &policy(), 1000).expect("accepted");
    let second = answer(&hello, &policy(), 1000).expect("accepted: harmless, see the half-open state");
    assert_ne!(first.session, second.session);
    assert!(!first.secrets.client_to_server.same(second.secrets.client_to_server.expose()));
}

#[test]
fn a_hello_for_another_server_is_refused_also_if_its_name_is_a_prefix() {
    for other in ["uid:2003|tcp://h:1234|grou", "uid:2003|tcp://h:1234|group2", ""] {
        let (hello, _) = say_hello(&Offer { server: ServerId::of(other), ..offer() });
        assert_eq!(answer(&hello, &policy(), 1000).err(), Some(HelloRefused::OtherServer));
    }
}

#[test]
fn there_is_no_fallback_of_mechanism_suite_or_protection() {
    let mut policy = policy();
    policy.mechanisms = vec![MechanismId::Munge];
    policy.suites = vec![Suite::ChaCha20Poly1305];
    policy.protections = vec![Protection::Sealed];
    let refused = |offer: &Offer<'_>| answer(&say_hello(offer).0, &policy, 1000).err();
    assert_eq!(refused(&offer()), Some(HelloRefused::Mechanism(MechanismId::KeyFile)));
    let munge = Offer { mechanism: MechanismId::Munge, ..offer() };
    assert_eq!(refused(&Offer { suites: &[Suite::Aes256Gcm], ..munge }), Some(HelloRefused::NoCommonSuite));
    let plain = Offer { protection: Protection::IntegrityOnly, ..munge };
    assert_eq!(refused(&plain), Some(HelloRefused::Protection(Protection::IntegrityOnly)));
}

/// A server, or whoever speaks for it, may not choose what was not offered, not even with a right Finished.
#[test]
fn the_client_refuses_what_it_did_not_offer() {
    let forge = |at: usize, value: u8, offer: &Offer<'_>| {
        let (hello, sent) = say_hello(offer);
        let mut reply = answer(&hello, &policy(), 1000).expect("accepted").reply;
        reply[at] = value;
        sent.receive(&reply).err()
    };
    let aes = Offer { suites: &[Suite::Aes256Gcm], ..offer() };
    assert_eq!(forge(4, 2, &aes), Some(HandshakeError::SuiteNotOffered(Suite::ChaCha20Poly1305)));
    assert_eq!(forge(5, 1, &aes), Some(HandshakeError::OtherProtection(Protection::IntegrityOnly)));
    let plain = Offer { protection: Protection::IntegrityOnly, ..aes };
    assert_eq!(forge(5, 0, &plain), Some(HandshakeError::OtherProtection(Protection::Sealed)));
}

#[test]
fn the_server_prefers_in_its_own_order() {
    let mut policy = policy();
    policy.suites.reverse();
    let (hello, sent) = say_hello(&offer());
    let reply = answer(&hello, &policy, 1000).expect("accepted").reply;
    assert_eq!(complete(sent, &reply).expect("completed").terms.suite, Suite::ChaCha20Poly1305);
}

fn claim(hello: &[u8]) -> (Received, Claim) {
    let received = Received::begin(&Hello::parse(hello).expect("parsed"), &policy()).expect("received");
    let claim = received.claim();
    (received, claim)
}

/// Ceph CVE-2018-1128 and CVE-2021-20288: what was verified for one handshake was taken for another.
#[test]
fn cve_2018_1128_a_verification_is_good_for_its_own_hello_alone() {
    let (mine, _) = say_hello(&offer());
    let (theirs, _) = say_hello(&offer());
    let (_, claim_of_mine) = claim(&mine);
    let (received, _) = claim(&theirs);
    let verified = claim_of_mine.verified(principal(1000), Psk::shared(secret(7)));
    let agreed = received.agree(ephemeral()).expect("an honest key");
    let accepted = received.accept(verified, SessionId::new([1; 16]), &[2; 32], agreed, Tick(0));
    assert_eq!(accepted.err(), Some(HelloRefused::OtherTranscript));
}

#[test]
fn a_secret_is_good_for_the_hello_that_it_was_agreed_for() {
    let (mine, _) = say_hello(&offer());
    let (theirs, _) = say_hello(&offer());
    let agreed = claim(&mine).0.agree(ephemeral()).expect("an honest key");
    let (received, claim) = claim(&theirs);
    let verified = claim.verified(principal(1000), Psk::shared(secret(7)));
    let accepted = received.accept(verified, SessionId::new([1; 16]), &[2; 32], agreed, Tick(0));
    assert_eq!(accepted.err(), Some(HelloRefused::OtherTranscript));
}

#[test]
fn a_mechanism_answers_for_itself_alone() {
    let (hello, _) = say_hello(&Offer { mechanism: MechanismId::Munge, ..offer() });
    let (received, claim) = claim(&hello);
    let verified = claim.verified(principal(1000), Psk::shared(secret(7))); // says that a key file proved it
    let agreed = received.agree(ephemeral()).expect("an honest key");
    let accepted = received.accept(verified, SessionId::new([1; 16]), &[2; 32], agreed, Tick(0));
    assert_eq!(accepted.err(), Some(HelloRefused::OtherTranscript));
}

#[test]
fn low_order_points_are_refused_by_both_sides() {
    let (mut hello, _) = say_hello(&offer());
    hello[40..72].fill(0);
    assert_eq!(answer(&hello, &policy(), 1000).err(), Some(HelloRefused::LowOrderPoint));
    let (hello, sent) = say_hello(&offer());
    let mut reply = answer(&hello, &policy(), 1000).expect("accepted").reply;
    reply[56..88].copy_from_slice(&hex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"));
    assert_eq!(complete(sent, &reply).err(), Some(HandshakeError::LowOrderPoint));
}

#[test]
fn a_rogue_server_without_the_mechanisms_secret_has_no_right_finished() {
    let (hello, sent) = say_hello(&offer());
    let (received, claim) = claim(&hello);
    let verified = claim.verified(principal(1000), Psk::shared(secret(8)));
    let agreed = received.agree(ephemeral()).expect("an honest key");
    let rogue = received.accept(verified, SessionId::new([1; 16]), &[2; 32], agreed, Tick(0));
    let reply = rogue.expect("its own server").finish(b"").expect("no proof").reply;
    assert_eq!(complete(sent, &reply).err(), Some(HandshakeError::WrongFinished));
}

/// A handshake of a mechanism without a secret, and perhaps with a server token.
fn without_secret(token: ReplyToken, proof: &[u8]) -> Answered {
    let begun = Begun::new(&offer(), &[1; 32], ephemeral()).expect("an offer");
    let (hello, sent) = begun.send(b"", Psk::none()).expect("short");
    let (received, claim) = claim(&hello);
    let verified = claim.verified(principal(1000), Psk::none()).with_token(token);
    let agreed = received.agree(ephemeral()).expect("an honest key");
    let proving = received.accept(verified, SessionId::new([1; 16]), &[2; 32], agreed, Tick(0)).expect("accepted");
    sent.receive(&proving.finish(proof).expect("the length announced").reply).expect("received")
}

#[test]
fn without_a_shared_secret_finished_alone_proves_no_server() {
    let refused = without_secret(ReplyToken::default(), b"").complete(ServerProof::SharedSecret);
    assert_eq!(refused.err(), Some(HandshakeError::ServerUnproven));
    let server = PeerCredentials::from_kernel(2003, 100).check_server(2003).expect("it is");
    assert!(without_secret(ReplyToken::default(), b"").complete(ServerProof::Kernel(server)).is_ok());
}

#[test]
fn a_server_token_with_a_proof_fits() {
    let token = || ReplyToken { head: b"AP_REP".to_vec(), proof_len: 4 };
    let answered = without_secret(token(), b"sign");
    assert_eq!(answered.token(), b"AP_REPsign");
    let over = answered.proof_transcript(4).expect("long enough");
    assert!(answered.complete(ServerProof::Token { over, proof_len: 4 }).is_ok());

    let other = without_secret(token(), b"sign");
    assert_eq!(
        other.complete(ServerProof::Token { over, proof_len: 4 }).err(),
        Some(HandshakeError::OtherTranscript),
        "checked in another handshake"
    );
    let server = PeerCredentials::from_kernel(2003, 100).check_server(2003).expect("it is");
    let unexpected = without_secret(token(), b"sign").complete(ServerProof::Kernel(server));
    assert_eq!(unexpected.err(), Some(HandshakeError::UnexpectedToken));
}

#[test]
fn client_and_server_see_the_same_proof_transcript() {
    let begun = Begun::new(&offer(), &[1; 32], ephemeral()).expect("an offer");
    let (hello, sent) = begun.send(b"", Psk::none()).expect("short");
    let (received, claim) = claim(&hello);
    let token = ReplyToken { head: b"AP_REP".to_vec(), proof_len: 4 };
    let verified = claim.verified(principal(1000), Psk::none()).with_token(token);
    let agreed = received.agree(ephemeral()).expect("an honest key");
    let proving = received.accept(verified, SessionId::new([1; 16]), &[2; 32], agreed, Tick(0)).expect("accepted");
    let of_server = proving.transcript();
    assert_eq!(
        of_server,
        sent.receive(&proving.finish(b"sign").expect("4").reply).expect("ok").proof_transcript(4).expect("4")
    );
}

#[test]
fn a_proof_has_the_length_that_was_announced() {
    let (hello, _) = say_hello(&offer());
    for proof in [&b"sig"[..], b"signs", b""] {
        let (received, claim) = claim(&hello);
        let token = ReplyToken { head: Vec::new(), proof_len: 4 };
        let verified = claim.verified(principal(1000), Psk::none()).with_token(token);
        let agreed = received.agree(ephemeral()).expect("an honest key");
        let proving = received.accept(verified, SessionId::new([1; 16]), &[2; 32], agreed, Tick(0));
        assert_eq!(proving.expect("accepted").finish(proof).err(), Some(HelloRefused::Reply));
    }
}

#[test]
fn a_session_does_not_outlive_its_ticket() {
    let absolute = |expires: Tick, now: Tick| {
        let (hello, _) = say_hello(&offer());
        let (received, claim) = claim(&hello);
        let verified = claim.verified(principal(1000), Psk::shared(secret(7))).expiring(expires);
        let agreed = received.agree(ephemeral())?;
        let proving = received.accept(verified, SessionId::new([1; 16]), &[2; 32], agreed, now)?;
        Ok::<_, HelloRefused>(proving.finish(b"")?.terms.absolute)
    };
    assert_eq!(absolute(Tick(60_500), Tick(500)), Ok(Duration::from_secs(60)));
    assert_eq!(absolute(Tick(u64::MAX), Tick(500)), Ok(terms().absolute));
    assert!(absolute(Tick(1499), Tick(500)).is_err(), "less than a second left");
    assert!(absolute(Tick(0), Tick(500)).is_err(), "over");
}

#[test]
fn an_offer_names_each_suite_once() {
    for suites in [&[][..], &[Suite::Aes256Gcm, Suite::Aes256Gcm], &[Suite::Aes256Gcm; 9]] {
        let begun = Begun::new(&Offer { suites, ..offer() }, &[1; 32], ephemeral());
        assert_eq!(begun.err(), Some(HandshakeError::Offer));
    }
}

#[test]
fn a_long_token_is_an_error_of_the_client() {
    let begun = Begun::new(&offer(), &[1; 32], ephemeral()).expect("an offer");
    assert_eq!(begun.send(&[0; 4000], Psk::none()).err(), Some(HandshakeError::TokenTooLong(4000)));
}
