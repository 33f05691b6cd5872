//! What every transport owes a program, as tests: each one runs on every transport of the build and in every mode of
//! making progress.

mod bulk;
mod calls;
mod cancel;
mod faults;
mod handlers;
mod lent;
mod lifecycle;
mod limits;
mod network;
mod providers;
mod raw;
mod stranger;
mod support;
