//! What the programs of this package share: the frame of a small program, and the staged examples' RPCs, keys and
//! tokens.
//!
//! The first three stages follow the Mochi authentication examples, the fourth is what they lead to; what each one teaches
//! stands at the top of its `examples/<stage>_server.rs`. A service of your own needs `margo-rs` and `mochi-auth`, not this library.

pub mod program;
pub mod stages;

/// Compiles the code of the documents, so that it cannot go stale.
#[cfg(doctest)]
mod documents {
    #[doc = include_str!("../README.md")]
    struct Readme;

    #[doc = include_str!("../docs/tutorial.md")]
    struct Tutorial;
}
