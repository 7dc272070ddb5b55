//! The counters that the queue of lines counts in, as the bridge has them.

use crate::sync::{AtomicU64, Ordering};

/// What is counted of lines.
#[derive(Debug, Default)]
pub struct LogCounters {
    /// Lines that reached standard output.
    pub printed: AtomicU64,
    /// Lines that were dropped.
    pub dropped: AtomicU64,
}

/// One more.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
