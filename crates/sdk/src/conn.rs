//! One stream between the enclave and the world, in either direction.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use enclave_bridge_net::{Leg, Prefixed, RelayStream as _, Stream, StreamKind};
use hyper_util::client::legacy::connect::{Connected, Connection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The largest write towards a vsock: guest kernels since Linux 6.17 corrupt larger ones on several hypervisors.
const VSOCK_WRITE_MAX_BYTES: usize = 32 * 1024;

/// A stream through the bridge. It replays what was read together with the bridge's answer before it reads on.
///
/// A read of 0 bytes is an end that the peer meant. Where the stream is framed (see [`Options::framed`](crate::Options))
/// a reset, the death of the bridge and whatever else cuts the stream off is [`io::ErrorKind::ConnectionReset`]; a raw
/// vsock or Unix socket shows it as an end.
///
/// `shutdown` ends the writing direction; the other goes on. Shut down what must arrive. Dropping is an ordinary close,
/// as far as it goes without waiting: where a framed stream still has bytes to write, and in a panic, the peer sees a
/// reset. [`Conn::abort`] ends it at once. For hyper wrap it in `hyper_util::rt::TokioIo`.
pub struct Conn {
    inner: Leg<Prefixed<Stream>>,
}

impl Conn {
    pub(crate) fn new(read_ahead: Vec<u8>, stream: Stream, framed: bool) -> Self {
        Self { inner: Leg::new(Prefixed::new(read_ahead, stream), framed) }
    }

    /// Whether the stream is framed.
    #[must_use]
    pub fn is_framed(&self) -> bool {
        matches!(self.inner, Leg::Framed(_))
    }

    /// Ends both directions at once. The peer sees a reset; of a raw vsock or Unix socket, which cannot show one, it is
    /// the end of both directions.
    pub fn abort(self) {
        self.inner.arm_reset();
    }

    fn write_max_bytes(&self) -> usize {
        match (&self.inner, self.inner.kind()) {
            (Leg::Raw(_), StreamKind::Vsock) => VSOCK_WRITE_MAX_BYTES,
            // Records have their own limit.
            (Leg::Framed(_), _) | (_, StreamKind::Tcp | StreamKind::Unix) => usize::MAX,
        }
    }
}

impl std::fmt::Debug for Conn {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Conn")
            .field("kind", &self.inner.kind())
            .field("framed", &self.is_framed())
            .finish_non_exhaustive()
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
