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
    let mut wire = [0; HEADER_LEN];
    header().write(&mut wire);
    let mut wire = wire.to_vec();
    wire.extend_from_slice(&[0; BLOCK + TAG_LEN]);
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
fn a_sealed_body_is_filled_up_to_whole_blocks_and_another_is_not() {
    for (len, filled) in [(0, 0), (1, 16), (15, 16), (16, 16), (17, 32), (u32::MAX, 1 << 32)] {
        let sealed = Header { body_len: len, ..header() };
        assert_eq!(sealed.filled_len(), filled);
        assert_eq!(Header { protection: Protection::IntegrityOnly, ..sealed }.filled_len(), u64::from(len));
    }
    let mut wire = wire();
    assert_eq!(Incoming::parse(&mut wire).expect("a message").into_body().len(), 5);
    wire[44] = 17;
    assert!(Incoming::parse(&mut wire).is_err());
}

/// What a change of a field changes: associated data, or what the test says.
#[test]
fn every_field_that_varies_is_in_the_associated_data_the_nonce_or_the_key() {
    let associated = header().associated();
    assert_eq!(associated.as_slice(), [&[1, 7][..], &[0x22, 0x21], &[5, 0, 0, 0], &wire()[32..40]].concat());
    let changed: [fn(&mut Header); 7] = [
        |header| header.kind = Kind::Reply,
        |header| header.protection = Protection::IntegrityOnly,
        |header| header.content.bulk = false,
        |header| header.content.large = false,
        |header| header.target.rpc ^= 1 << 63,
        |header| header.target.provider ^= 1,
        |header| header.body_len ^= 1 << 31,
    ];
    for change in changed {
        let mut header = header();
        change(&mut header);
        assert_ne!(header.associated(), associated, "{header:?}");
    }
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
