//! What the daemon counts, and the one table of it: [`NAMES`].
//!
//! Counting is an atomic add on a field that the compiler knows; names, help and labels are put to it when somebody
//! scrapes. Labels come from closed enums only, so no peer can make the number of series grow.

mod exposition;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use enclave_bridge_net::{End, Meter};
use enclave_bridge_proto::NakCode;
use prometheus_client::registry::Registry;

use self::exposition::Exposition;

/// Every metric of the daemon: its full name in the exposition, its kind and its meaning. `docs/metrics.md` shows the
/// same table, and a test scrapes a registry to see that no other exists.
pub const NAMES: &[(&str, &str, &str)] = &[
    ("enclave_bridge_build_info", "gauge", "1, with the version as a label"),
    ("enclave_bridge_sessions", "gauge", "sessions that live now"),
    ("enclave_bridge_sessions_started_total", "counter", "sessions that were granted"),
    ("enclave_bridge_sessions_ended_total", "counter", "sessions that ended, by reason"),
    ("enclave_bridge_handshakes_total", "counter", "handshakes, by result"),
    ("enclave_bridge_refusals_total", "counter", "NAKs that were sent, by code"),
    ("enclave_bridge_peers_refused_total", "counter", "connections of peers that may not connect, closed unread"),
    (
        "enclave_bridge_init_unknown_total",
        "counter",
        "connections on the init port whose first bytes were neither a handshake nor a beat",
    ),
    (
        "enclave_bridge_init_evicted_total",
        "counter",
        "unfinished connections on the init port that made room for newer ones",
    ),
    ("enclave_bridge_beats_received_total", "counter", "beats that were received"),
    ("enclave_bridge_beats_bad_total", "counter", "beat connections that were closed for a wrong beat"),
    ("enclave_bridge_streams", "gauge", "streams that are open now, by direction"),
    ("enclave_bridge_streams_limit", "gauge", "the most streams that may be open"),
    ("enclave_bridge_streams_started_total", "counter", "streams that were accepted, by direction"),
    (
        "enclave_bridge_streams_refused_total",
        "counter",
        "connections turned away at the limit of streams, by direction",
    ),
    ("enclave_bridge_streams_ended_total", "counter", "streams that ended, by direction and result"),
    (
        "enclave_bridge_stream_bytes_total",
        "counter",
        "bytes relayed, by direction of the stream and flow (in: to the enclave, out: from it)",
    ),
    (
        "enclave_bridge_server_names_refused_total",
        "counter",
        "egress streams that were reset because they did not begin with a TLS ClientHello for their target's name, by reason",
    ),
    ("enclave_bridge_accept_pauses_total", "counter", "pauses of a listener for lack of descriptors or memory"),
    ("enclave_bridge_log_lines_received_total", "counter", "lines of enclaves' logs that were received"),
    ("enclave_bridge_log_lines_printed_total", "counter", "lines of enclaves' logs that reached standard output"),
    ("enclave_bridge_log_lines_dropped_total", "counter", "lines of enclaves' logs that were dropped, by reason"),
    (
        "enclave_bridge_log_lines_cut_total",
        "counter",
        "lines of enclaves' logs that were longer than the limit and were cut",
    ),
    ("enclave_bridge_log_connections", "gauge", "connections on the log port that are open now"),
    ("enclave_bridge_tasks", "gauge", "tasks of the daemon that run now"),
    ("enclave_bridge_task_panics_total", "counter", "tasks that ended by a panic: each is a bug"),
];

/// A label's values, all known at compile time.
pub trait Label: Copy + 'static {
    /// The label's name.
    const KEY: &'static str;
    /// All values.
    const ALL: &'static [Self];
    /// The value's text.
    fn text(self) -> &'static str;
    /// The value's place in [`Label::ALL`].
    fn index(self) -> usize;
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident, $key:literal: $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)?) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }
        impl Label for $name {
            const KEY: &'static str = $key;
            const ALL: &'static [Self] = &[$(Self::$variant),+];
            fn text(self) -> &'static str { match self { $(Self::$variant => $text),+ } }
            fn index(self) -> usize { self as usize }
        }
    };
}

label! {
    /// Why a session ended.
    SessionEnd, "reason":
    /// A new handshake of the same peer took its place.
    Replaced = "replaced",
    /// No beat within the limit.
    Lost = "lost",
    /// The final ACK could not be delivered.
    Undelivered = "undelivered",
    /// The daemon ended.
    Shutdown = "shutdown",
}
label! {
    /// How a handshake ended.
    HandshakeResult, "result":
    /// With the final ACK.
    Granted = "granted",
    /// With a NAK.
    Refused = "refused",
    /// By a time limit, an end of stream, or a line that is too long.
    Failed = "failed",
}
label! {
    /// Why a line of an enclave's log was dropped.
    LogDrop, "reason":
    /// The enclave had used up its rate.
    Rate = "rate",
    /// Standard output stood still and the queue before it was full.
    Stalled = "stalled",
    /// Writing to standard output failed.
    Failed = "failed",
    /// The daemon ended before it could be written.
    End = "end",
}
label! {
    /// How a stream ended.
    StreamResult, "result":
    /// Both directions ended in order.
    Orderly = "orderly",
    /// One side failed; the other was reset.
    Reset = "reset",
    /// Nothing moved for the idle limit.
    Idle = "idle_expired",
    /// One direction had ended and the other did not move for the linger limit.
    Linger = "linger_expired",
    /// The session or the daemon ended.
    Cut = "cut",
    /// The far side could not be reached.
    Unreachable = "unreachable",
    /// Refused by the policy or as malformed (egress).
    Refused = "refused",
    /// The enclave left before its stream was set up.
    Abandoned = "abandoned",
    /// It had to begin with a TLS ClientHello for the name that was asked for, and did not (egress).
    ServerName = "server_name",
}
label! {
    /// Why a stream did not begin as its target's name asks for.
    ServerNameFault, "reason":
    /// Not with a TLS ClientHello.
    NotTls = "not_tls",
    /// With a ClientHello that contradicts itself.
    Malformed = "malformed",
    /// With a ClientHello that does not end within the cap.
    TooLong = "too_long",
    /// With a ClientHello without a server name.
    None = "none",
    /// With a ClientHello for another server.
    Other = "other",
    /// It ended before its ClientHello was whole.
    Ended = "ended",
    /// The ClientHello was not whole in time.
    Late = "late",
}

impl From<End> for StreamResult {
    fn from(end: End) -> Self {
        match end {
            End::Orderly => Self::Orderly,
            End::Idle => Self::Idle,
            End::Linger => Self::Linger,
            End::Cut => Self::Cut,
            End::Reset { .. } | _ => Self::Reset,
        }
    }
}

/// A counter with one label from a closed set.
#[derive(Debug)]
pub struct Counter<L: Label> {
    values: Box<[AtomicU64]>,
    label: std::marker::PhantomData<L>,
}

impl<L: Label> Default for Counter<L> {
    fn default() -> Self {
        Self { values: L::ALL.iter().map(|_| AtomicU64::new(0)).collect(), label: std::marker::PhantomData }
    }
}

impl<L: Label> Counter<L> {
    /// Counts one.
    pub fn count(&self, label: L) {
        self.add(label, 1);
    }

    /// Counts so many.
    pub fn add(&self, label: L, count: u64) {
        if let Some(value) = self.values.get(label.index()) {
            value.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// The count over all values of the label.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.values.iter().map(|v| v.load(Ordering::Relaxed)).sum()
    }

    /// The count of one label value.
    #[must_use]
    pub fn get(&self, label: L) -> u64 {
        self.values.get(label.index()).map_or(0, |v| v.load(Ordering::Relaxed))
    }
}

/// What is counted of one direction of streams.
#[derive(Debug, Default)]
pub struct StreamCounters {
    /// Streams that were accepted.
    pub started: AtomicU64,
    /// Connections turned away at the limit.
    pub refused: AtomicU64,
    /// Streams that ended, by result.
    pub ended: Counter<StreamResult>,
    /// Bytes, counted while they move: downstream to upstream, and back.
    pub meter: Arc<Meter>,
}

/// All counters of the daemon; gauges are read where they live, through [`Gauges`].
#[derive(Debug, Default)]
pub struct Metrics {
    /// Sessions that were granted.
    pub sessions_started: AtomicU64,
    /// Sessions that ended, by reason.
    pub sessions_ended: Counter<SessionEnd>,
    /// Handshakes, by result.
    pub handshakes: Counter<HandshakeResult>,
    /// NAKs that were sent, in the order of `NakCode::ALL`.
    refusals: Refusals,
    /// Connections of peers that may not connect.
    pub peers_refused: AtomicU64,
    /// Neither handshake nor beat.
    pub init_unknown: AtomicU64,
    /// Unfinished connections that made room for newer ones.
    pub init_evicted: AtomicU64,
    /// Beats.
    pub beats_received: AtomicU64,
    /// Beat connections closed for a wrong beat.
    pub beats_bad: AtomicU64,
    /// From the world to the enclave.
    pub ingress: StreamCounters,
    /// From the enclave to the world.
    pub egress: StreamCounters,
    /// Egress streams that were reset for their server name, by reason.
    pub server_names: Counter<ServerNameFault>,
    /// Pauses of listeners.
    pub accept_pauses: Arc<AtomicU64>,
    /// Lines of logs.
    pub log: Arc<LogCounters>,
}

/// What is counted of enclaves' logs. Received = printed + dropped once the queue is empty.
#[derive(Debug, Default)]
pub struct LogCounters {
    /// Lines that were received.
    pub received: AtomicU64,
    /// Lines that reached standard output.
    pub printed: AtomicU64,
    /// Lines that were dropped, by reason.
    pub dropped: Counter<LogDrop>,
    /// Lines that were cut.
    pub cut: AtomicU64,
    /// Connections that are open now.
    pub connections: AtomicU64,
}

#[derive(Debug)]
struct Refusals(Box<[AtomicU64]>);

impl Default for Refusals {
    fn default() -> Self {
        Self(NakCode::ALL.iter().map(|_| AtomicU64::new(0)).collect())
    }
}

impl Metrics {
    /// Counts a NAK that was sent.
    pub fn refused(&self, code: NakCode) {
        if let Some(value) = self.refusals.of(code) {
            value.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many NAKs with this code were sent.
    #[must_use]
    pub fn refusals(&self, code: NakCode) -> u64 {
        self.refusals.of(code).map_or(0, |value| value.load(Ordering::Relaxed))
    }
}

impl Refusals {
    fn of(&self, code: NakCode) -> Option<&AtomicU64> {
        NakCode::ALL.iter().position(|c| *c == code).and_then(|place| self.0.get(place))
    }
}

/// One more, without a label.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// What is measured at the moment of a scrape.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gauges {
    /// Sessions that live.
    pub sessions: usize,
    /// Open streams, ingress.
    pub streams_ingress: usize,
    /// Open streams, egress.
    pub streams_egress: usize,
    /// The most streams.
    pub streams_limit: usize,
    /// Tasks that run.
    pub tasks: usize,
    /// Tasks that ended by a panic.
    pub panics: u64,
}

/// Something that knows the gauges: the daemon's state.
pub trait GaugeSource: Send + Sync + 'static {
    /// The gauges now.
    fn gauges(&self) -> Gauges;
}

/// A registry that shows `metrics` and what `source` measures.
#[must_use]
pub fn registry(metrics: Arc<Metrics>, source: Arc<dyn GaugeSource>) -> Registry {
    let mut registry = Registry::with_prefix("enclave_bridge");
    registry.register_collector(Box::new(Exposition { metrics, source }));
    registry
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    struct Fixed;
    impl GaugeSource for Fixed {
        fn gauges(&self) -> Gauges {
            Gauges { sessions: 3, ..Gauges::default() }
        }
    }

    fn scrape(metrics: Metrics) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry(Arc::new(metrics), Arc::new(Fixed))).unwrap();
        text
    }

    #[test]
    fn a_scrape_shows_exactly_the_table() {
        let text = scrape(Metrics::default());
        let shown: BTreeSet<_> = text
            .lines()
            .filter(|l| !l.starts_with('#'))
            .map(|l| l.split(['{', ' ']).next().unwrap().to_owned())
            .collect();
        let listed: BTreeSet<_> = NAMES.iter().map(|(name, ..)| (*name).to_owned()).collect();
        assert_eq!(shown, listed);
        for (name, kind, help) in NAMES {
            let family = if *kind == "counter" { name.strip_suffix("_total").unwrap() } else { name };
            assert!(text.contains(&format!("# TYPE {family} {kind}\n")), "{family}");
            assert!(text.contains(&format!("# HELP {family} {help}\n")), "{family} {help}\n{text}");
        }
    }

    #[test]
    fn counts_land_under_their_labels() {
        let metrics = Metrics::default();
        metrics.refused(NakCode::Denied);
        metrics.refused(NakCode::Denied);
        metrics.sessions_ended.count(SessionEnd::Lost);
        metrics.egress.ended.count(StreamResult::Linger);
        let text = scrape(metrics);
        for line in [
            "enclave_bridge_refusals_total{code=\"DENIED\"} 2",
            "enclave_bridge_sessions_ended_total{reason=\"lost\"} 1",
            "enclave_bridge_streams_ended_total{direction=\"egress\",result=\"linger_expired\"} 1",
            "enclave_bridge_streams_ended_total{direction=\"ingress\",result=\"linger_expired\"} 0",
            "enclave_bridge_sessions 3",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
