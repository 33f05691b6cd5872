//! Buffers of messages that are opened in place.

use std::ops::{Deref, DerefMut};

use margo_rs::Buffer;
use zeroize::Zeroize;

use crate::protocol::message::is_sealed;

/// A message that is wiped when it is dropped, if its body was encrypted on its way: its buffer is used again, and until then
/// would keep what was in it in the clear.
pub(crate) struct Wiped(Buffer);

impl Wiped {
    #[inline]
    pub(crate) fn new(message: Buffer) -> Self {
        Self(message)
    }
}

impl Drop for Wiped {
    #[inline]
    fn drop(&mut self) {
        if is_sealed(&self.0) {
            self.0.zeroize();
        }
    }
}

impl Deref for Wiped {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Wiped {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}
