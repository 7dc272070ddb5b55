//! `cargo xtask ci`: every check in order. What cannot be tried here is skipped aloud; the last line counts.

use crate::eif;
use crate::guards::{self, Guarded};
use crate::image::{self, NotTested};
use crate::lab;
use crate::run::{self, Line, cargo};
use crate::tally::Tally;
use crate::tidy;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// The oldest Rust that the workspace says it builds with; the same number stands in `Cargo.toml`.
const OLDEST_RUST: &str = "1.92";

/// Runs every step whatever the ones before it met, and sums up.
pub(crate) fn run() -> ExitCode {
    let mut report = Report::default();
    report.check("format", || cargo(["fmt", "--all", "--check"]).run());
    report.check("tidy", tidy::run);
    report.check("clippy", || {
        cargo(["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]).run()
    });
    report.check("build", || cargo(["build", "--workspace", "--bins", "--locked"]).run());
    tests_and_their_skips(&mut report);
    report.tests("documentation tests", cargo(["test", "--workspace", "--doc", "--locked", "--no-fail-fast"]));
    report.check("documentation", || {
        cargo(["doc", "--workspace", "--no-deps", "--locked"]).variable("RUSTDOCFLAGS", "-D warnings").run()
    });
    oldest_rust(&mut report);
    licences(&mut report);
    match report.timed("image", image::test) {
        Ok(()) => {
            report.count(Tally { passed: 1, ..Tally::default() });
            report
                .skip("image", "the builder stage of deploy/Dockerfile pulls its base; only its final stage was built");
        }
        Err(NotTested::Skipped(reason)) => report.skip("image", &reason),
        Err(NotTested::Failed(reason)) => report.fail("image", &reason),
    }
    enclave_image(&mut report);
    guards(&mut report);
    lab(&mut report);
    report.sum_up()
}

/// The example as an image file for enclaves, built twice: its measurements are the same.
fn enclave_image(report: &mut Report) {
    match report.timed("enclave image", eif::ci) {
        Ok(not_tried) => {
            report.count(Tally { passed: 1, ..Tally::default() });
            if let Some(reason) = not_tried {
                report.skip("enclave image", &reason);
            }
        }
        Err(NotTested::Skipped(reason)) => report.skip("enclave image", &reason),
        Err(NotTested::Failed(reason)) => report.fail("enclave image", &reason),
    }
}

/// Counts that may not grow.
fn guards(report: &mut Report) {
    match report.timed("guards", guards::run) {
        Ok(all) => {
            for guard in all {
                match guard {
                    Guarded::Passed => report.count(Tally { passed: 1, ..Tally::default() }),
                    Guarded::Failed(what) => report.fail("guards", &what),
                    Guarded::Skipped(what) => report.skip("guards", &what),
                }
            }
        }
        Err(error) => report.fail("guards", &error),
    }
}

/// The suites over real AF_VSOCK. A machine that lacks what they take says so.
fn lab(report: &mut Report) {
    match report.timed("lab", || lab::run(&lab::Arguments::for_ci())) {
        Ok(outcome) => {
            report.count(outcome.tally);
            report.failures.extend(outcome.failures);
            if outcome.interrupted_by.is_some() {
                report.fail("lab", "interrupted");
            }
            for reason in outcome.skips {
                report.skip("lab", &reason);
            }
        }
        Err(error) => report.fail("lab", &error),
    }
}

/// The tests; those that lack a right or a tool of the machine list themselves in a file.
fn tests_and_their_skips(report: &mut Report) {
    let list = std::env::temp_dir().join(format!("enclave-bridge-skips-{}", std::process::id()));
    report.tests("tests", tests().variable("ENCLAVE_BRIDGE_SKIPS", &list));
    let listed = std::fs::read_to_string(&list).unwrap_or_default();
    for reason in listed.lines().collect::<std::collections::BTreeSet<_>>() {
        report.skip("tests", reason);
    }
    // Where nothing was skipped there is no file.
    _ = std::fs::remove_file(&list);
}

/// nextest where it is installed: a process per test, and a time limit for each. `cargo test` elsewhere.
fn tests() -> Line {
    let line = if run::is_installed("cargo-nextest") {
        cargo(["nextest", "run", "--workspace", "--locked", "--no-fail-fast"])
    } else {
        cargo(["test", "--workspace", "--all-targets", "--locked", "--no-fail-fast"])
    };
    match built_programs() {
        Some((bridge, enclave)) => line.variable("ENCLAVE_BRIDGE_BIN", bridge).variable("SIMPLE_ENCLAVE_BIN", enclave),
        // The end-to-end tests build them then.
        None => line,
    }
}

fn built_programs() -> Option<(PathBuf, PathBuf)> {
    let folder = target_folder().ok()?.join("debug");
    let (bridge, enclave) = (folder.join("enclave-bridge"), folder.join("simple-enclave"));
    (bridge.is_file() && enclave.is_file()).then_some((bridge, enclave))
}

/// Where cargo puts what it builds.
pub(crate) fn target_folder() -> Result<PathBuf, String> {
    let metadata = cargo(["metadata", "--format-version=1", "--no-deps", "--locked"]).capture()?;
    let metadata: serde_json::Value =
        serde_json::from_str(&metadata).map_err(|error| format!("cargo metadata: {error}"))?;
    let folder = metadata.get("target_directory").and_then(serde_json::Value::as_str);
    folder.map(PathBuf::from).ok_or_else(|| "cargo metadata: no target_directory".to_owned())
}

fn oldest_rust(report: &mut Report) {
    let installed = Line::new("rustup", ["toolchain", "list"]).capture().unwrap_or_default();
    let Some(toolchain) = installed.split_whitespace().find(|name| name.starts_with(OLDEST_RUST)) else {
        report.skip("oldest Rust", &format!("no toolchain {OLDEST_RUST} (rustup toolchain install {OLDEST_RUST})"));
        return;
    };
    report.check("oldest Rust", || {
        let folder = target_folder()?.join("oldest-rust");
        Line::new("rustup", ["run", toolchain, "cargo", "check", "--workspace", "--locked"])
            .variable("CARGO_TARGET_DIR", folder)
            .run()
    });
}

fn licences(report: &mut Report) {
    if run::is_installed("cargo-deny") {
        report.check("licences, bans, sources", || {
            cargo(["deny", "--workspace", "check", "licenses", "bans", "sources"]).run()
        });
    } else {
        report.skip("licences, bans, sources", "no cargo-deny (cargo install --locked cargo-deny)");
    }
}

#[derive(Default)]
struct Report {
    tally: Tally,
    failures: Vec<String>,
    skips: Vec<String>,
}

impl Report {
    /// One check is one that passed or failed.
    fn check(&mut self, name: &str, check: impl FnOnce() -> Result<(), String>) {
        match self.timed(name, check) {
            Ok(()) => self.count(Tally { passed: 1, ..Tally::default() }),
            Err(error) => self.fail(name, &error),
        }
    }

    /// A run of tests counts each of them, and itself where it failed without naming a test.
    fn tests(&mut self, name: &str, line: Line) {
        match self.timed(name, || line.tee()) {
            Ok((succeeded, output)) => {
                let tally = Tally::of(&output);
                self.count(tally);
                if tally.failed > 0 {
                    self.failures.push(format!("{name}: {tally}"));
                } else if !succeeded {
                    self.fail(name, &format!("{line} did not succeed"));
                } else if tally.passed == 0 && name == "tests" {
                    self.fail(name, "no test ran");
                }
            }
            Err(error) => self.fail(name, &error),
        }
    }

    fn timed<T>(&mut self, name: &str, step: impl FnOnce() -> T) -> T {
        println!("\n== {name}");
        let start = Instant::now();
        let result = step();
        println!("== {name}: {} s", start.elapsed().as_secs());
        result
    }

    fn count(&mut self, tally: Tally) {
        self.tally = self.tally.and(tally);
    }

    fn fail(&mut self, name: &str, error: &str) {
        println!("FAILED {name}: {error}");
        self.tally.failed += 1;
        self.failures.push(format!("{name}: {error}"));
    }

    fn skip(&mut self, name: &str, reason: &str) {
        println!("SKIPPED {name}: {reason}");
        self.tally.skipped += 1;
        self.skips.push(format!("{name}: {reason}"));
    }

    fn sum_up(&self) -> ExitCode {
        println!();
        for skip in &self.skips {
            println!("skipped: {skip}");
        }
        for failure in &self.failures {
            println!("failed: {failure}");
        }
        println!("{}", self.tally);
        if self.tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
