use super::*;
use proptest::prelude::*;

fn header() -> Header {
    Header {
        kind: Kind::Request,
        protection: Protection::Sealed,
        content: Content { bulk: true, large: true },
        epoch: 0xee,
        session: SessionId::new([3; 16]),
        seq: 0x0102_0304_0506_0708,
        target: Target { rpc: 0x1112_1314_1516_1718, provider: 0x2122 },
        body_len: 5,
    }
}

fn wire() -> Vec<u8> {
    let mut wire = header().encode().to_vec();
    wire.extend_from_slice(&[0; 5 + TAG_LEN]);
    wire
}

#[test]
fn a_header_comes_back() {
    assert_eq!(Incoming::parse(&mut wire()).expect("a message").header(), &header());
}

#[test]
fn a_message_has_its_length_to_the_byte() {
    let wire = wire();
    for len in 0..wire.len() {
        assert!(Incoming::parse(&mut wire[..len].to_vec()).is_err(), "{len}");
    }
    assert!(Incoming::parse(&mut [wire, vec![0]].concat()).is_err());
}

#[test]
fn no_length_overflows() {
    let mut wire = wire();
    wire[44..48].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(Incoming::parse(&mut wire), Err(ParseError::Length(_))));
}

#[test]
fn constant_fields_are_constant() {
    let refused = |at: usize, value: u8, what: ParseError| {
        let mut wire = wire();
        wire[at] = value;
        assert_eq!(Incoming::parse(&mut wire).err(), Some(what));
    };
    refused(0, 0xA0, ParseError::Version(0xA0));
    for kind in [0, 4, 5, 6, 7, 9, 255] {
        refused(1, kind, ParseError::Type(kind));
    }
    for bit in 3..8 {
        refused(2, 1 << bit, ParseError::Field("flags"));
    }
    for at in 4..8 {
        refused(at, 1, ParseError::Field("part"));
    }
    refused(31, 0x80, ParseError::Field("seq"));
    refused(42, 1, ParseError::Field("zero"));
    refused(43, 1, ParseError::Field("zero"));
    refused(1, 8, ParseError::Field("body of close"));
}

#[test]
fn a_draft_keeps_room_for_a_header_whatever_is_written() {
    let mut draft = Draft::copy_of(b"abc");
    draft.append(|bytes| bytes.extend_from_slice(b"def"));
    assert_eq!(draft.body_len(), 6);
    draft.append(Vec::clear);
    assert_eq!(draft.body_len(), 6);
    assert_eq!(Draft::with_capacity(0).body_len(), 0);
}

proptest! {
    #[test]
    fn parsing_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0u8..10) {
        if bytes.len() >= 48 {
            bytes[..8].copy_from_slice(&[MAGIC, kind, 1, 0, 0, 0, 0, 0]);
        }
        let _ = Incoming::parse(&mut bytes);
    }
}
