//! Servers and clients of authenticated sessions, whole: over the network, with keys and with MUNGE.

mod bulk;
mod calls;
mod closing;
mod lifetimes;
mod peers;
mod revocations;
mod rules;
mod support;
mod turns;
