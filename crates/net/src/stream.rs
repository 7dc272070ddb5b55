//! The three kinds of socket behind one stream type, and what the relay needs of a stream. No policy, no time.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use nix::sys::socket::MsgFlags;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_vsock::VsockStream;

/// Which kind of socket a stream ends in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum StreamKind {
    /// TCP over IPv4 or IPv6.
    Tcp,
    /// A Unix stream socket.
    Unix,
    /// An AF_VSOCK stream socket.
    Vsock,
}

/// What the relay needs of a stream besides bytes.
pub trait RelayStream: AsyncRead + AsyncWrite + Unpin {
    /// The kind of the socket below.
    fn kind(&self) -> StreamKind;
    /// The error that has ended the connection, if one has and nobody has been told yet. An error that the kernel
    /// still hopes to get over (an ICMP message on an established TCP connection) is not reported.
    /// After an error has been taken the kernel may show an end of stream: read no more.
    fn take_error(&self) -> Option<io::Error>;
    /// From now on every close, also by the death of the process, is a reset where the kind can show one.
    fn arm_reset(&self);
    /// Undoes [`arm_reset`](RelayStream::arm_reset): a close now delivers what the kernel still holds.
    fn disarm_reset(&self);

    /// The most bytes to offer to one write, where the socket's own limit is `socket_max`. A stream that adds bytes of
    /// its own says less.
    fn write_max_bytes(&self, socket_max: usize) -> usize {
        socket_max
    }

    /// Behind the end of what is read from it: ready if the peer has torn the stream all the same. For streams that can
    /// show it; sockets tell it by [`take_error`](RelayStream::take_error).
    fn poll_torn(&mut self, _cx: &mut Context<'_>) -> Poll<io::Error> {
        Poll::Pending
    }
}

/// A connected TCP, Unix or AF_VSOCK socket.
#[derive(Debug)]
pub struct Stream(Socket);

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    Vsock(VsockStream),
}

impl Stream {
    /// A stream over a TCP socket. Options (no delay, …) are left as they are.
    pub fn from_tcp(stream: TcpStream) -> Stream {
        Stream(Socket::Tcp(stream))
    }

    /// A stream over a Unix socket.
    pub fn from_unix(stream: UnixStream) -> Stream {
        Stream(Socket::Unix(stream))
    }

    /// A stream over an AF_VSOCK socket.
    pub fn from_vsock(stream: VsockStream) -> Stream {
        Stream(Socket::Vsock(stream))
    }

    /// The kind of socket.
    pub fn kind(&self) -> StreamKind {
        match &self.0 {
            Socket::Tcp(_) => StreamKind::Tcp,
            Socket::Unix(_) => StreamKind::Unix,
            Socket::Vsock(_) => StreamKind::Vsock,
        }
    }

    /// The far address of a TCP stream; `None` for other kinds and for a connection that is gone.
    pub fn peer_addr_tcp(&self) -> Option<SocketAddr> {
        match &self.0 {
            Socket::Tcp(stream) => stream.peer_addr().ok(),
            Socket::Unix(_) | Socket::Vsock(_) => None,
        }
    }

    /// The near address of a TCP stream; `None` for other kinds.
    pub fn local_addr_tcp(&self) -> Option<SocketAddr> {
        match &self.0 {
            Socket::Tcp(stream) => stream.local_addr().ok(),
            Socket::Unix(_) | Socket::Vsock(_) => None,
        }
    }

    /// See [`RelayStream::arm_reset`]. TCP: `SO_LINGER` with 0 s, so that the kernel answers a close with RST and not
    /// FIN. A Unix or vsock close ends both directions anyway, which is all that such a peer can be shown.
    pub fn arm_reset(&self) {
        self.set_linger(Some(Duration::ZERO));
    }

    /// See [`RelayStream::disarm_reset`].
    pub fn disarm_reset(&self) {
        self.set_linger(None);
    }

    fn set_linger(&self, linger: Option<Duration>) {
        match &self.0 {
            Socket::Tcp(stream) => {
                if let Err(error) = SockRef::from(stream).set_linger(linger) {
                    tracing::debug!(%error, "tcp stream: set linger");
                }
            }
            Socket::Unix(_) | Socket::Vsock(_) => {}
        }
    }

    /// See [`RelayStream::take_error`].
    pub fn take_error(&self) -> Option<io::Error> {
        match &self.0 {
            Socket::Tcp(stream) => tcp_error(stream),
            Socket::Unix(stream) => flatten(stream.take_error()),
            Socket::Vsock(stream) => flatten(SockRef::from(stream).take_error()),
        }
    }

    pub(crate) fn into_unix(self) -> Option<UnixStream> {
        match self.0 {
            Socket::Unix(stream) => Some(stream),
            Socket::Tcp(_) | Socket::Vsock(_) => None,
        }
    }

    /// Closes as a reset: TCP peers see ECONNRESET, others find both directions closed at once.
    pub fn abort(self) {
        self.arm_reset();
    }
}

/// `SO_ERROR` also hands out soft errors (`sk_err_soft`: an ICMP "unreachable" that TCP retransmits past). They are
/// told from the end of the connection by the state: without a connection there is no peer address. The kinds that
/// only ever come with the end are believed at once, so that no moment between the two calls can turn one into nothing.
fn tcp_error(stream: &TcpStream) -> Option<io::Error> {
    let error = flatten(stream.take_error())?;
    let final_by_kind = matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::TimedOut
    );
    if final_by_kind || stream.peer_addr().is_err() { Some(error) } else { None }
}

/// The vsock stream's own gathering write takes the first piece alone, and each write there is a packet. What cannot
/// go at once is put together, so that the stream waits for room in its own way.
fn poll_send_vectored(
    stream: &mut VsockStream,
    cx: &mut Context<'_>,
    bufs: &[io::IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    match SockRef::from(&*stream).send_vectored_with_flags(bufs, MsgFlags::MSG_NOSIGNAL.bits()) {
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
        sent => return Poll::Ready(sent),
    }
    let whole: Vec<u8> = bufs.iter().flat_map(|piece| piece.iter().copied()).collect();
    Pin::new(stream).poll_write(cx, &whole)
}

fn flatten(taken: io::Result<Option<io::Error>>) -> Option<io::Error> {
    taken.unwrap_or_else(Some)
}

/// For socket options; reading or writing past the stream is not foreseen.
impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0 {
            Socket::Tcp(stream) => stream.as_fd(),
            Socket::Unix(stream) => stream.as_fd(),
            Socket::Vsock(stream) => stream.as_fd(),
        }
    }
}

impl RelayStream for Stream {
    fn kind(&self) -> StreamKind {
        Stream::kind(self)
    }

    fn take_error(&self) -> Option<io::Error> {
        Stream::take_error(self)
    }

    fn arm_reset(&self) {
        Stream::arm_reset(self);
    }

    fn disarm_reset(&self) {
        Stream::disarm_reset(self);
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Socket::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Socket::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Socket::Vsock(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().0 {
            Socket::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Socket::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Socket::Vsock(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Socket::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Socket::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Socket::Vsock(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    /// Ends the writing direction only. A vsock peer that has gone yields [`io::ErrorKind::NotConnected`].
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Socket::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Socket::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            // Through the trait: the inherent `shutdown(how)` of this type is another call.
            Socket::Vsock(stream) => AsyncWrite::poll_shutdown(Pin::new(stream), cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().0 {
            Socket::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Socket::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Socket::Vsock(stream) => poll_send_vectored(stream, cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.0 {
            Socket::Tcp(stream) => stream.is_write_vectored(),
            Socket::Unix(stream) => stream.is_write_vectored(),
            Socket::Vsock(_) => true,
        }
    }
}
