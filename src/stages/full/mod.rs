//! Stage 4: what `full_server` and `full_client` agree on.

mod client_arguments;
mod recorder;
mod server_arguments;

use margo_rs::Rpc;
use mochi_auth::protocol::Protection;
use mochi_auth::{Caller, SessionInfo};
use serde::{Deserialize, Serialize};

pub use client_arguments::FullClientArguments;
pub use recorder::{Message, Recorder};
pub use server_arguments::FullServerArguments;

/// Whom the server takes the caller for. All who authenticated may ask.
pub const WHOAMI: Rpc<(), Me> = Rpc::new("whoami");

/// Takes a name, returns a greeting. For the server's users.
pub const GREET: Rpc<String, String> = Rpc::new("greet");

/// How often the caller was greeted under this name lately. For the server's users.
pub const GREETED: Rpc<String, u64> = Rpc::new("greeted");

/// Answers after so many milliseconds, at most [`NAP_MAX_MS`]. For the server's users.
pub const NAP: Rpc<u64, ()> = Rpc::new("nap");

/// The sessions of the server. For its operators.
pub const SESSIONS: Rpc<(), Vec<OpenSession>> = Rpc::new("sessions");

/// The longest nap.
pub const NAP_MAX_MS: u64 = 10_000;

/// How a client or a server proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mechanism {
    /// MUNGE credentials, made and checked by the munged of each host
    Munge,
    /// A key file that client and server both have; `mochi keygen` makes one
    Key,
}

/// What a server knows about a caller.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Me {
    /// The verified user.
    pub uid: u32,
    /// The verified group.
    pub gid: u32,
    /// What proved it.
    pub mechanism: String,
    /// Whether arguments and results are encrypted.
    pub encrypted: bool,
}

impl From<&Caller> for Me {
    fn from(caller: &Caller) -> Self {
        Self {
            uid: caller.uid(),
            gid: caller.gid(),
            mechanism: caller.mechanism().to_string(),
            encrypted: caller.protection() == Protection::Sealed,
        }
    }
}

/// One session of a server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OpenSession {
    /// What the audit log names it by.
    pub log_id: u64,
    /// Whose it is.
    pub uid: u32,
    /// Milliseconds since its handshake.
    pub age_ms: u64,
    /// Calls that run.
    pub running: u32,
}

impl From<&SessionInfo> for OpenSession {
    fn from(session: &SessionInfo) -> Self {
        Self {
            log_id: session.log_id(),
            uid: session.principal.identity.uid,
            age_ms: u64::try_from(session.age.as_millis()).unwrap_or(u64::MAX),
            running: session.running,
        }
    }
}
