//! `cargo demo`: the bridge and the example enclave on one machine, as two processes that meet over the hybrid
//! transport in a temporary directory. No VM, no vsock.
//!
//! The demo starts the two, says what to try, starts the enclave again when it dies, and leaves nothing behind when
//! it is told to end (SIGINT, SIGTERM, SIGHUP). It cannot do so when it is itself killed with SIGKILL: the two
//! processes then live on.

mod arguments;
mod processes;
mod ready;

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use tokio::process::Child;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::arguments::Arguments;
use crate::processes::Programs;

/// How long after its death the enclave is started again: long enough to see the bridge wait.
const RESTART_PAUSE: Duration = Duration::from_secs(2);

/// How long the first start may take before the demo says that something is wrong.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// The longest directory that still leaves room for a socket's name in a Unix address (108 bytes in Linux).
const SOCKET_DIRECTORY_MAX_BYTES: usize = 80;

const USAGE: &str = "\
usage: cargo demo [--port N] [--monitor-port N]

  --port N          the enclave's web page, TCP (8080)
  --monitor-port N  the bridge's health and metrics, TCP (8888)

ENCLAVE_BRIDGE_... variables are handed on to the bridge.
";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = match arguments::from_process() {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            say(USAGE);
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            complain(&error);
            return ExitCode::from(64);
        }
    };
    match demo(&arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// Everything between the command line and the exit code. When it returns, both processes have ended and the
/// directory of the sockets is gone.
async fn demo(arguments: &Arguments) -> Result<(), String> {
    let mut told_to_end = ToldToEnd::new()?;
    free_port(arguments.port, "--port")?;
    free_port(arguments.monitor.port(), "--monitor-port")?;

    say("building the bridge and the example enclave ...\n");
    let programs = tokio::select! {
        built = processes::build() => built?,
        () = told_to_end.wait() => return Ok(()),
    };
    let directory = socket_directory()?;
    let uds_path = directory.path().join("enclave.sock");

    let mut bridge = processes::start_bridge(&programs, &uds_path, arguments)?;
    let mut enclave = None;
    let result = watch(arguments, &programs, &uds_path, &mut bridge, &mut enclave, &mut told_to_end).await;
    if let Some(enclave) = &mut enclave {
        processes::end(enclave, "the enclave").await;
    }
    processes::end(&mut bridge, "the bridge").await;
    let removed = directory.close().map_err(|error| format!("the directory of the sockets: {error}"));
    result.and(removed)
}

/// Runs until the demo is told to end (`Ok`) or cannot go on.
async fn watch(
    arguments: &Arguments,
    programs: &Programs,
    uds_path: &Path,
    bridge: &mut Child,
    enclave: &mut Option<Child>,
    told_to_end: &mut ToldToEnd,
) -> Result<(), String> {
    tokio::select! {
        () = told_to_end.wait() => return Ok(()),
        status = bridge.wait() => return Err(format!("the bridge ended: {}", processes::describe(status))),
        answers = ready::answers(arguments.monitor, READY_LIMIT) => answers?,
    }
    *enclave = Some(processes::start_enclave(programs, uds_path, arguments)?);
    let mut was_ready = false;
    loop {
        tokio::select! {
            () = told_to_end.wait() => {
                say("\nending both processes\n");
                return Ok(());
            }
            status = bridge.wait() => return Err(format!("the bridge ended: {}", processes::describe(status))),
            status = processes::ended(enclave) => {
                let status = processes::describe(status);
                *enclave = None;
                if !was_ready {
                    return Err(format!("the enclave ended before it was ready: {status}; its reason stands above"));
                }
                say(&format!("\nthe enclave ended ({status}); the bridge waits; it is started again in {} s\n", RESTART_PAUSE.as_secs()));
            }
            () = tokio::time::sleep(RESTART_PAUSE), if enclave.is_none() => {
                let started = processes::start_enclave(programs, uds_path, arguments)?;
                say(&format!("the enclave runs again, process id {}\n", processes::id(&started)));
                *enclave = Some(started);
            }
            ready = ready::wait(arguments.monitor, READY_LIMIT), if !was_ready => {
                ready?;
                was_ready = true;
                say(&what_to_try(arguments, bridge, enclave.as_ref()));
            }
        }
    }
}

/// The signals that end the demo. SIGINT reaches it alone: the two processes stand in process groups of their own.
struct ToldToEnd {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl ToldToEnd {
    fn new() -> Result<Self, String> {
        let listen = |kind| signal(kind).map_err(|error| format!("signals: {error}"));
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

/// Asked before anything is built, so that the answer comes at once and names the flag.
fn free_port(port: u16, flag: &str) -> Result<(), String> {
    match TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            Err(format!("TCP port {port} is in use by another program; choose another with {flag} N"))
        }
        Err(error) => Err(format!("TCP port {port}: {error}; choose another with {flag} N")),
    }
}

fn socket_directory() -> Result<tempfile::TempDir, String> {
    let usual = std::env::temp_dir();
    let parent = if usual.as_os_str().len() <= SOCKET_DIRECTORY_MAX_BYTES { usual } else { PathBuf::from("/tmp") };
    tempfile::Builder::new()
        .prefix("enclave-demo-")
        .tempdir_in(&parent)
        .map_err(|error| format!("a directory for the sockets in {}: {error}", parent.display()))
}

fn what_to_try(arguments: &Arguments, bridge: &Child, enclave: Option<&Child>) -> String {
    let port = arguments.port;
    let monitor = arguments.monitor.port();
    let enclave = enclave.map_or_else(|| "-".to_owned(), processes::id);
    let bridge = processes::id(bridge);
    format!(
        "
the enclave answers at http://localhost:{port}/

  curl http://localhost:{port}/                                        a greeting
  curl --data-binary @FILE http://localhost:{port}/echo                streamed back as it comes
  curl http://localhost:{port}/env/PATH                                what the host told the enclave
  curl 'http://localhost:{port}/fetch?target=example.org:443&path=/&scheme=https'
                                                                   through the egress tunnel, TLS ends in the enclave
  curl 'http://localhost:{port}/fetch?target=169.254.169.254:80&path=/'  the policy says no
  curl http://localhost:{port}/client                                  your address as the enclave sees it

the bridge (process id {bridge}) tells how it is at http://localhost:{monitor}/health/ready and /metrics
the enclave is process id {enclave}: kill -9 {enclave}   and it is started again after {} s
Ctrl-C ends both

",
        RESTART_PAUSE.as_secs()
    )
}

fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    // A reader that went away is no reason to leave the processes without their end.
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

fn complain(error: &str) {
    drop(writeln!(std::io::stderr().lock(), "demo: {error}"));
}
