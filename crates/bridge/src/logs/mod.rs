//! The log port: enclaves' bytes → whole, harmless lines → standard output.
//!
//! An enclave's log is another trust domain: a line of it cannot pass for a line of the daemon (that goes to standard
//! error), cannot act on a terminal, and cannot be mixed with another connection's.

pub mod lines;
mod output;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use enclave_bridge_net::{Listener, Origin, Peer, Stream};
use enclave_bridge_policy::permit_peer;
use tokio::io::AsyncReadExt;
use tracing::{error, warn};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

use self::lines::{LineSplitter, RawLine};
pub(crate) use self::output::{Output, Stdout};
use crate::app::{App, Endpoint};
use crate::config::LogFormat;
use crate::metrics::{LogCounters, count};
use crate::places::Place;

/// How much of a log is read at once.
const READ_BYTES: usize = 16 * 1024;

/// Where the lines of all enclaves go, and how they look there.
pub(crate) struct LogSink {
    output: Output,
    format: LogFormat,
    line_bytes: usize,
    counters: Arc<LogCounters>,
    /// Numbers the lines of JSON output, so that a reader can see what was dropped.
    next: AtomicU64,
}

impl LogSink {
    pub(crate) fn new(output: Output, format: LogFormat, line_bytes: usize, counters: Arc<LogCounters>) -> Self {
        Self { output, format, line_bytes, counters, next: AtomicU64::new(0) }
    }

    pub(crate) fn output(&self) -> &Output {
        &self.output
    }

    async fn print(&self, enclave: &str, raw: &RawLine) {
        count(&self.counters.received);
        if raw.cut > 0 {
            count(&self.counters.cut);
        }
        // Taken before the line is queued: a number that is missing in the output is a line that was dropped.
        let seq = self.next.fetch_add(1, Ordering::Relaxed);
        let line = match self.format {
            LogFormat::Raw => raw.printable(),
            LogFormat::Json => raw.json(&timestamp(), enclave, seq),
        };
        self.output.print(line).await;
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
        let refused = permit_peer(&app.live().operator, endpoint.identity(&peer)).err();
        let place = match refused {
            None => app.log_places.take(&peer),
            Some(refusal) => {
                count(&app.metrics.peers_refused);
                if app.refusals_logged.allows() {
                    warn!("log port: {refusal}");
                }
                continue;
            }
        };
        let Some(place) = place else {
            if app.refusals_logged.allows() {
                warn!("log port: {peer}: too many log connections");
            }
            continue;
        };
        app.scope.spawn("log connection", serve(Arc::clone(&app), stream, peer, place));
    }
}

async fn serve(app: Arc<App>, mut stream: Stream, peer: Peer, place: Place) {
    app.metrics.log.connections.fetch_add(1, Ordering::Relaxed);
    let enclave = peer.to_string();
    let sink = &app.log_sink;
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
                sink.print(&enclave, &line).await;
            }
            rest = left;
        }
    }
    if let Some(tail) = splitter.finish() {
        sink.print(&enclave, &tail).await;
    }
    app.metrics.log.connections.fetch_sub(1, Ordering::Relaxed);
    drop(place);
}
