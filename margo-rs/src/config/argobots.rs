//! Margo's `argobots` section: pools of Argobots and the execution streams that take from them.

use super::ConfigError;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;

/// Name of the pool that every engine has, as in Margo.
pub(crate) const PRIMARY: &str = "__primary__";
/// Most execution streams; each is a thread.
const XSTREAMS_MAX: usize = 1024;

/// Margo's `argobots` section. Every pool in it becomes a [`Pool`](crate::Pool) of the engine's when that starts, which
/// fails where Argobots is not linked.
///
/// What is wanted must be possible for handlers in Rust: each execution stream takes from one pool, and each pool has an
/// execution stream at least. The pool and the stream `__primary__`, which Margo has in any case, are not listed. Margo's
/// keys for stacks and profiling, and `affinity`, are unknown here.
///
/// ```json
/// {
///   "argobots": {
///     "pools": [{"name": "heavy", "kind": "fifo_wait", "access": "mpmc"}],
///     "xstreams": [{"name": "x0", "cpubind": 1, "scheduler": {"type": "basic_wait", "pools": ["heavy"]}}]
///   },
///   "rpc_pool": "heavy"
/// }
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct ArgobotsConfig {
    /// The pools.
    pub pools: Vec<ArgobotsPoolConfig>,
    /// The execution streams.
    pub xstreams: Vec<XstreamConfig>,
}

/// A pool of Argobots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ArgobotsPoolConfig {
    /// Its name.
    pub name: String,
    /// How it keeps its work.
    #[serde(default)]
    pub kind: PoolKind,
    /// Who may push and take.
    #[serde(default)]
    pub access: PoolAccess,
}

/// A kind of pool. Margo's own, `prio_wait` and `earliest_first`, do not exist here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PoolKind {
    /// For a scheduler that never sleeps.
    Fifo,
    /// For one that sleeps until there is work.
    #[default]
    FifoWait,
}

/// Who may use a pool. Handlers are pushed from any thread, so that Margo's others are not possible.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PoolAccess {
    /// Anybody.
    #[default]
    Mpmc,
}

/// An execution stream: a thread of Argobots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct XstreamConfig {
    /// Its name, for whoever reads the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The processor to stay on, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpubind: Option<u16>,
    /// What it does.
    pub scheduler: SchedulerConfig,
}

/// How an execution stream chooses its work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct SchedulerConfig {
    /// Argobots' scheduler.
    #[serde(rename = "type", default)]
    pub kind: SchedulerKind,
    /// The pool that it takes from.
    pub pools: Vec<PoolName>,
}

/// One of Argobots' schedulers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SchedulerKind {
    /// `ABT_SCHED_DEFAULT`.
    Default,
    /// `ABT_SCHED_BASIC`, which does not sleep.
    Basic,
    /// `ABT_SCHED_PRIO`, of which one pool makes no more than `Basic`.
    Prio,
    /// `ABT_SCHED_RANDWS`, likewise.
    Randws,
    /// `ABT_SCHED_BASIC_WAIT`, which sleeps until there is work.
    #[default]
    BasicWait,
}

/// A pool of the section: by its place in the list, or by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a pool's name, or its place in the list of pools")]
pub enum PoolName {
    /// Its place, from 0.
    Index(usize),
    /// Its name.
    Name(String),
}

impl fmt::Display for PoolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PoolName::Index(at) => write!(f, "{at}"),
            PoolName::Name(name) => write!(f, "{name:?}"),
        }
    }
}

impl ArgobotsConfig {
    /// # Errors
    /// What is wanted cannot be had here.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        for (at, pool) in self.pools.iter().enumerate() {
            let wrong = |reason: &str| Err(ConfigError::at(&format!("argobots.pools[{at}].name"), reason));
            if pool.name == PRIMARY {
                return wrong("this pool is there in any case; name another with rpc_pool, and leave this out");
            }
            if self.pools[..at].iter().any(|before| before.name == pool.name) {
                return wrong("another pool has this name");
            }
            if self.xstreams_of(at).next().is_none() {
                return wrong("no execution stream takes from this pool; list one in argobots.xstreams");
            }
        }
        if self.xstreams.len() > XSTREAMS_MAX {
            let reason = format!("more than {XSTREAMS_MAX} execution streams");
            return Err(ConfigError::at("argobots.xstreams", reason));
        }
        for (at, xstream) in self.xstreams.iter().enumerate() {
            let wrong =
                |reason: String| Err(ConfigError::at(&format!("argobots.xstreams[{at}].scheduler.pools"), reason));
            let [pool] = &xstream.scheduler.pools[..] else {
                return wrong(
                    "an execution stream takes from one pool here, neither from none nor from more".to_owned(),
                );
            };
            if self.place(pool).is_none() {
                return wrong(format!("{pool} is no pool of argobots.pools"));
            }
        }
        Ok(())
    }

    /// Where a pool is in the list.
    pub(crate) fn place(&self, pool: &PoolName) -> Option<usize> {
        match pool {
            PoolName::Index(at) => Some(*at).filter(|at| *at < self.pools.len()),
            PoolName::Name(name) => self.pools.iter().position(|pool| pool.name == *name),
        }
    }

    /// The execution streams that take from a pool.
    pub(crate) fn xstreams_of(&self, pool: usize) -> impl Iterator<Item = &XstreamConfig> {
        let takes =
            move |xstream: &&XstreamConfig| xstream.scheduler.pools.iter().any(|name| self.place(name) == Some(pool));
        self.xstreams.iter().filter(takes)
    }

    /// Parts of the section that must be objects, each with its key; a list would be taken for their values.
    pub(super) fn objects(section: &Value) -> Vec<(String, &Value)> {
        let of = |list: &str| section.get(list).and_then(Value::as_array).into_iter().flatten().enumerate();
        let mut objects = vec![("argobots".to_owned(), section)];
        objects.extend(of("pools").map(|(at, pool)| (format!("argobots.pools[{at}]"), pool)));
        for (at, xstream) in of("xstreams") {
            objects.push((format!("argobots.xstreams[{at}]"), xstream));
            objects.extend(xstream.get("scheduler").map(|of| (format!("argobots.xstreams[{at}].scheduler"), of)));
        }
        objects
    }
}
