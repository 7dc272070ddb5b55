//! The log port: enclaves' bytes → whole, harmless lines → standard output.
//!
//! An enclave's log is another trust domain: a line of it cannot pass for a line of the daemon (that goes to standard
//! error), cannot act on a terminal, and cannot be mixed with another connection's.

mod blocks;
pub mod lines;
mod output;
mod queue;
mod source;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use enclave_bridge_net::{Listener, Origin, Peer, Stream};
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout};
use tracing::{error, warn};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

use self::lines::{LineSplitter, RawLine};
pub(crate) use self::output::{Output, Stdout};
pub(crate) use self::source::LogRate;
use self::source::{Source, Sources};
use crate::app::{App, Endpoint};
use crate::config::LogFormat;
use crate::metrics::{LogCounters, LogDrop, count};
use crate::places::Place;
use crate::tenant::Tenant;

/// How much of a log is read at once.
const READ_BYTES: usize = 16 * 1024;

/// How long the end of a connection waits with telling what was dropped: as long as a source that has told keeps quiet, and a
/// moment more.
const TELL_PAUSE: Duration = Duration::from_millis(1100);

/// Where the lines of all enclaves go, and how they look there.
pub(crate) struct LogSink {
    output: Output,
    format: LogFormat,
    line_bytes: usize,
    counters: Arc<LogCounters>,
    sources: Sources,
    /// Numbers the lines of JSON output, so that a reader can see what was dropped.
    next: AtomicU64,
}

impl LogSink {
    pub(crate) fn new(output: Output, format: LogFormat, line_bytes: usize, counters: Arc<LogCounters>) -> Self {
        Self { output, format, line_bytes, counters, sources: Sources::default(), next: AtomicU64::new(0) }
    }

    pub(crate) fn output(&self) -> &Output {
        &self.output
    }

    /// Prints a line of `source`, or drops and counts it: where the enclave has used up its rate, and where standard output
    /// stands still.
    async fn print(&self, enclave: &str, source: &Source, raw: &RawLine) {
        count(&self.counters.received);
        if raw.cut > 0 {
            count(&self.counters.cut);
        }
        // Taken before the line is queued: a number that is missing in the output is a line that was dropped.
        let seq = self.next.fetch_add(1, Ordering::Relaxed);
        // Judged before it is made printable, for that is what a flood would cost; paid for as it is printed.
        let received = length(raw.bytes.len());
        if !source.admits(Instant::now().into_std(), received) {
            self.counters.dropped.count(LogDrop::Rate);
            return tell(enclave, source);
        }
        let line = match self.format {
            LogFormat::Raw => raw.printable(),
            LogFormat::Json => raw.json(&timestamp(), enclave, seq),
        };
        source.charge(length(line.len()).saturating_sub(received));
        self.output.print(line).await;
    }
}

/// The bytes of a line with its newline.
fn length(line: usize) -> u64 {
    (line as u64).saturating_add(1)
}

/// Tells in the daemon's own log how many lines were dropped for their rate, at most once a second.
fn tell(enclave: &str, source: &Source) {
    if let Some(dropped) = source.to_tell() {
        let LogRate { rate, burst } = source.allowed();
        warn!("log of {enclave}: lines dropped: {dropped}, more than {rate} bytes a second and {burst} at once");
    }
}

/// Now, as RFC 3339 in UTC.
fn timestamp() -> String {
    let mut text = String::new();
    _ = SystemTime.format_time(&mut Writer::new(&mut text));
    text
}

/// Accepts on one endpoint's log port until the daemon ends.
pub(crate) async fn accept(app: Arc<App>, endpoint: Arc<Endpoint>, mut listener: Listener) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = app.scope.cancelled() => return,
        };
        let (stream, peer) = match accepted {
            Ok((stream, Origin::Peer(peer))) => (stream, peer),
            Ok((_, Origin::Tcp(_))) => continue,
            Err(dead) => {
                error!("log port: {dead}");
                return app.fail();
            }
        };
        let live = app.live();
        let (tenant, place) = match live.tenants.permit(&peer, endpoint.identity(&peer)) {
            Ok(tenant) => (tenant, app.log_places.take(&peer)),
            Err(refusal) => {
                count(&app.metrics.peers_refused);
                if app.refusals_logged.allows() {
                    warn!("log port: {refusal}");
                }
                continue;
            }
        };
        let Some(place) = place else {
            if app.refusals_logged.allows() {
                warn!("log port: {}: too many log connections", tenant.call(&peer));
            }
            continue;
        };
        app.scope.spawn("log connection", serve(Arc::clone(&app), stream, peer, Arc::clone(tenant), place));
    }
}

async fn serve(app: Arc<App>, mut stream: Stream, peer: Peer, tenant: Arc<Tenant>, place: Place) {
    app.metrics.log.connections.fetch_add(1, Ordering::Relaxed);
    let enclave = tenant.tag(&peer);
    let sink = &app.log_sink;
    let source = sink.sources.of(&peer, tenant.log, Instant::now().into_std());
    let mut splitter = LineSplitter::new(sink.line_bytes);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let read = tokio::select! {
            read = stream.read(&mut buffer) => read.unwrap_or(0),
            () = app.scope.cancelled() => 0,
        };
        let mut rest = buffer.get(..read).unwrap_or_default();
        if rest.is_empty() {
            break;
        }
        while !rest.is_empty() {
            let (line, left) = splitter.push(rest);
            if let Some(line) = line {
                sink.print(&enclave, &source, &line).await;
            }
            rest = left;
        }
    }
    if let Some(tail) = splitter.finish() {
        sink.print(&enclave, &source, &tail).await;
    }
    if source.has_untold() {
        // The last seconds of a flood are told too.
        _ = timeout(TELL_PAUSE, app.scope.cancelled()).await;
        tell(&enclave, &source);
    }
    app.metrics.log.connections.fetch_sub(1, Ordering::Relaxed);
    drop(place);
}
