//! The staged example pairs as their users run them: whole processes, a real munged, and everything that goes wrong.

mod failures;
mod full;
mod full_failures;
mod process;
mod realm;
mod success;
mod tokens;

/// The stages without sessions of `mochi-auth`, by the first part of their programs' names.
const STAGES: [&str; 3] = ["simple_auth", "mac", "mac_session"];

/// Loopback only.
const PROTOCOL: &str = "native+tcp://127.0.0.1";
