//! Passes on what mochi-sys found: whether Mercury and Argobots are linked, and where the loader finds them.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("DEP_MERCURY_VERSION").is_some() {
        println!("cargo::rustc-cfg=mercury");
    }
    if env::var_os("DEP_MERCURY_ARGOBOTS").is_some() {
        println!("cargo::rustc-cfg=argobots");
    }
    let directories = env::var_os("DEP_MERCURY_LIBDIRS").unwrap_or_default();
    for directory in env::split_paths(&directories).filter(|directory| !directory.as_os_str().is_empty()) {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{}", directory.display());
    }
    println!("cargo::metadata=libdirs={}", directories.to_string_lossy());
}
