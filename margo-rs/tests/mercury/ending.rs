//! Engines end in bounded time, whatever comes in meanwhile, and leave nothing.

use crate::support::*;
use margo_rs::{Engine, Wait};
use std::fs;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// Nobody asks a peer whether it is still there within a test.
const NEVER: Duration = Duration::from_secs(3600);

/// What shared memory of this process with the engine at `location` left in the system.
fn files_of(location: &str) -> Vec<String> {
    let name = format!("na_sm-{location}");
    let entries = fs::read_dir("/dev/shm").expect("shared memory has its directory");
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|file| *file == name).collect()
}

/// One that does not wait long for a server that has ended.
fn impatient_client(address: &str) -> Engine {
    let options = engine(address).limits(|limits| {
        limits.connect_timeout = Duration::from_secs(2);
        limits.keepalive = Duration::from_millis(200);
    });
    options.connect().expect("a client starts")
}

/// Ends a server while clients keep asking, many times.
fn requests_during_the_end(address: &str, rounds: usize) {
    for _ in 0..rounds {
        let server = serve(address);
        let location = server.address().location().to_owned();
        let (over, begun) = (AtomicBool::new(false), Barrier::new(3));
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let client = impatient_client(address);
                    let to = client.lookup(server.address()).wait();
                    // Also if it is not found: another waits for this.
                    begun.wait();
                    let to = to.expect("the server is found");
                    while !over.load(Ordering::Acquire) {
                        let calls: Vec<_> = (0..32).map(|n| to.call(SUM, &(n, 1)).start()).collect();
                        let lost = calls.into_iter().filter_map(|call| call.wait().err()).count();
                        if lost > 0 {
                            break;
                        }
                    }
                    client.shutdown().wait();
                });
            }
            begun.wait();
            comes_to("there is a request", || server.load(), |load| load.requests > 0);
            server.shutdown().wait();
            over.store(true, Ordering::Release);
        });
        assert_eq!(files_of(&location), Vec::<String>::new(), "left behind");
        if address != NA_SM {
            // The address is free again.
            let again = serve(&format!("ofi+tcp://{location}"));
            assert_eq!(again.address().location(), location);
        }
    }
}

#[test]
fn a_server_of_shared_memory_that_ends_under_requests_leaves_no_files() {
    with_mercury("ending under requests", || requests_during_the_end(NA_SM, 30));
}

#[test]
fn the_address_of_a_server_that_ended_under_requests_is_free() {
    with_mercury("ending under requests", || requests_during_the_end(OFI_TCP, 5));
}

/// Ends clients, and then servers, that have nothing to do, many times. Their peers have asked them nothing, and so learn
/// of it by what they are told alone.
fn ends_at_rest(address: &str, rounds: usize) {
    let lasting = || engine(address).limits(|limits| limits.keepalive = NEVER);
    let server = with_handlers(lasting().listen().wait().expect("listening works"));
    let client = lasting().connect().expect("a client starts");
    for round in 0..rounds {
        let passing = lasting().connect().expect("a client starts");
        lookup(&passing, &server).call(SUM, &(1, 2)).wait().expect("the server answers");
        passing.shutdown().wait();
        comes_to(&format!("client {round} is gone"), || server.load(), |load| load.links == 0);

        let passing = with_handlers(lasting().listen().wait().expect("listening works"));
        let to = lookup(&client, &passing);
        to.call(SUM, &(1, 2)).wait().expect("the server answers");
        passing.shutdown().wait();
        comes_to(&format!("server {round} is gone"), || client.load(), |load| load.links == 0);
    }
}

#[test]
fn peers_over_shared_memory_are_told_of_an_end() {
    with_mercury("ends at rest", || ends_at_rest(NA_SM, 50));
}

#[test]
fn peers_over_a_network_are_told_of_an_end() {
    with_mercury("ends at rest", || ends_at_rest(OFI_TCP, 10));
}
