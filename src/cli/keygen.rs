//! `mochi keygen`: a key file, for authentication where no munged is.

use std::path::PathBuf;

use mochi_auth::mechanism::key_file::Key;
use mochi_rs::program::{Outcome, print};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// File to write; it must not be there yet
    #[arg(short, long, value_name = "PATH", default_value = "mochi.key")]
    output: PathBuf,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let path = &arguments.output;
    let key = Key::random()?;
    key.create(path)?;
    let shown = path.display();
    print(format_args!("Key {} written to {shown}, for this user's eyes only (mode 0600)", key.id()))?;
    print(
        "Copy it, over a channel that nobody else can read, to a file of whoever is to hold it, and chmod 600 it there.",
    )?;
    print(format_args!("A server takes it with --key-file {shown}=UID:GID, a client with --key-file {shown};"))?;
    print("in a program: KeyRing::add and AuthServerBuilder::key_ring there, ConnectionBuilder::key here.")?;
    Ok(())
}
