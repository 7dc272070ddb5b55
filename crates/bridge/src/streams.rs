//! The count of streams: a permit for each, none above the limit, and a way to wait until the last has ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Counts the streams that are open in the whole daemon.
#[derive(Clone, Debug)]
pub struct Streams(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limit: usize,
    ingress: AtomicUsize,
    egress: AtomicUsize,
    active: AtomicUsize,
    ended: Notify,
}

/// Which way a stream was opened, as seen from the enclave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the world to a server in the enclave.
    Ingress,
    /// From the enclave to a service in the world.
    Egress,
}

/// The right to hold one stream; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    streams: Streams,
    direction: Direction,
}

impl Streams {
    /// At most `limit` streams at once.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Inner {
            limit,
            ingress: AtomicUsize::new(0),
            egress: AtomicUsize::new(0),
            active: AtomicUsize::new(0),
            ended: Notify::new(),
        }))
    }

    /// A permit, unless as many as the limit are held: the newest is turned away, those that exist are untouched.
    #[must_use]
    pub fn admit(&self, direction: Direction) -> Option<Permit> {
        let inner = &self.0;
        inner
            .active
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n < inner.limit).then_some(n.saturating_add(1)))
            .ok()?;
        self.count(direction).fetch_add(1, Ordering::AcqRel);
        Some(Permit { streams: self.clone(), direction })
    }

    /// Streams that are open now.
    #[must_use]
    pub fn active(&self) -> usize {
        self.0.active.load(Ordering::Acquire)
    }

    /// Streams of one direction that are open now.
    #[must_use]
    pub fn active_in(&self, direction: Direction) -> usize {
        self.count(direction).load(Ordering::Acquire)
    }

    /// The most that may be open.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.0.limit
    }

    /// Returns once no stream is open.
    pub async fn idle(&self) {
        loop {
            let ended = self.0.ended.notified();
            tokio::pin!(ended);
            // Registered before the look, so that the end of the last stream in between is not missed.
            ended.as_mut().enable();
            if self.active() == 0 {
                return;
            }
            ended.await;
        }
    }

    fn count(&self, direction: Direction) -> &AtomicUsize {
        match direction {
            Direction::Ingress => &self.0.ingress,
            Direction::Egress => &self.0.egress,
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.streams.count(self.direction).fetch_sub(1, Ordering::AcqRel);
        if self.streams.0.active.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.streams.0.ended.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_limit_holds_and_the_last_end_is_seen() {
        let streams = Streams::new(2);
        let first = streams.admit(Direction::Ingress).unwrap();
        let second = streams.admit(Direction::Egress).unwrap();
        assert!(streams.admit(Direction::Ingress).is_none());
        assert_eq!((streams.active_in(Direction::Ingress), streams.active_in(Direction::Egress)), (1, 1));
        drop(first);
        let third = streams.admit(Direction::Egress).unwrap();
        let idle = streams.idle();
        tokio::pin!(idle);
        assert!(tokio::time::timeout(std::time::Duration::ZERO, idle.as_mut()).await.is_err());
        drop((second, third));
        idle.await;
        assert_eq!(streams.active(), 0);
    }
}
