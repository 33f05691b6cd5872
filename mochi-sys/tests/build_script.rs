//! What whoever builds this crate is told: one line, about whatever pkg-config, the compiler and libclang find or do not.
//!
//! Cargo has built the build script to build this test. It is run again here, on packages that are not there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// The build script, as cargo has built it: with the outputs of several builds it is the last one.
fn script() -> PathBuf {
    let builds = Path::new(env!("OUT_DIR")).ancestors().nth(2).expect("a directory of build scripts");
    let scripts = fs::read_dir(builds).expect("it is there").filter_map(|entry| {
        let entry = entry.ok().filter(|entry| entry.file_name().to_string_lossy().starts_with("mochi-sys-"))?;
        let script = entry.path().join("build-script-build");
        Some((fs::metadata(&script).ok()?.modified().ok()?, script))
    });
    scripts.max().expect("cargo has built it").1
}

/// A directory where pkg-config finds these packages, and nothing else.
struct Packages(PathBuf);

impl Packages {
    /// Each is a name, a version, and what it requires.
    fn new(packages: &[(&str, &str, &str)]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("packages-{}-{number}", std::process::id()));
        fs::create_dir_all(directory.join("include")).expect("a directory");
        for (name, version, requires) in packages {
            let text = format!(
                "prefix={0}\n\nName: {name}\nDescription: none\nVersion: {version}\nRequires.private: {requires}\n\
                 Libs: -L{0} -l{name}\nCflags: -I{0}/include\n",
                directory.display()
            );
            fs::write(directory.join(format!("{name}.pc")), text).expect("a file");
        }
        Self(directory)
    }

    /// Mercury of that release, as it is installed, but for its headers.
    fn mercury(version: &str) -> Self {
        Self::new(&[
            ("mercury", version, "mercury_util na"),
            ("na", "6.0.0", "mercury_util"),
            ("mercury_util", "4.0.0", ""),
        ])
    }

    /// What the script says to cargo.
    fn build(&self, choice: &str, variables: &[(&str, &str)]) -> Vec<String> {
        let mut command = Command::new(script());
        command.current_dir(env!("CARGO_MANIFEST_DIR"));
        for inherited in ["MERCURY_NO_PKG_CONFIG", "ARGOBOTS_NO_PKG_CONFIG", "PKG_CONFIG_PATH", "DOCS_RS"] {
            command.env_remove(inherited);
        }
        let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        command.env("PKG_CONFIG_LIBDIR", &self.0).env("MOCHI_MERCURY", choice);
        command
            .env("TARGET", &target)
            .env("HOST", &target)
            .env("OUT_DIR", &self.0)
            .env("OPT_LEVEL", "0")
            .env("DEBUG", "0");
        command.envs(variables.iter().copied());
        let output = command.output().expect("it starts");
        assert!(output.status.success(), "cargo shows its error alone: {output:?}");
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
    }

    /// The one error.
    fn error(&self, choice: &str, variables: &[(&str, &str)]) -> String {
        let said = self.build(choice, variables);
        let errors: Vec<&str> = said.iter().filter_map(|line| line.strip_prefix("cargo::error=")).collect();
        let [error] = errors[..] else { panic!("{said:?}") };
        error.to_owned()
    }
}

impl Drop for Packages {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Whether libraries can be looked for here at all.
fn has_pkg_config() -> bool {
    let found = Command::new("pkg-config").arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        println!("not tested: there is no pkg-config");
    }
    found
}

fn links_nothing(said: &[String]) -> bool {
    !said.iter().any(|line| line.starts_with("cargo::rustc-cfg") || line.starts_with("cargo::error"))
}

#[test]
fn a_choice_that_is_none_is_named() {
    for wrong in ["yes", "Require", "off "] {
        let error = Packages::new(&[]).error(wrong, &[]);
        assert!(error.contains(&format!("MOCHI_MERCURY is {wrong:?}")) && error.contains("`require`"), "{error}");
    }
}

#[test]
fn where_nothing_is_installed_nothing_is_linked_unless_it_is_required() {
    let nothing = Packages::new(&[]);
    for choice in ["auto", "", "off"] {
        assert!(links_nothing(&nothing.build(choice, &[])), "{choice:?}");
    }
    let error = nothing.error("require", &[]);
    assert!(error.contains("does not find Mercury") && error.contains("PKG_CONFIG_PATH"), "{error}");
}

#[test]
fn off_leaves_alone_what_is_installed_and_could_not_be_used() {
    assert!(links_nothing(&Packages::mercury("1.0.0").build("off", &[])));
}

#[test]
fn a_release_that_is_out_of_range_is_named_with_the_range() {
    if !has_pkg_config() {
        return;
    }
    for version in ["2.1.0", "2.0.1", "2.5.0", "3.0.0rc1"] {
        for choice in ["auto", "require"] {
            let error = Packages::mercury(version).error(choice, &[]);
            assert!(error.contains(version) && error.contains("2.2 to 2.4") && error.contains("=off"), "{error}");
        }
    }
    for choice in ["auto", ""] {
        let error = Packages::new(&[("argobots", "1.0.1", "")]).error(choice, &[]);
        assert!(
            error.contains("Argobots 1.0.1") && error.contains("1.1 and newer") && error.contains("=off"),
            "{error}"
        );
    }
    let error = Packages::mercury("unknown").error("auto", &[]);
    assert!(error.contains("\"unknown\", which is no version"), "{error}");
}

/// Not taken for one that is not there: its owner would find out on the machine where it is needed.
#[test]
fn a_package_that_pkg_config_cannot_use_is_an_error_that_names_what_is_missing() {
    if !has_pkg_config() {
        return;
    }
    let packages = [("mercury", "2.4.1", "mercury_util na"), ("mercury_util", "4.0.0", "")];
    for choice in ["auto", "require"] {
        let error = Packages::new(&packages).error(choice, &[]);
        assert!(error.starts_with("Mercury is installed") && error.contains("na"), "{error}");
        assert!(error.contains("'na'") || error.contains("na.pc"), "{error}");
    }
    let error = Packages::new(&[("mercury", "2.4.1", "")]).error("auto", &[]);
    assert!(error.contains("part na"), "{error}");
    let error = Packages::new(&[("argobots", "1.2", "nowhere")]).error("auto", &[]);
    assert!(error.starts_with("Argobots is installed") && error.contains("nowhere"), "{error}");
}

#[test]
fn missing_headers_and_a_missing_libclang_are_told_with_what_to_install() {
    if !has_pkg_config() {
        return;
    }
    let error = Packages::mercury("2.4.1").error("auto", &[]);
    assert!(error.contains("Mercury is installed") && error.contains("headers") && error.contains("=off"), "{error}");
    let argobots = Packages::new(&[("argobots", "1.2", "")]);
    // Where there is no libclang either, that is what is told.
    let error = argobots.error("auto", &[]);
    assert!(error.contains("Argobots's headers cannot be read") || error.contains("libclang-dev"), "{error}");
    let error = argobots.error("auto", &[("LIBCLANG_PATH", "/nonexistent")]);
    assert!(error.contains("libclang-dev") && error.contains("LIBCLANG_PATH") && error.contains("=off"), "{error}");
}
