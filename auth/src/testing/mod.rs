//! Private MUNGE realms for tests and demos: a real `munged` as a normal user, with its own key and
//! socket.
//!
//! ```no_run
//! use mochi_auth::munge::Munge;
//! use mochi_auth::testing::MungeRealm;
//!
//! let Some(realm) = MungeRealm::for_test() else { return }; // without munged: says so in one line
//! let munged = realm.start().expect("a daemon");
//! let munge = Munge::builder().socket(munged.socket()).build().expect("a handle");
//! ```
//!
//! Nothing outside the realm's own directory is touched; parallel tests do not meet.

mod munged;
mod realm;
mod tools;

pub use munged::{Munged, MungedOptions};
pub use realm::{MungeRealm, skipped};
pub use tools::{REQUIRE_MUNGED, StartError};
