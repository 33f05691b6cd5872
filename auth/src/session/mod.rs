//! Open sessions: the server's table of them with lifetimes and quotas, the client's end, and what guards a server before
//! there is a session (cookies, rates). Pure: the time and random bytes come in as arguments.

mod client;
mod cookie;
mod draining;
mod gate;
mod node;
mod quota;
mod rate;
mod server;
mod table;
mod wheel;

#[cfg(test)]
mod race_tests;

pub use client::{Call, CallRefused, ClientSession, Reply, ReplyRefused};
pub use cookie::CookieJar;
pub use gate::{Admission, Gate};
pub use node::NodeAddress;
pub use quota::{Quota, QuotaExceeded};
pub use rate::{Rate, RateLimiter};
pub use server::{Request, RequestRefused, RespondError, Responder, Session, State};
pub use table::{Counts, InsertRefused, Lifetimes, Table};
