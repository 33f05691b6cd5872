//! Looks for Mercury and Argobots with pkg-config, and binds what is there.
//!
//! `MOCHI_MERCURY` overrides: `off` links neither, `require` fails the build where one is missing, `auto` (the default)
//! takes what there is. A library that is there and cannot be used always fails the build, because going on without it
//! would surprise its owner later.

use std::env;
use std::panic;
use std::path::{Path, PathBuf};

use pkg_config::Library;

/// Releases of Mercury that will do, the first and the last.
const MERCURY: [[u32; 2]; 2] = [[2, 2], [2, 4]];
/// The oldest Argobots that will do.
const ARGOBOTS: [u32; 2] = [1, 1];
/// The variable that overrides.
const CHOICE: &str = "MOCHI_MERCURY";

fn main() {
    for input in ["build.rs", "shim/shim.c", "shim/shim.h", "shim/lengths.c", "shim/lengths.h"] {
        println!("cargo::rerun-if-changed={input}");
    }
    println!("cargo::rerun-if-env-changed={CHOICE}");
    if let Err(reason) = run() {
        // Cargo ends the build for it, and shows it alone. Of a script that fails it shows all that was printed.
        println!("cargo::error={}", reason.replace('\n', " "));
    }
}

fn run() -> Result<(), String> {
    let choice = env::var_os(CHOICE).unwrap_or_default();
    let required = match choice.to_str() {
        Some("auto" | "") => false,
        Some("require") => true,
        Some("off") => return Ok(()),
        _ => return Err(format!("{CHOICE} is {choice:?}; it must be `auto`, `require` or `off`")),
    };
    if env::var_os("DOCS_RS").is_some() {
        return Ok(()); // nothing is linked there
    }
    let mercury = find_mercury(required)?;
    let argobots = find_argobots(required)?;
    if !mercury.is_empty() {
        let version = &mercury[0].version;
        compile_shim(&mercury)?;
        generate("Mercury", mercury_bindings(&mercury), "mercury.rs")?;
        println!("cargo::rustc-cfg=mercury");
        println!("cargo::rustc-env=MOCHI_MERCURY_VERSION={version}");
        println!("cargo::metadata=version={version}");
    }
    if let Some(library) = &argobots {
        generate("Argobots", argobots_bindings(library), "argobots.rs")?;
        println!("cargo::rustc-cfg=argobots");
        println!("cargo::metadata=argobots={}", library.version);
    }
    let libraries: Vec<Library> = mercury.into_iter().chain(argobots).collect();
    let directories = library_directories(&libraries);
    for directory in &directories {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{}", directory.display());
    }
    let joined = env::join_paths(&directories).map_err(|error| error.to_string())?;
    println!("cargo::metadata=libdirs={}", joined.to_string_lossy());
    Ok(())
}

/// Mercury with its parts; empty where it is not installed and not required.
fn find_mercury(required: bool) -> Result<Vec<Library>, String> {
    let Some(mercury) = find("mercury", "Mercury", required)? else { return Ok(Vec::new()) };
    let [first, last] = MERCURY;
    let here = release("Mercury", &mercury.version)?;
    if here < first || here > last {
        return Err(format!(
            "Mercury {} is installed; this version works with {}.{} to {}.{}. Install one of those, or set {CHOICE}=off \
             to build without it",
            mercury.version, first[0], first[1], last[0], last[1]
        ));
    }
    let mut libraries = vec![mercury];
    for name in ["na", "mercury_util"] {
        let part = find(name, &format!("Mercury's part {name}"), false)?;
        let missing =
            || format!("Mercury is installed and pkg-config does not find its part {name}: install Mercury anew");
        libraries.push(part.ok_or_else(missing)?);
    }
    Ok(libraries)
}

/// `None` where it is not installed and not required.
fn find_argobots(required: bool) -> Result<Option<Library>, String> {
    let Some(argobots) = find("argobots", "Argobots", required)? else { return Ok(None) };
    if release("Argobots", &argobots.version)? < ARGOBOTS {
        return Err(format!(
            "Argobots {} is installed; this version works with {}.{} and newer. Install one of those, or set {CHOICE}=off \
             to build without it and without Mercury",
            argobots.version, ARGOBOTS[0], ARGOBOTS[1]
        ));
    }
    Ok(Some(argobots))
}

/// What pkg-config says of `package`, which people call `name`. `None` where it is not installed and not required.
fn find(package: &str, name: &str, required: bool) -> Result<Option<Library>, String> {
    let error = match pkg_config::Config::new().probe(package) {
        Ok(library) => return Ok(Some(library)),
        Err(error) => error,
    };
    let is_refusal = matches!(error, pkg_config::Error::Failure { .. } | pkg_config::Error::ProbeFailure { .. });
    // Asked for a variable, pkg-config looks at no other package.
    if is_refusal && pkg_config::get_variable(package, "prefix").is_ok() {
        return Err(format!(
            "{name} is installed, and pkg-config cannot say how to use it: {}. Put the directories of the .pc files that \
             it needs into PKG_CONFIG_PATH, or set {CHOICE}=off to build without it",
            reason(&error)
        ));
    }
    if !required {
        return Ok(None);
    }
    Err(format!(
        "{CHOICE}=require, and pkg-config does not find {name} ({}). Activate the Spack environment beside this project's \
         spack.yaml, or put the directory of {package}.pc into PKG_CONFIG_PATH",
        reason(&error)
    ))
}

/// Why, in pkg-config's words if it has said something.
fn reason(error: &pkg_config::Error) -> String {
    let text = match error {
        pkg_config::Error::Failure { output, .. } | pkg_config::Error::ProbeFailure { output, .. } => {
            String::from_utf8_lossy(&output.stderr).into_owned()
        }
        other => other.to_string(),
    };
    // Its last line names what is missing; before it comes what may help.
    text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no reason given").trim().to_owned()
}

/// The first two numbers of a version.
fn release(name: &str, version: &str) -> Result<[u32; 2], String> {
    let mut parts = version.split(['.', '-', 'r']).map(|part| part.parse::<u32>().ok());
    match (parts.next().flatten(), parts.next().flatten()) {
        (Some(major), Some(minor)) => Ok([major, minor]),
        _ => Err(format!("pkg-config says that {name}'s version is {version:?}, which is no version")),
    }
}

fn include_paths(libraries: &[Library]) -> impl Iterator<Item = &PathBuf> {
    libraries.iter().flat_map(|library| &library.include_paths)
}

/// Where the loader has to look besides its own directories, which pkg-config leaves out. In the order of the libraries:
/// Argobots may be in a directory with another Mercury.
fn library_directories(libraries: &[Library]) -> Vec<PathBuf> {
    let mut directories: Vec<PathBuf> = Vec::new();
    for directory in libraries.iter().flat_map(|library| &library.link_paths) {
        if !directories.contains(directory) {
            directories.push(directory.clone());
        }
    }
    directories
}

fn compile_shim(libraries: &[Library]) -> Result<(), String> {
    cc::Build::new()
        .files(["shim/shim.c", "shim/lengths.c"])
        .includes(include_paths(libraries))
        .std("c11")
        .try_compile("mochi_shim")
        .map_err(|error| {
            // Without the command; what the compiler said of it is shown as warnings.
            let error = error.to_string();
            format!(
                "Mercury is installed, and the C shim over it does not compile: are its headers there, and Boost's \
                 preprocessor headers if it was built with +boostsys? ({}). {CHOICE}=off builds without it",
                error.split(": \"").next().unwrap_or(&error)
            )
        })
}

fn bindings_over(libraries: &[Library]) -> bindgen::Builder {
    bindgen::Builder::default()
        .clang_args(include_paths(libraries).map(|path| format!("-I{}", path.display())))
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .generate_comments(false)
        .layout_tests(true)
        .use_core()
}

fn mercury_bindings(libraries: &[Library]) -> bindgen::Builder {
    bindings_over(libraries)
        .header("shim/shim.h")
        .allowlist_function("mochi_.*")
        .allowlist_function("HG_(Finalize|Version_get|Error_to_string|Set_log_level|Set_log_subsys)")
        .allowlist_function("HG_Context_(create|destroy)")
        .allowlist_function("HG_Addr_(lookup2|self|to_string|free|dup|cmp)")
        .allowlist_function("HG_(Register|Registered|Registered_disable_response|Deregister)")
        .allowlist_function("HG_(Create|Reset|Destroy|Cancel)")
        .allowlist_function("HG_Bulk_(create|free|transfer|cancel|serialize|deserialize|get_serialize_size)")
        .allowlist_type("mochi_hg_.*|hg_(init_info|cb_info|return_t|op_t|bulk_op_t|checksum_level_t)")
        .allowlist_var("MOCHI_HG_.*|HG_.*_MAX|HG_VERSION_.*|HG_BULK_.*|HG_CHECKSUM_.*")
}

fn argobots_bindings(library: &Library) -> bindgen::Builder {
    bindings_over(std::slice::from_ref(library))
        .header_contents("argobots.h", "#include <abt.h>")
        .allowlist_function("ABT_(init|finalize|initialized|error_get_str)")
        .allowlist_function("ABT_xstream_(create_basic|free|set_cpubind)")
        .allowlist_function("ABT_pool_(create_basic|free|get_access)")
        .allowlist_function("ABT_(task|thread)_create")
        .allowlist_function("ABT_thread_(free|revive|get_state|yield)")
        .allowlist_function("ABT_thread_attr_(create|free|set_stack|set_migratable)")
        .allowlist_function("ABT_eventual_(create|free|set|reset|wait)")
        .allowlist_function("ABT_self_get_type")
        .allowlist_type("ABT_(unit_type|thread_state|pool_access|pool_kind|sched_predef|bool)")
        .allowlist_var("ABT_SUCCESS|ABT_TRUE|ABT_FALSE|ABT_ERR_MAX_LEN")
}

/// Writes bindings where the crate includes them.
fn generate(library: &str, builder: bindgen::Builder, file: &str) -> Result<(), String> {
    // bindgen has no error for a missing libclang: it panics.
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let generated = panic::catch_unwind(panic::AssertUnwindSafe(|| builder.generate()));
    panic::set_hook(hook);
    let bindings = generated
        .map_err(|_| {
            format!(
                "{library} is installed, and binding it needs libclang, which is not found. Install libclang-dev \
                 (Debian, Ubuntu) or clang-devel (Fedora, RHEL), or name its directory in LIBCLANG_PATH, or set \
                 {CHOICE}=off to build without it"
            )
        })?
        .map_err(|error| format!("{library}'s headers cannot be read: {error}. {CHOICE}=off builds without it"))?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: is this cargo?")?);
    bindings.write_to_file(Path::new(&out).join(file)).map_err(|error| error.to_string())
}
