//! Peers that break the protocol: whatever they send, the server lives, others are served, and nothing is left behind.

mod bulk;

use margo_rs::codec::Blob;
use margo_rs::wire::{FRAME_MAX, HELLO_LEN, Header, Hello, Kind, PROTOCOL_VERSION, RequestHead, TransferHead};
use margo_rs::{Endpoint, Engine, Limits, ProviderId, Rpc, RpcId, Wait};
use mochi_test_support::{Watchdog, comes_to, descriptors, eventually};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

const SUM: Rpc<(i64, i64), i64> = Rpc::new("sum");
const HANG: Rpc<(), ()> = Rpc::new("hang");
const FETCH: Rpc<u64, Blob> = Rpc::new("fetch");
const PATIENCE: Duration = Duration::from_secs(60);

/// A server with small limits, and an honest client that calls it all the while.
struct Scene {
    server: Engine,
    honest: Endpoint,
    _client: Engine,
    over: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    calling: Option<thread::JoinHandle<()>>,
    _watchdog: Watchdog,
}

impl Scene {
    #[track_caller]
    fn new(name: &'static str) -> Self {
        Self::with(name, |_| ())
    }

    #[track_caller]
    fn with(name: &'static str, change: impl FnOnce(&mut Limits)) -> Self {
        let watchdog = Watchdog::start(name, 2 * PATIENCE);
        let server = Engine::builder("native+tcp://127.0.0.1")
            .rpc_threads(2)
            .limits(|limits| {
                limits.max_message = 1 << 20;
                limits.max_bytes = 4 << 20;
                limits.max_in_flight = 64;
                limits.max_queued = 1 << 20;
                change(limits);
            })
            .listen()
            .wait()
            .unwrap();
        server.register(SUM, |_, (a, b)| async move { Ok(a + b) }).unwrap();
        server.register(HANG, |_, ()| std::future::pending()).unwrap();
        server.register(FETCH, |_, size| async move { Ok(Blob(vec![7; size as usize])) }).unwrap();
        server
            .register_raw("keep", ProviderId::DEFAULT, |_, _, responder| async move {
                std::future::pending::<()>().await;
                drop(responder);
            })
            .unwrap();
        let client = Engine::connect("native+tcp").unwrap();
        let honest = client.lookup(server.address()).wait().unwrap();
        let (over, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (to, stop, count) = (honest.clone(), over.clone(), answered.clone());
        let calling = thread::spawn(move || {
            let mut n = 0;
            while !stop.load(Ordering::Acquire) {
                n += 1;
                assert_eq!(to.call(SUM, &(n, 1)).timeout(PATIENCE).wait().expect("an honest call works"), n + 1);
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { server, honest, _client: client, over, answered, calling: Some(calling), _watchdog: watchdog }
    }

    fn connect(&self) -> Raw {
        Raw(TcpStream::connect(self.server.address().location()).unwrap())
    }

    /// A peer that has said hello.
    fn greet(&self) -> Raw {
        let mut raw = self.connect();
        raw.0.write_all(&hello().encode()).unwrap();
        let mut theirs = [0; HELLO_LEN];
        raw.0.read_exact(&mut theirs).unwrap();
        Hello::decode(&theirs).unwrap();
        raw
    }

    /// The honest client was served all the while, and only its connection is left.
    #[track_caller]
    fn end(mut self) {
        let before = self.answered.load(Ordering::Relaxed);
        comes_to("honest calls are answered", || self.answered.load(Ordering::Relaxed), |count| *count > before);
        self.over.store(true, Ordering::Release);
        self.calling.take().unwrap().join().expect("the honest client was served");
        comes_to("no request is left", || self.server.load(), |load| load.requests == 0);
        comes_to("there is one connection", || self.server.load(), |load| load.links == 1);
        assert_eq!(self.honest.call(SUM, &(1, 2)).wait().unwrap(), 3);
    }
}

fn hello() -> Hello {
    Hello {
        max_frame: FRAME_MAX,
        max_in_flight: 16,
        max_message: 1 << 20,
        max_bytes: 1 << 20,
        instance: 1,
        extra: [0; 16],
    }
}

struct Raw(TcpStream);

impl Raw {
    /// Sends, whether or not anybody still listens.
    fn send(&mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes);
    }

    /// Reads until the server closes; returns what it said. A server that closes on unread data resets.
    fn read_to_close(&mut self) -> Vec<u8> {
        self.0.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut all = Vec::new();
        let mut part = [0; 4096];
        loop {
            match self.0.read(&mut part) {
                Ok(0) => return all,
                Ok(count) => all.extend_from_slice(&part[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => return all,
                Err(error) => panic!("the server did not close: {error}"),
            }
        }
    }

    fn read_response(&mut self) -> (Header, Vec<u8>) {
        self.0.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut head = [0; Header::LEN];
        self.0.read_exact(&mut head).expect("a response");
        let header = Header::decode(&head, FRAME_MAX).unwrap();
        let mut body = vec![0; header.length as usize];
        self.0.read_exact(&mut body).unwrap();
        (header, body)
    }
}

fn frame(kind: Kind, flags: u8, call: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    Header { length: body.len() as u32, kind, flags, call }.encode(&mut bytes);
    bytes.extend_from_slice(body);
    bytes
}

/// The body of a request: head, announced size if there are chunks, Margo's header, input.
fn body(name: &str, total: Option<u64>, input: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let rpc = RpcId::new(name, ProviderId::DEFAULT);
    RequestHead { rpc, timeout_ms: 0, one_way: false }.encode(&mut bytes);
    if let Some(total) = total {
        bytes.extend_from_slice(&total.to_le_bytes());
    }
    bytes.extend_from_slice(&margo_rs::NO_PARENT.as_u64().to_le_bytes());
    bytes.extend_from_slice(input);
    bytes
}

fn request(call: u64, name: &str, input: &[u8]) -> Vec<u8> {
    frame(Kind::Request, 0, call, &body(name, None, input))
}

fn status(body: &[u8]) -> i32 {
    i32::from_le_bytes(*body.first_chunk().expect("a status"))
}

/// It may be that its cancel overtook the request, or stands behind bytes that are not read.
#[test]
fn a_request_that_is_never_cancelled_ends_at_its_callers_deadline() {
    let scene = Scene::new("a_request_that_is_never_cancelled_ends_at_its_callers_deadline");
    let mut raw = scene.greet();
    let mut ends = body("hang", None, &[]);
    ends[8..12].copy_from_slice(&50u32.to_le_bytes());
    for (call, never) in [(1, 0), (2, u32::MAX)] {
        let mut lasts = body("hang", None, &[]);
        lasts[8..12].copy_from_slice(&never.to_le_bytes());
        raw.send(&frame(Kind::Request, 0, call, &lasts));
    }
    comes_to("there are 2 requests", || scene.server.load(), |load| load.requests == 2);
    raw.send(&frame(Kind::Request, 0, 3, &ends));
    raw.send(&request(4, "sum", &[0; 16]));
    // In order: the third has arrived, too.
    raw.read_response();
    comes_to("there are 2 requests", || scene.server.load(), |load| load.requests == 2);
    drop(raw);
    scene.end();
}

#[test]
fn whatever_is_no_hello_is_closed_at_once() {
    let scene = Scene::new("whatever_is_no_hello_is_closed_at_once");
    let mut later = hello().encode();
    later[8..12].copy_from_slice(&[9, 0, 9, 0]);
    let mut older = hello().encode();
    older[8..12].copy_from_slice(&[(PROTOCOL_VERSION - 1) as u8, 0, 0, 0]);
    let mut flags = hello().encode();
    flags[12] = 1;
    let mut frame = hello().encode();
    frame[16..20].copy_from_slice(&100u32.to_le_bytes());
    let mut message = hello().encode();
    message[24..32].fill(0);
    let firsts: [&[u8]; 9] = [
        b"\0",
        &[0xff; 1000],
        b"GET / HTTP/1.1\r\nHost: node7\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        &later,
        &older,
        &flags,
        &frame,
        &message,
    ];
    for first in firsts {
        let mut raw = scene.connect();
        raw.send(first);
        // Our hello may come first: it is sent before anything is read.
        let said = raw.read_to_close();
        assert!(said.is_empty() || said.len() == HELLO_LEN, "{said:?}");
    }
    scene.end();
}

#[test]
fn silence_is_closed_after_the_handshake_timeout() {
    let scene = Scene::with("silence_is_closed_after_the_handshake_timeout", |limits| {
        limits.handshake_timeout = Duration::from_millis(50);
    });
    let mut silent: Vec<_> = (0..20).map(|_| scene.connect()).collect();
    for (at, raw) in silent.iter_mut().enumerate() {
        // Some begin a hello and stop.
        raw.send(&hello().encode()[..at]);
        raw.read_to_close();
    }
    scene.end();
}

#[test]
fn a_peer_that_leaves_after_its_hello_leaves_nothing() {
    let scene = Scene::new("a_peer_that_leaves_after_its_hello_leaves_nothing");
    for _ in 0..50 {
        let mut raw = scene.greet();
        raw.0.shutdown(Shutdown::Write).unwrap();
        raw.read_to_close();
        drop(scene.greet());
    }
    // In the middle of requests, half-closed: its requests are cancelled.
    let mut raw = scene.greet();
    raw.send(&request(1, "hang", &[]));
    comes_to("there is a request", || scene.server.load(), |load| load.requests >= 1);
    raw.0.shutdown(Shutdown::Write).unwrap();
    raw.read_to_close();
    scene.end();
}

#[test]
fn every_wrong_frame_costs_its_sender_the_connection() {
    let scene = Scene::new("every_wrong_frame_costs_its_sender_the_connection");
    let chunked =
        |call, total, first: &[u8]| frame(Kind::Request, Header::MORE, call, &body("keep", Some(total), first));
    let mut unknown_kind = request(1, "sum", &[0; 16]);
    unknown_kind[4] = 200;
    let mut reserved = request(1, "sum", &[0; 16]);
    reserved[6] = 1;
    let mut reserved_flag = request(1, "sum", &[0; 16]);
    reserved_flag[5] = 0x80;
    let mut too_long = request(1, "sum", &[0; 16]);
    too_long[0..4].copy_from_slice(&(FRAME_MAX + 1).to_le_bytes());
    let mut endless = too_long.clone();
    endless[0..4].fill(0xff);
    let mut head_reserved = request(1, "sum", &[0; 16]);
    head_reserved[Header::LEN + 12] = 1;
    let mut twice = chunked(1, 100, b"abc");
    twice.extend(chunked(1, 100, b"abc"));
    let mut over = chunked(1, 20, b"abc");
    over.extend(frame(Kind::RequestChunk, 0, 1, &[0; 200]));
    let mut under = chunked(1, 200, b"abc");
    under.extend(frame(Kind::RequestChunk, 0, 1, &[0; 5]));
    let mut empty_chunk = chunked(1, 200, b"abc");
    empty_chunk.extend(frame(Kind::RequestChunk, Header::MORE, 1, &[]));
    // More messages begun than the limit of twice 64.
    let many: Vec<u8> = (0..200).flat_map(|call| chunked(call, 100, b"abc")).collect();
    let wrong: Vec<(&str, Vec<u8>)> = vec![
        ("unknown kind", unknown_kind),
        ("reserved field", reserved),
        ("reserved flag", reserved_flag),
        ("too long", too_long),
        ("endless", endless),
        ("reserved field in the head", head_reserved),
        ("no room for a head", frame(Kind::Request, 0, 1, &[0; 5])),
        ("a cancel with a body", frame(Kind::Cancel, 0, 1, &[1])),
        ("chunk of nothing", frame(Kind::RequestChunk, 0, 7, &[0; 10])),
        ("response chunk of nothing", frame(Kind::ResponseChunk, 0, 7, &[0; 10])),
        ("begun twice", twice),
        ("more than announced", over),
        ("less than announced", under),
        ("empty chunk", empty_chunk),
        ("too many begun", many),
    ];
    for (what, bytes) in &wrong {
        let mut raw = scene.greet();
        raw.send(bytes);
        raw.read_to_close();
        println!("{what}: closed");
        // The same a byte at a time, as far as the server takes it.
        let mut raw = scene.greet();
        for byte in bytes.iter().take(2000) {
            raw.send(&[*byte]);
        }
        if bytes.len() <= 2000 {
            raw.read_to_close();
        }
    }
    scene.end();
}

#[test]
fn frames_that_break_off_leave_nothing() {
    let scene = Scene::new("frames_that_break_off_leave_nothing");
    let whole = request(1, "sum", &[0; 16]);
    for end in 0..whole.len() {
        let mut raw = scene.greet();
        raw.send(&whole[..end]);
    }
    let mut large = frame(Kind::Request, Header::MORE, 1, &body("keep", Some(1 << 20), &[1; 60_000]));
    large.extend(frame(Kind::RequestChunk, Header::MORE, 1, &[1; 60_000]));
    for end in [10, 40, 9_000, 59_000, 60_500, 61_000, 100_000, large.len()] {
        let mut raw = scene.greet();
        raw.send(&large[..end]);
    }
    scene.end();
}

#[test]
fn announced_bytes_are_not_allocated() {
    let scene = Scene::with("announced_bytes_are_not_allocated", |limits| {
        limits.max_message = 1 << 40;
        limits.max_bytes = 1 << 40;
        limits.max_bytes_total = 1 << 40;
    });
    let before = resident();
    let peers: Vec<_> = (0..32)
        .map(|_| {
            let mut raw = scene.greet();
            for call in 0..16 {
                raw.send(&frame(Kind::Request, Header::MORE, call, &body("keep", Some(1 << 38), b"abc")));
            }
            // And a frame that is announced and does not come.
            let mut half = Vec::new();
            Header { length: FRAME_MAX, kind: Kind::Request, flags: 0, call: 99 }.encode(&mut half);
            half.extend(body("keep", None, &[1; 9000]));
            raw.send(&half);
            raw
        })
        .collect();
    // The honest client's next answer shows that all of it was read.
    let seen = scene.answered.load(Ordering::Relaxed);
    comes_to("honest calls are answered", || scene.answered.load(Ordering::Relaxed), |count| *count > seen + 10);
    let grown = resident().saturating_sub(before);
    assert!(grown < 64 << 20, "{} MiB", grown >> 20);
    drop(peers);
    scene.end();
}

/// Memory of this process in use, in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

#[test]
fn an_oversized_message_is_refused_and_the_connection_lives() {
    let scene = Scene::new("an_oversized_message_is_refused_and_the_connection_lives");
    let mut raw = scene.greet();
    let total = (2u64 << 20) + 8;
    raw.send(&frame(Kind::Request, Header::MORE, 5, &body("keep", Some(total), &[])));
    let (header, answer) = raw.read_response();
    assert_eq!((header.kind, header.call, status(&answer)), (Kind::Response, 5, 14));
    let mut left = total - 8;
    while left > 0 {
        let now = left.min(200_000);
        left -= now;
        let flags = if left > 0 { Header::MORE } else { 0 };
        raw.send(&frame(Kind::RequestChunk, flags, 5, &vec![0; now as usize]));
    }
    let mut sum = 3i64.to_le_bytes().to_vec();
    sum.extend(4i64.to_le_bytes());
    raw.send(&request(6, "sum", &sum));
    let (header, answer) = raw.read_response();
    assert_eq!((header.call, status(&answer)), (6, 0));
    assert_eq!(answer[4..], 7i64.to_le_bytes());
    drop(raw);
    scene.end();
}

#[test]
fn ten_thousand_connections_leave_no_descriptor() {
    let scene = Scene::new("ten_thousand_connections_leave_no_descriptor");
    let before = descriptors("self").len();
    for round in 0..20 {
        let mut open: Vec<_> = (0..500).map(|_| scene.connect()).collect();
        if round % 2 == 0 {
            open.iter_mut().for_each(|raw| raw.send(&hello().encode()));
        }
    }
    // What other tests of this process hold comes and goes; ten thousand would show.
    comes_to("few descriptors are left", || descriptors("self"), |now| now.len() < before + 200);
    scene.end();
}

#[test]
fn a_call_id_used_twice_leaves_no_request_behind() {
    let scene = Scene::new("a_call_id_used_twice_leaves_no_request_behind");
    let mut raw = scene.greet();
    for _ in 0..40 {
        raw.send(&request(1, "hang", &[]));
        raw.send(&request(1, "keep", &[1, 2, 3]));
    }
    comes_to("there is a request", || scene.server.load(), |load| load.requests >= 1);
    raw.send(&frame(Kind::Cancel, 0, 1, &[]));
    comes_to("there are 1 requests at the most", || scene.server.load(), |load| load.requests <= 1);
    for _ in 0..40 {
        raw.send(&request(1, "hang", &[]));
    }
    drop(raw);
    scene.end();
}

#[test]
fn frames_about_nothing_are_ignored() {
    let scene = Scene::new("frames_about_nothing_are_ignored");
    let mut raw = scene.greet();
    for call in [0, 1, u64::MAX, 1 << 32] {
        raw.send(&frame(Kind::Cancel, 0, call, &[]));
        raw.send(&frame(Kind::Response, 0, call, &[0; 12]));
        raw.send(&frame(Kind::Response, 0, call, &[]));
        raw.send(&frame(Kind::ResponseAbort, 0, call, &[]));
        raw.send(&frame(Kind::GoAway, 0, 0, &[]));
        // A large response to a call that was never made.
        let mut first = 100_000u64.to_le_bytes().to_vec();
        first.extend([0; 50_000]);
        raw.send(&frame(Kind::Response, Header::MORE, call, &first));
        raw.send(&frame(Kind::ResponseChunk, 0, call, &[0; 50_000]));
    }
    // Requests that are too short for Margo's header, and to nobody.
    raw.send(&frame(Kind::Request, 0, 7, &body("sum", None, &[])[..RequestHead::LEN + 3]));
    let (header, answer) = raw.read_response();
    assert_eq!((header.call, status(&answer)), (7, 11));
    raw.send(&request(8, "nobody", &[]));
    let (header, answer) = raw.read_response();
    assert_eq!((header.call, status(&answer)), (8, 2));
    drop(raw);
    scene.end();
}

#[test]
fn a_peer_that_ignores_the_limits_is_told_overloaded() {
    let scene = Scene::new("a_peer_that_ignores_the_limits_is_told_overloaded");
    let mut raw = scene.greet();
    // 64 are stated, 1024 more are borne.
    for call in 0..3000 {
        raw.send(&request(call, "hang", &[]));
    }
    let (_, answer) = raw.read_response();
    assert_eq!(status(&answer), 8);
    assert!(scene.server.load().requests < 1200);
    drop(raw);
    comes_to("there are 1 requests at the most", || scene.server.load(), |load| load.requests <= 1);
    // Bytes: 4 MiB are stated, twice as many are borne.
    let mut raw = scene.greet();
    for call in 0..40 {
        raw.send(&request(call, "keep", &[1; 240_000]));
    }
    let (_, answer) = raw.read_response();
    assert_eq!(status(&answer), 8);
    drop(raw);
    scene.end();
}

#[test]
fn a_peer_that_reads_nothing_is_read_no_further() {
    let scene = Scene::new("a_peer_that_reads_nothing_is_read_no_further");
    let before = resident();
    let mut raw = scene.greet();
    // Each asks for a hundred thousand bytes; two thousand million in all.
    raw.0.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let one = |call| request(call, "fetch", &100_000u64.to_le_bytes());
    let mut sent = 0u64;
    let batch: Vec<u8> = (0..20_000).flat_map(one).collect();
    // Whether all of it is taken by the sockets' buffers or not does not matter: it is not answered.
    if raw.0.write_all(&batch).is_ok() {
        sent += batch.len() as u64;
    }
    let seen = scene.answered.load(Ordering::Relaxed);
    comes_to("honest calls are answered", || scene.answered.load(Ordering::Relaxed), |count| *count > seen + 100);
    let grown = resident().saturating_sub(before);
    assert!(grown < 100 << 20, "{} MiB after {sent} bytes", grown >> 20);
    drop(raw);
    scene.end();
}

#[test]
fn thousands_of_requests_without_reading_end_with_the_connection() {
    let scene = Scene::new("thousands_of_requests_without_reading_end_with_the_connection");
    for _ in 0..5 {
        let mut raw = scene.greet();
        raw.0.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
        let mut sum = 3i64.to_le_bytes().to_vec();
        sum.extend(4i64.to_le_bytes());
        let batch: Vec<u8> = (0..5000).flat_map(|call| request(call, "sum", &sum)).collect();
        for _ in 0..20 {
            if raw.0.write_all(&batch).is_err() {
                break;
            }
        }
    }
    scene.end();
}

#[test]
fn a_peer_that_stops_in_the_middle_of_a_message_is_cut_off() {
    let scene = Scene::with("a_peer_that_stops_in_the_middle_of_a_message_is_cut_off", |limits| {
        limits.stall_timeout = Duration::from_millis(100);
    });
    let mut chunked = scene.greet();
    chunked.send(&frame(Kind::Request, Header::MORE, 1, &body("sum", Some(100_000), &[0; 10])));
    let mut cut = scene.greet();
    cut.send(&request(1, "sum", &[0; 16])[..20]);
    chunked.read_to_close();
    cut.read_to_close();
    scene.end();
}

#[test]
fn a_lost_connection_gives_its_descriptor_back_while_its_requests_live_on() {
    let scene = Scene::new("a_lost_connection_gives_its_descriptor_back_while_its_requests_live_on");
    let held = Arc::new(std::sync::Mutex::new(Vec::new()));
    let keep = held.clone();
    let kept = move |request, _, responder| {
        keep.lock().unwrap().push((request, responder));
        std::future::ready(())
    };
    scene.server.register_raw("hold", ProviderId::DEFAULT, kept).unwrap();
    let before = descriptors("self").len();
    for _ in 0..500 {
        let mut raw = scene.greet();
        let so_far = held.lock().unwrap().len();
        raw.send(&request(1, "hold", &[]));
        comes_to("it is held", || held.lock().unwrap().len(), |held| *held > so_far);
    }
    // What other tests of this process hold comes and goes; five hundred would show.
    comes_to("few descriptors are left", || descriptors("self"), |now| now.len() < before + 200);
    held.lock().unwrap().clear();
    scene.end();
}
