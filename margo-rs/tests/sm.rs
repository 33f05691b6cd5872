//! Shared memory: peers that break its rules, other users, what is left behind.

use margo_rs::codec::Blob;
use margo_rs::wire::{FRAME_MAX, HELLO_LEN, Hello};
use margo_rs::{ConnectError, Endpoint, Engine, Rpc, Wait};
use mochi_test_support::{Descriptors, Process, Watchdog, comes_to, descriptors, mappings, say};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::net::{
    self, AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketType,
};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

const SUM: Rpc<(i64, i64), i64> = Rpc::new("sum");
const ECHO: Rpc<Blob, Blob> = Rpc::new("echo");
/// Who the server says is calling.
const WHO: Rpc<(), Option<(u32, u32)>> = Rpc::new("who");
/// Where the server says a call comes from.
const FROM: Rpc<(), String> = Rpc::new("from");
const PATIENCE: Duration = Duration::from_secs(120);
const PAGE: usize = 4096;
const RING: usize = 128 * 1024;
/// Seals that a segment must have.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::FUTURE_WRITE);

fn watchdog(name: &'static str) -> Watchdog {
    Watchdog::start(name, PATIENCE)
}

fn serve() -> Engine {
    serve_within(|limits| limits.max_message = 4 << 20)
}

fn serve_within(limits: impl FnOnce(&mut margo_rs::Limits)) -> Engine {
    let server = Engine::builder("native+sm").limits(limits).rpc_threads(2).listen().wait().unwrap();
    server.register(SUM, |_, (a, b)| async move { Ok(a + b) }).unwrap();
    server.register(FROM, |request, ()| async move { Ok(request.peer().to_string()) }).unwrap();
    server.register(ECHO, |_, blob| async move { Ok(blob) }).unwrap();
    server
        .register(WHO, |request, ()| async move { Ok(request.peer_credentials().map(|user| (user.uid, user.gid))) })
        .unwrap();
    server
}

fn reach(server: &str) -> (Engine, Endpoint) {
    let client = Engine::connect("native+sm").unwrap();
    let to = client.lookup(server).wait().unwrap();
    (client, to)
}

fn path_of(address: &str) -> PathBuf {
    PathBuf::from(format!("/tmp/mochi-sm-{}", address.strip_prefix("native+sm://").unwrap()))
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Not a test of its own: what a process that a test starts does.
#[test]
fn role() {
    let Some(role) = mochi_test_support::role() else { return };
    let _watchdog = watchdog("role");
    let role: Vec<&str> = role.split(' ').collect();
    match role[..] {
        ["serve"] => {
            let server = serve();
            say(server.address().as_str());
            server.wait().wait();
        }
        ["call", address] => {
            let (_client, to) = reach(address);
            let server = to.peer_credentials().unwrap();
            let who = to.call(WHO, &()).wait().unwrap().unwrap();
            let blob = Blob(vec![3; 1 << 20]);
            assert!(to.call(ECHO, &blob).wait().unwrap() == blob);
            say(&format!("{who:?} at {}", server.uid));
        }
        ["scribble", address] => say(&scribble(address)),
        ["squat", name] => {
            let path = path_of(&format!("native+sm://{name}"));
            let listener = net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
            say(if net::bind(&listener, &SocketAddrUnix::new(&path).unwrap()).is_ok() { "bound" } else { "refused" });
        }
        _ => panic!("no such role"),
    }
    std::process::exit(0);
}

fn memory(size: usize, flags: MemfdFlags) -> OwnedFd {
    let segment = rustix::fs::memfd_create("raw", flags | MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&segment, size as u64).unwrap();
    segment
}

fn fill(segment: &OwnedFd, size: usize) {
    assert_eq!(rustix::io::pwrite(segment, &vec![0; size], 0), Ok(size));
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

fn connect(server: &Engine) -> OwnedFd {
    let socket = net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    net::connect(&socket, &SocketAddrUnix::new(path_of(server.address().as_str())).unwrap()).unwrap();
    socket
}

fn send(socket: &OwnedFd, bytes: &[u8], descriptors: &[&OwnedFd]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<_> = descriptors.iter().map(|fd| fd.as_fd()).collect();
    if !descriptors.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    }
    net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).unwrap();
}

/// Reads until the server closes; returns what it said.
fn read_to_close(socket: &OwnedFd) -> Vec<u8> {
    let mut all = Vec::new();
    let mut part = [0; 256];
    loop {
        match net::recv(socket, &mut part[..], RecvFlags::empty()) {
            Ok((0, _)) | Err(_) => return all,
            Ok((count, _)) => all.extend_from_slice(&part[..count]),
        }
    }
}

#[test]
fn segments_that_could_hurt_are_refused() {
    let _watchdog = watchdog("segments_that_could_hurt_are_refused");
    let server = serve();
    let (_client, to) = reach(server.address().as_str());
    let size = PAGE + RING;
    let sealed = |size: usize, filled: usize, seals: SealFlags| {
        let segment = memory(size, MemfdFlags::empty());
        fill(&segment, filled);
        rustix::fs::fcntl_add_seals(&segment, seals).unwrap();
        segment
    };
    // As many pages as it should have, and the last one behind its end.
    let behind = memory(size, MemfdFlags::empty());
    fill(&behind, size - PAGE);
    rustix::fs::fallocate(&behind, FallocateFlags::KEEP_SIZE, size as u64, PAGE as u64).unwrap();
    rustix::fs::fcntl_add_seals(&behind, SEALS).unwrap();
    let unsealable = rustix::fs::memfd_create("raw", MemfdFlags::empty()).unwrap();
    fill(&unsealable, size);
    let file = OwnedFd::from(std::fs::File::open("/proc/self/exe").unwrap());
    let (pipe, _pipe) = std::io::pipe().unwrap();
    let bad = [
        ("not sealed", sealed(size, size, SealFlags::empty())),
        ("may shrink", sealed(size, size, SealFlags::GROW | SealFlags::FUTURE_WRITE)),
        ("may be written and punched", sealed(size, size, SealFlags::SHRINK | SealFlags::GROW)),
        ("cannot be sealed", unsealable),
        ("a hole", sealed(size, size - PAGE, SEALS)),
        ("a hole, and a page behind its end", behind),
        ("empty", sealed(0, 0, SEALS)),
        ("no ring", sealed(PAGE, PAGE, SEALS)),
        ("no power of two", sealed(size + PAGE, size + PAGE, SEALS)),
        ("too large", sealed(PAGE + (32 << 20), PAGE + (32 << 20), SEALS)),
        ("a file", file),
        ("a pipe", OwnedFd::from(pipe)),
    ];
    for (what, segment) in &bad {
        let socket = connect(&server);
        send(&socket, &hello().encode(), &[segment]);
        assert!(read_to_close(&socket).is_empty(), "{what} was accepted");
        assert_eq!(to.call(SUM, &(1, 2)).wait().unwrap(), 3);
    }
    let good = || sealed(size, size, SEALS);
    for (what, bytes, count) in [
        ("none", &hello().encode()[..], 0),
        ("two", &hello().encode()[..], 2),
        ("more than there is room for", &hello().encode()[..], 4),
        ("a short hello", &hello().encode()[..HELLO_LEN - 1], 1),
        ("a long hello", &[&hello().encode()[..], &[0]].concat()[..], 1),
        ("no hello", &[7; HELLO_LEN][..], 1),
    ] {
        let socket = connect(&server);
        let (one, two, three, four) = (good(), good(), good(), good());
        send(&socket, bytes, &[&one, &two, &three, &four][..count]);
        assert!(read_to_close(&socket).is_empty(), "{what} was accepted");
    }
    comes_to("there is one connection", || server.load(), |load| load.links == 1);
    assert_eq!(to.call(SUM, &(1, 2)).wait().unwrap(), 3);
}

#[test]
fn a_segment_that_is_scribbled_over_while_calls_run_harms_nobody_else() {
    let _watchdog = watchdog("a_segment_that_is_scribbled_over_while_calls_run_harms_nobody_else");
    let server = serve();
    let (_honest, to) = reach(server.address().as_str());
    let (address, over) = (server.address().clone(), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            // Its only connections are those that it scribbles over.
            let hostile = Process::start(&format!("scribble {address}"));
            println!("the hostile peer did {}", hostile.says);
            over.store(true, Ordering::Release);
        });
        let mut answered = 0;
        while !over.load(Ordering::Acquire) {
            assert_eq!(to.call(SUM, &(answered, 1)).timeout(PATIENCE).wait().unwrap(), answered + 1);
            answered += 1;
        }
    });
    comes_to(
        "there is one connection, and no request is left",
        || server.load(),
        |load| load.links == 1 && load.requests == 0,
    );
    assert_eq!(to.call(SUM, &(1, 2)).wait().unwrap(), 3);
}

/// Makes calls, and writes at random over what the server reads of this process: what it could do with any program of
/// its own. The segments are the only shared memory that is writable here; it is written through `/proc/self/mem`, which
/// needs no unsafe code.
fn scribble(address: &str) -> String {
    let mut random = 0x9E37_79B9_7F4A_7C15u64;
    let mut next = move |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let memory = std::fs::OpenOptions::new().read(true).write(true).open("/proc/self/mem").unwrap();
    let (mut writes, mut ends) = (0, 0);
    for round in 0..150 {
        let client = Engine::connect("native+sm").unwrap();
        let Ok(to) = client.lookup(address).wait() else { continue };
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let start = maps.lines().find(|line| line.contains("memfd:mochi-sm") && line.contains("rw-s"));
        let Some(start) = start.map(|line| u64::from_str_radix(line.split('-').next().unwrap(), 16).unwrap()) else {
            continue;
        };
        let mut secret = [0; 8];
        rustix::io::pread(&memory, &mut secret, start + 8).unwrap();
        let tag = |line: u64| (u64::from_le_bytes(secret) ^ line << 14) & !0x3FFF | 1 << 63;
        let size = |large| if large { 60_000 } else { 10 };
        let calls: Vec<_> = (0..40)
            .map(|n| to.call(ECHO, &Blob(vec![n; size(n % 8 == 0)])).timeout(Duration::from_millis(50)).start())
            .collect();
        for step in 0..200 {
            let (word, value) = match (round + step) % 5 {
                // The bell, and what was read.
                0 => ([0, 256][next(2) as usize], next(1 << 20) * 64),
                1 => ([0, 256][next(2) as usize], next(u64::MAX)),
                // What looks like a record, early in the ring, where they are read.
                2 => {
                    let line = next(100);
                    (512 + line as usize * 8, tag(line) | next(1 << 14))
                }
                // A frame's header.
                3 => (512 + next(800) as usize, next(300_000) | (1 + next(8)) << 32),
                _ => (next(((PAGE + RING) / 8) as u64) as usize, next(u64::MAX)),
            };
            writes += usize::from(rustix::io::pwrite(&memory, &value.to_le_bytes(), start + word as u64 * 8).is_ok());
        }
        ends += calls.into_iter().map(|call| u32::from(call.wait().is_err())).sum::<u32>();
    }
    assert!(writes > 10_000, "it wrote {writes} times");
    format!("{writes} writes, {ends} calls ended badly")
}

#[test]
fn the_kernel_tells_server_and_client_who_the_other_is() {
    let _watchdog = watchdog("the_kernel_tells_server_and_client_who_the_other_is");
    let server = serve();
    let (_client, to) = reach(server.address().as_str());
    let gid = rustix::process::getegid().as_raw();
    assert_eq!(to.call(WHO, &()).wait().unwrap(), Some((own_uid(), gid)));
    assert_eq!(to.peer_credentials().map(|user| (user.uid, user.gid)), Some((own_uid(), gid)));
    // Calls to self are calls of this user.
    let me = server.lookup(server.address()).wait().unwrap();
    assert_eq!(me.call(WHO, &()).wait().unwrap(), Some((own_uid(), gid)));
}

#[test]
fn several_users_of_a_node_reach_each_other() {
    let _watchdog = watchdog("several_users_of_a_node_reach_each_other");
    if own_uid() != 0 {
        println!("several users: only root can try that");
        return;
    }
    let (alice, bob) = (54_321, 54_322);
    let server = serve();
    let client = Process::start_as(alice, &format!("call {}", server.address()));
    assert_eq!(client.says, format!("({alice}, {alice}) at 0"));
    let hers = Process::start_as(alice, "serve");
    assert!(hers.says.starts_with(&format!("native+sm://{alice}/")), "{}", hers.says);
    let his = Process::start_as(bob, &format!("call {}", hers.says));
    assert_eq!(his.says, format!("({bob}, {bob}) at {alice}"));
    let (_client, to) = reach(&hers.says);
    assert_eq!(to.peer_credentials().unwrap().uid, alice);
    // He cannot put a socket where she would.
    let squatter = Process::start_as(bob, &format!("squat {alice}/popular"));
    assert_eq!(squatter.says, "refused");
    drop((hers, his, squatter));
    for uid in [alice, bob] {
        let _ = std::fs::remove_dir_all(format!("/tmp/mochi-sm-{uid}"));
    }
}

#[test]
fn a_server_of_another_user_than_the_address_says_is_not_talked_to() {
    let _watchdog = watchdog("a_server_of_another_user_than_the_address_says_is_not_talked_to");
    if own_uid() != 0 {
        println!("another user's server: only root can try that");
        return;
    }
    let carol = 54_323;
    let directory = PathBuf::from(format!("/tmp/mochi-sm-{carol}"));
    std::fs::create_dir_all(&directory).unwrap();
    let server = serve();
    // Root's server under carol's name.
    std::fs::rename(path_of(server.address().as_str()), directory.join("popular")).unwrap();
    let client = Engine::connect("native+sm").unwrap();
    let error = client.lookup(format!("native+sm://{carol}/popular")).wait().unwrap_err();
    assert!(matches!(&error, ConnectError::Handshake { .. }), "{error:?}");
    assert!(error.to_string().contains("uid 0") && error.to_string().contains(&carol.to_string()), "{error}");
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn one_user_cannot_take_the_places_of_others() {
    let _watchdog = watchdog("one_user_cannot_take_the_places_of_others");
    let few = |limits: &mut margo_rs::Limits| limits.max_connections_per_user = 2;
    let server = serve_within(few);
    let address = server.address().as_str();
    let links = [reach(address), reach(address)];
    let third = Engine::connect("native+sm").unwrap();
    assert!(third.lookup(address).wait().is_err());
    if own_uid() == 0 {
        let carol = 54_324;
        let hers = Process::start_as(carol, &format!("call {address}"));
        assert_eq!(hers.says, format!("({carol}, {carol}) at 0"), "another user has places of her own");
    } else {
        println!("another user: only root can try that");
    }
    for (_client, to) in &links {
        assert_eq!(to.call(SUM, &(1, 2)).wait().unwrap(), 3, "those who are there stay");
    }
    drop(links);
    comes_to("there is room again", || third.lookup(address).wait().is_ok(), |there_is| *there_is);
}

#[test]
fn many_connections_leave_no_descriptor_and_no_mapping() {
    let _watchdog = watchdog("many_connections_leave_no_descriptor_and_no_mapping");
    let process = Process::start("serve");
    let pid = process.id();
    let segments = || mappings(&pid).into_iter().filter(|it| it.name.contains("memfd:mochi-sm")).collect::<Vec<_>>();
    let connect = || {
        let (_client, to) = reach(&process.says);
        assert_eq!(to.call(SUM, &(1, 2)).wait().unwrap(), 3);
    };
    connect();
    comes_to("no segment is left", segments, Vec::is_empty);
    let before = descriptors(&pid).len();
    for _ in 0..300 {
        connect();
    }
    let held = || (descriptors(&pid), segments());
    let is_nothing =
        |(descriptors, segments): &(Descriptors, Vec<_>)| descriptors.len() <= before && segments.is_empty();
    comes_to("no descriptor and no segment is left", held, is_nothing);
}

#[test]
fn a_killed_server_leaves_a_socket_that_the_next_start_removes() {
    let _watchdog = watchdog("a_killed_server_leaves_a_socket_that_the_next_start_removes");
    let mut server = Process::start("serve");
    let path = path_of(&server.says);
    server.kill();
    assert!(path.exists());
    let client = Engine::connect("native+sm").unwrap();
    assert!(matches!(client.lookup(&server.says).wait(), Err(ConnectError::Unreachable { .. })));
    let next = serve();
    assert!(!path.exists());
    let own = path_of(next.address().as_str());
    assert!(own.exists());
    next.shutdown().wait();
    assert!(!own.exists());
}

#[test]
fn a_caller_whose_process_the_server_cannot_see_is_known_by_its_user_alone() {
    let _watchdog = watchdog("a_caller_whose_process_the_server_cannot_see_is_known_by_its_user_alone");
    let near = serve();
    let (_near_client, to) = reach(near.address().as_str());
    let ours = format!("native+sm://{}/{}", own_uid(), std::process::id());
    assert_eq!(to.call(FROM, &()).wait().unwrap(), ours);
    let mut elsewhere = Command::new("unshare");
    elsewhere.args(["--pid", "--fork", "--kill-child", "--"]).arg(std::env::current_exe().unwrap());
    let Some(server) = Process::run(elsewhere, "role", "serve") else {
        println!("skipped: no PID namespaces here (needs root and util-linux)");
        return;
    };
    let (_client, to) = reach(&server.says);
    assert_eq!(to.call(FROM, &()).wait().unwrap(), format!("native+sm://{}/unknown", own_uid()));
    assert_eq!(to.call(WHO, &()).wait().unwrap().map(|(uid, _)| uid), Some(own_uid()));
}
