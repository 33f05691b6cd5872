//! margo-rs
