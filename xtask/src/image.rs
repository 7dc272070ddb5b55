//! The container image: its final stage is built from a static binary, run as it is deployed, spoken to, and ended.

use crate::ci::target_folder;
use crate::engine::Engine;
use crate::run::{self, Line, cargo};
use crate::static_target;
use std::fs::Permissions;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The user that the image runs as.
const USER: &str = "65532:65532";

/// How long anything here may take to be seen.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why the image was not shown to work.
pub(crate) enum NotTested {
    /// It could not be tried here.
    Skipped(String),
    /// It was tried.
    Failed(String),
}

impl From<String> for NotTested {
    fn from(reason: String) -> NotTested {
        NotTested::Failed(reason)
    }
}

/// Builds, runs and ends it.
pub(crate) fn test() -> Result<(), NotTested> {
    if !cfg!(target_os = "linux") {
        return Err(NotTested::Skipped("the image is built on Linux".to_owned()));
    }
    let engine = Engine::find().map_err(NotTested::Skipped)?;
    let folder = tempfile::Builder::new().prefix("eb-image-").tempdir().map_err(|error| error.to_string())?;
    let context = folder.path().join("context");
    std::fs::create_dir(&context).map_err(|error| error.to_string())?;
    std::fs::copy(static_binary()?, context.join("enclave-bridge")).map_err(|error| error.to_string())?;

    let tag = format!("enclave-bridge-ci:{}", std::process::id());
    let dockerfile = run::root().join("deploy/Dockerfile");
    let build = engine.docker(["build", "--target", "prebuilt", "--tag", &tag, "--file"]);
    build.args([dockerfile.as_path(), context.as_path()]).capture()?;
    let tested = runs(&engine, &tag, folder.path());
    engine.docker(["image", "rm", "--force", &tag]).capture()?;
    tested?;
    Ok(())
}

/// A release build that needs nothing from the image.
fn static_binary() -> Result<PathBuf, String> {
    let target = static_target::target();
    cargo(["build", "--release", "--locked", "--package", "enclave-bridge", "--bin", "enclave-bridge"])
        .args(["--target", &target])
        .variable("RUSTFLAGS", static_target::FLAG)
        .run()?;
    let binary = target_folder()?.join(&target).join("release/enclave-bridge");
    let bytes = std::fs::metadata(&binary).map_err(|error| format!("{}: {error}", binary.display()))?.len();
    println!("static binary for {target}: {} KiB", bytes / 1024);
    Ok(binary)
}

fn runs(engine: &Engine, tag: &str, folder: &Path) -> Result<(), String> {
    let inspect = engine.docker(["image", "inspect", "--format"]);
    let about = inspect.args(["{{.Config.User}} {{.Config.Entrypoint}} {{.Config.ExposedPorts}}", tag]).capture()?;
    expect(about.starts_with(USER) && about.contains("[/app]") && about.contains("8888/tcp"), || {
        format!("the image: {about}")
    })?;
    as_the_original(engine, tag, &folder.join("first"))?;
    with_other_ports(engine, tag, &folder.join("second"))
}

/// The original's ports, untouched: 5000 and 4999 towards the enclave, 8888 for monitoring; an enclave of version 1.
fn as_the_original(engine: &Engine, tag: &str, sockets: &Path) -> Result<(), String> {
    let default = SocketAddr::from((Ipv4Addr::LOCALHOST, 8888));
    let monitor = if TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8888)).is_ok() { default } else { free()? };
    let mut variables = vec![];
    if monitor != default {
        println!("port 8888 is in use here: the image was tested with {monitor} instead");
        variables.push(format!("ENCLAVE_BRIDGE_MONITOR={monitor}"));
    }
    let container = Container::start(engine, tag, sockets, &variables)?;
    container.wait_live(monitor)?;
    for port in [5000, 4999] {
        let socket = sockets.join(format!("guest.sock_{port}"));
        expect(socket.exists(), || format!("no {}", socket.display()))?;
    }
    let identity = container.identity()?;
    expect(identity.contains("65532"), || format!("the bridge in the container runs as {identity}"))?;

    let served = free()?;
    let mut enclave = enclave(sockets, served)?;
    let echoed = echo_through(served, &sockets.join("guest.sock"));
    enclave.kill().and_then(|()| enclave.wait()).map_err(|error| error.to_string())?;
    echoed.map_err(|error| format!("through the container: {error}\n{}", container.log()))?;
    container.end()
}

/// The original's variables.
fn with_other_ports(engine: &Engine, tag: &str, sockets: &Path) -> Result<(), String> {
    let monitor = free()?;
    let variables = [
        "ENCLAVE_BRIDGE_VSOCK_INIT_PORT=6000".to_owned(),
        "ENCLAVE_BRIDGE_VSOCK_STDOUT_PORT=5999".to_owned(),
        format!("ENCLAVE_BRIDGE_MONITOR={monitor}"),
    ];
    let container = Container::start(engine, tag, sockets, &variables)?;
    container.wait_live(monitor)?;
    for port in [6000, 5999] {
        let socket = sockets.join(format!("guest.sock_{port}"));
        expect(socket.exists(), || format!("no {}", socket.display()))?;
    }
    container.end()
}

struct Container<'a> {
    engine: &'a Engine,
    name: String,
}

impl<'a> Container<'a> {
    fn start(engine: &'a Engine, tag: &str, sockets: &Path, variables: &[String]) -> Result<Container<'a>, String> {
        std::fs::create_dir(sockets).map_err(|error| error.to_string())?;
        // The image's user is nobody on this machine.
        std::fs::set_permissions(sockets, Permissions::from_mode(0o777)).map_err(|error| error.to_string())?;
        let name = format!("{}-{}", tag.replace(':', "-"), sockets.file_name().unwrap_or_default().to_string_lossy());
        let mut line = engine.docker(["run", "--detach", "--name", &name, "--network", "host", "--read-only"]);
        line = line.args(["--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--volume"]);
        line = line.args([format!("{}:/run/enclave", sockets.display())]);
        line = line.args(["--env", "ENCLAVE_BRIDGE_UDS_PATH=/run/enclave/guest.sock"]);
        for variable in variables {
            line = line.args(["--env", variable]);
        }
        line.args([tag]).capture()?;
        Ok(Container { engine, name })
    }

    fn wait_live(&self, monitor: SocketAddr) -> Result<(), String> {
        until("the bridge's health in the container", || is_live(monitor))
            .map_err(|error| format!("{error}\n{}", self.log()))
    }

    /// The user of the container's process, as the host's kernel has it.
    fn identity(&self) -> Result<String, String> {
        let id = self.engine.docker(["inspect", "--format", "{{.State.Pid}}", &self.name]).capture()?;
        let status = std::fs::read_to_string(format!("/proc/{}/status", id.trim()));
        let status = status.map_err(|error| format!("the container's process: {error}"))?;
        Ok(status.lines().find(|line| line.starts_with("Uid:")).unwrap_or_default().to_owned())
    }

    fn log(&self) -> String {
        self.engine.docker(["logs", &self.name]).tee().map(|(_, text)| text).unwrap_or_default()
    }

    /// SIGTERM, and the code that follows.
    fn end(self) -> Result<(), String> {
        self.engine.docker(["stop", "--time", "40", &self.name]).capture()?;
        let code = self.engine.docker(["inspect", "--format", "{{.State.ExitCode}}", &self.name]).capture()?;
        expect(code.trim() == "0", || format!("SIGTERM ended the container with {}\n{}", code.trim(), self.log()))
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.engine.docker(["rm", "--force", &self.name]).capture() {
            eprintln!("{error}");
        }
    }
}

/// A version-1 enclave beside the container: the one of the end-to-end tests.
fn enclave(sockets: &Path, served: SocketAddr) -> Result<std::process::Child, String> {
    let program = target_folder()?.join("debug/e2e-v1-enclave");
    if !program.is_file() {
        cargo(["build", "--locked", "--package", "enclave-bridge-e2e", "--bin", "e2e-v1-enclave"]).run()?;
    }
    let line = Line::new(program, [sockets.join("guest.sock").into_os_string(), served.port().to_string().into()]);
    line.command().spawn().map_err(|error| format!("{line}: {error}"))
}

fn echo_through(served: SocketAddr, guest: &Path) -> Result<(), String> {
    until("the guest's socket", || guest.exists())?;
    // Bound by this user, dialled by the container's.
    std::fs::set_permissions(guest, Permissions::from_mode(0o777)).map_err(|error| error.to_string())?;
    until("an echo", || echo(served).is_ok())
}

fn echo(served: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&served, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"through a container")?;
    let mut back = [0; 19];
    stream.read_exact(&mut back)?;
    if &back == b"through a container" { Ok(()) } else { Err(std::io::ErrorKind::InvalidData.into()) }
}

fn is_live(monitor: SocketAddr) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&monitor, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        let mut status = [0; 12];
        stream.read_exact(&mut status)?;
        Ok(&status == b"HTTP/1.1 200")
    };
    ask().unwrap_or(false)
}

fn free() -> Result<SocketAddr, String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|error| error.to_string())?;
    listener.local_addr().map_err(|error| error.to_string())
}

fn until(what: &str, look: impl Fn() -> bool) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    while !look() {
        if Instant::now() > deadline {
            return Err(format!("waited {PATIENCE:?} for {what}"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn expect(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}
