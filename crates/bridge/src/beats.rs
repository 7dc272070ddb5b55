//! When an enclave was heard last, and when it counts as lost. What a beat is and whose it is: not here.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use enclave_bridge_proto::loss_after;
use tokio::time::{Instant, sleep_until};

/// After the limit has passed a session is given this part of its interval to show a beat that lies in the socket:
/// a daemon that was stopped for a while wakes to find its timers expired and the beats unread.
const GRACE_DIVISOR: u32 = 20;

/// The moment of the last beat of a session; of its beginning, until there is one.
#[derive(Debug)]
pub(crate) struct LastBeat(Mutex<Instant>);

impl LastBeat {
    /// The session begins now.
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Instant::now()))
    }

    /// A whole beat has come.
    pub(crate) fn heard(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// How long ago that was.
    pub(crate) fn age(&self) -> Duration {
        self.at().elapsed()
    }

    fn at(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves once nothing was heard for the limit and the grace after it: for 1.55 intervals. Cancel-safe.
    pub(crate) async fn lost(&self, interval: Duration) {
        let mut watch = Watch::new(interval);
        while let Look::Again(at) = watch.look(self.at(), Instant::now()) {
            sleep_until(at).await;
        }
    }
}

/// Judges silence; told the time, so that a million beats are judged in a moment.
struct Watch {
    limit: Duration,
    grace: Duration,
    /// The beat whose limit was seen to be over, and until when another one may still turn up.
    graced: Option<(Instant, Instant)>,
}

enum Look {
    /// Nothing is lost before this moment.
    Again(Instant),
    Lost,
}

impl Watch {
    fn new(interval: Duration) -> Self {
        Self { limit: loss_after(interval), grace: interval / GRACE_DIVISOR, graced: None }
    }

    fn look(&mut self, last_beat: Instant, now: Instant) -> Look {
        let deadline = last_beat + self.limit;
        if now < deadline {
            return Look::Again(deadline);
        }
        match self.graced {
            Some((beat, until)) if beat == last_beat && now >= until => Look::Lost,
            Some((beat, until)) if beat == last_beat => Look::Again(until),
            // From now on, not from the deadline: a process that was stopped sees its timers late.
            _ => {
                let until = now + self.grace;
                self.graced = Some((last_beat, until));
                Look::Again(until)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    /// What the clock of the runtime rounds up to.
    const TICK: Duration = Duration::from_millis(1);

    /// A small generator (xorshift): the same jitter each time.
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, n: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % n
        }
    }

    /// Falls silent now and asserts how long it takes until that is a loss.
    async fn assert_lost_in_time(last: &LastBeat, interval: Duration) {
        let (since, limit) = (last.at(), loss_after(interval));
        last.lost(interval).await;
        let took = since.elapsed();
        assert!(took >= limit, "lost after {took:?}, before the limit of {limit:?}");
        assert!(took <= limit + limit / 10, "lost after {took:?}, more than 1.1 times the limit of {limit:?}");
    }

    /// The arrivals of so many beats, as hard as the protocol allows: a peer that beats twice an interval only, every
    /// fifth beat lost, and each of the others 0.1 to 2 s late. The longest silence is 4 + 1.9 s, the limit 6 s.
    fn jittered(beats: u64, start: Instant) -> impl Iterator<Item = Instant> {
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
        let kept = (0..beats).filter(|beat| beat % 5 != 4);
        kept.map(move |beat| start + INTERVAL / 2 * u32::try_from(beat + 1).unwrap() + late(&mut dice))
    }

    fn late(dice: &mut Dice) -> Duration {
        Duration::from_millis(100 + dice.below(1901))
    }

    const INTERVAL: Duration = Duration::from_secs(4);

    #[test]
    fn w6_a_million_jittered_beats_are_no_loss_and_silence_is_one_in_time() {
        let limit = loss_after(INTERVAL);
        let start = Instant::now();
        let mut watch = Watch::new(INTERVAL);
        let (mut last, mut look_at, mut longest) = (start, start, Duration::ZERO);
        for (number, arrival) in jittered(1_000_000, start).enumerate() {
            // The daemon looks when it said it would, and at nothing else.
            while look_at < arrival {
                let Look::Again(next) = watch.look(last, look_at) else { panic!("beat {number}: a false loss") };
                look_at = next;
            }
            longest = longest.max(arrival.saturating_duration_since(last));
            last = last.max(arrival);
            if number % 100 == 0 {
                // Silence from here on, with the clock that runs: a loss after the limit and in time.
                let mut clock = Watch { graced: watch.graced, ..Watch::new(INTERVAL) };
                let mut now = look_at;
                while let Look::Again(next) = clock.look(last, now) {
                    now = next;
                }
                let took = now - last;
                assert!(took >= limit && took <= limit + limit / 10, "lost after {took:?} of {limit:?}");
            }
        }
        assert!(longest > Duration::from_millis(5850), "the longest silence was only {longest:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn w6_the_same_with_the_timers_of_the_runtime() {
        let last = LastBeat::new();
        let beating = async {
            for arrival in jittered(10_000, Instant::now()) {
                sleep_until(arrival).await;
                last.heard();
            }
        };
        tokio::select! {
            biased;
            () = last.lost(INTERVAL) => panic!("a false loss after {:?}", last.age()),
            () = beating => {}
        }
        assert_lost_in_time(&last, INTERVAL).await;
    }

    #[tokio::test(start_paused = true)]
    async fn w4_silence_of_nine_tenths_of_the_limit_is_no_loss_and_more_is_one_in_time() {
        let mut dice = Dice(7);
        for seconds in [1, 2, 30, 3600] {
            let interval = Duration::from_secs(seconds);
            let limit = loss_after(interval);
            for _ in 0..20 {
                let last = LastBeat::new();
                let beating = async {
                    for _ in 0..10 {
                        sleep(Duration::from_secs_f64(limit.as_secs_f64() * dice.below(900) as f64 / 1000.0)).await;
                        last.heard();
                        sleep(limit * 9 / 10).await;
                        last.heard();
                    }
                };
                tokio::select! {
                    () = last.lost(interval) => panic!("lost after {:?} of {limit:?}", last.age()),
                    () = beating => {}
                }
                assert_lost_in_time(&last, interval).await;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn w5_a_beat_that_is_read_only_after_the_limit_counts() {
        // The process was stopped: its timers are over when it goes on, and the beats lie in the socket.
        let interval = Duration::from_secs(1);
        let last = LastBeat::new();
        let stopped = async {
            sleep(loss_after(interval)).await;
            sleep(interval / GRACE_DIVISOR - 2 * TICK).await;
            last.heard();
            sleep(loss_after(interval) / 2).await;
        };
        tokio::select! {
            () = last.lost(interval) => panic!("the beat that waited was not looked at"),
            () = stopped => {}
        }
        assert_lost_in_time(&last, interval).await;
    }
}
