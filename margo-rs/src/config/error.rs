//! What is wrong with a configuration.

use std::fmt;
use thiserror::Error;

/// Why a configuration was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("configuration{}: {reason}", Key(.key.as_deref()))]
pub struct ConfigError {
    key: Option<String>,
    reason: String,
}

struct Key<'a>(Option<&'a str>);

impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |key| write!(f, " key `{key}`"))
    }
}

impl ConfigError {
    /// The key that is wrong, with those that lead to it: `mercury.request_post_init`, `pools[1].name`. `None` if the
    /// text is not JSON.
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    pub(crate) fn at(key: &str, reason: impl Into<String>) -> Self {
        Self { key: Some(key.to_owned()), reason: reason.into() }
    }

    pub(super) fn no_object() -> Self {
        Self { key: None, reason: "expected an object".to_owned() }
    }

    pub(super) fn not_json(error: &serde_json::Error) -> Self {
        Self { key: None, reason: format!("not JSON: {error}") }
    }
}

impl From<serde_path_to_error::Error<serde_json::Error>> for ConfigError {
    fn from(error: serde_path_to_error::Error<serde_json::Error>) -> Self {
        let path = error.path().to_string();
        let key = (path != ".").then_some(path);
        Self { key, reason: error.inner().to_string() }
    }
}
