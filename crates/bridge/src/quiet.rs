//! A message that peers can provoke is written at most once a second.

use std::time::{Duration, Instant};

use crate::sync::{AtomicU64, Ordering};

/// Lets one through each second, whoever asks.
#[derive(Debug)]
pub struct OncePerSecond {
    start: Instant,
    /// Milliseconds after `start` from which the next is let through.
    next: AtomicU64,
}

const PAUSE: Duration = Duration::from_secs(1);

impl Default for OncePerSecond {
    fn default() -> Self {
        Self { start: Instant::now(), next: AtomicU64::new(0) }
    }
}

impl OncePerSecond {
    /// Whether this one may be written.
    #[must_use]
    pub fn allows(&self) -> bool {
        self.allows_at(self.start.elapsed())
    }

    pub(crate) fn allows_at(&self, elapsed: Duration) -> bool {
        let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let next = self.next.load(Ordering::Relaxed);
        millis(elapsed) >= next
            && self
                .next
                .compare_exchange(next, millis(elapsed.saturating_add(PAUSE)), Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_a_second() {
        let quiet = OncePerSecond::default();
        let at = |ms| quiet.allows_at(Duration::from_millis(ms));
        assert_eq!([at(0), at(1), at(999), at(1000), at(1500), at(9000)], [true, false, false, true, false, true]);
    }
}
