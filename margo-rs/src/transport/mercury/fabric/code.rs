//! Mercury's return codes.

use mochi_sys::mercury as hg;
use std::ffi::CStr;

/// Mercury's `hg_return_t`, numbered as in the headers compiled against. A peer may send any other number.
pub(in super::super) type Code = hg::hg_return_t;

pub(in super::super) fn succeed(code: Code) -> Result<(), Code> {
    if code == hg::HG_SUCCESS { Ok(()) } else { Err(code) }
}

/// A code in Mercury's words.
pub(in super::super) fn explain(code: Code) -> String {
    // SAFETY: any number may be asked for; unknown ones give NULL.
    let text = unsafe { hg::HG_Error_to_string(code) };
    if text.is_null() {
        return format!("Mercury's error {code}");
    }
    // SAFETY: a constant text that ends with NUL.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// Whether the peer or the way to it is gone, rather than that one operation failed.
pub(in super::super) fn is_network_error(code: Code) -> bool {
    // SAFETY: a pure function of a number.
    unsafe { hg::mochi_hg_is_network_error(code) }
}
