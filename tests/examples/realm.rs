//! A real munged for one test.

use std::path::Path;

use mochi_auth::testing::{MungeRealm, Munged};

/// A daemon with a realm of its own; it ends with this.
pub(crate) struct Realm(Munged);

/// A realm, or `None` where munged is not installed and not required.
pub(crate) fn realm() -> Option<Realm> {
    Some(Realm(MungeRealm::for_test()?.start().expect("munged starts")))
}

impl Realm {
    pub(crate) fn socket(&self) -> &Path {
        self.0.socket()
    }
}
