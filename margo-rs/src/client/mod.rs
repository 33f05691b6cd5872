//! The calling side: endpoints, provider handles, calls.

mod call;
mod endpoint;
mod lookup;
mod peer;
mod table;
mod waiting;

pub use self::call::{Call, RawCall};
pub use self::endpoint::{Endpoint, ProviderHandle};
pub use self::lookup::Lookup;
pub use self::peer::{ConnectionId, Standing};

pub(crate) use self::peer::Peer;
pub(crate) use self::table::CallTable;
