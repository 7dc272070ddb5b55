//! A stream whose first bytes are judged before anybody reads them. What they have to be is the judge's business, not this file's.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::stream::{RelayStream, Stream, StreamKind};

/// How much is read at once while the judge looks: nearly every first flight is smaller.
const READ_BYTES: usize = 2048;

/// What a judge says of the bytes so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It takes more bytes to tell. A judge says so for a bounded number of bytes only: they are held meanwhile.
    More,
    /// The stream may go on, beginning with its first byte.
    Pass,
    /// It may not.
    Refuse,
}

/// Judges the first bytes of a stream.
pub trait Judge: Send {
    /// The next bytes of the stream.
    fn judge(&mut self, bytes: &[u8]) -> Verdict;
    /// The stream ended before the judge knew, which is a refusal.
    fn ended(&mut self);
    /// The time was over before the judge knew, which is a refusal.
    fn late(&mut self);
}

/// `inner`, of which nothing is read before a [`Judge`] has let it pass; then every byte is. Writes go straight to `inner`, so an
/// answer to nothing (a server that speaks first) is not held up.
///
/// After a refusal every read is [`io::ErrorKind::PermissionDenied`], which a relay answers with a reset of both sides.
pub struct Screened<S> {
    // Apart and gone once read, as a prefix is.
    screen: Option<Box<Screen>>,
    inner: S,
}

struct Screen {
    judge: Box<dyn Judge>,
    verdict: Verdict,
    deadline: Pin<Box<Sleep>>,
    held: Vec<u8>,
    read: usize,
}

impl<S> Screened<S> {
    /// Holds `inner` back until `judge` has decided, at most until `deadline`. Needs tokio's timer.
    pub fn new(inner: S, judge: Box<dyn Judge>, deadline: Instant) -> Screened<S> {
        let deadline = Box::pin(sleep_until(deadline));
        let screen = Screen { judge, verdict: Verdict::More, deadline, held: Vec::new(), read: 0 };
        Screened { screen: Some(Box::new(screen)), inner }
    }
}

/// Shows how many bytes are held, never which.
impl<S: fmt::Debug> fmt::Debug for Screened<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.screen.as_ref().map_or(0, |screen| screen.held.len());
        f.debug_struct("Screened").field("held_bytes", &held).field("inner", &self.inner).finish()
    }
}

impl Screen {
    /// Reads until there is a verdict.
    fn poll_verdict<S: AsyncRead + Unpin>(&mut self, inner: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<Verdict>> {
        while self.verdict == Verdict::More {
            if self.deadline.as_mut().poll(cx).is_ready() {
                self.judge.late();
                self.refuse();
                break;
            }
            let mut space = [0; READ_BYTES];
            let mut buffer = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut *inner).poll_read(cx, &mut buffer))?;
            if buffer.filled().is_empty() {
                self.judge.ended();
                self.refuse();
                break;
            }
            self.held.extend_from_slice(buffer.filled());
            match self.judge.judge(buffer.filled()) {
                Verdict::Refuse => self.refuse(),
                verdict @ (Verdict::More | Verdict::Pass) => self.verdict = verdict,
            }
        }
        Poll::Ready(Ok(self.verdict))
    }

    fn refuse(&mut self) {
        self.verdict = Verdict::Refuse;
        self.held = Vec::new();
    }

    fn left(&self) -> &[u8] {
        self.held.get(self.read..).unwrap_or_default()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Screened<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let Some(screen) = &mut this.screen else {
            return Pin::new(&mut this.inner).poll_read(cx, buf);
        };
        if ready!(screen.poll_verdict(&mut this.inner, cx))? == Verdict::Refuse {
            return Poll::Ready(Err(io::ErrorKind::PermissionDenied.into()));
        }
        let taken = screen.left().len().min(buf.remaining());
        buf.put_slice(screen.left().get(..taken).unwrap_or_default());
        screen.read = screen.read.saturating_add(taken);
        if screen.left().is_empty() {
            this.screen = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Screened<S> {
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
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

impl<S: RelayStream> RelayStream for Screened<S> {
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

    fn poll_torn(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.inner.poll_torn(cx)
    }

    fn ends_by_close(&self) -> bool {
        self.inner.ends_by_close()
    }

    fn splice_end(&self) -> Option<&Stream> {
        if self.screen.is_some() { None } else { self.inner.splice_end() }
    }
}
