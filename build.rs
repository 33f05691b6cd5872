//! Lets our programs find a libmunge outside the system's directories, such as that of a Spack environment, at run
//! time. Mercury's directories will follow here once it is linked.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if let Some(directory) = env::var_os("DEP_MOCHI_AUTH_MUNGE_LIBDIR") {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{}", directory.display());
    }
}
