//! The pure parts; transfers over a network are in `tests/sessions`.

use super::chunks::{CHUNK, check, proofs_len, protect};
use super::{Level, ProtectedBulkError};
use crate::fixtures::secret;

const LEVELS: [Level; 3] = [Level::None, Level::Integrity, Level::Private];
const SALT: [u8; 16] = [5; 16];

fn data(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 % 251) as u8).collect()
}

#[test]
fn what_was_protected_comes_back() {
    for level in LEVELS {
        for len in [0, 1, 1000, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK] {
            let (plain, mut sent) = (data(len), data(len));
            let proofs = protect(level, &secret(1), &SALT, &mut sent);
            assert_eq!(proofs.len() as u64, proofs_len(level, len as u64));
            assert_eq!(sent == plain, level != Level::Private || len == 0, "{level:?} {len}");
            check(level, &secret(1), &SALT, &proofs, &mut sent).expect("unchanged");
            assert!(sent == plain);
        }
    }
}

#[test]
fn every_change_of_a_small_transfer_is_noticed() {
    for level in [Level::Integrity, Level::Private] {
        let mut sent = data(40);
        let proofs = protect(level, &secret(1), &SALT, &mut sent);
        let refused = |data: &[u8], proofs: &[u8]| check(level, &secret(1), &SALT, proofs, &mut data.to_vec()).is_err();
        for bit in 0..sent.len() * 8 {
            let mut changed = sent.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(refused(&changed, &proofs), "data {bit}");
        }
        for bit in 0..proofs.len() * 8 {
            let mut changed = proofs.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(refused(&sent, &changed), "proof {bit}");
        }
        for len in 0..sent.len() {
            assert!(refused(&sent[..len], &proofs), "cut to {len}");
        }
        assert!(refused(&[&sent[..], &[0]].concat(), &proofs));
        assert!(refused(&sent, &[]), "no proofs");
        assert!(!refused(&sent, &proofs));
    }
}

#[test]
fn chunks_cannot_change_places_or_transfers() {
    let mut sent = data(2 * CHUNK);
    let proofs = protect(Level::Private, &secret(1), &SALT, &mut sent);
    let mut swapped = [&sent[CHUNK..], &sent[..CHUNK]].concat();
    let swapped_proofs = [&proofs[16..], &proofs[..16]].concat();
    let error = check(Level::Private, &secret(1), &SALT, &swapped_proofs, &mut swapped).expect_err("swapped");
    assert!(matches!(error, ProtectedBulkError::Changed { chunk: 0 }));
    // The first of two chunks is not a transfer of one.
    let first = check(Level::Private, &secret(1), &SALT, &proofs[..16], &mut sent[..CHUNK].to_vec());
    assert!(matches!(first, Err(ProtectedBulkError::Changed { chunk: 0 })));
    for (key, salt) in [(secret(2), SALT), (secret(1), [6; 16])] {
        assert!(check(Level::Private, &key, &salt, &proofs, &mut sent.clone()).is_err());
    }
}

#[test]
fn levels_are_ordered() {
    assert!(Level::None < Level::Integrity && Level::Integrity < Level::Private);
}
