//! MUNGE credentials, as the examples make and read them.

use std::path::Path;
use std::time::Duration;

use margo_rs::HgString;
use mochi_auth::munge::{EncodeOptions, Munge, Payload};

use super::{AuthenticatedUser, Key};
use crate::program::Outcome;

/// How long a credential is good for: enough for one call, whatever the clocks of the two hosts say.
const LIFETIME: Duration = Duration::from_secs(60);

/// The munged at `socket`; without one the munged at `MUNGE_SOCKET`, or the one libmunge knows if that is not set.
///
/// # Errors
/// The path cannot be that of a socket.
pub fn munge_at(socket: Option<&Path>) -> Outcome<Munge> {
    let socket = socket.map(Path::to_path_buf).or_else(|| Some(std::env::var_os("MUNGE_SOCKET")?.into()));
    let munge = Munge::builder();
    Ok(match socket {
        Some(socket) => munge.socket(socket).build()?,
        None => munge.build()?,
    })
}

/// Makes and reads credentials with the local munged.
#[derive(Clone, Debug)]
pub struct Credentials {
    munge: Munge,
}

/// What a credential said, once munged has vouched for it.
#[derive(Debug)]
pub struct Decoded {
    /// Who made the credential.
    pub user: AuthenticatedUser,
    payload: Payload,
}

impl Credentials {
    /// Uses the munged at `MUNGE_SOCKET`, or the one libmunge knows if that is not set.
    ///
    /// # Errors
    /// The path in `MUNGE_SOCKET` cannot be that of a socket.
    pub fn from_environment() -> Outcome<Self> {
        Ok(Self { munge: munge_at(None)? })
    }

    /// Uses the munged at `socket`.
    ///
    /// # Errors
    /// The path cannot be that of a socket.
    pub fn at(socket: &Path) -> Outcome<Self> {
        Ok(Self { munge: munge_at(Some(socket))? })
    }

    /// A credential that carries `payload`. With `server_uid` only a process of that user can open it; without, any
    /// user of the realm who gets to see it.
    ///
    /// # Errors
    /// No munged, or one that does not answer.
    pub async fn encode(&self, payload: &[u8], server_uid: Option<u32>) -> Outcome<HgString> {
        let mut options = EncodeOptions::new().payload(payload).ttl(LIFETIME);
        if let Some(uid) = server_uid {
            options = options.restrict_uid(uid);
        }
        Ok(self.munge.encode(options).await?.as_str().into())
    }

    /// Has munged check `credential`; it accepts each one once.
    ///
    /// # Errors
    /// Whatever makes the credential worth nothing, for the log of the server.
    pub async fn decode(&self, credential: &HgString) -> Outcome<Decoded> {
        let text = credential.as_str().ok_or("there is no credential")?;
        let decoded = self.munge.decode(text).await?;
        let identity = decoded.identity();
        let user = AuthenticatedUser::named(identity).await;
        Ok(Decoded { user, payload: decoded.into_payload() })
    }
}

impl Decoded {
    /// The user and the key that the credential carries.
    ///
    /// # Errors
    /// The payload is not a key.
    pub fn with_key(self) -> Outcome<(AuthenticatedUser, Key)> {
        let length = self.payload.len();
        let key = Key::from_payload(&self.payload);
        let key = key.ok_or_else(|| format!("a payload of {length} bytes, where a key has {}", Key::LENGTH))?;
        Ok((self.user, key))
    }
}
