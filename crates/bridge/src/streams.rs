//! The count of streams: a permit for each, none above the limit, and a way to wait until the last has ended.

use std::pin::pin;

use crate::sync::{Arc, AtomicUsize, Notify, Ordering};

/// The most bytes that the future of a stream takes, so that its task is 512 bytes and no more: the runtime's own part is
/// 104 and the scope's 24, and tasks are made in steps of 128. A socket knows its poller in debug builds.
#[cfg(test)]
pub(crate) const SERVE_MAX_BYTES: usize = 384 + if cfg!(debug_assertions) { 16 } else { 0 };

/// Counts streams that are open: in the whole daemon or, by a [`share`](Streams::share), those of one enclave.
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
    /// The lane of the whole, where this is of a share.
    above: Option<Arc<Lane>>,
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
        let lane = || Arc::new(Lane { all: Arc::clone(&all), active: AtomicUsize::new(0), above: None });
        Self { ingress: lane(), egress: lane(), all }
    }

    /// A part of these streams with a limit of its own: what is admitted to it counts in both.
    #[must_use]
    pub fn share(&self, limit: usize) -> Self {
        let all = Arc::new(All { limit, active: AtomicUsize::new(0), ended: Notify::new() });
        let lane = |above: &Arc<Lane>| {
            Arc::new(Lane { all: Arc::clone(&all), active: AtomicUsize::new(0), above: Some(Arc::clone(above)) })
        };
        Self { ingress: lane(&self.ingress), egress: lane(&self.egress), all }
    }

    /// A permit, unless as many as the limit are held: the newest is turned away, those that exist are untouched.
    #[must_use]
    pub fn admit(&self, direction: Direction) -> Option<Permit> {
        let lane = self.lane(direction);
        lane.enter().then(|| Permit(Arc::clone(lane)))
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

impl Lane {
    /// One stream more, here and above, unless one of the limits is reached.
    fn enter(&self) -> bool {
        let limit = self.all.limit;
        let more = |n: usize| (n < limit).then_some(n.saturating_add(1));
        if self.all.active.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_err() {
            return false;
        }
        if self.above.as_ref().is_some_and(|above| !above.enter()) {
            self.all.leave();
            return false;
        }
        self.active.fetch_add(1, Ordering::AcqRel);
        true
    }

    fn leave(&self) {
        self.active.fetch_sub(1, Ordering::AcqRel);
        self.all.leave();
        if let Some(above) = &self.above {
            above.leave();
        }
    }
}

impl All {
    fn leave(&self) {
        if self.active.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.ended.notify_waiters();
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.leave();
    }
}
