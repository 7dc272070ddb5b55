//! The count of streams: a permit for each, none above the limit, and a way to wait until the last has ended.

use std::pin::pin;

use crate::sync::{Arc, AtomicUsize, Notify, Ordering};

/// The most bytes that the future of a stream takes, so that its task is 512 bytes and no more: the runtime's own part is
/// 104 and the scope's 24, and tasks are made in steps of 128. A socket knows its poller in debug builds.
#[cfg(test)]
pub(crate) const SERVE_MAX_BYTES: usize = 384 + if cfg!(debug_assertions) { 16 } else { 0 };

/// Counts the streams that are open in the whole daemon.
#[derive(Clone, Debug)]
pub struct Streams {
    ingress: Arc<Lane>,
    egress: Arc<Lane>,
    all: Arc<All>,
}

#[derive(Debug)]
struct All {
    limit: usize,
    active: AtomicUsize,
    ended: Notify,
}

/// The streams of one direction.
#[derive(Debug)]
struct Lane {
    all: Arc<All>,
    active: AtomicUsize,
}

/// Which way a stream was opened, as seen from the enclave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the world to a server in the enclave.
    Ingress,
    /// From the enclave to a service in the world.
    Egress,
}

/// The right to hold one stream; given back when dropped. One pointer, for each idle stream has one.
#[derive(Debug)]
pub struct Permit(Arc<Lane>);

impl Streams {
    /// At most `limit` streams at once.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        let all = Arc::new(All { limit, active: AtomicUsize::new(0), ended: Notify::new() });
        let lane = || Arc::new(Lane { all: Arc::clone(&all), active: AtomicUsize::new(0) });
        Self { ingress: lane(), egress: lane(), all }
    }

    /// A permit, unless as many as the limit are held: the newest is turned away, those that exist are untouched.
    #[must_use]
    pub fn admit(&self, direction: Direction) -> Option<Permit> {
        let all = &self.all;
        all.active
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n < all.limit).then_some(n.saturating_add(1)))
            .ok()?;
        let lane = self.lane(direction);
        lane.active.fetch_add(1, Ordering::AcqRel);
        Some(Permit(Arc::clone(lane)))
    }

    /// Streams that are open now.
    #[must_use]
    pub fn active(&self) -> usize {
        self.all.active.load(Ordering::Acquire)
    }

    /// Streams of one direction that are open now.
    #[must_use]
    pub fn active_in(&self, direction: Direction) -> usize {
        self.lane(direction).active.load(Ordering::Acquire)
    }

    /// The most that may be open.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.all.limit
    }

    /// Returns once no stream is open.
    pub async fn idle(&self) {
        loop {
            let mut ended = pin!(self.all.ended.notified());
            // Registered before the look, so that the end of the last stream in between is not missed.
            ended.as_mut().enable();
            if self.active() == 0 {
                return;
            }
            ended.await;
        }
    }

    fn lane(&self, direction: Direction) -> &Arc<Lane> {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Lane { all, active } = &*self.0;
        active.fetch_sub(1, Ordering::AcqRel);
        if all.active.fetch_sub(1, Ordering::AcqRel) == 1 {
            all.ended.notify_waiters();
        }
    }
}
