//! Options of Mercury, under the names that Margo's configuration has for them.

use super::{AuthKey, ConfigError};
use serde::de::{Error as _, IgnoredAny};
use serde::{Deserialize, Deserializer, Serialize};

/// Smallest message that the hello of a link and its answer fit into, with room for a small request, in bytes.
const MESSAGE_MIN: u64 = 512;
/// A message larger than this is a mistake: Mercury keeps hundreds of them ready.
const MESSAGE_MAX: u64 = 16 << 20;
/// More requests than this are not to be received at a time: each has a handle and, over most plugins, a buffer.
const POSTED_MAX: u32 = 1 << 16;

/// Options of Mercury: all that it takes at its start but those that cannot be given in JSON (a plugin's class) and the
/// one that an engine could not live with (`NA_THREAD_MODE_SINGLE…`: its calls come from several threads).
///
/// Names, types and meanings are those of the `mercury` section of Margo's configuration; options that Margo does not
/// have are named as in Mercury's own structure. One that is not given is Mercury's default, or Margo's where that
/// differs (`request_post_init`, `request_post_incr`: 256). In the configuration of a running engine each one that
/// Mercury has is told, but texts that were not given.
///
/// `log_level` and `log_subsys` are for the whole process, as Mercury has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct MercuryConfig {
    /// The engine's address. Told, not set: the builder has it.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "only_told")]
    pub address: Option<String>,
    /// Whether the engine listens. Told, not set.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "only_told")]
    pub listening: Option<bool>,
    /// The release of Mercury. Told, not set.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "only_told")]
    pub version: Option<String>,
    /// Payload bytes that go with a request's message; longer payloads are fetched. Told, not set: see
    /// [`na_max_unexpected_size`](Self::na_max_unexpected_size).
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "only_told")]
    pub input_eager_size: Option<u64>,
    /// The same for responses. Told, not set: see [`na_max_expected_size`](Self::na_max_expected_size).
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "only_told")]
    pub output_eager_size: Option<u64>,
    /// Whether peers on the same node are reached through shared memory. They must be of the same user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_sm: Option<bool>,
    /// A name for the shared memory of `auto_sm`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sm_info_string: Option<String>,
    /// Requests that a fresh context is ready to receive, 65,536 at most. 0 is Mercury's default, 512.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_post_init: Option<u32>,
    /// How many more when those are used up, 65,536 at most; 0 or -1: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_post_incr: Option<i32>,
    /// Whether small bulk data never goes along with the descriptor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_bulk_eager: Option<bool>,
    /// Whether calls to self go through the plugin. Calls of an engine to itself do not reach Mercury in any case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_loopback: Option<bool>,
    /// Whether Mercury prints statistics at exit, if it was built for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stats: Option<bool>,
    /// Whether the plugin never blocks, and looks all the time instead. By default it does so over libfabric where the
    /// engine is [`Busy`](crate::Progress::Busy). Over `na+sm` all processes must have the same, or they cannot reach each other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub na_no_block: Option<bool>,
    /// Whether an operation that finds its queue full fails instead of being tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub na_no_retry: Option<bool>,
    /// Contexts that the class is ready for, from 1 to 255; the engine uses one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_contexts: Option<u8>,
    /// The subnet to use, `10.0.0.0/8` say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_subnet: Option<String>,
    /// The fabric's authorization key. Not shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_key: Option<AuthKey>,
    /// Largest message of a request, in bytes, from 512 to 16 MiB, as a hint to the plugin. 0 is the plugin's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub na_max_unexpected_size: Option<u64>,
    /// Largest message of a response, in bytes, from 512 to 16 MiB, as a hint to the plugin. 0 is the plugin's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub na_max_expected_size: Option<u64>,
    /// Whether bulk transfers from and to the memory of devices must be possible.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub na_request_mem_device: Option<bool>,
    /// The kind of addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub na_addr_format: Option<AddressFormat>,
    /// What is checksummed. Mercury must be built with checksums, here and at the peer; bulk data never is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checksum_level: Option<ChecksumLevel>,
    /// Whether each request is received into a buffer of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_multi_recv: Option<bool>,
    /// Whether buffers of requests are given back as early as possible.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release_input_early: Option<bool>,
    /// The fabric's class of traffic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traffic_class: Option<TrafficClass>,
    /// Whether a payload that does not fit into a message is an error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_overflow: Option<bool>,
    /// Buffers that many requests are received into, 1 at least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multi_recv_op_max: Option<u32>,
    /// When so many of those are left, requests are copied out of them. Not more than there are; 0 is never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multi_recv_copy_threshold: Option<u32>,
    /// What Mercury logs: `none`, `fatal`, `error`, `warning`, `min_debug` or `debug`. The variable `HG_LOG_LEVEL` is
    /// stronger.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_level: Option<String>,
    /// Which parts of it log: `hg,na` say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_subsys: Option<String>,
}

/// Kinds of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
#[non_exhaustive]
pub enum AddressFormat {
    Unspec,
    Ipv4,
    Ipv6,
    Native,
}

/// What Mercury's checksums cover.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
#[non_exhaustive]
pub enum ChecksumLevel {
    None,
    RpcHeaders,
    RpcPayload,
}

/// Classes of traffic, where a fabric has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
#[non_exhaustive]
pub enum TrafficClass {
    Unspec,
    BestEffort,
    LowLatency,
    BulkData,
    DedicatedAccess,
    Scavenger,
    NetworkCtrl,
}

impl MercuryConfig {
    /// # Errors
    /// A value that is out of range. What the installed Mercury can do is checked when it starts.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key: &str, reason: String| Err(ConfigError::at(&format!("mercury.{key}"), reason));
        let sizes = [
            ("na_max_unexpected_size", self.na_max_unexpected_size),
            ("na_max_expected_size", self.na_max_expected_size),
        ];
        for (key, size) in sizes {
            if let Some(size) = size
                && size != 0
                && !(MESSAGE_MIN..=MESSAGE_MAX).contains(&size)
            {
                return wrong(key, format!("{size} is neither 0 nor from {MESSAGE_MIN} to {MESSAGE_MAX} bytes"));
            }
        }
        let posted = [
            ("request_post_init", self.request_post_init),
            ("request_post_incr", self.request_post_incr.and_then(|more| u32::try_from(more).ok())),
        ];
        for (key, posted) in posted {
            if let Some(posted) = posted.filter(|posted| *posted > POSTED_MAX) {
                return wrong(key, format!("{posted} is more than {POSTED_MAX}"));
            }
        }
        if let Some(more) = self.request_post_incr.filter(|more| *more < -1) {
            return wrong("request_post_incr", format!("{more} is less than -1"));
        }
        if self.max_contexts == Some(0) {
            return wrong("max_contexts", "0 would leave none for the engine".to_owned());
        }
        if self.multi_recv_op_max == Some(0) {
            return wrong("multi_recv_op_max", "0 would leave none to receive into".to_owned());
        }
        if let (Some(threshold), Some(max)) = (self.multi_recv_copy_threshold, self.multi_recv_op_max)
            && threshold > max
        {
            return wrong("multi_recv_copy_threshold", format!("{threshold} is more than multi_recv_op_max, {max}"));
        }
        let texts = [
            ("sm_info_string", &self.sm_info_string),
            ("ip_subnet", &self.ip_subnet),
            ("log_level", &self.log_level),
            ("log_subsys", &self.log_subsys),
        ];
        for (key, text) in texts {
            if text.as_ref().is_some_and(|text| text.contains('\0')) {
                return wrong(key, "a text for Mercury has no NUL in it".to_owned());
            }
        }
        if self.auth_key.as_ref().is_some_and(AuthKey::has_nul) {
            return wrong("auth_key", "a text for Mercury has no NUL in it".to_owned());
        }
        let levels = ["none", "fatal", "error", "warning", "min_debug", "debug"];
        if let Some(level) = self.log_level.as_ref().filter(|level| !levels.contains(&level.as_str())) {
            return wrong("log_level", format!("{level:?} is none of {}", levels.join(", ")));
        }
        Ok(())
    }

    /// The first option that is set, by its key.
    pub(crate) fn first_key(&self) -> Option<String> {
        let set = serde_json::to_value(self).ok()?;
        set.as_object()?.keys().next().cloned()
    }
}

/// Refuses a key that a dump has and that nobody can set.
fn only_told<'de, D: Deserializer<'de>, T>(deserializer: D) -> Result<Option<T>, D::Error> {
    IgnoredAny::deserialize(deserializer)?;
    Err(D::Error::custom("it is told by a running engine and cannot be set: leave it out"))
}
