//! The limits that the operator may set, each with its bounds; the defaults and their reasons are in [`crate::limits`].

use std::time::Duration;

use enclave_bridge_net::PIPES_MAX;
use enclave_bridge_proto::SETTINGS_MAX_BYTES;

use crate::limits::Limits;

use super::given::Values;
use super::parse::{Bounds, CountBounds, SizeBounds, count, duration, size};

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

const MIB: u32 = 1024 * 1024;

/// Under a second an enclave that starts on a busy machine never finishes; over five minutes four silent peers are for ever.
const HANDSHAKE_BOUNDS: Bounds = Bounds {
    from: SECOND,
    to: MINUTE.saturating_mul(5),
    text: "1s to 5m: less would refuse a slow start, more would keep dead ones",
};
/// Under a tenth of a second a paused guest is unreachable; over a minute clients have long left.
const REACH_BOUNDS: Bounds = Bounds {
    from: MILLISECOND.saturating_mul(100),
    to: MINUTE,
    text: "100ms to 1m: less would fail in an ordinary pause, more would keep clients that have left",
};
/// The kernel itself gives up a TCP connect after some two minutes.
const CONNECT_BOUNDS: Bounds = Bounds {
    from: MILLISECOND.saturating_mul(100),
    to: MINUTE.saturating_mul(5),
    text: "100ms to 5m: less would fail across an ocean, more than the kernel waits itself",
};
/// RFC 8305 allows 10 ms to 2 s.
const RACE_BOUNDS: Bounds = Bounds {
    from: MILLISECOND.saturating_mul(10),
    to: SECOND.saturating_mul(2),
    text: "10ms to 2s: what RFC 8305 allows",
};
const STALL_BOUNDS: Bounds = Bounds {
    from: Duration::ZERO,
    to: MINUTE,
    text: "0s to 1m: longer, and an enclave that waits for its log stands still behind a dead collector",
};
const CUT_BOUNDS: Bounds = Bounds {
    from: MILLISECOND.saturating_mul(10),
    to: SECOND.saturating_mul(10),
    text: "10ms to 10s: less leaves sockets to the kernel, more is waited for by nobody",
};

/// Tunnels of one enclave and direction: a session of all of them has to fit beside the streams.
pub(super) const TUNNELS: CountBounds = CountBounds { from: 0, to: 1024, why: "each is a listener" };
/// Streams at most: each has two descriptors, and Linux lets a process have 1,048,576 (`fs.nr_open`).
pub(super) const STREAMS: CountBounds =
    CountBounds { from: 1, to: 500_000, why: "a stream takes two descriptors, and a process has at most 1048576" };
const HANDSHAKES: CountBounds = CountBounds { from: 1, to: 64, why: "a real enclave needs one" };
const HANDSHAKES_TOTAL: CountBounds =
    CountBounds { from: 1, to: 4096, why: "each may hold the settings that it is sending" };
const SESSIONS: CountBounds =
    CountBounds { from: 1, to: 4096, why: "each may hold as many listeners as it has tunnels" };
const BEATS: CountBounds = CountBounds { from: 1, to: 64, why: "one is in use" };
const LOG_CONNECTIONS: CountBounds = CountBounds { from: 1, to: 1024, why: "each may hold a line" };
const ADDRESSES: CountBounds = CountBounds { from: 1, to: 256, why: "each may take its part of connect_timeout" };
const MONITOR: CountBounds = CountBounds { from: 1, to: 4096, why: "each takes a descriptor and 8 KiB" };
const DESCRIPTORS: CountBounds =
    CountBounds { from: 64, to: 100_000, why: "listeners, handshakes and monitoring have to fit" };
const PIPES: CountBounds =
    CountBounds { from: 1, to: 16 * PIPES_MAX, why: "each may hold a MiB of the kernel's memory" };

/// Less than a KiB a second is less than a line; a GiB is more than any disk takes.
pub(super) const LOG_RATE: SizeBounds = SizeBounds {
    from: 1024,
    to: 1024 * MIB,
    text: "1KiB to 1024MiB: less would not let a line through, more is no limit",
};
const LOG_LINE: SizeBounds =
    SizeBounds { from: 1024, to: MIB, text: "1KiB to 1MiB: less cuts ordinary lines, more is no line" };
const LOG_QUEUE: SizeBounds = SizeBounds {
    from: 64 * 1024,
    to: 1024 * MIB,
    text: "64KiB to 1024MiB: less is not a burst, more is memory for nothing",
};
const SETTINGS: SizeBounds = SizeBounds {
    from: 1024,
    // The wire's own cap.
    to: 256 * 1024,
    text: "1KiB to 256KiB: less holds no settings, more is more than the wire allows",
};
const _: () = assert!(SETTINGS.to as usize == SETTINGS_MAX_BYTES);

/// The defaults, with what was given in their place; what tables may say too is set by
/// [`Rights::set`](super::rights::Rights::set).
pub(super) fn limits(values: &mut Values<'_>) -> Limits {
    let mut limits = Limits::default();
    let counts: [(&str, &mut usize, &CountBounds); 9] = [
        ("max_handshakes", &mut limits.unfinished_per_peer, &HANDSHAKES),
        ("max_handshakes_total", &mut limits.unfinished_total, &HANDSHAKES_TOTAL),
        ("max_sessions", &mut limits.sessions, &SESSIONS),
        ("max_beat_connections", &mut limits.beat_connections, &BEATS),
        ("max_log_connections", &mut limits.log_connections_per_peer, &LOG_CONNECTIONS),
        ("max_addresses", &mut limits.addresses_tried, &ADDRESSES),
        ("max_monitor_connections", &mut limits.monitor_connections, &MONITOR),
        ("reserved_descriptors", &mut limits.descriptors_reserved, &DESCRIPTORS),
        ("max_pipes", &mut limits.pipes, &PIPES),
    ];
    for (name, limit, bounds) in counts {
        if let Some(given) = values.value(name, |text| count(text, bounds)) {
            *limit = given;
        }
    }
    let times: [(&str, &mut Duration, &Bounds); 14] = [
        ("handshake_timeout", &mut limits.handshake, &HANDSHAKE_BOUNDS),
        ("handshake_step_timeout", &mut limits.handshake_step, &HANDSHAKE_BOUNDS),
        ("beat_timeout", &mut limits.beat_write, &REACH_BOUNDS),
        ("answer_timeout", &mut limits.answer_write, &REACH_BOUNDS),
        ("address_timeout", &mut limits.address_line, &REACH_BOUNDS),
        ("server_name_timeout", &mut limits.server_name, &REACH_BOUNDS),
        ("enclave_timeout", &mut limits.enclave_connect, &REACH_BOUNDS),
        ("resolve_timeout", &mut limits.resolve, &REACH_BOUNDS),
        ("connect_timeout", &mut limits.connect, &CONNECT_BOUNDS),
        ("connect_race", &mut limits.connect_race, &RACE_BOUNDS),
        ("log_stall_timeout", &mut limits.log_stall, &STALL_BOUNDS),
        ("monitor_timeout", &mut limits.monitor_header, &REACH_BOUNDS),
        ("session_end_timeout", &mut limits.session_end, &REACH_BOUNDS),
        ("cut_timeout", &mut limits.cut, &CUT_BOUNDS),
    ];
    for (name, limit, bounds) in times {
        if let Some(given) = values.value(name, |text| duration(text, bounds)) {
            *limit = given;
        }
    }
    let mut bytes = |name, bounds| values.value(name, |text| size(text, bounds));
    let sizes: [(&str, &mut usize, &SizeBounds); 3] = [
        ("settings_max", &mut limits.settings_bytes, &SETTINGS),
        ("log_line_max", &mut limits.log_line_bytes, &LOG_LINE),
        ("log_queue", &mut limits.log_queue_bytes, &LOG_QUEUE),
    ];
    for (name, limit, bounds) in sizes {
        if let Some(given) = bytes(name, bounds) {
            *limit = given as usize;
        }
    }
    limits
}
