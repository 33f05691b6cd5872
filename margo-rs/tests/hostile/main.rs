//! Peers that break the protocol: whatever they send, the server lives, others are served, and nothing is left behind.

mod bulk;
mod frames;
mod handshakes;
mod limits;
mod scene;
