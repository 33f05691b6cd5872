//! What the cipher alone takes of a sealed call: its four steps, two at either end, each with the body and the associated
//! data of such a message. It is the least that a sealed call can cost more than a plain one.

use std::hint::black_box;
use std::time::Instant;

use mochi_auth::protocol::message::{ASSOCIATED_LEN, TAG_LEN};
use mochi_rs::program::Outcome;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::error::Unspecified;

/// Times that the steps are timed together: the clock's own time must not count.
const BATCH: u32 = 1000;
const BATCHES: usize = 21;
/// Bytes of the length of an encoded payload.
const LENGTH: usize = 8;
/// Bytes of a cipher's block.
const BLOCK: usize = 16;

/// Microseconds for one call with so many bytes of payload each way: the median of some batches.
pub(in super::super) fn measure(size: usize) -> Outcome<f64> {
    let key = UnboundKey::new(&AES_256_GCM, &[0x42; 32]).map_err(|Unspecified| "no key of 32 bytes")?;
    let key = LessSafeKey::new(key);
    // The length that comes before the payload, and whole blocks.
    let mut body = vec![0x5a; (size + LENGTH).next_multiple_of(BLOCK)];
    let mut times = [0.0; BATCHES];
    for time in &mut times {
        let start = Instant::now();
        for _ in 0..BATCH {
            // The reply is bound to the request's tag.
            step(&key, &[1; ASSOCIATED_LEN], &mut body)?;
            step(&key, &[2; ASSOCIATED_LEN + TAG_LEN], &mut body)?;
        }
        *time = start.elapsed().as_secs_f64() * 1e6 / f64::from(BATCH);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[BATCHES / 2])
}

/// Seals and opens one message.
fn step(key: &LessSafeKey, header: &[u8], body: &mut Vec<u8>) -> Outcome<()> {
    let failed = |Unspecified| "the cipher failed";
    let nonce = || Nonce::assume_unique_for_key([7; NONCE_LEN]);
    let tag = key.seal_in_place_separate_tag(nonce(), Aad::from(black_box(header)), body).map_err(failed)?;
    body.extend_from_slice(tag.as_ref());
    let length = key.open_in_place(nonce(), Aad::from(black_box(header)), black_box(body)).map_err(failed)?.len();
    body.truncate(length);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_is_sealed_and_opened_is_what_it_was() {
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[1; 32]).unwrap());
        let mut body = b"payload".to_vec();
        step(&key, &[1; ASSOCIATED_LEN], &mut body).unwrap();
        assert_eq!(body, b"payload");
    }
}
