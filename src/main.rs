//! The mochi command line tool.
fn main() {}
