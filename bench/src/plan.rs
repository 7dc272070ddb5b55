//! The tests by name, what they do, and what their metrics mean.

use crate::error::BenchError;
use crate::load::{self, Direction, Subject, Values};
use std::time::Duration;

/// Which way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// TCP to the enclave.
    Ingress,
    /// The enclave to TCP.
    Egress,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deed {
    /// Bulk on so many streams.
    Bulk(Direction, usize),
    /// 64 bytes there and back.
    Messages,
    /// The same beside bulk.
    Mixed,
    /// Connections of one message.
    Short,
    /// System calls per message.
    Calls,
    /// Many connections that carried so many bytes each way, idle.
    Idle(u64),
    /// Many connections whose reader stalls: who connected, or the server.
    Stalled(bool),
    /// Writes of 64 bytes.
    Tiny,
}

/// A test.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Test {
    /// Its name on the command line and in the tables.
    pub(crate) name: &'static str,
    /// What it does, in a line.
    pub(crate) about: &'static str,
    /// Which way in.
    pub(crate) way: Way,
    /// What is done.
    pub(crate) deed: Deed,
}

/// How much of everything.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    /// Connections of the idle tests.
    pub(crate) connections: usize,
    /// How long stalled readers are watched.
    pub(crate) stalled_for: Duration,
}

/// Stalled readers, where that many connections are possible.
const STALLED_CONNECTIONS: usize = 1000;

/// What each connection carries each way before it idles.
const USED_BYTES: u64 = 1024 * 1024;

/// Every test in its order. The timed ones take turns round by round; the others begin with fresh processes.
pub(crate) const TESTS: &[Test] = &[
    test("bulk-up", "one stream of bulk, client to enclave", Way::Ingress, Deed::Bulk(Direction::Up, 1)),
    test("bulk-down", "one stream of bulk, enclave to client", Way::Ingress, Deed::Bulk(Direction::Down, 1)),
    test("bulk-up-64", "64 streams of bulk, client to enclave", Way::Ingress, Deed::Bulk(Direction::Up, 64)),
    test("bulk-down-64", "64 streams of bulk, enclave to client", Way::Ingress, Deed::Bulk(Direction::Down, 64)),
    test("egress-up", "one stream of bulk, enclave to world", Way::Egress, Deed::Bulk(Direction::Up, 1)),
    test("egress-down", "one stream of bulk, world to enclave", Way::Egress, Deed::Bulk(Direction::Down, 1)),
    test("messages", "64 bytes there and back on one connection", Way::Ingress, Deed::Messages),
    test("egress-messages", "the same from the enclave to the world", Way::Egress, Deed::Messages),
    test("mixed", "64 bytes there and back on 4 connections beside 8 of bulk", Way::Ingress, Deed::Mixed),
    test("short", "connect, 64 bytes there and back, end; 4 at a time", Way::Ingress, Deed::Short),
    test("egress-short", "the same from the enclave to the world", Way::Egress, Deed::Short),
    test("calls", "system calls per message of 64 bytes, by strace", Way::Ingress, Deed::Calls),
    test("idle", "idle connections, each used once", Way::Ingress, Deed::Idle(0)),
    test("used", "idle connections after 1 MiB each way through each", Way::Ingress, Deed::Idle(USED_BYTES)),
    test("stalled-down", "clients that do not read", Way::Ingress, Deed::Stalled(true)),
    test("stalled-up", "an enclave that does not read", Way::Ingress, Deed::Stalled(false)),
];

/// The tests of a guest of the lab.
pub(crate) const OVER_VSOCK: &[Test] = &[
    test(
        "bulk-up",
        "one stream of bulk, client to enclave, writes of 64 KiB",
        Way::Ingress,
        Deed::Bulk(Direction::Up, 1),
    ),
    test("bulk-down", "one stream of bulk, enclave to client", Way::Ingress, Deed::Bulk(Direction::Down, 1)),
    test("messages", "64 bytes there and back on one connection", Way::Ingress, Deed::Messages),
    test("tiny", "writes of 64 bytes to an enclave that begins to read late", Way::Ingress, Deed::Tiny),
];

const fn test(name: &'static str, about: &'static str, way: Way, deed: Deed) -> Test {
    Test { name, about, way, deed }
}

impl Test {
    /// Whether it takes turns in short rounds; the others take as long as they take and start the relay afresh.
    pub(crate) fn is_timed(&self) -> bool {
        match self.deed {
            Deed::Bulk(..) | Deed::Messages | Deed::Mixed | Deed::Short | Deed::Tiny => true,
            Deed::Calls | Deed::Idle(_) | Deed::Stalled(_) => false,
        }
    }

    /// Whether there is something to measure where there is no relay.
    pub(crate) fn needs_a_relay(&self) -> bool {
        !self.is_timed()
    }

    /// Does it once.
    pub(crate) fn run(
        &self,
        subject: &Subject<'_>,
        connections_max: usize,
        extent: &Extent,
    ) -> Result<Values, BenchError> {
        match self.deed {
            Deed::Bulk(direction, streams) => load::bulk(subject, direction, streams),
            Deed::Messages => load::request_response(subject),
            Deed::Mixed => load::mixed(subject),
            Deed::Short => load::short(subject),
            Deed::Calls => load::system_calls(subject),
            Deed::Tiny => load::tiny_writes(subject),
            Deed::Idle(bytes) => {
                // A mebibyte each way through ten thousand says no more than through a thousand.
                let most = if bytes == 0 { extent.connections } else { extent.connections.min(STALLED_CONNECTIONS) };
                load::idle(subject, most.min(connections_max), bytes)
            }
            Deed::Stalled(down) => {
                let most = extent.connections.min(STALLED_CONNECTIONS).min(connections_max);
                load::stalled(subject, most, down, extent.stalled_for)
            }
        }
    }
}

/// What a metric means to a reader.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Metric {
    /// Its name in rows.
    pub(crate) name: &'static str,
    /// As the head of a column.
    pub(crate) title: &'static str,
    /// Digits behind the point.
    pub(crate) digits: usize,
}

/// Those that are shown; others are in the rows only.
pub(crate) const METRICS: &[Metric] = &[
    metric("gbit_s", "Gbit/s", 2),
    metric("cpu_s_gib", "CPU s/GiB", 3),
    metric("p50_us", "p50 µs", 1),
    metric("p99_us", "p99 µs", 1),
    metric("cpu_us_op", "CPU µs/op", 2),
    metric("conn_s", "conn/s", 0),
    metric("cpu_us_conn", "CPU µs/conn", 1),
    metric("calls_message", "calls/message", 2),
    metric("kib_conn", "KiB/conn", 2),
    metric("held_kib_conn", "KiB/conn held", 2),
    metric("kib_direction", "KiB/direction", 2),
    metric("growth_kib", "KiB growth", 3),
    metric("writes_s", "writes/s", 0),
    metric("connections", "connections", 0),
];

const fn metric(name: &'static str, title: &'static str, digits: usize) -> Metric {
    Metric { name, title, digits }
}

impl Metric {
    /// The metric of that name.
    pub(crate) fn named(name: &str) -> Option<&'static Metric> {
        METRICS.iter().find(|metric| metric.name == name)
    }
}
