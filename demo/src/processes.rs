//! Building, starting and ending the two programs.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use crate::arguments::Arguments;

/// How long a program may take to end after SIGTERM before it is killed: the bridge drains for as long as its
/// streams move, and somebody who pressed Ctrl-C does not wait longer than this.
const END_LIMIT: Duration = Duration::from_secs(5);

/// The two programs' files.
pub(crate) struct Programs {
    bridge: PathBuf,
    enclave: PathBuf,
}

/// Builds both with cargo, into the directory that this program itself was built into.
pub(crate) async fn build() -> Result<Programs, String> {
    let own = std::env::current_exe().map_err(|error| format!("this program's own path: {error}"))?;
    let directory = own.parent().ok_or("this program's own path has no directory")?.to_owned();
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("Cargo.toml");
    #[expect(clippy::disallowed_methods, reason = "cargo names itself to the programs that it runs by this variable")]
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--package", "enclave-bridge", "--package", "simple-enclave", "--bins"]);
    command.arg("--manifest-path").arg(&manifest);
    if let Some(target) = directory.parent() {
        command.arg("--target-dir").arg(target);
    }
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let status = command.kill_on_drop(true).status().await.map_err(|error| format!("cargo build: {error}"))?;
    if !status.success() {
        return Err(format!("cargo build: {status}"));
    }
    Ok(Programs {
        bridge: existing(directory.join("enclave-bridge"))?,
        enclave: existing(directory.join("simple-enclave"))?,
    })
}

fn existing(file: PathBuf) -> Result<PathBuf, String> {
    if file.is_file() { Ok(file) } else { Err(format!("{}: not there after the build", file.display())) }
}

/// The bridge, with this process's environment and standard output.
pub(crate) fn start_bridge(programs: &Programs, uds_path: &Path, arguments: &Arguments) -> Result<Child, String> {
    let mut command = Command::new(&programs.bridge);
    command.arg("run").arg("--uds-path").arg(uds_path);
    if arguments.pass_monitor {
        command.arg("--monitor").arg(arguments.monitor.to_string());
    }
    start(&mut command, "the bridge")
}

/// The enclave. Its log lines arrive in the bridge's output, by way of the log port; its own standard error is for
/// what goes wrong.
pub(crate) fn start_enclave(programs: &Programs, uds_path: &Path, arguments: &Arguments) -> Result<Child, String> {
    let mut command = Command::new(&programs.enclave);
    command.arg("--port").arg(arguments.port.to_string());
    command.env("ENCLAVE_BRIDGE_UDS_PATH", uds_path);
    command.stdout(Stdio::null());
    start(&mut command, "the enclave")
}

fn start(command: &mut Command, what: &str) -> Result<Child, String> {
    // An own process group: Ctrl-C at the terminal reaches the demo alone, which then ends the others in order.
    command
        .stdin(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("starting {what}: {error}"))
}

/// Asks for an orderly end, waits, and kills what does not heed it.
pub(crate) async fn end(child: &mut Child, what: &str) {
    // No id: it has ended and was waited for.
    let Some(id) = child.id().and_then(|id| i32::try_from(id).ok()) else { return };
    if kill(Pid::from_raw(id), Signal::SIGTERM).is_ok() && tokio::time::timeout(END_LIMIT, child.wait()).await.is_ok() {
        return;
    }
    crate::complain(&format!("{what} did not end within {} s and is killed", END_LIMIT.as_secs()));
    if let Err(error) = child.kill().await {
        crate::complain(&format!("{what}: kill: {error}"));
    }
}

/// Resolves when the child has ended; never where there is none.
pub(crate) async fn ended(child: &mut Option<Child>) -> std::io::Result<ExitStatus> {
    match child {
        Some(child) => child.wait().await,
        None => std::future::pending().await,
    }
}

pub(crate) fn describe(status: std::io::Result<ExitStatus>) -> String {
    status.map_or_else(|error| error.to_string(), |status| status.to_string())
}

pub(crate) fn id(child: &Child) -> String {
    child.id().map_or_else(|| "-".to_owned(), |id| id.to_string())
}
