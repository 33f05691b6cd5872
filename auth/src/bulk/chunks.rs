//! What is done to the data of one transfer, chunk by chunk. Pure.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use subtle::ConstantTimeEq;

use super::{Level, ProtectedBulkError};
use crate::protocol::Secret;
use crate::protocol::kdf::expand_label;

/// Bytes of a chunk: each is protected by itself.
pub const CHUNK: usize = 1 << 20;

const HASH: usize = 32;
const TAG: usize = 16;

/// Bytes of proof for each chunk.
pub(super) fn proof_len(level: Level) -> usize {
    match level {
        Level::None => 0,
        Level::Integrity => HASH,
        Level::Private => TAG,
    }
}

/// Bytes of proof for data of this length.
pub(super) fn proofs_len(level: Level, len: u64) -> u64 {
    len.div_ceil(CHUNK as u64) * proof_len(level) as u64
}

/// The key of one sealing: `salt` is fresh random of whoever seals, so that no two sealings share a nonce.
fn cipher(key: &Secret<32>, salt: &[u8; 16]) -> LessSafeKey {
    let key: Secret<32> = expand_label(key, "bulk", salt);
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.expose()).expect("a 32-byte key"))
}

/// The nonce is the chunk's number; the associated data says how long the whole is.
fn nonce(chunk: usize) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&(chunk as u64).to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}

fn associated(len: usize) -> [u8; 16] {
    let mut data = [0; 16];
    data[..8].copy_from_slice(&(len as u64).to_le_bytes());
    data[8..].copy_from_slice(&(len.div_ceil(CHUNK) as u64).to_le_bytes());
    data
}

/// Protects data in place; gives the proofs, of all chunks in a row.
pub(super) fn protect(level: Level, key: &Secret<32>, salt: &[u8; 16], data: &mut [u8]) -> Vec<u8> {
    let len = data.len();
    let mut proofs = Vec::with_capacity(len.div_ceil(CHUNK) * proof_len(level));
    match level {
        Level::None => {}
        Level::Integrity => data.chunks(CHUNK).for_each(|chunk| proofs.extend(blake3::hash(chunk).as_bytes())),
        Level::Private => {
            let (cipher, associated) = (cipher(key, salt), associated(len));
            for (number, chunk) in data.chunks_mut(CHUNK).enumerate() {
                let sealed = cipher.seal_in_place_separate_tag(nonce(number), Aad::from(associated), chunk);
                proofs.extend_from_slice(sealed.expect("a MiB is not too long").as_ref());
            }
        }
    }
    proofs
}

/// Checks data that arrived and makes it readable, in place. After an error it is garbage.
pub(super) fn check(
    level: Level,
    key: &Secret<32>,
    salt: &[u8; 16],
    proofs: &[u8],
    data: &mut [u8],
) -> Result<(), ProtectedBulkError> {
    let len = data.len();
    if proofs.len() as u64 != proofs_len(level, len as u64) {
        return Err(ProtectedBulkError::Malformed("proofs do not fit the length"));
    }
    let changed = |chunk| ProtectedBulkError::Changed { chunk };
    match level {
        Level::None => {}
        Level::Integrity => {
            for (number, (chunk, proof)) in data.chunks(CHUNK).zip(proofs.chunks_exact(HASH)).enumerate() {
                if !bool::from(blake3::hash(chunk).as_bytes().ct_eq(proof)) {
                    return Err(changed(number));
                }
            }
        }
        Level::Private => {
            let (cipher, associated) = (cipher(key, salt), associated(len));
            for (number, (chunk, proof)) in data.chunks_mut(CHUNK).zip(proofs.chunks_exact(TAG)).enumerate() {
                let tag = proof.try_into().expect("16 bytes");
                let opened = cipher.open_in_place_separate_tag(nonce(number), Aad::from(associated), tag, chunk, 0..);
                opened.map_err(|_| changed(number))?;
            }
        }
    }
    Ok(())
}
