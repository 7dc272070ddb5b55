//! The one table of keys: flags, variables, keys of the file, help and documentation come from it. A long file, because a
//! table in two places would be two tables.

/// The prefix of the program's environment variables.
pub(super) const VARIABLE_PREFIX: &str = "ENCLAVE_BRIDGE_";

/// What a key's value looks like in each source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// One text; a string in the file.
    Text,
    /// One whole number; an integer in the file.
    Integer,
    /// On or off: a flag without a value (or `=false`), `true`/`false`/`1`/`0` in the environment, a boolean in the file.
    Switch,
    /// Texts: a repeatable flag, separated by commas in the environment, an array of strings in the file.
    Texts,
    /// Whole numbers: as `Texts`, but an array of integers in the file.
    Integers,
    /// Ports and ranges: separated by commas in flag and environment, a string or an array in the file.
    Ports,
}

impl Kind {
    /// Whether the value is a list, so that an empty variable is the empty list.
    pub fn is_list(self) -> bool {
        match self {
            Self::Text | Self::Integer | Self::Switch => false,
            Self::Texts | Self::Integers | Self::Ports => true,
        }
    }

    /// Whether the flag may be given several times.
    pub fn repeats(self) -> bool {
        matches!(self, Self::Texts | Self::Integers)
    }
}

/// One key of the configuration.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Key {
    /// The key in the file, in snake case.
    pub name: &'static str,
    /// The flag without its two hyphens: the name in kebab case.
    pub flag: &'static str,
    /// The variable: the prefix and the name in upper case.
    pub variable: &'static str,
    /// Other variables that are read where `variable` is not set.
    pub also: &'static [&'static str],
    /// What stands for the value in the help.
    pub value: &'static str,
    /// What the value looks like.
    pub kind: Kind,
    /// The default as text.
    pub default: &'static str,
    /// What it does, for the help and the documentation.
    pub meaning: &'static str,
    /// Whether it can stand in the file.
    pub in_file: bool,
}

/// Writes name, flag and variable of a key from one identifier, so that they cannot differ.
macro_rules! key {
    ($name:ident, $flag:literal, $variable:literal, $value:literal, $kind:ident, $default:literal, $meaning:literal) => {
        Key {
            name: stringify!($name),
            flag: $flag,
            variable: concat!("ENCLAVE_BRIDGE_", $variable),
            also: &[],
            value: $value,
            kind: Kind::$kind,
            default: $default,
            meaning: $meaning,
            in_file: true,
        }
    };
}

/// Every key there is, in the order of the documentation.
pub const KEYS: &[Key] = &[
    Key {
        in_file: false,
        ..key!(
            config,
            "config",
            "CONFIG",
            "FILE",
            Text,
            "`/etc/enclave-bridge/config.toml` if it exists",
            "the configuration file (TOML, at most 1 MiB, not writable by everyone); a file that is named must exist"
        )
    },
    key!(
        uds_path,
        "uds-path",
        "UDS_PATH",
        "PATH",
        Text,
        "none: AF_VSOCK",
        "Unix socket of one guest (hybrid transport), at most 96 bytes"
    ),
    Key {
        also: &["ENCLAVE_BRIDGE_VSOCK_INIT_PORT"],
        ..key!(init_port, "init-port", "INIT_PORT", "N", Integer, "5000", "vsock port for handshakes and beats")
    },
    Key {
        also: &["ENCLAVE_BRIDGE_VSOCK_STDOUT_PORT"],
        ..key!(log_port, "log-port", "LOG_PORT", "N", Integer, "4999", "vsock port for enclaves' logs")
    },
    key!(monitor, "monitor", "MONITOR", "ADDR", Text, "0.0.0.0:8888", "address and port for health and metrics"),
    key!(
        ingress_address,
        "ingress-address",
        "INGRESS_ADDRESS",
        "ADDR",
        Text,
        "0.0.0.0; strict: 127.0.0.1",
        "where servers' TCP ports are bound"
    ),
    key!(
        ingress_ports,
        "ingress-ports",
        "INGRESS_PORTS",
        "LIST",
        Ports,
        "1024-65535",
        "TCP ports that enclaves may ask for: ports and ranges, separated by commas; an empty list is no port"
    ),
    key!(
        egress_allow,
        "egress-allow",
        "EGRESS_ALLOW",
        "RULE",
        Texts,
        "public; strict: none",
        "where enclaves may connect to: public, private, any, NAME[:PORTS] with * for one label and ** for any, CIDR[:PORTS]"
    ),
    key!(
        egress_deny,
        "egress-deny",
        "EGRESS_DENY",
        "RULE",
        Texts,
        "none",
        "where enclaves may not connect to; wins over egress_allow"
    ),
    key!(
        egress_server_name,
        "egress-server-name",
        "EGRESS_SERVER_NAME",
        "RULE",
        Texts,
        "none",
        "names to which a stream must begin with a TLS ClientHello for the name that was asked for: NAME[:PORTS] as in egress_allow, **:443 for all on a port"
    ),
    key!(
        env_allow,
        "env-allow",
        "ENV_ALLOW",
        "GLOB",
        Texts,
        "*; strict: none",
        "names of environment variables that go to the enclave; * is any text, ? one character"
    ),
    key!(
        env_deny,
        "env-deny",
        "ENV_DENY",
        "GLOB",
        Texts,
        "none",
        "names of environment variables that do not; wins over env_allow"
    ),
    key!(
        allow_cid,
        "allow-cid",
        "ALLOW_CID",
        "N",
        Integers,
        "any guest CID; strict: none",
        "the CIDs that may speak to the bridge; a socket path that is given counts as listed"
    ),
    key!(
        strict,
        "strict",
        "STRICT",
        "",
        Switch,
        "off",
        "nothing by default: egress, environment and CIDs only as listed, listeners on loopback"
    ),
    key!(
        log_format,
        "log-format",
        "LOG_FORMAT",
        "FORMAT",
        Text,
        "raw",
        "enclaves' lines on standard output: raw (as they came, control characters escaped) or json"
    ),
    key!(
        log_level,
        "log-level",
        "LOG_LEVEL",
        "LEVEL",
        Text,
        "info",
        "the bridge's own log: off, error, warn, info, debug or trace, and per module as in info,enclave_bridge=debug"
    ),
    key!(
        log_rate,
        "log-rate",
        "LOG_RATE",
        "SIZE",
        Text,
        "10MiB",
        "what one enclave may log each second on average, 1KiB to 1024MiB; lines beyond it are dropped and counted"
    ),
    key!(
        log_burst,
        "log-burst",
        "LOG_BURST",
        "SIZE",
        Text,
        "10MiB",
        "what one enclave may log at once, 1KiB to 1024MiB"
    ),
    key!(
        log_line_max,
        "log-line-max",
        "LOG_LINE_MAX",
        "SIZE",
        Text,
        "64KiB",
        "the longest line of an enclave's log, 1KiB to 1MiB; what is longer is cut and says so"
    ),
    key!(
        log_queue,
        "log-queue",
        "LOG_QUEUE",
        "SIZE",
        Text,
        "4MiB",
        "lines that wait for standard output, 64KiB to 1024MiB"
    ),
    key!(
        log_stall_timeout,
        "log-stall-timeout",
        "LOG_STALL_TIMEOUT",
        "TIME",
        Text,
        "1s",
        "how long lines wait for a standard output that does not move before they are dropped and counted, 0s to 1m"
    ),
    key!(
        interval_min,
        "interval-min",
        "INTERVAL_MIN",
        "TIME",
        Text,
        "1s",
        "the shortest interval of beats that an enclave may ask for, 1s to 1h"
    ),
    key!(
        interval_max,
        "interval-max",
        "INTERVAL_MAX",
        "TIME",
        Text,
        "1h",
        "the longest interval of beats that an enclave may ask for, 1s to 1h"
    ),
    key!(
        on_loss,
        "on-loss",
        "ON_LOSS",
        "WHAT",
        Text,
        "wait",
        "what follows the loss of an enclave: wait for the next handshake, or exit"
    ),
    key!(
        drain_timeout,
        "drain-timeout",
        "DRAIN_TIMEOUT",
        "TIME",
        Text,
        "30s",
        "how long streams may go on after SIGTERM or SIGINT, 0s to 1h"
    ),
    key!(
        idle_timeout,
        "idle-timeout",
        "IDLE_TIMEOUT",
        "TIME",
        Text,
        "1h",
        "a stream on which nothing moves for so long is closed, 1s to 7d"
    ),
    key!(
        linger_timeout,
        "linger-timeout",
        "LINGER_TIMEOUT",
        "TIME",
        Text,
        "60s",
        "how long a half-closed stream may stand still, 100ms to 1h"
    ),
    key!(
        max_streams,
        "max-streams",
        "MAX_STREAMS",
        "N",
        Integer,
        "10000",
        "streams at the same time, 1 to 500000; a connection beyond them is reset at once; one that is given has to fit under the limit of open files"
    ),
    key!(
        max_servers,
        "max-servers",
        "MAX_SERVERS",
        "N",
        Integer,
        "64",
        "servers (ingress ports) that one enclave may ask for, 0 to 1024"
    ),
    key!(
        max_clients,
        "max-clients",
        "MAX_CLIENTS",
        "N",
        Integer,
        "64",
        "clients (egress ports) that one enclave may ask for, 0 to 1024"
    ),
    key!(
        max_handshakes,
        "max-handshakes",
        "MAX_HANDSHAKES",
        "N",
        Integer,
        "4",
        "connections of one enclave to the init port that are neither a session nor beats yet, 1 to 64"
    ),
    key!(
        max_handshakes_total,
        "max-handshakes-total",
        "MAX_HANDSHAKES_TOTAL",
        "N",
        Integer,
        "64",
        "the same over all enclaves, 1 to 4096"
    ),
    key!(max_sessions, "max-sessions", "MAX_SESSIONS", "N", Integer, "64", "sessions at the same time, 1 to 4096"),
    key!(
        max_beat_connections,
        "max-beat-connections",
        "MAX_BEAT_CONNECTIONS",
        "N",
        Integer,
        "4",
        "connections with beats of one session, 1 to 64; the oldest makes room"
    ),
    key!(
        max_log_connections,
        "max-log-connections",
        "MAX_LOG_CONNECTIONS",
        "N",
        Integer,
        "16",
        "connections of one enclave to the log port, 1 to 1024"
    ),
    key!(
        max_addresses,
        "max-addresses",
        "MAX_ADDRESSES",
        "N",
        Integer,
        "16",
        "addresses of one name that are tried, 1 to 256"
    ),
    key!(
        max_monitor_connections,
        "max-monitor-connections",
        "MAX_MONITOR_CONNECTIONS",
        "N",
        Integer,
        "64",
        "connections to the monitoring port, 1 to 4096"
    ),
    key!(
        max_pipes,
        "max-pipes",
        "MAX_PIPES",
        "N",
        Integer,
        "32",
        "pipes for bulk (splice), 1 to 512; beyond them it is copied"
    ),
    key!(
        reserved_descriptors,
        "reserved-descriptors",
        "RESERVED_DESCRIPTORS",
        "N",
        Integer,
        "128",
        "descriptors kept away from streams, 64 to 100000"
    ),
    key!(
        settings_max,
        "settings-max",
        "SETTINGS_MAX",
        "SIZE",
        Text,
        "256KiB",
        "the longest settings of an enclave, 1KiB to 256KiB"
    ),
    key!(
        handshake_timeout,
        "handshake-timeout",
        "HANDSHAKE_TIMEOUT",
        "TIME",
        Text,
        "10s",
        "how long a handshake may take until the settings are there, 1s to 5m"
    ),
    key!(
        handshake_step_timeout,
        "handshake-step-timeout",
        "HANDSHAKE_STEP_TIMEOUT",
        "TIME",
        Text,
        "5s",
        "how long one step of a handshake may take (its first bytes, writing the environment, writing the answer), 1s to 5m"
    ),
    key!(
        beat_timeout,
        "beat-timeout",
        "BEAT_TIMEOUT",
        "TIME",
        Text,
        "5s",
        "how long an enclave may take to read one beat, 100ms to 1m"
    ),
    key!(
        answer_timeout,
        "answer-timeout",
        "ANSWER_TIMEOUT",
        "TIME",
        Text,
        "5s",
        "how long an enclave may take to read an answer (ACK, NAK, PROXY header), 100ms to 1m"
    ),
    key!(
        address_timeout,
        "address-timeout",
        "ADDRESS_TIMEOUT",
        "TIME",
        Text,
        "5s",
        "how long the address line of an egress stream may take, 100ms to 1m"
    ),
    key!(
        server_name_timeout,
        "server-name-timeout",
        "SERVER_NAME_TIMEOUT",
        "TIME",
        Text,
        "5s",
        "how long the ClientHello of a stream may take where egress_server_name asks for one, 100ms to 1m"
    ),
    key!(
        enclave_timeout,
        "enclave-timeout",
        "ENCLAVE_TIMEOUT",
        "TIME",
        Text,
        "2s",
        "how long reaching an enclave's port may take, 100ms to 1m"
    ),
    key!(
        resolve_timeout,
        "resolve-timeout",
        "RESOLVE_TIMEOUT",
        "TIME",
        Text,
        "5s",
        "how long resolving the name of an egress target may take, 100ms to 1m"
    ),
    key!(
        connect_timeout,
        "connect-timeout",
        "CONNECT_TIMEOUT",
        "TIME",
        Text,
        "10s",
        "how long connecting to an egress target may take, 100ms to 5m"
    ),
    key!(
        connect_race,
        "connect-race",
        "CONNECT_RACE",
        "TIME",
        Text,
        "250ms",
        "head start of the preferred address family, 10ms to 2s"
    ),
    key!(
        monitor_timeout,
        "monitor-timeout",
        "MONITOR_TIMEOUT",
        "TIME",
        Text,
        "5s",
        "how long the head of a monitoring request may take, 100ms to 1m"
    ),
    key!(
        session_end_timeout,
        "session-end-timeout",
        "SESSION_END_TIMEOUT",
        "TIME",
        Text,
        "5s",
        "how long the tasks of a session that ends may take before the next one binds its ports, 100ms to 1m"
    ),
    key!(
        cut_timeout,
        "cut-timeout",
        "CUT_TIMEOUT",
        "TIME",
        Text,
        "200ms",
        "how long cutting what is left at the end of a drain may take, 10ms to 10s"
    ),
    key!(
        sandbox,
        "sandbox",
        "SANDBOX",
        "MODE",
        Text,
        "on",
        "least privilege: on (as much as the kernel has, with a warning for the rest), require (all of it, or no start) or off"
    ),
    key!(
        vsock_window,
        "vsock-window",
        "VSOCK_WINDOW",
        "SIZE",
        Text,
        "none: the kernel's, usually 256KiB",
        "how much of a stream over AF_VSOCK may be on its way to the bridge and, on new kernels, from it: 1MiB to 8MiB"
    ),
    key!(
        vsock_write_max,
        "vsock-write-max",
        "VSOCK_WRITE_MAX",
        "SIZE",
        Text,
        "32KiB",
        "the most that one write to AF_VSOCK carries, 4KiB to 64KiB; more than 32KiB is corrupted by some devices"
    ),
    key!(
        splice,
        "splice",
        "SPLICE",
        "",
        Switch,
        "off",
        "lasting bulk between TCP and a socket path (unframed) goes through pipes and is not copied: half the processor time or less, but small messages beside it wait longer"
    ),
    key!(
        resolv_conf,
        "resolv-conf",
        "RESOLV_CONF",
        "FILE",
        Text,
        "/etc/resolv.conf",
        "the file that names the DNS servers for egress"
    ),
];

/// The keys that only an `[[enclave]]` table has: no flag, no variable.
pub(super) const TABLE_KEYS: &[Key] = &[
    Key { flag: "", variable: "", ..key!(name, "", "", "", Text, "", "what the enclave is called") },
    Key { flag: "", variable: "", ..key!(cid, "", "", "", Integer, "", "its CID") },
];

/// The key of that name.
pub(super) fn key(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The table of all keys in Markdown, as it stands in `docs/configuration.md`.
pub fn keys_table() -> String {
    let mut table = String::from("| key | variable | default | meaning |\n|---|---|---|---|\n");
    for key in KEYS {
        let name =
            if key.in_file { format!("`{}`", key.name) } else { format!("`--{}` (no key of the file)", key.flag) };
        let mut variable = format!("`{}`", key.variable);
        for also in key.also {
            variable.push_str(&format!(", else `{also}`"));
        }
        let (default, meaning) = (in_markdown(key.default), in_markdown(key.meaning));
        table.push_str(&format!("| {name} | {variable} | {default} | {meaning} |\n"));
    }
    table
}

/// Asterisks are emphasis in Markdown, but patterns here.
fn in_markdown(text: &str) -> String {
    text.replace('*', "\\*").replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_flags_and_variables_are_the_same_word() {
        for key in KEYS {
            assert_eq!(key.flag, key.name.replace('_', "-"));
            assert_eq!(key.variable, format!("{VARIABLE_PREFIX}{}", key.name.to_ascii_uppercase()));
            assert_eq!(KEYS.iter().filter(|other| other.name == key.name).count(), 1, "{}", key.name);
        }
    }
}
