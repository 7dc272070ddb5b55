//! The counters that the queue of lines counts in, as the bridge has them.

use crate::sync::{AtomicU64, Ordering};

/// What is counted of lines.
#[derive(Debug, Default)]
pub struct LogCounters {
    /// Lines that reached standard output.
    pub printed: AtomicU64,
    /// Lines that were dropped.
    pub dropped: Dropped,
}

/// Why a line was dropped.
#[derive(Debug, Clone, Copy)]
pub enum LogDrop {
    /// There was no room.
    Stalled,
    /// Writing failed.
    Failed,
    /// The end came first.
    End,
}

/// Lines that were dropped. For every reason one count: what is tried in every order is that none is missed or counted twice.
#[derive(Debug, Default)]
pub struct Dropped(AtomicU64);

impl Dropped {
    /// One more.
    pub fn count(&self, reason: LogDrop) {
        self.add(reason, 1);
    }

    /// So many more.
    pub fn add(&self, _reason: LogDrop, lines: u64) {
        self.0.fetch_add(lines, Ordering::Relaxed);
    }

    /// All of them.
    pub fn all(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
