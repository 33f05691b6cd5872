//! Where tickets may travel: inside sealed bodies, and nowhere else.
//!
//! A ticket is a value like any other in arguments and results. What tells it apart is this: while a sealed body is being
//! encoded or decoded, the thread says so here, and tickets refuse to be encoded or decoded at any other time.

use std::cell::Cell;

use crate::protocol::Protection;
use crate::protocol::message::Content;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Body {
    /// No body of a session: a plain call, a log line.
    Outside,
    /// Readable on its way.
    Readable,
    Sealed {
        carries: bool,
    },
}

thread_local! {
    static BODY: Cell<Body> = const { Cell::new(Body::Outside) };
}

/// Restores what was before, also after a panic.
struct Restore(Body);

impl Drop for Restore {
    #[inline]
    fn drop(&mut self) {
        BODY.set(self.0);
    }
}

/// Encodes a body, and says what is in it.
#[inline]
pub(crate) fn encoding<T>(protection: Protection, encode: impl FnOnce() -> T) -> (T, Content) {
    let body = match protection {
        Protection::Sealed => Body::Sealed { carries: false },
        Protection::IntegrityOnly => Body::Readable,
    };
    let _restore = Restore(BODY.replace(body));
    let encoded = encode();
    (encoded, Content { bulk: BODY.get() == Body::Sealed { carries: true }, large: false })
}

/// Decodes a body that was opened; `content` is what its header says is in it.
#[inline]
pub(crate) fn decoding<T>(protection: Protection, content: Content, decode: impl FnOnce() -> T) -> T {
    let body = match protection {
        Protection::Sealed => Body::Sealed { carries: content.bulk },
        Protection::IntegrityOnly => Body::Readable,
    };
    let _restore = Restore(BODY.replace(body));
    decode()
}

/// A ticket is to be encoded.
pub(super) fn note_encoded() -> Result<(), &'static str> {
    match BODY.get() {
        Body::Sealed { .. } => {
            BODY.set(Body::Sealed { carries: true });
            Ok(())
        }
        Body::Readable => Err("bulk tickets travel only inside sealed bodies; this session is integrity-only"),
        Body::Outside => Err("bulk tickets travel only inside sealed bodies; call through a Connection"),
    }
}

/// A ticket is to be decoded.
pub(super) fn check_decoded() -> Result<(), &'static str> {
    match BODY.get() {
        Body::Sealed { carries: true } => Ok(()),
        Body::Sealed { carries: false } => Err("a bulk ticket in a message that says it carries none"),
        Body::Readable | Body::Outside => Err("a bulk ticket outside of a sealed body"),
    }
}
