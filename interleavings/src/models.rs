//! The models: a few threads, a few steps each, and what must hold in every order of them.

use std::time::Duration;

use loom::future::block_on;
use loom::model::Builder;
use loom::thread;

use crate::metrics::LogCounters;
use crate::queue::Queue;
use crate::quiet::OncePerSecond;
use crate::streams::{Direction, Streams};
use crate::sync::{Arc, AtomicUsize, Ordering};
use crate::tasks::Tasks;

/// Switches from a thread that could have gone on, in one order. Loom's authors find two or three to be enough for almost every
/// fault; each more takes several times as long, and without a bound the queue's model would take hours.
const PREEMPTIONS: usize = 2;

/// Longer than any model lasts: loom has no time.
const NEVER: Duration = Duration::from_secs(3600);

fn every_order(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS);
    builder.check(model);
}

/// Two threads bring lines, a third writes them, and the end comes at some moment: each line was printed once, in the order of
/// its thread, or is counted as dropped. One line finds no room in some of the orders.
pub fn printed_and_dropped_lines_are_all_lines() {
    every_order(|| {
        let counters = Arc::new(LogCounters::default());
        // Room for two lines of two bytes and their newlines.
        let queue = Arc::new(Queue::new(6, NEVER, Arc::clone(&counters)));
        let writer = thread::spawn({
            let queue = Arc::clone(&queue);
            move || {
                let (mut out, mut batch) = (Vec::new(), Vec::new());
                while let Some(lines) = queue.next_batch(&mut batch) {
                    out.extend_from_slice(&batch);
                    queue.batch_done(lines, lines, batch.len());
                }
                out
            }
        });
        let bring = |lines: &'static [&'static str]| {
            let queue = Arc::clone(&queue);
            move || {
                for line in lines {
                    if queue.try_queue(&mut Some((*line).to_owned())).is_some() {
                        queue.give_up();
                    }
                }
            }
        };
        let other = thread::spawn(bring(&["b1"]));
        bring(&["a1", "a2"])();
        queue.finish(NEVER);
        // What was queued before the end is out and counted when the end has come.
        let at_end = counters.printed.load(Ordering::Relaxed);
        joined(other);
        let out = joined(writer);
        let lines: Vec<_> = out.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
        assert_eq!(counters.printed.load(Ordering::Relaxed), at_end, "nothing is printed after the end");
        assert_eq!(at_end, lines.len() as u64);
        assert_eq!(at_end + counters.dropped.all(), 3);
        let of_a: Vec<_> = lines.iter().filter(|line| line.starts_with(b"a")).collect();
        assert!(of_a.is_sorted() && of_a.windows(2).all(|two| two.first() != two.last()));
    });
}

/// A sink that takes half of what it is given and then fails: the other half is dropped and counted.
pub fn lines_of_a_failing_sink_are_counted() {
    every_order(|| {
        let counters = Arc::new(LogCounters::default());
        let queue = Arc::new(Queue::new(100, NEVER, Arc::clone(&counters)));
        let writer = thread::spawn({
            let queue = Arc::clone(&queue);
            move || {
                let mut batch = Vec::new();
                while let Some(lines) = queue.next_batch(&mut batch) {
                    queue.batch_done(lines, lines / 2, batch.len());
                }
            }
        });
        let brought = ["1", "2", "3"].map(|line| queue.try_queue(&mut Some(line.to_owned())));
        assert!(brought.iter().all(Option::is_none), "there is room");
        queue.finish(NEVER);
        joined(writer);
        assert_eq!(counters.printed.load(Ordering::Relaxed) + counters.dropped.all(), 3);
    });
}

/// Two threads ask for the one stream that is allowed: never two at once, one of them at least gets it, and whoever waits for
/// the last to end is woken.
pub fn streams_stay_within_their_limit_and_the_last_end_is_seen() {
    every_order(|| {
        let (streams, held) = (Streams::new(1), Arc::new(AtomicUsize::new(0)));
        let open = |direction| {
            let (streams, held) = (streams.clone(), Arc::clone(&held));
            move || {
                let Some(permit) = streams.admit(direction) else { return false };
                assert_eq!(held.fetch_add(1, Ordering::AcqRel), 0, "more streams than are allowed");
                held.fetch_sub(1, Ordering::AcqRel);
                drop(permit);
                true
            }
        };
        let (one, two) = (thread::spawn(open(Direction::Ingress)), thread::spawn(open(Direction::Egress)));
        block_on(streams.idle());
        let opened = [joined(one), joined(two)];
        assert!(opened.contains(&true), "nobody found room");
        assert_eq!(
            (streams.active(), streams.active_in(Direction::Ingress), streams.active_in(Direction::Egress)),
            (0, 0, 0)
        );
    });
}

/// Tasks end while somebody waits for the last: the wait ends, and not before.
pub fn joining_waits_for_the_last_task() {
    every_order(|| {
        let (tasks, ended) = (Arc::new(Tasks::new()), Arc::new(AtomicUsize::new(0)));
        tasks.enter();
        tasks.enter();
        let end = || {
            let (tasks, ended) = (Arc::clone(&tasks), Arc::clone(&ended));
            move || {
                ended.fetch_add(1, Ordering::Relaxed);
                tasks.leave();
            }
        };
        let (one, two) = (thread::spawn(end()), thread::spawn(end()));
        block_on(tasks.none());
        assert_eq!(ended.load(Ordering::Relaxed), 2, "what a task did before its end is seen by who waited for it");
        joined(one);
        joined(two);
    });
}

/// However many ask at one moment, one may speak; a second later one more.
pub fn one_of_many_is_let_through_each_second() {
    every_order(|| {
        let quiet = Arc::new(OncePerSecond::default());
        let ask = |at| {
            let quiet = Arc::clone(&quiet);
            move || usize::from(quiet.allows_at(Duration::from_millis(at)))
        };
        let (one, two) = (thread::spawn(ask(0)), thread::spawn(ask(1)));
        let third = ask(2)();
        let allowed = third + joined(one) + joined(two);
        assert_eq!(allowed, 1);
        assert_eq!(ask(1500)(), 1);
    });
}

/// What the thread gave; its panic is passed on.
fn joined<T>(thread: thread::JoinHandle<T>) -> T {
    match thread.join() {
        Ok(given) => given,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}
