//! One egress rule: what it covers, and its text.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};

use crate::name::{NamePattern, PatternError};
use crate::ports::{PortRange, PortRangesError};

/// One rule of the egress policy: `public`, `private`, `any`, `NAME[:PORTS]` or `CIDR[:PORTS]`.
///
/// `PORTS` is a port, one range (`1-1024`) or `*`; without it the rule holds for every port. In a name `*` stands for exactly one label and `**`
/// for one or more, as whole labels at the front. An IPv6 address with ports stands in brackets: `[2001:db8::1]:443`.
/// The words may have ports too (`public:443`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    scope: Scope,
    ports: PortRange,
    text: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    Public,
    Private,
    Any,
    Name(NamePattern),
    Net(IpNet),
}

/// What is wrong with the text of a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RuleError {
    /// Nothing stands there.
    #[error("the rule is empty")]
    Empty,
    /// The ports are wrong.
    #[error("{0}")]
    Ports(#[from] PortRangesError),
    /// A URL or a path stands where a host belongs.
    #[error("{0:?} looks like a URL: a rule is a host or a network, and ports, as in example.org:443")]
    Url(String),
    /// Neither a name nor a pattern of names.
    #[error("{text:?} is no host name: {reason}")]
    Name {
        /// The host as written.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A name that would be written like one of the words.
    #[error("{0:?} is another spelling of a word: public, private and any are no host names here")]
    Word(String),
    /// An address that is none.
    #[error("{0:?} is not an IP address")]
    Address(String),
    /// The prefix length is no number of bits.
    #[error("{text:?} is not a network: the prefix length is 0 to {max}")]
    PrefixLength {
        /// The network as written.
        text: String,
        /// 32 or 128.
        max: u8,
    },
    /// Bits are set behind the prefix.
    #[error("{text} is an address inside a network: write {network} for the network or {address} for the address")]
    HostBits {
        /// The rule as written.
        text: String,
        /// The network that it is in.
        network: String,
        /// The address alone.
        address: String,
    },
    /// An address with a zone id (`fe80::1%eth0`).
    #[error("{0:?} has a zone id: a rule names an address without its interface")]
    Zone(String),
}

impl Rule {
    /// Whether it covers names, and not addresses.
    pub fn is_by_name(&self) -> bool {
        self.name().is_some()
    }

    pub(crate) fn scope(&self) -> &Scope {
        &self.scope
    }

    pub(crate) fn covers_port(&self, port: u16) -> bool {
        self.ports.contains(port)
    }

    /// The rule's name pattern, if it is a rule by name.
    pub(crate) fn name(&self) -> Option<&NamePattern> {
        match &self.scope {
            Scope::Name(pattern) => Some(pattern),
            Scope::Public | Scope::Private | Scope::Any | Scope::Net(_) => None,
        }
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    fn new(scope: Scope, ports: PortRange) -> Self {
        let host = match &scope {
            Scope::Public => "public".to_owned(),
            Scope::Private => "private".to_owned(),
            Scope::Any => "any".to_owned(),
            Scope::Name(pattern) => pattern.to_string(),
            Scope::Net(net) if net.prefix_len() == net.max_prefix_len() => net.addr().to_string(),
            Scope::Net(net) => net.to_string(),
        };
        let text = match (ports == PortRange::ALL, host.contains(':')) {
            (true, _) => host,
            (false, false) => format!("{host}:{ports}"),
            (false, true) => format!("[{host}]:{ports}"),
        };
        Self { scope, ports, text }
    }
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if text.is_empty() {
            return Err(RuleError::Empty);
        }
        if text.contains("://") {
            return Err(RuleError::Url(text.to_owned()));
        }
        let (host, ports) = split_ports(text)?;
        let ports = match ports {
            None | Some("*") => PortRange::ALL,
            Some(ports) => ports.parse()?,
        };
        Ok(Self::new(scope(host)?, ports))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Takes `[HOST]`, `[HOST]:PORTS`, `[HOST]/LENGTH:PORTS`, `HOST:PORTS`, `HOST` apart; a bare IPv6 address has no ports.
fn split_ports(text: &str) -> Result<(Host<'_>, Option<&str>), RuleError> {
    if let Some(rest) = text.strip_prefix('[') {
        let Some((address, rest)) = rest.split_once(']') else {
            return Err(RuleError::Address(text.to_owned()));
        };
        let (length, ports) = match rest.split_once(':') {
            Some((length, ports)) => (length, Some(ports)),
            None => (rest, None),
        };
        let length = match length.strip_prefix('/') {
            Some(length) => Some(length),
            None if length.is_empty() => None,
            None => return Err(RuleError::Address(text.to_owned())),
        };
        let (address, length) = match (address.split_once('/'), length) {
            (Some((address, inner)), None) => (address, Some(inner)),
            (Some(_), Some(_)) => return Err(RuleError::Address(text.to_owned())),
            (None, length) => (address, length),
        };
        return Ok((Host::Bracketed(address, length), ports));
    }
    let colons = text.matches(':').count();
    match text.split_once('/') {
        // Behind the slash there is no more of an address, so a colon there begins the ports.
        Some((_, behind)) => match behind.split_once(':') {
            Some((length, ports)) => {
                let host = text.strip_suffix(ports).and_then(|host| host.strip_suffix(':')).unwrap_or(text);
                let address = host.strip_suffix(length).and_then(|host| host.strip_suffix('/')).unwrap_or(host);
                Ok((Host::Net(address, length), Some(ports)))
            }
            None => Ok((
                text.split_once('/').map_or(Host::Bare(text), |(address, length)| Host::Net(address, length)),
                None,
            )),
        },
        None if colons >= 2 => Ok((Host::Bare(text), None)),
        None => match text.split_once(':') {
            Some((host, ports)) => Ok((Host::Bare(host), Some(ports))),
            None => Ok((Host::Bare(text), None)),
        },
    }
}

/// What is no name in a rule.
const WORDS: [&str; 3] = ["public", "private", "any"];

enum Host<'t> {
    /// What stood in brackets, and a prefix length.
    Bracketed(&'t str, Option<&'t str>),
    /// Address and prefix length.
    Net(&'t str, &'t str),
    /// A word, a name or an address.
    Bare(&'t str),
}

fn scope(host: Host<'_>) -> Result<Scope, RuleError> {
    let (address, length) = match host {
        Host::Bracketed(address, length) => (address, length),
        Host::Net(address, length) => (address, Some(length)),
        Host::Bare(word) => {
            match word.to_ascii_lowercase().as_str() {
                "public" => return Ok(Scope::Public),
                "private" => return Ok(Scope::Private),
                "any" => return Ok(Scope::Any),
                _ => {}
            }
            let is_address = word.contains(':') || word.parse::<Ipv4Addr>().is_ok();
            if !is_address {
                let pattern = NamePattern::parse(word).map_err(|reason| name_error(word, &reason))?;
                // Another spelling of a word (`any.`, full-width letters): as a rule it would be shown as the word, which
                // means something else.
                if WORDS.contains(&pattern.to_string().as_str()) {
                    return Err(RuleError::Word(word.to_owned()));
                }
                return Ok(Scope::Name(pattern));
            }
            (word, None)
        }
    };
    if address.contains('%') {
        return Err(RuleError::Zone(address.to_owned()));
    }
    let ip: IpAddr = match address.parse() {
        Ok(ip) => ip,
        Err(_)
            if length.is_some() && !address.contains(':') && address.bytes().any(|byte| byte.is_ascii_alphabetic()) =>
        {
            return Err(RuleError::Url(format!("{address}/{}", length.unwrap_or_default())));
        }
        Err(_) => return Err(RuleError::Address(address.to_owned())),
    };
    net(ip, length).map(Scope::Net)
}

fn net(address: IpAddr, length: Option<&str>) -> Result<IpNet, RuleError> {
    let max = IpNet::from(address).max_prefix_len();
    let net = match length {
        None => IpNet::from(address),
        Some(length) => {
            let text = format!("{address}/{length}");
            let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
            let bits = length.parse::<u8>().ok().filter(|_| digits);
            let Some(net) = bits.and_then(|bits| IpNet::new(address, bits).ok()) else {
                return Err(RuleError::PrefixLength { text, max });
            };
            if net.addr() != net.network() {
                return Err(RuleError::HostBits {
                    text,
                    network: net.trunc().to_string(),
                    address: address.to_string(),
                });
            }
            net
        }
    };
    Ok(unmapped(net))
}

/// Addresses are judged in canonical form, so a network of mapped addresses is the IPv4 network that it maps.
fn unmapped(net: IpNet) -> IpNet {
    let IpNet::V6(v6) = net else { return net };
    let mapped = v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(96));
    mapped.and_then(|(address, length)| Ipv4Net::new(address, length).ok()).map_or(net, IpNet::V4)
}

fn name_error(text: &str, reason: &PatternError) -> RuleError {
    RuleError::Name { text: text.to_owned(), reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_and_written_in_one_spelling() {
        for (text, expected) in [
            ("public", "public"),
            ("Private", "private"),
            ("any:443", "any:443"),
            ("example.org", "example.org"),
            ("Example.ORG.:443", "example.org:443"),
            ("*.example.org:1-1024", "*.example.org:1-1024"),
            ("**.example.org:*", "**.example.org"),
            ("**", "**"),
            ("bücher.example:80", "xn--bcher-kva.example:80"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.0.0.0/8:5432", "10.0.0.0/8:5432"),
            ("10.0.0.1", "10.0.0.1"),
            ("10.0.0.1/32", "10.0.0.1"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("::1", "::1"),
            ("[::1]", "::1"),
            ("[::1]:80", "[::1]:80"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("2001:db8::/32:443", "[2001:db8::/32]:443"),
            ("[2001:db8::]/32:443", "[2001:db8::/32]:443"),
            ("[2001:db8::/32]:443", "[2001:db8::/32]:443"),
            ("[2001:db8::/32]", "2001:db8::/32"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            (" public ", "public"),
        ] {
            let rule: Rule = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(rule.to_string(), expected);
            assert_eq!(rule.to_string().parse::<Rule>().as_ref(), Ok(&rule), "{text}");
        }
    }

    #[test]
    fn errors_say_what_is_wrong() {
        for (text, expected) in [
            ("", "the rule is empty"),
            ("example.org:", "a port is missing"),
            ("example.org:http", "\"http\" is not a port: ports are written as 443 or 1-1024"),
            ("example.org:0", "port 0 is outside 1 to 65535"),
            ("example.org:70000", "port 70000 is outside 1 to 65535"),
            (
                "https://example.org",
                "\"https://example.org\" looks like a URL: a rule is a host or a network, and ports, as in example.org:443",
            ),
            (
                "example.org/path",
                "\"example.org/path\" looks like a URL: a rule is a host or a network, and ports, as in example.org:443",
            ),
            (
                "foo.*.com",
                "\"foo.*.com\" is no host name: '*' and '**' stand for whole labels at the front of a name, as in *.example.org",
            ),
            ("a b", "\"a b\" is no host name: a host name has only letters, digits, '-' and '_' between its dots"),
            (
                "127.1",
                "\"127.1\" is no host name: ends in a number, so it can only be an IPv4 address, which is written as four decimal numbers",
            ),
            ("1.2.3/8", "\"1.2.3\" is not an IP address"),
            ("10.0.0.0/33", "\"10.0.0.0/33\" is not a network: the prefix length is 0 to 32"),
            ("10.0.0.0/", "\"10.0.0.0/\" is not a network: the prefix length is 0 to 32"),
            ("10.0.0.0/+8", "\"10.0.0.0/+8\" is not a network: the prefix length is 0 to 32"),
            ("::/129", "\"::/129\" is not a network: the prefix length is 0 to 128"),
            (
                "10.1.2.3/8",
                "10.1.2.3/8 is an address inside a network: write 10.0.0.0/8 for the network or 10.1.2.3 for the address",
            ),
            ("fe80::1%eth0", "\"fe80::1%eth0\" has a zone id: a rule names an address without its interface"),
            ("[::1", "\"[::1\" is not an IP address"),
            ("[::1]x", "\"[::1]x\" is not an IP address"),
            ("[::1]443", "\"[::1]443\" is not an IP address"),
            ("[2001:db8::/32]/32", "\"[2001:db8::/32]/32\" is not an IP address"),
            ("any.:443", "\"any.\" is another spelling of a word: public, private and any are no host names here"),
            ("ｐublic", "\"ｐublic\" is another spelling of a word: public, private and any are no host names here"),
            ("[example.org]:80", "\"example.org\" is not an IP address"),
            ("1:2:3", "\"1:2:3\" is not an IP address"),
        ] {
            assert_eq!(text.parse::<Rule>().unwrap_err().to_string(), expected, "{text}");
        }
    }
}
