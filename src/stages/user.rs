//! Users, as MUNGE vouches for them and as they are printed.

use std::fmt;
use std::time::Duration;

use mochi_auth::{Identity, users};

/// How long a directory service may take to name a user; past it the number has to do.
const NAME_TIMEOUT: Duration = Duration::from_secs(1);

/// A user that MUNGE has vouched for. Displays as the name, or as the uid where this host knows no name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthenticatedUser {
    /// The uid of the client's process.
    pub uid: u32,
    /// The gid of the client's process.
    pub gid: u32,
    name: Option<String>,
}

impl AuthenticatedUser {
    /// The user with this identity, and the name that this host has for it.
    ///
    /// Asking for a name can take long (LDAP), so it happens on a blocking thread and within a second.
    pub async fn named(Identity { uid, gid }: Identity) -> Self {
        let name = tokio::task::spawn_blocking(move || users::name_of(uid));
        let name = tokio::time::timeout(NAME_TIMEOUT, name).await.ok().and_then(Result::ok).flatten();
        Self { uid, gid, name }
    }
}

impl fmt::Display for AuthenticatedUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => f.write_str(name),
            None => write!(f, "{}", self.uid),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn known_uid_displays_as_its_name() {
        let user = AuthenticatedUser::named(Identity { uid: 0, gid: 0 }).await;
        assert_eq!(user.to_string(), "root");
    }

    #[tokio::test]
    async fn unknown_uid_displays_as_a_number() {
        let user = AuthenticatedUser::named(Identity { uid: 3_999_999_999, gid: 0 }).await;
        assert_eq!(user.to_string(), "3999999999");
    }
}
