//! The bytes of requests and responses, on their way to and from Mercury.

use mochi_sys::mercury as hg;
use std::ptr;

pub(super) const EMPTY: hg::mochi_hg_payload = hg::mochi_hg_payload { data: ptr::null_mut(), size: 0, fetched: false };

/// # Safety
/// The payload is one that Mercury gave out, and it lives for `'a`.
pub(super) unsafe fn slice<'a>(payload: &hg::mochi_hg_payload) -> &'a [u8] {
    if payload.data.is_null() || payload.size == 0 {
        return &[];
    }
    // SAFETY: Mercury says that so many bytes are there, which it has received or, for the rest of a buffer that was
    // posted, allocated and initialised; the lifetime is the caller's promise.
    unsafe { std::slice::from_raw_parts(payload.data.cast::<u8>(), payload.size) }
}

pub(super) fn parts(head: &[u8], body: &[u8]) -> hg::mochi_hg_bytes {
    hg::mochi_hg_bytes {
        head: head.as_ptr().cast(),
        head_size: head.len(),
        body: body.as_ptr().cast(),
        body_size: body.len(),
    }
}
