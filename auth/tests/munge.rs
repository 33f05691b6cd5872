//! Credentials against a real `munged`. Without one the tests say so and are skipped; see
//! `testing::REQUIRE_MUNGED`.

use std::time::{Duration, SystemTime};

use mochi_auth::Identity;
use mochi_auth::munge::{Cipher, Compression, Credential, EncodeOptions, Munge, MungeError, Payload};
use mochi_auth::testing::{MungeRealm, Munged, skipped};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// A machine that runs many tests at once may be slow; deadlines are tested elsewhere.
const AMPLE: Duration = Duration::from_secs(60);
const SECRET: &[u8] = b"a-payload-nobody-may-see-in-logs";

fn handle(munged: &Munged) -> Munge {
    let builder = Munge::builder().socket(munged.socket()).timeout(AMPLE);
    builder.build().expect("a handle")
}

fn is_root() -> bool {
    Identity::own().uid == 0
}

#[test]
fn a_credential_carries_payload_identity_times_and_restrictions() {
    let Some(realm) = MungeRealm::for_test() else {
        return;
    };
    let munged = realm.start().expect("munged");
    let munge = handle(&munged);
    let own = Identity::own();
    let options =
        EncodeOptions::new().payload(SECRET).ttl(Duration::from_secs(30)).restrict_uid(own.uid).restrict_gid(own.gid);
    let credential = munge.encode(options).wait().expect("a credential");
    let decoded = munge.decode(&credential).wait().expect("decoded");

    assert_eq!(decoded.identity(), own);
    assert_eq!(decoded.payload(), SECRET);
    let metadata = decoded.metadata();
    assert_eq!(metadata.ttl, Duration::from_secs(30));
    assert_eq!(metadata.uid_restriction, Some(own.uid));
    assert_eq!(metadata.gid_restriction, Some(own.gid));
    assert_eq!(metadata.origin, std::net::Ipv4Addr::LOCALHOST);
    assert_ne!(metadata.cipher, Cipher::NONE);
    assert_eq!(metadata.compression, Compression::NONE);
    assert!(metadata.mac.number() > 1, "{:?}", metadata.mac);
    let apart = |time| match SystemTime::now().duration_since(time) {
        Ok(past) => past,
        Err(future) => future.duration(),
    };
    assert!(apart(metadata.encoded_at) < AMPLE * 2);
    assert!(apart(metadata.decoded_at) < AMPLE * 2);
    assert!(metadata.encoded_at <= metadata.decoded_at);
    assert_eq!(&*decoded.into_payload(), SECRET);
}

#[test]
fn a_bare_credential_has_no_payload_and_no_restriction() {
    let Some(realm) = MungeRealm::for_test() else {
        return;
    };
    let munged = realm.start().expect("munged");
    let munge = handle(&munged);
    let credential = munge.encode(EncodeOptions::new()).wait().expect("encoded");
    let decoded = munge.decode(credential.as_str()).wait().expect("decoded");
    assert!(decoded.payload().is_empty());
    assert_eq!(decoded.metadata().uid_restriction, None);
    assert_eq!(decoded.metadata().gid_restriction, None);
    assert_eq!(decoded.metadata().ttl, Duration::from_secs(300));
}

#[test]
fn the_daemon_lowers_a_long_lifetime() {
    let Some(realm) = MungeRealm::for_test() else {
        return;
    };
    let munged = realm.start().expect("munged");
    let munge = handle(&munged);
    let options = EncodeOptions::new().ttl(Duration::from_secs(999_999));
    let credential = munge.encode(options).wait().expect("encoded");
    let decoded = munge.decode(&credential).wait().expect("decoded");
    assert_eq!(decoded.metadata().ttl, Duration::from_secs(3600));
}

#[test]
fn payloads_of_every_size_up_to_the_limit_come_back() {
    let Some(realm) = MungeRealm::for_test() else {
        return;
    };
    let munged = realm.start().expect("munged");
    let munge = handle(&munged);
    for len in [0, 1, 2, 3, 65, 4096, Payload::LEN_MAX - 1, Payload::LEN_MAX] {
        let bytes: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect(); // NUL bytes, too
        let options = EncodeOptions::new().payload(bytes.clone());
        let credential = munge.encode(options).wait().expect("encoded");
        assert!(credential.as_str().len() <= Credential::LEN_MAX);
        let decoded = munge.decode(&credential).wait().expect("decoded");
        assert!(decoded.payload() == bytes, "{len} bytes");
    }
    let options = EncodeOptions::new().payload(vec![0; Payload::LEN_MAX + 1]);
    let refused = munge.encode(options).wait();
    assert!(matches!(refused, Err(MungeError::PayloadTooLong { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_can_be_awaited_at_once() {
    let Some(realm) = MungeRealm::for_test() else {
        return;
    };
    let munged = realm.start().expect("munged");
    let munge = handle(&munged);
    let calls: Vec<_> = (0..100u8)
        .map(|i| {
            let munge = munge.clone();
            tokio::spawn(async move {
                let credential = munge.encode(EncodeOptions::new().payload(&[i])).await?;
                let decoded = munge.decode(&credential).await?;
                Ok::<_, MungeError>((i, decoded))
            })
        })
        .collect();
    for call in calls {
        let (i, decoded) = call.await.expect("no panic").expect("decoded");
        assert_eq!(decoded.payload(), [i]);
    }
}

#[test]
fn a_replay_is_refused_without_its_payload() {
    let Some(realm) = MungeRealm::for_test() else {
        return;
    };
    let munged = realm.start().expect("munged");
    let munge = handle(&munged);
    let options = EncodeOptions::new().payload(SECRET);
    let credential = munge.encode(options).wait().expect("encoded");
    assert!(munge.decode(&credential).wait().is_ok());
    let error = munge.decode(&credential).wait().expect_err("a replay");
    assert!(matches!(error, MungeError::Replayed(_)), "{error}");
    let metadata = error.metadata().expect("for the audit log");
    assert_eq!(metadata.identity, Identity::own());
    assert_does_not_show_the_secret(&error);
}

#[test]
fn each_host_of_a_realm_remembers_replays_for_itself() {
    let Some(realm) = MungeRealm::for_test() else {
        return;
    };
    let (here, there) = (realm.start().expect("munged"), realm.start().expect("munged"));
    let (here, there) = (handle(&here), handle(&there));
    let credential = here.encode(EncodeOptions::new()).wait().expect("encoded");
    assert!(there.decode(&credential).wait().is_ok());
    assert!(here.decode(&credential).wait().is_ok());
    assert!(there.decode(&credential).wait().is_err());
}

#[test]
fn a_credential_of_another_realm_is_invalid() {
    let (Some(ours), Some(theirs)) = (MungeRealm::for_test(), MungeRealm::for_test()) else {
        return;
    };
    let (ours, theirs) = (ours.start().expect("munged"), theirs.start().expect("munged"));
    let foreign = handle(&theirs).encode(EncodeOptions::new().payload(SECRET));
    let foreign = foreign.wait().expect("encoded");
    let error = handle(&ours).decode(&foreign).wait().expect_err("another key");
    assert!(matches!(error, MungeError::Invalid(_)), "{error}");
    assert!(error.to_string().contains("another realm"), "{error}");
    assert!(error.metadata().is_none());
}

/// With one user at hand, the next uid stands for somebody else, as in Slurm's self-test.
#[test]
fn a_credential_for_another_user_or_group_is_refused() {
    let Some(realm) = MungeRealm::for_test() else {
        return;
    };
    let munged = realm.start().expect("munged");
    let munge = handle(&munged);
    let own = Identity::own();
    for options in [EncodeOptions::new().restrict_uid(own.uid + 1), EncodeOptions::new().restrict_gid(own.gid + 54_321)]
    {
        let credential = munge.encode(options.payload(SECRET)).wait().expect("made");
        let error = munge.decode(&credential).wait().expect_err("not for us");
        assert!(matches!(error, MungeError::Unauthorized(_)), "{error}");
        assert_eq!(error.status(), Some(18));
        assert_does_not_show_the_secret(&error);
    }
}

#[test]
fn another_user_is_seen_as_that_user() {
    let Some(realm) = MungeRealm::for_test() else {
        return;
    };
    if !is_root() {
        skipped("only root can be several users");
        return;
    }
    let munged = realm.daemon().uid(1501).start().expect("munged");
    let munge = handle(&munged);
    let text = munged.encode_as(2003, "hello", &["--restrict-uid=0", "--ttl=30"]).expect("a credential");
    let decoded = munge.decode(&text).wait().expect("decoded");
    let theirs = Identity { uid: 2003, gid: 2003 };
    assert_eq!(decoded.identity(), theirs);
    assert_eq!(decoded.payload(), b"hello");
    assert_eq!(decoded.metadata().uid_restriction, Some(0));
}

#[test]
fn an_unencrypted_credential_can_be_told() {
    let Some(realm) = MungeRealm::for_test() else {
        return;
    };
    let munged = realm.start().expect("munged");
    let own = Identity::own().uid;
    let text = munged.encode_as(own, "hello", &["--cipher=none"]).expect("made");
    let decoded = handle(&munged).decode(&text).wait().expect("decoded");
    assert_eq!(decoded.metadata().cipher, Cipher::NONE);
}

#[test]
fn an_old_credential_is_expired_and_comes_without_its_payload() {
    let Some(realm) = MungeRealm::for_test() else {
        return;
    };
    let Some(past) = realm.daemon().clock_offset(-400).start_for_test() else {
        return;
    };
    let error = decode_elsewhere(&realm, &past);
    let MungeError::Expired(metadata) = &error else { panic!("{error}") };
    let age = metadata.decoded_at.duration_since(metadata.encoded_at);
    assert!(age.is_ok_and(|age| age >= Duration::from_secs(390)));
    assert_eq!(metadata.identity, Identity::own());
    assert_does_not_show_the_secret(&error);
}

#[test]
fn a_credential_from_the_future_is_rewound_and_comes_without_its_payload() {
    let Some(realm) = MungeRealm::for_test() else {
        return;
    };
    let Some(future) = realm.daemon().clock_offset(400).start_for_test() else {
        return;
    };
    let error = decode_elsewhere(&realm, &future);
    let MungeError::Rewound(metadata) = &error else { panic!("{error}") };
    assert!(metadata.encoded_at > metadata.decoded_at);
    assert!(error.to_string().contains(" s ahead"), "{error}");
    assert_does_not_show_the_secret(&error);
}

fn decode_elsewhere(realm: &MungeRealm, maker: &Munged) -> MungeError {
    let here = realm.start().expect("munged");
    let options = EncodeOptions::new().payload(SECRET);
    let credential = handle(maker).encode(options).wait().expect("encoded");
    let decoded = handle(&here).decode(&credential).wait();
    decoded.expect_err("another time")
}

/// `munged` itself accepts some of these.
#[test]
fn altered_texts_of_a_good_credential_never_reach_the_daemon() {
    let Some(realm) = MungeRealm::for_test() else {
        return;
    };
    let munged = realm.start().expect("munged");
    let munge = handle(&munged);
    let good = munge.encode(EncodeOptions::new()).wait().expect("encoded");
    let text = good.as_str();
    let half = text.len() / 2;
    for altered in [
        format!(" {text}"),
        format!("{text}\n"),
        format!("{text}garbage"),
        format!("{}\n{}", &text[..half], &text[half..]),
        format!("{} {}", &text[..half], &text[half..]),
        text[..text.len() - 1].to_owned(),
    ] {
        let error = munge.decode(&altered).wait().expect_err("altered");
        assert!(matches!(error, MungeError::Malformed(_)), "{error}");
    }
    assert!(munge.decode(&good).wait().is_ok(), "it was not used up by the above");
}

#[test]
fn every_altered_bit_is_an_error_and_no_payload() {
    let Some(realm) = MungeRealm::for_test() else {
        return;
    };
    let munged = realm.start().expect("munged");
    let munge = handle(&munged);
    let options = EncodeOptions::new().payload(SECRET);
    let good = munge.encode(options).wait().expect("encoded");
    for at in 0..good.as_str().len() {
        for bit in 0..8 {
            let mut altered = good.as_str().as_bytes().to_vec();
            altered[at] ^= 1 << bit;
            let error = munge.decode(&altered).wait().expect_err("altered");
            assert_does_not_show_the_secret(&error);
        }
    }
    let decoded = munge.decode(&good).wait().expect("the good one");
    assert_eq!(decoded.payload(), SECRET);
}

#[test]
fn garbage_is_always_an_error_and_never_a_crash() {
    let Some(realm) = MungeRealm::for_test() else {
        return;
    };
    let munged = realm.start().expect("munged");
    let munge = handle(&munged);
    let garbage = prop_oneof![
        ".{0,200}",
        "MUNGE:.{0,200}:",
        // Well formed, so the daemon gets to see it.
        "MUNGE:([A-Za-z0-9+/]{4}){1,60}:",
        "MUNGE:AwQDAAAA([A-Za-z0-9+/]{4}){1,60}:", // a plausible header
    ];
    let outcome = TestRunner::default().run(&garbage, |text| {
        prop_assert!(munge.decode(&text).wait().is_err(), "{:?}", text);
        Ok(())
    });
    outcome.expect("no garbage is accepted");
    let good = munge.encode(EncodeOptions::new()).wait().expect("encoded");
    assert!(munge.decode(&good).wait().is_ok(), "the daemon and the handle live");
}

#[test]
fn secrets_are_in_no_debug_output() {
    let Some(realm) = MungeRealm::for_test() else {
        return;
    };
    let munged = realm.start().expect("munged");
    let munge = handle(&munged);
    let options = EncodeOptions::new().payload(SECRET);
    let mut shown = format!("{options:?} {munge:?} {:?}", Munge::builder());
    let pending = munge.encode(options);
    shown += &format!("{pending:?}");
    let credential = pending.wait().expect("encoded");
    shown += &format!("{credential:?}");
    let decoded = munge.decode(&credential).wait().expect("decoded");
    shown += &format!("{decoded:?} {:#?}", decoded.metadata());
    shown += &format!("{:?}", decoded.into_payload());
    let error = munge.decode(&credential).wait().expect_err("a replay");
    shown += &format!("{error:?} {error:#?} {error}");
    let text = &credential.as_str()[20..60];
    assert_no_secret(&shown);
    assert!(!shown.contains(text), "{shown}");
}

fn assert_does_not_show_the_secret(error: &MungeError) {
    assert_no_secret(&format!("{error} {error:?}"));
}

fn assert_no_secret(shown: &str) {
    let text = std::str::from_utf8(SECRET).expect("text");
    assert!(!shown.contains(text), "{shown}");
    assert!(!shown.contains(&format!("{:?}", &SECRET[..8])[1..]), "{shown}");
    assert!(!shown.contains("97, 45, 112, 97"), "{shown}"); // as a list of numbers
}
