//! `cargo xtask soak [--minutes N] [--seed S]`: the soak, on this machine, until it is over or Ctrl-C.
#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a program of the tests, for people at a terminal: what does not hold is a failed soak"
)]

use enclave_bridge_e2e::soak::{self, Plan};
use nix::sys::signal::{SigSet, Signal};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const USAGE: &str = "usage: soak [--minutes N] [--seed S]";

/// Ten faults.
const MINUTES: u64 = 5;

fn main() -> ExitCode {
    let Some(plan) = parse(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(64);
    };
    let stop = Arc::new(AtomicBool::new(false));
    // Blocked before any thread starts, so that they come to the one that waits for them.
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block().expect("a mask of signals");
    let set = stop.clone();
    std::thread::spawn(move || {
        if signals.wait().is_ok() {
            set.store(true, Ordering::SeqCst);
        }
    });
    let (table, held) = soak::run(plan, &stop, &mut |line| println!("{line}"));
    print!("{table}");
    if held { ExitCode::SUCCESS } else { ExitCode::FAILURE }
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
