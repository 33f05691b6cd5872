use super::*;
use crate::fixtures::{hex, tampered, terms};
use proptest::prelude::*;

const GOLDEN: &str = "a1058e0001000008030303030303030303030303030303030404040404040404040404040404040404040404040404040404\
     040404040404050505050505050505050505050505050505050505050505050505050505050584030000c0a8000000040000\
     000010000400616263646dc90bfa39d57c879450c5f25f1653b9bf5040946ffb3944c75c198b2041e558";

fn golden_terms() -> Terms {
    Terms { max_message: 1 << 20, ..terms() }
}

fn draft(terms: &Terms) -> ReplyDraft {
    ReplyDraft::new(terms, SessionId::new([3; 16]), &[4; 32], &[5; 32], b"ab", 2).expect("short")
}

#[test]
fn a_reply_has_golden_bytes() {
    let wire = draft(&golden_terms()).with_proof(b"cd");
    assert_eq!(wire, hex(GOLDEN)[..hex(GOLDEN).len() - FINISHED_LEN]);
}

#[test]
fn a_reply_is_read_as_it_was_written() {
    let wire = hex(GOLDEN);
    let reply = HelloReply::parse(&wire).expect("golden");
    assert_eq!(reply.terms(), &golden_terms());
    assert_eq!(reply.session(), SessionId::new([3; 16]));
    assert_eq!(reply.public_key(), &[5; 32]);
    assert_eq!(reply.token(), b"abcd");
    assert_eq!(reply.finished().as_slice(), &wire[wire.len() - 32..]);
}

#[test]
fn a_changed_reply_is_refused_or_has_another_transcript_or_finished() {
    let wire = hex(GOLDEN);
    let original = HelloReply::parse(&wire).expect("golden");
    for changed in tampered(&wire) {
        let Ok(reply) = HelloReply::parse(&changed) else {
            continue;
        };
        assert_eq!(changed.len(), wire.len(), "a cut or longer one was parsed");
        assert!(reply.th2(b"hello") != original.th2(b"hello") || reply.finished() != original.finished());
    }
}

#[test]
fn terms_that_make_no_sense_are_refused() {
    let good = golden_terms();
    for bad in [
        Terms { window_bits: 0, ..good },
        Terms { window_bits: 100, ..good },
        Terms { window_bits: 8192, ..good },
        Terms { idle: Duration::ZERO, ..good },
        Terms { absolute: Duration::ZERO, ..good },
        Terms { max_in_flight: 0, ..good },
        Terms { max_in_flight: 1025, ..good },
        Terms { max_message: 4095, ..good },
    ] {
        let mut wire = draft(&bad).with_proof(b"cd");
        wire.extend_from_slice(&[0; 32]);
        assert!(matches!(HelloReply::parse(&wire), Err(ParseError::Field(_))), "{bad:?}");
    }
}

#[test]
fn a_proof_is_over_all_that_is_before_it() {
    let wire = hex(GOLDEN);
    let reply = HelloReply::parse(&wire).expect("golden");
    let mine = draft(&golden_terms()).proof_transcript(b"hello");
    assert_eq!(reply.proof_transcript(b"hello", 2), Some(mine));
    assert_ne!(reply.proof_transcript(b"other", 2), Some(mine));
    assert_ne!(reply.proof_transcript(b"hello", 3), Some(mine));
    assert_eq!(reply.proof_transcript(b"hello", 5), None);
}

#[test]
fn a_token_that_does_not_fit_is_refused() {
    let new = |head: usize, proof| {
        ReplyDraft::new(&terms(), SessionId::new([3; 16]), &[4; 32], &[5; 32], &vec![0; head], proof).is_some()
    };
    let room = HELLO_REP_MAX - HELLO_REP_FIXED - FINISHED_LEN;
    assert!(new(room, 0) && new(0, room));
    assert!(!new(room, 1) && !new(0, room + 1) && !new(1, usize::MAX));
}

proptest! {
    #[test]
    fn parsing_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..400), right in any::<bool>()) {
        if right && bytes.len() > 8 {
            let len = u16::try_from(bytes.len()).expect("short").to_le_bytes();
            bytes[..8].copy_from_slice(&[MAGIC, HELLO_REP, len[0], len[1], 1, 0, 0, 8]);
        }
        let _ = HelloReply::parse(&bytes);
    }
}
