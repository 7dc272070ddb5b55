//! `cargo xtask soak [--minutes N] [--seed S]`: the soak, on this machine, until it is over or Ctrl-C.
#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a program of the tests, for people at a terminal: what does not hold is a failed soak"
)]

use enclave_bridge_e2e::soak::{self, Plan};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str = "usage: soak [--minutes N] [--seed S]";

/// Ten faults.
const MINUTES: u64 = 5;

fn main() -> ExitCode {
    let Some(plan) = parse(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(64);
    };
    let stop = Arc::new(AtomicBool::new(false));
    let set = stop.clone();
    if let Err(error) = listen(move || set.store(true, Ordering::SeqCst)) {
        eprintln!("signals: {error}");
        return ExitCode::FAILURE;
    }
    let (table, held) = soak::run(plan, &stop, &mut |line| println!("{line}"));
    print!("{table}");
    if held { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Does it once, at the first signal to end. Nothing is blocked for it: the programs under test would inherit that.
fn listen(then: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut signals = {
        let _entered = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?)
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = signals.0.recv() => {}
                _ = signals.1.recv() => {}
                _ = signals.2.recv() => {}
            }
        });
        then();
        // The later ones are taken too, and change nothing: the end is on its way.
        runtime.block_on(std::future::pending::<()>());
    });
    Ok(())
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Option<Plan> {
    let mut plan = Plan { length: Duration::from_secs(60 * MINUTES), seed: 1 };
    while let Some(flag) = arguments.next() {
        let value: u64 = arguments.next()?.parse().ok()?;
        match flag.as_str() {
            "--minutes" => plan.length = Duration::from_secs(60 * value),
            "--seed" => plan.seed = value,
            _ => return None,
        }
    }
    Some(plan)
}
