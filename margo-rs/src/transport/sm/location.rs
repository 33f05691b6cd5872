//! What stands after `native+sm://`: the uid of the server's user and a name, and the socket that belongs to them.
//!
//! The socket of `native+sm://1000/4711-0` is `/tmp/mochi-sm-1000/4711-0`; `MOCHI_SM_DIR` names another directory than
//! `/tmp`, the same for servers and clients. The directory of each user belongs to that user, others may only pass
//! through it (mode 0711), and any user of the node may connect to the sockets in it (mode 0666). A directory that
//! somebody else has put in this place is not used.
//!
//! The uid in the address is what a client relies on: it asks the kernel whose socket it has connected to, and goes no
//! further if that is another user's. Names mean nothing more than which server of that user it is.

use crate::address::{Address, AddressError};
use crate::error::{ConnectError, ListenError};
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::net::SocketAddrUnix;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::socket;

/// The protocol's name.
pub(crate) const PROTOCOL: &str = "native+sm";

/// Names another place than [`DIRECTORY`].
const DIRECTORY_VARIABLE: &str = "MOCHI_SM_DIR";
const DIRECTORY: &str = "/tmp";
/// Longest name of a server, in bytes: with its directory it must fit into a socket's address.
const NAME_MAX: usize = 64;
/// Passing through is all that others need; nobody else can hold the lock then.
const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o711);
const SOCKET_MODE: Mode = Mode::from_raw_mode(0o666);
/// How the kernel shows root to a user namespace without one.
const OVERFLOW_UID: u32 = 65_534;
/// Time in which another process of the same user must have started its server.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// Tells the servers of this process apart.
static SERVERS: AtomicU32 = AtomicU32::new(0);

/// A location taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place<'a> {
    /// Our own user, if the location names none.
    pub(super) uid: u32,
    pub(super) name: &'a str,
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Splits `uid/name` and `name`.
fn split(location: &str) -> Result<Place<'_>, &'static str> {
    let (uid, name) = match location.split_once('/') {
        Some((uid, name)) => {
            let canonical = uid.bytes().all(|byte| byte.is_ascii_digit()) && (uid == "0" || !uid.starts_with('0'));
            let uid = uid.parse().ok().filter(|_| canonical);
            (uid.ok_or("expected a numeric user id before `/`")?, name)
        }
        None => (own_uid(), location),
    };
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if name.is_empty() || name.len() > NAME_MAX {
        return Err("a server's name has 1 to 64 characters");
    }
    if name.starts_with('.') || !name.bytes().all(allowed) {
        return Err("a server's name has letters, digits, `-`, `_` and `.`, and does not start with `.`");
    }
    Ok(Place { uid, name })
}

fn base() -> PathBuf {
    std::env::var_os(DIRECTORY_VARIABLE).map_or_else(|| DIRECTORY.into(), PathBuf::from)
}

fn directory_of(base: &Path, uid: u32) -> PathBuf {
    base.join(format!("mochi-sm-{uid}"))
}

/// The printed form.
pub(super) fn printed(uid: u32, name: &str) -> Address {
    Address::new(PROTOCOL, &format!("{uid}/{name}"))
}

/// The full address that a client means.
///
/// # Errors
/// It names no server.
pub(crate) fn resolve(address: &Address) -> Result<Address, ConnectError> {
    let place = place(address)?;
    Ok(printed(place.uid, place.name))
}

/// The server that an address names.
pub(super) fn place(address: &Address) -> Result<Place<'_>, ConnectError> {
    let malformed = |reason| AddressError { text: address.to_string(), reason };
    if address.location().is_empty() {
        return Err(malformed("it names no server: use the address that the server printed").into());
    }
    Ok(split(address.location()).map_err(malformed)?)
}

/// What the unlisted socket of an engine is called. It goes with the process.
pub(super) fn unlisted(instance: u64) -> Result<SocketAddrUnix, Errno> {
    SocketAddrUnix::new_abstract_name(format!("mochi-rs-{instance:016x}").as_bytes())
}

/// Where the socket of a server is.
pub(super) fn path(place: &Place<'_>) -> PathBuf {
    directory_of(&base(), place.uid).join(place.name)
}

/// A socket that others can find; its file goes with it.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) socket: OwnedFd,
    pub(super) address: Address,
    path: PathBuf,
    /// Device and number of the socket's file.
    file: (u64, u64),
    removed: AtomicBool,
}

impl Listener {
    /// Listens under the name in `address`, or one of its own making if there is none.
    pub(super) fn new(address: &Address) -> Result<Self, ListenError> {
        Self::new_in(&base(), address)
    }

    fn new_in(base: &Path, address: &Address) -> Result<Self, ListenError> {
        let refused = |reason: String| ListenError::Location { address: address.clone(), reason };
        let failed = |source: io::Error| ListenError::Io { address: address.clone(), source };
        let wanted = match address.location() {
            "" => None,
            location => Some(split(location).map_err(|reason| refused(reason.to_owned()))?),
        };
        let uid = own_uid();
        if let Some(other) = wanted.as_ref().map(|place| place.uid).filter(|other| *other != uid) {
            return Err(refused(format!("it belongs to uid {other}, and this process runs as uid {uid}")));
        }
        let directory = directory_of(base, uid);
        let hint = |what: String| {
            refused(format!("{what}; set {DIRECTORY_VARIABLE}, for servers and clients alike, to another directory"))
        };
        let lock = prepare(base, &directory, uid).map_err(hint)?;
        wait_for(&lock).map_err(failed)?;
        sweep(&lock, &directory);
        let mut chosen = wanted.map(|place| place.name.to_owned());
        let is_given = chosen.is_some();
        loop {
            let name = chosen
                .take()
                .unwrap_or_else(|| format!("{}-{}", std::process::id(), SERVERS.fetch_add(1, Ordering::Relaxed)));
            let path = directory.join(&name);
            match bind(&path) {
                Ok((socket, file)) => {
                    let address = printed(uid, &name);
                    return Ok(Self { socket, address, path, file, removed: AtomicBool::new(false) });
                }
                Err(Errno::ADDRINUSE) if is_given => return Err(ListenError::InUse { address: address.clone() }),
                // A process of the same number in another container.
                Err(Errno::ADDRINUSE) => {}
                Err(error) => return Err(failed(error.into())),
            }
        }
    }

    /// Listens under a name that is in no directory and that only this network namespace has, for clients that are told
    /// of it otherwise.
    ///
    /// # Errors
    /// The name is taken, or the process may not listen.
    pub(super) fn unlisted(instance: u64) -> Result<Self, Errno> {
        let socket = socket::listen(&unlisted(instance)?)?;
        let address = Address::new(PROTOCOL, "");
        Ok(Self { socket, address, path: PathBuf::new(), file: (0, 0), removed: AtomicBool::new(true) })
    }

    /// Takes the name back, for others to use.
    pub(super) fn remove(&self) {
        if !self.removed.swap(true, Ordering::AcqRel)
            && rustix::fs::lstat(&self.path).is_ok_and(|stat| identity(&stat) == self.file)
        {
            // Fails if somebody has cleaned up already.
            let _ = rustix::fs::unlink(&self.path);
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.remove();
    }
}

fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

/// Makes and checks the directory. Its descriptor is what starting servers lock.
fn prepare(base: &Path, directory: &Path, uid: u32) -> Result<OwnedFd, String> {
    let shown = directory.display();
    let around = rustix::fs::stat(base).map_err(|error| format!("{}: {error}", base.display()))?;
    let writable = around.st_mode & 0o022 != 0;
    let sticky = around.st_mode & 0o1000 != 0;
    if (writable && !sticky) || ![0, uid, OVERFLOW_UID].contains(&around.st_uid) {
        return Err(format!("others can remove what is in {}", base.display()));
    }
    match rustix::fs::mkdir(directory, DIRECTORY_MODE) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(format!("{shown} cannot be made: {error}")),
    }
    let check = |stat: &Stat| {
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Err(format!("{shown} is no directory"));
        }
        match stat.st_uid {
            owner if owner == uid => Ok(()),
            owner => Err(format!("{shown} belongs to uid {owner}")),
        }
    };
    // First without opening it: what is not ours may not let us.
    check(&rustix::fs::lstat(directory).map_err(|error| format!("{shown}: {error}"))?)?;
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(directory, flags, Mode::empty()).map_err(|error| format!("{shown}: {error}"))?;
    let stat = rustix::fs::fstat(&opened).map_err(|error| format!("{shown}: {error}"))?;
    check(&stat)?;
    if stat.st_mode & 0o7777 != DIRECTORY_MODE.as_raw_mode() {
        rustix::fs::fchmod(&opened, DIRECTORY_MODE).map_err(|error| format!("{shown}: {error}"))?;
    }
    Ok(opened)
}

/// Locks the directory until the descriptor is closed: between finding a dead socket and taking its name, nobody else
/// may do the same.
fn wait_for(directory: &OwnedFd) -> io::Result<()> {
    let end = Instant::now() + LOCK_PATIENCE;
    loop {
        match rustix::fs::flock(directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) if Instant::now() < end => std::thread::sleep(Duration::from_millis(1)),
            Err(Errno::WOULDBLOCK) => {
                return Err(io::Error::other("another server of this user is starting and does not end"));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Listens at `path`, in place of a dead process if there is one.
fn bind(path: &Path) -> Result<(OwnedFd, (u64, u64)), Errno> {
    let at = SocketAddrUnix::new(path)?;
    let socket = match socket::listen(&at) {
        Err(Errno::ADDRINUSE) if is_dead(path) => {
            rustix::fs::unlink(path)?;
            socket::listen(&at)?
        }
        result => result?,
    };
    let stat = rustix::fs::lstat(path)?;
    // The process's umask may have taken away what others need to connect.
    rustix::fs::chmod(path, SOCKET_MODE)?;
    Ok((socket, identity(&stat)))
}

/// Whether nobody listens at a socket any more. Only under the lock: one that is bound and not yet listening looks the
/// same.
fn is_dead(path: &Path) -> bool {
    let is_socket = rustix::fs::lstat(path).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Socket);
    is_socket && matches!(SocketAddrUnix::new(path).and_then(|at| socket::connect(&at)), Err(Errno::CONNREFUSED))
}

/// Removes sockets that processes have left behind which were killed. Names that somebody chose are left to whoever uses
/// them next.
fn sweep(directory: &OwnedFd, path: &Path) {
    let Ok(entries) = Dir::read_from(directory) else { return };
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().to_str() else { continue };
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let Some((pid, count)) = name.split_once('-') else { continue };
        if !is_number(pid) || !is_number(count) || Path::new("/proc").join(pid).exists() {
            continue;
        }
        if is_dead(&path.join(name)) {
            // Fails only if somebody else cleans up.
            let _ = rustix::fs::unlinkat(CWD, path.join(name), AtFlags::empty());
        }
    }
}

#[cfg(test)]
#[path = "location_tests.rs"]
mod tests;
