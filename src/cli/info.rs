//! `mochi info`: which protocols work on this machine with this build.

use margo_rs::{Address, Engine, ListenError};
use mochi_rs::program::{Outcome, print};
use serde::Serialize;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Print JSON for scripts
    #[arg(long)]
    json: bool,
}

/// A protocol that users of Margo know, or one of ours.
struct Protocol {
    name: &'static str,
    purpose: &'static str,
    /// What to try; nothing outside this host can see it.
    probe: &'static str,
}

const PROTOCOLS: &[Protocol] = &[
    Protocol { name: "native+tcp", purpose: "TCP, built in", probe: "native+tcp://127.0.0.1" },
    Protocol { name: "native+sm", purpose: "shared memory, built in", probe: "native+sm" },
    Protocol { name: "na+sm", purpose: "shared memory, by Mercury", probe: "na+sm" },
    Protocol { name: "ofi+tcp", purpose: "TCP, by libfabric", probe: "ofi+tcp://127.0.0.1" },
    Protocol { name: "ofi+verbs", purpose: "InfiniBand and RoCE, by libfabric", probe: "ofi+verbs" },
    Protocol { name: "ofi+cxi", purpose: "Slingshot, by libfabric", probe: "ofi+cxi" },
    Protocol { name: "ucx+all", purpose: "the transports of UCX", probe: "ucx+all" },
];

/// The short names that stand for one of the above.
const ALIASES: &[&str] = &["tcp", "sm"];

#[derive(Serialize)]
struct Report {
    version: &'static str,
    mercury: bool,
    argobots: bool,
    protocols: Vec<Row>,
    aliases: Vec<Alias>,
}

#[derive(Serialize)]
struct Row {
    protocol: &'static str,
    purpose: &'static str,
    works: bool,
    /// Why not, and what to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Serialize)]
struct Alias {
    name: &'static str,
    means: String,
}

pub(crate) async fn run(arguments: &Arguments) -> Outcome {
    let report = report().await?;
    if arguments.json {
        print(serde_json::to_string_pretty(&report)?)?;
        return Ok(());
    }
    let linked = |linked| if linked { "linked" } else { "not linked" };
    print(format_args!(
        "Mochi for Rust {}, Mercury {}, Argobots {}",
        report.version,
        linked(report.mercury),
        linked(report.argobots)
    ))?;
    for row in &report.protocols {
        let verdict = if row.works { "yes" } else { "no" };
        print(format_args!("  {:<12} {verdict:<4} {}", row.protocol, row.purpose))?;
    }
    for alias in &report.aliases {
        print(format_args!("`{}` means {} here.", alias.name, alias.means))?;
    }
    for (reason, protocols) in reasons(&report.protocols) {
        print(format_args!("{}: {reason}", protocols.join(", ")))?;
    }
    let is_told = |help| report.protocols.iter().filter_map(|row| row.reason.as_deref()).any(|it| it.contains(help));
    if !report.mercury && !is_told(mochi_sys::HOW_TO_INSTALL) {
        print(format_args!("Mercury: {}", mochi_sys::HOW_TO_INSTALL))?;
    }
    if !report.argobots {
        print(format_args!("Argobots: {}", mochi_sys::HOW_TO_INSTALL_ARGOBOTS))?;
    }
    Ok(())
}

/// The protocols that do not work, by their reason: most share one, which is told once.
fn reasons(rows: &[Row]) -> Vec<(&str, Vec<&str>)> {
    let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
    for row in rows {
        let Some(reason) = row.reason.as_deref() else {
            continue;
        };
        match reasons.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, protocols)) => protocols.push(row.protocol),
            None => reasons.push((reason, vec![row.protocol])),
        }
    }
    reasons
}

async fn report() -> Outcome<Report> {
    let mut protocols = Vec::new();
    for protocol in PROTOCOLS {
        let reason = why_not(protocol).await;
        protocols.push(Row { protocol: protocol.name, purpose: protocol.purpose, works: reason.is_none(), reason });
    }
    let mut aliases = Vec::new();
    for name in ALIASES {
        let meaning: Address = name.parse()?;
        aliases.push(Alias { name, means: meaning.to_string() });
    }
    let version = env!("CARGO_PKG_VERSION");
    let (mercury, argobots) = (mochi_sys::LINKED, mochi_sys::ARGOBOTS_LINKED);
    Ok(Report { version, mercury, argobots, protocols, aliases })
}

/// Starts a server for a moment, since nothing else shows as surely that the protocol works.
async fn why_not(protocol: &Protocol) -> Option<String> {
    match Engine::listen(protocol.probe).await {
        Ok(engine) => {
            engine.shutdown().await;
            None
        }
        Err(ListenError::Unsupported(unsupported)) => Some(unsupported.help),
        Err(error) => Some(error.to_string()),
    }
}
