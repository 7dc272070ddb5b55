//! The place where one bridge and one enclave meet, and the streams between them.
//!
//! Every suite is written against [`Meeting`]: another transport is another [`Endpoint`], not another suite.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How a bridge and an enclave reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// Unix sockets as Firecracker and others have them: `P` towards the guest, `P_<port>` towards the host.
    Hybrid,
}

impl Endpoint {
    /// The endpoint that this run of the suites is about: `ENCLAVE_BRIDGE_E2E_ENDPOINT`, `hybrid` where it is not set.
    #[must_use]
    pub fn under_test() -> Endpoint {
        #[expect(
            clippy::disallowed_methods,
            reason = "which transport to test is told to the tests, not to the product"
        )]
        let named = std::env::var_os("ENCLAVE_BRIDGE_E2E_ENDPOINT");
        match named.as_ref().map(|name| name.to_string_lossy()).as_deref() {
            None | Some("hybrid") => Endpoint::Hybrid,
            Some(other) => panic!("ENCLAVE_BRIDGE_E2E_ENDPOINT: no suite runs over {other:?}"),
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
        }
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
        }
    }
}

/// A stream between an enclave and its host.
#[derive(Debug)]
pub enum Wire {
    /// Over a Unix socket.
    Unix(UnixStream),
}

impl Wire {
    /// Ends one direction or both.
    pub fn shutdown(&self, how: Shutdown) {
        let Wire::Unix(socket) = self;
        // The other end may be gone already; what a test asserts is what it reads afterwards.
        let _ = socket.shutdown(how);
    }

    /// Bounds every read from now on.
    pub fn read_within(&self, limit: Duration) {
        let Wire::Unix(socket) = self;
        socket.set_read_timeout(Some(limit)).expect("a read time limit above zero");
    }

    /// Bounds every write from now on.
    pub fn write_within(&self, limit: Duration) {
        let Wire::Unix(socket) = self;
        socket.set_write_timeout(Some(limit)).expect("a write time limit above zero");
    }

    /// A second name for the same socket.
    #[must_use]
    pub fn again(&self) -> Wire {
        let Wire::Unix(socket) = self;
        Wire::Unix(socket.try_clone().expect("a descriptor"))
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

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buffer)
    }
}

impl Read for &Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Wire::Unix(socket) = self;
        (&*socket).read(buffer)
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
        let Wire::Unix(socket) = self;
        (&*socket).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
