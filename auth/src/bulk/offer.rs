//! Data that a handler may pull.

use std::fmt;

use margo_rs::Endpoint;
use margo_rs::bulk::{Permission, Region};

use super::{BulkTicket, Level, ProtectedBulkError, chunks};
use crate::clock;

/// Data that whoever gets its ticket may pull, until this is dropped.
///
/// The data is hashed or encrypted when the offer is made, in place.
pub struct Offer {
    ticket: BulkTicket,
    _region: Region,
}

impl Offer {
    pub(crate) fn new(endpoint: &Endpoint, mut data: Vec<u8>, level: Level) -> Result<Self, ProtectedBulkError> {
        let (key, salt) = (clock::random_secret()?, clock::random()?);
        let proofs = chunks::protect(level, &key, &salt, &mut data);
        let region = endpoint.expose(data, Permission::ReadOnly)?;
        let ticket = BulkTicket { descriptor: region.descriptor().clone(), level, key, salt, proofs };
        Ok(Self { ticket, _region: region })
    }

    /// To be sent as an argument or a part of one.
    pub fn ticket(&self) -> &BulkTicket {
        &self.ticket
    }
}

impl fmt::Debug for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Offer").field("ticket", &self.ticket).finish()
    }
}

/// Pulls what a peer offers, and checks it.
pub(crate) async fn pull(
    from: &Endpoint,
    ticket: &BulkTicket,
    least: Level,
    max: u64,
) -> Result<Vec<u8>, ProtectedBulkError> {
    let (found, len) = (ticket.level, ticket.len());
    if found < least {
        return Err(ProtectedBulkError::Level { found, least });
    }
    let room = usize::try_from(len).ok().filter(|_| len <= max);
    let room = room.ok_or(ProtectedBulkError::TooLarge { len, max })?;
    let mut memory = Vec::new();
    memory.try_reserve_exact(room).map_err(|_| ProtectedBulkError::TooLarge { len, max })?;
    memory.resize(room, 0);
    let region = from.stage(memory)?;
    from.pull(&ticket.descriptor, &region).await?;
    // From here on nobody else can write to it.
    let mut data = region.into_inner().await;
    chunks::check(found, &ticket.key, &ticket.salt, &ticket.proofs, &mut data)?;
    Ok(data)
}
