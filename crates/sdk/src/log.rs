//! The log port: a `tracing` layer in front, a bounded queue between, and a thread of its own that sends.
//!
//! The thread shares no runtime with the program: lines go out while the program's tasks are busy, before its runtime
//! is there and while it ends.

mod line;
mod queue;
mod sender;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use crate::log::queue::Queue;
use crate::{Error, Options};

/// Lines that wait for the bridge may hold this much: some seconds of a busy program's log.
pub const DEFAULT_LOG_BUFFER_MAX_BYTES: usize = 1024 * 1024;

/// How long dropping the guard waits for the lines that are still there.
const LAST_FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// A `tracing_subscriber` layer that sends each event as one line of JSON to the bridge's log port.
///
/// `{"time":"2026-01-02T03:04:05.678901Z","level":"INFO","target":"app","message":"ready","fields":{...},"spans":[...]}`
///
/// An event costs the program its formatting and a push under a short lock; it never waits for the bridge. When the
/// buffer is full the newest line is dropped, and the count is sent as a line (`{"dropped": N, ...}`) when there is
/// room again. The connection is made anew for as long as the program runs, and the line that was being sent is sent
/// again from its start, so a partial line may be seen before it. What the system had taken and the bridge had not
/// read when the bridge died is lost and cannot be counted here.
///
/// It works before [`Bridge::connect`](crate::Bridge::connect) and with a bridge of any version. Filters are the
/// program's: `.with_filter(...)`.
#[derive(Debug)]
pub struct LogLayer {
    queue: Arc<Queue>,
}

/// Keeps the log going; dropping it sends what is left (for a second at most) and ends the thread. Events after it
/// are let go.
#[derive(Debug)]
pub struct LogGuard {
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
}

impl LogLayer {
    /// A layer with a buffer of 1 MiB.
    ///
    /// # Errors
    /// [`Error::LogThread`] where the system gives no thread.
    pub fn new(options: &Options) -> Result<(Self, LogGuard), Error> {
        Self::with_buffer(options, DEFAULT_LOG_BUFFER_MAX_BYTES)
    }

    /// A layer with a buffer of so many bytes.
    ///
    /// # Errors
    /// [`Error::LogThread`] where the system gives no thread.
    pub fn with_buffer(options: &Options, max_bytes: usize) -> Result<(Self, LogGuard), Error> {
        let queue = Arc::new(Queue::new(max_bytes));
        let thread = sender::start(Arc::clone(&queue), options.route(), options.log_port).map_err(Error::LogThread)?;
        Ok((Self { queue: Arc::clone(&queue) }, LogGuard { queue, thread: Some(thread) }))
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for LogLayer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        line::remember(attributes, id, &context);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        line::record(id, values, &context);
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        // What the sending thread's own libraries say about a failing connection must not become more to send.
        if !sender::is_this_thread() {
            self.queue.push(line::encode(event, &context));
        }
    }
}

impl LogGuard {
    /// Waits until every line has been handed to the system, at most for `limit`. Blocks the thread; false where
    /// lines are left.
    #[must_use = "lines may be left"]
    pub fn flush(&self, limit: Duration) -> bool {
        self.queue.wait_until_empty(limit)
    }

    /// How many lines were dropped since the start, reported or not.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.queue.dropped()
    }
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        self.queue.close();
        let _lines_may_be_left = self.queue.wait_until_empty(LAST_FLUSH_LIMIT);
        self.queue.stop();
        if let Some(thread) = self.thread.take() {
            // It ends at its next await; that it panicked is of no use to anyone here.
            drop(thread.join());
        }
    }
}
