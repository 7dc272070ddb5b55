//! The configuration as typed values.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use enclave_bridge_policy::{EgressPolicy, EnvPolicy, OperatorPolicy, PortRanges};

use super::log_level::LogLevel;
use crate::limits::Limits;

/// Everything that the operator decides, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// Where enclaves are; at least one entry.
    pub endpoints: Vec<EndpointConfig>,
    /// The vsock port for handshakes and beats.
    pub init_port: u32,
    /// The vsock port for logs; another than `init_port`.
    pub log_port: u32,
    /// Where health and metrics are served.
    pub monitor: SocketAddr,
    /// What an enclave without a table may have.
    pub policy: EnclavePolicy,
    /// The enclaves that have tables, in the order of the file.
    pub enclaves: Vec<EnclaveConfig>,
    /// The CIDs without a table that may speak to the bridge; `None` is any guest. Never `None` in strict mode.
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
    /// Streams at the same time, at least one.
    pub max_streams: usize,
    /// Whether that number was given: one that was is kept to or the bridge does not start, the default yields.
    pub max_streams_is_given: bool,
    /// The most bytes that one write to AF_VSOCK carries.
    pub vsock_write_max: usize,
    /// Whether bulk between TCP and Unix sockets may go through pipes.
    pub splice: bool,
    /// Every other bound.
    pub limits: Limits,
    /// How much of the sandbox there has to be.
    pub sandbox: SandboxMode,
    /// The file that names the DNS servers.
    pub resolv_conf: PathBuf,
}

/// What the operator lets one enclave have: the upper bound of what its settings can ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EnclavePolicy {
    /// Where servers listen unless they ask for another address.
    pub ingress_address: IpAddr,
    /// TCP ports that the enclave may ask for.
    pub ingress_ports: PortRanges,
    /// Where the enclave may connect to.
    pub egress: EgressPolicy,
    /// Which environment variables go to the enclave.
    pub env: EnvPolicy,
    /// The shortest and the longest interval of beats that it may ask for.
    pub intervals: RangeInclusive<Duration>,
    /// How long nothing may move on a stream.
    pub idle_timeout: Duration,
    /// How long a half-closed stream may stand still.
    pub linger_timeout: Duration,
    /// Servers that it may ask for.
    pub max_servers: usize,
    /// Clients that it may ask for.
    pub max_clients: usize,
    /// Its streams at the same time; beside it holds the limit of all streams.
    pub max_streams: usize,
    /// What it may log on average, in bytes a second.
    pub log_rate: u32,
    /// What it may log at once, in bytes.
    pub log_burst: u32,
}

/// One enclave that the operator's file has a table for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EnclaveConfig {
    /// What it is called: letters, digits, `.`, `_` and `-`.
    pub name: String,
    /// Who it is.
    pub identity: EnclaveIdentity,
    /// What it may have.
    pub policy: EnclavePolicy,
}

/// Who an enclave is: what the transport vouches for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EnclaveIdentity {
    /// Its CID.
    Cid(u32),
    /// The socket that reaches its guest.
    Path(PathBuf),
}

impl Config {
    /// What an enclave without a table may ask for, with the bridge's own ports taken out.
    pub fn operator_policy(&self) -> OperatorPolicy {
        self.operator(&self.policy, self.allow_cids.clone())
    }

    /// The same for an enclave with a table: it is listed.
    pub fn operator_policy_of(&self, enclave: &EnclaveConfig) -> OperatorPolicy {
        let cids = match enclave.identity {
            EnclaveIdentity::Cid(cid) => vec![cid],
            EnclaveIdentity::Path(_) => Vec::new(),
        };
        self.operator(&enclave.policy, Some(cids))
    }

    fn operator(&self, policy: &EnclavePolicy, allow_cids: Option<Vec<u32>>) -> OperatorPolicy {
        OperatorPolicy {
            ingress_ports: policy.ingress_ports.clone(),
            ingress_address: policy.ingress_address,
            own_tcp_ports: vec![self.monitor.port()],
            own_vsock_ports: vec![self.init_port, self.log_port],
            max_servers: policy.max_servers,
            max_clients: policy.max_clients,
            intervals: policy.intervals.clone(),
            allow_cids,
            strict: self.strict,
        }
    }

    /// The policies of all enclaves: those of the tables, and that of an enclave without one.
    pub fn policies(&self) -> impl Iterator<Item = &EnclavePolicy> {
        std::iter::once(&self.policy).chain(self.enclaves.iter().map(|enclave| &enclave.policy))
    }
}

/// How a guest is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndpointConfig {
    /// AF_VSOCK, every guest.
    Vsock {
        /// The bridge's window for each stream, in bytes; `None` leaves the kernel's own.
        window: Option<u32>,
    },
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
            EndpointConfig::Vsock { .. } => None,
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
