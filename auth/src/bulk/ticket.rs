//! What is sent about a transfer, inside a sealed body.

use std::borrow::Cow;
use std::fmt;

use margo_rs::bulk::BulkDescriptor;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
use zeroize::Zeroize;

use super::{Level, chunks, context};
use crate::protocol::Secret;

/// The right to one transfer, and what its data must be: made by an [`Offer`](super::Offer) or a [`Sink`](super::Sink).
///
/// It serialises only inside the sealed body of a call or a result; everywhere else encoding it is an error. It has no
/// contents in its `Debug`.
pub struct BulkTicket {
    pub(super) descriptor: BulkDescriptor,
    pub(super) level: Level,
    pub(super) key: Secret<32>,
    pub(super) salt: [u8; 16],
    /// Of an offer; a sink's come with the receipt.
    pub(super) proofs: Vec<u8>,
}

impl Clone for BulkTicket {
    fn clone(&self) -> Self {
        Self {
            descriptor: self.descriptor.clone(),
            level: self.level,
            key: Secret::new(|bytes: &mut [u8; 32]| bytes.copy_from_slice(self.key.expose())),
            salt: self.salt,
            proofs: self.proofs.clone(),
        }
    }
}

impl BulkTicket {
    /// Bytes of the data, or that there is room for.
    pub fn len(&self) -> u64 {
        self.descriptor.len()
    }

    /// Whether that is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What an attacker who is in the place of the network would make of it: the same data is to come from another region.
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    pub fn with_descriptor(&self, descriptor: &BulkDescriptor) -> Self {
        Self { descriptor: descriptor.clone(), ..self.clone() }
    }

    /// What protects the data.
    pub fn level(&self) -> Level {
        self.level
    }
}

impl fmt::Debug for BulkTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BulkTicket({} bytes, {:?})", self.len(), self.level)
    }
}

/// As it is encoded.
#[derive(Serialize, Deserialize)]
struct Fields<'a> {
    descriptor: Cow<'a, BulkDescriptor>,
    level: Level,
    key: [u8; 32],
    salt: [u8; 16],
    proofs: Cow<'a, [u8]>,
}

impl Serialize for BulkTicket {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        context::note_encoded().map_err(ser::Error::custom)?;
        let mut fields = Fields {
            descriptor: Cow::Borrowed(&self.descriptor),
            level: self.level,
            key: *self.key.expose(),
            salt: self.salt,
            proofs: Cow::Borrowed(&self.proofs),
        };
        let result = fields.serialize(serializer);
        fields.key.zeroize();
        result
    }
}

impl<'de> Deserialize<'de> for BulkTicket {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        context::check_decoded().map_err(de::Error::custom)?;
        let Fields { descriptor, level, mut key, salt, proofs } = Fields::deserialize(deserializer)?;
        let secret = Secret::new(|bytes: &mut [u8; 32]| bytes.copy_from_slice(&key));
        key.zeroize();
        let ticket =
            Self { descriptor: descriptor.into_owned(), level, key: secret, salt, proofs: proofs.into_owned() };
        if !ticket.proofs.is_empty() && ticket.proofs.len() as u64 != chunks::proofs_len(level, ticket.len()) {
            return Err(de::Error::custom("proofs of a bulk ticket do not fit its length"));
        }
        Ok(ticket)
    }
}
