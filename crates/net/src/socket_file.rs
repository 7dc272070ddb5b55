//! The file of a listening Unix socket: made, taken over when stale, removed. No accepting.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

/// Removes the file on drop, but only while it is still the one that was made here.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    identity: Option<(u64, u64)>,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.identity.is_none() || identity(&self.path) != self.identity {
            return;
        }
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "socket file: remove");
        }
    }
}

/// Binds and listens at `path`. A socket file that nobody listens at is replaced; a live one is
/// [`io::ErrorKind::AddrInUse`], and so is a file that is no socket.
pub(crate) fn listen_at(path: &Path, backlog: i32) -> io::Result<(Socket, SocketFile)> {
    let address = SockAddr::unix(path)?;
    let socket = unix_socket()?;
    match socket.bind(&address) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            remove_stale(path, &address)?;
            socket.bind(&address)?;
        }
        Err(error) => return Err(error),
    }
    let file = SocketFile { path: path.to_path_buf(), identity: identity(path) };
    socket.listen(backlog)?;
    Ok((socket, file))
}

fn remove_stale(path: &Path, address: &SockAddr) -> io::Result<()> {
    let in_use = || io::Error::from(io::ErrorKind::AddrInUse);
    let before = identity(path).ok_or_else(in_use)?;
    // Not blocking: a live listener with a full backlog answers EAGAIN, which is not "refused".
    match unix_socket()?.connect(address) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        Ok(()) | Err(_) => return Err(in_use()),
    }
    if identity(path) != Some(before) {
        return Err(in_use());
    }
    std::fs::remove_file(path)
}

fn unix_socket() -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Device and inode of a socket file; `None` for anything else.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path).ok()?;
    metadata.file_type().is_socket().then(|| (metadata.dev(), metadata.ino()))
}
