//! SIGKILL at random moments of calls and bulk transfers: whoever survives gets errors, goes on, and has lost nothing, neither
//! memory nor descriptors nor names.
//!
//! Each test runs for `MOCHI_KILL_SECONDS` (2 by default, a minute in `cargo xtask test`), in a process of its own, so that
//! what it counts is its own.

use margo_rs::bulk::{BulkDescriptor, BulkError, Permission};
use margo_rs::codec::Blob;
use margo_rs::{Blame, CallError, Endpoint, Engine, Rpc, Wait};
use mochi_test_support::{Process, Watchdog, comes_to, descriptors, mappings, say};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// Seconds that each test runs.
const SECONDS: &str = "MOCHI_KILL_SECONDS";
/// Where sockets of `native+sm` are.
const SM_DIR: &str = "MOCHI_SM_DIR";
/// The region that the process exposes.
const REGION: Rpc<(), BulkDescriptor> = Rpc::new("region");
const ECHO: Rpc<Blob, Blob> = Rpc::new("echo");
const LONG: Duration = Duration::from_secs(100);
/// Bytes of a region.
const SIZE: usize = 8 << 20;
/// Killed before what survives is looked at for the first time: it allocates what it keeps.
const WARM: u64 = 8;
/// What the survivor's memory may come and go by, in bytes, whatever the number of rounds: the allocator keeps some of what
/// each thread has freed. The fewest rounds would lose three times as much, if each lost its regions.
const MEMORY_SLACK: u64 = 6 * SIZE as u64;
/// What its mappings may: threads that come and go have each a few.
const MAPPINGS_SLACK: usize = 40;

const TCP: &str = "tcp";
const NODE: &str = "node";
const SM: &str = "sm";

#[test]
fn owners_over_tcp() {
    survive("owners", TCP);
}

#[test]
fn owners_over_tcp_on_one_node() {
    survive("owners", NODE);
}

#[test]
fn owners_over_shared_memory() {
    survive("owners", SM);
}

#[test]
fn initiators_over_tcp() {
    survive("initiators", TCP);
}

#[test]
fn initiators_over_tcp_on_one_node() {
    survive("initiators", NODE);
}

#[test]
fn initiators_over_shared_memory() {
    survive("initiators", SM);
}

/// Runs the survivor, which does the killing and says what it saw.
fn survive(killed: &str, transport: &str) {
    let seconds: u64 = std::env::var(SECONDS).map_or(2, |text| text.parse().expect("a number of seconds"));
    let directory = std::env::temp_dir().join(format!("kills-{}-{killed}-{transport}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(SM_DIR, &directory);
    let mut survivor = Process::unheard(command, &format!("survive {killed} {transport} {seconds}"));
    let said = survivor.next_line_within(Duration::from_secs(seconds) + 2 * LONG);
    let status = survivor.wait();
    let _ = std::fs::remove_dir_all(&directory);
    println!("{killed} over {transport}: {}", said.as_deref().unwrap_or("nothing said"));
    assert!(status.success(), "the survivor failed; it says above why");
}

/// Not a test of its own: what a process that a test starts does.
#[test]
fn role() {
    let Some(role) = mochi_test_support::role() else { return };
    let words: Vec<&str> = role.split(' ').collect();
    match words[..] {
        ["survive", killed, transport, seconds] => {
            let seconds = Duration::from_secs(seconds.parse().unwrap());
            let _watchdog = Watchdog::start(role.clone(), seconds + LONG);
            say(&if killed == "owners" {
                outlive_owners(transport, seconds)
            } else {
                outlive_initiators(transport, seconds)
            });
        }
        ["own", transport] => {
            let _watchdog = Watchdog::start(role.clone(), LONG);
            let server = listen(transport);
            let region = server.expose(vec![7; SIZE], Permission::ReadWrite).unwrap();
            let descriptor = region.descriptor().clone();
            server.register(REGION, move |_, ()| std::future::ready(Ok(descriptor.clone()))).unwrap();
            say(&format!("{} {}", server.address(), names().collect::<Vec<_>>().join(" ")));
            server.wait().wait();
        }
        ["move", transport, address] => {
            let _watchdog = Watchdog::start(role.clone(), LONG);
            let client = connect(transport);
            let to = client.lookup(address).wait().unwrap();
            say("moving");
            // Whatever becomes of the server, it ends by being killed.
            let remote = to.call(REGION, &()).wait().unwrap();
            let [mut pulled, mut pushed] = [(); 2].map(|()| vec![7; SIZE]);
            thread::scope(|scope| {
                scope.spawn(|| call_on(&to));
                scope.spawn(|| move_on(&client, &to, &remote, true, &mut pulled));
                move_on(&client, &to, &remote, false, &mut pushed);
            });
        }
        _ => panic!("no such role"),
    }
    std::process::exit(0);
}

fn protocol(transport: &str) -> &'static str {
    if transport == SM { "native+sm" } else { "native+tcp" }
}

fn listen(transport: &str) -> Engine {
    let address = if transport == SM { "native+sm" } else { "native+tcp://127.0.0.1" };
    let server = Engine::builder(address).same_node(transport == NODE).rpc_threads(2).listen().wait().unwrap();
    server.register(ECHO, |_, blob| async move { Ok(blob) }).unwrap();
    server
}

fn connect(transport: &str) -> Engine {
    Engine::builder(protocol(transport)).same_node(transport == NODE).connect().unwrap()
}

/// Calls of several sizes until one fails.
fn call_on(to: &Endpoint) -> CallError {
    for size in [0, 100, 40_000, 1 << 20].into_iter().cycle() {
        let blob = Blob(vec![7; size]);
        match to.call(ECHO, &blob).timeout(LONG).wait() {
            Ok(came) => assert!(came == blob),
            Err(error) => return error,
        }
    }
    unreachable!("a cycle has no end")
}

/// Transfers in one direction until one fails, from and to `memory`.
fn move_on(client: &Engine, to: &Endpoint, remote: &BulkDescriptor, pulls: bool, memory: &mut Vec<u8>) -> BulkError {
    let here = client.stage(std::mem::take(memory)).unwrap();
    let error = loop {
        let moved = if pulls { to.pull(remote, &here) } else { to.push(&here, remote) };
        if let Err(error) = moved.timeout(LONG).wait() {
            break error;
        }
    };
    // The memory is back at once, whole.
    *memory = here.into_inner().wait();
    assert_eq!(memory.len(), SIZE);
    error
}

/// Random moments (xorshift); another sequence in each run.
struct Moments(u64);

impl Moments {
    fn new() -> Self {
        Self(u64::from(std::process::id()) << 32 | 0x9E37_79B9)
    }

    fn below(&mut self, end: Duration) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        end.mul_f64((self.0 >> 11) as f64 / (1u64 << 53) as f64)
    }
}

/// What this process holds.
#[derive(Debug)]
struct Holdings {
    descriptors: usize,
    mappings: usize,
    /// Resident memory in bytes.
    memory: u64,
}

impl Holdings {
    fn now() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        Self {
            descriptors: descriptors("self").len(),
            mappings: mappings("self").len(),
            memory: line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024,
        }
    }

    /// Ends when nothing is left that was not there before; the watchdog ends a wait in vain.
    fn assert_flat_since(before: &Self) -> Self {
        let begun = Instant::now();
        loop {
            let now = Self::now();
            let shared = mappings("self").iter().filter(|it| it.name.contains("memfd:mochi")).count();
            if now.descriptors <= before.descriptors
                && now.mappings <= before.mappings + MAPPINGS_SLACK
                && now.memory <= before.memory + MEMORY_SLACK
                && shared == 0
            {
                return now;
            }
            assert!(begun.elapsed() < LONG / 2, "{before:?} before, {now:?} now, {shared} shared segments");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The names of this process's sockets in the abstract name space.
fn names() -> impl Iterator<Item = String> {
    let own: HashSet<String> = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| Some(std::fs::read_link(entry.ok()?.path()).ok()?.to_str()?.to_owned()))
        .collect();
    let all = std::fs::read_to_string("/proc/net/unix").unwrap();
    let owned = all.lines().filter_map(move |line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [.., inode, name] = fields[..] else { return None };
        (name.starts_with('@') && own.contains(&format!("socket:[{inode}]"))).then(|| name.to_owned())
    });
    owned.collect::<Vec<_>>().into_iter()
}

/// Neither sockets nor files nor names are left of the processes that were killed.
fn assert_no_leftovers(names: &HashSet<String>) {
    // A socket of `native+sm` is a file; the next server to start removes those of the dead.
    drop(Engine::listen("native+sm").wait().unwrap());
    let user = format!("mochi-sm-{}", rustix::process::geteuid().as_raw());
    let sockets = Path::new(&std::env::var(SM_DIR).unwrap()).join(user);
    comes_to("no socket is left", || std::fs::read_dir(&sockets).unwrap().collect::<Vec<_>>(), Vec::is_empty);
    let shared: Vec<PathBuf> =
        std::fs::read_dir("/dev/shm").into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    assert!(shared.iter().all(|path| !path.to_string_lossy().contains("mochi")), "{shared:?}");
    let left = std::fs::read_to_string("/proc/net/unix").unwrap();
    assert!(left.lines().all(|line| line.split_whitespace().last().is_none_or(|name| !names.contains(name))));
}

/// Calls and moves data of one process after the other, all of which are killed.
fn outlive_owners(transport: &str, time: Duration) -> String {
    let client = connect(transport);
    let (begun, mut moments) = (Instant::now(), Moments::new());
    let (mut rounds, mut cut, mut early, mut settled) = (0, 0, 0, None);
    let mut known = HashSet::new();
    let [mut pulled, mut pushed] = [(); 2].map(|()| vec![7; SIZE]);
    while begun.elapsed() < time || rounds <= 2 * WARM {
        let mut owner = Process::start(&format!("own {transport}"));
        let says = std::mem::take(&mut owner.says);
        let (address, names) = says.split_once(' ').unwrap();
        assert_eq!(names.contains("@mochi-rs-"), transport == NODE);
        known.extend(names.split(' ').filter(|name| !name.is_empty()).map(str::to_owned));
        let after = moments.below(Duration::from_millis(40));
        let killer = thread::spawn(move || {
            thread::sleep(after);
            owner.kill();
        });
        let ended = client.lookup(address).wait().ok().and_then(|to| {
            let remote = to.call(REGION, &()).timeout(LONG).wait().ok()?;
            Some(thread::scope(|scope| {
                let calls = scope.spawn(|| call_on(&to));
                let pulls = scope.spawn(|| move_on(&client, &to, &remote, true, &mut pulled));
                let push = move_on(&client, &to, &remote, false, &mut pushed);
                (calls.join().unwrap(), [pulls.join().unwrap(), push])
            }))
        });
        match ended {
            None => early += 1,
            Some((called, moved)) => {
                assert_eq!(called.blame(), Blame::Network, "{called:?}");
                for error in moved {
                    assert_eq!(error.blame(), Blame::Network, "{error:?}");
                    cut += u32::from(matches!(error, BulkError::ConnectionLost { .. }));
                }
            }
        }
        killer.join().unwrap();
        comes_to("nothing is under way", || client.load(), |load| (load.calls, load.links, load.regions) == (0, 0, 0));
        rounds += 1;
        if rounds == WARM {
            settled = Some(Holdings::now());
        }
    }
    assert!(cut > 0, "no transfer was under way");
    let before = settled.expect("enough rounds");
    let after = Holdings::assert_flat_since(&before);
    assert_no_leftovers(&known);
    format!("{rounds} killed, {early} of them before they answered, {cut} transfers cut; {before:?} then {after:?}")
}

/// Serves processes that call and move data, one after the other, all of which are killed.
fn outlive_initiators(transport: &str, time: Duration) -> String {
    let server = listen(transport);
    let region = server.expose(vec![7; SIZE], Permission::ReadWrite).unwrap();
    let descriptor = region.descriptor().clone();
    server.register(REGION, move |_, ()| std::future::ready(Ok(descriptor.clone()))).unwrap();
    let role = format!("move {transport} {}", server.address());
    let (begun, mut moments) = (Instant::now(), Moments::new());
    let (mut rounds, mut linked, mut settled) = (0, 0, None);
    while begun.elapsed() < time || rounds <= 2 * WARM {
        // Every third is not waited for, and so killed while it starts, connects, or shakes hands.
        let mut initiator = if rounds % 3 == 0 {
            Process::unheard(Command::new(std::env::current_exe().unwrap()), &role)
        } else {
            Process::start(&role)
        };
        thread::sleep(moments.below(Duration::from_millis(40)));
        linked += u32::from(server.load().links > 0);
        initiator.kill();
        comes_to(
            "no connection is left, and no request is left",
            || server.load(),
            |load| load.links == 0 && load.requests == 0,
        );
        rounds += 1;
        if rounds == WARM {
            settled = Some(Holdings::now());
        }
    }
    assert!(linked > 0, "none was connected");
    let before = settled.expect("enough rounds");
    let after = Holdings::assert_flat_since(&before);
    assert!(region.into_inner().wait().iter().all(|byte| *byte == 7));
    drop(server);
    assert_no_leftovers(&HashSet::new());
    format!("{rounds} killed, {linked} of them connected; {before:?} then {after:?}")
}
