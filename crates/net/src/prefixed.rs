//! A stream that first replays bytes which were read ahead of it. Nothing else may hold over-read bytes.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::stream::{RelayStream, Stream, StreamKind};

/// `prefix`, then `inner`; writes go straight to `inner`. The prefix's memory is freed once it has been read.
pub struct Prefixed<S> {
    // Apart and gone once read, so that a stream without one does not carry its memory.
    prefix: Option<Box<Prefix>>,
    inner: S,
}

struct Prefix {
    bytes: Vec<u8>,
    read: usize,
}

impl Prefix {
    fn left(&self) -> &[u8] {
        self.bytes.get(self.read..).unwrap_or_default()
    }
}

impl<S> Prefixed<S> {
    /// Replays `prefix` (may be empty) before `inner`.
    pub fn new(prefix: Vec<u8>, inner: S) -> Prefixed<S> {
        let prefix = (!prefix.is_empty()).then(|| Box::new(Prefix { bytes: prefix, read: 0 }));
        Prefixed { prefix, inner }
    }

    /// What has not been read of the prefix, and the stream.
    pub fn into_parts(self) -> (Vec<u8>, S) {
        (self.left().to_vec(), self.inner)
    }

    fn left(&self) -> &[u8] {
        self.prefix.as_ref().map(|prefix| prefix.left()).unwrap_or_default()
    }

    /// Whether all of the prefix has been read.
    pub fn is_spent(&self) -> bool {
        self.prefix.is_none()
    }

    /// The stream behind the prefix.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }
}

/// Shows how many bytes are held, never which.
impl<S: fmt::Debug> fmt::Debug for Prefixed<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prefixed").field("prefix_bytes", &self.left().len()).field("inner", &self.inner).finish()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let Some(prefix) = &mut this.prefix else {
            return Pin::new(&mut this.inner).poll_read(cx, buf);
        };
        let taken = prefix.left().len().min(buf.remaining());
        buf.put_slice(prefix.left().get(..taken).unwrap_or_default());
        prefix.read += taken;
        if prefix.left().is_empty() {
            this.prefix = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefixed<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

impl<S: RelayStream> RelayStream for Prefixed<S> {
    fn kind(&self) -> StreamKind {
        self.inner.kind()
    }

    fn take_error(&self) -> Option<io::Error> {
        self.inner.take_error()
    }

    fn arm_reset(&self) {
        self.inner.arm_reset();
    }

    fn disarm_reset(&self) {
        self.inner.disarm_reset();
    }

    fn write_max_bytes(&self, socket_max: usize) -> usize {
        self.inner.write_max_bytes(socket_max)
    }

    fn ends_by_close(&self) -> bool {
        self.inner.ends_by_close()
    }

    fn poll_torn(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.inner.poll_torn(cx)
    }

    fn splice_end(&self) -> Option<&Stream> {
        if self.prefix.is_some() { None } else { self.inner.splice_end() }
    }
}
