//! The command lines of the examples.

use clap::Parser;
use margo_rs::Address;

/// Where the socket of munged is looked for.
const MUNGE: &str = "MUNGE_SOCKET names the socket of munged, if it is not libmunge's own.";

/// The command line of a server. Wrong arguments end the program with the usage on standard error and status 2.
#[derive(Parser, Debug)]
#[command(about = "Serves users whom MUNGE vouches for; what this stage teaches is at the top of its source", after_help = MUNGE)]
pub struct ServerArguments {
    /// Protocol to listen on: `tcp` for all to reach, `tcp://127.0.0.1` for this host alone
    pub protocol: Address,
}

/// The command line of a client. Wrong arguments end the program with the usage on standard error and status 2.
#[derive(Parser, Debug)]
#[command(about = "Authenticates by MUNGE at the server of this stage, and calls it", after_help = MUNGE)]
pub struct ClientArguments {
    /// Address of the server, as it printed it
    pub address: Address,

    /// User the server runs as: nobody else can then open the credential
    #[arg(long, value_name = "UID")]
    pub server_uid: Option<u32>,
}

impl ServerArguments {
    /// Reads the command line.
    pub fn read() -> Self {
        Self::parse()
    }
}

impl ClientArguments {
    /// Reads the command line.
    pub fn read() -> Self {
        Self::parse()
    }
}
