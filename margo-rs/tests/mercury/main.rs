//! What is special to engines over Mercury: how they end, what strangers and liars get, options, addresses.
//!
//! Without Mercury each test says so in a line and tests nothing.

mod addresses;
mod config;
mod ending;
#[cfg(mercury)]
mod given;
mod strangers;
mod support;
