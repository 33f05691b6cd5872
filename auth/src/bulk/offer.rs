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

/// Zeros that take memory only as they are written: a ticket's length is the peer's word until its data arrives. `None` if
/// there is no room for so many.
fn zeros(len: usize) -> Option<Vec<u8>> {
    Vec::<u8>::new().try_reserve_exact(len).ok()?;
    Some(vec![0; len])
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
    let memory = room.and_then(zeros).ok_or(ProtectedBulkError::TooLarge { len, max })?;
    let region = from.stage(memory)?;
    from.pull(&ticket.descriptor, &region).await?;
    // From here on nobody else can write to it.
    let mut data = region.into_inner().await;
    chunks::check(found, &ticket.key, &ticket.salt, &ticket.proofs, &mut data)?;
    Ok(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Memory of this process that is there, in bytes.
    fn resident() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").expect("/proc");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line for it");
        let kib: usize = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kib * 1024
    }

    #[test]
    fn the_length_that_a_ticket_claims_takes_no_memory() {
        const LEN: usize = 1 << 30;
        let before = resident();
        let memory = zeros(LEN).expect("address space");
        assert_eq!(memory.len(), LEN);
        assert!(resident() < before + LEN / 4);
        assert!(zeros(isize::MAX as usize).is_none() && zeros(usize::MAX).is_none());
    }
}
