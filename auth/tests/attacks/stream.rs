//! Attacks below the framing: a proxy that flips and cuts bytes of the TCP stream.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use margo_rs::{Engine, Rpc, Wait};
use mochi_auth::testing::skipped;

use crate::stage::*;

const PAY: Rpc<String, String> = Rpc::new("pay");
const TEXT: &str = "100 to Bob, who has waited for it";
/// A damaged stream may well leave a call without an answer.
const SHORT: Duration = Duration::from_millis(700);

/// What the proxy does to a direction of the stream.
#[derive(Clone, Copy, Debug)]
enum Harm {
    None,
    /// Flips a bit of the byte at this place.
    Flip(usize, u8),
    /// Ends the stream before this place.
    Cut(usize),
}

/// Takes one connection to the server, and harms it. Gives the proxy's address and how many bytes went which way.
fn proxy(server: SocketAddr, to_server: Harm, to_client: Harm) -> (String, Arc<[AtomicUsize; 2]>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("native+tcp://{}", listener.local_addr().expect("bound"));
    let passed = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let counts = passed.clone();
    thread::spawn(move || {
        let (client, _) = listener.accept().expect("a client");
        let server = TcpStream::connect(server).expect("the server is there");
        for (from, to, harm, way) in [(&client, &server, to_server, 0), (&server, &client, to_client, 1)] {
            let (from, to) = (from.try_clone().expect("a socket"), to.try_clone().expect("a socket"));
            let counts = counts.clone();
            thread::spawn(move || pump(from, to, harm, &counts[way]));
        }
    });
    (address, passed)
}

fn pump(mut from: TcpStream, mut to: TcpStream, harm: Harm, passed: &AtomicUsize) {
    let mut bytes = [0; 4096];
    let mut at = 0;
    while let Ok(read @ 1..) = from.read(&mut bytes) {
        let mut end = read;
        match harm {
            Harm::Flip(place, bit) if (at..at + read).contains(&place) => bytes[place - at] ^= 1 << bit,
            Harm::Cut(place) if place <= at + read => end = place.saturating_sub(at),
            _ => {}
        }
        at += read;
        passed.fetch_max(at, Ordering::SeqCst);
        if to.write_all(&bytes[..end]).is_err() || end < read {
            break;
        }
    }
    let _ = (to.shutdown(Shutdown::Both), from.shutdown(Shutdown::Both));
}

/// A session and a call through the proxy, if nothing fails.
fn pay(address: &str, time: Duration) -> Option<String> {
    let engine = Engine::builder("native+tcp").connect().expect("a client starts");
    let outcome = (|| {
        let server = by_key(ALICE).handshake_timeout(time).open(&engine, address).wait().ok()?;
        server.call(PAY, &TEXT.to_owned()).timeout(time).wait().ok()
    })();
    engine.shutdown().wait();
    outcome
}

/// What handlers were called with.
fn serve_pay(site: &Site) -> Arc<Mutex<Vec<String>>> {
    let paid = Arc::new(Mutex::new(Vec::new()));
    let told = paid.clone();
    let pay = move |_, text: String| {
        told.lock().unwrap().push(text.clone());
        async { Ok(text) }
    };
    site.auth.register(PAY, pay).unwrap();
    paid
}

/// Harms one place in `step` of each direction, by itself. A pass over all of the some 900 bytes would take minutes, since
/// a damaged length leaves the other side waiting for the rest.
fn harmed(step: usize, harm: fn(usize) -> Harm) {
    if !transport().starts_with("native+tcp") {
        return skipped("it harms the stream of native+tcp");
    }
    let stage = Stage::enter();
    let site = stage.serve(builder());
    let paid = serve_pay(&site);
    let server: SocketAddr = site.auth.engine().address().location().parse().expect("a socket address");
    let (address, passed) = proxy(server, Harm::None, Harm::None);
    assert_eq!(pay(&address, LONG).as_deref(), Some(TEXT), "the proxy works");
    let lens = [0, 1].map(|way| passed[way].load(Ordering::SeqCst));
    assert!(lens.iter().all(|len| *len > 250), "{lens:?}");

    let places: Vec<_> =
        [0, 1].into_iter().flat_map(|way| (0..lens[way]).step_by(step).map(move |at| (way, at))).collect();
    let (count, next) = (places.len(), Mutex::new(places.into_iter()));
    // Most of the time goes by in waiting.
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                while let Some((way, at)) = { next.lock().unwrap().next() } {
                    let mut both = [Harm::None; 2];
                    both[way] = harm(at);
                    let outcome = pay(&proxy(server, both[0], both[1]).0, SHORT);
                    assert!(outcome.is_none_or(|text| text == TEXT), "{both:?}");
                }
            });
        }
    });
    let paid = paid.lock().unwrap();
    assert!(paid.iter().all(|text| text == TEXT), "no handler saw anything else");
    assert!(paid.len() <= 1 + count, "no call was served twice");
    drop(paid);
    honest_call(&stage, &site);
}

#[test]
fn a_flipped_bit_of_the_stream_is_an_error_or_changes_nothing() {
    harmed(5, |at| Harm::Flip(at, (at % 8) as u8));
}

#[test]
fn a_cut_stream_runs_no_part_of_a_call() {
    harmed(9, Harm::Cut);
}
