use super::ids::{MechanismId, Protection, ServerId, Suite};
use super::parse::{ParseError, Reader};
use super::transcript::Th1;
use super::{HELLO, MAGIC};

/// Bytes of HELLO before the suites.
pub const HELLO_FIXED: usize = 112;
/// The most suites a HELLO may offer.
pub const SUITES_MAX: usize = 8;
/// The longest HELLO of any mechanism; transports need not read more.
pub const HELLO_MAX: usize = u16::MAX as usize;

/// The suites a client offers, without those that this version does not know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SuiteOffer(u8);

impl SuiteOffer {
    /// Of these suites.
    pub fn new(suites: &[Suite]) -> Self {
        Self(suites.iter().fold(0, |bits, suite| bits | 1 << *suite as u8))
    }

    /// Whether it is one of them.
    pub fn contains(self, suite: Suite) -> bool {
        self.0 & 1 << suite as u8 != 0
    }

    /// The first of `preferred` that is offered.
    pub fn choose(self, preferred: &[Suite]) -> Option<Suite> {
        preferred.iter().copied().find(|suite| self.contains(*suite))
    }
}

/// A HELLO whose form is right, borrowed from its exact bytes. Nothing in it is proven.
///
/// ```text
///  0  u8  0xA1 magic and version    1  u8 type = 4      2  u16 total length
///  4  u8  mechanism                 5  u8 n_suites      6  u8 flags: bit 0 integrity-only      7  u8 cookie_len (0 or 16)
///  8  32  c_random                 40  32 c_eph (X25519)
/// 72  32  server_id               104  u64 client time, ms since 1970
/// 112     suites[n], zero pad to even, cookie, u16 token length, token
/// ```
#[derive(Clone, Copy)]
pub struct Hello<'a> {
    wire: &'a [u8],
    /// Up to the token length field.
    prefix_len: usize,
    token: &'a [u8],
    mechanism: MechanismId,
    suites: SuiteOffer,
    protection: Protection,
    cookie: Option<[u8; 16]>,
    random: [u8; 32],
    public_key: [u8; 32],
    server: ServerId,
    client_time_ms: u64,
}

impl<'a> Hello<'a> {
    /// Checks the form of a HELLO. Allocates nothing.
    ///
    /// # Errors
    /// For any byte string that is not exactly one HELLO.
    pub fn parse(wire: &'a [u8]) -> Result<Self, ParseError> {
        if wire.len() > HELLO_MAX {
            return Err(ParseError::Length(wire.len()));
        }
        let mut reader = Reader::new(wire);
        reader.start(HELLO)?;
        if usize::from(reader.u16()?) != wire.len() {
            return Err(ParseError::Length(wire.len()));
        }
        let mechanism = MechanismId::from_wire(reader.u8()?).ok_or(ParseError::Field("mechanism"))?;
        if wire.len() > mechanism.hello_max() {
            return Err(ParseError::Length(wire.len()));
        }
        let n_suites = usize::from(reader.u8()?);
        if !(1..=SUITES_MAX).contains(&n_suites) {
            return Err(ParseError::Field("n_suites"));
        }
        let protection = Protection::from_hello_flags(reader.u8()?).ok_or(ParseError::Field("flags"))?;
        let cookie_len = reader.u8()?;
        let random = reader.array()?;
        let public_key = reader.array()?;
        let server = ServerId::from_bytes(reader.array()?);
        let client_time_ms = reader.u64()?;
        let suites = parse_suites(reader.take(n_suites)?)?;
        if !n_suites.is_multiple_of(2) && reader.u8()? != 0 {
            return Err(ParseError::Field("pad"));
        }
        let cookie = match cookie_len {
            0 => None,
            16 => Some(reader.array()?),
            _ => return Err(ParseError::Field("cookie_len")),
        };
        let prefix_len = reader.position();
        let token_len = reader.u16()?;
        let token = reader.take(usize::from(token_len))?;
        reader.end()?;
        Ok(Self {
            wire,
            prefix_len,
            token,
            mechanism,
            suites,
            protection,
            cookie,
            random,
            public_key,
            server,
            client_time_ms,
        })
    }

    /// The exact bytes.
    pub fn wire(&self) -> &'a [u8] {
        self.wire
    }

    /// What the token must be bound to.
    pub fn th1(&self) -> Th1 {
        Th1::of(&self.wire[..self.prefix_len])
    }

    /// The mechanism's token.
    pub fn token(&self) -> &'a [u8] {
        self.token
    }

    /// How the client wants to prove who it is.
    pub fn mechanism(&self) -> MechanismId {
        self.mechanism
    }

    /// Suites offered.
    pub fn suites(&self) -> SuiteOffer {
        self.suites
    }

    /// What the client wants to be done to bodies.
    pub fn protection(&self) -> Protection {
        self.protection
    }

    /// The cookie of a RETRY.
    pub fn cookie(&self) -> Option<&[u8; 16]> {
        self.cookie.as_ref()
    }

    /// The client's random bytes.
    pub fn random(&self) -> &[u8; 32] {
        &self.random
    }

    /// The client's X25519 public key.
    pub fn public_key(&self) -> &[u8; 32] {
        &self.public_key
    }

    /// The server that is meant.
    pub fn server(&self) -> ServerId {
        self.server
    }

    /// The client's wall clock, ms since 1970: a claim.
    pub fn client_time_ms(&self) -> u64 {
        self.client_time_ms
    }
}

/// Unknown suites are passed over, since a later version may offer more; a suite named twice is not honest.
fn parse_suites(numbers: &[u8]) -> Result<SuiteOffer, ParseError> {
    let mut offer = SuiteOffer(0);
    for (at, number) in numbers.iter().enumerate() {
        if *number == 0 || numbers[..at].contains(number) {
            return Err(ParseError::Field("suites"));
        }
        if let Some(suite) = Suite::from_wire(*number) {
            offer.0 |= 1 << suite as u8;
        }
    }
    Ok(offer)
}

/// What a client puts in a HELLO, besides its token.
pub(super) struct HelloFields<'a> {
    pub(super) mechanism: MechanismId,
    pub(super) suites: &'a [Suite],
    pub(super) protection: Protection,
    pub(super) cookie: Option<&'a [u8; 16]>,
    pub(super) random: &'a [u8; 32],
    pub(super) public_key: &'a [u8; 32],
    pub(super) server: ServerId,
    pub(super) client_time_ms: u64,
}

/// A HELLO that still lacks its token.
pub(super) struct HelloDraft {
    bytes: Vec<u8>,
    mechanism: MechanismId,
}

impl HelloDraft {
    pub(super) fn new(fields: &HelloFields<'_>) -> Self {
        let mut bytes = Vec::with_capacity(512);
        bytes.extend_from_slice(&[MAGIC, HELLO, 0, 0, fields.mechanism as u8]);
        bytes.push(u8::try_from(fields.suites.len()).expect("a client offers few suites"));
        bytes.push(fields.protection.hello_flags());
        bytes.push(if fields.cookie.is_some() { 16 } else { 0 });
        bytes.extend_from_slice(fields.random);
        bytes.extend_from_slice(fields.public_key);
        bytes.extend_from_slice(fields.server.as_bytes());
        bytes.extend_from_slice(&fields.client_time_ms.to_le_bytes());
        bytes.extend(fields.suites.iter().map(|suite| *suite as u8));
        if !fields.suites.len().is_multiple_of(2) {
            bytes.push(0);
        }
        if let Some(cookie) = fields.cookie {
            bytes.extend_from_slice(cookie);
        }
        Self { bytes, mechanism: fields.mechanism }
    }

    pub(super) fn th1(&self) -> Th1 {
        Th1::of(&self.bytes)
    }

    /// `None` when the token is too long for this mechanism.
    pub(super) fn finish(mut self, token: &[u8]) -> Option<Vec<u8>> {
        let total = self.bytes.len() + 2 + token.len();
        if total > self.mechanism.hello_max() {
            return None;
        }
        self.bytes.extend_from_slice(&u16::try_from(token.len()).ok()?.to_le_bytes());
        self.bytes.extend_from_slice(token);
        self.bytes[2..4].copy_from_slice(&u16::try_from(total).ok()?.to_le_bytes());
        Some(self.bytes)
    }
}

#[cfg(test)]
#[path = "hello_tests.rs"]
mod tests;
