//! Mochi for Rust.
