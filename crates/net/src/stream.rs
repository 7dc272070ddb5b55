//! The three kinds of socket behind one stream type, and what the relay needs of a stream. No policy, no time.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::prefixed::Prefixed;

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

    /// Whether a close, once the peer has ended its direction, shows it the end just as ending the writing direction does.
    fn ends_by_close(&self) -> bool {
        false
    }

    /// Behind the end of what is read from it: ready if the peer has torn the stream all the same. For streams that can
    /// show it; sockets tell it by [`take_error`](RelayStream::take_error).
    fn poll_torn(&mut self, _cx: &mut Context<'_>) -> Poll<io::Error> {
        Poll::Pending
    }

    /// The socket whose bytes are exactly the stream's from here on, if there is one that the kernel can move pages out
    /// of and into.
    fn splice_end(&self) -> Option<&Stream> {
        None
    }
}

/// A connected TCP, Unix or AF_VSOCK socket.
#[derive(Debug)]
pub struct Stream(Socket);

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    // Behind what was read of it together with the transport's own line. Rare, so it pays for itself.
    UnixBehind(Box<Prefixed<UnixStream>>),
    // What reads and writes a Unix socket (recv, send, shutdown, readiness) does so with every stream socket.
    Vsock(UnixStream),
}

/// What the runtime knows of a socket: what reads and writes a Unix socket does so with an AF_VSOCK one too.
enum Below<'s> {
    Tcp(&'s TcpStream),
    Unix(&'s UnixStream),
}

impl Stream {
    /// A stream over a TCP socket. Options (no delay, …) are left as they are.
    pub fn from_tcp(stream: TcpStream) -> Stream {
        Stream(Socket::Tcp(stream))
    }

    /// A stream over a TCP socket that was connected elsewhere. A byte that its sender calls urgent is one of the stream
    /// like any other, as it is on a socket that a listener of this crate has accepted. Nothing may have been read yet.
    pub fn connected_tcp(stream: TcpStream) -> Stream {
        if let Err(error) = SockRef::from(&stream).set_out_of_band_inline(true) {
            tracing::debug!(%error, "tcp stream: set urgent data inline");
        }
        Stream::from_tcp(stream)
    }

    /// A stream over a Unix socket.
    pub fn from_unix(stream: UnixStream) -> Stream {
        Stream(Socket::Unix(stream))
    }

    /// A stream over a Unix socket that `first` was read from already: those bytes come first.
    pub(crate) fn from_unix_behind(first: Vec<u8>, stream: UnixStream) -> Stream {
        if first.is_empty() {
            return Stream::from_unix(stream);
        }
        Stream(Socket::UnixBehind(Box::new(Prefixed::new(first, stream))))
    }

    /// A stream over an AF_VSOCK socket that is connected, or about to be.
    ///
    /// # Errors
    /// When the runtime does not take the socket.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O.
    pub fn from_vsock(socket: OwnedFd) -> io::Result<Stream> {
        let socket = std::os::unix::net::UnixStream::from(socket);
        socket.set_nonblocking(true)?;
        Ok(Stream(Socket::Vsock(UnixStream::from_std(socket)?)))
    }

    /// The kind of socket.
    pub fn kind(&self) -> StreamKind {
        match &self.0 {
            Socket::Tcp(_) => StreamKind::Tcp,
            Socket::Unix(_) | Socket::UnixBehind(_) => StreamKind::Unix,
            Socket::Vsock(_) => StreamKind::Vsock,
        }
    }

    /// The far address of a TCP stream; `None` for other kinds and for a connection that is gone.
    pub fn peer_addr_tcp(&self) -> Option<SocketAddr> {
        match self.socket() {
            Below::Tcp(stream) => stream.peer_addr().ok(),
            Below::Unix(_) => None,
        }
    }

    /// The near address of a TCP stream; `None` for other kinds.
    pub fn local_addr_tcp(&self) -> Option<SocketAddr> {
        match self.socket() {
            Below::Tcp(stream) => stream.local_addr().ok(),
            Below::Unix(_) => None,
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
        if let Below::Tcp(stream) = self.socket()
            && let Err(error) = SockRef::from(stream).set_linger(linger)
        {
            tracing::debug!(%error, "tcp stream: set linger");
        }
    }

    /// See [`RelayStream::take_error`].
    pub fn take_error(&self) -> Option<io::Error> {
        match self.socket() {
            Below::Tcp(stream) => tcp_error(stream),
            Below::Unix(stream) => flatten(stream.take_error()),
        }
    }

    /// Waits until a connect that is under way has come to its end.
    pub(crate) async fn connected(&self) -> io::Result<()> {
        match self.socket() {
            Below::Tcp(stream) => stream.writable().await?,
            Below::Unix(stream) => stream.writable().await?,
        }
        self.take_error().map_or(Ok(()), Err)
    }

    /// Does `io` on the socket whenever it can be read from, until that is something else than
    /// [`io::ErrorKind::WouldBlock`].
    pub(crate) fn poll_read_with<R>(
        &self,
        cx: &mut Context<'_>,
        mut io: impl FnMut(BorrowedFd<'_>) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        loop {
            let done = match self.socket() {
                Below::Tcp(stream) => {
                    ready!(stream.poll_read_ready(cx))?;
                    stream.try_io(Interest::READABLE, || io(stream.as_fd()))
                }
                Below::Unix(stream) => {
                    ready!(stream.poll_read_ready(cx))?;
                    stream.try_io(Interest::READABLE, || io(stream.as_fd()))
                }
            };
            match done {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    /// As [`poll_read_with`](Stream::poll_read_with), whenever it can be written to.
    pub(crate) fn poll_write_with<R>(
        &self,
        cx: &mut Context<'_>,
        mut io: impl FnMut(BorrowedFd<'_>) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        loop {
            let done = match self.socket() {
                Below::Tcp(stream) => {
                    ready!(stream.poll_write_ready(cx))?;
                    stream.try_io(Interest::WRITABLE, || io(stream.as_fd()))
                }
                Below::Unix(stream) => {
                    ready!(stream.poll_write_ready(cx))?;
                    stream.try_io(Interest::WRITABLE, || io(stream.as_fd()))
                }
            };
            match done {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    fn socket(&self) -> Below<'_> {
        match &self.0 {
            Socket::Tcp(stream) => Below::Tcp(stream),
            Socket::Unix(stream) | Socket::Vsock(stream) => Below::Unix(stream),
            Socket::UnixBehind(stream) => Below::Unix(stream.get_ref()),
        }
    }

    pub(crate) fn into_unix(self) -> Option<UnixStream> {
        match self.0 {
            Socket::Unix(stream) => Some(stream),
            Socket::Tcp(_) | Socket::UnixBehind(_) | Socket::Vsock(_) => None,
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

fn flatten(taken: io::Result<Option<io::Error>>) -> Option<io::Error> {
    taken.unwrap_or_else(Some)
}

/// For socket options; reading or writing past the stream is not foreseen.
impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self.socket() {
            Below::Tcp(stream) => stream.as_fd(),
            Below::Unix(stream) => stream.as_fd(),
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

    fn ends_by_close(&self) -> bool {
        match &self.0 {
            Socket::Tcp(_) | Socket::Unix(_) | Socket::UnixBehind(_) => true,
            // What a device makes of a close that no half-close went before is not known of all of them.
            Socket::Vsock(_) => false,
        }
    }

    fn splice_end(&self) -> Option<&Stream> {
        match &self.0 {
            Socket::UnixBehind(stream) if !stream.is_spent() => None,
            Socket::Tcp(_) | Socket::Unix(_) | Socket::UnixBehind(_) => Some(self),
            // A page at a time there, each a packet of its own, on most kernels; a copy saved at best on the others.
            Socket::Vsock(_) => None,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Socket::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Socket::Unix(stream) | Socket::Vsock(stream) => Pin::new(stream).poll_read(cx, buf),
            Socket::UnixBehind(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().0 {
            Socket::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Socket::Unix(stream) | Socket::Vsock(stream) => Pin::new(stream).poll_write(cx, buf),
            Socket::UnixBehind(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Socket::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Socket::Unix(stream) | Socket::Vsock(stream) => Pin::new(stream).poll_flush(cx),
            Socket::UnixBehind(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    /// Ends the writing direction only. A vsock peer that has gone yields [`io::ErrorKind::NotConnected`].
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            Socket::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Socket::Unix(stream) | Socket::Vsock(stream) => Pin::new(stream).poll_shutdown(cx),
            Socket::UnixBehind(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().0 {
            Socket::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            // One packet on a vsock too: the kernel is given all pieces in one call.
            Socket::Unix(stream) | Socket::Vsock(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Socket::UnixBehind(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.0 {
            Socket::Tcp(stream) => stream.is_write_vectored(),
            Socket::Unix(stream) | Socket::Vsock(stream) => stream.is_write_vectored(),
            Socket::UnixBehind(stream) => stream.is_write_vectored(),
        }
    }
}
