//! The token that goes with each call of stages 2 and 3.

use margo_rs::codec::Bytes;
use ring::hmac;
use serde::{Deserialize, Serialize};

use super::key::Key;

/// Proof that a call comes from the holder of a [`Key`]: who calls, the number of the call, and an HMAC-SHA512 of the
/// two (16 bytes, little-endian).
///
/// On the wire it is 80 bytes, with nothing between the fields. The number can only be read by checking the HMAC
/// ([`check`](Self::check)); the caller can be read before, because the key has to be looked up by it, and is therefore
/// a claim and nothing more.
#[derive(Clone, Serialize, Deserialize)]
pub struct Token {
    caller: u64,
    sequence: u64,
    tag: Bytes<64>,
}

impl Token {
    /// The token for call number `sequence` of `caller`, which is a uid in stage 2 and a session id in stage 3.
    pub fn new(key: &Key, caller: u64, sequence: u64) -> Self {
        let tag = hmac::sign(&key.hmac(), &signed_bytes(caller, sequence));
        let tag: [u8; 64] = tag.as_ref().try_into().expect("an HMAC-SHA512 has 64 bytes");
        Self { caller, sequence, tag: tag.into() }
    }

    /// Who the token says it is from. Believe it only as far as to look up a key.
    pub fn claimed_caller(&self) -> u64 {
        self.caller
    }

    /// The number of the call, if the token was made with `key`; the comparison takes the same time however much of it
    /// is right.
    pub fn check(&self, key: &Key) -> Option<u64> {
        let signed = signed_bytes(self.caller, self.sequence);
        hmac::verify(&key.hmac(), &signed, self.tag.as_ref()).ok().map(|()| self.sequence)
    }
}

fn signed_bytes(caller: u64, sequence: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&caller.to_le_bytes());
    bytes[8..].copy_from_slice(&sequence.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key::from_payload(&std::array::from_fn::<u8, 32, _>(|i| i as u8)).expect("the length of a key")
    }

    #[test]
    fn token_is_accepted_by_its_key_alone() {
        let token = Token::new(&key(), 1000, 7);
        assert_eq!(token.check(&key()), Some(7));
        assert_eq!(token.check(&Key::from_payload(&[0; 32]).expect("the length of a key")), None);
    }

    #[test]
    fn tag_is_the_hmac_sha512_of_caller_and_sequence() {
        // python3 -c "import hmac,struct; print(hmac.new(bytes(range(32)), struct.pack('<QQ', 1000, 7), 'sha512').hexdigest())"
        let expected = "f4f01fe6123292a036d404f561665155c6191aac2b43036323778a3cafe6e5a59f22b1a8f4111fce52c7eac2ae7332cbfd8ee356fe5e58b6a1111fc32ada82a8";
        let hex: String = Token::new(&key(), 1000, 7).tag.0.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, expected);
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let token = Token::new(&key(), 1000, 7);
        for bit in 0..64 {
            assert_eq!(Token { caller: token.caller ^ (1 << bit), ..token }.check(&key()), None);
            assert_eq!(Token { sequence: token.sequence ^ (1 << bit), ..token }.check(&key()), None);
        }
        for bit in 0..512 {
            let mut tag = token.tag;
            tag.0[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Token { tag, ..token }.check(&key()), None, "bit {bit} of the tag");
        }
    }
}
