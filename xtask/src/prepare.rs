//! What a machine needs besides Rust, and how it gets it on Debian and Ubuntu.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::process::getuid;

use crate::Outcome;

/// Something that is not Rust and that the build or the tests need.
pub(crate) struct Need {
    what: &'static str,
    packages: &'static [&'static str],
    present: fn() -> bool,
}

/// What the build and the demo need.
pub(crate) const TO_BUILD: &[Need] = &[
    Need { what: "a C compiler and linker", packages: &["gcc", "libc6-dev"], present: || program("cc").is_some() },
    Need { what: "pkg-config", packages: &["pkg-config"], present: || program("pkg-config").is_some() },
    Need { what: "libmunge with its headers", packages: &["libmunge-dev"], present: libmunge },
    Need {
        what: "the MUNGE daemon and tools",
        packages: &["munge"],
        present: || ["munged", "munge", "unmunge"].iter().all(|name| program(name).is_some()),
    },
];

/// What the fuzz targets need on top of that.
pub(crate) const TO_FUZZ: &[Need] =
    &[Need { what: "a C++ compiler (libFuzzer is C++)", packages: &["g++"], present: || program("c++").is_some() }];

/// Installs what is missing, where this user may; otherwise the error holds the command to run.
pub(crate) fn install(needs: &[&[Need]]) -> Outcome {
    let missing = missing(needs);
    if missing.is_empty() {
        return Ok(());
    }
    let what: Vec<&str> = missing.iter().map(|need| need.what).collect();
    let packages: Vec<&str> = missing.iter().flat_map(|need| need.packages).copied().collect();
    say!("Missing here: {}.", what.join(", "));
    if program("apt-get").is_none() {
        return Err(format!(
            "this machine has no apt-get; install by its own means what Debian calls: {}",
            packages.join(" ")
        )
        .into());
    }
    let privilege: &[&str] = if getuid().is_root() {
        &[]
    } else if sudo_asks_nothing() {
        &["sudo", "-n"]
    } else {
        return Err(format!(
            "may not install packages as this user; run this, then try again:\n  \
             sudo apt-get update && sudo apt-get install -y --no-install-recommends {}",
            packages.join(" ")
        )
        .into());
    };
    apt(privilege, &["update"])?;
    apt(privilege, &[&["install", "-y", "--no-install-recommends"], packages.as_slice()].concat())?;
    let still: Vec<&str> = self::missing(needs).iter().map(|need| need.what).collect();
    if still.is_empty() { Ok(()) } else { Err(format!("apt-get succeeded, yet missing: {}", still.join(", ")).into()) }
}

fn missing<'a>(needs: &[&'a [Need]]) -> Vec<&'a Need> {
    let all = needs.iter().copied().flatten();
    all.filter(|need| !(need.present)()).collect()
}

/// The path of a program of this name; also looks where daemons live, which is not on every user's `PATH`.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let daemons = ["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(daemons).map(|directory| directory.join(name)).find(|path| path.is_file())
}

fn libmunge() -> bool {
    silently("pkg-config", &["--exists", "munge"])
}

fn sudo_asks_nothing() -> bool {
    program("sudo").is_some() && silently("sudo", &["-n", "true"])
}

fn silently(name: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(name);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn apt(privilege: &[&str], arguments: &[&str]) -> Outcome {
    // `env` because sudo drops the variable otherwise.
    let words = [privilege, &["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"], arguments].concat();
    say!("$ {}", words.join(" "));
    let status = Command::new(words[0]).args(&words[1..]).stdin(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(format!("`{}` failed ({status})", words.join(" ")).into()) }
}
