//! How soon to try again. Pure: the instant is given, only the jitter is drawn.

use std::time::Duration;

use tokio::time::Instant;

/// Where nobody listens an attempt costs both sides next to nothing, and the session has to be back within 2 s of the
/// bridge's return: the pauses grow from 10 ms to 250 ms.
const ABSENT: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(250));

/// A refusal is a decision; asking again helps only when the operator or another enclave has changed something.
const REFUSED: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// The pause before using one of the attempts that are at hand.
const BROKEN_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(50));

/// A bridge that accepts and then breaks the connection costs it a whole connection each time: this many attempts
/// in a burst (a restart needs one or two), then one a second.
const BROKEN_BURST: u32 = 8;
const BROKEN_EVERY: Duration = Duration::from_secs(1);

/// A session that worked and then broke is most likely a bridge that was started again, so it is asked soon. One that
/// does so again and again within [`SETTLED_AFTER`] is asked twice a second, which keeps the return within 2 s.
const WORKED: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
const SETTLED_AFTER: Duration = Duration::from_secs(5);

/// The pauses between attempts to reach the bridge.
#[derive(Debug)]
pub(crate) struct Pace {
    absent: u32,
    refused: u32,
    worked: u32,
    /// When the burst would be whole again: each broken connection moves it on by [`BROKEN_EVERY`].
    whole_at: Option<Instant>,
}

impl Pace {
    pub(crate) fn new() -> Self {
        Self { absent: 0, refused: 0, worked: 0, whole_at: None }
    }

    /// Nobody listened.
    pub(crate) fn absent(&mut self) -> Duration {
        let pause = grown(ABSENT, self.absent);
        self.absent = self.absent.saturating_add(1);
        jittered(pause)
    }

    /// Somebody accepted, and the connection then broke.
    pub(crate) fn broken(&mut self, now: Instant) -> Duration {
        let whole_at = self.whole_at.map_or(now, |at| at.max(now)) + BROKEN_EVERY;
        self.whole_at = Some(whole_at);
        let at_hand = BROKEN_EVERY * BROKEN_BURST;
        let wait = whole_at.saturating_duration_since(now).saturating_sub(at_hand);
        let (shortest, longest) = BROKEN_PAUSE;
        wait + shortest + (longest - shortest).mul_f64(random())
    }

    /// A connection on which the bridge had beaten broke after so long. The burst is whole again: this bridge does more
    /// than accept.
    pub(crate) fn worked(&mut self, lived: Duration) -> Duration {
        self.whole_at = None;
        self.worked = if lived >= SETTLED_AFTER { 0 } else { self.worked.saturating_add(1) };
        jittered(grown(WORKED, self.worked))
    }

    /// The bridge said no.
    pub(crate) fn refused(&mut self) -> Duration {
        let pause = grown(REFUSED, self.refused);
        self.refused = self.refused.saturating_add(1);
        jittered(pause)
    }

    /// A session stands. What broken connections have used up is not forgiven: a bridge may grant and break.
    pub(crate) fn granted(&mut self) {
        self.absent = 0;
        self.refused = 0;
    }
}

fn grown((first, longest): (Duration, Duration), attempts: u32) -> Duration {
    first.saturating_mul(2_u32.saturating_pow(attempts.min(16))).min(longest)
}

/// From half of the pause to all of it, so that many enclaves do not come at the same moment.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + random() / 2.0)
}

/// From 0 to 1; the middle where the system gives no random bytes, for a pause needs no secret.
fn random() -> f64 {
    let mut bytes = [0; 2];
    if getrandom::fill(&mut bytes).is_err() {
        return 0.5;
    }
    f64::from(u16::from_le_bytes(bytes)) / f64::from(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_bridge_is_asked_four_times_a_second_at_least() {
        let mut pace = Pace::new();
        assert!(pace.absent() <= Duration::from_millis(10));
        for _ in 0..100 {
            assert!(pace.absent() <= Duration::from_millis(250));
        }
        assert!(pace.absent() >= Duration::from_millis(125));
    }

    #[test]
    fn w9_a_bridge_that_breaks_every_connection_sees_one_a_second_after_the_burst() {
        let mut pace = Pace::new();
        let start = Instant::now();
        let mut now = start;
        let mut attempts = Vec::new();
        while now - start < Duration::from_secs(60) {
            now += pace.broken(now);
            attempts.push(now - start);
            pace.granted();
        }
        let after_the_ramp = attempts.iter().filter(|at| at.as_secs() >= 2).count();
        assert!((50..=60).contains(&after_the_ramp), "{after_the_ramp} in 58 s");
        for second in 2..59 {
            let count = attempts.iter().filter(|at| at.as_secs() == second).count();
            assert!(count <= 2, "{count} in second {second}");
        }
    }

    #[test]
    fn a_quiet_time_restores_the_burst() {
        let mut pace = Pace::new();
        let mut now = Instant::now();
        for _ in 0..20 {
            pace.broken(now);
        }
        assert!(pace.broken(now) > Duration::from_secs(5));
        now += Duration::from_secs(30);
        assert!(pace.broken(now) <= Duration::from_millis(50));
    }

    #[test]
    fn a_bridge_that_is_restarted_again_and_again_is_asked_twice_a_second() {
        let mut pace = Pace::new();
        let now = Instant::now();
        for _ in 0..50 {
            let pause = pace.worked(Duration::from_millis(10)) + pace.broken(now);
            assert!(pause <= Duration::from_millis(550), "{pause:?}");
        }
        assert!(pace.worked(Duration::from_millis(10)) >= Duration::from_millis(250));
        assert!(pace.worked(Duration::from_secs(5)) <= Duration::from_millis(20));
    }

    #[test]
    fn h13_refusals_are_asked_again_within_five_seconds() {
        let mut pace = Pace::new();
        let pauses: Vec<_> = (0..20).map(|_| pace.refused()).collect();
        assert!(pauses.iter().all(|pause| *pause <= Duration::from_secs(5)));
        assert!(pauses.last().unwrap() >= &Duration::from_millis(2500));
    }
}
