//! The example programs.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The command of an example. Its credentials come from `socket`.
pub(crate) fn example(name: &str, arguments: &[&str], socket: &Path) -> Command {
    let mut command = Command::new(example_path(name));
    // A libfabric with PSM, as Debian's, ends the process at each signal otherwise, before it can end by itself.
    command.env("IPATH_NO_BACKTRACE", "1");
    command.args(arguments).env("MUNGE_SOCKET", socket).env_remove("MOCHI_LOG").env_remove("RUST_LOG");
    command
}

/// Where cargo puts the examples: beside the tool, in a directory of their own.
pub(crate) fn example_path(name: &str) -> PathBuf {
    let tool = Path::new(env!("CARGO_BIN_EXE_mochi"));
    let path = tool.parent().expect("the tool is in a directory").join("examples").join(name);
    assert!(path.exists(), "{} is missing: run `cargo build --examples` first", path.display());
    path
}

/// Makes `command` run as another user; only root may.
pub(crate) fn as_user(command: &mut Command, uid: u32, gid: u32) -> &mut Command {
    command.uid(uid).gid(gid)
}
