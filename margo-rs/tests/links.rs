//! Links by themselves: two transports polled by hand, so that a test decides who looks at what, and when.

use margo_rs::transport::sm::SmTransport;
use margo_rs::transport::tcp::TcpTransport;
use margo_rs::transport::{Acceptor, CallId, Flush, Link, LinkError, LinkEvents, PeerLimits, Polled, Transport};
use margo_rs::wire::{Refusal, RequestHead};
use margo_rs::{Buffer, Limits, Payload, RpcId, bulk};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// How many bytes the answer to a call has.
type Size = fn(u64) -> usize;

/// One end of a link: answers each request at once, and counts what comes.
struct End {
    link: Mutex<Option<Arc<dyn Link>>>,
    size: Size,
    requests: Mutex<Vec<u64>>,
    answers: AtomicUsize,
    refused: AtomicUsize,
    lost: Mutex<Option<String>>,
}

impl End {
    fn new(size: Size) -> Arc<Self> {
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

    /// The calls that have come.
    fn requests(&self) -> Vec<u64> {
        self.requests.lock().unwrap().clone()
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
        self.link().respond(call, Buffer::copy_from(&vec![7; (self.size)(call.0)]), Flush::Later);
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
    size: Size,
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
    fn new(size: Size) -> Arc<Self> {
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
    let server = SmTransport::listen(&"native+sm".parse().unwrap(), limits, 1).unwrap();
    server.set_acceptor(door.clone());
    server
}

/// A server and a client with one link between them, both ends of which answer each request.
struct Pair {
    server: Box<dyn Transport>,
    client: Box<dyn Transport>,
    /// The server's end, and the client's.
    ends: [Arc<End>; 2],
}

impl Pair {
    /// One over TCP, and one through shared memory.
    fn both(limits: &Limits, size: Size) -> [Self; 2] {
        let doors = [Door::new(size), Door::new(size)];
        let tcp = TcpTransport::listen(&"native+tcp://127.0.0.1:0".parse().unwrap(), limits.clone(), 1).unwrap();
        tcp.set_acceptor(doors[0].clone());
        let sm = sm_server(limits.clone(), &doors[1]);
        let [at_tcp, at_sm] = doors;
        [Self::up(Box::new(tcp), limits, &at_tcp), Self::up(Box::new(sm), limits, &at_sm)]
    }

    fn up(server: Box<dyn Transport>, limits: &Limits, door: &Door) -> Self {
        let (client, caller) = Self::client(&*server, limits, door.size);
        let both_up = || door.end(0).is_some_and(|end| end.is_up());
        poll_until(&[&*server, &*client], "the server's end comes up", both_up);
        let ends = [door.end(0).unwrap(), caller];
        Self { server, client, ends }
    }

    /// A client of the same sort as the server, and its end of a link to it.
    fn client(server: &dyn Transport, limits: &Limits, size: Size) -> (Box<dyn Transport>, Arc<End>) {
        let address = server.address();
        let client: Box<dyn Transport> = match address.protocol() {
            "native+sm" => Box::new(SmTransport::client(limits.clone(), 2).unwrap()),
            _ => Box::new(TcpTransport::client(limits.clone(), 2).unwrap()),
        };
        let end = End::new(size);
        client.connect(&address, end.clone()).unwrap();
        poll_until(&[server, &*client], "the link comes up", || end.is_up());
        (client, end)
    }

    fn poll_until(&self, what: &str, is_so: impl Fn() -> bool) {
        poll_until(&[&*self.server, &*self.client], what, is_so);
    }

    /// Polls the server alone until it has nothing to do any more.
    fn serve(&self) {
        poll_until(&[&*self.server], "the server finds nothing any more", || {
            (0..1000).all(|_| self.server.poll() == Polled::Idle)
        });
    }
}

/// A single answer is more than may wait.
fn small_queues() -> Limits {
    let mut limits = Limits::default();
    limits.max_queued = 256 << 10;
    limits
}

#[test]
fn an_answer_goes_on_when_its_reader_comes_back_after_the_link_was_no_longer_looked_at() {
    const ANSWER: usize = 1 << 20;
    let door = Door::new(|_| ANSWER);
    let server = sm_server(Limits::default(), &door);
    let address = server.address();
    // More links than are looked at all the time.
    let clients: Vec<_> = (0..8)
        .map(|at| {
            let end = End::new(|_| 0);
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
    poll_until(&[&server], "the request comes", || !served.requests().is_empty());
    // The reader is away. All the others are silent, so that after a while nobody looks at their links.
    for _ in 0..3 * 4096 {
        server.poll();
    }
    assert!(served.link().queued() > ANSWER / 2, "the ring is full, and the rest waits");
    poll_until(&[slow, &server], "the answer comes", || end.answers() == 1);
}

#[test]
fn two_peers_with_more_answers_than_may_wait_get_them_all() {
    for pair in Pair::both(&small_queues(), |_| 1 << 20) {
        for call in 1..=32 {
            pair.ends.iter().for_each(|end| end.ask(call));
        }
        pair.poll_until("all is answered", || pair.ends.iter().all(|end| end.answers() == 32));
        for end in &pair.ends {
            assert_eq!(end.requests(), Vec::from_iter(1..=32), "in the order in which they were sent");
            assert_eq!(end.refused.load(Ordering::Relaxed), 0);
        }
    }
}

#[test]
fn a_request_that_is_cancelled_while_others_wait_is_never_handled() {
    for pair in Pair::both(&small_queues(), |_| 8 << 20) {
        let [served, caller] = &pair.ends;
        (1..=5).for_each(|call| caller.ask(call));
        caller.link().flush();
        pair.serve();
        assert_eq!(served.requests(), [1, 2], "one answer is being written, one waits");
        caller.link().cancel(CallId(4));
        pair.poll_until("the others are answered", || caller.answers() == 4);
        assert_eq!(served.requests(), [1, 2, 3, 5]);
    }
}

#[test]
fn cancelled_answers_let_requests_on_that_waited_for_them() {
    for pair in Pair::both(&small_queues(), |call| if call <= 2 { 8 << 20 } else { 10 }) {
        let [served, caller] = &pair.ends;
        (1..=3).for_each(|call| caller.ask(call));
        caller.link().flush();
        pair.serve();
        assert_eq!(served.requests(), [1, 2]);
        (1..=2).for_each(|call| caller.link().cancel(CallId(call)));
        // The caller reads nothing: no write tells that there is room.
        poll_until(&[&*pair.server], "the third is handled", || served.requests().len() == 3);
    }
}

#[test]
fn a_peer_that_passes_the_limits_and_reads_nothing_is_read_no_further() {
    let mut limits = small_queues();
    limits.max_in_flight = 1;
    let borne = 1 + 1024;
    for pair in Pair::both(&limits, |call| if call <= 2 { 8 << 20 } else { 10 }) {
        let [served, caller] = &pair.ends;
        (1..=100_000).for_each(|call| caller.ask(call));
        // Written as far as it is taken, and nothing is read.
        for _ in 0..100 {
            caller.link().flush();
            pair.serve();
        }
        assert_eq!(served.requests().len(), 2);
        let refused = served.refused.load(Ordering::Relaxed);
        // Twice what is borne at a time; the kernel's buffers take some of that, and with each chunk of the large answers.
        assert!((1..50 * borne).contains(&refused), "{refused} refused");
        pair.poll_until("all is answered once it reads", || caller.answers() == 100_000);
        assert!(served.requests().is_sorted() && served.requests().len() > borne);
        assert!(served.lost.lock().unwrap().is_none());
    }
}

#[test]
fn a_closed_link_keeps_nothing_that_was_to_be_written() {
    for pair in Pair::both(&Limits::default(), |_| 8 << 20) {
        let [served, caller] = &pair.ends;
        (1..=2).for_each(|call| caller.ask(call));
        caller.link().flush();
        pair.serve();
        let link = served.link();
        assert!(link.queued() > 8 << 20, "a write has begun, and cannot go on");
        link.close("enough");
        assert_eq!(link.queued(), 0);
        link.respond(CallId(3), Buffer::copy_from(&[1; 100]), Flush::Later);
        assert_eq!(link.queued(), 0);
    }
}

#[test]
fn a_peer_that_reads_nothing_of_what_all_may_hold_is_closed_and_others_are_served() {
    let mut limits = Limits::default();
    limits.max_bytes_total = 4 << 20;
    limits.stall_timeout = Duration::from_millis(200);
    for pair in Pair::both(&limits, |_| 3 << 20) {
        let [served, caller] = &pair.ends;
        (1..=8).for_each(|call| caller.ask(call));
        caller.link().flush();
        let (client, honest) = Pair::client(&*pair.server, &limits, |_| 0);
        poll_until(&[&*pair.server], "requests come", || served.requests().len() >= 2);
        honest.ask(1);
        poll_until(&[&*client, &*pair.server], "another is served meanwhile", || honest.answers() == 1);
        poll_until(&[&*pair.server], "the peer is closed", || served.lost.lock().unwrap().is_some());
        assert_eq!(served.requests(), [1, 2], "far less than a connection alone may have");
        assert!(served.lost.lock().unwrap().as_ref().unwrap().contains("does not read its answers"));
        (2..=9).for_each(|call| honest.ask(call));
        poll_until(&[&*client, &*pair.server], "the memory is there again", || honest.answers() == 9);
    }
}
