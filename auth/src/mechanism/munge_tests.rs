use super::*;
use crate::fixtures::{ephemeral, offer, policy};
use crate::munge::Credential;
use crate::protocol::client::{Begun, Offer, Session};
use crate::protocol::server::{Established, Received};
use crate::protocol::{Hello, SessionId, Tick};
use crate::testing::{MungeRealm, Munged};

const OWN: u32 = 2003;

fn claim(random: u8) -> Claim {
    let offer = Offer { mechanism: MechanismId::Munge, ..offer() };
    let begun = Begun::new(&offer, &[random; 32], ephemeral()).expect("an offer");
    let (hello, _) = begun.send(b"MUNGE:AAAA:", Psk::none()).expect("short");
    Received::begin(&Hello::parse(&hello).expect("parsed"), &policy()).expect("received").claim()
}

fn metadata() -> Metadata {
    let now = std::time::SystemTime::UNIX_EPOCH;
    Metadata {
        identity: Identity { uid: 1000, gid: 100 },
        encoded_at: now,
        decoded_at: now,
        ttl: TTL,
        origin: std::net::Ipv4Addr::LOCALHOST,
        cipher: Cipher::AES128,
        mac: crate::munge::Mac::SHA256,
        compression: crate::munge::Compression::NONE,
        uid_restriction: Some(OWN),
        gid_restriction: None,
    }
}

fn good_payload(claim: &Claim) -> Vec<u8> {
    payload(claim.th1(), &[9; 32]).to_vec()
}

#[test]
fn a_good_credential_is_taken() {
    let claim = claim(1);
    let payload = good_payload(&claim);
    assert_eq!(payload.len(), PAYLOAD_LEN);
    let verified = check(claim, &metadata(), &payload, OWN).expect("good");
    assert_eq!(verified.principal().identity, Identity { uid: 1000, gid: 100 });
    assert_eq!(verified.principal().mechanism, MechanismId::Munge);
}

#[test]
fn an_unrestricted_or_unencrypted_credential_is_refused() {
    let refused = |metadata: Metadata| {
        let claim = claim(1);
        let payload = good_payload(&claim);
        check(claim, &metadata, &payload, OWN).err()
    };
    assert!(matches!(refused(Metadata { uid_restriction: None, ..metadata() }), Some(MungeRefused::Unrestricted)));
    // Restricted to a group only: its other members could read the secret.
    let group = Metadata { uid_restriction: None, gid_restriction: Some(100), ..metadata() };
    assert!(matches!(refused(group), Some(MungeRefused::Unrestricted)));
    let other = Metadata { uid_restriction: Some(OWN + 1), ..metadata() };
    assert!(matches!(refused(other), Some(MungeRefused::OtherUid(_))));
    assert!(matches!(refused(Metadata { cipher: Cipher::NONE, ..metadata() }), Some(MungeRefused::Unencrypted)));
}

#[test]
fn a_payload_has_exactly_its_form() {
    let refused = |change: &dyn Fn(&mut Vec<u8>)| {
        let claim = claim(1);
        let mut payload = good_payload(&claim);
        change(&mut payload);
        check(claim, &metadata(), &payload, OWN).err()
    };
    for len in [0, 32, 33, 64, 66, 97] {
        assert!(matches!(refused(&|payload| payload.resize(len, 0)), Some(MungeRefused::Payload(_))), "{len}");
    }
    for bit in 0..8 {
        assert!(matches!(refused(&|payload| payload[0] ^= 1 << bit), Some(MungeRefused::Payload(_))));
    }
    for bit in 8..33 * 8 {
        let refused = refused(&|payload| payload[bit / 8] ^= 1 << (bit % 8));
        assert!(matches!(refused, Some(MungeRefused::OtherTranscript)));
    }
}

#[test]
fn a_credential_of_another_hello_is_refused() {
    let other = good_payload(&claim(2));
    let refused = check(claim(1), &metadata(), &other, OWN);
    assert!(matches!(refused.err(), Some(MungeRefused::OtherTranscript)));
}

// With a real daemon. Without one these say so and are skipped.

fn handle(munged: &Munged) -> Munge {
    Munge::builder().socket(munged.socket()).timeout(Duration::from_secs(60)).build().expect("a handle")
}

async fn handshake(
    munge: &Munge,
    change: impl FnOnce(Vec<u8>) -> Vec<u8>,
) -> Result<(Session, Established), MechanismError> {
    let offer = Offer { mechanism: MechanismId::Munge, ..offer() };
    let begun = Begun::new(&offer, &[1; 32], ephemeral()).expect("an offer");
    let client = MungeInitiator::new(munge.clone(), Identity::own().uid);
    let ClientToken { token, psk } = client.token(begun.th1(), &[9; 32]).await?;
    let (hello, sent) = begun.send(&change(token), psk).expect("short");
    let received = Received::begin(&Hello::parse(&hello).expect("parsed"), &policy()).expect("received");
    let verified = MungeAcceptor::new(munge.clone()).verify(received.claim(), None).await?;
    let agreed = received.agree(ephemeral()).expect("an honest key");
    let proving = received.accept(verified, SessionId::new([1; 16]), &[2; 32], agreed, Tick(0)).expect("accepted");
    let established = proving.finish(b"").expect("no proof");
    let answered = sent.receive(&established.reply).expect("received");
    let proof = client.check_server(&answered).await?;
    Ok((answered.complete(proof).expect("completed"), established))
}

#[tokio::test]
async fn a_handshake_over_a_real_daemon_proves_the_user() {
    let Some(realm) = MungeRealm::for_test() else {
        return;
    };
    let munged = realm.start().expect("munged");
    let munge = handle(&munged);
    MungeAcceptor::new(munge.clone()).self_test().await.expect("munged enforces restrictions");
    let (session, established) = handshake(&munge, |token| token).await.expect("proven");
    assert_eq!(established.principal().identity, Identity::own());
    assert_eq!(session.id(), established.session());
}

#[tokio::test]
async fn a_real_daemon_refuses_replayed_and_altered_credentials() {
    let Some(realm) = MungeRealm::for_test() else {
        return;
    };
    let munged = realm.start().expect("munged");
    let munge = handle(&munged);
    let mut used = Vec::new();
    let keep = |token: Vec<u8>| {
        used.clone_from(&token);
        token
    };
    handshake(&munge, keep).await.expect("proven");
    let replayed = handshake(&munge, |_| used).await.err();
    assert!(
        matches!(replayed, Some(MechanismError::Munge(MungeRefused::Munge(MungeError::Replayed(_))))),
        "{replayed:?}"
    );
    let padded = handshake(&munge, |token| [&token[..], b"\n"].concat()).await.err();
    assert!(matches!(padded, Some(MechanismError::Munge(MungeRefused::Munge(MungeError::Malformed(_))))));
}

#[tokio::test]
async fn credentials_made_otherwise_are_refused_over_a_real_daemon() {
    let Some(realm) = MungeRealm::for_test() else {
        return;
    };
    let munged = realm.start().expect("munged");
    let munge = handle(&munged);
    let own = Identity::own().uid;
    // Of another HELLO, unrestricted, and of another service: each valid for munged.
    for (options, restricted) in [
        (EncodeOptions::new().payload(vec![1; PAYLOAD_LEN]).restrict_uid(own), true),
        (EncodeOptions::new().payload(vec![1; PAYLOAD_LEN]), false),
        (EncodeOptions::new().payload(vec![1; 32]).restrict_uid(own), true),
    ] {
        let credential: Credential = munge.encode(options).await.expect("encoded");
        let refused = handshake(&munge, |_| credential.as_str().as_bytes().to_vec()).await.err();
        match refused {
            Some(MechanismError::Munge(MungeRefused::Unrestricted)) => assert!(!restricted),
            Some(MechanismError::Munge(MungeRefused::OtherTranscript | MungeRefused::Payload(_))) => {
                assert!(restricted)
            }
            other => panic!("{other:?}"),
        }
    }
}
