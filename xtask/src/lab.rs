//! `cargo xtask lab`: the suites over real AF_VSOCK, in guests of QEMU. What is missing is named before anything is built.

mod arguments;
mod build;
mod interrupt;
mod modes;
mod nitro;
mod table;

use enclave_bridge_lab::{Kernel, LabError, kernel, program};
use std::process::ExitCode;
use std::time::Instant;

use crate::ci::target_folder;
use crate::tally::Tally;
pub(crate) use arguments::Arguments;
use arguments::Task;
pub(crate) use build::product;

pub(crate) const USAGE: &str = "[--mode loopback|hybrid|pair|nitro] [--kernel 6.1|6.12] [--quick] [--install] [--write-table] [-- TEST | --measure WHAT NUMBER]";

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Over all suites that ran.
    pub(crate) tally: Tally,
    /// Modes that failed, with the reason.
    pub(crate) failures: Vec<String>,
    /// Modes that were not tried, with the reason.
    pub(crate) skips: Vec<String>,
    /// The number of the signal that ended it early.
    pub(crate) interrupted_by: Option<u8>,
}

/// The command.
pub(crate) fn main(arguments: &[&str]) -> ExitCode {
    let arguments = match Arguments::parse(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("{error}\nusage: cargo xtask lab {USAGE}");
            return ExitCode::from(64);
        }
    };
    let report = match run(&arguments) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    println!();
    for skip in &report.skips {
        println!("skipped: {skip}");
    }
    for failure in &report.failures {
        println!("failed: {failure}");
    }
    if let Some(signal) = report.interrupted_by {
        println!("interrupted");
        return ExitCode::from(128 + signal);
    }
    if !arguments.measures() {
        println!("{}", report.tally);
    }
    // Whoever asks for the lab by name wants it: what could not be tried is no success.
    if report.failures.is_empty() && report.tally.failed == 0 && report.skips.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Runs every wanted mode on every wanted kernel.
pub(crate) fn run(arguments: &Arguments) -> Result<Report, String> {
    let stop = interrupt::watch()?;
    let mut report = Report::default();
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        report.skips.push("lab: its guests are Debian's for amd64 on Linux".to_owned());
        return Ok(report);
    }
    if arguments.install {
        program::install().map_err(|error| error.to_string())?;
    }
    let missing = program::missing_packages();
    if !missing.is_empty() {
        report.skips.push(format!(
            "lab: missing {0}: apt-get install --no-install-recommends {0} (or cargo xtask lab --install)",
            missing.join(" ")
        ));
        return Ok(report);
    }
    let folder = target_folder()?.join("lab");
    if arguments.nitro {
        nitro::run(&arguments.kernels, &folder, &stop.flag, &mut report)?;
        report.interrupted_by = stop.signal();
        if arguments.modes.is_empty() || report.interrupted_by.is_some() {
            return Ok(report);
        }
    }
    let mut kernels = Vec::new();
    for series in &arguments.kernels {
        match Kernel::fetch(series, &folder.join("kernels")) {
            Ok(kernel) => kernels.push(kernel),
            Err(error) if error.is_missing() => report.skips.push(format!("lab on {series}: {error}")),
            Err(error) => return Err(error.to_string()),
        }
    }
    if kernels.is_empty() {
        return Ok(report);
    }
    let programs = build::programs(&folder, arguments.benches())?;
    let mut table = table::Table::default();
    for kernel in &kernels {
        for task in arguments.tasks_on(&kernel.series) {
            let name = format!("{task} on {}", kernel.version);
            println!("\n== lab: {name}");
            let start = Instant::now();
            let lab = modes::Lab {
                folder: &folder,
                kernel,
                programs: &programs,
                tests: &arguments.tests,
                quick: arguments.quick,
                stop: &stop.flag,
            };
            let outcome = match task {
                Task::Suites(mode) => lab.run(mode),
                Task::Measure(words) => lab.measure(words),
            };
            match outcome {
                Ok(outcome) if arguments.measures() => {
                    if outcome.status != 0 {
                        report.failures.push(format!("{name}: status {}", outcome.status));
                    }
                }
                Ok(outcome) => {
                    report.tally = report.tally.and(outcome.tally);
                    table.take(kernel, &outcome.output);
                    if outcome.tally.failed > 0 {
                        report.failures.push(format!("{name}: {}", outcome.tally));
                    } else if outcome.status != 0 || outcome.tally.passed == 0 {
                        report.tally.failed += 1;
                        report.failures.push(format!("{name}: status {}, {}", outcome.status, outcome.tally));
                    }
                }
                Err(LabError::Interrupted) => {
                    report.interrupted_by = stop.signal();
                    return Ok(report);
                }
                Err(error) if error.is_missing() => report.skips.push(format!("{name}: {error}")),
                Err(error) => {
                    report.tally.failed += 1;
                    report.failures.push(format!("{name}: {error}"));
                }
            }
            println!("== lab: {name}: {} s", start.elapsed().as_secs());
        }
    }
    if arguments.write_table {
        table.write()?;
    }
    Ok(report)
}

/// The series as the usage names them.
fn known_series() -> String {
    let mut text = String::new();
    for (series, why) in kernel::SERIES {
        text.push_str(&format!("  {series:<6} {why}\n"));
    }
    text
}
