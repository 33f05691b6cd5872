use std::time::Duration;

use super::error::MungeError;
use super::payload::Payload;

/// What a credential is to carry and who may decode it.
///
/// By default: no payload, the daemon's lifetime (300 s as delivered), and no restriction, so that
/// **any user of the realm can read the payload**.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct EncodeOptions {
    pub(super) payload: Payload,
    pub(super) ttl: Option<Duration>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
}

/// libmunge takes this id for "anyone" (`MUNGE_UID_ANY`, `MUNGE_GID_ANY`).
const ANY: u32 = u32::MAX;

impl EncodeOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Carries these bytes, at most [`Payload::LEN_MAX`].
    pub fn payload(mut self, payload: impl Into<Payload>) -> Self {
        self.payload = payload.into();
        self
    }

    /// Lets the credential expire this long after it was made, rounded up to whole seconds.
    ///
    /// The daemon silently lowers it to its own maximum (3600 s as delivered).
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Lets only processes with this effective uid decode the credential. Root is refused like any
    /// other.
    pub fn restrict_uid(mut self, uid: u32) -> Self {
        self.uid = Some(uid);
        self
    }

    /// Lets only processes decode the credential that have this effective gid, or whose user is a
    /// member of the group.
    pub fn restrict_gid(mut self, gid: u32) -> Self {
        self.gid = Some(gid);
        self
    }

    /// The lifetime as libmunge wants it; 0 is the daemon's default.
    pub(super) fn ttl_seconds(&self) -> Result<i32, MungeError> {
        let Some(ttl) = self.ttl else { return Ok(0) };
        let seconds = ttl.as_secs().saturating_add(u64::from(ttl.subsec_nanos() > 0));
        match i32::try_from(seconds) {
            Ok(0) => Err(MungeError::InvalidOption { option: "ttl", problem: "0 s would mean the daemon's default" }),
            Ok(seconds) => Ok(seconds),
            Err(_) => {
                Err(MungeError::InvalidOption { option: "ttl", problem: "more than 2^31 s; daemons allow 3600 s" })
            }
        }
    }

    pub(super) fn check(&self) -> Result<(), MungeError> {
        if self.payload.len() > Payload::LEN_MAX {
            return Err(MungeError::PayloadTooLong { len: self.payload.len(), max: Payload::LEN_MAX });
        }
        // Passed on, it would silently lift the restriction.
        if self.uid == Some(ANY) {
            return Err(MungeError::InvalidOption { option: "uid restriction", problem: "2^32 - 1 is no user" });
        }
        if self.gid == Some(ANY) {
            return Err(MungeError::InvalidOption { option: "gid restriction", problem: "2^32 - 1 is no group" });
        }
        self.ttl_seconds().map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifetime_is_rounded_up_to_seconds() {
        let seconds = |ttl| EncodeOptions::new().ttl(ttl).ttl_seconds();
        assert_eq!(seconds(Duration::from_millis(1)).ok(), Some(1));
        assert_eq!(seconds(Duration::from_millis(1001)).ok(), Some(2));
        assert_eq!(seconds(Duration::from_secs(30)).ok(), Some(30));
        assert!(seconds(Duration::ZERO).is_err());
        assert!(seconds(Duration::MAX).is_err());
        assert_eq!(EncodeOptions::new().ttl_seconds().ok(), Some(0));
    }

    #[test]
    fn the_id_that_would_lift_a_restriction_is_refused() {
        assert!(EncodeOptions::new().restrict_uid(u32::MAX).check().is_err());
        assert!(EncodeOptions::new().restrict_gid(u32::MAX).check().is_err());
        assert!(EncodeOptions::new().restrict_uid(0).restrict_gid(0).check().is_ok());
    }

    #[test]
    fn a_long_payload_is_refused() {
        assert!(EncodeOptions::new().payload(vec![0; Payload::LEN_MAX]).check().is_ok());
        let refused = EncodeOptions::new().payload(vec![0; Payload::LEN_MAX + 1]).check();
        assert!(matches!(refused, Err(MungeError::PayloadTooLong { .. })));
    }
}
