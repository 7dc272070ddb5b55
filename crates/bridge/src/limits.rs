//! Every bound of the daemon in one place: a name, a unit and a reason each.
//!
//! Each has a key of the configuration, which its documentation names. What the wire itself bounds (the address line: 300 bytes) is
//! in `enclave_bridge_proto`; streams and their time limits are in [`crate::config`]. ARCHITECTURE.md does the memory arithmetic
//! with the numbers that stand here.

use std::time::Duration;

use enclave_bridge_net::PIPES_MAX;
use enclave_bridge_policy::{MAX_CLIENTS_DEFAULT, MAX_SERVERS_DEFAULT};
use enclave_bridge_proto::SETTINGS_MAX_BYTES;

/// The bounds that hold in a running daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Servers (ingress listeners) that one enclave may ask for; `max_servers`.
    pub servers: usize,
    /// Clients (egress listeners) that one enclave may ask for; `max_clients`.
    pub clients: usize,
    /// A whole handshake until its settings are there; `handshake_timeout`. 10 s is what the original gives an enclave.
    pub handshake: Duration,
    /// One step of a handshake (the first bytes, writing the environment, writing the answer); `handshake_step_timeout`. An enclave
    /// sends its ACK in the moment it connects, and what is written fits the buffers of most sockets.
    pub handshake_step: Duration,
    /// The settings line, in bytes; `settings_max`. The wire's own cap: 128 tunnels take some 16 KiB.
    pub settings_bytes: usize,
    /// Sessions that may live at once; `max_sessions`. A parent machine of AWS Nitro holds four enclaves, a large Firecracker host
    /// hundreds of guests but one bridge for each; 64 leaves room and bounds what strangers' CIDs can pin.
    pub sessions: usize,
    /// Connections on the init port that one peer may have before they are known as a handshake or a beat, and
    /// handshakes in progress; `max_handshakes`. A real enclave needs one; four forgive a restart in the middle of a handshake.
    pub unfinished_per_peer: usize,
    /// The same over all peers; `max_handshakes_total`. It bounds the memory of unfinished handshakes (each holds at most the settings line).
    pub unfinished_total: usize,
    /// Beat connections of one session; `max_beat_connections`. One is in use, another is its successor while the first is found
    /// dead; four forgive an enclave that dials twice more in between. The oldest makes room.
    pub beat_connections: usize,
    /// Time that a peer has to take one beat; `beat_timeout`. A peer that does not read 17 bytes for so long has stopped.
    pub beat_write: Duration,
    /// Log connections of one peer; `max_log_connections`. An enclave needs one per logging process.
    pub log_connections_per_peer: usize,
    /// One line of an enclave's log, in bytes; `log_line_max`. What is longer is cut and marked. 64 KiB holds any sane log line and
    /// keeps 64 hostile connections at 4 MiB.
    pub log_line_bytes: usize,
    /// What one enclave may log on average, in bytes a second as they are printed: `log_rate`. 10 MiB are some 50,000 lines, more
    /// than any program is read at, and a disk of a terabyte takes a day to fill.
    pub log_rate: u32,
    /// What one enclave may log at once, in bytes: `log_burst`. A second of the rate: a start or a stack of errors.
    pub log_burst: u32,
    /// Lines that wait for standard output, in bytes; `log_queue`. 4 MiB is a burst of some 20,000 lines.
    pub log_queue_bytes: usize,
    /// How long a log connection waits for room before lines are dropped and counted; `log_stall_timeout`. Long enough for a collector
    /// that is busy, short enough that an enclave which logs synchronously does not stand still behind a dead one.
    pub log_stall: Duration,
    /// Time to receive the address line after connecting; `address_timeout`. One segment; five seconds forgive a paused enclave.
    pub address_line: Duration,
    /// Time for the ClientHello of a stream whose server name is checked, from the ACK on; `server_name_timeout`. A client sends it
    /// at once; five seconds forgive a paused enclave.
    pub server_name: Duration,
    /// Time to resolve a name; `resolve_timeout`. Two tries of a resolver's usual two seconds, and some.
    pub resolve: Duration,
    /// Addresses of one name that are tried; `max_addresses`. More make a failing dial slow and serve nobody.
    pub addresses_tried: usize,
    /// Time to connect to a target, over all its addresses; `connect_timeout`. The original's, and what FAULTS of the field call usual.
    pub connect: Duration,
    /// Head start of the preferred address family; `connect_race` (RFC 8305 recommends 250 ms).
    pub connect_race: Duration,
    /// Time to reach the enclave's port for a client that waits; `enclave_timeout`. The kernel's own vsock connect limit is 2 s.
    pub enclave_connect: Duration,
    /// Time to write an answer of a few bytes (ACK, NAK, PROXY header) to an enclave; `answer_timeout`. They fit its buffer, unless
    /// it has stopped.
    pub answer_write: Duration,
    /// Connections to the monitoring port at once; `max_monitor_connections`. Probes and scrapers, not the public.
    pub monitor_connections: usize,
    /// Time for the head of a monitoring request; `monitor_timeout`. It is one segment.
    pub monitor_header: Duration,
    /// Descriptors kept away from streams; `reserved_descriptors`. Listeners, control and log connections, resolver sockets,
    /// monitoring: what one enclave uses, several times over.
    pub descriptors_reserved: usize,
    /// Pipes that bulk goes through, over all streams; `max_pipes`. Beyond them it is copied. See [`PIPES_MAX`].
    pub pipes: usize,
    /// Time for a replaced or lost session's tasks to end before its successor binds; `session_end_timeout`. They only close sockets, which takes
    /// a millisecond; a machine that is short of processor time is given more rather than a refusal.
    pub session_end: Duration,
    /// Time for the streams that are cut at the end of a drain to reset their sockets; `cut_timeout`. Closing takes microseconds
    /// each; whoever ends a service waits for it.
    pub cut: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            servers: MAX_SERVERS_DEFAULT,
            clients: MAX_CLIENTS_DEFAULT,
            handshake: Duration::from_secs(10),
            handshake_step: Duration::from_secs(5),
            settings_bytes: SETTINGS_MAX_BYTES,
            sessions: 64,
            unfinished_per_peer: 4,
            unfinished_total: 64,
            beat_connections: 4,
            beat_write: Duration::from_secs(5),
            log_connections_per_peer: 16,
            log_line_bytes: 64 * 1024,
            log_rate: 10 * 1024 * 1024,
            log_burst: 10 * 1024 * 1024,
            log_queue_bytes: 4 * 1024 * 1024,
            log_stall: Duration::from_secs(1),
            address_line: Duration::from_secs(5),
            server_name: Duration::from_secs(5),
            resolve: Duration::from_secs(5),
            addresses_tried: 16,
            connect: Duration::from_secs(10),
            connect_race: Duration::from_millis(250),
            enclave_connect: Duration::from_secs(2),
            answer_write: Duration::from_secs(5),
            monitor_connections: 64,
            monitor_header: Duration::from_secs(5),
            descriptors_reserved: 128,
            pipes: PIPES_MAX,
            session_end: Duration::from_secs(5),
            cut: Duration::from_millis(200),
        }
    }
}

/// Descriptors that one stream holds: its downstream and its upstream socket.
const DESCRIPTORS_PER_STREAM: usize = 2;

/// Below this nothing can be served: the listeners, the runtimes and a handful of streams.
pub const LEAST_DESCRIPTORS: u64 = 64;

/// Descriptors of one pipe.
const DESCRIPTORS_PER_PIPE: usize = 2;

/// The part of all descriptors that pipes may have: they are for speed, and streams go on without them.
const PIPES_SHARE: usize = 8;

impl Limits {
    /// The same for a process with so many descriptors: fewer pipes under a small limit, and none if there are to be none.
    #[must_use]
    pub fn within(self, descriptors: u64, pipes: bool) -> Self {
        let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
        let fitting = descriptors / PIPES_SHARE / DESCRIPTORS_PER_PIPE;
        Self { pipes: if pipes { self.pipes.min(fitting) } else { 0 }, ..self }
    }

    /// How many streams fit under a descriptor limit, at most `wanted`: the reserve (or half of a very small limit) and
    /// what pipes may take is never given to streams, so a flood of connections cannot keep the handshake, the beats or a probe out.
    #[must_use]
    pub fn streams_within(&self, wanted: usize, descriptors: u64) -> usize {
        let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
        let pipes = self.pipes.saturating_mul(DESCRIPTORS_PER_PIPE);
        let reserve = self.descriptors_reserved.saturating_add(pipes).min(descriptors / 2);
        wanted.min(descriptors.saturating_sub(reserve) / DESCRIPTORS_PER_STREAM).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::Limits;

    #[test]
    fn the_reserve_is_never_given_to_streams() {
        let streams = |wanted, descriptors, pipes| {
            Limits::default().within(descriptors, pipes).streams_within(wanted, descriptors)
        };
        assert_eq!(streams(10_000, 1_048_576, true), 10_000);
        assert_eq!(streams(10_000, 1024, false), 448);
        // 32 pipes take 64.
        assert_eq!(streams(10_000, 1024, true), 416);
        assert_eq!(streams(10_000, 256, true), 64);
        assert_eq!(streams(10_000, 20, true), 5);
        assert_eq!(streams(10_000, 0, true), 1);
        assert_eq!(streams(10, u64::MAX, true), 10);
        assert_eq!(Limits::default().within(100, true).pipes, 6);
        assert_eq!(Limits::default().within(1_048_576, false).pipes, 0);
    }
}
