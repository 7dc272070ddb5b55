//! A rate in bytes a second with a burst, as a token bucket. It asks no clock: instants are passed in.

use std::time::Instant;

/// Nanoseconds of a second: levels are kept in billionths of a byte, so that no fraction is ever lost.
const PER_BYTE: i128 = 1_000_000_000;

/// So many bytes a second on average, and so many at once.
///
/// Over any time `t` the bucket lets through at most `burst + rate × t` bytes and one unit (a line, say) more, for a unit that is
/// larger than the burst passes where the bucket is full and is paid for afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenBucket {
    rate: u32,
    burst: u32,
    /// Billionths of a byte that may pass now; below zero what was let through ahead of its time.
    level: i128,
    /// When the level was that.
    at: Instant,
}

impl TokenBucket {
    /// A full bucket. `rate` is in bytes a second, `burst` in bytes.
    pub fn new(rate: u32, burst: u32, now: Instant) -> Self {
        Self { rate, burst, level: i128::from(burst) * PER_BYTE, at: now }
    }

    /// The rate in bytes a second.
    pub fn rate(&self) -> u32 {
        self.rate
    }

    /// The burst in bytes.
    pub fn burst(&self) -> u32 {
        self.burst
    }

    /// Takes `bytes` if they may pass now, all or nothing. An instant before an earlier one counts as that one.
    pub fn take(&mut self, now: Instant, bytes: u64) -> bool {
        self.fill(now);
        let cost = i128::from(bytes) * PER_BYTE;
        if self.level < cost.min(self.full()) {
            return false;
        }
        self.level = self.level.saturating_sub(cost);
        true
    }

    /// Pays for `bytes` that have passed already, whatever the level is.
    pub fn charge(&mut self, bytes: u64) {
        self.level = self.level.saturating_sub(i128::from(bytes) * PER_BYTE);
    }

    /// Whether it is as full as a new one, so that a new one may take its place.
    pub fn is_full(&mut self, now: Instant) -> bool {
        self.fill(now);
        self.level == self.full()
    }

    fn full(&self) -> i128 {
        i128::from(self.burst) * PER_BYTE
    }

    fn fill(&mut self, now: Instant) {
        let nanos = i128::try_from(now.saturating_duration_since(self.at).as_nanos()).unwrap_or(i128::MAX);
        self.at = self.at.max(now);
        self.level = self.level.saturating_add(nanos.saturating_mul(i128::from(self.rate))).min(self.full());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_then_the_rate() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut bucket = TokenBucket::new(1000, 300, start);
        assert!(bucket.take(start, 200) && bucket.take(start, 100));
        assert!(!bucket.take(start, 1), "nothing is left");
        assert!(bucket.take(start, 0));
        assert!(!bucket.take(at(99), 100));
        assert!(bucket.take(at(100), 100));
        assert!(!bucket.take(at(50), 1), "a clock that goes back fills nothing");
        assert!(bucket.take(at(60_000), 300), "it never holds more than the burst");
        assert!(!bucket.take(at(60_000), 1));
        assert!(!bucket.is_full(at(60_299)));
        assert!(bucket.is_full(at(60_300)));
    }

    #[test]
    fn what_is_larger_than_the_burst_passes_a_full_bucket_and_is_paid_for() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut bucket = TokenBucket::new(1000, 100, start);
        assert!(bucket.take(start, 1000));
        assert!(!bucket.take(at(899), 1), "900 bytes are owed");
        assert!(bucket.take(at(901), 1));
        bucket.charge(u64::MAX);
        bucket.charge(u64::MAX);
        assert!(!bucket.take(at(86_400_000), 1));
    }

    #[test]
    fn fractions_of_a_byte_are_not_lost() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(3, 1, start);
        let passed = (0..=10_000).filter(|ms| bucket.take(start + Duration::from_millis(*ms), 1)).count();
        // The burst and three a second, for ten seconds; asked every millisecond, a byte passes late by less than one.
        assert!((30..=31).contains(&passed), "{passed}");
    }

    proptest! {
        #[test]
        fn never_more_than_burst_and_rate(
            rate in 1u32..1_000_000,
            burst in 1u32..100_000,
            steps in proptest::collection::vec((0u64..2_000_000, 0u64..200_000), 1..200),
        ) {
            let start = Instant::now();
            let mut bucket = TokenBucket::new(rate, burst, start);
            let (mut now, mut passed, mut largest) = (Duration::ZERO, 0u128, 0u64);
            for (micros, bytes) in steps {
                now += Duration::from_micros(micros);
                if bucket.take(start + now, bytes) {
                    passed += u128::from(bytes);
                    largest = largest.max(bytes);
                }
                let over = u128::from(largest).saturating_sub(u128::from(burst));
                let most = u128::from(burst) + over + now.as_nanos() * u128::from(rate) / 1_000_000_000;
                prop_assert!(passed <= most, "{passed} of {most} after {now:?}");
            }
        }

        #[test]
        fn whoever_keeps_to_the_rate_loses_nothing(rate in 1u32..1_000_000, burst in 1u32..100_000, lines in 1u32..200) {
            let start = Instant::now();
            let mut bucket = TokenBucket::new(rate, burst, start);
            let bytes = u64::from(rate.min(burst));
            // A line of that length each time that the rate has earned it again.
            let pause = Duration::from_nanos(bytes * 1_000_000_000 / u64::from(rate) + 1);
            for number in 0..lines {
                prop_assert!(bucket.take(start + pause * number, bytes), "line {number}");
            }
        }
    }
}
