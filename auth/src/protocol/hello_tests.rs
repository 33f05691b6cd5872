use super::*;
use crate::fixtures::{hex, tampered};
use proptest::prelude::*;

const GOLDEN: &str = "a1048f0001020010010101010101010101010101010101010101010101010101010101010101010102020202020202020202\
     020202020202020202020202020202020202020202021ac746fc2441b5d226c9e9029ade4eb2ebeabbae8e6327c90ce3ab76\
     3148f5f0cb04fb711f0100000102cccccccccccccccccccccccccccccccc0b004d554e47453a414141413a";
const ONE_SUITE: &str = "a104740001010000010101010101010101010101010101010101010101010101010101010101010102020202020202020202\
     020202020202020202020202020202020202020202021ac746fc2441b5d226c9e9029ade4eb2ebeabbae8e6327c90ce3ab76\
     3148f5f0cb04fb711f01000002000000";

fn fields() -> HelloFields<'static> {
    HelloFields {
        mechanism: MechanismId::Munge,
        suites: &[Suite::Aes256Gcm, Suite::ChaCha20Poly1305],
        protection: Protection::Sealed,
        cookie: Some(&[0xcc; 16]),
        random: &[1; 32],
        public_key: &[2; 32],
        server: ServerId::of("uid:2003|tcp://h:1234|group"),
        client_time_ms: 1_234_567_890_123,
    }
}

#[test]
fn a_hello_has_golden_bytes() {
    assert_eq!(HelloDraft::new(&fields()).finish(b"MUNGE:AAAA:").expect("short"), hex(GOLDEN));
    let one = HelloFields { suites: &[Suite::ChaCha20Poly1305], cookie: None, ..fields() };
    assert_eq!(HelloDraft::new(&one).finish(b"").expect("short"), hex(ONE_SUITE));
}

#[test]
fn a_hello_is_read_as_it_was_written() {
    let wire = hex(GOLDEN);
    let hello = Hello::parse(&wire).expect("golden");
    assert_eq!(hello.mechanism(), MechanismId::Munge);
    assert_eq!(hello.suites(), SuiteOffer::new(fields().suites));
    assert_eq!(hello.protection(), Protection::Sealed);
    assert_eq!(hello.cookie(), Some(&[0xcc; 16]));
    assert_eq!(hello.random(), &[1; 32]);
    assert_eq!(hello.public_key(), &[2; 32]);
    assert_eq!(hello.server(), fields().server);
    assert_eq!(hello.client_time_ms(), 1_234_567_890_123);
    assert_eq!(hello.token(), b"MUNGE:AAAA:");
    assert_eq!(hello.th1(), HelloDraft::new(&fields()).th1());
}

#[test]
fn a_changed_hello_is_refused_or_has_another_transcript() {
    for golden in [GOLDEN, ONE_SUITE] {
        let wire = hex(golden);
        let original = Hello::parse(&wire).expect("golden");
        for changed in tampered(&wire) {
            let Ok(hello) = Hello::parse(&changed) else {
                continue;
            };
            assert_eq!(changed.len(), wire.len(), "a cut or longer one was parsed");
            assert!(hello.th1() != original.th1() || hello.token() != original.token());
        }
    }
}

#[test]
fn bad_fields_are_refused() {
    let refused = |at: usize, value: u8, what: ParseError| {
        let mut wire = hex(ONE_SUITE);
        wire[at] = value;
        assert_eq!(Hello::parse(&wire).err(), Some(what));
    };
    refused(0, 0xA2, ParseError::Version(0xA2));
    refused(1, 5, ParseError::Type(5));
    refused(4, 0, ParseError::Field("mechanism"));
    refused(4, 6, ParseError::Field("mechanism"));
    refused(5, 0, ParseError::Field("n_suites"));
    refused(5, 9, ParseError::Field("n_suites"));
    refused(6, 2, ParseError::Field("flags"));
    refused(7, 8, ParseError::Field("cookie_len"));
    refused(112, 0, ParseError::Field("suites"));
    refused(113, 1, ParseError::Field("pad"));
    let mut twice = hex(GOLDEN);
    twice[113] = twice[112];
    assert_eq!(Hello::parse(&twice).err(), Some(ParseError::Field("suites")));
}

#[test]
fn a_token_longer_than_its_mechanism_allows_is_refused() {
    let room = |mechanism: MechanismId| mechanism.hello_max() - hex(ONE_SUITE).len();
    for mechanism in [MechanismId::Munge, MechanismId::X509, MechanismId::Gssapi] {
        let draft =
            || HelloDraft::new(&HelloFields { mechanism, suites: &[Suite::Aes256Gcm], cookie: None, ..fields() });
        let longest = draft().finish(&vec![0; room(mechanism)]).expect("fits");
        assert!(Hello::parse(&longest).is_ok());
        assert!(draft().finish(&vec![0; room(mechanism) + 1]).is_none());
        if mechanism != MechanismId::Munge {
            let mut claimed = longest;
            claimed[4] = MechanismId::Munge as u8;
            assert!(matches!(Hello::parse(&claimed), Err(ParseError::Length(_))));
        }
    }
}

#[test]
fn unknown_suites_are_passed_over() {
    let mut wire = hex(GOLDEN);
    wire[112] = 77;
    let offer = Hello::parse(&wire).expect("one is known").suites();
    assert_eq!(offer.choose(&[Suite::Aes256Gcm, Suite::ChaCha20Poly1305]), Some(Suite::ChaCha20Poly1305));
    wire[113] = 78;
    assert_eq!(Hello::parse(&wire).expect("none is known").suites().choose(&[Suite::Aes256Gcm]), None);
}

/// libzmq CVE-2019-13132: sizes of a peer were believed before they were checked.
#[test]
fn cve_2019_13132_a_length_of_the_peers_is_never_believed() {
    for stated in [0u16, 1, 115, 117, u16::MAX] {
        let mut wire = hex(ONE_SUITE);
        wire[2..4].copy_from_slice(&stated.to_le_bytes());
        assert!(matches!(Hello::parse(&wire), Err(ParseError::Length(_))));
    }
    let mut wire = hex(ONE_SUITE);
    let at = wire.len() - 2;
    wire[at..].copy_from_slice(&u16::MAX.to_le_bytes());
    assert!(matches!(Hello::parse(&wire), Err(ParseError::Length(_))));
}

proptest! {
    #[test]
    fn parsing_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..400), right in any::<bool>()) {
        if right && bytes.len() > 8 {
            let len = u16::try_from(bytes.len()).expect("short").to_le_bytes();
            bytes[..8].copy_from_slice(&[MAGIC, HELLO, len[0], len[1], 1, 2, 0, 0]);
        }
        let _ = Hello::parse(&bytes);
    }
}
