//! The command line of `full_server`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{CommandFactory, Parser, error::ErrorKind};
use margo_rs::{Address, Builder, Engine};
use mochi_auth::mechanism::key_file::{Key, KeyRing};
use mochi_auth::protocol::Protection;
use mochi_auth::{AuthServer, AuthServerBuilder, Identity, Rule};

use super::Mechanism;
use crate::program::Outcome;
use crate::stages::munge_at;

/// The group of whom no group is known: that of nobody, by the number Linux gives it.
const NO_GROUP: u32 = 65534;

/// The command line of `full_server`. Wrong arguments end the program with the usage on standard error and status 2.
#[derive(Parser, Debug)]
#[command(
    name = "full_server",
    about = "Greets users who have authenticated",
    after_help = "Without --allow-uid, --allow-gid and --allow-group only the user who runs the server may call it.\n\
                  The audit log goes to standard error; MOCHI_LOG=warn leaves only refusals in it."
)]
pub struct FullServerArguments {
    /// Protocol to listen on: `tcp` for all to reach, `tcp://127.0.0.1` for this host alone
    pub protocol: Address,

    /// Configuration of the engine, as JSON: limits, threads, options of Mercury
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,

    /// How callers may prove who they are, `munge,key` for both: by keys if any are given, else by MUNGE
    #[arg(long, value_delimiter = ',')]
    mechanism: Vec<Mechanism>,

    /// Socket of munged, if not the one at MUNGE_SOCKET or libmunge's own
    #[arg(long, value_name = "PATH")]
    munge_socket: Option<PathBuf>,

    /// A key and whose it is: this user's if no UID follows, in no group if no GID does; may be repeated
    #[arg(long, value_name = "PATH[=UID[:GID]]", value_parser = keyholder)]
    key_file: Vec<Keyholder>,

    /// Name of the service besides its address, for clients that reach it by another one
    #[arg(long, value_name = "NAME")]
    service: Option<String>,

    /// End sessions after so long without a call
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    idle: Option<u32>,

    /// End sessions so long after their handshake, used or not
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    lifetime: Option<u32>,

    /// Let this user call; may be repeated
    #[arg(long, value_name = "UID")]
    allow_uid: Vec<u32>,

    /// Let users of this group call, by its number; may be repeated
    #[arg(long, value_name = "GID")]
    allow_gid: Vec<u32>,

    /// Let members of this group call, by its name; may be repeated
    #[arg(long, value_name = "NAME")]
    allow_group: Vec<String>,

    /// Let this user list the sessions; may be repeated, without it nobody may
    #[arg(long, value_name = "UID")]
    operator_uid: Vec<u32>,

    /// Do not encrypt, only protect from changes: for sites that must not encrypt
    #[arg(long)]
    integrity_only: bool,
}

/// A key file, and who holds the key.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Keyholder {
    path: PathBuf,
    identity: Identity,
}

impl FullServerArguments {
    /// Reads the command line.
    pub fn read() -> Self {
        let arguments = Self::parse();
        let by_key = arguments.takes(Mechanism::Key);
        if by_key == arguments.key_file.is_empty() {
            let (kind, message) = match by_key {
                true => (
                    ErrorKind::MissingRequiredArgument,
                    "--mechanism key needs --key-file PATH; mochi keygen makes one",
                ),
                false => (ErrorKind::ArgumentConflict, "--key-file needs --mechanism munge,key, or none named"),
            };
            Self::command().error(kind, message).exit();
        }
        arguments
    }

    /// An engine as these arguments say, not started yet.
    ///
    /// # Errors
    /// The configuration cannot be read, or something in it is wrong.
    pub fn engine(&self) -> Outcome<Builder> {
        let engine = Engine::builder(&self.protocol);
        let Some(path) = &self.config else { return Ok(engine) };
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("the configuration {} cannot be read: {error}", path.display()))?;
        Ok(engine.config_json(&text).map_err(|error| format!("{}: {error}", path.display()))?)
    }

    /// Authentication as these arguments say. Reads the key files, and may ask the host's name services for groups.
    ///
    /// # Errors
    /// A key file cannot be used, there is no such group, or the path of the socket cannot be one.
    pub fn auth(&self) -> Outcome<AuthServerBuilder> {
        let mut auth = AuthServer::builder().rule(self.users()?);
        if self.takes(Mechanism::Munge) {
            auth = auth.munge(munge_at(self.munge_socket.as_deref())?);
        }
        if self.takes(Mechanism::Key) {
            let mut keys = KeyRing::new();
            for Keyholder { path, identity } in &self.key_file {
                keys.add(Key::load(path)?, *identity)?;
            }
            auth = auth.key_ring(keys);
        }
        if let Some(service) = &self.service {
            auth = auth.service(service);
        }
        if let Some(seconds) = self.idle {
            auth = auth.idle(Duration::from_secs(seconds.into()));
        }
        if let Some(seconds) = self.lifetime {
            auth = auth.lifetime(Duration::from_secs(seconds.into()));
        }
        if self.integrity_only {
            auth = auth.protections(&[Protection::IntegrityOnly]);
        }
        Ok(auth)
    }

    /// Who may list the sessions.
    pub fn operators(&self) -> Rule {
        self.operator_uid.iter().fold(Rule::nobody(), |rule, uid| rule.or(Rule::uid(*uid)))
    }

    /// Who may be greeted.
    fn users(&self) -> Outcome<Rule> {
        if self.allow_uid.is_empty() && self.allow_gid.is_empty() && self.allow_group.is_empty() {
            return Ok(Rule::uid(Identity::own().uid));
        }
        let uids = self.allow_uid.iter().map(|uid| Rule::uid(*uid));
        let gids = self.allow_gid.iter().map(|gid| Rule::gid(*gid));
        let mut users = uids.chain(gids).fold(Rule::nobody(), Rule::or);
        for name in &self.allow_group {
            users = users.or(Rule::group(name)?);
        }
        Ok(users)
    }

    fn takes(&self, mechanism: Mechanism) -> bool {
        if self.mechanism.is_empty() {
            let implied = if self.key_file.is_empty() { Mechanism::Munge } else { Mechanism::Key };
            return mechanism == implied;
        }
        self.mechanism.contains(&mechanism)
    }
}

/// Reads `PATH`, `PATH=UID` or `PATH=UID:GID`.
fn keyholder(text: &str) -> Result<Keyholder, String> {
    let Some((path, ids)) = text.rsplit_once('=') else {
        return Ok(Keyholder { path: text.into(), identity: Identity::own() });
    };
    let number = |text: &str| {
        text.parse().map_err(|_| format!("{text:?} is not a uid or gid; write PATH=UID or PATH=UID:GID, as numbers"))
    };
    let (uid, gid) = match ids.split_once(':') {
        Some((uid, gid)) => (number(uid)?, number(gid)?),
        None => (number(ids)?, NO_GROUP),
    };
    Ok(Keyholder { path: path.into(), identity: Identity { uid, gid } })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(text: &str) -> (String, u32, u32) {
        let Keyholder { path, identity } = keyholder(text).expect("a keyholder");
        (path.display().to_string(), identity.uid, identity.gid)
    }

    #[test]
    fn a_key_is_its_users_or_whose_it_is_said_to_be() {
        let own = Identity::own();
        assert_eq!(holder("/k"), ("/k".to_owned(), own.uid, own.gid));
        assert_eq!(holder("/k=5"), ("/k".to_owned(), 5, NO_GROUP));
        assert_eq!(holder("/a=b/k=5:6"), ("/a=b/k".to_owned(), 5, 6));
        for wrong in ["/k=", "/k=alice", "/k=1:", "/k=-1", "/k=4294967296"] {
            assert!(keyholder(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn without_options_the_servers_user_alone_may_call() {
        let arguments = |words: &[&str]| FullServerArguments::parse_from([&["full_server", "tcp"], words].concat());
        let users = |words| format!("{:?}", arguments(words).users().expect("a rule"));
        assert_eq!(users(&[]), format!("uid {}", Identity::own().uid));
        assert_eq!(users(&["--allow-uid", "7", "--allow-gid", "8"]), "(uid 7 or gid 8)");
        let root = users(&["--allow-group", "root"]);
        assert!(root.starts_with("group root (gid 0, ") && root.ends_with(" listed in it)"), "{root}");
        assert!(arguments(&["--allow-group", "no such group"]).users().is_err());
        assert_eq!(format!("{:?}", arguments(&[]).operators()), "nobody");
    }
}
