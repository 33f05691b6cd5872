//! HKDF-SHA256 (RFC 5869) and the labelled expansion of RFC 8446 section 7.1 with our own prefix.

use ring::{hkdf, hmac};

use super::secret::Secret;

/// In front of every label and hash of this protocol: no key or hash of another one can be mistaken for ours.
pub(crate) const LABEL_PREFIX: &[u8] = b"hgrpc1 ";

/// HKDF-Extract.
///
/// Computed as the HMAC it is defined as, since ring's own `Prk` does not let the secret out and the
/// schedule chains extractions.
pub(crate) fn extract(salt: &[u8], material: &[u8]) -> Secret<32> {
    mac(salt, &[material])
}

/// HMAC-SHA256 over the parts, one after another.
pub(crate) fn mac(key: &[u8], parts: &[&[u8]]) -> Secret<32> {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    for part in parts {
        context.update(part);
    }
    let tag = context.sign();
    Secret::new(|bytes| bytes.copy_from_slice(tag.as_ref()))
}

/// HKDF-Expand; at most 255 * 32 bytes.
pub(crate) fn expand(secret: &[u8; 32], info: &[&[u8]], out: &mut [u8]) {
    struct Len(usize);
    impl hkdf::KeyType for Len {
        fn len(&self) -> usize {
            self.0
        }
    }
    let prk = hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, secret);
    let okm = prk.expand(info, Len(out.len())).expect("callers ask for less than 255 blocks");
    okm.fill(out).expect("the length is that of the request");
}

/// HKDF-Expand-Label: `info` is the length (u16, big-endian), the length of prefix and label (u8), both of them, the
/// length of the context (u8) and the context, exactly as in TLS 1.3, so that no two of them can be confused.
pub(crate) fn expand_label<const N: usize>(secret: &Secret<32>, label: &str, context: &[u8]) -> Secret<N> {
    let len = u16::try_from(N).expect("keys are short").to_be_bytes();
    let label_len = [u8::try_from(LABEL_PREFIX.len() + label.len()).expect("labels are short")];
    let context_len = [u8::try_from(context.len()).expect("contexts are hashes")];
    let info: [&[u8]; 6] = [&len, &label_len, LABEL_PREFIX, label.as_bytes(), &context_len, context];
    Secret::new(|out| expand(secret.expose(), &info, out))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex")).collect()
    }

    fn check(ikm: &[u8], salt: &[u8], info: &[u8], prk: &str, okm: &str) {
        let extracted = extract(salt, ikm);
        assert_eq!(extracted.expose().as_slice(), bytes(prk));
        let expected = bytes(okm);
        let mut out = vec![0; expected.len()];
        expand(extracted.expose(), &[info], &mut out);
        assert_eq!(out, expected);
    }

    #[test]
    fn rfc_5869_case_1_basic() {
        check(
            &[0x0b; 22],
            &(0x00..=0x0c).collect::<Vec<u8>>(),
            &(0xf0..=0xf9).collect::<Vec<u8>>(),
            "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5",
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        );
    }

    #[test]
    fn rfc_5869_case_2_longer() {
        check(
            &(0x00..=0x4f).collect::<Vec<u8>>(),
            &(0x60..=0xaf).collect::<Vec<u8>>(),
            &(0xb0..=0xff).collect::<Vec<u8>>(),
            "06a6b88c5853361a06104c9ceb35b45cef760014904671014a193f40c15fc244",
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09da3275600c2f\
             09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
        );
    }

    #[test]
    fn rfc_5869_case_3_empty_salt_and_info() {
        check(
            &[0x0b; 22],
            &[],
            &[],
            "19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04",
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
        );
    }
}
