//! Authentication for margo-rs services.
