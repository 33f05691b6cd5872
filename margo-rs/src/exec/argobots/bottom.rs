//! The lowest frame of Rust on a stack of Argobots.
//!
//! Whoever walks a stack, as a panic with `RUST_BACKTRACE` does, goes on below our frames into those of Argobots. Nothing
//! says where these end, so that the walk goes on into whatever the stack held before, and may crash. So our frames
//! stand on one that says that there is none below it: its return address is marked as undefined.

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

/// A function that C calls with an argument.
type Entry = unsafe extern "C" fn(*mut c_void);

#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".pushsection .text.margo_rs_bottom,\"ax\",@progbits",
    ".globl margo_rs_bottom",
    ".hidden margo_rs_bottom",
    ".type margo_rs_bottom,@function",
    "margo_rs_bottom:",
    ".cfi_startproc",
    ".cfi_undefined rip",
    "sub rsp, 8",
    ".cfi_adjust_cfa_offset 8",
    "call rsi",
    "add rsp, 8",
    ".cfi_adjust_cfa_offset -8",
    "ret",
    ".cfi_endproc",
    ".size margo_rs_bottom, . - margo_rs_bottom",
    ".popsection",
);

#[cfg(target_arch = "aarch64")]
std::arch::global_asm!(
    ".pushsection .text.margo_rs_bottom,\"ax\",@progbits",
    ".globl margo_rs_bottom",
    ".hidden margo_rs_bottom",
    ".type margo_rs_bottom,@function",
    "margo_rs_bottom:",
    ".cfi_startproc",
    ".cfi_undefined x30",
    "stp x29, x30, [sp, #-16]!",
    ".cfi_adjust_cfa_offset 16",
    "blr x1",
    "ldp x29, x30, [sp], #16",
    ".cfi_adjust_cfa_offset -16",
    "ret",
    ".cfi_endproc",
    ".size margo_rs_bottom, . - margo_rs_bottom",
    ".popsection",
);

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
unsafe extern "C" {
    /// Calls `run` with `arg`.
    fn margo_rs_bottom(arg: *mut c_void, run: Entry);
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
unsafe fn margo_rs_bottom(arg: *mut c_void, run: Entry) {
    // SAFETY: the caller's promise.
    unsafe { run(arg) }
}

struct Call<F, T> {
    work: Option<F>,
    result: Option<thread::Result<T>>,
}

/// Runs `work` as the lowest frames that a walk over the stack sees. No panic gets further.
pub(super) fn at_bottom<T, F: FnOnce() -> T>(work: F) -> thread::Result<T> {
    unsafe extern "C" fn run<T, F: FnOnce() -> T>(arg: *mut c_void) {
        // SAFETY: the call below, which nobody else touches until this returns.
        let call = unsafe { &mut *arg.cast::<Call<F, T>>() };
        if let Some(work) = call.work.take() {
            call.result = Some(catch_unwind(AssertUnwindSafe(work)));
        }
    }
    let mut call = Call { work: Some(work), result: None };
    // SAFETY: `run` is given the type that it expects, and does not unwind.
    unsafe { margo_rs_bottom((&raw mut call).cast(), run::<T, F>) };
    call.result.expect("`run` leaves a result")
}
