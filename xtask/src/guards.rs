//! `cargo xtask guards`: counts of system calls and instructions against their recorded bounds, in `e2e/src/bin/guards.rs`.
//!
//! valgrind itself and no runner of benches around it: what is counted is the daemon, a process with peers, which such a runner
//! does not start; and it would be one more tool to be built wherever this runs.

use crate::ci::target_folder;
use crate::lab::product;
use crate::run::cargo;

/// A guard's name or measurement, and how it went.
pub(crate) enum Guarded {
    Passed,
    Failed(String),
    Skipped(String),
}

/// Builds the bridge as the lab does, which is optimised and is built for the lab anyway, and counts.
pub(crate) fn run() -> Result<Vec<Guarded>, String> {
    let bridge = product(&target_folder()?.join("lab"), "enclave-bridge")?;
    let line = cargo(["run", "--quiet", "--locked", "--package", "enclave-bridge-e2e", "--bin", "guards"])
        .variable("ENCLAVE_BRIDGE_BIN", &bridge)
        // The harness wants both named; this one is not started.
        .variable("SIMPLE_ENCLAVE_BIN", &bridge);
    let (succeeded, output) = line.tee()?;
    let guards: Vec<Guarded> = output.lines().filter_map(read).collect();
    let failed = guards.iter().any(|guard| matches!(guard, Guarded::Failed(_)));
    if guards.is_empty() || (!succeeded && !failed) {
        return Err(format!("{line} did not succeed"));
    }
    Ok(guards)
}

fn read(line: &str) -> Option<Guarded> {
    match line.split_once(": ")? {
        ("passed", _) => Some(Guarded::Passed),
        ("failed", what) => Some(Guarded::Failed(what.to_owned())),
        ("skipped", what) => Some(Guarded::Skipped(what.to_owned())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guard_says_is_read_and_nothing_else() {
        assert!(matches!(read("passed: calls: 3.00, at most 3.05"), Some(Guarded::Passed)));
        assert!(
            matches!(read("failed: calls: 4.00, at most 3.05"), Some(Guarded::Failed(what)) if what.starts_with("calls"))
        );
        assert!(matches!(read("skipped: calls: no strace"), Some(Guarded::Skipped(_))));
        assert!(read("warning: passed: nothing").is_none() && read("").is_none());
    }
}
