//! One stream between the enclave and the world, in either direction.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use enclave_bridge_net::{Prefixed, Stream, StreamKind};
use hyper_util::client::legacy::connect::{Connected, Connection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The largest write towards a vsock: guest kernels since Linux 6.17 corrupt larger ones on several hypervisors.
const VSOCK_WRITE_MAX_BYTES: usize = 32 * 1024;

/// A stream through the bridge. It replays what was read together with the bridge's answer before it reads on.
///
/// Dropping it is an ordinary close; [`Conn::abort`] ends it at once. For hyper wrap it in
/// `hyper_util::rt::TokioIo`.
pub struct Conn {
    inner: Prefixed<Stream>,
}

impl Conn {
    pub(crate) fn new(read_ahead: Vec<u8>, stream: Stream) -> Self {
        Self { inner: Prefixed::new(read_ahead, stream) }
    }

    /// Ends both directions at once. The peer sees a failure where the transport can show one (a raw vsock or Unix
    /// socket cannot: there it is the end of both directions).
    pub fn abort(self) {
        let (_, stream) = self.inner.into_parts();
        stream.abort();
    }

    fn write_max_bytes(&self) -> usize {
        match self.inner.get_ref().kind() {
            StreamKind::Vsock => VSOCK_WRITE_MAX_BYTES,
            StreamKind::Tcp | StreamKind::Unix => usize::MAX,
        }
    }
}

impl std::fmt::Debug for Conn {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Conn").field("kind", &self.inner.get_ref().kind()).finish_non_exhaustive()
    }
}

impl AsyncRead for Conn {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Conn {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let capped = bytes.get(..self.write_max_bytes()).unwrap_or(bytes);
        Pin::new(&mut self.inner).poll_write(cx, capped)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl Connection for Conn {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}
