//! One text → one typed value, or what is wrong with it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use enclave_bridge_policy::Rule;

use super::duration::parse_duration;
use super::size::parse_size;
use super::values::{LogFormat, OnLoss, SandboxMode};

/// The bounds of a duration and why they are there.
pub(super) struct Bounds {
    pub(super) from: Duration,
    pub(super) to: Duration,
    pub(super) text: &'static str,
}

/// The bounds of a size in bytes and why they are there.
pub(super) struct SizeBounds {
    pub(super) from: u32,
    pub(super) to: u32,
    pub(super) text: &'static str,
}

/// The bounds of a number of things and why they are there.
pub(super) struct CountBounds {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) why: &'static str,
}

/// Bytes of `--uds-path`: a Unix socket's name takes 107 (unix(7)), of which `_` and a port of ten digits are ours.
const UDS_PATH_MAX_BYTES: usize = 96;
/// Bytes of an enclave's name: it stands in every line about it.
const NAME_MAX_BYTES: usize = 64;

/// Reads a type that reads itself; the text is put before a reason that does not show it.
pub(super) fn parsed<T: FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| {
        let reason = error.to_string();
        if text.is_empty() || reason.contains(text) { reason } else { format!("{text:?}: {reason}") }
    })
}

pub(super) fn switch(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

pub(super) fn uds_path(text: &str) -> Result<PathBuf, String> {
    if text.len() > UDS_PATH_MAX_BYTES {
        let length = text.len();
        return Err(format!(
            "the path is {length} bytes long; a Unix socket's name with a port behind it leaves room for {UDS_PATH_MAX_BYTES}"
        ));
    }
    path(text)
}

pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("the path is empty".to_owned());
    }
    if text.contains('\0') {
        return Err("the path has a NUL in it".to_owned());
    }
    Ok(PathBuf::from(text))
}

pub(super) fn vsock_port(text: &str) -> Result<u32, String> {
    // 4294967295 is VMADDR_PORT_ANY.
    number(text, 1, u32::MAX - 1).ok_or_else(|| format!("{text:?} is no vsock port: a number from 1 to 4294967294"))
}

pub(super) fn cid(text: &str) -> Result<u32, String> {
    // 0 is the hypervisor's, which never connects; 4294967295 is VMADDR_CID_ANY.
    number(text, 1, u32::MAX - 1)
        .ok_or_else(|| format!("{text:?} is no CID: a number from 1 to 4294967294, guests have 3 and up"))
}

/// A number in decimal digits and nothing else, within bounds.
fn number<N: FromStr + PartialOrd>(text: &str, from: N, to: N) -> Option<N> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| digits && *number >= from && *number <= to)
}

pub(super) fn socket_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is no address with a port, as in 0.0.0.0:8888 or [::]:8888"))
}

pub(super) fn ip_address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is no IP address, as in 0.0.0.0, 127.0.0.1 or ::"))
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "raw" => Ok(LogFormat::Raw),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("{text:?} is no log format: raw or json")),
    }
}

pub(super) fn on_loss(text: &str) -> Result<OnLoss, String> {
    match text {
        "wait" => Ok(OnLoss::Wait),
        "exit" => Ok(OnLoss::Exit),
        _ => Err(format!("{text:?} is not what can follow a loss: wait or exit")),
    }
}

pub(super) fn sandbox(text: &str) -> Result<SandboxMode, String> {
    match text {
        "on" => Ok(SandboxMode::On),
        "off" => Ok(SandboxMode::Off),
        "require" => Ok(SandboxMode::Require),
        _ => Err(format!("{text:?} is no way to run the sandbox: on, require or off")),
    }
}

pub(super) fn duration(text: &str, bounds: &Bounds) -> Result<Duration, String> {
    let duration = parse_duration(text).map_err(|error| error.to_string())?;
    if duration < bounds.from || duration > bounds.to {
        return Err(format!("{text:?} is outside {}", bounds.text));
    }
    Ok(duration)
}

pub(super) fn size(text: &str, bounds: &SizeBounds) -> Result<u32, String> {
    let bytes = parse_size(text).map_err(|error| error.to_string())?;
    if bytes < bounds.from || bytes > bounds.to {
        return Err(format!("{text:?} is outside {}", bounds.text));
    }
    Ok(bytes)
}

pub(super) fn count(text: &str, bounds: &CountBounds) -> Result<usize, String> {
    let CountBounds { from, to, why } = bounds;
    number(text, *from, *to).ok_or_else(|| format!("{text:?} is not from {from} to {to}: {why}"))
}

/// A rule that covers names.
pub(super) fn name_rule(text: &str) -> Result<Rule, String> {
    let rule: Rule = parsed(text)?;
    if !rule.is_by_name() {
        return Err(format!(
            "{text:?} covers addresses: only a name has a server name, as in **:443 or api.example.org:443"
        ));
    }
    Ok(rule)
}

/// The name of an enclave, which stands in log lines and in JSON.
pub(super) fn enclave_name(text: &str) -> Result<String, String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if text.is_empty() || text.len() > NAME_MAX_BYTES || !text.bytes().all(allowed) {
        return Err(format!("{text:?} is no name: 1 to {NAME_MAX_BYTES} letters, digits, '.', '_' and '-'"));
    }
    Ok(text.to_owned())
}
