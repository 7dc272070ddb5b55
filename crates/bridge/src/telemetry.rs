//! The daemon's own log: standard error, readable on a terminal and JSON otherwise.
//!
//! Written by a thread of its own from a bounded queue, so that a reader of standard error who stops reading stops
//! nothing else; what does not fit is dropped. Enclaves' lines do not come this way (they go to standard output).

use std::io::{self, IsTerminal};

use thiserror::Error;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

/// Events that wait for standard error. At some 200 bytes each this is 200 KiB.
const QUEUE_EVENTS: usize = 1024;

/// The running log of the daemon; flushed when dropped.
#[derive(Debug)]
pub struct Telemetry {
    filter: reload::Handle<EnvFilter, Registry>,
    _flush: WorkerGuard,
}

/// The log could not be set up or changed.
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// The level is no filter directive.
    #[error("log level {level:?}: {source}")]
    Level {
        /// What was asked for.
        level: String,
        /// Why it is none.
        source: tracing_subscriber::filter::ParseError,
    },
    /// A subscriber is installed already.
    #[error("log: {0}")]
    Installed(#[from] TryInitError),
    /// The thread that writes it could not be started.
    #[error("log: no thread can be started")]
    Thread,
    /// The subscriber is gone.
    #[error("log level: {0}")]
    Reload(#[from] reload::Error),
}

impl Telemetry {
    /// Installs the log for the whole process.
    ///
    /// # Errors
    /// If `level` is no filter, no thread can be had, or a subscriber is installed already.
    pub fn install(level: &str) -> Result<Self, TelemetryError> {
        let (filter, handle) = reload::Layer::new(parse(level)?);
        let builder = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(QUEUE_EVENTS);
        // It panics where its thread cannot be had.
        let writing = std::panic::catch_unwind(|| builder.finish(io::stderr()));
        let (writer, flush) = writing.map_err(|_panic| TelemetryError::Thread)?;
        let terminal = io::stderr().is_terminal();
        let layer = if terminal {
            fmt::layer().with_writer(writer).with_target(false).boxed()
        } else {
            fmt::layer()
                .json()
                .flatten_event(true)
                .with_current_span(false)
                .with_span_list(false)
                .with_writer(writer)
                .boxed()
        };
        tracing_subscriber::registry().with(filter).with(layer).try_init()?;
        Ok(Self { filter: handle, _flush: flush })
    }

    /// Changes the level of the running log.
    ///
    /// # Errors
    /// If `level` is no filter; the old one stays.
    pub fn set_level(&self, level: &str) -> Result<(), TelemetryError> {
        Ok(self.filter.reload(parse(level)?)?)
    }
}

fn parse(level: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::builder().parse(level).map_err(|source| TelemetryError::Level { level: level.to_owned(), source })
}
