//! The three modes: what is packed, what is booted, what runs where.

use super::arguments::Mode;
use super::build::Programs;
use crate::run::{self, Line, cargo};
use crate::tally::Tally;
use enclave_bridge_lab::guest::Sink;
use enclave_bridge_lab::{Boot, Initramfs, Kernel, LabError, device};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A whole suite in one guest, translated on a loaded machine.
const LOOPBACK_LIMIT: Duration = Duration::from_secs(8 * 60);

/// Streams of hundreds of mebibytes, hundreds of processes: what a translated processor does not do in a sensible time.
const TOO_MUCH_FOR_A_GUEST: &[&str] = &["slow_", "gibibyte", "thousand"];

/// One run of the lab.
pub(crate) struct Lab<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) kernel: &'a Kernel,
    pub(crate) programs: &'a Programs,
    pub(crate) tests: &'a [String],
    pub(crate) stop: &'a AtomicBool,
}

/// What a mode's suites said.
pub(crate) struct Outcome {
    pub(crate) status: u8,
    pub(crate) tally: Tally,
    pub(crate) output: String,
}

impl Lab<'_> {
    pub(crate) fn run(&self, mode: Mode) -> Result<Outcome, LabError> {
        match mode {
            Mode::Loopback => self.loopback(),
            Mode::Hybrid | Mode::Pair => {
                Err(LabError::Missing { what: mode.to_string(), remedy: "not written yet".to_owned() })
            }
        }
    }

    /// The socket suite and the end-to-end suites, one after the other, in one guest.
    fn loopback(&self) -> Result<Outcome, LabError> {
        let work = self.work()?;
        let sockets = self.programs.suite("sockets").map_err(other)?;
        let suites: Vec<&PathBuf> =
            std::iter::once(sockets).chain(&self.programs.net).chain(&self.programs.e2e).collect();
        let packed: Vec<PathBuf> = self.programs.products.iter().chain(suites.iter().copied()).cloned().collect();
        let initramfs = Initramfs::build(self.kernel, &packed, work.path().join("loopback.base"))?;
        let mut command = String::from(
            "export ENCLAVE_BRIDGE_BIN=/bin/enclave-bridge SIMPLE_ENCLAVE_BIN=/bin/simple-enclave\n\
             export ENCLAVE_BRIDGE_E2E_ENDPOINT=vsock RUST_TEST_THREADS=1\nresult=0\n",
        );
        for suite in suites {
            let name = suite.file_name().unwrap_or_default().to_string_lossy();
            let own = if suite == sockets { " --ignored --nocapture" } else { "" };
            let skips: String = TOO_MUCH_FOR_A_GUEST.iter().map(|name| format!(" --skip {name}")).collect();
            let tests: String = self.tests.iter().map(|test| format!(" {test}")).collect();
            command.push_str(&format!("echo \"== {name} at $(cut -d' ' -f1 /proc/uptime) s\"\n"));
            command.push_str(&format!("{name}{own}{skips}{tests} || result=1\n"));
        }
        command.push_str("exit $result\n");
        let (sink, kept) = shown();
        let boot = Boot {
            name: "loopback",
            kernel: self.kernel,
            initramfs: &initramfs,
            command: &command,
            device: None,
            limit: LOOPBACK_LIMIT,
            folder: work.path(),
        };
        let ended = boot.run(&sink, self.stop)?;
        let output = kept.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(Outcome { status: ended.status, tally: Tally::of(&output), output })
    }

    /// A folder for one mode's files, gone with it.
    fn work(&self) -> Result<tempfile::TempDir, LabError> {
        tempfile::Builder::new().prefix("eb-lab-").tempdir().map_err(LabError::file(std::env::temp_dir()))
    }
}

/// Shows every line and keeps it.
fn shown() -> (Sink, Arc<Mutex<String>>) {
    let kept = Arc::new(Mutex::new(String::new()));
    let into = Arc::clone(&kept);
    let sink: Sink = Arc::new(move |line| {
        println!("{line}");
        let mut kept = into.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_str(line);
        kept.push('\n');
    });
    (sink, kept)
}

fn other(reason: String) -> LabError {
    LabError::Command { command: "lab".to_owned(), reason }
}

/// The device for guests that are reached from outside, built from its crate once.
#[expect(dead_code, reason = "for the next modes")]
fn device_program(folder: &Path) -> Result<PathBuf, LabError> {
    let root = folder.join(format!("vhost-device-vsock-{}", device::VERSION));
    let program = root.join("bin/vhost-device-vsock");
    if program.is_file() {
        return Ok(program);
    }
    let line: Line = cargo(["install", "--locked", "--quiet", "--version", device::VERSION, "--root"]);
    let line = line
        .args([root.as_os_str(), "vhost-device-vsock".as_ref()])
        .variable("CARGO_TARGET_DIR", folder.join("device-build"));
    line.run().map_err(|error| LabError::Missing { what: "vhost-device-vsock".to_owned(), remedy: error })?;
    debug_assert!(run::root().is_dir());
    Ok(program)
}
