//! From texts to typed values: every text of every source is checked, the first source counts.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use enclave_bridge_net::{VSOCK_WINDOW_MAX_BYTES, VSOCK_WINDOW_MIN_BYTES, VSOCK_WRITE_MAX_BYTES};
use enclave_bridge_proto::{DEFAULT_INIT_PORT, DEFAULT_LOG_PORT};

use super::enclaves::{Enclave, Table, enclaves, paths};
use super::errors::{ConfigError, Origin};
use super::given::Values;
use super::layer::Layer;
use super::limits::{STREAMS, limits};
use super::log_level::LogLevel;
use super::parse::{
    Bounds, SizeBounds, cid, count, duration, log_format, on_loss, parsed, path, sandbox, size, socket_address, switch,
    uds_path, vsock_port,
};
use super::rights::Rights;
use super::values::{Config, EnclaveConfig, EnclaveIdentity, EndpointConfig, LogFormat, OnLoss, SandboxMode};

/// Longer, and whatever stops the service (systemd, a container engine) has long killed it.
const DRAIN_BOUNDS: Bounds = Bounds {
    from: Duration::ZERO,
    to: Duration::from_secs(60 * 60),
    text: "0s to 1h: what stops a service does not wait longer",
};
const WINDOW_BOUNDS: SizeBounds = SizeBounds {
    from: VSOCK_WINDOW_MIN_BYTES,
    to: VSOCK_WINDOW_MAX_BYTES,
    text: "1MiB to 8MiB: less is what the kernel gives anyway, more is memory for nothing",
};
/// A page at least, for every write is a packet; 64 KiB is the largest packet that there is.
const WRITE_BOUNDS: SizeBounds = SizeBounds {
    from: 4 * 1024,
    to: 64 * 1024,
    text: "4KiB to 64KiB: less makes a packet of every page, more does not fit a packet",
};

/// The configuration of the sources from the strongest to the weakest and of the tables, or `None` after an error.
pub(super) fn build(layers: &[&Layer], tables: &[Table], errors: &mut Vec<ConfigError>) -> Option<Config> {
    let mut values = Values { layers, errors };

    let strict = values.value("strict", switch).unwrap_or(false);
    let own_path = values.value("uds_path", uds_path);
    let init_port = values.one("init_port", vsock_port);
    let log_port = values.one("log_port", vsock_port);
    let monitor = values.value("monitor", socket_address);
    let rights = Rights::read(&mut values);
    let allow_cids = values.list("allow_cid", cid);
    let log_format = values.value("log_format", log_format);
    let log_level = values.value("log_level", parsed::<LogLevel>);
    let on_loss = values.value("on_loss", on_loss);
    let drain_timeout = values.value("drain_timeout", |text| duration(text, &DRAIN_BOUNDS));
    let given_streams = values.value("max_streams", |text| count(text, &STREAMS));
    let vsock_window = values.value("vsock_window", |text| size(text, &WINDOW_BOUNDS));
    let vsock_write_max = values.value("vsock_write_max", |text| size(text, &WRITE_BOUNDS));
    let splice = values.value("splice", switch);
    let mut limits = limits(&mut values);
    rights.set(&mut limits);
    let sandbox = values.value("sandbox", sandbox);
    let resolv_conf = values.value("resolv_conf", path);

    let (init, log) = (port_or(&init_port, DEFAULT_INIT_PORT), port_or(&log_port, DEFAULT_LOG_PORT));
    // Each port may come from another source; the one that was given last in the order of the table is named.
    if let (true, Some((_, origin))) = (init == log, log_port.or(init_port)) {
        errors.push(ConfigError::new(origin, format!("init_port and log_port are both {init}; they must differ")));
    }
    let enclaves = enclaves(tables, errors);
    if !errors.is_empty() {
        return None;
    }

    let max_streams = given_streams.unwrap_or(10_000);
    Some(Config {
        endpoints: endpoints(own_path, &enclaves, vsock_window),
        init_port: init,
        log_port: log,
        monitor: monitor.unwrap_or(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8888)),
        enclaves: enclaves
            .into_iter()
            .map(|enclave| {
                let streams = enclave.max_streams.unwrap_or(max_streams);
                let policy = enclave.rights.over(&rights).policy(strict, &limits, streams)?;
                Some(EnclaveConfig { name: enclave.name, identity: enclave.identity, policy })
            })
            .collect::<Option<Vec<_>>>()?,
        policy: rights.policy(strict, &limits, max_streams)?,
        allow_cids: allow_cids.or_else(|| strict.then(Vec::new)),
        strict,
        log_format: log_format.unwrap_or(LogFormat::Raw),
        log_level: log_level.or_else(|| "info".parse().ok())?,
        on_loss: on_loss.unwrap_or(OnLoss::Wait),
        drain_timeout: drain_timeout.unwrap_or(Duration::from_secs(30)),
        max_streams_is_given: given_streams.is_some(),
        max_streams,
        vsock_write_max: vsock_write_max.map_or(VSOCK_WRITE_MAX_BYTES, |bytes| bytes as usize),
        splice: splice.unwrap_or(false),
        limits,
        sandbox: sandbox.unwrap_or(SandboxMode::On),
        resolv_conf: resolv_conf.unwrap_or_else(|| PathBuf::from("/etc/resolv.conf")),
    })
}

/// The socket paths that were given, and AF_VSOCK where a table names a CID or no path was given at all.
fn endpoints(own_path: Option<PathBuf>, enclaves: &[Enclave], window: Option<u32>) -> Vec<EndpointConfig> {
    let mut sockets: Vec<PathBuf> = own_path.into_iter().collect();
    for path in paths(enclaves) {
        if !sockets.contains(path) {
            sockets.push(path.clone());
        }
    }
    let by_cid = enclaves.iter().any(|enclave| matches!(enclave.identity, EnclaveIdentity::Cid(_)));
    let vsock = (by_cid || sockets.is_empty()).then_some(EndpointConfig::Vsock { window });
    sockets.into_iter().map(|uds_path| EndpointConfig::Hybrid { uds_path }).chain(vsock).collect()
}

fn port_or(given: &Option<(u32, Origin)>, default: u32) -> u32 {
    given.as_ref().map_or(default, |(port, _)| *port)
}
