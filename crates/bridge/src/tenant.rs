//! What one enclave may have, as the daemon uses it: the operator's policy for it, its environment as it goes over the wire.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use enclave_bridge_net::{Peer, RelayConfig};
use enclave_bridge_policy::{EgressPolicy, EnvPolicy, OperatorPolicy, PeerIdentity, Refusal, permit_peer};
use enclave_bridge_proto::{Announcement, Environment};

use crate::app::{HostEnvironment, StartError};
use crate::config::{Config, EnclaveIdentity, EnclavePolicy};
use crate::logs::LogRate;

/// An enclave with a table, or all those without one.
#[derive(Debug)]
pub(crate) struct Tenant {
    /// The name of its table.
    pub(crate) name: Option<String>,
    pub(crate) operator: OperatorPolicy,
    pub(crate) egress: EgressPolicy,
    /// The environment as it goes over the wire: not to be shown.
    pub(crate) environment: EnvironmentLine,
    pub(crate) log: LogRate,
    pub(crate) max_streams: usize,
    idle: Duration,
    linger: Duration,
}

/// The line of the environment, whose values nobody sees.
pub(crate) struct EnvironmentLine(Arc<Vec<u8>>);

impl EnvironmentLine {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        self.0.to_vec()
    }
}

impl std::fmt::Debug for EnvironmentLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EnvironmentLine({} bytes)", self.0.len())
    }
}

/// All tenants: who a peer is comes from its identity alone.
#[derive(Debug)]
pub(crate) struct Tenants {
    named: HashMap<EnclaveIdentity, Arc<Tenant>>,
    /// What an enclave without a table gets.
    other: Arc<Tenant>,
}

impl Tenants {
    /// The tenants of a configuration. `own_tcp_ports` are those that the bridge has bound itself.
    ///
    /// # Errors
    /// The first environment that cannot go to an enclave.
    pub(crate) fn new(
        config: &Config,
        host: &HostEnvironment,
        own_tcp_ports: &[u16],
        offered: &Announcement,
    ) -> Result<Self, StartError> {
        let mut lines = Lines { host, offered, known: Vec::new() };
        let mut tenant = |name: Option<&str>, policy: &EnclavePolicy, operator: OperatorPolicy| {
            Ok::<_, StartError>(Arc::new(Tenant {
                name: name.map(str::to_owned),
                operator: OperatorPolicy { own_tcp_ports: own_tcp_ports.to_vec(), ..operator },
                egress: policy.egress.clone(),
                environment: lines.line(&policy.env)?,
                log: LogRate { rate: policy.log_rate, burst: policy.log_burst },
                max_streams: policy.max_streams,
                idle: policy.idle_timeout,
                linger: policy.linger_timeout,
            }))
        };
        let other = tenant(None, &config.policy, config.operator_policy())?;
        let named = config.enclaves.iter().map(|enclave| {
            let tenant = tenant(Some(&enclave.name), &enclave.policy, config.operator_policy_of(enclave))?;
            Ok((enclave.identity.clone(), tenant))
        });
        Ok(Self { named: named.collect::<Result<_, StartError>>()?, other })
    }

    /// The tenant that this peer is.
    pub(crate) fn of(&self, peer: &Peer) -> &Arc<Tenant> {
        let identity = match peer {
            Peer::Cid(cid) => EnclaveIdentity::Cid(*cid),
            Peer::Path(path) => EnclaveIdentity::Path(path.to_path_buf()),
        };
        self.named.get(&identity).unwrap_or(&self.other)
    }

    /// The tenant that this peer is, if it may speak to the bridge at all.
    ///
    /// # Errors
    /// Why it may not.
    pub(crate) fn permit(&self, peer: &Peer, identity: PeerIdentity) -> Result<&Arc<Tenant>, Refusal> {
        let tenant = self.of(peer);
        // A table for a CID lists it; the path of a listener is the operator's.
        permit_peer(&tenant.operator, identity)?;
        Ok(tenant)
    }

    /// The socket paths of tables.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.named.keys().filter_map(|identity| match identity {
            EnclaveIdentity::Path(path) => Some(path.as_path()),
            EnclaveIdentity::Cid(_) => None,
        })
    }
}

impl Tenant {
    /// The peer as log lines name it: with the name of its table, if it has one.
    pub(crate) fn call(&self, peer: &Peer) -> String {
        match &self.name {
            Some(name) => format!("{name} ({peer})"),
            None => peer.to_string(),
        }
    }

    /// What its log lines are tagged with.
    pub(crate) fn tag(&self, peer: &Peer) -> String {
        self.name.clone().unwrap_or_else(|| peer.to_string())
    }

    /// The relay's limits for its streams; everything else is as in `common`.
    pub(crate) fn relay(&self, common: &RelayConfig) -> RelayConfig {
        RelayConfig { idle: self.idle, linger: self.linger, ..common.clone() }
    }
}

/// Makes the line of each set of patterns once: enclaves with the same patterns share it.
struct Lines<'a> {
    host: &'a HostEnvironment,
    offered: &'a Announcement,
    known: Vec<(EnvPolicy, Arc<Vec<u8>>)>,
}

impl Lines<'_> {
    fn line(&mut self, policy: &EnvPolicy) -> Result<EnvironmentLine, StartError> {
        if let Some((_, line)) = self.known.iter().find(|(known, _)| known == policy) {
            return Ok(EnvironmentLine(Arc::clone(line)));
        }
        let mut environment = Environment::new();
        for (name, value) in self.host {
            // A name that is not UTF-8 is not one that a pattern could have meant.
            let Some(name) = name.to_str().filter(|name| policy.allows(name)) else { continue };
            let Some(value) = value.to_str() else {
                return Err(StartError::Environment { name: name.to_owned(), reason: "the value is not UTF-8" });
            };
            environment.insert(name, value);
        }
        let line = Arc::new(environment.encode_line(self.offered)?);
        self.known.push((policy.clone(), Arc::clone(&line)));
        Ok(EnvironmentLine(line))
    }
}
