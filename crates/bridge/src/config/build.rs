//! From texts to typed values: every text of every source is checked, the first source counts.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use enclave_bridge_net::{VSOCK_WINDOW_MAX_BYTES, VSOCK_WINDOW_MIN_BYTES, VSOCK_WRITE_MAX_BYTES};
use enclave_bridge_policy::{EgressPolicy, EnvPolicy, Glob, PortRanges, Rule};
use enclave_bridge_proto::{DEFAULT_INIT_PORT, DEFAULT_LOG_PORT};

use crate::limits::Limits;

use super::duration::parse_duration;
use super::errors::{ConfigError, Origin};
use super::layer::Layer;
use super::log_level::LogLevel;
use super::size::parse_size;
use super::values::{Config, EndpointConfig, LogFormat, OnLoss, SandboxMode};

/// Bytes of `--uds-path`: a Unix socket's name takes 107 (unix(7)), of which `_` and a port of ten digits are ours.
const UDS_PATH_MAX_BYTES: usize = 96;
/// Streams at most: each has two descriptors, and Linux lets a process have 1,048,576 (`fs.nr_open`).
const MAX_STREAMS_MAX: usize = 500_000;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The bounds of a duration and why they are there.
struct Bounds {
    from: Duration,
    to: Duration,
    text: &'static str,
}

/// Longer, and whatever stops the service (systemd, a container engine) has long killed it.
const DRAIN_BOUNDS: Bounds =
    Bounds { from: Duration::ZERO, to: HOUR, text: "0s to 1h: what stops a service does not wait longer" };
/// Under a second an ordinary pause of a client would end its stream; over a week a dead one is never noticed.
const IDLE_BOUNDS: Bounds = Bounds {
    from: SECOND,
    to: DAY.saturating_mul(7),
    text: "1s to 7d: less would cut streams in an ordinary pause, more would never free dead ones",
};
/// Under a tenth of a second an answer on its way would be cut; over an hour half-closed streams pile up.
const LINGER_BOUNDS: Bounds = Bounds {
    from: Duration::from_millis(100),
    to: HOUR,
    text: "100ms to 1h: less would cut answers on their way, more would let half-closed streams pile up",
};

/// Under a second an enclave that starts on a busy machine never finishes; over five minutes four silent peers are for ever.
const HANDSHAKE_BOUNDS: Bounds = Bounds {
    from: SECOND,
    to: Duration::from_secs(5 * 60),
    text: "1s to 5m: less would refuse a slow start, more would keep dead ones",
};
/// Under a tenth of a second a paused guest is unreachable; over a minute clients have long left.
const REACH_BOUNDS: Bounds = Bounds {
    from: Duration::from_millis(100),
    to: Duration::from_secs(60),
    text: "100ms to 1m: less would fail in an ordinary pause, more would keep clients that have left",
};
/// The kernel itself gives up a TCP connect after some two minutes.
const CONNECT_BOUNDS: Bounds = Bounds {
    from: Duration::from_millis(100),
    to: Duration::from_secs(5 * 60),
    text: "100ms to 5m: less would fail across an ocean, more than the kernel waits itself",
};
/// Tunnels of one enclave and direction: each is a listener, and a session of all of them has to fit beside the streams.
const TUNNELS_MAX: usize = 1024;
/// Unfinished connections of one enclave: all peers together have 64.
const HANDSHAKES_MAX: usize = 64;

/// The bounds of a size in bytes and why they are there.
struct SizeBounds {
    from: u32,
    to: u32,
    text: &'static str,
}

const WINDOW_BOUNDS: SizeBounds = SizeBounds {
    from: VSOCK_WINDOW_MIN_BYTES,
    to: VSOCK_WINDOW_MAX_BYTES,
    text: "1MiB to 8MiB: less is what the kernel gives anyway, more is memory for nothing",
};
/// Less than a KiB a second is less than a line; a GiB is more than any disk takes.
const RATE_BOUNDS: SizeBounds = SizeBounds {
    from: 1024,
    to: 1024 * 1024 * 1024,
    text: "1KiB to 1024MiB: less would not let a line through, more is no limit",
};
/// A page at least, for every write is a packet; 64 KiB is the largest packet that there is.
const WRITE_BOUNDS: SizeBounds = SizeBounds {
    from: 4 * 1024,
    to: 64 * 1024,
    text: "4KiB to 64KiB: less makes a packet of every page, more does not fit a packet",
};

/// The configuration, or `None` after an error.
pub(super) fn build(layers: [&Layer; 3], errors: &mut Vec<ConfigError>) -> Option<Config> {
    let mut values = Values { layers, errors };

    let strict = values.one("strict", switch).is_some_and(|(strict, _)| strict);
    let uds_path = values.one("uds_path", uds_path).map(|(path, _)| path);
    let init_port = values.one("init_port", vsock_port);
    let log_port = values.one("log_port", vsock_port);
    let monitor = values.one("monitor", socket_address).map(|(address, _)| address);
    let ingress_address = values.one("ingress_address", ip_address).map(|(address, _)| address);
    let ingress_ports = values.ports("ingress_ports");
    let egress_allow = values.list("egress_allow", parsed::<Rule>);
    let egress_deny = values.list("egress_deny", parsed::<Rule>).unwrap_or_default();
    let env_allow = values.list("env_allow", parsed::<Glob>);
    let env_deny = values.list("env_deny", parsed::<Glob>).unwrap_or_default();
    let allow_cids = values.list("allow_cid", cid);
    let log_format = values.one("log_format", log_format).map(|(format, _)| format);
    let log_level = values.one("log_level", parsed::<LogLevel>).map(|(level, _)| level);
    let on_loss = values.one("on_loss", on_loss).map(|(on_loss, _)| on_loss);
    let drain_timeout = values.one("drain_timeout", |text| duration(text, &DRAIN_BOUNDS)).map(|(time, _)| time);
    let idle_timeout = values.one("idle_timeout", |text| duration(text, &IDLE_BOUNDS)).map(|(time, _)| time);
    let linger_timeout = values.one("linger_timeout", |text| duration(text, &LINGER_BOUNDS)).map(|(time, _)| time);
    let max_streams = values.one("max_streams", max_streams).map(|(streams, _)| streams);
    let vsock_window = values.one("vsock_window", |text| size(text, &WINDOW_BOUNDS)).map(|(bytes, _)| bytes);
    let vsock_write_max = values.one("vsock_write_max", |text| size(text, &WRITE_BOUNDS)).map(|(bytes, _)| bytes);
    let splice = values.one("splice", switch).map(|(splice, _)| splice);
    let log_rate = values.one("log_rate", |text| size(text, &RATE_BOUNDS)).map(|(bytes, _)| bytes);
    let log_burst = values.one("log_burst", |text| size(text, &RATE_BOUNDS)).map(|(bytes, _)| bytes);
    let defaults = Limits::default();
    let max_servers = values.one("max_servers", tunnels).map(|(n, _)| n);
    let max_clients = values.one("max_clients", tunnels).map(|(n, _)| n);
    let max_handshakes = values.one("max_handshakes", handshakes).map(|(n, _)| n);
    let mut time = |name, bounds| values.one(name, |text| duration(text, bounds)).map(|(time, _)| time);
    let handshake = time("handshake_timeout", &HANDSHAKE_BOUNDS);
    let enclave_connect = time("enclave_timeout", &REACH_BOUNDS);
    let resolve = time("resolve_timeout", &REACH_BOUNDS);
    let connect = time("connect_timeout", &CONNECT_BOUNDS);
    let limits = Limits {
        servers: max_servers.unwrap_or(defaults.servers),
        clients: max_clients.unwrap_or(defaults.clients),
        unfinished_per_peer: max_handshakes.unwrap_or(defaults.unfinished_per_peer),
        handshake: handshake.unwrap_or(defaults.handshake),
        enclave_connect: enclave_connect.unwrap_or(defaults.enclave_connect),
        resolve: resolve.unwrap_or(defaults.resolve),
        connect: connect.unwrap_or(defaults.connect),
        log_rate: log_rate.unwrap_or(defaults.log_rate),
        log_burst: log_burst.unwrap_or(defaults.log_burst),
        ..defaults
    };
    let sandbox = values.one("sandbox", sandbox).map(|(mode, _)| mode);
    let resolv_conf = values.one("resolv_conf", path).map(|(path, _)| path);

    let (init, log) = (port_or(&init_port, DEFAULT_INIT_PORT), port_or(&log_port, DEFAULT_LOG_PORT));
    // Each port may come from another source; the one that was given last in the order of the table is named.
    if let (true, Some((_, origin))) = (init == log, log_port.or(init_port)) {
        values
            .errors
            .push(ConfigError::new(origin, format!("init_port and log_port are both {init}; they must differ")));
    }
    if !values.errors.is_empty() {
        return None;
    }

    // What the defaults are texts for in the table of keys: this is the other place.
    let egress_default =
        || if strict { Some(Vec::new()) } else { Rule::from_str("public").ok().map(|rule| vec![rule]) };
    let env_default = || if strict { Some(Vec::new()) } else { Glob::from_str("*").ok().map(|glob| vec![glob]) };
    let ingress_default = if strict { Ipv4Addr::LOCALHOST } else { Ipv4Addr::UNSPECIFIED };
    Some(Config {
        endpoints: vec![match uds_path {
            Some(uds_path) => EndpointConfig::Hybrid { uds_path },
            None => EndpointConfig::Vsock { window: vsock_window },
        }],
        init_port: init,
        log_port: log,
        monitor: monitor.unwrap_or(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8888)),
        ingress_address: ingress_address.unwrap_or(IpAddr::V4(ingress_default)),
        ingress_ports: ingress_ports.or_else(|| "1024-65535".parse().ok())?,
        egress: EgressPolicy::new(egress_allow.or_else(egress_default)?, egress_deny),
        env: EnvPolicy::new(env_allow.or_else(env_default)?, env_deny),
        allow_cids: allow_cids.or_else(|| strict.then(Vec::new)),
        strict,
        log_format: log_format.unwrap_or(LogFormat::Raw),
        log_level: log_level.or_else(|| "info".parse().ok())?,
        on_loss: on_loss.unwrap_or(OnLoss::Wait),
        drain_timeout: drain_timeout.unwrap_or(Duration::from_secs(30)),
        idle_timeout: idle_timeout.unwrap_or(HOUR),
        linger_timeout: linger_timeout.unwrap_or(Duration::from_secs(60)),
        max_streams_is_given: max_streams.is_some(),
        max_streams: max_streams.unwrap_or(10_000),
        vsock_write_max: vsock_write_max.map_or(VSOCK_WRITE_MAX_BYTES, |bytes| bytes as usize),
        splice: splice.unwrap_or(false),
        limits,
        sandbox: sandbox.unwrap_or(SandboxMode::On),
        resolv_conf: resolv_conf.unwrap_or_else(|| PathBuf::from("/etc/resolv.conf")),
    })
}

fn port_or(given: &Option<(u32, Origin)>, default: u32) -> u32 {
    given.as_ref().map_or(default, |(port, _)| *port)
}

/// The sources from the strongest to the weakest, and the errors found in them.
struct Values<'l> {
    layers: [&'l Layer; 3],
    errors: &'l mut Vec<ConfigError>,
}

impl Values<'_> {
    /// Reads everything that was given for a list; what the strongest source gave is the value, unless it is wrong.
    fn list<T>(&mut self, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<Vec<T>> {
        self.given(name, parse).map(|items| items.into_iter().map(|(value, _)| value).collect())
    }

    /// As [`list`](Self::list) for a single value, with where it was given.
    fn one<T>(&mut self, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<(T, Origin)> {
        self.given(name, parse).and_then(|items| items.into_iter().next_back())
    }

    /// Each item is checked alone, so that an error names it; an empty list is no port.
    fn ports(&mut self, name: &str) -> Option<PortRanges> {
        let checked = |text: &str| parsed::<PortRanges>(text).map(|_| text.to_owned());
        let items = self.list(name, checked)?;
        if items.is_empty() { Some(PortRanges::none()) } else { items.join(",").parse().ok() }
    }

    fn given<T>(&mut self, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<Vec<(T, Origin)>> {
        let mut value = None;
        for given in self.layers.iter().flat_map(|layer| layer.all(name)) {
            let mut items = Vec::with_capacity(given.items.len());
            for item in &given.items {
                match parse(&item.text) {
                    Ok(parsed) => items.push((parsed, item.origin.clone())),
                    Err(reason) => self.errors.push(ConfigError::new(item.origin.clone(), reason)),
                }
            }
            value.get_or_insert(items);
        }
        value
    }
}

/// Reads a type that reads itself; the text is put before a reason that does not show it.
fn parsed<T: FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| {
        let reason = error.to_string();
        if text.is_empty() || reason.contains(text) { reason } else { format!("{text:?}: {reason}") }
    })
}

fn switch(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

fn uds_path(text: &str) -> Result<PathBuf, String> {
    if text.len() > UDS_PATH_MAX_BYTES {
        let length = text.len();
        return Err(format!(
            "the path is {length} bytes long; a Unix socket's name with a port behind it leaves room for {UDS_PATH_MAX_BYTES}"
        ));
    }
    path(text)
}

fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("the path is empty".to_owned());
    }
    if text.contains('\0') {
        return Err("the path has a NUL in it".to_owned());
    }
    Ok(PathBuf::from(text))
}

fn vsock_port(text: &str) -> Result<u32, String> {
    // 4294967295 is VMADDR_PORT_ANY.
    number(text, 1, u32::MAX - 1).ok_or_else(|| format!("{text:?} is no vsock port: a number from 1 to 4294967294"))
}

fn cid(text: &str) -> Result<u32, String> {
    // 0 is the hypervisor's, which never connects; 4294967295 is VMADDR_CID_ANY.
    number(text, 1, u32::MAX - 1)
        .ok_or_else(|| format!("{text:?} is no CID: a number from 1 to 4294967294, guests have 3 and up"))
}

fn max_streams(text: &str) -> Result<usize, String> {
    number(text, 1, MAX_STREAMS_MAX).ok_or_else(|| {
        format!("{text:?} is not from 1 to {MAX_STREAMS_MAX}: a stream takes two descriptors, and a process has at most 1048576")
    })
}

fn tunnels(text: &str) -> Result<usize, String> {
    number(text, 0, TUNNELS_MAX).ok_or_else(|| format!("{text:?} is not from 0 to {TUNNELS_MAX}: each is a listener"))
}

fn handshakes(text: &str) -> Result<usize, String> {
    number(text, 1, HANDSHAKES_MAX)
        .ok_or_else(|| format!("{text:?} is not from 1 to {HANDSHAKES_MAX}, which all enclaves together may have"))
}

/// A number in decimal digits and nothing else, within bounds.
fn number<N: FromStr + PartialOrd>(text: &str, from: N, to: N) -> Option<N> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| digits && *number >= from && *number <= to)
}

fn socket_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is no address with a port, as in 0.0.0.0:8888 or [::]:8888"))
}

fn ip_address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is no IP address, as in 0.0.0.0, 127.0.0.1 or ::"))
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "raw" => Ok(LogFormat::Raw),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("{text:?} is no log format: raw or json")),
    }
}

fn on_loss(text: &str) -> Result<OnLoss, String> {
    match text {
        "wait" => Ok(OnLoss::Wait),
        "exit" => Ok(OnLoss::Exit),
        _ => Err(format!("{text:?} is not what can follow a loss: wait or exit")),
    }
}

fn sandbox(text: &str) -> Result<SandboxMode, String> {
    match text {
        "on" => Ok(SandboxMode::On),
        "off" => Ok(SandboxMode::Off),
        "require" => Ok(SandboxMode::Require),
        _ => Err(format!("{text:?} is no way to run the sandbox: on, require or off")),
    }
}

fn duration(text: &str, bounds: &Bounds) -> Result<Duration, String> {
    let duration = parse_duration(text).map_err(|error| error.to_string())?;
    if duration < bounds.from || duration > bounds.to {
        return Err(format!("{text:?} is outside {}", bounds.text));
    }
    Ok(duration)
}

fn size(text: &str, bounds: &SizeBounds) -> Result<u32, String> {
    let bytes = parse_size(text).map_err(|error| error.to_string())?;
    if bytes < bounds.from || bytes > bounds.to {
        return Err(format!("{text:?} is outside {}", bounds.text));
    }
    Ok(bytes)
}
