//! Key files: a 256-bit key that client and server both have in a file that only its owner can read.
//!
//! The file is one line: `hgrpc1-key:`, 64 lower-case hex digits, a newline. A key's id is derived from it, so that a
//! damaged file names a key that nobody knows.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::future::ready;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use zeroize::Zeroizing;

use super::peer_credentials::{OVERFLOW_ID, PeerCredentials};
use super::{Acceptor, ClientToken, Initiator, MechanismError, Principal, ServerIdentity, ServerProof, Step};
use crate::Identity;
use crate::clock::{self, NoRandom};
use crate::protocol::client::Answered;
use crate::protocol::kdf::{expand_label, extract, mac};
use crate::protocol::server::{Claim, Verified};
use crate::protocol::{MechanismId, Psk, Secret, Th1};

const PREFIX: &[u8] = b"hgrpc1-key:";
/// Bytes of a key file.
pub const FILE_LEN: usize = PREFIX.len() + 64 + 1;
/// Bytes of the token: key id, binder.
const TOKEN_LEN: usize = 16 + 32;

/// Why a key file was not loaded or written; each says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// It could not be opened, read or written.
    #[error("cannot use key file {}: {source}; check the path and its directories", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is a symbolic link.
    #[error("key file {} is a symbolic link; name the file itself", .0.display())]
    Symlink(PathBuf),
    /// It is a fifo, a device, a directory.
    #[error("key file {} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// It belongs to somebody else.
    #[error("key file {} belongs to uid {owner}, this process is uid {own}; use a file of your own", path.display())]
    Owner {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who asks.
        own: u32,
    },
    /// Others may read or write it.
    #[error("key file {} has mode {mode:04o}, open to others; run chmod 600, and make a new key if it was there long", path.display())]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is there already, and a new one was to be written.
    #[error("{} is there already and stays as it is; write the new key somewhere else", .0.display())]
    Exists(PathBuf),
    /// A directory above it is of somebody else, who could put another file in its place.
    #[error("key file {} lies below {}, which belongs to uid {owner}; keep it below directories of your own", path.display(), directory.display())]
    DirectoryOwner {
        /// The file.
        path: PathBuf,
        /// The directory.
        directory: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// Others may write into a directory above it, and so put another file in its place.
    #[error("key file {} lies below {} of mode {mode:04o}, where others may write; run chmod go-w, or keep it elsewhere", path.display(), directory.display())]
    DirectoryMode {
        /// The file.
        path: PathBuf,
        /// The directory.
        directory: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It has not the length of a key file.
    #[error("key file {} has {len} bytes, a key file has {FILE_LEN}; make one with mochi keygen", path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// Its length.
        len: u64,
    },
    /// It is no key file inside.
    #[error("{} is not a key file; make one with mochi keygen", .0.display())]
    Format(PathBuf),
    /// Two keys of a ring are the same.
    #[error("key {0} is named twice; give each identity a key of its own")]
    Twice(KeyId),
}

/// Why a client's token was refused. For the local log only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyRefused {
    /// The token has not the length of one.
    #[error("key-file token of {0} bytes")]
    Token(usize),
    /// Nobody has this key.
    #[error("unknown key id {0}")]
    UnknownKey(KeyId),
    /// The client does not hold the key, or the token is of another HELLO.
    #[error("wrong binder for key id {0}")]
    Binder(KeyId),
}

/// The public name of a key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct KeyId([u8; 16]);

impl std::fmt::Display for KeyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A key. Wiped on drop, no `Debug`.
pub struct Key {
    secret: Secret<32>,
    id: KeyId,
}

impl Key {
    /// From 32 random bytes.
    pub fn new(secret: Secret<32>) -> Self {
        let id: Secret<16> = expand_label(&extract(b"hgrpc1", secret.expose()), "key id", b"");
        Self { id: KeyId(*id.expose()), secret }
    }

    /// A fresh one.
    ///
    /// # Errors
    /// The system has no random bytes to give.
    pub fn random() -> Result<Self, NoRandom> {
        clock::random_secret().map(Self::new)
    }

    /// Its public name.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// Reads a key file.
    ///
    /// The file itself is no symbolic link; directories above it may be. Other names of the same file (hard links) do not
    /// matter: what they lead to is this user's, and nobody else's to read or write.
    ///
    /// # Errors
    /// Unless it is a regular file of this user that nobody else can read or write, with exactly a key in it; and unless all
    /// directories above it are this user's or root's, and nobody else can put another file in its place. A directory that
    /// others may write to is taken only with the sticky bit, as `/tmp` has it.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, KeyFileError> {
        Self::load_as(path.as_ref(), Identity::own().uid)
    }

    fn load_as(path: &Path, own: u32) -> Result<Self, KeyFileError> {
        let fail = |source: io::Error| KeyFileError::Io { path: path.to_owned(), source };
        // Not through a link, and not waiting for the writer of a fifo. Everything after is asked of the open file.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let real = real_path(path)?;
        let opened = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(&real);
        let mut file = opened.map_err(|source| match rustix::io::Errno::from_io_error(&source) {
            Some(rustix::io::Errno::LOOP) => KeyFileError::Symlink(path.to_owned()),
            _ => fail(source),
        })?;
        let metadata = file.metadata().map_err(fail)?;
        check_metadata(path, &metadata, own)?;
        check_directories(path, &real, own)?;
        let text = read_exactly(&mut file, path)?;
        parse(&text).map(Self::new).ok_or_else(|| KeyFileError::Format(path.to_owned()))
    }

    /// Writes a new key file, readable by its owner only. Never replaces a file.
    ///
    /// # Errors
    /// When there is a file already, it cannot be written, or [`Key::load`] would refuse it there for a directory above it:
    /// nothing is written then.
    pub fn create(&self, path: impl AsRef<Path>) -> Result<(), KeyFileError> {
        let path = path.as_ref();
        check_directories(path, &real_path(path)?, Identity::own().uid)?;
        let mut text = Zeroizing::new(Vec::with_capacity(FILE_LEN));
        text.extend_from_slice(PREFIX);
        for byte in self.secret.expose() {
            text.extend_from_slice(&[hex_digit(byte >> 4), hex_digit(byte & 15)]);
        }
        text.push(b'\n');
        let write = || {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            file.write_all(&text)?;
            file.sync_all()
        };
        write().map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => KeyFileError::Exists(path.to_owned()),
            _ => KeyFileError::Io { path: path.to_owned(), source },
        })
    }

    fn binder(&self, th1: &Th1) -> Secret<32> {
        #[cfg(test)]
        tests::BINDERS.set(tests::BINDERS.get() + 1);
        let key: Secret<32> = expand_label(&extract(b"hgrpc1", self.secret.expose()), "binder", b"");
        mac(key.expose(), &[th1.as_bytes()])
    }

    /// A copy, wiped like the original.
    fn psk(&self) -> Psk {
        Psk::shared(Secret::new(|copy| copy.copy_from_slice(self.secret.expose())))
    }
}

fn check_metadata(path: &Path, metadata: &std::fs::Metadata, own: u32) -> Result<(), KeyFileError> {
    if !metadata.is_file() {
        return Err(KeyFileError::NotAFile(path.to_owned()));
    }
    if metadata.uid() != own {
        return Err(KeyFileError::Owner { path: path.to_owned(), owner: metadata.uid(), own });
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(KeyFileError::Mode { path: path.to_owned(), mode: metadata.mode() & 0o7777 });
    }
    if metadata.len() != FILE_LEN as u64 {
        return Err(KeyFileError::Length { path: path.to_owned(), len: metadata.len() });
    }
    Ok(())
}

/// The file by a path without links, so that what is checked above it is what leads to it.
fn real_path(path: &Path) -> Result<PathBuf, KeyFileError> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(KeyFileError::NotAFile(path.to_owned()));
    };
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let real = directory.canonicalize().map_err(|source| KeyFileError::Io { path: path.to_owned(), source })?;
    Ok(real.join(name))
}

/// All that lead to a file, by its path without links.
fn check_directories(path: &Path, real: &Path, own: u32) -> Result<(), KeyFileError> {
    for directory in real.ancestors().skip(1) {
        let metadata = std::fs::symlink_metadata(directory);
        let metadata = metadata.map_err(|source| KeyFileError::Io { path: path.to_owned(), source })?;
        check_directory(path, directory, &metadata, own)?;
    }
    Ok(())
}

/// As `StrictModes` of sshd_config(5). A user whom this user namespace does not map is taken for the host's root, who is one.
fn check_directory(path: &Path, directory: &Path, metadata: &std::fs::Metadata, own: u32) -> Result<(), KeyFileError> {
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    if ![0, own, OVERFLOW_ID].contains(&owner) {
        return Err(KeyFileError::DirectoryOwner { path: path.to_owned(), directory: directory.to_owned(), owner });
    }
    if mode & 0o022 != 0 && mode & 0o1000 == 0 {
        return Err(KeyFileError::DirectoryMode { path: path.to_owned(), directory: directory.to_owned(), mode });
    }
    Ok(())
}

/// Reads no more than a key, whatever the file's length has become.
fn read_exactly(file: &mut File, path: &Path) -> Result<Zeroizing<[u8; FILE_LEN]>, KeyFileError> {
    let mut text = Zeroizing::new([0; FILE_LEN]);
    file.read_exact(text.as_mut_slice()).map_err(|source| KeyFileError::Io { path: path.to_owned(), source })?;
    Ok(text)
}

fn parse(text: &[u8; FILE_LEN]) -> Option<Secret<32>> {
    let digits = text.strip_prefix(PREFIX)?.strip_suffix(b"\n")?;
    let mut good = true;
    let secret = Secret::new(|bytes: &mut [u8; 32]| {
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let (high, low) = (hex_value(pair[0]), hex_value(pair[1]));
            good &= high.is_some() && low.is_some();
            *byte = high.unwrap_or(0) << 4 | low.unwrap_or(0);
        }
    });
    good.then_some(secret)
}

fn hex_digit(value: u8) -> u8 {
    if value < 10 { b'0' + value } else { b'a' + value - 10 }
}

fn hex_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// The client's side.
pub struct KeyFileInitiator(Key);

impl KeyFileInitiator {
    /// Proves to have this key.
    pub fn new(key: Key) -> Self {
        Self(key)
    }
}

impl Initiator for KeyFileInitiator {
    fn id(&self) -> MechanismId {
        MechanismId::KeyFile
    }

    fn token<'a>(&'a self, th1: Th1, _: &'a [u8; 32]) -> Step<'a, Result<ClientToken, MechanismError>> {
        let token = [self.0.id.0.as_slice(), self.0.binder(&th1).expose()].concat();
        Box::pin(ready(Ok(ClientToken { token, psk: self.0.psk() })))
    }

    fn check_server<'a>(&'a self, _: &'a Answered) -> Step<'a, Result<ServerProof, MechanismError>> {
        Box::pin(ready(Ok(ServerProof::SharedSecret)))
    }

    fn server(&self) -> Option<ServerIdentity> {
        Some(ServerIdentity::Key(self.0.id))
    }
}

/// The server's side: keys, and whose they are.
///
/// ```
/// # use mochi_auth::Identity;
/// # use mochi_auth::mechanism::key_file::{Key, KeyRing};
/// # let directory = std::env::temp_dir().join(format!("mochi-doc-{}", std::process::id()));
/// # std::fs::create_dir_all(&directory)?;
/// # let path = directory.join("alice.key");
/// Key::random()?.create(&path)?;          // as `mochi keygen` does; Alice gets a copy
///
/// let mut keys = KeyRing::new();
/// keys.add(Key::load(&path)?, Identity { uid: 2001, gid: 100 })?;
/// # std::fs::remove_dir_all(&directory)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct KeyRing {
    keys: HashMap<KeyId, (Key, Identity)>,
    /// Nobody's: tokens with the id of no key are checked against it, so that time does not tell which ids there are.
    nobody: Key,
}

impl Default for KeyRing {
    fn default() -> Self {
        Self::new()
    }
}

impl KeyRing {
    /// No keys.
    pub fn new() -> Self {
        Self { keys: HashMap::new(), nobody: Key::new(Secret::new(|_| ())) }
    }

    /// Whoever holds `key` is `identity`.
    ///
    /// # Errors
    /// When the key is in the ring already.
    pub fn add(&mut self, key: Key, identity: Identity) -> Result<(), KeyFileError> {
        let id = key.id;
        if self.keys.contains_key(&id) {
            return Err(KeyFileError::Twice(id));
        }
        self.keys.insert(id, (key, identity));
        Ok(())
    }

    fn check(&self, claim: Claim) -> Result<Verified, KeyRefused> {
        let token: &[u8; TOKEN_LEN] = claim.token().try_into().map_err(|_| KeyRefused::Token(claim.token().len()))?;
        let id = KeyId(token[..16].try_into().expect("16 bytes"));
        let binder: &[u8; 32] = token[16..].try_into().expect("48 bytes less 16");
        let known = self.keys.get(&id);
        let key = known.map_or(&self.nobody, |(key, _)| key);
        let is_bound = key.binder(claim.th1()).same(binder);
        // Not before: whoever is refused here has cost as much as one whose binder is wrong. What nobody's key makes proves
        // nothing, though everybody knows that key.
        let (key, identity) = known.ok_or(KeyRefused::UnknownKey(id))?;
        if !is_bound {
            return Err(KeyRefused::Binder(id));
        }
        let principal = Principal { mechanism: MechanismId::KeyFile, identity: *identity, name: None };
        let psk = key.psk();
        Ok(claim.verified(principal, psk))
    }
}

impl Acceptor for KeyRing {
    fn id(&self) -> MechanismId {
        MechanismId::KeyFile
    }

    fn verify(&self, claim: Claim, _: Option<PeerCredentials>) -> Step<'_, Result<Verified, MechanismError>> {
        Box::pin(ready(match claim.mechanism() {
            MechanismId::KeyFile => self.check(claim).map_err(MechanismError::from),
            other => Err(MechanismError::Other(other)),
        }))
    }
}

#[cfg(test)]
#[path = "key_file_tests.rs"]
mod tests;
