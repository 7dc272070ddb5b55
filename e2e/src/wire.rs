//! The place where one bridge and one enclave meet, and the streams between them.
//!
//! Every suite is written against [`Meeting`]: another transport is another [`Endpoint`], not another suite.

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use vsock::{VMADDR_CID_ANY, VMADDR_CID_LOCAL, VsockListener, VsockStream};

/// How a bridge and an enclave reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// Unix sockets as Firecracker and others have them: `P` towards the guest, `P_<port>` towards the host.
    Hybrid,
    /// AF_VSOCK within one machine, over CID 1. Only in a guest of the lab. Ports are the machine's, so tests take turns.
    Vsock,
}

impl Endpoint {
    /// The endpoint that this run of the suites is about: `ENCLAVE_BRIDGE_E2E_ENDPOINT`, `hybrid` where it is not set.
    #[must_use]
    pub fn under_test() -> Endpoint {
        #[expect(
            clippy::disallowed_methods,
            reason = "which transport to test is told to the tests, not to the product"
        )]
        let told = |key: &str| std::env::var_os(key).map(|value| value.to_string_lossy().into_owned());
        match told("ENCLAVE_BRIDGE_E2E_ENDPOINT").as_deref() {
            None | Some("hybrid") => Endpoint::Hybrid,
            Some("vsock") => {
                let lab = told("ENCLAVE_BRIDGE_LAB");
                assert_eq!(lab.as_deref(), Some("1"), "AF_VSOCK is opened in a guest only: cargo xtask lab");
                Endpoint::Vsock
            }
            Some(other) => panic!("ENCLAVE_BRIDGE_E2E_ENDPOINT: no suite runs over {other:?}"),
        }
    }

    /// The CID that an enclave says it has. Over AF_VSOCK it is compared with what the kernel says.
    #[must_use]
    pub fn enclave_cid(self) -> u32 {
        match self {
            Endpoint::Hybrid => 16,
            Endpoint::Vsock => VMADDR_CID_LOCAL,
        }
    }
}

/// The place where one bridge and one enclave meet.
#[derive(Debug, Clone)]
pub struct Meeting {
    endpoint: Endpoint,
    uds_path: PathBuf,
}

impl Meeting {
    /// A place in `folder`.
    #[must_use]
    pub fn new(endpoint: Endpoint, folder: &Path) -> Meeting {
        Meeting { endpoint, uds_path: folder.join("guest.sock") }
    }

    /// A place at a socket path that is known already.
    #[must_use]
    pub fn at(uds_path: PathBuf) -> Meeting {
        Meeting { endpoint: Endpoint::Hybrid, uds_path }
    }

    /// What the bridge must be started with to be met here.
    #[must_use]
    pub fn bridge_arguments(&self) -> Vec<OsString> {
        match self.endpoint {
            Endpoint::Hybrid => vec!["--uds-path".into(), self.uds_path.clone().into()],
            Endpoint::Vsock => vec!["--allow-cid".into(), VMADDR_CID_LOCAL.to_string().into()],
        }
    }

    /// What an enclave built with the SDK must find in its environment to meet the bridge here.
    #[must_use]
    pub fn enclave_variable(&self) -> (&'static str, OsString) {
        match self.endpoint {
            Endpoint::Hybrid => ("ENCLAVE_BRIDGE_UDS_PATH", self.uds_path.clone().into()),
            Endpoint::Vsock => ("ENCLAVE_BRIDGE_HOST_CID", VMADDR_CID_LOCAL.to_string().into()),
        }
    }

    /// Whether a port of the host is taken. Nobody who listens there is disturbed by the question.
    #[must_use]
    pub fn host_listens(&self, port: u32) -> bool {
        match self.endpoint {
            Endpoint::Hybrid => self.host_socket(port).exists(),
            Endpoint::Vsock => VsockListener::bind_with_cid_port(VMADDR_CID_ANY, port).is_err(),
        }
    }

    /// As the host: takes one of its ports.
    ///
    /// # Errors
    /// What binding met.
    pub fn listen_host(&self, port: u32) -> io::Result<Accepting> {
        match self.endpoint {
            Endpoint::Hybrid => Accepting::unix(self.host_socket(port)),
            Endpoint::Vsock => Accepting::vsock(port),
        }
    }

    /// As the enclave: takes one of its ports; on the hybrid transport the one socket that all of them share.
    ///
    /// # Errors
    /// What binding met.
    pub fn listen_guest(&self, port: u32) -> io::Result<Accepting> {
        match self.endpoint {
            Endpoint::Hybrid => Accepting::unix(self.uds_path.clone()),
            Endpoint::Vsock => Accepting::vsock(port),
        }
    }

    /// As the host: dials a port of the enclave.
    ///
    /// # Errors
    /// What connecting met; an answer that is no `OK` is a refused connection.
    pub fn dial_guest(&self, port: u32) -> io::Result<Wire> {
        match self.endpoint {
            Endpoint::Hybrid => {
                let mut wire = Wire::Unix(UnixStream::connect(&self.uds_path)?);
                wire.write_all(format!("CONNECT {port}\n").as_bytes())?;
                let answer = wire.read_line_exactly(32)?;
                if answer.starts_with(b"OK ") { Ok(wire) } else { Err(io::ErrorKind::ConnectionRefused.into()) }
            }
            Endpoint::Vsock => VsockStream::connect_with_cid_port(VMADDR_CID_LOCAL, port).map(Wire::Vsock),
        }
    }

    /// The transport.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        self.endpoint
    }

    /// The socket of the guest.
    #[must_use]
    pub fn uds_path(&self) -> &Path {
        &self.uds_path
    }

    /// The socket of a port of the host.
    #[must_use]
    pub fn host_socket(&self, port: u32) -> PathBuf {
        let mut path = self.uds_path.clone().into_os_string();
        path.push(format!("_{port}"));
        path.into()
    }

    /// As the enclave: dials a port of the host.
    ///
    /// # Errors
    /// What connecting met.
    pub fn dial_host(&self, port: u32) -> io::Result<Wire> {
        match self.endpoint {
            Endpoint::Hybrid => UnixStream::connect(self.host_socket(port)).map(Wire::Unix),
            Endpoint::Vsock => VsockStream::connect_with_cid_port(VMADDR_CID_LOCAL, port).map(Wire::Vsock),
        }
    }
}

/// A listening socket, in either transport. Dropping it removes the file of a Unix socket.
#[derive(Debug)]
pub struct Accepting(Listening);

#[derive(Debug)]
enum Listening {
    Unix(UnixListener, PathBuf),
    Vsock(VsockListener),
}

impl Accepting {
    /// A socket that an earlier listener left is replaced, as a VMM that starts again does.
    fn unix(path: PathBuf) -> io::Result<Accepting> {
        let _ = std::fs::remove_file(&path);
        Ok(Accepting(Listening::Unix(UnixListener::bind(&path)?, path)))
    }

    fn vsock(port: u32) -> io::Result<Accepting> {
        VsockListener::bind_with_cid_port(VMADDR_CID_ANY, port).map(|socket| Accepting(Listening::Vsock(socket)))
    }

    /// The next connection; `None` once `stop` is set or the socket is dead.
    #[must_use]
    pub fn accept_until(&self, stop: &AtomicBool) -> Option<Wire> {
        loop {
            // A vsock listener that waits in accept is woken by nothing but a connection, so it is looked at instead.
            let mut ready = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
            let waited = poll(&mut ready, PollTimeout::from(20_u8));
            if stop.load(Ordering::SeqCst) {
                return None;
            }
            match waited {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return self.accept().ok(),
                Err(_) => return None,
            }
        }
    }

    fn accept(&self) -> io::Result<Wire> {
        match &self.0 {
            Listening::Unix(socket, _) => socket.accept().map(|(socket, _)| Wire::Unix(socket)),
            Listening::Vsock(socket) => socket.accept().map(|(socket, _)| Wire::Vsock(socket)),
        }
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0 {
            Listening::Unix(socket, _) => socket.as_fd(),
            Listening::Vsock(socket) => socket.as_fd(),
        }
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        if let Listening::Unix(_, path) = &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A stream between an enclave and its host.
#[derive(Debug)]
pub enum Wire {
    /// Over a Unix socket.
    Unix(UnixStream),
    /// Over AF_VSOCK.
    Vsock(VsockStream),
}

/// The same for either kind of socket.
macro_rules! either {
    ($wire:expr, $socket:ident => $done:expr) => {
        match $wire {
            Wire::Unix($socket) => $done,
            Wire::Vsock($socket) => $done,
        }
    };
}

impl Wire {
    /// Ends one direction or both.
    pub fn shutdown(&self, how: Shutdown) {
        // The other end may be gone already; what a test asserts is what it reads afterwards.
        let _ = either!(self, socket => socket.shutdown(how));
    }

    /// Bounds every read from now on.
    pub fn read_within(&self, limit: Duration) {
        self.read_limit(Some(limit));
    }

    /// Bounds every read from now on, or lets them last.
    pub fn read_limit(&self, limit: Option<Duration>) {
        either!(self, socket => socket.set_read_timeout(limit)).expect("a read time limit above zero");
    }

    /// Bounds every write from now on.
    pub fn write_within(&self, limit: Duration) {
        either!(self, socket => socket.set_write_timeout(Some(limit))).expect("a write time limit above zero");
    }

    /// Whether reads and writes come back at once with nothing done.
    pub fn set_nonblocking(&self, on: bool) {
        either!(self, socket => socket.set_nonblocking(on)).expect("a socket");
    }

    /// A second name for the same socket.
    #[must_use]
    pub fn again(&self) -> Wire {
        match self {
            Wire::Unix(socket) => Wire::Unix(socket.try_clone().expect("a descriptor")),
            Wire::Vsock(socket) => Wire::Vsock(socket.try_clone().expect("a descriptor")),
        }
    }

    /// Reads one byte at a time up to and with `0A`, and not a byte further; fewer when the stream ends.
    ///
    /// # Errors
    /// What reading met.
    pub fn read_line_exactly(&mut self, cap: usize) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        let mut byte = [0];
        while line.len() < cap && line.last() != Some(&b'\n') {
            match self.read(&mut byte) {
                Ok(0) => break,
                Ok(_) => line.push(byte[0]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(line)
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        either!(self, socket => socket.as_fd())
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buffer)
    }
}

impl Read for &Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        either!(self, socket => { let mut socket = socket; socket.read(buffer) })
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Write for &Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        either!(self, socket => { let mut socket = socket; socket.write(bytes) })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
