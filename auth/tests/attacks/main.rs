//! Attacks on authenticated sessions, whole: against real servers, over the network.
//!
//! After each attack the tests ask for the same ([`stage::Before::unharmed`]): an honest call works, no handler ran for
//! the attacker, the sessions are those from before, and the audit log has one event for each refusal.

mod audit;
mod bound;
mod downgrade;
mod floods;
mod handshakes;
mod history;
mod memory;
mod messages;
mod munge;
mod munge_down;
mod munge_users;
mod record;
mod rogue;
mod secrets;
mod splices;
mod stage;
mod stand_in;
mod stream;
mod tap;
mod threads;
mod wire;
