//! `mochi bench` as scripts see it. Nothing here asserts a speed.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mochi_test_support::{Ended, Program, Watchdog, spawn};
use serde_json::Value;

const CASES: [&str; 20] = [
    "call/0B/1",
    "call/64B/1",
    "call/1KiB/1",
    "call/64KiB/1",
    "call/0B/64",
    "call/64B/64",
    "call/1KiB/64",
    "call/64KiB/64",
    "pull/64KiB",
    "pull/1MiB",
    "pull/16MiB",
    "push/64KiB",
    "push/1MiB",
    "push/16MiB",
    "crowd/64B/10",
    "crowd/64B/100",
    "crowd/64B/1000",
    "fair/64B/10",
    "fair/64B/100",
    "fair/64B/1000",
];

/// Over shared memory alone, behind `push/16MiB`.
const VECTORS: [&str; 6] =
    ["pull-vec/64KiB", "pull-vec/1MiB", "pull-vec/16MiB", "push-vec/64KiB", "push-vec/1MiB", "push-vec/16MiB"];

const SEALED: [&str; 18] = [
    "sealed/0B/1",
    "sealed/64B/1",
    "sealed/1KiB/1",
    "sealed/64KiB/1",
    "sealed/0B/64",
    "sealed/64B/64",
    "sealed/1KiB/64",
    "sealed/64KiB/64",
    "handshake",
    "sealed-pull/16MiB/none",
    "sealed-pull/16MiB/integrity",
    "sealed-pull/16MiB/private",
    "sealed-crowd/64B/10",
    "sealed-crowd/64B/100",
    "sealed-crowd/64B/1000",
    "sealed-fair/64B/10",
    "sealed-fair/64B/100",
    "sealed-fair/64B/1000",
];

const QUICK: [&str; 6] = ["--duration", "0.02", "--warmup", "0", "--rounds", "1"];

/// A guard against hangs: all cases take a while where the machine is busy.
const LONG: Duration = Duration::from_secs(1200);

fn tool(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mochi"));
    command.arg("bench").args(arguments).env_remove("MOCHI_LOG").env_remove("RUST_LOG");
    command
}

/// Standard error has no progress lines: it is no terminal.
fn run(command: &mut Command) -> Ended {
    Program::start(command).wait_within(LONG)
}

fn bench(arguments: &[&str]) -> Ended {
    run(&mut tool(arguments))
}

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&bench(arguments).text()).expect("JSON")
}

/// The one line of an error that is not about the arguments.
fn error_line(arguments: &[&str]) -> String {
    let ended = bench(arguments);
    assert_eq!(ended.stdout, [""; 0], "{ended:?}");
    ended.one_error_line().to_owned()
}

fn names(report: &Value) -> Vec<&str> {
    rows(report).iter().map(|row| row["case"].as_str().expect("a name")).collect()
}

fn rows(report: &Value) -> &[Value] {
    report["rows"].as_array().expect("rows")
}

fn is_positive(value: &Value) -> bool {
    value.as_f64().is_some_and(|value| value > 0.0 && value.is_finite())
}

#[test]
fn every_case_has_its_figures_in_the_json_over_each_transport() {
    for transport in ["native+tcp", "native+sm", "same-node"] {
        let report = json(&[&QUICK[..], &["--json", "--transport", transport]].concat());
        let (moves, crowds) = CASES.split_at(14);
        let vectors = if transport == "native+sm" { &VECTORS[..] } else { &[] };
        assert_eq!(names(&report), [moves, vectors, crowds].concat());
        for row in rows(&report) {
            assert_eq!(row["transport"], transport, "{row}");
            for figure in ["p50_us", "p99_us", "per_s", "floor", "ratio"] {
                assert!(is_positive(&row[figure]), "{figure} of {row}");
            }
            let bytes = row["bytes_per_s"].as_f64().expect("a number");
            let name = row["case"].as_str().expect("a name");
            assert_eq!(bytes == 0.0, name.contains("/0B/"), "{row}");
            assert!(row["p50_us"].as_f64() <= row["p99_us"].as_f64(), "{row}");
            // The slowest one cannot have had more than its share.
            let is_share = row["slowest"].as_f64().is_some_and(|share| share > 0.0 && share <= 1.0);
            assert_eq!(is_share, name.starts_with("fair"), "{row}");
        }
        let machine = &report["machine"];
        assert!(machine["cpus"].as_u64().is_some_and(|cpus| cpus > 0));
        for fact in ["kernel", "model"] {
            assert!(machine[fact].as_str().is_some_and(|fact| !fact.is_empty()));
        }
    }
}

#[test]
fn a_thousand_clients_have_their_memory_weighed() {
    for (transport, least) in [("native+tcp", 256.0), ("native+sm", 4096.0)] {
        let arguments = ["--json", "--transport", transport, "--cases", "^crowd/64B/1000,^fair/64B/10$"];
        let report = json(&[&QUICK[..], &arguments].concat());
        assert_eq!(names(&report), ["crowd/64B/1000", "fair/64B/10"]);
        let [many, few] = rows(&report) else { panic!("{report}") };
        // A connection over shared memory has a page of each ring in use at least.
        assert!(many["bytes_each"].as_f64().is_some_and(|bytes| bytes > least && bytes < 1e6), "{many}");
        assert!(few["bytes_each"].is_null(), "{few}");
    }
}

#[test]
fn under_mercury_the_floor_is_margo_where_it_is_installed() {
    if !mochi_sys::LINKED {
        return println!("not tested: Mercury is not linked");
    }
    let is_installed = |status: std::io::Result<std::process::ExitStatus>| status.is_ok_and(|status| status.success());
    let margo = is_installed(Command::new("pkg-config").args(["--exists", "margo"]).status());
    for transport in ["ofi+tcp", "na+sm"] {
        let arguments = [&QUICK[..], &["--json", "--transport", transport, "--cases", "call/64B"]].concat();
        let report = json(&arguments);
        assert_eq!(names(&report), ["call/64B/1", "call/64B/64"]);
        for row in rows(&report) {
            let floor = row["floor_of"].as_str().expect("its name");
            assert_eq!(floor.starts_with("C Margo "), margo, "{row}");
            assert!(is_positive(&row["floor"]) && is_positive(&row["ratio"]), "{row}");
        }

        let mut without = tool(&arguments);
        without.env_remove("PKG_CONFIG_PATH").env("PKG_CONFIG_LIBDIR", "/nonexistent");
        let report: Value = serde_json::from_str(&run(&mut without).text()).expect("JSON");
        for row in rows(&report) {
            assert_eq!(row["floor_of"], "no Mercury: pkg-config does not find Margo", "{row}");
            assert!(is_positive(&row["ratio"]), "{row}");
        }
    }
}

#[test]
fn the_table_has_the_chosen_cases_only() {
    let quick = ["--duration", "0.02", "--warmup", "0", "--rounds", "2"];
    let text = bench(&[&quick[..], &["--cases", "64B/1$,/0B/64"]].concat()).text();
    assert!(text.contains("call/64B/1 ") && text.contains("call/0B/64"), "{text}");
    assert!(!text.contains("KiB"), "{text}");

    // `call/64B/1` has a `64B/` as well, and `$` is the end of a name.
    let arguments = [&quick[..], &["--json", "--cases", "64B/64$"]].concat();
    assert_eq!(names(&json(&arguments)), ["call/64B/64"]);
}

#[test]
fn sessions_are_measured_on_request_next_to_plain_calls() {
    let few: Vec<&str> = SEALED.into_iter().filter(|name| name.contains("/64B") && !name.contains("/100")).collect();
    for (arguments, cases) in [
        (&["--transport", "native+tcp"][..], &SEALED[..]),
        (&["--transport", "native+sm", "--cases", "sealed/64B,/10$"], &few),
    ] {
        let report = json(&[&QUICK[..], &["--json", "--auth"], arguments].concat());
        assert_eq!(names(&report), cases);
        assert_eq!(report["mechanism"], "key");
        for row in rows(&report) {
            assert!(is_positive(&row["ratio"]), "{row}");
        }
    }
    assert!(error_line(&["--cases", "sealed"]).contains("--auth"));
    let error = error_line(&["--auth", "munge", "--munge-socket", "/nonexistent/socket", "--cases", "handshake"]);
    assert!(error.contains("/nonexistent/socket"), "{error}");
}

#[test]
fn a_soak_calls_over_each_transport_and_in_sessions_and_finds_nothing_grown() {
    let report = json(&["soak", "--calls", "9000", "--json"]);
    let found: Vec<_> = report.as_array().expect("a list").iter().collect();
    let names: Vec<_> = found.iter().map(|soaked| (soaked["transport"].as_str(), soaked["sealed"].as_bool())).collect();
    let expected =
        ["native+tcp", "native+sm", "same-node"].map(|name| [(Some(name), Some(false)), (Some(name), Some(true))]);
    assert_eq!(names, expected.concat());
    for soaked in found {
        assert_eq!((&soaked["calls"], &soaked["bulk"], &soaked["flat"]), (&9000.into(), &true.into(), &true.into()));
        for process in ["client", "server"] {
            assert!(is_positive(&soaked["at_the_end"][process]["resident"]), "{soaked}");
        }
        let sessions = &soaked["at_the_end"]["server"]["sessions"];
        assert_eq!(is_positive(sessions), soaked["sealed"] == true, "{soaked}");
    }
    let text = bench(&["soak", "--calls", "1000", "--transport", "native+sm", "--plain"]).text();
    assert!(text.starts_with("native+sm: ") && text.ends_with("flat\n") && text.lines().count() == 1, "{text}");
}

#[test]
fn many_sessions_are_opened_when_they_are_named() {
    let report = json(&[&QUICK[..], &["--json", "--auth", "--cases", "sessions/1000$"]].concat());
    assert_eq!(names(&report), ["sessions/1000"]);
    let row = &rows(&report)[0];
    assert!(is_positive(&row["bytes_each"]) && is_positive(&row["ratio"]), "{row}");
}

#[test]
fn one_run_compares_transports_with_sessions_and_without() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("bench.json");
    let arguments = ["--all", "--cases", "64B/1$", "--markdown", "--save", file.to_str().expect("UTF-8")];
    let text = bench(&[&QUICK[..], &arguments].concat()).text();
    let saved: Value = serde_json::from_str(&std::fs::read_to_string(&file).expect("it was written")).expect("JSON");
    let found: Vec<_> = rows(&saved).iter().map(|row| (row["transport"].as_str(), row["case"].as_str())).collect();
    let all = ["native+tcp", "native+sm"]
        .map(|transport| ["call/64B/1", "sealed/64B/1"].map(|case| (Some(transport), Some(case))));
    assert_eq!(found, all.concat());
    for (transport, case) in all.concat() {
        let start = format!("| {} | `{}` | ", transport.unwrap(), case.unwrap());
        let line = text.lines().find(|line| line.starts_with(&start)).unwrap_or_else(|| panic!("{text}"));
        assert_eq!(line.matches(" | ").count(), 8, "{line}");
    }
    assert!(error_line(&["--save", "/nonexistent/bench.json"]).contains("/nonexistent/bench.json"));

    // What was measured before is lost to nothing but a new result, which may be shorter.
    let name = file.to_str().expect("UTF-8");
    error_line(&["--save", name, "--cases", "64B/1$", "--server", "nonsense://"]);
    let kept: Value = serde_json::from_str(&std::fs::read_to_string(&file).expect("it is there")).expect("JSON");
    assert_eq!(kept, saved);
    bench(&[&QUICK[..], &["--save", name, "--cases", "^call/64B/1$"]].concat()).assert_success();
    let anew: Value = serde_json::from_str(&std::fs::read_to_string(&file).expect("it is there")).expect("JSON");
    assert_eq!(names(&anew), ["call/64B/1"]);
}

#[test]
fn a_server_that_runs_already_is_measured_without_a_floor() {
    let (server, address) = Program::server(&mut tool(&["serve", "--auth"]));

    let there = [&QUICK[..], &["--server", &address, "--all", "--cases", "64B/1$,64KiB$,handshake"]].concat();
    let report = json(&[&there[..], &["--json"]].concat());
    assert_eq!(names(&report), ["call/64B/1", "pull/64KiB", "push/64KiB", "sealed/64B/1", "handshake"]);
    assert_eq!(report["server"], address);
    for row in rows(&report) {
        assert_eq!(row["transport"], "native+tcp");
        // Calls within a session have plain ones to be compared with; these have nothing.
        let floored = row["case"] == "sealed/64B/1" || row["case"] == "handshake";
        assert_eq!(is_positive(&row["floor"]), floored, "{row}");
        assert_eq!(row["ratio"].is_null(), !floored, "{row}");
    }
    let table = bench(&there).text();
    let call = table.lines().find(|line| line.contains("call/64B/1")).expect("its row");
    assert!(call.ends_with("-      -"), "{call}");

    server.kill();
    assert!(error_line(&there).contains(&address));
}

#[test]
fn a_server_that_serves_no_benches_is_an_error_that_says_what_to_start() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let engine = runtime.block_on(margo_rs::Engine::listen("native+tcp://127.0.0.1:0")).expect("it listens");
    let error = error_line(&["--server", engine.address().as_str()]);
    assert!(error.contains("mochi bench serve"), "{error}");
}

#[test]
fn a_server_without_sessions_is_an_error_that_says_how_to_start_one_with_them() {
    let (_server, address) = Program::server(&mut tool(&["serve"]));
    let soak = ["soak", "--calls", "100", "--json", "--server", &address];
    assert!(error_line(&soak).contains("mochi bench serve --auth"));
    bench(&[&soak[..], &["--plain"]].concat()).assert_success();
}

#[test]
fn clients_that_there_are_no_files_for_are_left_out_or_named_as_the_reason() {
    let limited = |arguments: &str| {
        let program = env!("CARGO_BIN_EXE_mochi");
        let script = format!("ulimit -n 1024; exec \"$0\" bench --duration 0.01 --warmup 0 --rounds 1 {arguments}");
        run(Command::new("sh").args(["-c", &script, program]))
    };
    let output = limited("--cases crowd/64B/1000");
    let error = output.one_error_line();
    assert!(error.contains("ulimit -n") && error.contains("1024"), "{error}");

    let output = limited("--json");
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_str(&output.stdout.join("\n")).expect("JSON");
    assert!(names(&report).contains(&"crowd/64B/100") && !names(&report).contains(&"crowd/64B/1000"), "{report}");
    assert!(output.stderr.contains("crowd/64B/1000"), "{output:?}");
}

#[test]
fn each_kind_of_progress_and_one_processor_for_both_are_measured() {
    for options in [&["--progress", "busy"][..], &["--progress", "park"], &["--pin", "0,0"]] {
        let quick = ["--json", "--cases", "64B/1$", "--duration", "0.02", "--rounds", "1"];
        let output = bench(&[&quick[..], options].concat());
        // Not every machine lets us have its first processor.
        if output.stderr.contains("cannot stay on processor") {
            continue;
        }
        let report: Value = serde_json::from_str(&output.text()).expect("JSON");
        assert_eq!(names(&report), ["call/64B/1"], "{options:?}");
    }
}

#[test]
fn callers_run_in_each_way_that_can_be_asked_for() {
    let plain = ["--cases", "^call/64B/64$,^fair/64B/10$"];
    let sealed = ["--auth", "--cases", "^sealed/64B/64$,^sealed-fair/64B/10$"];
    for way in ["local", "spawn", "join", "threads"] {
        for (cases, expected) in
            [(&plain[..], ["call/64B/64", "fair/64B/10"]), (&sealed, ["sealed/64B/64", "sealed-fair/64B/10"])]
        {
            let report = json(&[&QUICK[..], &["--json", "--transport", "native+sm", "--client", way], cases].concat());
            assert_eq!(names(&report), expected, "{way}");
            assert!(rows(&report).iter().all(|row| is_positive(&row["per_s"])), "{way}: {report}");
        }
    }
}

#[test]
fn wrong_arguments_exit_with_2_and_say_why() {
    for (arguments, told) in [
        (&["--cases", "nothing"][..], "call/64KiB/64"),
        (&["--cases", "64B/1,nothing"], "nothing"),
        (&["--duration", "4000"], "seconds"),
        (&["--duration", "long"], "seconds"),
        (&["--duration", "0"], "more than 0"),
        (&["--rounds", "0"], "0"),
        (&["--progress", "never"], "adaptive"),
        (&["--pin", "0"], "0,1"),
        (&["--bogus"], "--bogus"),
        (&["--server", "native+tcp://127.0.0.1:1", "--pin", "0,1"], "--pin"),
        (&["--server", "native+tcp://127.0.0.1:1", "--transport", "sm"], "--transport"),
        (&["--json", "--markdown"], "--markdown"),
        (&["soak", "--calls", "1"], "--calls"),
        (&["soak", "--server", "native+tcp://127.0.0.1:1", "--transport", "sm"], "--transport"),
    ] {
        let ended = bench(arguments);
        assert!(ended.usage_error().contains(told), "{arguments:?}: {ended:?}");
    }
}

#[test]
fn what_the_server_process_cannot_do_is_one_line() {
    let quick = ["--cases", "64B/1$", "--duration", "0.02", "--rounds", "1"];
    let fails = |options: &[&str]| error_line(&[&quick[..], options].concat());
    let no_verbs = fails(&["--transport", "ofi+verbs"]);
    assert!(no_verbs.contains("ofi+verbs") && no_verbs.contains("Mercury"), "{no_verbs}");
    assert!(fails(&["--transport", "native+tcp://192.0.2.1:0"]).contains("192.0.2.1"));
    assert!(fails(&["--pin", "0,1023"]).contains("1023"));
}

#[test]
fn an_address_that_cannot_be_is_one_line() {
    assert!(error_line(&["--server", "nonsense://"]).contains("nonsense://"));
    assert!(error_line(&["serve", "native+tcp://192.0.2.1:0"]).contains("192.0.2.1"));
}

/// A part of `mochi bench` with its standard streams in our hands.
fn serve(arguments: &[&str]) -> Child {
    spawn(tool(arguments).stdin(Stdio::piped()).stdout(Stdio::piped())).expect("the tool starts")
}

/// A killed `mochi bench` takes its server with it, although nobody is left to end that.
#[test]
fn no_server_outlives_the_tool() {
    let _watchdog = Watchdog::start("no_server_outlives_the_tool", LONG);
    for (part, announced) in [
        (&["serve", "native+tcp://127.0.0.1", "--progress", "busy", "--child"][..], "127.0.0.1:"),
        (&["serve", "native+sm", "--progress", "park", "--child"], "native+sm://"),
        (&["floor", "--frame", "1", "--in-flight", "1"], "127.0.0.1:"),
        (&["share", "--frame", "1", "--in-flight", "1", "--polite"], "/proc/"),
        (&["stream", "--size", "1"], "127.0.0.1:"),
    ] {
        let mut server = serve(part);
        let mut stdout = BufReader::new(server.stdout.take().expect("piped"));
        let mut address = String::new();
        stdout.read_line(&mut address).expect("a line");
        assert!(address.contains(announced), "{address}");
        // What the kernel does for a parent that was killed.
        drop(server.stdin.take());
        assert_eq!(stdout.read_to_end(&mut Vec::new()).expect("its end"), 0);
        assert!(server.wait().expect("it ended").success());
    }
}
