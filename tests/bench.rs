//! `mochi bench` as scripts see it. Nothing here asserts a speed.

use std::process::{Command, Output};

use serde_json::Value;

const CASES: [&str; 14] = [
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
];

fn bench(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mochi"));
    command.arg("bench").args(arguments).env_remove("MOCHI_LOG").env_remove("RUST_LOG");
    command.output().expect("the tool starts")
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    // No progress line either: this is no terminal.
    assert_eq!(output.stderr, b"", "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&stdout(&bench(arguments))).expect("JSON")
}

/// The one line of an error that is not about the arguments.
fn error_line(arguments: &[&str]) -> String {
    let output = bench(arguments);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(output.stdout, b"", "{output:?}");
    let text = String::from_utf8(output.stderr.clone()).expect("UTF-8");
    assert_eq!(text.lines().count(), 1, "{output:?}");
    text
}

fn names(report: &Value) -> Vec<&str> {
    let rows = report["rows"].as_array().expect("rows");
    rows.iter().map(|row| row["case"].as_str().expect("a name")).collect()
}

#[test]
fn every_case_has_its_figures_in_the_json() {
    let report = json(&["--json", "--duration", "0.05", "--rounds", "1"]);
    assert_eq!(names(&report), CASES);
    for row in report["rows"].as_array().expect("rows") {
        assert_eq!(row["transport"], "tcp", "{row}");
        for figure in ["p50_us", "p99_us", "per_s", "floor", "ratio"] {
            let value = row[figure].as_f64();
            assert!(value.is_some_and(|value| value > 0.0 && value.is_finite()), "{figure} of {row}");
        }
        let bytes = row["bytes_per_s"].as_f64().expect("a number");
        let empty = row["case"].as_str().is_some_and(|case| case.contains("/0B/"));
        assert_eq!(bytes == 0.0, empty, "{row}");
        assert!(row["p50_us"].as_f64() <= row["p99_us"].as_f64(), "{row}");
    }
    let machine = &report["machine"];
    assert!(machine["cpus"].as_u64().is_some_and(|cpus| cpus > 0));
    for fact in ["kernel", "model"] {
        assert!(machine[fact].as_str().is_some_and(|fact| !fact.is_empty()));
    }
}

#[test]
fn the_table_has_the_chosen_cases_only() {
    let quick = ["--duration", "0.02", "--warmup", "0", "--rounds", "2"];
    let text = stdout(&bench(&[&quick[..], &["--cases", "64B/1,/0B/64"]].concat()));
    assert!(text.contains("call/64B/1 ") && text.contains("call/0B/64"), "{text}");
    assert!(!text.contains("KiB"), "{text}");

    // `call/64B/1` has a `64B/` as well, and `$` is the end of a name.
    let arguments = [&quick[..], &["--json", "--cases", "64B/64$"]].concat();
    assert_eq!(names(&json(&arguments)), ["call/64B/64"]);
}

#[test]
fn sessions_are_measured_on_request_next_to_plain_calls() {
    let quick = ["--json", "--duration", "0.05", "--rounds", "1", "--auth", "--cases", "sealed/64B,handshake"];
    let report = json(&quick);
    assert_eq!(names(&report), ["sealed/64B/1", "sealed/64B/64", "handshake"]);
    for row in report["rows"].as_array().expect("rows") {
        assert!(row["ratio"].as_f64().is_some_and(|ratio| ratio > 0.0 && ratio.is_finite()), "{row}");
    }
    assert!(error_line(&["--cases", "sealed"]).contains("--auth"));
    let error = error_line(&["--auth", "munge", "--munge-socket", "/nonexistent/socket", "--cases", "handshake"]);
    assert!(error.contains("/nonexistent/socket"), "{error}");
}

#[test]
fn each_kind_of_progress_and_one_processor_for_both_are_measured() {
    for options in [&["--progress", "busy"][..], &["--progress", "park"], &["--pin", "0,0"]] {
        let quick = ["--json", "--cases", "64B/1", "--duration", "0.02", "--rounds", "1"];
        let output = bench(&[&quick[..], options].concat());
        // Not every machine lets us have its first processor.
        if String::from_utf8_lossy(&output.stderr).contains("cannot stay on processor") {
            continue;
        }
        let report: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
        assert_eq!(names(&report), ["call/64B/1"], "{options:?}");
    }
}

#[test]
fn wrong_arguments_exit_with_2_and_say_why() {
    for (arguments, told) in [
        (&["--cases", "nothing"][..], "call/64KiB/64"),
        (&["--cases", "64B/1,nothing"], "nothing"),
        (&["--duration", "4000"], "seconds"),
        (&["--duration", "long"], "seconds"),
        (&["--rounds", "0"], "0"),
        (&["--progress", "never"], "adaptive"),
        (&["--pin", "0"], "0,1"),
        (&["--bogus"], "--bogus"),
    ] {
        let output = bench(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert_eq!(output.stdout, b"", "{arguments:?}");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains(told), "{arguments:?}: {text}");
    }
}

#[test]
fn what_the_server_process_cannot_do_is_one_line() {
    let quick = ["--cases", "64B/1", "--duration", "0.02", "--rounds", "1"];
    let fails = |options: &[&str]| error_line(&[&quick[..], options].concat());
    assert!(fails(&["--transport", "ofi+verbs"]).contains("Mercury"));
    assert!(fails(&["--transport", "native+tcp://192.0.2.1:0"]).contains("192.0.2.1"));
    assert!(fails(&["--pin", "0,1023"]).contains("1023"));
}

/// A killed `mochi bench` takes its server with it, although nobody is left to end that.
#[test]
fn no_server_outlives_the_tool() {
    use std::io::{BufRead, BufReader, Read};
    use std::process::Stdio;

    for part in [
        &["serve", "native+tcp://127.0.0.1", "--progress", "busy"][..],
        &["floor", "--frame", "1", "--in-flight", "1"],
        &["serve-bulk", "native+tcp://127.0.0.1", "--progress", "park"],
        &["stream", "--size", "1"],
    ] {
        let mut server = Command::new(env!("CARGO_BIN_EXE_mochi"))
            .arg("bench")
            .args(part)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the tool starts");
        let mut stdout = BufReader::new(server.stdout.take().expect("piped"));
        let mut address = String::new();
        stdout.read_line(&mut address).expect("a line");
        assert!(address.contains("127.0.0.1:"), "{address}");
        // What the kernel does for a parent that was killed.
        drop(server.stdin.take());
        assert_eq!(stdout.read_to_end(&mut Vec::new()).expect("its end"), 0);
        assert!(server.wait().expect("it ended").success());
    }
}
