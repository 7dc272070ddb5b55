//! The lines that wait for standard output: queued, taken, written and dropped, and counted as they are, under one lock. Who
//! waits for room and for how long, and the writing itself, is in [`super::output`].

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::blocks::Blocks;
use crate::metrics::{LogCounters, LogDrop};
use crate::sync::{Arc, Condvar, Mutex, MutexGuard, Notify, Ordering};

/// Lines between those that bring them and one writer. Every line that was given to it is in the end printed or dropped.
pub(crate) struct Queue {
    state: Mutex<State>,
    /// There is something to write, or the end has come.
    filled: Condvar,
    /// There is room again.
    pub(crate) drained: Notify,
    /// Everything was written (for [`Queue::finish`]).
    emptied: Condvar,
    capacity: usize,
    stall: Duration,
    counters: Arc<LogCounters>,
}

struct State {
    lines: Blocks,
    /// Of the lines that wait and of those that are being written.
    bytes: usize,
    writing: bool,
    closed: bool,
    /// When a write last succeeded or there was nothing to write.
    progress: Instant,
}

impl Queue {
    /// At most `capacity` bytes wait (or one line that is longer); `stall` is how long a line waits for room behind a
    /// writer that does not move.
    pub(crate) fn new(capacity: usize, stall: Duration, counters: Arc<LogCounters>) -> Self {
        let state =
            State { lines: Blocks::default(), bytes: 0, writing: false, closed: false, progress: Instant::now() };
        Self {
            state: Mutex::new(state),
            filled: Condvar::new(),
            drained: Notify::new(),
            emptied: Condvar::new(),
            capacity,
            stall,
            counters,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic of another thread leaves a queue that is whole: every change below is complete when it is visible.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` once the line was queued (or dropped because the end has come); else how long to wait for room.
    pub(crate) fn try_queue(&self, line: &mut Option<String>) -> Option<Duration> {
        let mut state = self.lock();
        let length = line.as_ref().map_or(0, |l| l.len().saturating_add(1));
        if state.closed {
            self.counters.dropped.count(LogDrop::End);
            return None;
        }
        if state.bytes == 0 || state.bytes.saturating_add(length) <= self.capacity {
            if state.bytes == 0 && !state.writing {
                state.progress = Instant::now();
            }
            state.bytes = state.bytes.saturating_add(length);
            if let Some(line) = line.take() {
                state.lines.push(&line);
            }
            self.filled.notify_one();
            return None;
        }
        Some(self.stall.saturating_sub(state.progress.elapsed()))
    }

    pub(crate) fn is_stalled(&self) -> bool {
        self.lock().progress.elapsed() >= self.stall
    }

    /// A line that found no room is let go: the newest goes, what was promised a place keeps it.
    pub(crate) fn give_up(&self) {
        self.counters.dropped.count(LogDrop::Stalled);
    }

    /// Waits for lines and puts some of them into `batch`, whose own bytes are done with; how many, or `None` at the end.
    pub(crate) fn next_batch(&self, batch: &mut Vec<u8>) -> Option<u64> {
        let surplus = self.lock().lines.give_back(std::mem::take(batch));
        // Releasing memory may take a call of the system: not under the lock.
        drop(surplus);
        let mut state = self.lock();
        let lines = loop {
            if let Some((bytes, lines)) = state.lines.take() {
                *batch = bytes;
                break lines;
            }
            if state.closed {
                return None;
            }
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        };
        state.writing = true;
        Some(lines)
    }

    /// The batch that was taken last is out, or as much of it as will ever be: `printed` of its lines.
    pub(crate) fn batch_done(&self, lines: u64, printed: u64, bytes: usize) {
        self.counters.printed.fetch_add(printed, Ordering::Relaxed);
        self.counters.dropped.add(LogDrop::Failed, lines.saturating_sub(printed));
        let mut state = self.lock();
        state.writing = false;
        state.bytes = state.bytes.saturating_sub(bytes);
        state.progress = Instant::now();
        if state.lines.is_empty() {
            self.emptied.notify_all();
        }
        drop(state);
        self.drained.notify_waiters();
    }

    /// Takes no more lines and waits at most `limit` until the queued ones are written. What is left is dropped.
    pub(crate) fn finish(&self, limit: Duration) {
        let mut state = self.lock();
        state.closed = true;
        self.filled.notify_all();
        let deadline = Instant::now() + limit;
        while state.writing || !state.lines.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.emptied.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let left = state.lines.clear();
        self.counters.dropped.add(LogDrop::End, left);
    }
}
