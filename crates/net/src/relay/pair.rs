//! Both directions of one relay: their turns, the time limits, the faults that no read or write tells.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::direction::{Direction, Way};
use super::scratch::Scratch;
use super::{End, Meter, Outcome, RelayConfig, Side, WATCH_INTERVAL};
use crate::stream::RelayStream;

pub(super) struct Pair<'a, A, B> {
    a: A,
    b: B,
    config: &'a RelayConfig,
    meter: &'a Meter,
    a_to_b: Direction,
    b_to_a: Direction,
    last_moved: Instant,
}

impl<'a, A: RelayStream, B: RelayStream> Pair<'a, A, B> {
    pub(super) fn new(a: A, b: B, config: &'a RelayConfig, meter: &'a Meter) -> Pair<'a, A, B> {
        let (a_to_b, b_to_a) = (Direction::default(), Direction::default());
        Pair { a, b, config, meter, a_to_b, b_to_a, last_moved: Instant::now() }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>, timer: Pin<&mut Sleep>) -> Poll<End> {
        let config = self.config;
        let mut scratch = Scratch::take();
        let is_last = self.b_to_a.is_done();
        let way = Way { from: &mut self.a, to: &mut self.b, delivered: &self.meter.a_to_b, config, is_last };
        let up = match self.a_to_b.poll(cx, way, &mut scratch) {
            Ok(progress) => progress,
            Err(fault) => return Poll::Ready(fault.end(Side::A, Side::B)),
        };
        let is_last = self.a_to_b.is_done();
        let way = Way { from: &mut self.b, to: &mut self.a, delivered: &self.meter.b_to_a, config, is_last };
        let down = match self.b_to_a.poll(cx, way, &mut scratch) {
            Ok(progress) => progress,
            Err(fault) => return Poll::Ready(fault.end(Side::B, Side::A)),
        };
        drop(scratch);
        if let Some(end) = self.torn(cx) {
            return Poll::Ready(end);
        }

        if self.a_to_b.is_done() && self.b_to_a.is_done() {
            return Poll::Ready(End::Orderly);
        }
        if up.moved || down.moved {
            self.last_moved = Instant::now();
        }
        let end = self.poll_time(cx, timer);
        if end.is_pending() && (up.again || down.again) {
            yield_to_the_poller(cx);
        }
        end
    }

    /// The timer is not touched by traffic: it fires at a deadline that may be out of date and is then set anew.
    fn poll_time(&mut self, cx: &mut Context<'_>, mut timer: Pin<&mut Sleep>) -> Poll<End> {
        let watch = self.a_to_b.wants_watch() || self.b_to_a.wants_watch();
        if watch {
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
            let next = if watch { deadline.min(now + WATCH_INTERVAL) } else { deadline };
            timer.as_mut().reset(next);
        }
    }

    /// A side that has ended its own direction may still tear the other one.
    fn torn(&mut self, cx: &mut Context<'_>) -> Option<End> {
        if self.a_to_b.has_ended()
            && !self.b_to_a.is_done()
            && let Poll::Ready(error) = self.a.poll_torn(cx)
        {
            return Some(End::Reset { by: Side::A, kind: error.kind() });
        }
        if self.b_to_a.has_ended()
            && !self.a_to_b.is_done()
            && let Poll::Ready(error) = self.b.poll_torn(cx)
        {
            return Some(End::Reset { by: Side::B, kind: error.kind() });
        }
        None
    }

    fn half_closed(&self) -> bool {
        self.a_to_b.is_done() || self.b_to_a.is_done()
    }

    pub(super) fn deadline(&self) -> Instant {
        let limit = if self.half_closed() { self.config.linger.min(self.config.idle) } else { self.config.idle };
        // A limit beyond the clock's range is no limit; ten years are within it and beyond any relay.
        const NEVER: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
        self.last_moved + limit.min(NEVER)
    }

    fn expired(&self) -> End {
        if self.half_closed() && self.config.linger <= self.config.idle { End::Linger } else { End::Idle }
    }

    /// Only an orderly end disarms: then the kernel still delivers what it holds. Otherwise the close is the reset.
    pub(super) fn close(&self, end: End) -> Outcome {
        if end == End::Orderly {
            self.a.disarm_reset();
            self.b.disarm_reset();
        }
        Outcome { a_to_b: self.a_to_b.delivered(), b_to_a: self.b_to_a.delivered(), end }
    }
}

/// Wakes the task again once the runtime has looked for events, and not before: whoever has become ready in the meantime
/// goes first, so that small messages wait for one turn of the bulk beside them and not for sixty. A plain wake leaves that to
/// the runtime's `event_interval`, which costs everybody a system call for every few polls where it is small.
fn yield_to_the_poller(cx: &mut Context<'_>) {
    // Its first poll puts the waker where the runtime looks after the events; it has no other.
    if pin!(tokio::task::yield_now()).poll(cx).is_ready() {
        cx.waker().wake_by_ref();
    }
}
