//! Waiting for something to become true, within a bound that is generous on purpose.

use std::time::{Duration, Instant};

/// How long a test waits for what should happen at once. Thirty seconds: an emulated guest on a
/// loaded machine with two cores, never a promise.
pub const SOON: Duration = Duration::from_secs(30);

/// How often a condition is looked at. Short beside everything that a test measures.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Waits until `look` gives a value; fails the test with `what` when `within` is over.
pub fn until_some<T>(what: &str, within: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {within:?} for {what}");
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Waits until `look` is true; fails the test with `what` when `within` is over.
pub fn until(what: &str, within: Duration, mut look: impl FnMut() -> bool) {
    until_some(what, within, || look().then_some(()));
}

/// Whether `look` becomes true before `within` is over, for a test that has more to say when it does not.
#[must_use]
pub fn becomes(within: Duration, mut look: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + within;
    loop {
        if look() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}
