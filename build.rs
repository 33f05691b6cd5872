//! Lets our programs find the libraries that they link outside the system's directories, such as those of a Spack
//! environment, at run time: libmunge, and Mercury with Argobots where they are linked.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for variable in ["DEP_MOCHI_AUTH_MUNGE_LIBDIR", "DEP_MERCURY_LIBDIRS"] {
        let Some(directories) = env::var_os(variable) else { continue };
        for directory in env::split_paths(&directories).filter(|directory| !directory.as_os_str().is_empty()) {
            println!("cargo::rustc-link-arg=-Wl,-rpath,{}", directory.display());
        }
    }
}
