use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use super::client::Munge;
use super::error::MungeError;
use super::ffi::Context;
use crate::helpers::{HelperPool, Limits};

/// The path of a Unix socket with its final NUL must fit `sockaddr_un` (unix(7)).
const PATH_MAX: usize = 107;
const THREADS_MAX: usize = 256;
const TIMEOUT_MAX: Duration = Duration::from_secs(3600);

/// Choices for a [`Munge`].
#[derive(Clone, Debug)]
#[must_use]
pub struct MungeBuilder {
    socket: Option<PathBuf>,
    timeout: Duration,
    threads: usize,
    queue: usize,
}

impl Default for MungeBuilder {
    fn default() -> Self {
        Self { socket: None, timeout: Duration::from_secs(2), threads: 4, queue: 256 }
    }
}

impl MungeBuilder {
    /// The daemon's socket; by default the one libmunge was built with. At most 107 bytes.
    pub fn socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.socket = Some(path.into());
        self
    }

    /// The time each call may take in all, the wait for a helper included. By default 2 s, at most
    /// 1 h.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The most helper threads, 1 to 256. By default 4; a `munged` as delivered serves 2 calls at a
    /// time.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// The most calls that wait while all helpers are busy. By default 256.
    pub fn queue(mut self, calls: usize) -> Self {
        self.queue = calls;
        self
    }

    /// Makes the handle. Neither starts a thread nor asks the daemon.
    ///
    /// # Errors
    /// [`MungeError::InvalidOption`], or [`MungeError::OutOfMemory`].
    pub fn build(self) -> Result<Munge, MungeError> {
        let invalid = |option, problem| Err(MungeError::InvalidOption { option, problem });
        if self.threads == 0 || self.threads > THREADS_MAX {
            return invalid("threads", "must be 1 to 256");
        }
        Self::check_timeout(self.timeout)?;
        if self.queue > usize::MAX - THREADS_MAX {
            return invalid("queue", "too large");
        }
        let path = match self.socket {
            Some(path) => path,
            None => default_socket()?,
        };
        if path.as_os_str().is_empty() {
            return invalid("socket", "an empty path");
        }
        if path.as_os_str().len() > PATH_MAX {
            return invalid("socket", "the path is longer than the 107 bytes a Unix socket may have");
        }
        let Ok(c_path) = CString::new(path.as_os_str().as_bytes()) else {
            return invalid("socket", "the path has a NUL byte");
        };
        let pool = HelperPool::new("munge", Limits { helpers: self.threads, waiting: self.queue });
        Ok(Munge::new(pool, path, c_path, self.timeout))
    }

    pub(super) fn check_timeout(timeout: Duration) -> Result<(), MungeError> {
        if timeout.is_zero() || timeout > TIMEOUT_MAX {
            return Err(MungeError::InvalidOption {
                option: "timeout",
                problem: "must be more than 0 and at most 1 h",
            });
        }
        Ok(())
    }
}

fn default_socket() -> Result<PathBuf, MungeError> {
    let nowhere = PathBuf::new();
    let mut context = Context::new()
        .map_err(|failure| MungeError::from_status(failure.status, failure.detail, &nowhere, failure.metadata))?;
    context.socket().ok_or(MungeError::InvalidOption { option: "socket", problem: "libmunge names no default" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(builder: MungeBuilder) -> &'static str {
        match builder.build() {
            Err(MungeError::InvalidOption { option, .. }) => option,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn impossible_choices_name_the_option() {
        let builder = MungeBuilder::default;
        assert_eq!(problem(builder().threads(0)), "threads");
        assert_eq!(problem(builder().threads(257)), "threads");
        assert_eq!(problem(builder().timeout(Duration::ZERO)), "timeout");
        assert_eq!(problem(builder().timeout(Duration::MAX)), "timeout");
        assert_eq!(problem(builder().queue(usize::MAX)), "queue");
        assert_eq!(problem(builder().socket("")), "socket");
        assert_eq!(problem(builder().socket("/a\0b")), "socket");
        assert_eq!(problem(builder().socket(format!("/{}", "a".repeat(107)))), "socket");
    }

    #[test]
    fn the_default_socket_is_libmunges() {
        let munge = MungeBuilder::default().build().expect("defaults");
        assert!(munge.socket().is_absolute(), "{munge:?}");
    }
}
