//! The clock and the random bytes that the pure parts are given.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ring::rand::{SecureRandom, SystemRandom};
use rustix::time::{ClockId, clock_gettime};

use crate::protocol::{Secret, Tick};

/// The monotonic time, to 4 ms or so: lifetimes need no more, and it costs a fraction of a precise reading.
#[inline]
pub(crate) fn now() -> Tick {
    let time = clock_gettime(ClockId::MonotonicCoarse);
    Tick(time.tv_sec as u64 * 1000 + time.tv_nsec as u64 / 1_000_000)
}

/// The wall clock in ms since 1970, or 0 where it is set to before.
pub(crate) fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The system gave no random bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no random bytes from the system")]
pub struct NoRandom;

/// Random bytes of the system.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], NoRandom> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| NoRandom)?;
    Ok(bytes)
}

/// Random bytes of the system that nobody else may learn.
pub(crate) fn random_secret<const N: usize>() -> Result<Secret<N>, NoRandom> {
    let mut filled = Ok(());
    let secret = Secret::new(|bytes: &mut [u8; N]| filled = SystemRandom::new().fill(bytes).map_err(|_| NoRandom));
    filled.map(|()| secret)
}
