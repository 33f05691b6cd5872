//! Links by themselves: two transports polled by hand, so that a test decides who looks at what, and when.

use margo_rs::transport::sm::SmTransport;
use margo_rs::transport::{Acceptor, CallId, Flush, Link, LinkError, LinkEvents, PeerLimits, Transport};
use margo_rs::wire::{Refusal, RequestHead};
use margo_rs::{Address, Buffer, Limits, Payload, RpcId, bulk};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// One end of a link: answers each request with as many bytes as it was made with, and counts what comes.
struct End {
    link: Mutex<Option<Arc<dyn Link>>>,
    size: usize,
    requests: Mutex<Vec<u64>>,
    answers: AtomicUsize,
    refused: AtomicUsize,
    lost: Mutex<Option<String>>,
}

impl End {
    fn new(size: usize) -> Arc<Self> {
        Arc::new(Self {
            link: Mutex::new(None),
            size,
            requests: Mutex::new(Vec::new()),
            answers: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
            lost: Mutex::new(None),
        })
    }

    fn link(&self) -> Arc<dyn Link> {
        self.link.lock().unwrap().clone().expect("the link is up")
    }

    fn is_up(&self) -> bool {
        self.link.lock().unwrap().is_some()
    }

    fn ask(&self, call: u64) {
        let head = RequestHead { rpc: RpcId::from_raw(1), timeout_ms: 0, one_way: false };
        self.link().request(CallId(call), head, Buffer::copy_from(&[1; 64]), Flush::Later);
    }

    fn answers(&self) -> usize {
        self.answers.load(Ordering::Relaxed)
    }
}

impl LinkEvents for End {
    fn on_up(&self, link: &Arc<dyn Link>, _: PeerLimits) {
        *self.link.lock().unwrap() = Some(link.clone());
    }

    fn on_request(&self, call: CallId, _: RequestHead, _: Payload<'_>) {
        self.requests.lock().unwrap().push(call.0);
        self.link().respond(call, Buffer::copy_from(&vec![7; self.size]), Flush::Later);
    }

    fn on_request_refused(&self, call: CallId, head: RequestHead, _: Refusal) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        if !head.one_way {
            self.link().respond(call, Buffer::copy_from(b"busy"), Flush::Later);
        }
    }

    fn expects(&self, _: CallId) -> bool {
        true
    }

    fn on_response(&self, _: CallId, _: Payload<'_>) {
        self.answers.fetch_add(1, Ordering::Relaxed);
    }

    fn on_refused(&self, _: CallId, _: Refusal) {}

    fn on_cancel(&self, _: CallId) {}

    fn on_transferred(&self, _: CallId, _: Result<(), bulk::TransferError>) {}

    fn grant(&self, _: &bulk::RegionKey, _: bulk::Direction, _: u64, _: u64) -> Result<bulk::Window, bulk::Refusal> {
        Err(bulk::Refusal::Forged)
    }

    fn on_go_away(&self) {}

    fn on_lost(&self, error: &LinkError) {
        *self.lost.lock().unwrap() = Some(format!("{error:?}"));
    }
}

/// Takes every link in, in the order in which they come.
struct Door {
    size: usize,
    ends: Mutex<Vec<Arc<End>>>,
}

impl Acceptor for Door {
    fn accept(&self, _: Arc<dyn Link>) -> Arc<dyn LinkEvents> {
        let end = End::new(self.size);
        self.ends.lock().unwrap().push(end.clone());
        end
    }
}

impl Door {
    fn new(size: usize) -> Arc<Self> {
        Arc::new(Self { size, ends: Mutex::new(Vec::new()) })
    }

    fn end(&self, at: usize) -> Option<Arc<End>> {
        self.ends.lock().unwrap().get(at).cloned()
    }
}

/// Polls `transports` in turn until `what` is so.
fn poll_until(transports: &[&dyn Transport], what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        for transport in transports {
            transport.poll();
        }
    }
}

fn sm_server(limits: Limits, door: &Arc<Door>) -> SmTransport {
    let server = SmTransport::listen(&"native+sm".parse::<Address>().unwrap(), limits, 1).unwrap();
    server.set_acceptor(door.clone());
    server
}

#[test]
fn an_answer_goes_on_when_its_reader_comes_back_after_the_link_was_no_longer_looked_at() {
    const ANSWER: usize = 1 << 20;
    let door = Door::new(ANSWER);
    let server = sm_server(Limits::default(), &door);
    let address = server.address();
    // More links than are looked at all the time.
    let clients: Vec<_> = (0..8)
        .map(|at| {
            let end = End::new(0);
            let client = SmTransport::client(Limits::default(), 2 + at).unwrap();
            client.connect(&address, end.clone()).unwrap();
            poll_until(&[&server, &client], "the link comes up", || end.is_up());
            (client, end)
        })
        .collect();
    let (slow, end) = &clients[7];
    end.ask(1);
    end.link().flush();
    let served = door.end(7).unwrap();
    poll_until(&[&server], "the request comes", || !served.requests.lock().unwrap().is_empty());
    // The reader is away. All the others are silent, so that after a while nobody looks at their links.
    for _ in 0..3 * 4096 {
        server.poll();
    }
    assert!(served.link().queued() > ANSWER / 2, "the ring is full, and the rest waits");
    poll_until(&[slow, &server], "the answer comes", || end.answers() == 1);
}
