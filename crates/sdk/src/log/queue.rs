//! The lines that wait to be sent: bounded in bytes, never waited for by the program.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::log::line;

/// Lines that are taken together go out in one write; vsock writes end at 32 KiB.
const BATCH_MAX_BYTES: usize = 32 * 1024;

/// The lock is held for a push or a take, never across anything that waits.
#[derive(Debug)]
pub(crate) struct Queue {
    state: Mutex<State>,
    max_bytes: usize,
    wake: Notify,
    stopped: Notify,
    empty: Condvar,
}

#[derive(Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// The sender holds lines that are not out yet.
    sending: bool,
    closed: bool,
    /// Dropped since the last report.
    unreported: u64,
    dropped: u64,
}

/// Shows how many lines there are, never which.
impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lines = self.lines.len();
        f.debug_struct("State").field("lines", &lines).field("dropped", &self.dropped).finish_non_exhaustive()
    }
}

impl Queue {
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self { state: Mutex::default(), max_bytes, wake: Notify::new(), stopped: Notify::new(), empty: Condvar::new() }
    }

    /// Appends a line, or counts it where there is no room.
    pub(crate) fn push(&self, line: Vec<u8>) {
        let mut state = self.lock();
        if state.closed {
            return;
        }
        // A report stands where the gap is: before the first line that found room again.
        let report = (state.unreported > 0).then(|| line::dropped_report(state.unreported));
        let needed = line.len() + report.as_ref().map_or(0, Vec::len);
        if state.bytes + needed > self.max_bytes {
            state.unreported += 1;
            state.dropped += 1;
            return;
        }
        if let Some(report) = report {
            state.unreported = 0;
            state.append(report);
        }
        state.append(line);
        drop(state);
        self.wake.notify_one();
    }

    /// The next lines in one piece; waits for them. [`Queue::sent`] says that they are out.
    pub(crate) async fn take(&self) -> Vec<u8> {
        loop {
            let batch = self.lock().take();
            match batch {
                Some(batch) => return batch,
                None => self.wake.notified().await,
            }
        }
    }

    /// What was taken is out.
    pub(crate) fn sent(&self) {
        let mut state = self.lock();
        state.sending = false;
        if state.is_empty() {
            self.empty.notify_all();
        }
    }

    /// Takes no more lines; what is there still goes out.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
    }

    /// Ends the sender, whatever is left.
    pub(crate) fn stop(&self) {
        self.stopped.notify_one();
    }

    pub(crate) async fn stopped(&self) {
        self.stopped.notified().await;
    }

    pub(crate) fn wait_until_empty(&self, limit: Duration) -> bool {
        let waited = self.empty.wait_timeout_while(self.lock(), limit, |state| !state.is_empty());
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.is_empty()
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics; should a line's formatting ever do so, the queue is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn append(&mut self, line: Vec<u8>) {
        self.bytes += line.len();
        self.lines.push_back(line);
    }

    fn take(&mut self) -> Option<Vec<u8>> {
        let mut batch = Vec::new();
        while let Some(line) = self.lines.front() {
            if !batch.is_empty() && batch.len() + line.len() > BATCH_MAX_BYTES {
                break;
            }
            batch.extend_from_slice(line);
            self.bytes -= line.len();
            self.lines.pop_front();
        }
        if self.lines.is_empty() && self.unreported > 0 {
            batch.extend(line::dropped_report(self.unreported));
            self.unreported = 0;
        }
        if batch.is_empty() {
            return None;
        }
        self.sending = true;
        Some(batch)
    }

    fn is_empty(&self) -> bool {
        self.lines.is_empty() && !self.sending && self.unreported == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reported(bytes: &[u8]) -> (u64, u64) {
        let mut lines = 0;
        let mut dropped = 0;
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            match serde_json::from_slice::<serde_json::Value>(line).unwrap().get("dropped") {
                Some(count) => dropped += count.as_u64().unwrap(),
                None => lines += 1,
            }
        }
        (lines, dropped)
    }

    #[tokio::test]
    async fn what_is_sent_and_what_is_dropped_make_up_what_was_pushed() {
        let queue = Queue::new(300);
        let mut sent = Vec::new();
        for count in 0_u32..500 {
            queue.push(format!("{{\"n\":{count}}}\n").into_bytes());
            if count % 97 == 0 {
                sent.extend(queue.take().await);
                queue.sent();
            }
        }
        while !queue.wait_until_empty(Duration::ZERO) {
            sent.extend(queue.take().await);
            queue.sent();
        }
        let (lines, dropped) = reported(&sent);
        assert_eq!(lines + dropped, 500);
        assert_eq!(dropped, queue.dropped());
        assert!(dropped > 0 && lines > 100, "{lines} {dropped}");
    }

    #[tokio::test]
    async fn the_buffer_holds_no_more_than_its_bytes() {
        let queue = Queue::new(100);
        for _ in 0..50 {
            queue.push(vec![b'x'; 30]);
        }
        assert_eq!(queue.lock().bytes, 90);
        assert_eq!(queue.dropped(), 47);
        queue.close();
        queue.push(vec![b'x'; 1]);
        assert_eq!(queue.dropped(), 47, "after the close lines are let go uncounted");
    }
}
