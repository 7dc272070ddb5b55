//! Between two faults the traffic pauses, and the bridge is looked at: what it holds must be what it held before the first.

use super::stage::Stage;
use super::traffic::Traffic;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How long traffic may take to pause: a stream whose readers stalled for ten seconds, and some.
const PAUSE: Duration = Duration::from_secs(75);

/// How long what was closed may take to be gone.
const SETTLE: Duration = Duration::from_secs(10);

/// How often it is looked at, and how many looks have to agree.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const STAYS: u32 = 10;

/// What the bridge held at a rest.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rest {
    at: Duration,
    pub(super) resident_kib: u64,
    /// Without two for each open stream.
    pub(super) descriptors: i64,
    /// Without one for each.
    pub(super) tasks: i64,
    /// Whether these are what they were at the first rest.
    pub(super) is_level: bool,
}

/// What came of the samples of memory.
pub(super) struct Memory {
    pub(super) span: Duration,
    pub(super) growth_kib: f64,
    pub(super) mib_per_hour: f64,
}

/// Pauses the traffic, waits until what it held is given back, and looks.
pub(super) fn take(stage: &mut Stage, traffic: &Traffic, at: Duration) -> Rest {
    static FIRST: OnceLock<(i64, i64)> = OnceLock::new();
    if let Err(wrong) = traffic.pause(PAUSE) {
        stage.ground.account.wrong(wrong);
    }
    let deadline = Instant::now() + SETTLE;
    let (mut last, mut alike) = ((0, 0), 0);
    let rest = loop {
        let found = look(stage);
        alike = if found == last { alike + 1 } else { 0 };
        last = found;
        // A lasting stream may begin or end between two looks at it: only what stays counts. The first rest is the one
        // that all others are compared with.
        let stays = alike >= STAYS;
        let is_level = FIRST.get().is_none_or(|first| *first == found);
        if (stays && is_level) || Instant::now() > deadline {
            FIRST.get_or_init(|| found);
            let (descriptors, tasks) = found;
            break Rest { at, resident_kib: stage.bridge.resident_kib(), descriptors, tasks, is_level };
        }
        std::thread::sleep(LOOK_EVERY);
    };
    traffic.go_on();
    rest
}

/// Descriptors and tasks without those of open streams. Descriptors are counted before anything is asked of the monitoring: the
/// connection of a question is one more, for as long as a busy machine takes to close it behind the answer.
#[expect(clippy::cast_possible_wrap, reason = "a count of descriptors")]
fn look(stage: &Stage) -> (i64, i64) {
    let metric = |name: &str| stage.bridge.metric(name).unwrap_or(-1.0) as i64;
    let descriptors = stage.bridge.descriptors() as i64;
    let streams = metric("enclave_bridge_streams");
    (descriptors - 2 * streams, metric("enclave_bridge_tasks") - streams)
}

impl Rest {
    /// In a line.
    pub(super) fn line(&self) -> String {
        let Rest { resident_kib, descriptors, tasks, .. } = self;
        let level = if self.is_level { "" } else { ", NOT as at the first rest" };
        format!("{:>6} s  rest: {resident_kib} KiB, {descriptors} descriptors, {tasks} tasks{level}", self.at.as_secs())
    }
}

/// The line of least squares.
#[expect(clippy::cast_precision_loss, reason = "KiB and seconds are far below 2^52")]
pub(super) fn memory(judged: &[Rest]) -> Memory {
    let point = |rest: &Rest| (rest.at.as_secs_f64(), rest.resident_kib as f64);
    let count = judged.len().max(1) as f64;
    let sum = |of: &dyn Fn(f64, f64) -> f64| {
        judged
            .iter()
            .map(|rest| {
                let (x, y) = point(rest);
                of(x, y)
            })
            .sum::<f64>()
    };
    let (mean_x, mean_y) = (sum(&|x, _| x) / count, sum(&|_, y| y) / count);
    let spread = sum(&|x, _| (x - mean_x).powi(2));
    let slope = if spread > 0.0 { sum(&|x, y| (x - mean_x) * (y - mean_y)) / spread } else { 0.0 };
    let span = match (judged.first(), judged.last()) {
        (Some(first), Some(last)) => last.at - first.at,
        _ => Duration::ZERO,
    };
    Memory { span, growth_kib: slope * span.as_secs_f64(), mib_per_hour: slope * 3600.0 / 1024.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rest(at: u64, resident_kib: u64) -> Rest {
        Rest { at: Duration::from_secs(at), resident_kib, descriptors: 0, tasks: 0, is_level: true }
    }

    #[test]
    fn growth_is_that_of_the_line() {
        let rests: Vec<Rest> = (0..6).map(|n| rest(n * 30, 5000 + n * 10)).collect();
        let memory = memory(&rests);
        assert_eq!(memory.span, Duration::from_secs(150));
        assert!((memory.growth_kib - 50.0).abs() < 0.001, "{}", memory.growth_kib);
        assert!((memory.mib_per_hour - 1200.0 / 1024.0).abs() < 0.001, "{}", memory.mib_per_hour);
    }

    #[test]
    fn no_sample_is_no_growth() {
        assert!(memory(&[]).growth_kib.abs() < f64::EPSILON);
        assert!(memory(&[rest(1, 5)]).growth_kib.abs() < f64::EPSILON);
    }
}
