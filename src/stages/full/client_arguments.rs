//! The command line of `full_client`.

use std::path::PathBuf;

use clap::{CommandFactory, Parser, error::ErrorKind};
use margo_rs::Address;
use mochi_auth::mechanism::key_file::Key;
use mochi_auth::protocol::Protection;
use mochi_auth::{Connection, ConnectionBuilder, Identity, OpenError};

use super::Mechanism;
use crate::program::Outcome;
use crate::stages::munge_at;

/// The command line of `full_client`. Wrong arguments end the program with the usage on standard error and status 2.
#[derive(Parser, Debug)]
#[command(
    name = "full_client",
    about = "Authenticates at a full_server, is greeted, and shows which calls are refused"
)]
pub struct FullClientArguments {
    /// Address of the server, as it printed it
    pub address: Address,

    /// How to prove who calls: the key if one is given, else MUNGE
    #[arg(long)]
    mechanism: Option<Mechanism>,

    /// Socket of munged, if not the one at MUNGE_SOCKET or libmunge's own
    #[arg(long, value_name = "PATH")]
    munge_socket: Option<PathBuf>,

    /// The key to prove; only its owner may be able to read the file
    #[arg(long, value_name = "PATH")]
    key_file: Option<PathBuf>,

    /// User the server must run as, if not this one; with a key, whoever else holds that is the server
    #[arg(long, value_name = "UID")]
    server_uid: Option<u32>,

    /// Name of the service, where the server is reached by another address than it printed
    #[arg(long, value_name = "NAME")]
    service: Option<String>,

    /// Do not encrypt, only protect from changes; the server must be started with this, too
    #[arg(long)]
    integrity_only: bool,
}

impl FullClientArguments {
    /// Reads the command line.
    pub fn read() -> Self {
        let arguments = Self::parse();
        if arguments.mechanism() == Mechanism::Key && arguments.key_file.is_none() {
            let message = "--mechanism key needs --key-file PATH; mochi keygen makes one";
            Self::command().error(ErrorKind::MissingRequiredArgument, message).exit();
        }
        if arguments.mechanism() == Mechanism::Munge && arguments.key_file.is_some() {
            let message = "--key-file is not for --mechanism munge; leave out one of the two";
            Self::command().error(ErrorKind::ArgumentConflict, message).exit();
        }
        arguments
    }

    /// The name of the service that is meant: the one given, or the server's address.
    pub fn service(&self) -> Option<&str> {
        self.service.as_deref()
    }

    /// How to prove who calls, and which server is meant. Each call makes a new one.
    ///
    /// # Errors
    /// The key file cannot be used, or the path of the socket cannot be one.
    pub fn connection(&self) -> Outcome<ConnectionBuilder> {
        let mut builder = match &self.key_file {
            Some(path) => Connection::builder().key(Key::load(path)?),
            None => Connection::builder().munge(munge_at(self.munge_socket.as_deref())?),
        };
        if let Some(uid) = self.server_uid {
            builder = builder.server_uid(uid);
        }
        if let Some(service) = &self.service {
            builder = builder.service(service);
        }
        if self.integrity_only {
            builder = builder.protection(Protection::IntegrityOnly);
        }
        Ok(builder)
    }

    /// Why there is no session, with what was meant: a server tells nobody why it refuses.
    pub fn explain(&self, error: &OpenError) -> String {
        match (error, self.mechanism()) {
            (OpenError::Refused(_), Mechanism::Munge) => {
                let uid = self.server_uid.unwrap_or_else(|| Identity::own().uid);
                format!("{error}; a server of uid {uid} was meant, --server-uid names another")
            }
            _ => error.to_string(),
        }
    }

    fn mechanism(&self) -> Mechanism {
        let implied = if self.key_file.is_some() { Mechanism::Key } else { Mechanism::Munge };
        self.mechanism.unwrap_or(implied)
    }
}
