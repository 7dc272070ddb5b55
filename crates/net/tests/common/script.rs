//! A stream in memory that does what a script says, and notes what was done to it: for faults and interleavings that no
//! real socket can be made to show on demand.
#![allow(dead_code, reason = "each test program uses its own part")]

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use enclave_bridge_net::{RelayStream, StreamKind};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// One answer to a read.
#[derive(Clone, Debug)]
pub(crate) enum ReadStep {
    /// At most so many of the input's bytes.
    Some(usize),
    /// Not now, but at once again.
    Pending,
    /// Never again.
    Stall,
    Fail(io::ErrorKind),
}

/// One answer to a write.
#[derive(Clone, Debug)]
pub(crate) enum WriteStep {
    /// At most so many bytes.
    Accept(usize),
    /// Not now, but at once again.
    Pending,
    /// Never again.
    Stall,
    Fail(io::ErrorKind),
}

#[derive(Debug, Default)]
pub(crate) struct State {
    /// What the stream will read to the end, and how much of it was read.
    pub(crate) input: Vec<u8>,
    pub(crate) read: usize,
    pub(crate) reads: VecDeque<ReadStep>,
    pub(crate) writes: VecDeque<WriteStep>,
    /// Answers to shutdown before it succeeds: `Ok` is "not now".
    pub(crate) shutdowns: VecDeque<Result<(), io::ErrorKind>>,
    /// How often flush is not ready, and how much of the output it has then covered.
    pub(crate) late_flushes: usize,
    pub(crate) flushed: usize,
    pub(crate) error: Option<io::ErrorKind>,
    pub(crate) output: Vec<u8>,
    pub(crate) write_sizes: Vec<usize>,
    pub(crate) eof_read: bool,
    pub(crate) failed: bool,
    /// A failed write leaves reading as it was, as it does with a peer that has spoken and closed.
    pub(crate) writes_fail_alone: bool,
    pub(crate) write_failed: bool,
    /// Gathers pieces in one write.
    pub(crate) vectored: bool,
    pub(crate) shut: u32,
    pub(crate) armed: bool,
    pub(crate) disarmed: bool,
}

/// The stream; the test keeps a handle to the state.
pub(crate) struct Script {
    pub(crate) kind: StreamKind,
    pub(crate) state: Arc<Mutex<State>>,
}

impl Script {
    pub(crate) fn new(kind: StreamKind, state: State) -> (Script, Arc<Mutex<State>>) {
        let state = Arc::new(Mutex::new(state));
        (Script { kind, state: Arc::clone(&state) }, state)
    }
}

impl AsyncRead for Script {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state.lock().unwrap();
        assert!(!state.eof_read, "read after the end");
        assert!(!state.failed, "read after an error");
        let most = match state.reads.pop_front() {
            None => usize::MAX,
            Some(ReadStep::Some(n)) => n.max(1),
            Some(ReadStep::Pending) => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Some(ReadStep::Stall) => {
                state.reads.push_front(ReadStep::Stall);
                return Poll::Pending;
            }
            Some(ReadStep::Fail(kind)) => {
                state.failed = true;
                return Poll::Ready(Err(kind.into()));
            }
        };
        let n = most.min(buf.remaining()).min(state.input.len() - state.read);
        let at = state.read;
        buf.put_slice(&state.input[at..at + n]);
        state.read += n;
        state.eof_read = n == 0;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Script {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.state.lock().unwrap();
        assert_eq!(state.shut, 0, "write after shutdown");
        assert!(!state.failed && !state.write_failed, "write after an error");
        assert!(!buf.is_empty(), "empty write");
        let most = match state.writes.pop_front() {
            None => usize::MAX,
            Some(WriteStep::Accept(n)) => n.max(1),
            Some(WriteStep::Pending) => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Some(WriteStep::Stall) => {
                state.writes.push_front(WriteStep::Stall);
                return Poll::Pending;
            }
            Some(WriteStep::Fail(kind)) => {
                state.write_failed = true;
                state.failed = !state.writes_fail_alone;
                return Poll::Ready(Err(kind.into()));
            }
        };
        let n = most.min(buf.len());
        state.output.extend_from_slice(&buf[..n]);
        state.write_sizes.push(n);
        Poll::Ready(Ok(n))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let whole: Vec<u8> = bufs.iter().flat_map(|piece| piece.to_vec()).collect();
        self.poll_write(cx, &whole)
    }

    fn is_write_vectored(&self) -> bool {
        self.state.lock().unwrap().vectored
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state.lock().unwrap();
        if state.late_flushes > 0 {
            state.late_flushes -= 1;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        state.flushed = state.output.len();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state.lock().unwrap();
        assert_eq!(state.shut, 0, "shut down twice");
        assert!(!state.failed, "shutdown after an error");
        match state.shutdowns.pop_front() {
            Some(Ok(())) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Some(Err(kind)) => Poll::Ready(Err(kind.into())),
            None => {
                state.shut += 1;
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl RelayStream for Script {
    fn kind(&self) -> StreamKind {
        self.kind
    }

    fn take_error(&self) -> Option<io::Error> {
        self.state.lock().unwrap().error.take().map(io::Error::from)
    }

    fn arm_reset(&self) {
        self.state.lock().unwrap().armed = true;
    }

    fn disarm_reset(&self) {
        self.state.lock().unwrap().disarmed = true;
    }
}
