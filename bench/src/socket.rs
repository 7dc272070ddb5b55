//! Sockets of the load: TCP on loopback, Unix, and AF_VSOCK in a guest of the lab, behind one type.

use crate::error::BenchError;
use socket2::{Domain, SockAddr, Socket, Type};
use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;
use vsock::{VMADDR_CID_ANY, VMADDR_CID_LOCAL, VsockListener, VsockStream};

/// No read or write of the load lasts longer: a relay that stands still is a fault, not a wait.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// As deep as a burst of connections is; Linux cuts it to `net.core.somaxconn`, 4096 by default.
const BACKLOG: i32 = 4096;

/// Where a stream leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// Always on loopback.
    Tcp(u16),
    /// A path.
    Unix(PathBuf),
    /// A port of this very machine (CID 1). Only in a guest of the lab.
    Vsock(u32),
}

impl Address {
    /// Connects, with [`PATIENCE`] for every read and write and no delay of small segments.
    pub(crate) fn dial(&self) -> Result<Stream, BenchError> {
        let stream = match self {
            Address::Tcp(port) => TcpStream::connect((Ipv4Addr::LOCALHOST, *port)).map(Stream::Tcp),
            Address::Unix(path) => UnixStream::connect(path).map(Stream::Unix),
            Address::Vsock(port) => VsockStream::connect_with_cid_port(VMADDR_CID_LOCAL, *port).map(Stream::Vsock),
        };
        let stream = stream.map_err(BenchError::io(format!("connect to {self}")))?;
        stream.prepare().map_err(BenchError::io(format!("options of {self}")))?;
        Ok(stream)
    }

    /// The same over TCP with buffers of `bytes`, so that a thousand stalled streams do not fill the machine.
    pub(crate) fn dial_with_buffers(&self, bytes: usize) -> Result<Stream, BenchError> {
        let Address::Tcp(port) = self else { return self.dial() };
        let named = |source| BenchError::Io { what: format!("connect to {self}"), source };
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).map_err(named)?;
        socket.set_recv_buffer_size(bytes).map_err(named)?;
        socket.set_send_buffer_size(bytes).map_err(named)?;
        socket.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, *port)).into()).map_err(named)?;
        let stream = Stream::Tcp(TcpStream::from(OwnedFd::from(socket)));
        stream.prepare().map_err(named)?;
        Ok(stream)
    }

    /// Listens there; a socket file that stands in the way is replaced.
    pub(crate) fn listen(&self) -> Result<Listener, BenchError> {
        let named = |source| BenchError::Io { what: format!("listen on {self}"), source };
        match self {
            Address::Tcp(port) => {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).map_err(named)?;
                socket.set_reuse_address(true).map_err(named)?;
                socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, *port)).into()).map_err(named)?;
                socket.listen(BACKLOG).map_err(named)?;
                Ok(Listener::Tcp(OwnedFd::from(socket).into()))
            }
            Address::Unix(path) => {
                // Nothing there is the usual case.
                drop(std::fs::remove_file(path));
                let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(named)?;
                socket.bind(&SockAddr::unix(path).map_err(named)?).map_err(named)?;
                socket.listen(BACKLOG).map_err(named)?;
                Ok(Listener::Unix(OwnedFd::from(socket).into()))
            }
            Address::Vsock(port) => {
                VsockListener::bind_with_cid_port(VMADDR_CID_ANY, *port).map(Listener::Vsock).map_err(named)
            }
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(port) => write!(f, "127.0.0.1:{port}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::Vsock(port) => write!(f, "vsock:{port}"),
        }
    }
}

/// A port of loopback that nobody has at the moment.
pub(crate) fn free_port() -> Result<u16, BenchError> {
    let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr());
    bound.map(|address| address.port()).map_err(BenchError::io("find a free port"))
}

/// A listening socket.
#[derive(Debug)]
pub(crate) enum Listener {
    /// Of loopback.
    Tcp(TcpListener),
    /// A path.
    Unix(UnixListener),
    /// Of a guest.
    Vsock(VsockListener),
}

impl Listener {
    /// The next connection, prepared as [`Address::dial`] prepares it.
    pub(crate) fn accept(&self) -> io::Result<Stream> {
        let stream = match self {
            Listener::Tcp(socket) => Stream::Tcp(socket.accept()?.0),
            Listener::Unix(socket) => Stream::Unix(socket.accept()?.0),
            Listener::Vsock(socket) => Stream::Vsock(socket.accept()?.0),
        };
        stream.prepare()?;
        Ok(stream)
    }
}

/// A connected socket.
#[derive(Debug)]
pub(crate) enum Stream {
    /// Of loopback.
    Tcp(TcpStream),
    /// Of a path.
    Unix(UnixStream),
    /// Of a guest.
    Vsock(VsockStream),
}

/// The same for every kind.
macro_rules! each {
    ($stream:expr, $socket:ident => $done:expr) => {
        match $stream {
            Stream::Tcp($socket) => $done,
            Stream::Unix($socket) => $done,
            Stream::Vsock($socket) => $done,
        }
    };
}

impl Stream {
    fn prepare(&self) -> io::Result<()> {
        if let Stream::Tcp(socket) = self {
            socket.set_nodelay(true)?;
        }
        each!(self, socket => {
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.set_write_timeout(Some(PATIENCE))
        })
    }

    /// Ends the writing direction.
    pub(crate) fn end_writing(&self) -> io::Result<()> {
        each!(self, socket => socket.shutdown(Shutdown::Write))
    }

    /// Whether reads and writes return at once.
    pub(crate) fn set_nonblocking(&self, at_once: bool) -> io::Result<()> {
        each!(self, socket => socket.set_nonblocking(at_once))
    }
}

impl Read for &Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        each!(self, socket => { let mut socket = socket; socket.read(buffer) })
    }
}

impl Write for &Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        each!(self, socket => { let mut socket = socket; socket.write(bytes) })
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        each!(self, socket => { let mut socket = socket; socket.write_vectored(parts) })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
