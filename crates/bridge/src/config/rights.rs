//! What may differ from one enclave to the next: the same keys at the top level, for every enclave, and in a table, for one.

use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;
use std::time::Duration;

use enclave_bridge_policy::{EgressPolicy, EnvPolicy, Glob, PortRanges, Rule};
use enclave_bridge_proto::{INTERVAL_MAX, INTERVAL_MIN};

use crate::limits::Limits;

use super::errors::ConfigError;
use super::given::Values;
use super::limits::{LOG_RATE, TUNNELS};
use super::parse::{Bounds, count, duration, ip_address, name_rule, parsed, size};
use super::values::EnclavePolicy;

/// Under a second an ordinary pause of a client would end its stream; over a week a dead one is never noticed.
const IDLE_BOUNDS: Bounds = Bounds {
    from: Duration::from_secs(1),
    to: Duration::from_secs(7 * 24 * 60 * 60),
    text: "1s to 7d: less would cut streams in an ordinary pause, more would never free dead ones",
};
/// Under a tenth of a second an answer on its way would be cut; over an hour half-closed streams pile up.
const LINGER_BOUNDS: Bounds = Bounds {
    from: Duration::from_millis(100),
    to: Duration::from_secs(60 * 60),
    text: "100ms to 1h: less would cut answers on their way, more would let half-closed streams pile up",
};
const INTERVAL_BOUNDS: Bounds = Bounds { from: INTERVAL_MIN, to: INTERVAL_MAX, text: "1s to 1h: what the wire allows" };

/// What one level of the configuration says; `None` where it says nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct Rights {
    ingress_address: Option<IpAddr>,
    ingress_ports: Option<PortRanges>,
    egress_allow: Option<Vec<Rule>>,
    egress_deny: Option<Vec<Rule>>,
    egress_server_name: Option<Vec<Rule>>,
    env_allow: Option<Vec<Glob>>,
    env_deny: Option<Vec<Glob>>,
    interval_min: Option<Duration>,
    interval_max: Option<Duration>,
    idle_timeout: Option<Duration>,
    linger_timeout: Option<Duration>,
    max_servers: Option<usize>,
    max_clients: Option<usize>,
    log_rate: Option<u32>,
    log_burst: Option<u32>,
}

/// The names of these keys, and of `max_streams`, which in a table is the enclave's part of all streams.
pub const KEYS_OF_TABLES: &[&str] = &[
    "uds_path",
    "ingress_address",
    "ingress_ports",
    "egress_allow",
    "egress_deny",
    "egress_server_name",
    "env_allow",
    "env_deny",
    "interval_min",
    "interval_max",
    "idle_timeout",
    "linger_timeout",
    "max_streams",
    "max_servers",
    "max_clients",
    "log_rate",
    "log_burst",
];

impl Rights {
    /// What these sources say.
    pub(super) fn read(values: &mut Values<'_>) -> Self {
        let mut interval = |name| values.one(name, |text| duration(text, &INTERVAL_BOUNDS));
        let (shortest, longest) = (interval("interval_min"), interval("interval_max"));
        if let (Some((shortest, _)), Some((longest, origin))) = (&shortest, &longest)
            && shortest > longest
        {
            let message = format!("{longest:?} is shorter than interval_min, {shortest:?}");
            values.errors.push(ConfigError::new(origin.clone(), message));
        }
        Self {
            ingress_address: values.value("ingress_address", ip_address),
            ingress_ports: values.ports("ingress_ports"),
            egress_allow: values.list("egress_allow", parsed::<Rule>),
            egress_deny: values.list("egress_deny", parsed::<Rule>),
            egress_server_name: values.list("egress_server_name", name_rule),
            env_allow: values.list("env_allow", parsed::<Glob>),
            env_deny: values.list("env_deny", parsed::<Glob>),
            interval_min: shortest.map(|(time, _)| time),
            interval_max: longest.map(|(time, _)| time),
            idle_timeout: values.value("idle_timeout", |text| duration(text, &IDLE_BOUNDS)),
            linger_timeout: values.value("linger_timeout", |text| duration(text, &LINGER_BOUNDS)),
            max_servers: values.value("max_servers", |text| count(text, &TUNNELS)),
            max_clients: values.value("max_clients", |text| count(text, &TUNNELS)),
            log_rate: values.value("log_rate", |text| size(text, &LOG_RATE)),
            log_burst: values.value("log_burst", |text| size(text, &LOG_RATE)),
        }
    }

    /// What this level says, and where it says nothing what the level above it does.
    pub(super) fn over(self, above: &Rights) -> Self {
        let above = above.clone();
        Self {
            ingress_address: self.ingress_address.or(above.ingress_address),
            ingress_ports: self.ingress_ports.or(above.ingress_ports),
            egress_allow: self.egress_allow.or(above.egress_allow),
            egress_deny: self.egress_deny.or(above.egress_deny),
            egress_server_name: self.egress_server_name.or(above.egress_server_name),
            env_allow: self.env_allow.or(above.env_allow),
            env_deny: self.env_deny.or(above.env_deny),
            interval_min: self.interval_min.or(above.interval_min),
            interval_max: self.interval_max.or(above.interval_max),
            idle_timeout: self.idle_timeout.or(above.idle_timeout),
            linger_timeout: self.linger_timeout.or(above.linger_timeout),
            max_servers: self.max_servers.or(above.max_servers),
            max_clients: self.max_clients.or(above.max_clients),
            log_rate: self.log_rate.or(above.log_rate),
            log_burst: self.log_burst.or(above.log_burst),
        }
    }

    /// Puts into the limits of the daemon what the top level says about them.
    pub(super) fn set(&self, limits: &mut Limits) {
        limits.servers = self.max_servers.unwrap_or(limits.servers);
        limits.clients = self.max_clients.unwrap_or(limits.clients);
        limits.log_rate = self.log_rate.unwrap_or(limits.log_rate);
        limits.log_burst = self.log_burst.unwrap_or(limits.log_burst);
    }

    /// The whole, with the defaults where nobody has said anything. What the defaults are texts for in the table of keys: this is
    /// the other place. `None` if a default does not parse, which would be a fault of this module.
    pub(super) fn policy(self, strict: bool, limits: &Limits, max_streams: usize) -> Option<EnclavePolicy> {
        let egress_default =
            || if strict { Some(Vec::new()) } else { Rule::from_str("public").ok().map(|rule| vec![rule]) };
        let env_default = || if strict { Some(Vec::new()) } else { Glob::from_str("*").ok().map(|glob| vec![glob]) };
        let ingress_default = if strict { Ipv4Addr::LOCALHOST } else { Ipv4Addr::UNSPECIFIED };
        let egress =
            EgressPolicy::new(self.egress_allow.or_else(egress_default)?, self.egress_deny.unwrap_or_default());
        let shortest = self.interval_min.unwrap_or(INTERVAL_MIN);
        Some(EnclavePolicy {
            ingress_address: self.ingress_address.unwrap_or(IpAddr::V4(ingress_default)),
            ingress_ports: self.ingress_ports.or_else(|| "1024-65535".parse().ok())?,
            egress: egress.with_server_names(self.egress_server_name.unwrap_or_default()),
            env: EnvPolicy::new(self.env_allow.or_else(env_default)?, self.env_deny.unwrap_or_default()),
            intervals: shortest..=self.interval_max.unwrap_or(INTERVAL_MAX),
            idle_timeout: self.idle_timeout.unwrap_or(Duration::from_secs(60 * 60)),
            linger_timeout: self.linger_timeout.unwrap_or(Duration::from_secs(60)),
            max_servers: self.max_servers.unwrap_or(limits.servers),
            max_clients: self.max_clients.unwrap_or(limits.clients),
            max_streams,
            log_rate: self.log_rate.unwrap_or(limits.log_rate),
            log_burst: self.log_burst.unwrap_or(limits.log_burst),
        })
    }
}
