//! The staged example pairs as their users run them: whole processes, a real munged, and everything that goes wrong.

mod c_programs;
mod failures;
mod full;
mod full_failures;
mod process;
mod realm;
mod success;
mod tokens;

/// The stages without sessions of `mochi-auth`, by the first part of their programs' names.
const STAGES: [&str; 3] = ["simple_auth", "mac", "mac_session"];

/// Loopback only. `MOCHI_TEST_TRANSPORT`, when the tests are built, names another way: `ofi+tcp://127.0.0.1`, `na+sm`.
const PROTOCOL: &str = match option_env!("MOCHI_TEST_TRANSPORT") {
    Some(address) => address,
    None => "native+tcp://127.0.0.1",
};

/// Mercury's shared memory is for processes of one user.
fn only_this_user() -> bool {
    let only = PROTOCOL == "na+sm";
    if only {
        println!("not tested: {PROTOCOL} has no other users");
    }
    only
}
