//! How long a thread of this machine had to wait until it ran: what a session that was lost is seen beside.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What the thread asks for again and again; what it gets beyond that is a delay.
const NAP: Duration = Duration::from_millis(10);

/// The longest delays so far, in milliseconds.
#[derive(Debug, Default)]
pub(super) struct Delays {
    lately: AtomicU64,
    ever: AtomicU64,
}

impl Delays {
    /// Observed for as long as somebody holds it.
    pub(super) fn start() -> Arc<Delays> {
        let delays = Arc::new(Delays::default());
        let observed = Arc::downgrade(&delays);
        std::thread::spawn(move || {
            let mut before = Instant::now();
            while let Some(delays) = observed.upgrade() {
                std::thread::sleep(NAP);
                let now = Instant::now();
                delays.saw(now.duration_since(before).saturating_sub(NAP));
                before = now;
            }
        });
        delays
    }

    fn saw(&self, delay: Duration) {
        let milliseconds = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.lately.fetch_max(milliseconds, Ordering::SeqCst);
        self.ever.fetch_max(milliseconds, Ordering::SeqCst);
    }

    /// The longest since this was asked last.
    pub(super) fn lately(&self) -> Duration {
        Duration::from_millis(self.lately.swap(0, Ordering::SeqCst))
    }

    /// The longest of all.
    pub(super) fn ever(&self) -> Duration {
        Duration::from_millis(self.ever.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_counts_and_lately_begins_anew() {
        let delays = Delays::default();
        delays.saw(Duration::from_millis(30));
        delays.saw(Duration::from_millis(20));
        assert_eq!((delays.lately(), delays.ever()), (Duration::from_millis(30), Duration::from_millis(30)));
        delays.saw(Duration::from_millis(5));
        assert_eq!((delays.lately(), delays.ever()), (Duration::from_millis(5), Duration::from_millis(30)));
    }
}
