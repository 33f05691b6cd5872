//! Mercury and Argobots, as far as this build links them.
//!
//! This version links neither: the crate compiles on any machine, without a C compiler, and holds only that fact
//! ([`LINKED`]) and the text that tells a user what to install ([`HOW_TO_INSTALL`]). The built-in transports of
//! `margo-rs` need nothing from here.
//!
//! When the Mercury transport arrives, a build script will look for `mercury`, `na` and `argobots` with pkg-config
//! and generate bindings from the headers it finds; where they are absent the crate stays as it is now.

/// Whether Mercury is linked into this build.
pub const LINKED: bool = false;

/// What to tell a user who asks for a protocol that only Mercury provides (`ofi+…`, `ucx+…`, `na+sm`).
///
/// One paragraph, no trailing newline.
pub const HOW_TO_INSTALL: &str = "a later version of Mochi for Rust will link it. The installation that this is being \
    made for comes from Spack: `spack env activate -d . && spack install` beside this project's spack.yaml";
