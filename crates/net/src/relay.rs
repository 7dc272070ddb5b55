//! The one relay: two streams, both directions, one future. It owns half-close, resets, time limits and back-pressure
//! for every pair of socket kinds. Not here: what the streams are for, how they were opened, names of metrics.
//!
//! A direction reads into the thread's scratch buffer and writes at once; what does not go out is kept in exactly that
//! size until it does. An idle relay owns no buffer. An end is passed on only where there was an end; every error is a
//! reset of both sides, and so is the end of the future before its time: TCP sides are armed while it runs.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::ReadBuf;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::stream::{RelayStream, StreamKind};

/// Bytes of the scratch buffer that each thread has, and so the most that one read takes and that a stalled direction
/// keeps. Measured: 64 KiB moves 1.5 times what 16 KiB buffers do; 256 KiB bought nothing that was certain.
pub const SCRATCH_BYTES: usize = 64 * 1024;

/// Bytes that a direction may read in one poll before it lets other tasks run: twice the scratch buffer. Measured: without
/// it bulk streams nearly double the tail latency of small messages beside them; with it the cost is under 8 % CPU.
pub const BUDGET_BYTES: usize = 2 * SCRATCH_BYTES;

/// Default cap of one write to AF_VSOCK. Guest kernels since 6.17 corrupt or fail larger ones on several hypervisors.
pub const VSOCK_WRITE_MAX_BYTES: usize = 32 * 1024;

/// How often a stalled or half-closed relay asks its sockets for an error: a reset of a peer that is neither read from nor
/// written to wakes nobody. Also the accuracy of the time limits in those states.
pub const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// The relay's limits.
#[derive(Clone, Debug)]
pub struct RelayConfig {
    /// Without a byte either way for this long, both sides are reset. Default 1 h.
    pub idle: Duration,
    /// After one direction has ended, the other may stand still for at most this long. Default 60 s.
    pub linger: Duration,
    /// The most bytes that one write to AF_VSOCK carries. Default [`VSOCK_WRITE_MAX_BYTES`].
    pub vsock_write_max_bytes: usize,
}

impl Default for RelayConfig {
    fn default() -> RelayConfig {
        RelayConfig {
            idle: Duration::from_secs(60 * 60),
            linger: Duration::from_secs(60),
            vsock_write_max_bytes: VSOCK_WRITE_MAX_BYTES,
        }
    }
}

/// Bytes delivered, counted while they move; shared by the relays of a tunnel. A is downstream, B is upstream.
#[derive(Debug, Default)]
pub struct Meter {
    a_to_b: AtomicU64,
    b_to_a: AtomicU64,
}

impl Meter {
    /// A meter at zero.
    pub fn new() -> Meter {
        Meter::default()
    }

    /// Bytes written to B (upstream) so far.
    pub fn a_to_b(&self) -> u64 {
        self.a_to_b.load(Ordering::Relaxed)
    }

    /// Bytes written to A (downstream) so far.
    pub fn b_to_a(&self) -> u64 {
        self.b_to_a.load(Ordering::Relaxed)
    }
}

/// One of the two streams of a relay.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Side {
    /// The first stream, downstream.
    A,
    /// The second stream, upstream.
    B,
}

/// Why a relay ended. Every end but [`Orderly`](End::Orderly) has reset both sides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum End {
    /// Both directions ended by the will of their senders, and every byte was handed to the kernel.
    Orderly,
    /// A read, a write or the connection itself failed.
    Reset {
        /// The side whose socket failed.
        by: Side,
        /// How.
        kind: io::ErrorKind,
    },
    /// Nothing moved for [`RelayConfig::idle`].
    Idle,
    /// One direction had ended and the other stood still for [`RelayConfig::linger`].
    Linger,
    /// The `reset` future fired.
    Cut,
}

/// What a relay did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// Bytes written to B.
    pub a_to_b: u64,
    /// Bytes written to A.
    pub b_to_a: u64,
    /// Why it ended.
    pub end: End,
}

/// Moves bytes between `a` (downstream) and `b` (upstream) until both directions have ended, and closes both.
///
/// The end of one direction is passed on once everything before it has been written; the other direction goes on. An
/// error of either side, a time limit or `reset` closes both at once: TCP sides with a reset (data that the kernel
/// has not sent yet is dropped with it), Unix and vsock sides in both directions. Dropping the future does the same.
///
/// Neither stream may have bytes of its own kept elsewhere (see [`Prefixed`](crate::Prefixed)). Needs tokio's timer.
pub fn relay<'a, A, B, R>(
    a: A,
    b: B,
    config: &'a RelayConfig,
    meter: &'a Meter,
    reset: R,
) -> impl Future<Output = Outcome> + use<'a, A, B, R>
where
    A: RelayStream,
    B: RelayStream,
    R: Future<Output = ()>,
{
    a.arm_reset();
    b.arm_reset();
    let mut pair = Pair {
        a,
        b,
        config,
        a_to_b: Direction::new(&meter.a_to_b),
        b_to_a: Direction::new(&meter.b_to_a),
        last_moved: Instant::now(),
        watching: false,
    };
    async move {
        let mut reset = pin!(reset);
        let mut timer = pin!(sleep_until(pair.deadline()));
        let end = poll_fn(|cx| {
            if reset.as_mut().poll(cx).is_ready() {
                return Poll::Ready(End::Cut);
            }
            pair.poll(cx, timer.as_mut())
        })
        .await;
        pair.close(end)
    }
}

struct Pair<'a, A, B> {
    a: A,
    b: B,
    config: &'a RelayConfig,
    a_to_b: Direction<'a>,
    b_to_a: Direction<'a>,
    last_moved: Instant,
    // The timer is set to at most one watch interval.
    watching: bool,
}

impl<A: RelayStream, B: RelayStream> Pair<'_, A, B> {
    fn poll(&mut self, cx: &mut Context<'_>, timer: Pin<&mut Sleep>) -> Poll<End> {
        let write_max = self.config.vsock_write_max_bytes.max(1);
        let mut scratch = Scratch::take();
        let up = self.a_to_b.poll(cx, &mut self.a, &mut self.b, &mut scratch.0, write_max);
        let up = match up {
            Ok(progress) => progress,
            Err(fault) => return Poll::Ready(fault.end(Side::A, Side::B)),
        };
        let down = self.b_to_a.poll(cx, &mut self.b, &mut self.a, &mut scratch.0, write_max);
        let down = match down {
            Ok(progress) => progress,
            Err(fault) => return Poll::Ready(fault.end(Side::B, Side::A)),
        };
        drop(scratch);
        if let Some(end) = self.torn(cx) {
            return Poll::Ready(end);
        }

        if self.a_to_b.done && self.b_to_a.done {
            return Poll::Ready(End::Orderly);
        }
        if up.moved || down.moved {
            self.last_moved = Instant::now();
        }
        let end = self.poll_time(cx, timer);
        if end.is_pending() && (up.again || down.again) {
            cx.waker().wake_by_ref();
        }
        end
    }

    /// The timer is not touched by traffic: it fires at a deadline that may be out of date and is then set anew.
    fn poll_time(&mut self, cx: &mut Context<'_>, mut timer: Pin<&mut Sleep>) -> Poll<End> {
        let watch = self.a_to_b.wants_watch() || self.b_to_a.wants_watch();
        if watch && !self.watching {
            self.watching = true;
            let soon = Instant::now() + WATCH_INTERVAL;
            if soon < timer.deadline() {
                timer.as_mut().reset(soon);
            }
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            if let Some(error) = self.a.take_error() {
                return Poll::Ready(End::Reset { by: Side::A, kind: error.kind() });
            }
            if let Some(error) = self.b.take_error() {
                return Poll::Ready(End::Reset { by: Side::B, kind: error.kind() });
            }
            let now = Instant::now();
            let deadline = self.deadline();
            if now >= deadline {
                return Poll::Ready(self.expired());
            }
            self.watching = watch;
            let next = if watch { deadline.min(now + WATCH_INTERVAL) } else { deadline };
            timer.as_mut().reset(next);
        }
    }

    /// A side that has ended its own direction may still tear the other one.
    fn torn(&mut self, cx: &mut Context<'_>) -> Option<End> {
        if self.a_to_b.eof
            && !self.b_to_a.done
            && let Poll::Ready(error) = self.a.poll_torn(cx)
        {
            return Some(End::Reset { by: Side::A, kind: error.kind() });
        }
        if self.b_to_a.eof
            && !self.a_to_b.done
            && let Poll::Ready(error) = self.b.poll_torn(cx)
        {
            return Some(End::Reset { by: Side::B, kind: error.kind() });
        }
        None
    }

    fn half_closed(&self) -> bool {
        self.a_to_b.done || self.b_to_a.done
    }

    fn deadline(&self) -> Instant {
        let limit = if self.half_closed() { self.config.linger.min(self.config.idle) } else { self.config.idle };
        // A limit beyond the clock's range is no limit; ten years are within it and beyond any relay.
        const NEVER: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
        self.last_moved + limit.min(NEVER)
    }

    fn expired(&self) -> End {
        if self.half_closed() && self.config.linger <= self.config.idle { End::Linger } else { End::Idle }
    }

    /// Only an orderly end disarms: then the kernel still delivers what it holds. Otherwise the close is the reset.
    fn close(self, end: End) -> Outcome {
        if end == End::Orderly {
            self.a.disarm_reset();
            self.b.disarm_reset();
        }
        Outcome { a_to_b: self.a_to_b.moved, b_to_a: self.b_to_a.moved, end }
    }
}

/// Bytes on their way from one stream to the other.
struct Direction<'a> {
    counter: &'a AtomicU64,
    moved: u64,
    // Read and not yet written: `kept[sent..]`. Empty, without memory, unless the far side is stalled.
    kept: Vec<u8>,
    sent: usize,
    unflushed: bool,
    // The sender has ended; what is kept still has to go out.
    eof: bool,
    // The end was passed on.
    done: bool,
}

#[derive(Default)]
struct Progress {
    moved: bool,
    // The budget ended before the bytes did.
    again: bool,
}

enum Fault {
    From(io::Error),
    To(io::Error),
}

impl Fault {
    fn end(self, from: Side, to: Side) -> End {
        match self {
            Fault::From(error) => End::Reset { by: from, kind: error.kind() },
            Fault::To(error) => End::Reset { by: to, kind: error.kind() },
        }
    }
}

impl<'a> Direction<'a> {
    fn new(counter: &'a AtomicU64) -> Direction<'a> {
        Direction { counter, moved: 0, kept: Vec::new(), sent: 0, unflushed: false, eof: false, done: false }
    }

    /// In these states a reset may arrive that no pending read or write is woken for.
    fn wants_watch(&self) -> bool {
        self.eof || self.unflushed || !self.kept.is_empty()
    }

    fn poll<F: RelayStream, T: RelayStream>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut F,
        to: &mut T,
        scratch: &mut [u8],
        write_max: usize,
    ) -> Result<Progress, Fault> {
        let mut progress = Progress::default();
        let write_max = to.write_max_bytes(if to.kind() == StreamKind::Vsock { write_max } else { usize::MAX });
        let scratch = whole_writes(scratch, write_max);
        let mut budget = BUDGET_BYTES;
        if to.kind() == StreamKind::Vsock && self.joins(write_max) {
            let room = scratch.len().saturating_sub(self.kept_bytes());
            if let Poll::Ready(read) = poll_read(cx, from, scratch.get_mut(..room).unwrap_or_default())? {
                progress.moved = true;
                budget = budget.saturating_sub(read.len());
                self.eof = read.is_empty();
                self.join(read);
            }
        }
        while !self.done {
            if !self.kept.is_empty() {
                let (written, flow) = self.write(cx, to, None, write_max)?;
                progress.moved |= written;
                if flow.is_pending() {
                    break;
                }
            }
            if self.eof {
                if poll_end(cx, to)?.is_pending() {
                    break;
                }
                self.done = true;
                progress.moved = true;
                break;
            }
            if budget == 0 {
                progress.again = true;
                break;
            }
            match poll_read(cx, from, scratch)? {
                Poll::Pending => {
                    self.flush(cx, to)?;
                    break;
                }
                Poll::Ready(read) => {
                    progress.moved = true;
                    budget = budget.saturating_sub(read.len());
                    self.eof = read.is_empty();
                    let (_, flow) = self.write(cx, to, Some(read), write_max)?;
                    if flow.is_pending() {
                        break;
                    }
                }
            }
        }
        Ok(progress)
    }

    /// Each write to vsock becomes packets of its own, and many small ones are costly or worse: a small rest waits for
    /// what has come meanwhile, so that both leave in one write. TCP and Unix sockets join in the kernel.
    fn joins(&self, write_max: usize) -> bool {
        !self.eof && !self.kept.is_empty() && self.kept_bytes() < write_max
    }

    fn kept_bytes(&self) -> usize {
        self.kept.len().saturating_sub(self.sent)
    }

    fn join(&mut self, read: &[u8]) {
        self.kept.drain(..self.sent.min(self.kept.len()));
        self.sent = 0;
        self.kept.reserve_exact(read.len());
        self.kept.extend_from_slice(read);
    }

    /// Writes `fresh`, or what is kept if there is none, until all is out or `to` takes no more; keeps the rest.
    /// Returns whether a byte went out, and `Pending` if some are kept.
    fn write<T: RelayStream>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut T,
        fresh: Option<&[u8]>,
        write_max: usize,
    ) -> Result<(bool, Poll<()>), Fault> {
        let mut written = 0_usize;
        let flow = loop {
            let rest = match fresh {
                Some(bytes) => bytes.get(written..),
                None => self.kept.get(self.sent + written..),
            };
            let rest = rest.unwrap_or_default();
            if rest.is_empty() {
                break Poll::Ready(());
            }
            let piece = rest.get(..write_max).unwrap_or(rest);
            match Pin::new(&mut *to).poll_write(cx, piece) {
                Poll::Pending => break Poll::Pending,
                Poll::Ready(Ok(0)) => return Err(Fault::To(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => {
                    written += n;
                    self.count(n);
                }
                Poll::Ready(Err(error)) => return Err(Fault::To(error)),
            }
        };
        match (fresh, flow) {
            (Some(bytes), Poll::Pending) => {
                self.kept = bytes.get(written..).unwrap_or_default().to_vec();
                self.sent = 0;
            }
            (None, Poll::Pending) => self.sent += written,
            (Some(_), Poll::Ready(())) => {}
            (None, Poll::Ready(())) => {
                self.kept = Vec::new();
                self.sent = 0;
            }
        }
        Ok((written > 0, flow))
    }

    fn count(&mut self, bytes: usize) {
        self.unflushed = true;
        let bytes = bytes as u64;
        self.moved += bytes;
        self.counter.fetch_add(bytes, Ordering::Relaxed);
    }

    /// For streams that buffer; for sockets nothing happens.
    fn flush<T: RelayStream>(&mut self, cx: &mut Context<'_>, to: &mut T) -> Result<(), Fault> {
        if self.unflushed {
            match Pin::new(to).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(error)) => return Err(Fault::To(error)),
                Poll::Pending => {}
            }
        }
        Ok(())
    }
}

/// As much of the buffer as is a number of whole writes: a small rest would make a write of its own.
fn whole_writes(scratch: &mut [u8], write_max: usize) -> &mut [u8] {
    let rest = scratch.len().checked_rem(write_max).unwrap_or_default();
    let whole = scratch.len() - rest;
    if whole == 0 { scratch } else { scratch.get_mut(..whole).unwrap_or_default() }
}

fn poll_read<'s, F: RelayStream>(
    cx: &mut Context<'_>,
    from: &mut F,
    scratch: &'s mut [u8],
) -> Result<Poll<&'s [u8]>, Fault> {
    let mut buffer = ReadBuf::new(scratch);
    match Pin::new(from).poll_read(cx, &mut buffer) {
        Poll::Pending => return Ok(Poll::Pending),
        Poll::Ready(Ok(())) => {}
        Poll::Ready(Err(error)) => return Err(Fault::From(error)),
    }
    let read = buffer.filled().len();
    Ok(Poll::Ready(scratch.get(..read).unwrap_or_default()))
}

/// Passes the end on. Everything was written, so a peer that has already gone in order (vsock says ENOTCONN then) has
/// nothing to miss; but TCP says the same after a reset, and only the socket's error tells.
fn poll_end<T: RelayStream>(cx: &mut Context<'_>, to: &mut T) -> Result<Poll<()>, Fault> {
    match Pin::new(&mut *to).poll_shutdown(cx) {
        Poll::Pending => Ok(Poll::Pending),
        Poll::Ready(Ok(())) => Ok(Poll::Ready(())),
        Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::NotConnected => match to.take_error() {
            None => Ok(Poll::Ready(())),
            Some(error) => Err(Fault::To(error)),
        },
        Poll::Ready(Err(error)) => Err(Fault::To(error)),
    }
}

thread_local! {
    static SCRATCH: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// The thread's buffer, out of its cell for the length of one poll and put back on drop.
struct Scratch(Box<[u8]>);

impl Scratch {
    fn take() -> Scratch {
        // A relay polled within a relay, or the first poll on this thread, finds none.
        Scratch(SCRATCH.take().unwrap_or_else(|| vec![0; SCRATCH_BYTES].into_boxed_slice()))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A thread that is ending has no cell any more; the buffer then goes with it.
        let buffer = std::mem::take(&mut self.0);
        if SCRATCH.try_with(|cell| cell.set(Some(buffer))).is_err() {
            tracing::trace!("relay polled on an ending thread");
        }
    }
}
