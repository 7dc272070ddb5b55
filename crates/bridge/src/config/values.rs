//! The configuration as typed values.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use enclave_bridge_policy::{EgressPolicy, EnvPolicy, OperatorPolicy, PortRanges};

use super::log_level::LogLevel;
use crate::limits::Limits;

/// Everything that the operator decides, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// Where enclaves are: one entry.
    pub endpoints: Vec<EndpointConfig>,
    /// The vsock port for handshakes and beats.
    pub init_port: u32,
    /// The vsock port for logs; another than `init_port`.
    pub log_port: u32,
    /// Where health and metrics are served.
    pub monitor: SocketAddr,
    /// Where servers listen unless they ask for another address.
    pub ingress_address: IpAddr,
    /// TCP ports that enclaves may ask for.
    pub ingress_ports: PortRanges,
    /// Where enclaves may connect to.
    pub egress: EgressPolicy,
    /// Which environment variables go to the enclave.
    pub env: EnvPolicy,
    /// The CIDs that may speak to the bridge; `None` is any guest. Never `None` in strict mode.
    pub allow_cids: Option<Vec<u32>>,
    /// Nothing by default; the defaults of the other values follow it already.
    pub strict: bool,
    /// How enclaves' lines look on standard output.
    pub log_format: LogFormat,
    /// How much the bridge says about itself.
    pub log_level: LogLevel,
    /// What follows the loss of an enclave.
    pub on_loss: OnLoss,
    /// How long streams may go on after a signal to end; zero cuts them at once.
    pub drain_timeout: Duration,
    /// How long nothing may move on a stream.
    pub idle_timeout: Duration,
    /// How long a half-closed stream may stand still.
    pub linger_timeout: Duration,
    /// Streams at the same time, at least one.
    pub max_streams: usize,
    /// Whether that number was given: one that was is kept to or the bridge does not start, the default yields.
    pub max_streams_is_given: bool,
    /// Every other bound.
    pub limits: Limits,
    /// How much of the sandbox there has to be.
    pub sandbox: SandboxMode,
    /// The file that names the DNS servers.
    pub resolv_conf: PathBuf,
}

impl Config {
    /// What every enclave may ask for, with the bridge's own ports taken out.
    pub fn operator_policy(&self) -> OperatorPolicy {
        OperatorPolicy {
            ingress_ports: self.ingress_ports.clone(),
            ingress_address: self.ingress_address,
            own_tcp_ports: vec![self.monitor.port()],
            own_vsock_ports: vec![self.init_port, self.log_port],
            max_servers: self.limits.servers,
            max_clients: self.limits.clients,
            allow_cids: self.allow_cids.clone(),
            strict: self.strict,
        }
    }
}

/// How a guest is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndpointConfig {
    /// AF_VSOCK, every guest.
    Vsock,
    /// A Unix socket of one guest.
    Hybrid {
        /// The socket; the host listens at this path with `_PORT` behind it.
        uds_path: PathBuf,
    },
}

impl EndpointConfig {
    /// The socket of the guest, where it is reached by one.
    pub fn uds_path(&self) -> Option<&Path> {
        match self {
            EndpointConfig::Vsock => None,
            EndpointConfig::Hybrid { uds_path } => Some(uds_path),
        }
    }
}

/// How enclaves' lines look on standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// As they came, control characters escaped.
    Raw,
    /// Objects with time, enclave, sequence number and line.
    Json,
}

/// What follows the loss of an enclave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnLoss {
    /// The bridge waits for the next handshake.
    Wait,
    /// The bridge ends.
    Exit,
}

/// How much of the sandbox there has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SandboxMode {
    /// None.
    Off,
    /// What the kernel has; the rest is warned of.
    On,
    /// All of it, or the bridge does not start.
    Require,
}
