//! The egress address line: what an enclave wants to be connected to. Whether it may is policy.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::text::quoted;
use crate::{Nak, NakCode};

/// The longest address line in bytes, its `0A` not counted: a name of 253, a colon, a port, and room.
pub const ADDRESS_LINE_MAX_BYTES: usize = 300;

/// The longest name in bytes; what DNS can ask for.
pub const NAME_MAX_BYTES: usize = 253;

/// What an enclave wants to be connected to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The name or address.
    pub host: Host,
    /// The TCP port, not 0.
    pub port: u16,
}

/// A name or an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// A name as it was written, 1 to [`NAME_MAX_BYTES`] bytes, without white space, control characters, and the
    /// characters that mean something in URLs and addresses. Not normalised; may still be an odd spelling of an
    /// IPv4 address.
    Name(String),
    /// An address: four decimal parts, or IPv6 in brackets.
    Ip(IpAddr),
}

impl Target {
    /// Reads an address line, given without its `0A`: `host:port`, IPv6 in brackets, the port in plain decimal.
    ///
    /// # Errors
    /// `BAD_TARGET`; the sentence says what is wrong.
    pub fn parse(line: &[u8]) -> Result<Self, Nak> {
        let bad = |what: &str| Nak::new(NakCode::BadTarget, what);
        if line.len() > ADDRESS_LINE_MAX_BYTES {
            return Err(bad("address line longer than 300 bytes"));
        }
        let text = std::str::from_utf8(line).map_err(|_| bad("address line is not UTF-8"))?;
        let (host, port) = text.rsplit_once(':').ok_or_else(|| bad(&format!("{} has no port", shown(text, text))))?;
        let port = parse_port(port).ok_or_else(|| bad(&format!("{} is not a port", shown(text, port))))?;
        let host = if let Some(inner) = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')) {
            let address: Ipv6Addr =
                inner.parse().map_err(|_| bad(&format!("{} is not an IPv6 address", shown(text, inner))))?;
            Host::Ip(address.into())
        } else if let Ok(address) = host.parse::<Ipv4Addr>() {
            Host::Ip(address.into())
        } else if is_name(host) {
            Host::Name(host.to_owned())
        } else {
            return Err(bad(&format!("{} is not a host", shown(text, host))));
        };
        Ok(Self { host, port })
    }

    /// The address line with its `0A`.
    pub fn encode_line(&self) -> Vec<u8> {
        format!("{self}\n").into_bytes()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(name) => f.write_str(name),
            Host::Ip(IpAddr::V4(address)) => address.fmt(f),
            Host::Ip(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

/// A piece of the line for the refusal of it. What came from a URL may have a password or a token in it, and is not repeated;
/// the piece of it behind its last colon neither.
fn shown(line: &str, piece: &str) -> String {
    if line.contains(['/', '?', '#', '@', '=']) { "a piece of a URL".to_owned() } else { quoted(piece) }
}

/// Whether a text can be a name at all; which names there are is for others to say.
pub(crate) fn is_name(text: &str) -> bool {
    let bad = |c: char| {
        c.is_control()
            || c.is_whitespace()
            || matches!(c, '/' | '\\' | '%' | '@' | ':' | '[' | ']' | '?' | '#' | '"' | '\'' | '<' | '>' | ',' | ';')
    };
    (1..=NAME_MAX_BYTES).contains(&text.len()) && !text.contains(bad)
}

/// Plain decimal: no sign, no leading zero, not 0.
fn parse_port(text: &str) -> Option<u16> {
    let plain = text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    if plain { text.parse().ok() } else { None }
}
