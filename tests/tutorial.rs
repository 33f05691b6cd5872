//! The tutorial, followed to the letter: its files make a package that compiles.

use std::fs;
use std::path::Path;
use std::process::Command;

/// The code block that follows `after` in the text.
fn block<'a>(text: &'a str, after: &str) -> &'a str {
    let from = text.find(after).unwrap_or_else(|| panic!("the tutorial names {after}"));
    let code = text[from..].split("```").nth(1).expect("a code block follows");
    code.split_once('\n').expect("a code block has lines").1
}

#[test]
fn the_files_of_the_tutorial_compile() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(here.join("docs/tutorial.md")).unwrap();
    let package = tempfile::tempdir().unwrap();
    let (margo_rs, mochi_auth) = (here.join("margo-rs"), here.join("auth"));
    let manifest = format!(
        "[package]\nname = \"kv\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[workspace]\n\n[dependencies]\n\
         serde = {{ version = \"1\", features = [\"derive\"] }}\n\
         tokio = {{ version = \"1\", features = [\"rt-multi-thread\", \"macros\", \"signal\"] }}\n\
         tracing-subscriber = {{ version = \"0.3\", default-features = false, features = [\"fmt\"] }}\n\
         margo-rs = {{ path = {margo_rs:?} }}\n\
         mochi-auth = {{ path = {mochi_auth:?} }}\n"
    );
    fs::create_dir_all(package.path().join("src/bin")).unwrap();
    fs::write(package.path().join("Cargo.toml"), manifest).unwrap();
    // The versions that are here already: nothing is downloaded.
    fs::copy(here.join("Cargo.lock"), package.path().join("Cargo.lock")).unwrap();
    let files = ["lib", "bin/kv-server", "bin/kv-client", "bin/kv-users-server", "bin/kv-users-client"];
    for file in files.map(|file| format!("src/{file}.rs")) {
        fs::write(package.path().join(&file), block(&text, &format!("`{file}`"))).unwrap();
    }
    let checked = Command::new(env!("CARGO"))
        .args(["check", "--offline", "--quiet"])
        .current_dir(package.path())
        .env("CARGO_TARGET_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("tutorial"))
        .output()
        .unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}
