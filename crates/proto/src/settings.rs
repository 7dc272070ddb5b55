//! The settings: what an enclave asks for. Whether it may have it is policy and decided elsewhere.

mod read;
mod write;

use std::net::IpAddr;
use std::time::Duration;

use crate::{Announcement, EnclaveId, Nak};

/// The longest settings line in bytes, its `0A` not counted. Two full lists with every key set take some 60 KiB.
pub const SETTINGS_MAX_BYTES: usize = 256 * 1024;

/// How deep the settings may nest, keys unknown to this version included. They need three levels themselves.
pub const SETTINGS_DEPTH_MAX: usize = 16;

/// How many servers, and how many clients, settings may have. An enclave needs a handful; 64 sockets of each kind
/// stay below a tenth of the usual descriptor limit of 1024.
pub const SETTINGS_TUNNELS_MAX: usize = 64;

/// How many keys unknown to this version an object of the settings may have, so that looking for duplicates has a
/// bound.
pub const SETTINGS_KEYS_MAX: usize = 1024;

/// How many unknown keys [`ParsedSettings`] names; enough for a log line.
pub const UNKNOWN_KEYS_MAX: usize = 16;

/// How many names a server may list in `serverNames`.
pub const SERVER_NAMES_MAX: usize = 64;

/// The longest `appName` in bytes; it is a label in logs and metrics.
pub const APP_NAME_MAX_BYTES: usize = 256;

/// What an enclave asks for in its handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `appName`: a label, may be empty. As the peer wrote it: to be escaped where it is shown.
    pub app_name: String,
    /// `protocol`: which version the enclave speaks.
    pub protocol: Protocol,
    /// `watchdog.enclaveId`: what its beats carry.
    pub id: EnclaveId,
    /// `watchdog.interval`: from [`INTERVAL_MIN`](crate::INTERVAL_MIN) to [`INTERVAL_MAX`](crate::INTERVAL_MAX);
    /// nanoseconds on the wire.
    pub interval: Duration,
    /// `logger.level`; `None` for an empty text. The level that the enclave would like the bridge to log at.
    pub log_level: Option<LogLevel>,
    /// `servers`: ingress, at most [`SETTINGS_TUNNELS_MAX`].
    pub servers: Vec<ServerRequest>,
    /// `clients`: egress, at most [`SETTINGS_TUNNELS_MAX`].
    pub clients: Vec<ClientRequest>,
}

/// Which version of the wire an enclave speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Version 1: says nothing about versions, reads beats up to a newline and knows no refusals.
    V1,
    /// Version 1.1 (or a later 1.x): reads exact frames and refusals.
    V1_1,
}

/// A level of `logger.level`, as version 1 names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it all")]
pub enum LogLevel {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
    Fatal,
    Panic,
    Disabled,
}

impl LogLevel {
    /// Every level, from the most talkative on.
    pub const ALL: &'static [LogLevel] = &[
        LogLevel::Trace,
        LogLevel::Debug,
        LogLevel::Info,
        LogLevel::Warn,
        LogLevel::Error,
        LogLevel::Fatal,
        LogLevel::Panic,
        LogLevel::Disabled,
    ];

    /// The level's word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            LogLevel::Trace => "trace",
            LogLevel::Debug => "debug",
            LogLevel::Info => "info",
            LogLevel::Warn => "warn",
            LogLevel::Error => "error",
            LogLevel::Fatal => "fatal",
            LogLevel::Panic => "panic",
            LogLevel::Disabled => "disabled",
        }
    }
}

/// One server: a TCP port of the host whose connections are relayed to a vsock port of the enclave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerRequest {
    /// `enclaveCid`: to be the peer's own; 0 where it was not given.
    pub enclave_cid: u32,
    /// `enclaveListenPort`: 1 to 65535.
    pub enclave_listen_port: u32,
    /// `bridgeTcpPort`: 1 to 65535.
    pub bridge_tcp_port: u16,
    /// `proxyProtocol: "v2"` (1.1): each stream begins with a PROXY protocol v2 header.
    pub proxy_v2: bool,
    /// `bindAddress` (1.1): where to listen instead of on the operator's default address.
    pub bind_address: Option<IpAddr>,
    /// `serverNames` (1.1): TLS server names that this enclave serves on a shared port; at most
    /// [`SERVER_NAMES_MAX`].
    pub server_names: Vec<String>,
    /// `framed` (1.1): the tunnel's streams are framed.
    pub framed: bool,
}

impl ServerRequest {
    /// A server with nothing of 1.1 asked for.
    pub fn new(enclave_cid: u32, enclave_listen_port: u32, bridge_tcp_port: u16) -> Self {
        Self {
            enclave_cid,
            enclave_listen_port,
            bridge_tcp_port,
            proxy_v2: false,
            bind_address: None,
            server_names: Vec::new(),
            framed: false,
        }
    }
}

/// One client: a vsock port of the host where the enclave dials and names a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientRequest {
    /// `enclaveDialPort`: 1 to 65535.
    pub enclave_dial_port: u32,
    /// `requestTimeout`: bounds everything up to the ACK; nanoseconds on the wire, 0 or nothing there is
    /// [`DEFAULT_REQUEST_TIMEOUT`](crate::DEFAULT_REQUEST_TIMEOUT) here.
    pub request_timeout: Duration,
    /// `framed` (1.1): the tunnel's streams are framed.
    pub framed: bool,
}

impl ClientRequest {
    /// A client with the default time limit and nothing of 1.1 asked for.
    pub fn new(enclave_dial_port: u32) -> Self {
        Self { enclave_dial_port, request_timeout: crate::DEFAULT_REQUEST_TIMEOUT, framed: false }
    }
}

/// Settings as they were read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsedSettings {
    /// The settings.
    pub settings: Settings,
    /// Paths of keys that this version does not know, the first [`UNKNOWN_KEYS_MAX`]; long or odd keys are cut and
    /// escaped. They were ignored, as version 1 does.
    pub unknown_keys: Vec<String>,
}

impl Settings {
    /// Reads a settings line, given without its `0A`, from an enclave that was sent the announcement `offered`.
    ///
    /// Reads as version-1 peers write: keys in any letter case, `null` or nothing for an empty list or text, unknown
    /// keys. The id, the interval, the CID and the ports have to be there.
    ///
    /// # Errors
    /// The refusal to answer with; its sentence names the path: `BAD_CONFIG`, `BAD_ID`, `BAD_INTERVAL`,
    /// `PORT_NOT_ALLOWED` for what is no port at all, `TOO_MANY`. What the operator allows is not looked at here.
    pub fn parse(line: &[u8], offered: &Announcement) -> Result<ParsedSettings, Nak> {
        read::parse(line, offered)
    }

    /// The settings line with its `0A`. For [`Protocol::V1`] only the keys of version 1 are written, in the order in
    /// which the original writes them.
    pub fn encode_line(&self) -> Vec<u8> {
        write::encode_line(self)
    }
}
