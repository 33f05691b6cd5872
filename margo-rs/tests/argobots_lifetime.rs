//! Who initialises Argobots, and who finalizes it. One test in a process of its own: Argobots is there once in each.

// Only to ask Argobots, and to initialise it as a C service does.
#![allow(unsafe_code)]
#![cfg(argobots)]

use margo_rs::{Pool, Wait};
use mochi_sys::argobots as abt;
use std::ptr;

fn is_initialised() -> bool {
    // SAFETY: may be called at any time.
    let code = unsafe { abt::ABT_initialized() };
    code as u32 == abt::ABT_SUCCESS
}

fn init() -> u32 {
    // SAFETY: Argobots does not look at its arguments.
    unsafe { abt::ABT_init(0, ptr::null_mut()) as u32 }
}

fn finalize() -> u32 {
    // SAFETY: called only where Argobots is initialised, by this thread.
    unsafe { abt::ABT_finalize() as u32 }
}

#[test]
fn argobots_ends_with_the_last_pool_unless_others_use_it() {
    // Ours alone, again and again.
    for _ in 0..3 {
        assert!(!is_initialised());
        let (one, two) = (Pool::argobots("one", 1).unwrap(), Pool::argobots("two", 2).unwrap());
        one.shutdown().wait();
        assert!(is_initialised());
        two.shutdown().wait();
        assert!(!is_initialised());
    }
    // A service was there first: it is the one to finalize.
    assert_eq!(init(), abt::ABT_SUCCESS);
    let pool = Pool::argobots("guest", 2).unwrap();
    pool.shutdown().wait();
    assert!(is_initialised());
    assert_eq!(finalize(), abt::ABT_SUCCESS);
    assert!(!is_initialised());
    // A pool that nobody shuts down ends with its last clone, by itself.
    let pool = Pool::argobots("dropped", 1).unwrap();
    drop(pool.clone());
    assert!(is_initialised());
    drop(pool);
    while is_initialised() {
        std::thread::yield_now();
    }
    // Somebody came while ours was the first: Argobots stays for them, and goes on to serve pools of ours.
    let pool = Pool::argobots("first", 1).unwrap();
    assert_eq!(init(), abt::ABT_SUCCESS);
    pool.shutdown().wait();
    assert!(is_initialised());
    let again = Pool::argobots("again", 1).unwrap();
    again.shutdown().wait();
    assert!(is_initialised());
}
