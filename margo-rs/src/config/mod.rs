//! Configuration as JSON: Margo's keys where they have a meaning here, and keys of our own for the rest.

mod argobots;
mod error;
mod limits;
mod mercury;
mod secret;

pub use self::argobots::{
    ArgobotsConfig, ArgobotsPoolConfig, PoolAccess, PoolKind, PoolName, SchedulerConfig, SchedulerKind, XstreamConfig,
};
pub use self::error::ConfigError;
pub use self::limits::LimitsConfig;
pub use self::mercury::{AddressFormat, ChecksumLevel, MercuryConfig, TrafficClass};
pub use self::secret::AuthKey;

pub(crate) use self::argobots::PRIMARY;

use crate::engine::Progress;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Most threads of a pool: more would fail when the pool starts, or keep the engine from serving while they are made.
const THREADS_MAX: usize = 1024;
/// Longest spin before parking, in milliseconds.
const SPINDOWN_MAX: f64 = 60_000.0;

/// Options of an engine in the form of JSON, all of them optional.
///
/// | key | meaning |
/// |---|---|
/// | `mercury` | options of Mercury: [`MercuryConfig`]; with a protocol of Mercury's only |
/// | `rpc_thread_count` | threads of the default pool, 1024 at most: [`Builder::rpc_threads`](crate::Builder::rpc_threads); 0 leaves it as it is. Margo's -1, handlers on the progress thread, does not exist here |
/// | `use_progress_thread` | `true`, as it always is here |
/// | `progress` | `"adaptive"`, `"busy"` or `"park"`: [`Progress`] |
/// | `progress_spindown_msec` | for how long `adaptive` looks before it parks, in milliseconds, fractions allowed |
/// | `pools` | further pools: `[{"name": "heavy", "threads": 2}]`, as [`Builder::pool`](crate::Builder::pool) |
/// | `argobots` | pools of Argobots: [`ArgobotsConfig`] |
/// | `rpc_pool` | the pool where handlers run that name none, as [`Builder::rpc_pool`](crate::Builder::rpc_pool): its name, or its place in the list of those of `argobots` |
/// | `limits` | [`LimitsConfig`] |
/// | `same_node` | [`Builder::same_node`](crate::Builder::same_node) |
///
/// Any other key is an error that names it, as is one of the wrong type or out of range. Keys of Margo that have no
/// meaning here are unknown: `progress_pool`, `progress_timeout_ub_msec`, `handle_cache_size`,
/// `enable_abt_profiling`, `monitoring`, `plumber`.
///
/// A service that has a configuration of its own can make this a part of it, by serde. Printed, it is JSON again; an
/// `auth_key` is not shown.
///
/// ```
/// use margo_rs::{Config, Engine, Wait};
///
/// let config: Config = r#"{"rpc_thread_count": 2, "limits": {"max_message": 1048576}}"#.parse()?;
/// let engine = Engine::builder("native+tcp://127.0.0.1").config(config).listen().wait()?;
/// println!("{}", engine.config());
///
/// let error = r#"{"rpc_thread_count": "two"}"#.parse::<Config>().unwrap_err();
/// assert_eq!(error.key(), Some("rpc_thread_count"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Config {
    /// Options of Mercury.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mercury: Option<MercuryConfig>,
    /// Threads of the default pool; 0 leaves it as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rpc_thread_count: Option<usize>,
    /// Always `true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_progress_thread: Option<bool>,
    /// How waiting is done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<ProgressMode>,
    /// For how long [`ProgressMode::Adaptive`] looks before it parks, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress_spindown_msec: Option<f64>,
    /// Pools besides the default one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pools: Option<Vec<PoolConfig>>,
    /// Pools of Argobots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub argobots: Option<ArgobotsConfig>,
    /// The pool where handlers run that name none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rpc_pool: Option<PoolName>,
    /// What peers may make the engine hold, and for how long it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<LimitsConfig>,
    /// Whether `native+tcp` uses shared memory with peers on its node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub same_node: Option<bool>,
}

/// A kind of [`Progress`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ProgressMode {
    /// [`Progress::Adaptive`].
    Adaptive,
    /// [`Progress::Busy`].
    Busy,
    /// [`Progress::Park`].
    Park,
}

/// A pool with threads of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct PoolConfig {
    /// Its name.
    pub name: String,
    /// How many threads it has, from 1 to 1024.
    pub threads: usize,
}

impl PoolConfig {
    /// A pool of that name with so many threads.
    pub fn new(name: impl Into<String>, threads: usize) -> Self {
        Self { name: name.into(), threads }
    }
}

impl Config {
    /// # Errors
    /// A value that is out of range or that nothing here can do.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        if let Some(mercury) = &self.mercury {
            mercury.check()?;
        }
        if self.use_progress_thread == Some(false) {
            let reason = "an engine always has a progress thread of its own; leave it out";
            return Err(ConfigError::at("use_progress_thread", reason));
        }
        if let Some(spindown) = self.progress_spindown_msec {
            if !(0.0..=SPINDOWN_MAX).contains(&spindown) {
                let reason = format!("{spindown} is not from 0 to {SPINDOWN_MAX} milliseconds");
                return Err(ConfigError::at("progress_spindown_msec", reason));
            }
            if matches!(self.progress, Some(ProgressMode::Busy | ProgressMode::Park)) {
                let reason = "only \"progress\": \"adaptive\" looks for a time and then parks";
                return Err(ConfigError::at("progress_spindown_msec", reason));
            }
        }
        if let Some(argobots) = &self.argobots {
            argobots.check()?;
        }
        if let Some(PoolName::Index(at)) = self.rpc_pool
            && self.argobots.as_ref().is_none_or(|argobots| at >= argobots.pools.len())
        {
            return Err(ConfigError::at("rpc_pool", format!("argobots.pools has no pool at {at}")));
        }
        let too_many = |threads: usize| format!("{threads} are more than {THREADS_MAX} threads");
        if let Some(threads) = self.rpc_thread_count.filter(|threads| *threads > THREADS_MAX) {
            return Err(ConfigError::at("rpc_thread_count", too_many(threads)));
        }
        for (at, pool) in self.pools.iter().flatten().enumerate() {
            if pool.threads > THREADS_MAX {
                return Err(ConfigError::at(&format!("pools[{at}].threads"), too_many(pool.threads)));
            }
            if pool.threads == 0 {
                let reason = "a pool needs a thread at least";
                return Err(ConfigError::at(&format!("pools[{at}].threads"), reason));
            }
        }
        Ok(())
    }

    /// How waiting is done, if this says anything about it.
    pub(crate) fn progress(&self) -> Option<Progress> {
        let default = || match Progress::default() {
            Progress::Adaptive(budget) => budget,
            Progress::Busy | Progress::Park => Duration::ZERO,
        };
        let budget = self.progress_spindown_msec.map(|msec| Duration::from_secs_f64(msec / 1000.0));
        match (self.progress, budget) {
            (Some(ProgressMode::Busy), _) => Some(Progress::Busy),
            (Some(ProgressMode::Park), _) => Some(Progress::Park),
            (Some(ProgressMode::Adaptive), None) => Some(Progress::Adaptive(default())),
            (_, Some(budget)) => Some(Progress::Adaptive(budget)),
            (None, None) => None,
        }
    }

    /// The keys for a way of waiting.
    pub(crate) fn set_progress(&mut self, progress: Progress) {
        let (mode, budget) = match progress {
            Progress::Adaptive(budget) => (ProgressMode::Adaptive, Some(budget.as_secs_f64() * 1000.0)),
            Progress::Busy => (ProgressMode::Busy, None),
            Progress::Park => (ProgressMode::Park, None),
        };
        (self.progress, self.progress_spindown_msec) = (Some(mode), budget);
    }
}

impl FromStr for Config {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        // So that what is wrong from here on is wrong with a key.
        let json: Value = serde_json::from_str(text).map_err(|error| ConfigError::not_json(&error))?;
        check_sections(&json)?;
        let config: Self = serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_str(text))?;
        config.check()?;
        Ok(config)
    }
}

/// # Errors
/// A list stands where keys should, which serde would take for their values.
fn check_sections(json: &Value) -> Result<(), ConfigError> {
    let sections = json.as_object().ok_or_else(ConfigError::no_object)?;
    let pools = sections.get("pools").and_then(Value::as_array).into_iter().flatten();
    let pools = pools.enumerate().map(|(at, pool)| (format!("pools[{at}]"), pool));
    let named = ["mercury", "limits"].into_iter().filter_map(|key| Some((key.to_owned(), sections.get(key)?)));
    let argobots = sections.get("argobots").map(ArgobotsConfig::objects).unwrap_or_default();
    match named.chain(pools).chain(argobots).find(|(_, section)| section.is_array()) {
        Some((key, _)) => Err(ConfigError::at(&key, "expected an object, not a list")),
        None => Ok(()),
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string_pretty(self).map_err(|_| fmt::Error)?)
    }
}

#[cfg(test)]
mod tests;
