//! `cargo bench-bridge`: the bridge side by side with direct sockets, HAProxy, nginx, socat and an imitation of the
//! original's loop; and the same over AF_VSOCK in a guest of the lab (`vsock`). What it measures and promises is in
//! SPECIFICATION.md.
//!
//! Bounded by itself: ports of 127.0.0.1 and Unix sockets only, limits for every read and wait, children ended by id.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for people at a terminal")]

mod arguments;
mod enclave;
mod error;
mod gates;
mod load;
mod place;
mod plan;
mod process;
mod procfs;
mod records;
mod report;
mod rounds;
mod rows;
mod service;
mod socket;
mod stats;
mod targets;

use arguments::{Command, Wanted};
use error::BenchError;
use gates::{Verdict, judge};
use plan::Test;
use process::Stop;
use rounds::Pace;
use rows::{Run, Told};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use targets::{Far, Ground, Kind, Target};

fn main() -> ExitCode {
    let done = match arguments::read() {
        Command::Run(wanted) => run(&wanted),
        Command::Vsock(wanted) => vsock(&wanted),
        Command::Report { file, write, note } => report_of(&file, write, note),
        Command::Relay { buffer, listen, upstream, egress } => {
            targets::relay(buffer, listen, &upstream, egress).map(|()| ExitCode::SUCCESS)
        }
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bench-bridge: {error}");
            match error {
                BenchError::Usage(_) => ExitCode::from(64),
                BenchError::Io { .. }
                | BenchError::Mismatch { .. }
                | BenchError::Missing { .. }
                | BenchError::Process { .. }
                | BenchError::Document { .. }
                | BenchError::Interrupted => ExitCode::FAILURE,
            }
        }
    }
}

/// Over loopback and Unix sockets.
fn run(wanted: &Wanted) -> Result<ExitCode, BenchError> {
    let output = match &wanted.output {
        Some(path) => path.clone(),
        None => targets::target_folder()?.join("bench-bridge"),
    };
    // A place that cannot be written to is better known before half an hour of measuring than after it.
    let rows = output.with_extension("json.part");
    std::fs::write(&rows, "").map_err(BenchError::io(format!("write {}", rows.display())))?;
    let bridge = match &wanted.bridge {
        Some(path) => path.clone(),
        None => targets::built()?,
    };
    let run = measured(wanted, &bridge, Far::Hybrid)?;
    print!("{}", report::tables(&run));
    print!("{}", report::gates(&run));
    let json = serde_json::to_string(&run)
        .map_err(|error| BenchError::Io { what: "write the rows".to_owned(), source: error.into() })?;
    std::fs::write(&rows, json).map_err(BenchError::io(format!("write {}", rows.display())))?;
    let (whole, chart) = (output.with_extension("json"), output.with_extension("svg"));
    std::fs::rename(&rows, &whole).map_err(BenchError::io(format!("write {}", whole.display())))?;
    std::fs::write(&chart, report::chart(&run)).map_err(BenchError::io(format!("write {}", chart.display())))?;
    println!("wrote {} and {}", whole.display(), chart.display());
    if wanted.write {
        write_documents(&run)?;
    }
    Ok(verdict(&run))
}

/// Over AF_VSOCK, for which this has to be a guest of the lab: its table, and its rows as lines of JSON.
fn vsock(wanted: &Wanted) -> Result<ExitCode, BenchError> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the lab's init says in the environment that this is one of its guests"
    )]
    let lab = std::env::var_os("ENCLAVE_BRIDGE_LAB");
    if lab.is_none_or(|lab| lab != "1") {
        return Err(BenchError::Usage("AF_VSOCK is opened in a guest of the lab only: cargo xtask lab".to_owned()));
    }
    let bridge = wanted.bridge.clone().unwrap_or_else(|| PathBuf::from("/bin/enclave-bridge"));
    let run = measured(wanted, &bridge, Far::Vsock)?;
    print!("{}", report::tables(&run));
    print!("{}", report::gates(&run));
    print!("{}", run.lines().map_err(BenchError::io("write the rows"))?);
    Ok(verdict(&run))
}

/// The tables of a run that was measured earlier.
fn report_of(file: &Path, write: bool, note: Option<String>) -> Result<ExitCode, BenchError> {
    let text = std::fs::read_to_string(file).map_err(BenchError::io(file.display().to_string()))?;
    let mut run = Run::parse(&text).ok_or_else(|| BenchError::Document {
        what: file.display().to_string(),
        reason: "no rows of this program".to_owned(),
    })?;
    run.note = note.or(run.note);
    print!("{}", report::tables(&run));
    print!("{}", report::gates(&run));
    if write {
        write_documents(&run)?;
    }
    Ok(verdict(&run))
}

fn write_documents(run: &Run) -> Result<(), BenchError> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    report::write_documents(run, own.parent().unwrap_or(own))?;
    println!("wrote {} and {}", report::SPECIFICATION, report::README);
    Ok(())
}

fn measured(wanted: &Wanted, bridge: &Path, far: Far) -> Result<Run, BenchError> {
    let stop = Stop::on_signals()?;
    let connections = load::most_connections(wanted.connections)?;
    if far == Far::Hybrid && connections < wanted.connections {
        eprintln!("the limit of descriptors allows {connections} connections at once, not {}", wanted.connections);
    }
    // A short path: a Unix address holds 108 bytes.
    let folder = tempfile::Builder::new().prefix("bb-").tempdir().map_err(BenchError::io("make a folder"))?;
    let ground = Ground::prepare(folder.path(), bridge, far, &stop)?;
    let (all_tests, all_targets) = match far {
        Far::Hybrid => (plan::TESTS, targets::ALL),
        Far::Vsock => (plan::OVER_VSOCK, targets::OVER_VSOCK),
    };
    let tests: Vec<&'static Test> = all_tests.iter().filter(|test| wanted.wants_test(test.name)).collect();
    let kinds: Vec<(&'static str, Kind)> =
        all_targets.iter().copied().filter(|(name, _)| wanted.wants_target(name)).collect();
    let mut left_out = Vec::new();
    let mut targets = Vec::new();
    for (name, kind) in kinds {
        match Target::start(name, kind, &ground) {
            Ok(target) => targets.push(target),
            Err(BenchError::Interrupted) => return Err(BenchError::Interrupted),
            // What is under test has to run; a peer that does not is named.
            Err(error) if kind.is_bridge() => return Err(error),
            Err(error) => {
                eprintln!("left out: {name}: {error}");
                left_out.push(format!("{name}: {error}"));
            }
        }
    }
    let pace = Pace {
        rounds: wanted.rounds,
        lasting: wanted.lasting,
        memory_rounds: wanted.memory_rounds,
        extent: plan::Extent { connections, stalled_for: wanted.stalled_for },
    };
    let rows = rounds::run(&tests, &mut targets, &ground, &pace);
    if stop.is_set() {
        eprintln!("interrupted: what follows is what was measured until then");
        left_out.push("everything after an interruption".to_owned());
    }
    let told = |target: &Target| Told {
        name: target.name.to_owned(),
        version: target.version.clone(),
        settings: target.settings.clone(),
    };
    Ok(Run {
        transport: match far {
            Far::Hybrid => "hybrid".to_owned(),
            Far::Vsock => "vsock".to_owned(),
        },
        note: wanted.note.clone(),
        place: place::here(&wanted.told),
        targets: targets.iter().map(told).collect(),
        left_out,
        rows,
    })
}

/// A gate that is missed is a result; bytes that were lost are a failure.
fn verdict(run: &Run) -> ExitCode {
    let missed = judge(run).iter().filter(|judged| judged.verdict == Verdict::Missed).count();
    let voids = run.voids().count();
    println!("{missed} gates missed, {voids} measurements void");
    if voids > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
