//! The process that is called: it echoes, has memory for transfers, and tells what it takes.

use std::collections::VecDeque;
use std::fs;
use std::future;
use std::path::PathBuf;
use std::sync::Mutex;

use margo_rs::bulk::{BulkDescriptor, Memory, Permission, Region};
use margo_rs::codec::Blob;
use margo_rs::{Engine, Pool, Rpc};
use mochi_auth::AuthServer;
use mochi_rs::program::{self, Outcome};
use serde::{Deserialize, Serialize};

use super::calls::auth::{self, Mechanism};
use super::target::{SAME_NODE, listen_address};
use super::{Handlers, Waiting, machine, process};

pub(super) const ECHO: Rpc<Blob, Blob> = Rpc::new("bench_echo");
/// Has the server expose so many bytes: a vector if `true`, else memory of the engine's.
pub(super) const REGION: Rpc<(u64, bool), BulkDescriptor> = Rpc::new("bench_region");
pub(super) const STATE: Rpc<(), State> = Rpc::new("bench_state");

/// Largest region, in bytes.
const REGION_MAX: u64 = 64 << 20;
/// Regions that there are at a time; the oldest goes.
const REGIONS: usize = 4;

/// What a server has to show.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct State {
    /// Its memory that is in use, as the kernel counts it (`VmRSS`), in bytes.
    pub(super) resident: u64,
    /// Open sessions.
    pub(super) sessions: u64,
    /// Files that it has open.
    pub(super) files: u64,
}

impl State {
    /// This process's own.
    pub(super) fn here(sessions: u64) -> Option<Self> {
        let files = fs::read_dir("/proc/self/fd").ok()?.count() as u64;
        resident().map(|resident| Self { resident, sessions, files })
    }
}

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Where to listen: `native+tcp` is the loopback interface, `native+tcp://eth0` another one; clients of this node stay on
    /// TCP, too
    #[arg(default_value = "native+tcp")]
    address: String,

    /// How to wait
    #[arg(long, value_enum, default_value_t = Waiting::Adaptive)]
    progress: Waiting,

    /// Where handlers run
    #[arg(long, value_enum, default_value_t = Handlers::Primary)]
    handlers: Handlers,

    /// Processor to stay on
    #[arg(long, value_name = "PROCESSOR")]
    pin: Option<usize>,

    /// Take authenticated sessions too. The key of `key`, the default, is the same everywhere: it keeps nobody out
    #[arg(long, value_enum, value_name = "MECHANISM", num_args = 0..=1, require_equals = true, default_missing_value = "key")]
    auth: Option<Mechanism>,

    /// Socket of munged, for `--auth=munge`
    #[arg(long, value_name = "PATH", requires = "auth")]
    munge_socket: Option<PathBuf>,

    /// Print the address alone, and end with the process that started this one
    #[arg(long, hide = true)]
    child: bool,
}

/// Serves until it is stopped or, started by a measurement, until that goes away. The engine and its pool are started on
/// this thread, so they stay where it is pinned.
pub(super) fn run(arguments: &Arguments) -> Outcome {
    super::files::raise_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if !arguments.child {
        return runtime.block_on(async {
            let server = start(arguments).await?;
            program::serve_until_stopped(&server.engine).await
        });
    }
    process::end_with_parent()?;
    let started = runtime.block_on(start(arguments));
    let _server = process::announce(started, |server| server.engine.address().to_string());
    runtime.block_on(future::pending())
}

struct Server {
    engine: Engine,
    _auth: Option<AuthServer>,
}

async fn start(arguments: &Arguments) -> Outcome<Server> {
    if let Some(cpu) = arguments.pin {
        machine::pin(cpu)?;
    }
    let address = listen_address(&arguments.address)?;
    let same_node = arguments.address == SAME_NODE;
    let mut builder = Engine::builder(&address).progress(arguments.progress.progress()).same_node(same_node);
    if arguments.handlers.xstreams() > 0 {
        builder = builder.rpc_pool(Pool::argobots("bench", arguments.handlers.xstreams())?);
    }
    let engine = builder.listen().await?;
    engine.register(ECHO, |_request, payload| async move { Ok(payload) })?;
    expose_on_request(&engine)?;
    let auth = match arguments.auth {
        Some(mechanism) => Some(auth::serve(&engine, mechanism, arguments.munge_socket.as_deref()).await?),
        None => None,
    };
    let counted = auth.as_ref().map(AuthServer::admin);
    engine.register(STATE, move |_request, ()| {
        let sessions = counted.as_ref().map_or(0, |admin| admin.counts().sessions as u64);
        let state = State::here(sessions);
        async move { state.ok_or_else(|| "its memory is not known".into()) }
    })?;
    Ok(Server { engine, _auth: auth })
}

fn expose_on_request(engine: &Engine) -> Outcome {
    let here = engine.clone();
    let exposed: Mutex<VecDeque<Region<Box<dyn Memory>>>> = Mutex::default();
    engine.register(REGION, move |_request, (size, is_vector): (u64, bool)| {
        let region = match size {
            0..=REGION_MAX => {
                here.expose(memory(&here, size as usize, is_vector), Permission::ReadWrite).map_err(Into::into)
            }
            _ => Err("too large a region".into()),
        };
        let descriptor = region.map(|region| {
            let descriptor = region.descriptor().clone();
            let mut exposed = exposed.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            exposed.push_back(region);
            if exposed.len() > REGIONS {
                exposed.pop_front();
            }
            descriptor
        });
        async move { descriptor }
    })?;
    Ok(())
}

/// Memory for transfers: a vector, or of the engine's.
pub(super) fn memory(engine: &Engine, size: usize, is_vector: bool) -> Box<dyn Memory> {
    if is_vector {
        return Box::new(vec![0xa5; size]);
    }
    let mut memory = engine.allocate(size);
    memory.fill(0xa5);
    Box::new(memory)
}

/// Memory of this process that is in use, in bytes.
fn resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_written_is_counted() {
        let before = resident().unwrap();
        let much = vec![1_u8; 64 << 20];
        let after = resident().unwrap();
        assert!(std::hint::black_box(&much).len() as u64 / 2 < after - before);
    }
}
