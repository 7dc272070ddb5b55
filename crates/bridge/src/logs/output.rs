//! The bounded queue before standard output, and the one thread that writes it.
//!
//! A stalled or closed standard output stops nothing but this thread: lines wait up to the queue's bound, then a
//! log connection waits a moment for room, then lines are dropped and counted. Received = printed + dropped.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::metrics::{LogCounters, LogDrop};

/// How much the writer hands to one write call: enough that ten million lines cost few calls.
const BATCH_BYTES: usize = 64 * 1024;

/// Pause after a failed write, so that a closed standard output under a stream of lines costs no processor time.
const FAILURE_PAUSE: Duration = Duration::from_millis(50);

/// Accepts lines for standard output.
#[derive(Clone)]
pub(crate) struct Output(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// There is something to write, or the end has come.
    filled: Condvar,
    /// There is room again.
    drained: Notify,
    /// Everything was written (for [`Output::finish`]).
    emptied: Condvar,
    capacity: usize,
    stall: Duration,
    counters: Arc<LogCounters>,
}

struct State {
    lines: VecDeque<String>,
    bytes: usize,
    writing: bool,
    closed: bool,
    /// When a write last succeeded or there was nothing to write.
    progress: Instant,
}

impl Output {
    /// Starts the writer thread over `sink`. `capacity` bounds the queue in bytes; `stall` is how long a line waits
    /// for room behind a sink that does not move.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub(crate) fn start(
        sink: impl Write + Send + 'static,
        capacity: usize,
        stall: Duration,
        counters: Arc<LogCounters>,
    ) -> io::Result<Self> {
        let state = State { lines: VecDeque::new(), bytes: 0, writing: false, closed: false, progress: Instant::now() };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            filled: Condvar::new(),
            drained: Notify::new(),
            emptied: Condvar::new(),
            capacity,
            stall,
            counters,
        });
        let writer = Arc::clone(&shared);
        std::thread::Builder::new().name("log-writer".into()).spawn(move || writer.write_all_to(sink))?;
        Ok(Self(shared))
    }

    /// Queues one line (without its newline); waits for room as long as the sink moves, and drops the line when the
    /// sink has stood still for the stall time.
    pub(crate) async fn print(&self, line: String) {
        let shared = &self.0;
        let mut line = Some(line);
        loop {
            let room = shared.drained.notified();
            tokio::pin!(room);
            // Registered before the look, so that room made in between is not missed.
            room.as_mut().enable();
            let Some(patience) = shared.try_queue(&mut line) else { return };
            if patience.is_zero() || tokio::time::timeout(patience, room).await.is_err() && shared.is_stalled() {
                // The newest goes: what was promised a place keeps it.
                return shared.counters.dropped.count(LogDrop::Stalled);
            }
        }
    }

    /// Takes no more lines and waits at most `limit` until the queued ones are written. What is left is dropped.
    pub(crate) fn finish(&self, limit: Duration) {
        let shared = &self.0;
        let mut state = shared.lock();
        state.closed = true;
        shared.filled.notify_all();
        let deadline = Instant::now() + limit;
        while state.writing || !state.lines.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = shared.emptied.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let left = state.lines.len() as u64;
        state.lines.clear();
        shared.counters.dropped.add(LogDrop::End, left);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic of another thread leaves a queue that is whole: every change below is complete when it is visible.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` once the line was queued (or dropped because the end has come); else how long to wait for room.
    fn try_queue(&self, line: &mut Option<String>) -> Option<Duration> {
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
            state.lines.extend(line.take());
            self.filled.notify_one();
            return None;
        }
        Some(self.stall.saturating_sub(state.progress.elapsed()))
    }

    fn is_stalled(&self) -> bool {
        self.lock().progress.elapsed() >= self.stall
    }

    fn write_all_to(&self, mut sink: impl Write) {
        let mut torn = false;
        let mut batch = Vec::new();
        while let Some(lines) = self.next_batch(&mut batch) {
            let mut written = 0;
            let result = write_counting(&mut sink, &batch, torn, &mut written);
            // A line counts as printed when its newline is out; one that is torn off is ended before the next.
            let printed = batch.get(..written).map_or(0, |out| out.iter().filter(|b| **b == b'\n').count() as u64);
            self.counters.printed.fetch_add(printed, Ordering::Relaxed);
            self.counters.dropped.add(LogDrop::Failed, lines.saturating_sub(printed));
            torn = match written.checked_sub(1) {
                Some(last) => batch.get(last) != Some(&b'\n'),
                None => torn,
            };
            self.batch_done(batch.len());
            if result.is_err() {
                std::thread::sleep(FAILURE_PAUSE);
            }
        }
    }

    /// Waits for lines and moves some of them into `batch`; how many, or `None` at the end.
    fn next_batch(&self, batch: &mut Vec<u8>) -> Option<u64> {
        let mut state = self.lock();
        while state.lines.is_empty() {
            if state.closed {
                return None;
            }
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        batch.clear();
        let mut lines = 0u64;
        while batch.len() < BATCH_BYTES {
            let Some(line) = state.lines.pop_front() else { break };
            batch.extend_from_slice(line.as_bytes());
            batch.push(b'\n');
            lines = lines.saturating_add(1);
        }
        state.writing = true;
        Some(lines)
    }

    fn batch_done(&self, bytes: usize) {
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
}

/// Writes a batch and counts the bytes that got out, also when it fails in the middle.
fn write_counting(sink: &mut impl Write, batch: &[u8], torn: bool, written: &mut usize) -> io::Result<()> {
    if torn {
        sink.write_all(b"\n")?;
    }
    while let Some(rest) = batch.get(*written..).filter(|rest| !rest.is_empty()) {
        match sink.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => *written = written.saturating_add(n),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    sink.flush()
}

/// Standard output as a blocking sink without a buffer of its own, also where it was made non-blocking by whoever
/// shares it with us.
pub(crate) struct Stdout(std::fs::File);

impl Stdout {
    /// A duplicate of the process's standard output.
    ///
    /// # Errors
    /// If the descriptor cannot be duplicated.
    pub(crate) fn duplicate() -> io::Result<Self> {
        use std::os::fd::AsFd;
        Ok(Self(io::stdout().as_fd().try_clone_to_owned()?.into()))
    }
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        use std::os::fd::AsFd;

        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        loop {
            match self.0.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE)?;
                }
                result => return result,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    const STALL: Duration = Duration::from_millis(50);

    fn counts(c: &LogCounters) -> (u64, u64) {
        (c.printed.load(Ordering::Relaxed), c.dropped.sum())
    }

    /// A sink that fails every second write after half of it.
    struct Torn(Arc<Mutex<Vec<u8>>>, bool);
    impl Write for Torn {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if !self.1 {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let half = bytes.len().div_ceil(2);
            self.0.lock().unwrap().extend_from_slice(&bytes[..half]);
            Ok(half)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn every_line_is_printed_in_order_when_the_sink_moves() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let counters = Arc::new(LogCounters::default());
        // A queue of a few lines and a long patience: back-pressure, no loss.
        let output = Output::start(ours, 1000, Duration::from_secs(30), Arc::clone(&counters)).unwrap();
        let reader = std::thread::spawn(move || io::read_to_string(theirs).unwrap());
        let expected: String = (0..20_000).map(|i| format!("line {i}\n")).collect();
        for line in expected.lines() {
            output.print(line.to_owned()).await;
        }
        output.finish(Duration::from_secs(30));
        drop(output);
        assert_eq!(counts(&counters), (20_000, 0));
        assert_eq!(reader.join().unwrap(), expected);
    }

    #[tokio::test]
    async fn a_stalled_sink_costs_lines_that_are_counted_exactly() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let counters = Arc::new(LogCounters::default());
        let output = Output::start(ours, 10_000, STALL, Arc::clone(&counters)).unwrap();
        let total = 50_000u64;
        for i in 0..total {
            output.print(format!("{i:060}")).await;
        }
        let (_, dropped) = counts(&counters);
        assert!(dropped > 0, "nobody reads: the queue and the socket buffer cannot hold everything");
        let reader = std::thread::spawn(move || io::read_to_string(theirs).unwrap());
        output.finish(Duration::from_secs(30));
        drop(output);
        let (printed, dropped) = counts(&counters);
        assert_eq!(printed + dropped, total);
        let text = reader.join().unwrap();
        assert_eq!(text.lines().count() as u64, printed);
        assert!(text.lines().all(|l| l.len() == 60), "whole lines only");
    }

    #[tokio::test]
    async fn a_failing_sink_loses_lines_but_never_joins_two() {
        let out = Arc::new(Mutex::new(Vec::new()));
        let counters = Arc::new(LogCounters::default());
        let output = Output::start(Torn(Arc::clone(&out), false), 1 << 20, STALL, Arc::clone(&counters)).unwrap();
        for i in 0..20 {
            output.print(format!("<{i}>")).await;
        }
        output.finish(Duration::from_secs(30));
        let (printed, dropped) = counts(&counters);
        assert_eq!(printed + dropped, 20);
        let text = String::from_utf8(out.lock().unwrap().clone()).unwrap();
        assert!(text.lines().all(|l| l.matches('<').count() <= 1), "{text:?}");
    }

    #[tokio::test]
    async fn the_end_is_not_held_up_by_a_stalled_sink() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let counters = Arc::new(LogCounters::default());
        let output = Output::start(ours, 1 << 20, STALL, Arc::clone(&counters)).unwrap();
        for _ in 0..10_000 {
            output.print("x".repeat(100)).await;
        }
        output.finish(Duration::from_millis(20));
        let (printed, dropped) = counts(&counters);
        assert!(dropped > 0 && printed + dropped <= 10_000);
        output.print("late".into()).await;
        assert_eq!(counts(&counters).1, dropped + 1);
    }
}
