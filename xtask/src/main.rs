//! The checks and chores of the project: `cargo xtask ci`, `tidy`, `image`, `eif`, `lab`, `measure`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for people at a terminal")]

mod ci;
mod eif;
mod engine;
mod image;
mod lab;
mod run;
mod static_target;
mod tally;
mod tidy;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  ci                            everything that must hold, and how much of it was tried
  tidy                          documents and tree agree with the code
  image                         the container image is built from a static binary, run and ended
  eif [OPTIONS]                 the example as an image file for enclaves, with its measurements (--twice, --profile, --kernel ...)
  lab [OPTIONS] [-- TEST]       the suites over real AF_VSOCK, in guests of QEMU (--mode, --kernel, --quick, --install,
                                --write-table), or figures from within one (--measure idle 10000)
  measure WHAT [NUMBER]         figures from release builds: idle, ready, restart, sigterm, descriptors, stdout-blocked
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["ci"] => ci::run(),
        ["tidy"] => match tidy::run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(errors) => {
                eprintln!("{errors}");
                ExitCode::FAILURE
            }
        },
        ["image"] => match image::test() {
            Ok(()) => ExitCode::SUCCESS,
            Err(image::NotTested::Skipped(reason)) => {
                eprintln!("skipped: {reason}");
                ExitCode::SUCCESS
            }
            Err(image::NotTested::Failed(reason)) => {
                eprintln!("failed: {reason}");
                ExitCode::FAILURE
            }
        },
        ["eif", rest @ ..] => eif::main(rest),
        ["lab", rest @ ..] => lab::main(rest),
        ["measure", rest @ ..] if !rest.is_empty() => measure(rest),
        _ => {
            eprint!("{USAGE}");
            ExitCode::from(64)
        }
    }
}

/// Release builds of the programs and of the measuring program, side by side, then the measurement.
fn measure(arguments: &[&str]) -> ExitCode {
    let build =
        run::cargo(["build", "--release", "--package", "enclave-bridge", "--package", "simple-enclave", "--bins"]);
    let measuring =
        run::cargo(["run", "--release", "--quiet", "--package", "enclave-bridge-e2e", "--bin", "measure", "--"])
            .args(arguments)
            .to_owned();
    for command in [build, measuring] {
        if let Err(error) = command.run() {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
