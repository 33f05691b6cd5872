use std::fmt;

use crate::users;

/// A user and group as proven by a mechanism: numbers, because only numbers are the same on every
/// host of a realm.
///
/// It prints as `uid 1000 gid 1000`. A name is for people only and is asked for by hand with
/// [`user_name`](Self::user_name), since a look-up may block on a directory service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The effective user id.
    pub uid: u32,
    /// The effective group id.
    pub gid: u32,
}

impl Identity {
    /// The identity of this process: its effective user and group.
    pub fn own() -> Self {
        Self { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() }
    }

    /// The user's name on this host, or the number where the host knows no name.
    ///
    /// May block, see [`users::name_of`].
    pub fn user_name(&self) -> String {
        users::name_of(self.uid).unwrap_or_else(|| self.uid.to_string())
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "uid {} gid {}", self.uid, self.gid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_prints_numbers() {
        assert_eq!(Identity { uid: 2003, gid: 100 }.to_string(), "uid 2003 gid 100");
    }

    #[test]
    fn an_unknown_uid_prints_as_a_number() {
        let unknown = Identity { uid: 3_999_999_999, gid: 0 };
        assert_eq!(unknown.user_name(), "3999999999");
    }
}
