//! Where lines come from: each peer's rate, which outlives its connections.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use enclave_bridge_net::Peer;
use enclave_bridge_policy::TokenBucket;

use crate::quiet::OncePerSecond;

/// How much one enclave may log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogRate {
    /// Bytes a second.
    pub(crate) rate: u32,
    /// Bytes at once.
    pub(crate) burst: u32,
}

/// The sources of lines, by peer.
#[derive(Debug, Default)]
pub(crate) struct Sources(Mutex<HashMap<Peer, Arc<Source>>>);

/// One peer as a source of lines: all its connections share its rate.
#[derive(Debug)]
pub(crate) struct Source {
    bucket: Mutex<TokenBucket>,
    /// Dropped lines that the daemon's own log has not told yet.
    untold: AtomicU64,
    quiet: OncePerSecond,
}

impl Sources {
    /// The source that this peer is. A peer that connects anew finds what it left of its rate: only a source that is as
    /// good as new, and those of another rate than is allowed now, are made anew.
    pub(crate) fn of(&self, peer: &Peer, allowed: LogRate, now: Instant) -> Arc<Source> {
        let mut sources = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sources.retain(|_, source| Arc::strong_count(source) > 1 || !source.bucket().is_full(now));
        let known = sources.get(peer).filter(|source| source.allowed() == allowed);
        if let Some(source) = known {
            return Arc::clone(source);
        }
        let source = Arc::new(Source {
            bucket: Mutex::new(TokenBucket::new(allowed.rate, allowed.burst, now)),
            untold: AtomicU64::new(0),
            quiet: OncePerSecond::default(),
        });
        sources.insert(peer.clone(), Arc::clone(&source));
        source
    }
}

impl Source {
    pub(crate) fn allowed(&self) -> LogRate {
        let bucket = self.bucket();
        LogRate { rate: bucket.rate(), burst: bucket.burst() }
    }

    /// Whether a line of so many bytes may pass; if not it counts as dropped.
    pub(crate) fn admits(&self, now: Instant, bytes: u64) -> bool {
        let admitted = self.bucket().take(now, bytes);
        if !admitted {
            self.untold.fetch_add(1, Ordering::Relaxed);
        }
        admitted
    }

    /// What a line has become longer by on its way to standard output.
    pub(crate) fn charge(&self, bytes: u64) {
        self.bucket().charge(bytes);
    }

    /// How many lines were dropped since this was last told; at most once a second, and never none.
    pub(crate) fn to_tell(&self) -> Option<u64> {
        if !self.has_untold() || !self.quiet.allows() {
            return None;
        }
        Some(self.untold.swap(0, Ordering::Relaxed)).filter(|untold| *untold > 0)
    }

    /// Whether lines were dropped that have not been told.
    pub(crate) fn has_untold(&self) -> bool {
        self.untold.load(Ordering::Relaxed) > 0
    }

    fn bucket(&self) -> MutexGuard<'_, TokenBucket> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const ALLOWED: LogRate = LogRate { rate: 1000, burst: 100 };

    #[test]
    fn a_peer_that_connects_anew_has_no_new_burst() {
        let (sources, start) = (Sources::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        let peer = Peer::Cid(16);
        let first = sources.of(&peer, ALLOWED, start);
        assert!(first.admits(start, 100) && !first.admits(start, 1));
        drop(first);
        assert!(!sources.of(&peer, ALLOWED, at(10)).admits(at(10), 50));
        assert!(sources.of(&Peer::Cid(17), ALLOWED, at(10)).admits(at(10), 100), "another peer has its own");
        // Full again, and nobody holds it: it is gone, and so is the other.
        let later = sources.of(&peer, ALLOWED, at(1000));
        assert_eq!(sources.0.lock().unwrap().len(), 1);
        assert!(later.admits(at(1000), 100));
        let other = LogRate { rate: 1, burst: 1 };
        assert_eq!(sources.of(&peer, other, at(1000)).allowed(), other);
    }

    #[test]
    fn what_was_dropped_is_told_once() {
        let (sources, start) = (Sources::default(), Instant::now());
        let source = sources.of(&Peer::Cid(16), ALLOWED, start);
        assert_eq!(source.to_tell(), None);
        assert!(source.admits(start, 100));
        assert!(!source.admits(start, 100) && !source.admits(start, 100));
        assert_eq!(source.to_tell(), Some(2));
        assert!(!source.admits(start, 100));
        assert_eq!(source.to_tell(), None, "less than a second later");
        assert!(source.has_untold());
    }
}
