use super::*;
use crate::fixtures::{PROTECTIONS, SUITES, TARGET, hex, secret, tampered};
use crate::protocol::SessionId;
use crate::protocol::message::{Content, Kind};

/// Computed independently: AES-GCM and ChaCha20-Poly1305 written out in Python from their standards.
const GOLDEN: [(Suite, Protection, &str, &str); 4] = [
    (
        Suite::Aes256Gcm,
        Protection::Sealed,
        "a1010300000000000303030303030303030303030303030308070605040302018877665544332211aa990000130000003479\
         e9e2bf13ddd1409e0c694063781fb047f9e10bb391dbbbdfaa1138e78bf41d7aadb2b7b9669f6580afe2f3e81883",
        "a1020100000000000303030303030303030303030303030308070605040302018877665544332211aa99000009000000de1d\
         4bf373081f05b53f0d330708e930f34da0a57f6fc4fb36d5949f4ada4da0",
    ),
    (
        Suite::Aes256Gcm,
        Protection::IntegrityOnly,
        "a1010200000000000303030303030303030303030303030308070605040302018877665544332211aa990000130000006865\
         6c6c6f2c207365616c656420776f726c64194ce14f65a868041d61a1fb46a16fed",
        "a1020000000000000303030303030303030303030303030308070605040302018877665544332211aa99000009000000616e\
         20616e7377657289a94309495fc0afbc05b5efdffd9848",
    ),
    (
        Suite::ChaCha20Poly1305,
        Protection::Sealed,
        "a1010300000000000303030303030303030303030303030308070605040302018877665544332211aa990000130000009591\
         1d0d921efa88f32979a8464d10c3f4d5fc12d4d4577c39e5d2e292ae64cb4bc3a1fe3b4a9b6e0b78d9314418c896",
        "a1020100000000000303030303030303030303030303030308070605040302018877665544332211aa99000009000000de77\
         065ebef86ff0c8c29e7610e265e5930ad61bbdcb42ecabd52d5458540ab5",
    ),
    (
        Suite::ChaCha20Poly1305,
        Protection::IntegrityOnly,
        "a1010200000000000303030303030303030303030303030308070605040302018877665544332211aa990000130000006865\
         6c6c6f2c207365616c656420776f726c643e5f245cf61b051023b39e154c0d3d2a",
        "a1020000000000000303030303030303030303030303030308070605040302018877665544332211aa99000009000000616e\
         20616e73776572dbffb02dca34c31aaf499027d8a0a7c9",
    ),
];
const SEQ: u64 = 0x0102_0304_0506_0708;
const FEW: Limits = Limits {
    soft_messages: 4,
    hard_messages: 8,
    soft_bytes: 10_000,
    age: Duration::from_secs(3600),
    previous: Duration::from_secs(30),
};

fn header(kind: Kind, protection: Protection) -> Header {
    let content = Content { bulk: kind == Kind::Request, large: false };
    Header {
        kind,
        protection,
        content,
        epoch: 0,
        session: SessionId::new([3; 16]),
        seq: 0,
        target: TARGET,
        body_len: 0,
    }
}

fn seal(sealing: &Sealing, seq: u64, now: Tick, limits: &Limits) -> Vec<u8> {
    let header = header(Kind::Request, Protection::Sealed);
    sealing.seal(Unused::assume(seq), header, None, Draft::copy_of(b"body"), now, limits).expect("sealed")
}

fn open(opening: &Opening, wire: &[u8], now: Tick) -> Result<(), OpenError> {
    let mut wire = wire.to_vec();
    let mut message = Incoming::parse(&mut wire).expect("a message");
    opening.open(&mut message, None, now, &FEW)?;
    assert_eq!(message.into_body(), b"body");
    Ok(())
}

fn halves() -> (Sealing, Opening) {
    (Sealing::new(Suite::Aes256Gcm, secret(9), Tick(0)), Opening::new(Suite::Aes256Gcm, secret(9)))
}

#[test]
fn messages_are_golden_and_open_again() {
    for (suite, protection, request, reply) in GOLDEN {
        let now = Tick(0);
        let sealing = Sealing::new(suite, secret(0x44), now);
        let body = Draft::copy_of(b"hello, sealed world");
        let head = header(Kind::Request, protection);
        let mut wire = sealing.seal(Unused::assume(SEQ), head, None, body, now, &Limits::DEFAULT).expect("sealed");
        assert_eq!(wire, hex(request), "{suite:?} {protection:?}");
        let mut message = Incoming::parse(&mut wire).expect("a message");
        let opening = Opening::new(suite, secret(0x44));
        let tag = message.tag();
        assert_eq!(tag, hex(request)[hex(request).len() - 16..]);
        assert_eq!(opening.open(&mut message, None, now, &Limits::DEFAULT), Ok(()));
        assert_eq!(message.into_body(), b"hello, sealed world");

        let sealing = Sealing::new(suite, secret(0x55), now);
        let body = Draft::copy_of(b"an answer");
        let head = header(Kind::Reply, protection);
        let sealed = sealing.seal(Unused::assume(SEQ), head, Some(&tag), body, now, &Limits::DEFAULT);
        let mut wire = sealed.expect("sealed");
        assert_eq!(wire, hex(reply), "{suite:?} {protection:?}");
        let mut message = Incoming::parse(&mut wire).expect("a message");
        let opening = Opening::new(suite, secret(0x55));
        assert!(opening.open(&mut message, Some(&tag), now, &Limits::DEFAULT).is_ok());
        assert_eq!(message.into_body(), b"an answer");
    }
}

#[test]
fn a_changed_message_is_not_opened() {
    for (suite, _, request, reply) in GOLDEN {
        for (wire, key, bind) in [(request, 0x44, false), (reply, 0x55, true)] {
            let tag: Tag = hex(request)[hex(request).len() - 16..].try_into().expect("16 bytes");
            let opening = Opening::new(suite, secret(key));
            for mut changed in tampered(&hex(wire)) {
                // The key is of one session, and a message of another is not opened with it.
                if changed.get(8..24) != hex(wire).get(8..24) {
                    continue;
                }
                let Ok(mut message) = Incoming::parse(&mut changed) else {
                    continue;
                };
                let opened = opening.open(&mut message, bind.then_some(&tag), Tick(0), &Limits::DEFAULT);
                assert!(matches!(opened, Err(OpenError::BadTag | OpenError::Epoch)));
            }
        }
    }
}

#[test]
fn a_reply_is_bound_to_each_bit_of_the_requests_tag() {
    for (suite, _, request, reply) in GOLDEN {
        let tag: Tag = hex(request)[hex(request).len() - 16..].try_into().expect("16 bytes");
        let opening = Opening::new(suite, secret(0x55));
        let opens = |bind: Option<&Tag>| {
            let mut wire = hex(reply);
            opening.open(&mut Incoming::parse(&mut wire).expect("a message"), bind, Tick(0), &Limits::DEFAULT).is_ok()
        };
        assert!(opens(Some(&tag)));
        assert!(!opens(None));
        for bit in 0..128 {
            let mut other = tag;
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(!opens(Some(&other)));
        }
    }
}

#[test]
fn an_integrity_only_body_cannot_pass_for_a_sealed_one_nor_the_other_way() {
    for suite in SUITES {
        for protection in PROTECTIONS {
            let sealing = Sealing::new(suite, secret(9), Tick(0));
            let head = header(Kind::Request, protection);
            // As long as a block, a body is as long in both forms.
            let sealed = sealing.seal(Unused::assume(0), head, None, Draft::copy_of(&[7; 16]), Tick(0), &FEW);
            let mut wire = sealed.expect("sealed");
            wire[2] ^= 1;
            let mut message = Incoming::parse(&mut wire).expect("a message");
            let opening = Opening::new(suite, secret(9));
            assert_eq!(opening.open(&mut message, None, Tick(0), &FEW), Err(OpenError::BadTag));
        }
    }
}

#[test]
fn a_sender_moves_to_the_next_epoch_by_count_bytes_and_age() {
    let (sealing, _) = halves();
    for seq in 0..4 {
        assert_eq!(seal(&sealing, seq, Tick(0), &FEW)[3], 0);
    }
    assert_eq!(seal(&sealing, 4, Tick(0), &FEW)[3], 1);
    assert_eq!(seal(&sealing, 5, Tick(3_599_999), &FEW)[3], 1);
    assert_eq!(seal(&sealing, 6, Tick(3_600_000), &FEW)[3], 2);
    let long = Draft::copy_of(&[0; 10_000]);
    let head = header(Kind::Request, Protection::Sealed);
    sealing.seal(Unused::assume(7), head, None, long, Tick(3_600_000), &FEW).expect("sealed");
    assert_eq!(seal(&sealing, 8, Tick(3_600_000), &FEW)[3], 3);
}

#[test]
fn keys_change_in_flight_with_messages_out_of_order() {
    let (sealing, opening) = halves();
    let wires: Vec<_> = (0..40).map(|seq| seal(&sealing, seq, Tick(0), &FEW)).collect();
    assert_eq!(sealing.epoch(), 9);
    // Within an epoch and its neighbour any order: 4..8 are of epoch 1, 0..4 of epoch 0.
    for seq in [5, 0, 3, 4, 7, 1, 6, 2] {
        assert_eq!(open(&opening, &wires[seq], Tick(0)), Ok(()), "{seq}");
    }
    assert_eq!(opening.epoch(), 1);
    assert_eq!(open(&opening, &wires[8], Tick(0)), Ok(()));
    assert_eq!(open(&opening, &wires[0], Tick(0)), Err(OpenError::Epoch), "two epochs back");
    assert_eq!(open(&opening, &wires[7], Tick(0)), Ok(()));
    // Up to four epochs ahead, should all between be lost.
    assert_eq!(open(&opening, &wires[7 * 4], Tick(0)), Err(OpenError::Epoch));
    assert_eq!(open(&opening, &wires[6 * 4], Tick(0)), Ok(()));
    assert_eq!(opening.epoch(), 6);
    assert_eq!(open(&opening, &wires[5 * 4], Tick(0)), Ok(()), "the one before was derived on the way");
    assert_eq!(open(&opening, &wires[9 * 4], Tick(0)), Ok(()));
}

#[test]
fn the_previous_epoch_is_kept_for_its_time() {
    let (sealing, opening) = halves();
    let wires: Vec<_> = (0..5).map(|seq| seal(&sealing, seq, Tick(0), &FEW)).collect();
    open(&opening, &wires[4], Tick(1000)).expect("the next epoch");
    assert_eq!(open(&opening, &wires[0], Tick(30_999)), Ok(()));
    assert_eq!(open(&opening, &wires[1], Tick(31_000)), Err(OpenError::Epoch));
}

#[test]
fn a_forged_epoch_does_not_move_the_receiver() {
    let (sealing, opening) = halves();
    let good = seal(&sealing, 0, Tick(0), &FEW);
    for epoch in 1..=255 {
        let mut forged = good.clone();
        forged[3] = epoch;
        assert!(open(&opening, &forged, Tick(0)).is_err());
    }
    assert_eq!(opening.epoch(), 0);
    assert_eq!(open(&opening, &good, Tick(0)), Ok(()));
}

#[test]
fn epochs_go_on_past_256() {
    let (sealing, opening) = halves();
    for seq in 0..4 * 300 {
        let wire = seal(&sealing, seq, Tick(0), &FEW);
        assert_eq!(open(&opening, &wire, Tick(0)), Ok(()), "{seq}");
    }
    assert_eq!((sealing.epoch(), opening.epoch()), (299, 299));
}

#[test]
fn a_key_stops_at_its_hard_limit_on_both_ends() {
    let never = Limits { soft_messages: u64::MAX, ..FEW };
    let (sealing, opening) = halves();
    for seq in 0..8 {
        assert_eq!(open(&opening, &seal(&sealing, seq, Tick(0), &never), Tick(0)), Ok(()));
    }
    let head = header(Kind::Request, Protection::Sealed);
    let ninth = sealing.seal(Unused::assume(8), head, None, Draft::copy_of(b"body"), Tick(0), &never);
    assert_eq!(ninth.err(), Some(KeyExhausted));
    let careless = Limits { hard_messages: u64::MAX, ..never };
    let ninth = seal(&sealing, 8, Tick(0), &careless);
    assert_eq!(open(&opening, &ninth, Tick(0)), Err(OpenError::KeyExhausted));
}

#[test]
fn the_default_limits_are_those_of_the_specification() {
    let limits = Limits::DEFAULT;
    assert_eq!((limits.soft_messages, limits.hard_messages, limits.soft_bytes), (1 << 22, 1 << 23, 64 << 30));
    assert_eq!((limits.age, limits.previous), (Duration::from_secs(3600), Duration::from_secs(30)));
}

#[test]
fn cooling_changes_nothing_but_memory() {
    let (sealing, opening) = halves();
    for seq in 0..10 {
        assert_eq!(open(&opening, &seal(&sealing, seq, Tick(0), &FEW), Tick(0)), Ok(()));
        sealing.cool();
        opening.cool(Tick(0));
    }
    let keys = opening.keys.read();
    assert!(keys.ready.is_none() && keys.previous.is_some());
    drop(keys);
    opening.cool(Tick(30_000));
    assert!(opening.keys.read().previous.is_none());
}

/// A child of fork(2) has the parent's keys and counters: it would seal other messages under the same numbers.
#[test]
fn a_forked_child_seals_nothing() {
    let (sealing, opening) = halves();
    let before = seal(&sealing, 0, Tick(0), &FEW);
    let (head, draft) = (header(Kind::Request, Protection::Sealed), Draft::copy_of(b"other"));
    assert!(crate::fork::holds_in_a_child(|| {
        sealing.seal(Unused::assume(1), head, None, draft, Tick(0), &FEW).err() == Some(KeyExhausted)
    }));
    assert_eq!(open(&opening, &before, Tick(0)), Ok(()));
    assert_eq!(open(&opening, &seal(&sealing, 1, Tick(0), &FEW), Tick(0)), Ok(()));
}
