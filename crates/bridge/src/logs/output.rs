//! The bounded queue before standard output, and the one thread that writes it.
//!
//! A stalled or closed standard output stops nothing but this thread: lines wait up to the queue's bound, then a
//! log connection waits a moment for room, then lines are dropped and counted. Received = printed + dropped.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use super::queue::Queue;
use crate::metrics::LogCounters;

/// Pause after a failed write, so that a closed standard output under a stream of lines costs no processor time.
const FAILURE_PAUSE: Duration = Duration::from_millis(50);

/// Accepts lines for standard output.
#[derive(Clone)]
pub(crate) struct Output(Arc<Queue>);

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
        let queue = Arc::new(Queue::new(capacity, stall, counters));
        let writer = Arc::clone(&queue);
        std::thread::Builder::new().name("log-writer".into()).spawn(move || write_all_to(&writer, sink))?;
        Ok(Self(queue))
    }

    /// Queues one line (without its newline); waits for room as long as the sink moves, and drops the line when the
    /// sink has stood still for the stall time.
    pub(crate) async fn print(&self, line: String) {
        let queue = &self.0;
        let mut line = Some(line);
        loop {
            let room = queue.drained.notified();
            tokio::pin!(room);
            // Registered before the look, so that room made in between is not missed.
            room.as_mut().enable();
            let Some(patience) = queue.try_queue(&mut line) else { return };
            if patience.is_zero() || tokio::time::timeout(patience, room).await.is_err() && queue.is_stalled() {
                return queue.give_up();
            }
        }
    }

    /// Takes no more lines and waits at most `limit` until the queued ones are written. What is left is dropped.
    pub(crate) fn finish(&self, limit: Duration) {
        self.0.finish(limit);
    }
}

fn write_all_to(queue: &Queue, mut sink: impl Write) {
    let mut torn = false;
    let mut batch = Vec::new();
    while let Some(lines) = queue.next_batch(&mut batch) {
        let mut written = 0;
        let result = write_counting(&mut sink, &batch, torn, &mut written);
        // A line counts as printed when its newline is out; one that is torn off is ended before the next.
        let printed = batch.get(..written).map_or(0, |out| out.iter().filter(|b| **b == b'\n').count() as u64);
        torn = match written.checked_sub(1) {
            Some(last) => batch.get(last) != Some(&b'\n'),
            None => torn,
        };
        queue.batch_done(lines, printed, batch.len());
        if result.is_err() {
            std::thread::sleep(FAILURE_PAUSE);
        }
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
    use std::sync::Mutex;
    use std::sync::atomic::Ordering;

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
