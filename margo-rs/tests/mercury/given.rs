//! An engine on a class and a context that the test has started, as a service in C would.

#![allow(unsafe_code)]

use crate::support::*;
use margo_rs::transport::mercury::GivenContext;
use margo_rs::{Engine, Wait};
use mochi_sys::mercury as hg;
use std::ffi::CString;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// Mercury as its owner has it.
struct Owned {
    class: *mut hg::hg_class_t,
    context: *mut hg::hg_context_t,
}

// SAFETY: Mercury's classes and contexts may be used from any thread.
unsafe impl Send for Owned {}
// SAFETY: as above.
unsafe impl Sync for Owned {}

impl Owned {
    fn start(name: &str, listens: bool) -> Self {
        let name = CString::new(name).expect("no NUL");
        let mut options = MaybeUninit::<hg::mochi_hg_options>::zeroed();
        // SAFETY: the shim assigns the whole structure.
        unsafe { hg::mochi_hg_options_default(options.as_mut_ptr()) };
        // SAFETY: the name ends with NUL, and the options were assigned just now.
        let class = unsafe { hg::mochi_hg_init(name.as_ptr(), listens, options.as_ptr()) };
        assert!(!class.is_null(), "Mercury starts");
        // SAFETY: the class is alive.
        let context = unsafe { hg::HG_Context_create(class) };
        assert!(!context.is_null(), "it has a context");
        Self { class, context }
    }

    fn give(&self) -> GivenContext {
        // SAFETY: both live until the tests have ended their engines, and the class is for many threads.
        unsafe { GivenContext::new(self.class, self.context) }.expect("neither is null")
    }

    fn drive(&self) {
        let mut count = 0;
        // SAFETY: the context is alive.
        unsafe { hg::mochi_hg_progress_shared(self.context) };
        // SAFETY: the context is alive.
        unsafe { hg::mochi_hg_trigger(self.context, 16, &mut count) };
    }

    /// What Mercury says to the end of both.
    fn end(self) -> (hg::hg_return_t, hg::hg_return_t) {
        // SAFETY: nothing of the test uses the context after this.
        let context = unsafe { hg::HG_Context_destroy(self.context) };
        // SAFETY: as above.
        (context, unsafe { hg::mochi_hg_finalize(self.class) })
    }
}

fn serve_on(owned: &Owned, protocol: &str) -> Engine {
    with_handlers(engine(protocol).mercury_context(owned.give()).listen().wait().expect("it listens"))
}

fn sum(from: &Engine, to: &Engine) {
    let to = lookup(from, to);
    let calls: Vec<_> = (0..200).map(|n| to.call(SUM, &(n, n)).start()).collect();
    for (n, call) in (0..200).zip(calls) {
        assert_eq!(call.wait().expect("an honest call works"), 2 * n);
    }
}

fn serves_calls_and_leaves_nothing(address: &str) {
    let protocol = address.split("://").next().expect("never empty");
    let owned = Owned::start(address, true);
    let given = serve_on(&owned, protocol);
    let other = serve(address);
    sum(&other, &given);
    sum(&given, &other);
    // Handlers under way and calls without an answer end with it.
    let hangs = lookup(&other, &given).call(HANG, &()).start();
    let mine = lookup(&given, &other).call(HANG, &()).start();
    comes_to(
        "requests are 1 at both",
        || [given.load(), other.load()],
        |loads| loads.iter().all(|load| load.requests == 1),
    );
    given.shutdown().wait();
    assert!(hangs.wait().is_err() && mine.wait().is_err());
    drop(given);
    // Mercury is the owner's again, also for another engine.
    let again = serve_on(&owned, protocol);
    sum(&other, &again);
    again.shutdown().wait();
    other.shutdown().wait();
    assert_eq!(owned.end(), (hg::HG_SUCCESS, hg::HG_SUCCESS), "nothing is left that would be busy");
}

#[test]
fn an_engine_on_a_given_ofi_tcp_serves_calls_and_leaves_nothing() {
    with_mercury("given ofi+tcp", || serves_calls_and_leaves_nothing(OFI_TCP));
}

#[test]
fn an_engine_on_a_given_na_sm_serves_calls_and_leaves_nothing() {
    with_mercury("given na+sm", || serves_calls_and_leaves_nothing(NA_SM));
}

#[test]
fn the_owner_may_make_progress_too() {
    with_mercury("owner's progress", || {
        let owned = Owned::start(OFI_TCP, true);
        let given = serve_on(&owned, "ofi+tcp");
        let other = serve(OFI_TCP);
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Acquire) {
                    owned.drive();
                    thread::yield_now();
                }
            });
            for _ in 0..5 {
                sum(&other, &given);
                sum(&given, &other);
            }
            let lost = lookup(&given, &other).call(HANG, &()).start();
            comes_to("there is one request", || other.load(), |load| load.requests == 1);
            given.shutdown().wait();
            assert!(lost.wait().is_err());
            over.store(true, Ordering::Release);
        });
        drop(given);
        other.shutdown().wait();
        assert_eq!(owned.end(), (hg::HG_SUCCESS, hg::HG_SUCCESS));
    });
}

#[test]
fn what_cannot_be_used_is_refused_and_stays_usable() {
    with_mercury("refused contexts", || {
        let owned = Owned::start(OFI_TCP, true);
        let refused = |options: margo_rs::Builder| options.listen().wait().expect_err("it cannot be used").to_string();
        let told = refused(engine("na+sm").mercury_context(owned.give()));
        assert!(told.contains("is of ofi+tcp"), "{told}");
        let told = refused(engine("native+tcp").mercury_context(owned.give()));
        assert!(told.contains("is of ofi+tcp"), "{told}");
        let options = engine("ofi+tcp").mercury(|mercury| mercury.stats = Some(true));
        let told = refused(options.mercury_context(owned.give()));
        assert!(told.contains("mercury.stats"), "{told}");
        let first = serve_on(&owned, "ofi+tcp");
        let told = refused(engine("ofi+tcp").mercury_context(owned.give()));
        assert!(told.contains("serves an engine already"), "{told}");
        let client = client(OFI_TCP);
        sum(&client, &first);
        client.shutdown().wait();
        first.shutdown().wait();
        assert_eq!(owned.end(), (hg::HG_SUCCESS, hg::HG_SUCCESS));

        let deaf = Owned::start(NA_SM, false);
        let told = refused(engine("na+sm").mercury_context(deaf.give()));
        assert!(told.contains("does not listen"), "{told}");
        assert_eq!(deaf.end(), (hg::HG_SUCCESS, hg::HG_SUCCESS));
        // SAFETY: null pointers are told apart.
        assert!(unsafe { GivenContext::new(ptr::null_mut(), ptr::null_mut()) }.is_none());
    });
}
