//! The staged examples: what client and server of a stage have to agree on.
//!
//! Names, arguments and results of the first three are those of the C examples, so that a stage can talk to its C twin
//! wherever the two share a transport. A result is 0 for yes and [`REFUSED`] for no, whatever the reason was: that stays
//! with the server. The fourth, [`full`], leaves all that to `mochi-auth`.

mod arguments;
mod credentials;
pub mod full;
mod key;
mod quoted;
mod token;
mod user;

use margo_rs::{HgString, Rpc};

pub use arguments::{ClientArguments, ServerArguments};
pub use credentials::{Credentials, Decoded, munge_at};
pub use key::{Key, random_id};
pub use quoted::Quoted;
pub use token::Token;
pub use user::AuthenticatedUser;

/// The result of a call that was allowed.
pub const ALLOWED: i32 = 0;

/// The result of a call that was refused.
pub const REFUSED: i32 = -1;

/// What a client says whose credential was refused: it learns no more than that.
pub const NOT_AUTHENTICATED: &str = "the server refused the credential; only its own output says why";

/// Stage 1: who is there?
pub mod simple_auth {
    use super::{HgString, Rpc};

    /// Takes a MUNGE credential, returns whether it was accepted.
    pub const AUTHENTICATE: Rpc<HgString, i32> = Rpc::new("authenticate");
}

/// Stage 2: authenticate once, then sign each call.
pub mod mac {
    use super::{HgString, Rpc, Token};

    /// Takes a MUNGE credential that holds a key, returns whether it was accepted.
    pub const AUTHENTICATE: Rpc<HgString, i32> = Rpc::new("authenticate");

    /// Takes a token (its caller is a uid) and a name to greet, returns whether the token was accepted.
    pub const HELLO: Rpc<(Token, HgString), i32> = Rpc::new("hello");
}

/// Stage 3: a session for each authentication.
pub mod mac_session {
    use super::{HgString, Rpc, Token};

    /// Takes a MUNGE credential that holds a key, returns a session id and whether the credential was accepted.
    pub const AUTHENTICATE: Rpc<HgString, (u64, i32)> = Rpc::new("authenticate");

    /// Takes a token (its caller is a session id) and a name to greet, returns whether the token was accepted.
    pub const HELLO: Rpc<(Token, HgString), i32> = Rpc::new("hello");
}
