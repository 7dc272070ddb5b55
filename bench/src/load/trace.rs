//! System calls per forwarded message, counted by strace where it is installed: a figure without noise.

use super::message::{echoing, finish, there_and_back};
use super::{Subject, Values, wait_until};
use crate::error::BenchError;
use crate::process::{Process, find};
use crate::procfs;
use std::process::{Command, Stdio};

/// Messages there and back: enough that attaching does not show.
const EXCHANGES: u32 = 2000;

/// Counts what the relay asks of the kernel while messages of 64 bytes go there and back on one connection.
pub(crate) fn system_calls(subject: &Subject<'_>) -> Result<Values, BenchError> {
    let strace = find("strace").ok_or(BenchError::Missing { program: "strace", hint: String::new() })?;
    let stream = echoing(subject.front)?;
    there_and_back(&stream)?;
    let folder = tempfile::tempdir().map_err(BenchError::io("make a folder"))?;
    let counts = folder.path().join("counts");
    let mut command = Command::new(strace);
    command.args(["-f", "-q", "-c", "-o"]).arg(&counts).stderr(Stdio::null());
    let traced = procfs::tree(subject.roots);
    for id in &traced {
        command.args(["-p", &id.to_string()]);
    }
    let mut process = Process::start(&mut command, "strace")?;
    wait_until("strace to attach", subject.stop, || {
        !process.is_running() || traced.iter().all(|id| procfs::is_traced_or_gone(*id))
    })?;
    for _ in 0..EXCHANGES {
        there_and_back(&stream)?;
    }
    process.interrupt_and_wait()?;
    let text = std::fs::read_to_string(&counts).map_err(BenchError::io("read what strace counted"))?;
    let calls = total(&text).ok_or_else(|| BenchError::Document {
        what: "strace".to_owned(),
        reason: "no total; may it trace?".to_owned(),
    })?;
    finish(&stream)?;
    Ok(Values::from([("calls_message", calls as f64 / f64::from(2 * EXCHANGES))]))
}

/// The calls in the last line of the table.
fn total(text: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.trim_end().ends_with(" total"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_the_fourth_column_with_errors_or_without() {
        let text = "% time     seconds  usecs/call     calls    errors syscall\n\
                    ------ ----------- ----------- --------- --------- ----------------\n\
                     66.67    0.000002           0      4000           recvfrom\n\
                    ------ ----------- ----------- --------- --------- ----------------\n";
        let with = format!("{text}100.00    0.000003           0     12001         3 total\n");
        let without = format!("{text}100.00    0.000003           0     12001           total\n");
        assert_eq!(total(&with), Some(12001));
        assert_eq!(total(&without), Some(12001));
        assert_eq!(total(text), None);
    }
}
