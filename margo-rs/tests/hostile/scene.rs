//! A server, an honest client that calls it all the while, and a peer that says what it likes.

use margo_rs::codec::Blob;
use margo_rs::wire::{FRAME_MAX, HELLO_LEN, Header, Hello, Kind, RequestHead};
use margo_rs::{Endpoint, Engine, Limits, ProviderId, Rpc, RpcId, Wait};
use mochi_test_support::{Watchdog, comes_to};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

pub(crate) const SUM: Rpc<(i64, i64), i64> = Rpc::new("sum");
pub(crate) const HANG: Rpc<(), ()> = Rpc::new("hang");
pub(crate) const FETCH: Rpc<u64, Blob> = Rpc::new("fetch");
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A server with small limits, and an honest client that calls it all the while.
pub(crate) struct Scene {
    pub(crate) server: Engine,
    pub(crate) honest: Endpoint,
    _client: Engine,
    over: Arc<AtomicBool>,
    pub(crate) answered: Arc<AtomicU64>,
    calling: Option<thread::JoinHandle<()>>,
    _watchdog: Watchdog,
}

impl Scene {
    #[track_caller]
    pub(crate) fn new(name: &'static str) -> Self {
        Self::with(name, |_| ())
    }

    #[track_caller]
    pub(crate) fn with(name: &'static str, change: impl FnOnce(&mut Limits)) -> Self {
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

    pub(crate) fn connect(&self) -> Raw {
        Raw(TcpStream::connect(self.server.address().location()).unwrap())
    }

    /// A peer that has said hello.
    pub(crate) fn greet(&self) -> Raw {
        let mut raw = self.connect();
        raw.0.write_all(&hello().encode()).unwrap();
        let mut theirs = [0; HELLO_LEN];
        raw.0.read_exact(&mut theirs).unwrap();
        Hello::decode(&theirs).unwrap();
        raw
    }

    /// The honest client was served all the while, and only its connection is left.
    #[track_caller]
    pub(crate) fn end(mut self) {
        let before = self.answered.load(Ordering::Relaxed);
        comes_to("honest calls are answered", || self.answered.load(Ordering::Relaxed), |count| *count > before);
        self.over.store(true, Ordering::Release);
        self.calling.take().unwrap().join().expect("the honest client was served");
        comes_to("no request is left", || self.server.load(), |load| load.requests == 0);
        comes_to("there is one connection", || self.server.load(), |load| load.links == 1);
        assert_eq!(self.honest.call(SUM, &(1, 2)).wait().unwrap(), 3);
    }
}

pub(crate) fn hello() -> Hello {
    Hello {
        max_frame: FRAME_MAX,
        max_in_flight: 16,
        max_message: 1 << 20,
        max_bytes: 1 << 20,
        instance: 1,
        extra: [0; 16],
    }
}

pub(crate) struct Raw(pub(crate) TcpStream);

impl Raw {
    /// Sends, whether or not anybody still listens.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes);
    }

    /// Reads until the server closes; returns what it said. A server that closes on unread data resets.
    pub(crate) fn read_to_close(&mut self) -> Vec<u8> {
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

    pub(crate) fn read_response(&mut self) -> (Header, Vec<u8>) {
        self.0.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut head = [0; Header::LEN];
        self.0.read_exact(&mut head).expect("a response");
        let header = Header::decode(&head, FRAME_MAX).unwrap();
        let mut body = vec![0; header.length as usize];
        self.0.read_exact(&mut body).unwrap();
        (header, body)
    }
}

pub(crate) fn frame(kind: Kind, flags: u8, call: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    Header { length: body.len() as u32, kind, flags, call }.encode(&mut bytes);
    bytes.extend_from_slice(body);
    bytes
}

/// The body of a request: head, announced size if there are chunks, Margo's header, input.
pub(crate) fn body(name: &str, total: Option<u64>, input: &[u8]) -> Vec<u8> {
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

pub(crate) fn request(call: u64, name: &str, input: &[u8]) -> Vec<u8> {
    frame(Kind::Request, 0, call, &body(name, None, input))
}

pub(crate) fn status(body: &[u8]) -> i32 {
    i32::from_le_bytes(*body.first_chunk().expect("a status"))
}

/// Memory of this process in use, in bytes.
pub(crate) fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}
