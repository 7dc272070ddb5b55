//! The one relay: two streams, both directions, one future. It owns half-close, resets, time limits and back-pressure
//! for every pair of socket kinds. Not here: what the streams are for, how they were opened, names of metrics.
//!
//! A direction reads into the thread's scratch buffer and writes at once; what does not go out is kept in exactly that
//! size until it does. Between two sockets whose pages the kernel can move, sustained bulk goes through a pipe instead and
//! is not copied. An idle relay owns neither buffer nor pipe. An end is passed on only where there was an end; every error is a
//! reset of both sides, and so is the end of the future before its time: TCP sides are armed while it runs.

mod direction;
mod pair;
mod pipes;
mod scratch;
mod turn;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep_until};

use self::pair::Pair;
pub use self::pipes::{PIPE_BYTES, PIPES_IDLE_MAX, PIPES_MAX, Pipes};
use crate::stream::RelayStream;

/// Bytes of the scratch buffer that each thread has, and so the most that one read takes and that a stalled direction
/// keeps. Twice what most relays have: the bytes of TCP come in larger heaps than that.
pub const SCRATCH_BYTES: usize = 128 * 1024;

/// The most that one read from a Unix socket takes. A client that stalls keeps what such a read brought and was not written:
/// 36 KiB on average with 64 KiB, 69 with 128. Bulk out of a Unix socket costs a few parts in a hundred less with 128 than with 64.
pub const UNIX_READ_MAX_BYTES: usize = 96 * 1024;

/// Bytes that the busy directions of a thread may read in one turn, all together, before others run and the runtime looks for
/// events: eight times the scratch buffer. A direction that is busy alone may read them in one poll, many that are have a
/// scratch buffer each. Without a budget bulk streams nearly double the tail latency of small messages beside them; with a
/// quarter of this one a byte of a lone bulk stream costs up to a tenth more.
pub const BUDGET_BYTES: usize = 8 * SCRATCH_BYTES;

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
    /// Pipes for sustained bulk between TCP and Unix sockets; `None`, the default, copies always.
    pub pipes: Option<Pipes>,
}

impl Default for RelayConfig {
    fn default() -> RelayConfig {
        RelayConfig {
            idle: Duration::from_secs(60 * 60),
            linger: Duration::from_secs(60),
            vsock_write_max_bytes: VSOCK_WRITE_MAX_BYTES,
            pipes: None,
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
    let pair = Pair::new(a, b, config, meter);
    Relay { timer: sleep_until(pair.deadline()), pair: Some(pair), reset }
}

pin_project! {
    /// Its size is what an idle stream costs: no field twice, and nothing in it that only a busy one needs.
    struct Relay<'a, A, B, R> {
        pair: Option<Pair<'a, A, B>>,
        #[pin]
        timer: Sleep,
        #[pin]
        reset: R,
    }
}

impl<A: RelayStream, B: RelayStream, R: Future<Output = ()>> Future for Relay<'_, A, B, R> {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let this = self.project();
        let Some(pair) = this.pair else { return Poll::Pending };
        let end = if this.reset.poll(cx).is_ready() { Poll::Ready(End::Cut) } else { pair.poll(cx, this.timer) };
        let Poll::Ready(end) = end else { return Poll::Pending };
        let outcome = pair.close(end);
        // The sockets are closed now and not when somebody drops the future.
        *this.pair = None;
        Poll::Ready(outcome)
    }
}
