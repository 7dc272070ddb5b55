//! A listening socket before there is a runtime: bound early, while the process is one thread and may still do what it
//! gives up afterwards, and registered late.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{TcpListener, UnixListener};
use tokio_vsock::{VMADDR_CID_ANY, VsockListener};

use crate::address::{Listen, hybrid_path};
use crate::listen::{Accepting, BACKLOG, BindError, Listener};
use crate::socket_file::{SocketFile, listen_at};
use crate::vsock::set_window;

/// A socket that listens and that nobody accepts from yet. Dropping it closes it, and removes the file of a Unix socket.
#[derive(Debug)]
pub struct BoundSocket {
    listen: Listen,
    socket: Bound,
}

#[derive(Debug)]
enum Bound {
    Tcp(Socket),
    // The file goes after the socket (declaration order), as in the listener that this becomes.
    Unix { socket: Socket, peer: Arc<Path>, file: Arc<SocketFile> },
    Vsock(Socket),
}

impl BoundSocket {
    /// Binds and listens as [`Listener::bind`] does, but needs no runtime.
    ///
    /// # Errors
    /// What the system says, with the place.
    pub fn bind(listen: &Listen) -> Result<BoundSocket, BindError> {
        let socket = match listen {
            Listen::Tcp(address) => tcp(*address).map(Bound::Tcp),
            Listen::Hybrid { uds_path, port } => unix(&hybrid_path(uds_path, *port), uds_path),
            Listen::Unix(path) => unix(path, path),
            Listen::Vsock { port, window } => vsock(*port, *window).map(Bound::Vsock),
        };
        match socket {
            Ok(socket) => Ok(BoundSocket { listen: listen.clone(), socket }),
            Err(source) => Err(BindError { listen: listen.clone(), source }),
        }
    }

    /// The same socket once more, for another runtime: whoever asks first is given the next connection. It is closed, and
    /// its file removed, with the last of them. A descriptor each.
    ///
    /// # Errors
    /// When there is no descriptor to be had.
    pub fn share(&self) -> io::Result<BoundSocket> {
        let socket = match &self.socket {
            Bound::Tcp(socket) => Bound::Tcp(socket.try_clone()?),
            Bound::Unix { socket, peer, file } => {
                Bound::Unix { socket: socket.try_clone()?, peer: Arc::clone(peer), file: Arc::clone(file) }
            }
            Bound::Vsock(socket) => Bound::Vsock(socket.try_clone()?),
        };
        Ok(BoundSocket { listen: self.listen.clone(), socket })
    }

    /// Hands the socket to the runtime that this is called in.
    ///
    /// # Errors
    /// If the runtime's poller does not take it.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O.
    pub fn register(self) -> Result<Listener, BindError> {
        let BoundSocket { listen, socket } = self;
        let registered = match socket {
            Bound::Tcp(socket) => TcpListener::from_std(socket.into()).map(Accepting::Tcp),
            Bound::Unix { socket, peer, file } => {
                UnixListener::from_std(socket.into()).map(|socket| Accepting::Unix { socket, peer, _file: file })
            }
            Bound::Vsock(socket) => register_vsock(socket.into()).map(Accepting::Vsock),
        };
        match registered {
            Ok(socket) => Ok(Listener::over(listen, socket)),
            Err(source) => Err(BindError { listen, source }),
        }
    }
}

pub(crate) fn tcp(address: std::net::SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    // Accepted sockets inherit it: a byte that its sender calls urgent is one of the stream like any other.
    socket.set_out_of_band_inline(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // What is accepted inherits it.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn unix(path: &Path, peer: &Path) -> io::Result<Bound> {
    let (socket, file) = listen_at(path, BACKLOG)?;
    Ok(Bound::Unix { socket, peer: Arc::from(peer), file: Arc::new(file) })
}

fn vsock(port: u32, window: Option<u32>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::VSOCK, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    set_window(&socket, window);
    socket.bind(&SockAddr::vsock(VMADDR_CID_ANY, port))?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// The crate's only conversion of a socket that listens already panics where the poller refuses it (for want of memory).
fn register_vsock(socket: OwnedFd) -> io::Result<VsockListener> {
    std::panic::catch_unwind(|| VsockListener::from(socket)).map_err(|_| io::Error::other("the poller refused it"))
}
