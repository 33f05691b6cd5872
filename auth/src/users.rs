//! Names of users on this host, for people to read; never a ground for a decision.

use nix::unistd::{Uid, User};

/// The name this host knows for `uid`, or `None` for an unknown uid or a failed look-up.
///
/// Thread-safe (`getpwuid_r(3)`). It asks the name services of the host and so may block on a
/// directory server: keep it out of request handling and of progress threads. Control characters in
/// a name are replaced.
pub fn name_of(uid: u32) -> Option<String> {
    let name = User::from_uid(Uid::from_raw(uid)).ok()??.name;
    let printable = name.chars().map(|c| if c.is_control() { '?' } else { c }).collect::<String>();
    (!printable.is_empty()).then_some(printable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_has_a_name() {
        assert_eq!(name_of(0).as_deref(), Some("root"));
    }

    #[test]
    fn an_unknown_uid_has_none() {
        assert_eq!(name_of(3_999_999_999), None);
        assert_eq!(name_of(u32::MAX), None);
    }
}
