//! Room that a handler may push data into.

use std::fmt;

use margo_rs::Endpoint;
use margo_rs::bulk::{Permission, Region};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

use super::{BulkTicket, Level, ProtectedBulkError, chunks, context};
use crate::clock;

/// Room for data, into which whoever gets its ticket may push, until this is dropped or finished.
pub struct Sink {
    ticket: BulkTicket,
    region: Region,
}

/// What was pushed, said by whoever did: to be returned to the sink's owner in a sealed body.
pub struct Receipt {
    len: u64,
    salt: [u8; 16],
    proofs: Vec<u8>,
}

impl Sink {
    pub(crate) fn new(endpoint: &Endpoint, room: usize, level: Level) -> Result<Self, ProtectedBulkError> {
        let key = clock::random_secret()?;
        let region = endpoint.expose(vec![0; room], Permission::WriteOnly)?;
        let descriptor = region.descriptor().clone();
        Ok(Self { ticket: BulkTicket { descriptor, level, key, salt: [0; 16], proofs: Vec::new() }, region })
    }

    /// To be sent as an argument or a part of one.
    pub fn ticket(&self) -> &BulkTicket {
        &self.ticket
    }

    /// Takes the room back, checks what is in it against the receipt, and gives it.
    ///
    /// # Errors
    /// The data is not what the receipt says.
    pub async fn finish(self, receipt: &Receipt) -> Result<Vec<u8>, ProtectedBulkError> {
        let Self { ticket, region } = self;
        let room = region.len();
        if receipt.len > room {
            return Err(ProtectedBulkError::TooLarge { len: receipt.len, max: room });
        }
        // From here on nobody else can write to it.
        let mut data = region.into_inner().await;
        data.truncate(receipt.len as usize);
        chunks::check(ticket.level, &ticket.key, &receipt.salt, &receipt.proofs, &mut data)?;
        Ok(data)
    }
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sink").field("ticket", &self.ticket).finish()
    }
}

impl Receipt {
    /// Bytes that were pushed.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether that is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Receipt({} bytes)", self.len)
    }
}

#[derive(Serialize, Deserialize)]
struct Fields {
    len: u64,
    salt: [u8; 16],
    proofs: Vec<u8>,
}

impl Serialize for Receipt {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        context::note_encoded().map_err(ser::Error::custom)?;
        Fields { len: self.len, salt: self.salt, proofs: self.proofs.clone() }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Receipt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        context::check_decoded().map_err(de::Error::custom)?;
        let Fields { len, salt, proofs } = Fields::deserialize(deserializer)?;
        Ok(Self { len, salt, proofs })
    }
}

/// Pushes data into a peer's sink, protected as the sink asks.
pub(crate) async fn push(
    to: &Endpoint,
    ticket: &BulkTicket,
    mut data: Vec<u8>,
    least: Level,
) -> Result<Receipt, ProtectedBulkError> {
    let (found, len) = (ticket.level, data.len() as u64);
    if found < least {
        return Err(ProtectedBulkError::Level { found, least });
    }
    if len > ticket.len() {
        return Err(ProtectedBulkError::TooLarge { len, max: ticket.len() });
    }
    // Whoever seals chooses the salt: a ticket that is used twice must not make a nonce be used twice.
    let salt = clock::random()?;
    let proofs = chunks::protect(found, &ticket.key, &salt, &mut data);
    let region = to.stage(data)?;
    to.push(&region, ticket.descriptor.slice(..len)).await?;
    Ok(Receipt { len, salt, proofs })
}
