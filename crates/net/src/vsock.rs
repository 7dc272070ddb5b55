//! AF_VSOCK sockets before they are streams: made, given their window, connected, listening. What is sent over them and by
//! whom is not known here.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, VsockAddr, connect as connect_socket, setsockopt, socket};
use nix::{setsockopt_impl, sockopt_impl};
use socket2::SockRef;
use tokio_vsock::{VMADDR_CID_ANY, VsockListener};

use crate::stream::Stream;

/// The least and the most that a window may be set to, in bytes. The kernel's default of 256 KiB is too small for bulk on
/// some kernels and too small for many tiny packets on others (late 6.12: a stream of 100-byte packets meets ENOBUFS or a
/// reset there, and does not at 8 MiB); more than 8 MiB for each stream is memory without use, for no vsock device holds
/// that much in flight.
pub const VSOCK_WINDOW_MIN_BYTES: u32 = 1024 * 1024;
/// See [`VSOCK_WINDOW_MIN_BYTES`].
pub const VSOCK_WINDOW_MAX_BYTES: u32 = 8 * 1024 * 1024;

// Not in libc: `linux/vm_sockets.h` has them as 0 and 2 since 3.9. The limit has to be raised before the size.
const SO_VM_SOCKETS_BUFFER_SIZE: libc::c_int = 0;
const SO_VM_SOCKETS_BUFFER_MAX_SIZE: libc::c_int = 2;

sockopt_impl!(
    /// The window of a vsock socket, in bytes.
    WindowBytes, SetOnly, libc::AF_VSOCK, SO_VM_SOCKETS_BUFFER_SIZE, u64);
sockopt_impl!(
    /// The most that the window may be set to, in bytes.
    WindowMaxBytes, SetOnly, libc::AF_VSOCK, SO_VM_SOCKETS_BUFFER_MAX_SIZE, u64);

/// Connects to `port` of `cid`. The window is set before, for the kernel tells it to the peer with the first packet.
/// The caller sets the deadline; the kernel gives up after 2 s of its own accord.
pub(crate) async fn connect(cid: u32, port: u32, window: Option<u32>) -> io::Result<Stream> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Vsock, SockType::Stream, flags, None)?;
    set_window(&socket, window);
    match connect_socket(socket.as_raw_fd(), &VsockAddr::new(cid, port)) {
        Ok(()) | Err(Errno::EINPROGRESS) => {}
        Err(errno) => return Err(errno.into()),
    }
    let stream = Stream::from_vsock(socket)?;
    stream.connected().await?;
    Ok(stream)
}

/// Listens on `port` for every CID. What is accepted inherits the window.
pub(crate) fn listen(port: u32, backlog: i32, window: Option<u32>) -> io::Result<VsockListener> {
    let socket = VsockListener::bind(tokio_vsock::VsockAddr::new(VMADDR_CID_ANY, port))?;
    set_window(&socket, window);
    // The crate listens with 128; listening once more on a listening vsock socket only sets the backlog.
    SockRef::from(&socket).listen(backlog)?;
    Ok(socket)
}

/// A kernel that refuses leaves its own window in place, with which everything works, only slower.
pub(crate) fn set_window(socket: &impl AsFd, window: Option<u32>) {
    let Some(bytes) = window.map(u64::from) else { return };
    let set = setsockopt(socket, WindowMaxBytes, &bytes).and_then(|()| setsockopt(socket, WindowBytes, &bytes));
    if let Err(error) = set {
        tracing::warn!(bytes, %error, "vsock socket: set window");
    }
}
