//! What the protocol costs: a sealed call of 64 bytes at each of its four steps, the window, a handshake without its
//! mechanism, and the session table with few and with many sessions.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use mochi_auth::Identity;
use mochi_auth::mechanism::{Principal, ServerProof};
use mochi_auth::protocol::client::{Begun, Offer, Sent};
use mochi_auth::protocol::message::{Content, Draft, Incoming, Target};
use mochi_auth::protocol::server::{Established, Received, ServerPolicy};
use mochi_auth::protocol::{
    Ephemeral, Hello, MechanismId, Protection, Psk, Secret, ServerId, SessionId, Suite, Terms, Tick, Window,
};
use mochi_auth::session::{ClientSession, Lifetimes, NodeAddress, Quota, Table};
use ring::rand::{SecureRandom, SystemRandom};

const NOW: Tick = Tick(0);
const TARGET: Target = Target { rpc: 1, provider: 2 };
const BODY: [u8; 64] = [7; 64];

fn policy() -> ServerPolicy {
    ServerPolicy {
        ids: vec![(MechanismId::KeyFile, ServerId::of("bench"))],
        mechanisms: vec![MechanismId::KeyFile],
        suites: vec![Suite::Aes256Gcm, Suite::ChaCha20Poly1305],
        protections: vec![Protection::Sealed, Protection::IntegrityOnly],
        terms: Terms {
            suite: Suite::Aes256Gcm,
            protection: Protection::Sealed,
            window_bits: Window::BITS_DEFAULT,
            idle: Duration::from_secs(900),
            absolute: Duration::from_secs(43_200),
            max_in_flight: 1024,
            max_message: 1 << 20,
        },
    }
}

fn psk() -> Psk {
    Psk::shared(Secret::new(|bytes| bytes.fill(7)))
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).expect("random bytes");
    bytes
}

fn ephemeral() -> Ephemeral {
    Ephemeral::generate(&SystemRandom::new()).expect("a key pair")
}

fn hello(suite: Suite, protection: Protection) -> (Vec<u8>, Sent) {
    let offer = Offer {
        server: ServerId::of("bench"),
        mechanism: MechanismId::KeyFile,
        suites: &[suite],
        protection,
        cookie: None,
        client_time_ms: 0,
    };
    Begun::new(&offer, &random(), ephemeral()).expect("an offer").send(&[0; 48], psk()).expect("short")
}

fn answer(hello: &[u8], policy: &ServerPolicy, uid: u32) -> Established {
    let received = Received::begin(&Hello::parse(hello).expect("parsed"), policy).expect("received");
    let identity = Identity { uid, gid: 0 };
    let principal = Principal { mechanism: MechanismId::KeyFile, identity, name: None };
    let verified = received.claim().verified(principal, psk());
    let agreed = received.agree(ephemeral()).expect("an honest key");
    let proving = received.accept(verified, SessionId::new(random()), &random(), agreed, NOW).expect("accepted");
    proving.finish(b"").expect("no proof")
}

fn open_session(table: &Table, suite: Suite, protection: Protection) -> ClientSession {
    let (hello, sent) = hello(suite, protection);
    let established = answer(&hello, &policy(), 1000);
    let answered = sent.receive(&established.reply).expect("received");
    let client = ClientSession::new(answered.complete(ServerProof::SharedSecret).expect("completed"), NOW);
    table.insert(established, table.generation(), NodeAddress::LOCAL, NOW).expect("room");
    let (mut wire, _) = client.call(TARGET, Content::default(), Draft::copy_of(b""), NOW).expect("sealed");
    table.open(Incoming::parse(&mut wire).expect("a message"), NOW).expect("opened");
    client
}

fn table() -> Table {
    Table::new(Quota::default(), Lifetimes::default(), NOW)
}

fn calls(criterion: &mut Criterion) {
    for (name, suite, protection) in [
        ("aes256gcm", Suite::Aes256Gcm, Protection::Sealed),
        ("chacha20poly1305", Suite::ChaCha20Poly1305, Protection::Sealed),
        ("aes256gcm_integrity_only", Suite::Aes256Gcm, Protection::IntegrityOnly),
    ] {
        let mut group = criterion.benchmark_group(format!("call_64/{name}"));
        let table = table();
        let client = open_session(&table, suite, protection);
        let seal = || client.call(TARGET, Content::default(), Draft::copy_of(&BODY), NOW).expect("sealed");
        group.bench_function("seal_request", |bencher| bencher.iter(|| black_box(seal())));
        group.bench_function("open_request", |bencher| {
            bencher.iter_batched_ref(
                || seal().0,
                |wire| drop(black_box(table.open(Incoming::parse(wire).expect("a message"), NOW).expect("opened"))),
                BatchSize::SmallInput,
            );
        });
        group.bench_function("seal_reply", |bencher| {
            let responder = || {
                let mut wire = seal().0;
                table.open(Incoming::parse(&mut wire).expect("a message"), NOW).expect("opened").responder
            };
            bencher.iter_batched(
                responder,
                |responder| responder.reply(Content::default(), Draft::copy_of(&BODY), NOW).expect("sealed"),
                BatchSize::SmallInput,
            );
        });
        group.bench_function("whole_call", |bencher| {
            bencher.iter(|| {
                let (mut wire, call) = seal();
                let request = table.open(Incoming::parse(&mut wire).expect("a message"), NOW).expect("opened");
                let body = Draft::copy_of(request.body());
                let mut reply = request.responder.reply(Content::default(), body, NOW).expect("sealed");
                drop(black_box(client.open(call, &mut reply, NOW).expect("opened")));
            });
        });
        group.finish();
    }
}

fn window(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("window");
    for bits in [Window::BITS_DEFAULT, Window::BITS_MAX] {
        group.bench_function(BenchmarkId::new("peek_accept", bits), |bencher| {
            let (mut window, mut seq) = (Window::new(bits), 0);
            bencher.iter(|| {
                window.peek(black_box(seq)).expect("new");
                window.accept(seq).expect("new");
                seq += 1;
            });
        });
    }
    group.finish();
}

fn handshake(criterion: &mut Criterion) {
    let policy = policy();
    criterion.bench_function("handshake/both_ends_without_mechanism", |bencher| {
        bencher.iter(|| {
            let (hello, sent) = hello(Suite::Aes256Gcm, Protection::Sealed);
            let established = answer(&hello, &policy, 1000);
            let answered = sent.receive(&established.reply).expect("received");
            drop(black_box(answered.complete(ServerProof::SharedSecret).expect("completed")));
        });
    });
}

fn sessions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("session_table");
    for count in [100u32, 10_000, 100_000] {
        let quota = Quota { half_open: usize::MAX, half_open_per_node: usize::MAX, ..Quota::default() };
        let table = Arc::new(Table::new(quota, Lifetimes { half_open: Duration::from_secs(900) }, NOW));
        let hello = hello(Suite::Aes256Gcm, Protection::Sealed).0;
        let before = resident();
        for number in 0..count {
            let established = answer(&hello, &policy(), 1000 + number / 50);
            table.insert(established, table.generation(), NodeAddress::LOCAL, NOW).expect("room");
        }
        println!("{count} sessions: {} bytes of memory each", (resident() - before) / u64::from(count));
        let ids: Vec<_> = table.sessions().iter().map(|session| session.id()).collect();
        group.bench_function(BenchmarkId::new("find", count), |bencher| {
            let mut at = 0;
            bencher.iter(|| {
                at = (at + 7919) % ids.len();
                black_box(table.find(&ids[at]))
            });
        });
        group.bench_function(BenchmarkId::new("expire_nothing", count), |bencher| {
            let mut now = 0;
            bencher.iter(|| {
                now = (now + 1000) % 800_000;
                black_box(table.expire(Tick(now)))
            });
        });
    }
    group.finish();
}

/// Bytes of this process in memory; statm(5).
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

criterion_group!(benches, calls, window, handshake, sessions);
criterion_main!(benches);
