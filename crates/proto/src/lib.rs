//! The wire of enclave-bridge as values and state machines, without I/O.
//!
//! Here live the bytes that host and enclave exchange: the handshake of both sides, settings, environment, beats,
//! the egress address line, refusals, the PROXY protocol v2 header, the records of framed tunnels, the two
//! lines of the hybrid transport, and the server name of a TLS stream that passes.
//! Bytes and instants are passed in; bytes, events and deadlines come out. Sockets, clocks, randomness, the process
//! environment and files may not live here. `docs/protocol.md` is the description of the same wire.

mod beat;
mod client_hello;
mod environment;
mod first;
mod handshake;
mod hybrid;
mod id;
mod json;
mod line;
mod nak;
mod proxy;
mod record;
mod settings;
mod target;
mod text;

pub use beat::{BEAT_LEN, BeatClock, BeatReader, WrongBeat, encode_beat, loss_after};
pub use client_hello::{CLIENT_HELLO_MAX_BYTES, ClientHelloError, ClientHelloProgress, ClientHelloReader, ServerName};
pub use environment::{
    Announcement, ENVIRONMENT_MAX_BYTES, ENVIRONMENT_NAMES_MAX, Environment, EnvironmentError, EnvironmentTooLarge,
    FEATURES_MAX, Feature, PROTOCOL_KEY,
};
pub use first::{AMBIGUITY_PAUSE, First, FirstBytes};
pub use handshake::{HandshakeError, HandshakeLimits, Phase, enclave, host};
pub use hybrid::{
    HYBRID_LINE_MAX_BYTES, HybridLineError, encode_hybrid_connect, encode_hybrid_ok, parse_hybrid_connect,
    parse_hybrid_ok,
};
pub use id::{EnclaveId, ParseIdError};
pub use line::{LineProgress, LineReader};
pub use nak::{NAK_BYTE, NAK_MAX_BYTES, Nak, NakCode, NakParseError, NakPlace, UnknownNakCode};
pub use proxy::{
    PROXY_V2_MAX_BYTES, ProxyV2Error, ProxyV2Progress, ProxyV2Reader, encode_proxy_v2, encode_proxy_v2_local,
};
pub use record::{
    END_RECORD, RECORD_HEADER_BYTES, RECORD_MAX_BYTES, RESET_RECORD, RecordError, RecordReader, next_record,
};
pub use settings::{
    APP_NAME_MAX_BYTES, ClientRequest, LogLevel, ParsedSettings, Protocol, SERVER_NAMES_MAX, SETTINGS_DEPTH_MAX,
    SETTINGS_KEYS_MAX, SETTINGS_MAX_BYTES, SETTINGS_TUNNELS_MAX, ServerRequest, Settings, UNKNOWN_KEYS_MAX,
};
pub use target::{ADDRESS_LINE_MAX_BYTES, Host, NAME_MAX_BYTES, Target};

use std::time::Duration;

/// The acknowledgement: what an enclave opens the handshake with, what the host ends a granted handshake with, and
/// what the host answers to an address line once the target is connected.
pub const ACK: [u8; 2] = [0x06, 0x0A];

/// The shortest beat interval that the settings may ask for. Below a second a scheduling delay of a loaded host
/// would already count as a loss.
pub const INTERVAL_MIN: Duration = Duration::from_secs(1);

/// The longest beat interval that the settings may ask for: a dead enclave's ports are freed within an hour and a half.
pub const INTERVAL_MAX: Duration = Duration::from_secs(60 * 60);

/// The vsock port of handshakes and beats.
pub const DEFAULT_INIT_PORT: u32 = 5000;

/// The vsock port of log streams.
pub const DEFAULT_LOG_PORT: u32 = 4999;

/// What a `requestTimeout` of 0 (or none) stands for; the number is version 1's own.
pub const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_secs(5 * 60);
