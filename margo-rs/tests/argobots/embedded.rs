//! A service in Rust inside of a program in C (`embedded.c`), in the program's own Argobots pool.
//!
//! The program calls these functions in user-level threads, and its only execution stream serves the pool: nothing here
//! may stop it. A panic would end the program at the border to C.

// Functions for C, and the promises that they pass on.
#![allow(unsafe_code)]

use margo_rs::{Endpoint, Engine, Pool, Rpc, Wait, in_ult};
use std::ffi::{c_char, c_long, c_void};
use std::time::Duration;

const ADD: Rpc<(i64, i64), i64> = Rpc::new("add");
const SUM_TO: Rpc<i64, i64> = Rpc::new("sum_to");

/// The service.
pub struct Service {
    pool: Pool,
    engine: Engine,
    /// Calls the service over the network, as other processes do.
    client: Engine,
    to_self: Endpoint,
}

fn start(pool: Pool) -> Result<Service, Box<dyn std::error::Error>> {
    let builder = Engine::builder("native+tcp://127.0.0.1").default_timeout(Duration::from_secs(60));
    let engine = builder.rpc_pool(pool.clone()).listen().wait()?;
    let client = Engine::connect("native+tcp")?;
    let to_self = client.lookup(engine.address()).wait()?;
    let timer = engine.timer();
    engine.register(ADD, move |_, (a, b)| {
        let sleep = timer.sleep(Duration::from_millis(1));
        async move {
            sleep.await;
            Ok(a + b)
        }
    })?;
    let adder = to_self.clone();
    // Each step waits for a handler that only the same execution stream can run.
    engine.register_blocking(SUM_TO, move |_, n| {
        Ok((1..=n).try_fold(0, |sum, next| adder.call(ADD, &(sum, next)).wait())?)
    })?;
    Ok(Service { pool, engine, client, to_self })
}

/// Starts the service. `NULL` if that fails.
///
/// # Safety
/// `pool` is an `ABT_pool` from which one execution stream alone takes, until [`service_stop`] has returned; `address` has
/// room for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn service_start(pool: *mut c_void, address: *mut c_char, size: usize) -> *mut Service {
    // SAFETY: the caller's promises are those of `from_raw`.
    let Ok(pool) = (unsafe { Pool::from_raw("embedder", pool, 1) }) else { return std::ptr::null_mut() };
    // SAFETY: the caller's user-level thread is resumed by that one stream, and C calls from its outermost frame.
    let started = unsafe { in_ult(|| start(pool)) };
    let Ok(service) = started.inspect_err(|error| eprintln!("{error}")) else { return std::ptr::null_mut() };
    let text = service.engine.address().as_str();
    if text.len() >= size {
        return std::ptr::null_mut();
    }
    // SAFETY: there is room for the text, as just seen.
    unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), address.cast(), text.len()) };
    // SAFETY: and for a zero after it.
    unsafe { address.wrapping_add(text.len()).write(0) };
    Box::into_raw(Box::new(service))
}

/// The sum of all numbers from 1 to `n`, computed by the service. -1 if it fails.
///
/// # Safety
/// `service` comes from [`service_start`] and was not stopped; the caller is a user-level thread of its pool.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn service_sum_to(service: *const Service, n: c_long) -> c_long {
    // SAFETY: the caller's promise.
    let service = unsafe { &*service };
    // SAFETY: as in `service_start`.
    let result = unsafe { in_ult(|| service.to_self.call(SUM_TO, &n).wait()) };
    result.inspect_err(|error| eprintln!("{error}")).unwrap_or(-1)
}

/// Ends the service; nothing of it is left in the pool.
///
/// # Safety
/// As for [`service_sum_to`]; it is called once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn service_stop(service: *mut Service) {
    // SAFETY: made by `Box::into_raw`, and given back once.
    let service = unsafe { Box::from_raw(service) };
    let end = || {
        service.client.shutdown().wait();
        service.engine.shutdown().wait();
        service.pool.shutdown().wait();
    };
    // SAFETY: as in `service_start`.
    unsafe { in_ult(end) };
}
