//! The checks and chores of the project: `cargo xtask ci`, `tidy`, `guards`, `image`, `eif`, `lab`, `fuzz`, `measure`, `soak`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for people at a terminal")]

mod ci;
mod eif;
mod engine;
mod fuzz;
mod guards;
mod image;
mod lab;
mod run;
mod static_target;
mod tally;
mod tidy;

use std::os::unix::process::CommandExt as _;
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  ci                            everything that must hold, and how much of it was tried
  tidy                          documents and tree agree with the code
  guards                        system calls and instructions of the daemon, counted, against their bounds
  image                         the container image is built from a static binary, run and ended
  eif [OPTIONS]                 the example as an image file for enclaves, with its measurements (--twice, --profile, --kernel ...)
  lab [OPTIONS] [-- TEST]       the suites over real AF_VSOCK, in guests of QEMU (--mode, --kernel, --quick, --install,
                                --write-table), or figures from within one (--measure idle 10000, --measure bench 7)
  fuzz [OPTIONS]                the long run of the fuzz targets (--executions, --target, --seed, --minimise)
  soak [--minutes N] [--seed S] one release build of the bridge under mixed traffic, with a fault each 30 s (docs/soak.md)
  measure WHAT [NUMBER]         figures from release builds: idle, ready, restart, sigterm, faults, sequence,
                                descriptors, log-queue, stdout-blocked
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
        ["guards"] => match guards::run() {
            Ok(all) if all.iter().any(|guard| matches!(guard, guards::Guarded::Failed(_))) => ExitCode::FAILURE,
            Ok(_) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
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
        ["fuzz", rest @ ..] => fuzz::main(rest),
        ["soak", rest @ ..] => release("soak", rest),
        ["measure", rest @ ..] if !rest.is_empty() => release("measure", rest),
        _ => {
            eprint!("{USAGE}");
            ExitCode::from(64)
        }
    }
}

/// The programs under test, and those that stand for others beside them.
const PROGRAMS: [&str; 6] =
    ["--package", "enclave-bridge", "--package", "simple-enclave", "--package", "enclave-bridge-e2e"];

/// Release builds side by side, then one of them in the place of this program, so that Ctrl-C is its alone. It is told which
/// programs it tests: another selection of packages has other features of what they stand on, and would be built again.
fn release(program: &str, arguments: &[&str]) -> ExitCode {
    let built = run::cargo(["build", "--release", "--locked", "--bins"]).args(PROGRAMS).run();
    let folder = match built.and_then(|()| ci::target_folder()) {
        Ok(target) => target.join("release"),
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let line = run::Line::new(folder.join(program), arguments)
        .variable("ENCLAVE_BRIDGE_BIN", folder.join("enclave-bridge"))
        .variable("SIMPLE_ENCLAVE_BIN", folder.join("simple-enclave"));
    let error = line.command().exec();
    eprintln!("{line}: {error}");
    ExitCode::FAILURE
}
