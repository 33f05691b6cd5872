//! Mercury and Argobots, as far as this build links them.
//!
//! The build script looks for `mercury` (2.2 to 2.4), `na`, `mercury_util` and `argobots` (1.1 or newer) with
//! pkg-config, and generates bindings from the headers it finds; either library does without the other. Where both are
//! absent the crate compiles all the same, without a C compiler, and holds only that fact ([`LINKED`],
//! [`ARGOBOTS_LINKED`]) and the text that tells a user what to install ([`HOW_TO_INSTALL`],
//! [`HOW_TO_INSTALL_ARGOBOTS`]). The built-in transports and pools of `margo-rs` need nothing from here.
//!
//! `MOCHI_MERCURY=off` leaves installed ones alone; `MOCHI_MERCURY=require` fails the build without both.
//!
//! The bindings (`mercury` and `argobots`, where they are linked) are C's names for C's things: enums are integers with
//! named constants, because a peer's Mercury may send numbers that ours does not know. What Mercury has as inline functions and macros
//! only comes through a small C shim (`mochi_…`) that is compiled against the installed headers.

/// Whether Mercury is linked into this build.
pub const LINKED: bool = cfg!(mercury);

/// Whether Argobots is linked into this build.
pub const ARGOBOTS_LINKED: bool = cfg!(argobots);

/// The release of Mercury that this build was compiled against, `2.4.1` for example.
pub const MERCURY_VERSION: Option<&str> = if LINKED { option_env!("MOCHI_MERCURY_VERSION") } else { None };

/// What to tell a user who asks for a protocol that only Mercury provides (`ofi+…`, `ucx+…`, `na+sm`).
///
/// One paragraph, no trailing newline.
pub const HOW_TO_INSTALL: &str = "install it with Spack (`spack env activate -d . && spack install` beside this \
    project's spack.yaml), or put the directory of an installed mercury.pc into PKG_CONFIG_PATH, and build again";

/// What to tell a user who asks for an Argobots pool.
///
/// One paragraph, no trailing newline.
pub const HOW_TO_INSTALL_ARGOBOTS: &str = "install it with Spack (`spack env activate -d . && spack install` beside \
    this project's spack.yaml), or put the directory of an installed argobots.pc into PKG_CONFIG_PATH, and build again";

/// The bindings to Mercury.
#[cfg(mercury)]
#[allow(missing_docs, non_camel_case_types, non_upper_case_globals, non_snake_case, unreachable_pub, clippy::all)]
pub mod mercury {
    include!(concat!(env!("OUT_DIR"), "/mercury.rs"));
}

/// The bindings to Argobots.
#[cfg(argobots)]
#[allow(missing_docs, non_camel_case_types, non_upper_case_globals, non_snake_case, unreachable_pub, clippy::all)]
pub mod argobots {
    include!(concat!(env!("OUT_DIR"), "/argobots.rs"));
}

#[cfg(all(test, mercury))]
mod tests {
    use super::mercury::*;

    #[test]
    fn structures_have_the_sizes_that_the_c_compiler_gives_them() {
        // SAFETY: functions without arguments that return a constant.
        let (info, cb_info) = unsafe { (mochi_sizeof_init_info(), mochi_sizeof_cb_info()) };
        assert_eq!(size_of::<hg_init_info>(), info);
        assert_eq!(size_of::<hg_cb_info>(), cb_info);
    }

    #[test]
    fn the_library_at_run_time_is_the_release_that_was_compiled_against() {
        let (mut major, mut minor, mut patch) = (0, 0, 0);
        // SAFETY: three valid places to write to.
        unsafe { HG_Version_get(&mut major, &mut minor, &mut patch) };
        let version = super::MERCURY_VERSION.expect("linked");
        assert!(version.starts_with(&format!("{major}.{minor}")), "{version} against {major}.{minor}.{patch}");
    }
}
