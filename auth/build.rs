//! Finds libmunge with pkg-config. munge-sys links `munge` from the system's directory only; this
//! adds the directory of the libmunge that pkg-config knows, for instance one of a Spack
//! environment.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Our tests link what margo-rs links.
    let mercury = std::env::var_os("DEP_MARGO_RS_LIBDIRS").unwrap_or_default();
    for directory in std::env::split_paths(&mercury).filter(|directory| !directory.as_os_str().is_empty()) {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{}", directory.display());
    }
    #[cfg(feature = "munge")]
    find_libmunge();
}

#[cfg(feature = "munge")]
fn find_libmunge() {
    if std::env::var_os("DOCS_RS").is_some() {
        return; // nothing is linked there
    }
    match pkg_config::Config::new().probe("munge") {
        Ok(library) => {
            // pkg-config leaves out directories that the loader searches anyway.
            for directory in &library.link_paths {
                println!("cargo::rustc-link-arg=-Wl,-rpath,{}", directory.display());
                println!("cargo::metadata=libdir={}", directory.display());
            }
        }
        Err(error) => {
            println!(
                "cargo::error=libmunge was not found by pkg-config ({}). Install libmunge-dev (Debian, Ubuntu) or \
                 munge-devel (Fedora, RHEL, SUSE), or put the directory of munge.pc into PKG_CONFIG_PATH (with Spack: \
                 `spack load munge pkgconf`), or build without MUNGE: --no-default-features",
                first_line(&error.to_string())
            );
        }
    }
}

#[cfg(feature = "munge")]
fn first_line(text: &str) -> &str {
    text.lines().find(|line| !line.trim().is_empty()).unwrap_or("no reason given").trim()
}
