//! Pools that a C service made, by hand as it would.

use crate::support::{LONG, TASKLET, ULT, client, protocols, server, unit, watchdog};
use margo_rs::{Pool, PoolError, Rpc, Wait, in_ult};
use mochi_sys::argobots as abt;
use std::ffi::c_void;
use std::path::Path;
use std::process::Command;
use std::ptr;
use std::sync::mpsc::channel;
use std::thread;

/// A C service's pool with the execution streams that take from it. Argobots is initialised for the test by whoever
/// comes first, and stays.
struct Theirs {
    pool: abt::ABT_pool,
    xstreams: Vec<abt::ABT_xstream>,
}

fn initialised() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let (says, done) = channel();
        thread::spawn(move || {
            // SAFETY: Argobots does not look at its arguments.
            let code = unsafe { abt::ABT_init(0, ptr::null_mut()) };
            says.send(code).unwrap();
            loop {
                // The primary execution stream, for as long as the test runs.
                thread::park();
            }
        });
        assert_eq!(done.recv().unwrap() as u32, abt::ABT_SUCCESS);
    });
}

impl Theirs {
    fn new(access: abt::ABT_pool_access, xstreams: usize) -> Self {
        initialised();
        let mut pool = ptr::null_mut();
        // SAFETY: Argobots is initialised; `pool` can be written.
        let code = unsafe {
            abt::ABT_pool_create_basic(abt::ABT_POOL_FIFO_WAIT, access, abt::ABT_FALSE as abt::ABT_bool, &mut pool)
        };
        assert_eq!(code as u32, abt::ABT_SUCCESS);
        let xstreams = (0..xstreams)
            .map(|_| {
                let mut xstream = ptr::null_mut();
                // SAFETY: as above; one pool is given.
                let code = unsafe {
                    abt::ABT_xstream_create_basic(
                        abt::ABT_SCHED_BASIC_WAIT,
                        1,
                        &mut pool,
                        ptr::null_mut(),
                        &mut xstream,
                    )
                };
                assert_eq!(code as u32, abt::ABT_SUCCESS);
                xstream
            })
            .collect();
        Self { pool, xstreams }
    }

    /// Runs `work` in a user-level thread of theirs, and waits for it.
    fn run(&self, work: impl FnOnce() + Send + 'static) {
        unsafe extern "C" fn run(arg: *mut c_void) {
            // SAFETY: comes from `Box::into_raw` below, once.
            let work = unsafe { Box::from_raw(arg.cast::<Box<dyn FnOnce() + Send>>()) };
            work();
        }
        let work: Box<dyn FnOnce() + Send> = Box::new(work);
        let arg = Box::into_raw(Box::new(work));
        let mut thread = ptr::null_mut();
        // A small stack, as a C service may have: nothing deep runs on it.
        let mut attributes = ptr::null_mut();
        let mut stack = vec![0_u64; 32 << 10];
        // SAFETY: `attributes` can be written.
        unsafe { abt::ABT_thread_attr_create(&mut attributes) };
        // SAFETY: the stack lives until the thread is freed below.
        unsafe { abt::ABT_thread_attr_set_stack(attributes, stack.as_mut_ptr().cast(), stack.len() * 8) };
        // SAFETY: a valid pool, function and argument.
        let code = unsafe { abt::ABT_thread_create(self.pool, Some(run), arg.cast(), attributes, &mut thread) };
        assert_eq!(code as u32, abt::ABT_SUCCESS);
        // SAFETY: created above; this waits for its end.
        unsafe { abt::ABT_thread_free(&mut thread) };
        // SAFETY: created above.
        unsafe { abt::ABT_thread_attr_free(&mut attributes) };
    }

    fn end(mut self) {
        for xstream in &mut self.xstreams {
            // SAFETY: created in `new`; nothing of ours is left in the pool.
            unsafe { abt::ABT_xstream_free(xstream) };
        }
        // SAFETY: as above.
        unsafe { abt::ABT_pool_free(&mut self.pool) };
    }
}

/// What the test promises: the pool is served until the test has waited for its shutdown.
fn adopt(theirs: &Theirs) -> Pool {
    // SAFETY: `Theirs::end` comes after `Pool::shutdown` in every test; as many streams take from it as there are.
    unsafe { Pool::from_raw("theirs", theirs.pool.cast(), theirs.xstreams.len()) }.unwrap()
}

#[test]
fn handlers_run_in_a_pool_that_was_handed_in_and_leave_nothing_there() {
    let _watchdog = watchdog("handed in");
    for protocol in protocols() {
        for xstreams in [1, 2] {
            let theirs = Theirs::new(abt::ABT_POOL_ACCESS_MPMC, xstreams);
            let pool = adopt(&theirs);
            let server = server(protocol, &pool);
            let (light, heavy): (Rpc<(), u8>, Rpc<(), u8>) = (Rpc::new("light"), Rpc::new("heavy"));
            server.register(light, |_, ()| async { Ok(unit()) }).unwrap();
            server.register_blocking(heavy, |_, ()| Ok(unit())).unwrap();
            let hang: Rpc<(), ()> = Rpc::new("hang");
            server.register(hang, |_, ()| std::future::pending()).unwrap();
            let (_client, endpoint) = client(protocol, &server);
            for _ in 0..50 {
                assert_eq!(endpoint.call(light, &()).wait().unwrap(), TASKLET);
                assert_eq!(endpoint.call(heavy, &()).wait().unwrap(), ULT);
            }
            let hanging: Vec<_> = (0..20).map(|_| endpoint.call(hang, &()).start()).collect();
            pool.shutdown().wait();
            for call in hanging {
                assert!(call.wait().is_err());
            }
            // Their pool is as it was: it serves, and can be freed.
            theirs.run(|| assert_eq!(unit(), ULT));
            server.shutdown().wait();
            theirs.end();
        }
    }
}

#[test]
fn a_wait_suspends_a_handler_in_a_pool_of_one_stream_and_holds_one_of_several() {
    let _watchdog = watchdog("held");
    let echo: Rpc<u32, u32> = Rpc::new("echo");
    let relay: Rpc<u32, u32> = Rpc::new("relay");
    for xstreams in [1, 3] {
        let theirs = Theirs::new(abt::ABT_POOL_ACCESS_MPMC, xstreams);
        let pool = adopt(&theirs);
        let server = server("native+tcp://127.0.0.1", &pool);
        let to_self = server.lookup(server.address()).wait().unwrap();
        server.register(echo, |_, n| async move { Ok(n) }).unwrap();
        server
            .register_blocking(relay, move |_, n| {
                let here = thread::current().id();
                let answer = to_self.call(echo, &n).wait().unwrap();
                assert_eq!(thread::current().id(), here);
                Ok(answer)
            })
            .unwrap();
        let (_client, endpoint) = client("native+tcp://127.0.0.1", &server);
        // With several streams each that waits holds one, so that fewer wait than there are.
        let at_once = if xstreams == 1 { 20 } else { xstreams as u32 - 1 };
        for round in 0..10 {
            let calls: Vec<_> = (0..at_once).map(|n| endpoint.call(relay, &(n + round)).start()).collect();
            for (n, call) in (0..at_once).zip(calls) {
                assert_eq!(call.wait().unwrap(), n + round);
            }
        }
        server.shutdown().wait();
        pool.shutdown().wait();
        theirs.end();
    }
}

#[test]
fn a_user_level_thread_of_theirs_waits_without_stopping_its_stream() {
    let _watchdog = watchdog("in_ult");
    let theirs = Theirs::new(abt::ABT_POOL_ACCESS_MPMC, 1);
    let pool = adopt(&theirs);
    let server = server("native+tcp://127.0.0.1", &pool);
    let echo: Rpc<u32, u32> = Rpc::new("echo");
    server.register(echo, |_, n| async move { Ok(n) }).unwrap();
    let to_self = server.lookup(server.address()).wait().unwrap();
    let ending = pool.clone();
    theirs.run(move || {
        // The stream that runs this is the only one that serves the pool.
        // SAFETY: one stream alone takes from the pool, and nothing else is on this stack.
        unsafe {
            in_ult(|| {
                assert_eq!(to_self.call(echo, &7).timeout(LONG).wait().unwrap(), 7);
                server.shutdown().wait();
                ending.shutdown().wait();
            });
        }
    });
    drop(pool);
    theirs.end();
    // On a thread that Argobots does not know it changes nothing.
    // SAFETY: not a user-level thread.
    assert_eq!(unsafe { in_ult(unit) }, crate::support::EXTERNAL);
}

#[test]
fn a_pool_into_which_only_one_thread_may_push_is_refused() {
    for access in [abt::ABT_POOL_ACCESS_PRIV, abt::ABT_POOL_ACCESS_SPSC, abt::ABT_POOL_ACCESS_SPMC] {
        let theirs = Theirs::new(access, 0);
        // SAFETY: a valid pool, for as long as the call lasts.
        let refused = unsafe { Pool::from_raw("private", theirs.pool.cast(), 1) };
        assert!(matches!(refused, Err(PoolError::Access { .. })), "{refused:?}");
        theirs.end();
    }
    // SAFETY: null is looked at before it is used.
    let refused = unsafe { Pool::from_raw("null", ptr::null_mut(), 1) };
    assert!(matches!(refused, Err(PoolError::NoPool { .. })), "{refused:?}");
}

/// The flags of a C compiler for Argobots, and where its library is.
fn argobots_flags() -> (Vec<String>, String) {
    let ask = |question: &[&str]| {
        let answer = Command::new("pkg-config").args(question).arg("argobots").output().expect("pkg-config runs");
        assert!(answer.status.success(), "pkg-config found Argobots for this build");
        String::from_utf8(answer.stdout).expect("flags are text").trim().to_owned()
    };
    let flags = ask(&["--cflags", "--libs"]).split_whitespace().map(str::to_owned).collect();
    (flags, ask(&["--variable=libdir"]))
}

#[test]
fn a_program_in_c_embeds_a_service_in_the_pool_of_its_only_stream() {
    let _watchdog = watchdog("embedded");
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let target = scratch.parent().expect("a directory in the target directory");
    let profile = if cfg!(debug_assertions) { ("dev", "debug") } else { ("release", "release") };
    let built = Command::new(env!("CARGO"))
        .args(["build", "--offline", "--quiet", "--package", "margo-rs", "--example", "argobots_embedded"])
        .args(["--profile", profile.0])
        .arg("--target-dir")
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("cargo runs");
    assert!(built.success(), "the service does not compile");
    let libraries = target.join(profile.1).join("examples");
    let (flags, argobots) = argobots_flags();
    let program = scratch.join("argobots_embedded");
    let compiled = Command::new("cc")
        .args(["-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&program)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/argobots/embedded.c"))
        .arg("-L")
        .arg(&libraries)
        .arg("-largobots_embedded")
        .args(flags)
        .arg(format!("-Wl,-rpath,{}", libraries.display()))
        .arg(format!("-Wl,-rpath,{argobots}"))
        .status()
        .expect("there is a C compiler");
    assert!(compiled.success(), "the program does not compile");
    let ran = Command::new(&program).output().expect("the program runs");
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{said}{}", String::from_utf8_lossy(&ran.stderr));
    assert!(said.contains("serving at native+tcp://127.0.0.1:") && said.contains("ended with 0 left"), "{said}");
}
