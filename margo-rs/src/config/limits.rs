//! Limits as JSON.

use crate::limits::Limits;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Makes the structure, and both ways between it and [`Limits`].
macro_rules! limits {
    ($($(#[$doc:meta])* $key:ident: $type:ty = $limit:ident $(as $unit:ident)?;)*) => {
        /// [`Limits`] as JSON. Sizes are in bytes, and times, with a key that ends in `_msec`, in milliseconds.
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        #[non_exhaustive]
        pub struct LimitsConfig {
            $(
                $(#[$doc])*
                #[serde(skip_serializing_if = "Option::is_none")]
                pub $key: Option<$type>,
            )*
        }

        impl LimitsConfig {
            /// Changes the limits that are given.
            pub(crate) fn apply(&self, limits: &mut Limits) {
                $(if let Some(value) = self.$key { limits.$limit = limits!(@to value $($unit)?); })*
            }
        }

        impl From<&Limits> for LimitsConfig {
            fn from(limits: &Limits) -> Self {
                Self { $($key: Some(limits!(@from limits.$limit, $($unit)?)),)* }
            }
        }
    };
    (@to $value:ident) => { $value };
    (@to $value:ident msec) => { Duration::from_millis($value) };
    (@from $value:expr,) => { $value };
    (@from $value:expr, msec) => { u64::try_from($value.as_millis()).unwrap_or(u64::MAX) };
}

limits! {
    /// [`Limits::max_message`].
    max_message: u64 = max_message;
    /// [`Limits::max_in_flight`].
    max_in_flight: u32 = max_in_flight;
    /// [`Limits::max_bytes`].
    max_bytes: u64 = max_bytes;
    /// [`Limits::max_in_flight_total`].
    max_in_flight_total: usize = max_in_flight_total;
    /// [`Limits::max_bytes_total`].
    max_bytes_total: u64 = max_bytes_total;
    /// [`Limits::max_queued`].
    max_queued: usize = max_queued;
    /// [`Limits::max_connections`].
    max_connections: usize = max_connections;
    /// [`Limits::max_connections_per_user`].
    max_connections_per_user: usize = max_connections_per_user;
    /// [`Limits::handshake_timeout`].
    handshake_timeout_msec: u64 = handshake_timeout as msec;
    /// [`Limits::connect_timeout`].
    connect_timeout_msec: u64 = connect_timeout as msec;
    /// [`Limits::keepalive`].
    keepalive_msec: u64 = keepalive as msec;
    /// [`Limits::unacknowledged_timeout`].
    unacknowledged_timeout_msec: u64 = unacknowledged_timeout as msec;
    /// [`Limits::stall_timeout`].
    stall_timeout_msec: u64 = stall_timeout as msec;
    /// [`Limits::shutdown_grace`].
    shutdown_grace_msec: u64 = shutdown_grace as msec;
    /// [`Limits::default_timeout`].
    default_timeout_msec: u64 = default_timeout as msec;
}
