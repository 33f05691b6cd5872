//! Names of what can be called: RPC descriptors, provider ids, and Margo's 64-bit RPC ids.

use std::fmt;
use std::marker::PhantomData;

use serde::{Deserialize, Serialize};

/// The parent of a request that no other RPC caused: no name hash, no provider.
///
/// Margo writes it in front of the input of every request its user starts.
pub const NO_PARENT: RpcId = RpcId(ProviderId::DEFAULT.0 as u64);

/// A 16-bit number that tells apart providers of one kind in one process.
///
/// Encoded like C's `uint16_t`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProviderId(u16);

impl ProviderId {
    /// "No provider": what an RPC without one is registered under, here as in Margo's macros.
    pub const DEFAULT: ProviderId = ProviderId(0xFFFF);

    /// What Thallium and `margo_register_name` register under when given no provider.
    ///
    /// Calls from here to an RPC that a Thallium engine defined need this one.
    pub const THALLIUM: ProviderId = ProviderId(0);

    /// The provider numbered `id`.
    pub const fn new(id: u16) -> ProviderId {
        ProviderId(id)
    }

    /// The number.
    pub const fn as_u16(self) -> u16 {
        self.0
    }
}

impl Default for ProviderId {
    fn default() -> ProviderId {
        ProviderId::DEFAULT
    }
}

impl From<u16> for ProviderId {
    fn from(id: u16) -> ProviderId {
        ProviderId(id)
    }
}

impl From<ProviderId> for u16 {
    fn from(id: ProviderId) -> u16 {
        id.0
    }
}

impl fmt::Display for ProviderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for ProviderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProviderId({})", self.0)
    }
}

/// What a request names its RPC by: Margo's hash of the name above, the provider id below.
///
/// This is the form of Margo compiled on Mercury 2.3 or newer; with Mercury 2.2 the transport makes the shorter ids of
/// that release from it. There is no serde form on purpose:
/// Mercury's own encoding of an `hg_id_t` drops the upper half.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RpcId(u64);

impl RpcId {
    /// The id under which `name` is registered for `provider`.
    pub const fn new(name: &str, provider: ProviderId) -> RpcId {
        RpcId::from_parts(name_hash(name), provider)
    }

    /// An id as a header carries it.
    pub const fn from_raw(raw: u64) -> RpcId {
        RpcId(raw)
    }

    /// The id as a header carries it.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The hash of the name.
    pub const fn hash(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The provider called.
    pub const fn provider_id(self) -> ProviderId {
        ProviderId(self.0 as u16)
    }

    const fn from_parts(hash: u32, provider: ProviderId) -> RpcId {
        RpcId((hash as u64) << 32 | provider.0 as u64)
    }
}

impl From<RpcId> for u64 {
    fn from(id: RpcId) -> u64 {
        id.0
    }
}

impl fmt::Display for RpcId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#018x}", self.0)
    }
}

impl fmt::Debug for RpcId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RpcId({self})")
    }
}

/// The 32-bit id of a Margo that was compiled on Mercury older than 2.3.
///
/// It keeps only the lower half of the hash. Nothing here speaks it; it explains ids seen in
/// the logs of such a service.
pub const fn legacy_mux_id(name: &str, provider: ProviderId) -> u32 {
    name_hash(name) << 16 | provider.0 as u32
}

/// A remote procedure: its name, and the types of its input and output.
///
/// Costs nothing to copy and is meant to be a constant that client and server share:
///
/// ```
/// use margo_rs::Rpc;
///
/// const SUM: Rpc<(i64, i64), i64> = Rpc::new("sum");
/// const LOG: Rpc<String, ()> = Rpc::new("log").disable_response();
/// ```
///
/// The types are not part of the id. Two sides that disagree about them get a decoding error at
/// best, so give an RPC a new name when its types change.
pub struct Rpc<In, Out> {
    name: &'static str,
    hash: u32,
    response_disabled: bool,
    types: PhantomData<fn(In) -> Out>,
}

impl<In, Out> Rpc<In, Out> {
    /// The RPC called `name`. It answers its caller, if only with a status.
    pub const fn new(name: &'static str) -> Rpc<In, Out> {
        Rpc { name, hash: name_hash(name), response_disabled: false, types: PhantomData }
    }

    /// The name both sides know it by.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Margo's hash of the name, computed once when the descriptor was made.
    pub const fn hash(&self) -> u32 {
        self.hash
    }

    /// The id under which `provider` serves it.
    pub const fn id(&self, provider: ProviderId) -> RpcId {
        RpcId::from_parts(self.hash, provider)
    }

    /// Whether callers get no answer, not even an error.
    pub const fn response_disabled(&self) -> bool {
        self.response_disabled
    }
}

impl<In> Rpc<In, ()> {
    /// Makes the call fire-and-forget: it is over when the request was sent.
    ///
    /// Both sides must agree, as with `margo_registered_disable_response`.
    pub const fn disable_response(self) -> Rpc<In, ()> {
        Rpc { name: self.name, hash: self.hash, response_disabled: true, types: PhantomData }
    }
}

// By hand, because derived ones would ask the same of `In` and `Out`.
/// An RPC without its types, for handlers and calls of raw bytes: made of a name or an [`Rpc`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawRpc<'a> {
    pub(crate) name: &'a str,
    pub(crate) response_disabled: bool,
}

impl<'a> From<&'a str> for RawRpc<'a> {
    fn from(name: &'a str) -> Self {
        Self { name, response_disabled: false }
    }
}

impl<In, Out> From<Rpc<In, Out>> for RawRpc<'static> {
    fn from(rpc: Rpc<In, Out>) -> Self {
        Self { name: rpc.name, response_disabled: rpc.response_disabled }
    }
}

impl<In, Out> Clone for Rpc<In, Out> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<In, Out> Copy for Rpc<In, Out> {}

impl<In, Out> fmt::Debug for Rpc<In, Out> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rpc")
            .field("name", &self.name)
            .field("hash", &format_args!("{:#010x}", self.hash))
            .field("response_disabled", &self.response_disabled)
            .finish()
    }
}

/// Bob Jenkins' 1996 hash ("A hash function for hash table lookup", Dr. Dobb's Journal,
/// September 1997) with the initial value that uthash gives it.
const fn name_hash(name: &str) -> u32 {
    const GOLDEN_RATIO: u32 = 0x9e37_79b9;
    const INITIAL: u32 = 0xfeed_beef;
    const BLOCK: usize = 12;

    let key = name.as_bytes();
    let mut state = [GOLDEN_RATIO, GOLDEN_RATIO, INITIAL];
    let mut start = 0;
    while key.len() - start >= BLOCK {
        state = mix(add_words(state, key, start, start + BLOCK, 0));
        start += BLOCK;
    }
    // The lowest byte of the last word is the length's, so the tail's third word starts one up.
    state[2] = state[2].wrapping_add(key.len() as u32);
    mix(add_words(state, key, start, key.len(), 1))[2]
}

/// Adds up to twelve bytes as three little-endian words, the third moved up by `third_skip` bytes.
const fn add_words(mut state: [u32; 3], key: &[u8], start: usize, end: usize, third_skip: usize) -> [u32; 3] {
    let mut at = start;
    while at < end {
        let word = (at - start) / 4;
        let byte = (at - start) % 4 + if word == 2 { third_skip } else { 0 };
        state[word] = state[word].wrapping_add((key[at] as u32) << (8 * byte));
        at += 1;
    }
    state
}

/// Three rounds over the three words; each word in turn loses the two others and is
/// crossed with a shift of the one before it.
const fn mix(mut state: [u32; 3]) -> [u32; 3] {
    const RIGHT: [[bool; 3]; 3] = [[true, false, true]; 3];
    const SHIFT: [[u32; 3]; 3] = [[13, 8, 13], [12, 16, 5], [3, 10, 15]];

    let mut round = 0;
    while round < 3 {
        let mut word = 0;
        while word < 3 {
            let after = state[(word + 1) % 3];
            let before = state[(word + 2) % 3];
            let crossed = if RIGHT[round][word] { before >> SHIFT[round][word] } else { before << SHIFT[round][word] };
            state[word] = state[word].wrapping_sub(after).wrapping_sub(before) ^ crossed;
            word += 1;
        }
        round += 1;
    }
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUM: Rpc<(i64, i64), i64> = Rpc::new("sum");

    #[test]
    fn name_hashes_are_those_of_margo() {
        // Seen from programs linked with Margo 0.24.
        for (name, hash) in [
            ("", 0x0ee1_c8aa),
            ("sum", 0x1c88_57ad),
            ("hello", 0xe0be_16ba),
            ("__shutdown__", 0x788d_d320),
            ("__identity__", 0x6e31_f542),
            ("my_rpc", 0xcc5c_e282),
            ("exactly12byt", 0x43c8_d229),
            ("a_longer_name_for_rpc_xx", 0x418a_b1b0),
        ] {
            assert_eq!(name_hash(name), hash, "{name:?}");
        }
    }

    #[test]
    fn every_byte_and_the_length_reach_the_hash() {
        let name = "abcdefghijklmnopqrstuvwxyz";
        let mut seen = std::collections::HashSet::new();
        for end in 0..=name.len() {
            assert!(seen.insert(name_hash(&name[..end])), "prefix of {end} bytes");
        }
        for at in 0..name.len() {
            let mut changed = name.as_bytes().to_vec();
            changed[at] ^= 1;
            let changed = String::from_utf8(changed).expect("still ascii");
            assert!(seen.insert(name_hash(&changed)), "changed byte {at}");
        }
    }

    #[test]
    fn ids_hold_the_hash_above_and_the_provider_below() {
        let id = RpcId::new("sum", ProviderId::DEFAULT);
        assert_eq!(id.as_u64(), 0x1c88_57ad_0000_ffff);
        assert_eq!(id.hash(), 0x1c88_57ad);
        assert_eq!(id.provider_id(), ProviderId::DEFAULT);
        assert_eq!(SUM.id(ProviderId::new(42)).as_u64(), 0x1c88_57ad_0000_002a);
        assert_eq!(SUM.id(ProviderId::THALLIUM).as_u64(), 0x1c88_57ad_0000_0000);
        assert_eq!(RpcId::from_raw(id.into()), id);
    }

    #[test]
    fn legacy_ids_keep_half_of_the_hash() {
        assert_eq!(legacy_mux_id("sum", ProviderId::new(42)), 0x57ad_002a);
    }

    #[test]
    fn the_parent_of_a_first_call_is_the_default_provider_without_a_name() {
        assert_eq!(NO_PARENT.as_u64().to_le_bytes(), [0xff, 0xff, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn ids_print_as_sixteen_hex_digits() {
        assert_eq!(NO_PARENT.to_string(), "0x000000000000ffff");
        assert_eq!(format!("{NO_PARENT:?}"), "RpcId(0x000000000000ffff)");
        assert_eq!(ProviderId::new(7).to_string(), "7");
    }

    #[test]
    fn descriptors_are_constants_that_copy_whatever_their_types() {
        struct Opaque;
        const LOG: Rpc<Opaque, ()> = Rpc::new("log").disable_response();
        const _: () = assert!(LOG.response_disabled() && !SUM.response_disabled());

        let copy = LOG;
        assert_eq!((copy.name(), copy.hash()), (LOG.name(), name_hash("log")));
        assert_eq!(format!("{SUM:?}"), r#"Rpc { name: "sum", hash: 0x1c8857ad, response_disabled: false }"#);
    }
}
