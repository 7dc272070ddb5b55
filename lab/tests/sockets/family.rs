//! The three families behind one blocking socket, with every wait bounded.

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{Backlog, getsockopt, listen, setsockopt};
use nix::{getsockopt_impl, setsockopt_impl, sockopt_impl};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;
use vsock::{VMADDR_CID_ANY, VMADDR_CID_LOCAL, VsockAddr, VsockListener, VsockStream};

/// Any port that is free: -1 as a number of 32 bits.
const VMADDR_PORT_ANY: u32 = u32::MAX;

/// Longer than anything here takes on a translated processor.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Not in libc: `linux/vm_sockets.h` has them as 0 and 2 since 3.9.
const SO_VM_SOCKETS_BUFFER_SIZE: libc::c_int = 0;
const SO_VM_SOCKETS_BUFFER_MAX_SIZE: libc::c_int = 2;

sockopt_impl!(
    /// The window of a vsock socket, in bytes.
    WindowBytes, Both, libc::AF_VSOCK, SO_VM_SOCKETS_BUFFER_SIZE, u64);
sockopt_impl!(
    /// The most that the window may be set to, in bytes.
    WindowMaxBytes, Both, libc::AF_VSOCK, SO_VM_SOCKETS_BUFFER_MAX_SIZE, u64);

/// Refuses to go on outside of a guest.
pub(crate) fn in_a_guest() {
    #[expect(clippy::disallowed_methods, reason = "set by a guest's init for the tests")]
    let told = std::env::var_os("ENCLAVE_BRIDGE_LAB");
    assert!(told.is_some_and(|value| value == "1"), "AF_VSOCK is opened in a guest only: cargo xtask lab");
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    Tcp,
    Unix,
    Vsock,
}

impl Family {
    pub(crate) const ALL: [Family; 3] = [Family::Tcp, Family::Unix, Family::Vsock];

    /// As the table calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Family::Tcp => "TCP",
            Family::Unix => "Unix",
            Family::Vsock => "vsock",
        }
    }

    /// A listener at a place of its own.
    pub(crate) fn listen(self) -> Door {
        match self {
            Family::Tcp => Door::Tcp(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()),
            Family::Unix => {
                static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
                let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                let path = std::env::temp_dir().join(format!("sockets-{}-{number}", std::process::id()));
                Door::Unix(UnixListener::bind(&path).unwrap(), path)
            }
            Family::Vsock => {
                in_a_guest();
                Door::Vsock(VsockListener::bind_with_cid_port(VMADDR_CID_ANY, VMADDR_PORT_ANY).unwrap())
            }
        }
    }

    /// The dialler's and the accepted end of one connection.
    pub(crate) fn pair(self) -> (Sock, Sock) {
        let door = self.listen();
        let dialled = door.dial().unwrap();
        (dialled, door.accept())
    }
}

pub(crate) enum Door {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
    Vsock(VsockListener),
}

impl Door {
    pub(crate) fn dial(&self) -> io::Result<Sock> {
        match self {
            Door::Tcp(socket) => {
                let address: SocketAddr = socket.local_addr()?;
                // Shorter than the second in which TCP knocks again.
                TcpStream::connect_timeout(&address, Duration::from_millis(800)).map(Sock::Tcp)
            }
            Door::Unix(_, path) => dial_unix(path).map(Sock::Unix),
            Door::Vsock(socket) => {
                VsockStream::connect_with_cid_port(VMADDR_CID_LOCAL, socket.local_addr()?.port()).map(Sock::Vsock)
            }
        }
        .inspect(Sock::bound)
    }

    pub(crate) fn accept(&self) -> Sock {
        let accepted = match self {
            Door::Tcp(socket) => Sock::Tcp(socket.accept().unwrap().0),
            Door::Unix(socket, _) => Sock::Unix(socket.accept().unwrap().0),
            Door::Vsock(socket) => Sock::Vsock(socket.accept().unwrap().0),
        };
        accepted.bound();
        accepted
    }

    /// Who the accepted connection is from, for a vsock.
    pub(crate) fn accept_from(&self) -> Option<VsockAddr> {
        match self {
            Door::Vsock(socket) => socket.accept().ok().map(|(_, address)| address),
            Door::Tcp(_) | Door::Unix(..) => None,
        }
    }

    pub(crate) fn set_backlog(&self, backlog: i32) {
        let backlog = Backlog::new(backlog).unwrap();
        match self {
            Door::Tcp(socket) => listen(socket, backlog),
            Door::Unix(socket, _) => listen(socket, backlog),
            Door::Vsock(socket) => listen(socket, backlog),
        }
        .unwrap();
    }

    pub(crate) fn set_window(&self, bytes: u64) {
        if let Door::Vsock(socket) = self {
            set_window(socket, bytes);
        }
    }

    pub(crate) fn vsock_port(&self) -> Option<u32> {
        match self {
            Door::Vsock(socket) => socket.local_addr().ok().map(|address| address.port()),
            Door::Tcp(_) | Door::Unix(..) => None,
        }
    }
}

/// The limit first: the kernel cuts the size down to it.
fn set_window(socket: &impl AsFd, bytes: u64) {
    setsockopt(socket, WindowMaxBytes, &bytes).unwrap();
    setsockopt(socket, WindowBytes, &bytes).unwrap();
}

/// The window of a vsock socket, in bytes.
pub(crate) fn window_of(socket: &impl AsFd) -> u64 {
    getsockopt(socket, WindowBytes).unwrap()
}

/// As [`Door::dial`] for a vsock, with a window that is set before the connection is made.
pub(crate) fn dial_with_window(port: u32, bytes: u64) -> Sock {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, VsockAddr, connect, socket};
    use std::os::fd::AsRawFd;
    let dialled: OwnedFd = socket(AddressFamily::Vsock, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    set_window(&dialled, bytes);
    connect(dialled.as_raw_fd(), &VsockAddr::new(VMADDR_CID_LOCAL, port)).unwrap();
    let dialled = Sock::Vsock(VsockStream::from(dialled));
    dialled.bound();
    dialled
}

/// Without waiting: a full backlog is an error at once.
fn dial_unix(path: &std::path::Path) -> io::Result<UnixStream> {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&socket2::SockAddr::unix(path)?)?;
    socket.set_nonblocking(false)?;
    Ok(OwnedFd::from(socket).into())
}

#[derive(Debug)]
pub(crate) enum Sock {
    Tcp(TcpStream),
    Unix(UnixStream),
    Vsock(VsockStream),
}

macro_rules! each {
    ($sock:expr, $socket:ident => $done:expr) => {
        match $sock {
            Sock::Tcp($socket) => $done,
            Sock::Unix($socket) => $done,
            Sock::Vsock($socket) => $done,
        }
    };
}

impl Sock {
    fn bound(&self) {
        each!(self, socket => {
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.set_write_timeout(Some(PATIENCE)).unwrap();
        });
    }

    pub(crate) fn end_writing(&self) -> io::Result<()> {
        each!(self, socket => socket.shutdown(Shutdown::Write))
    }

    pub(crate) fn nonblocking(&self) {
        each!(self, socket => socket.set_nonblocking(true)).unwrap();
    }

    pub(crate) fn linger_zero(&self) -> io::Result<()> {
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        setsockopt(self, nix::sys::socket::sockopt::Linger, &linger).map_err(io::Error::from)
    }
}

impl AsFd for Sock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        each!(self, socket => socket.as_fd())
    }
}

impl Read for Sock {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        each!(self, socket => socket.read(buffer))
    }
}

impl Write for Sock {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        each!(self, socket => socket.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// "ok", or the name of the error.
pub(crate) fn said<T>(result: &io::Result<T>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(error) => error
            .raw_os_error()
            .map_or_else(|| format!("{:?}", error.kind()), |number| format!("{:?}", Errno::from_raw(number))),
    }
}
