//! The enclave's leg of a stream, raw or framed as its tunnel was granted: a value of the run, so that everything above
//! is written once.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::framed::Framed;
use crate::stream::{RelayStream, Stream, StreamKind};

/// A stream as it is, or in records.
#[derive(Debug)]
pub enum Leg<S: RelayStream> {
    /// The socket's bytes are the stream's.
    Raw(S),
    /// The stream is in records. Apart, so that a raw stream does not carry the memory of their state.
    Framed(Box<Framed<S>>),
}

impl<S: RelayStream> Leg<S> {
    /// `inner` in the form that was granted.
    pub fn new(inner: S, framed: bool) -> Leg<S> {
        if framed { Leg::Framed(Box::new(Framed::new(inner))) } else { Leg::Raw(inner) }
    }

    /// The stream below.
    pub fn get_ref(&self) -> &S {
        match self {
            Leg::Raw(inner) => inner,
            Leg::Framed(framed) => framed.get_ref(),
        }
    }
}

impl<S: RelayStream> AsyncRead for Leg<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Leg::Raw(inner) => Pin::new(inner).poll_read(cx, buf),
            Leg::Framed(framed) => Pin::new(&mut **framed).poll_read(cx, buf),
        }
    }
}

impl<S: RelayStream> AsyncWrite for Leg<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Leg::Raw(inner) => Pin::new(inner).poll_write(cx, bytes),
            Leg::Framed(framed) => Pin::new(&mut **framed).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Leg::Raw(inner) => Pin::new(inner).poll_flush(cx),
            Leg::Framed(framed) => Pin::new(&mut **framed).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Leg::Raw(inner) => Pin::new(inner).poll_shutdown(cx),
            Leg::Framed(framed) => Pin::new(&mut **framed).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Leg::Raw(inner) => Pin::new(inner).poll_write_vectored(cx, bufs),
            Leg::Framed(framed) => Pin::new(&mut **framed).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Leg::Raw(inner) => inner.is_write_vectored(),
            Leg::Framed(framed) => framed.is_write_vectored(),
        }
    }
}

impl<S: RelayStream> RelayStream for Leg<S> {
    fn kind(&self) -> StreamKind {
        self.get_ref().kind()
    }

    fn take_error(&self) -> Option<io::Error> {
        match self {
            Leg::Raw(inner) => inner.take_error(),
            Leg::Framed(framed) => framed.take_error(),
        }
    }

    fn arm_reset(&self) {
        match self {
            Leg::Raw(inner) => inner.arm_reset(),
            Leg::Framed(framed) => framed.arm_reset(),
        }
    }

    fn disarm_reset(&self) {
        match self {
            Leg::Raw(inner) => inner.disarm_reset(),
            Leg::Framed(framed) => framed.disarm_reset(),
        }
    }

    fn write_max_bytes(&self, socket_max: usize) -> usize {
        match self {
            Leg::Raw(inner) => inner.write_max_bytes(socket_max),
            Leg::Framed(framed) => framed.write_max_bytes(socket_max),
        }
    }

    fn ends_by_close(&self) -> bool {
        match self {
            Leg::Raw(inner) => inner.ends_by_close(),
            Leg::Framed(framed) => framed.ends_by_close(),
        }
    }

    fn poll_torn(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        match self {
            Leg::Raw(inner) => inner.poll_torn(cx),
            Leg::Framed(framed) => framed.poll_torn(cx),
        }
    }

    fn splice_end(&self) -> Option<&Stream> {
        match self {
            Leg::Raw(inner) => inner.splice_end(),
            Leg::Framed(_) => None,
        }
    }
}
