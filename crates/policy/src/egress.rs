//! Whether an enclave may connect to a target: by its name before resolving, by every address after it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use enclave_bridge_proto::{Host, Target};
use ipnet::IpNet;

use crate::address::{AddressClass, class_network, facets, own_class, range_class};
use crate::name::normalise;
use crate::refusal::Refusal;
use crate::rule::{Rule, Scope};

/// The operator's rules for connections out of an enclave. Deny wins; what no rule allows is refused.
///
/// Order of calls: [`judge`](Self::judge) a target; for [`Judged::Resolve`] resolve the name and
/// [`judge_address`](Self::judge_address) every address; dial [`JudgedAddress::socket_addr`] and nothing else.
///
/// What each rule opens:
/// - `public` and `private` open addresses of these classes, `any` both, a network its addresses; reserved ranges only a network.
/// - A rule by name opens the public and private addresses that the name resolves to, with a wildcard only the public ones.
/// - A special address (loopback, link-local, multicast, broadcast, unspecified) opens only to a network inside its own class's
///   network; a metadata service and the host's own addresses only to the full-length address.
/// - The bridge's own listeners are open to no rule.
///
/// A denying rule covers at least what the same allowing rule covers: `any` denies every address, special ones too.
/// An IPv6 address that embeds IPv4 ones is open only if each of them is open too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EgressPolicy {
    allow: Vec<Rule>,
    deny: Vec<Rule>,
    server_names: Vec<Rule>,
}

/// What the host is itself, so that no tunnel leads back into it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnAddresses {
    /// The addresses of the host's interfaces.
    pub addresses: Vec<IpAddr>,
    /// The bridge's own TCP listeners; an unspecified address stands for every own address.
    pub listeners: Vec<SocketAddr>,
}

/// The answer to a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judged {
    /// The target was an address and may be dialled.
    Address(JudgedAddress),
    /// The target is a name that may be resolved; its addresses are judged one by one.
    Resolve(NameGrant),
}

/// A name that may be resolved, in its one spelling, with the port that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameGrant {
    name: String,
    port: u16,
    by_name: bool,
}

impl NameGrant {
    /// The name in lower case, ASCII (IDNA), without a trailing dot.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The TCP port that was asked for.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether a rule by name covers it. Otherwise it is resolved only because rules by address may open its addresses, and whoever
    /// cannot see these has nothing that allows it.
    pub fn is_by_name(&self) -> bool {
        self.by_name
    }
}

/// An address and port that the policy allows: the only thing that egress may dial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JudgedAddress {
    address: SocketAddr,
    rule: String,
}

impl JudgedAddress {
    /// What to dial; a mapped IPv4 address is in its IPv4 form.
    pub fn socket_addr(&self) -> SocketAddr {
        self.address
    }

    /// The rule that allowed it.
    pub fn rule(&self) -> &str {
        &self.rule
    }
}

impl EgressPolicy {
    /// The policy of these rules; both lists empty allow nothing.
    pub fn new(allow: Vec<Rule>, deny: Vec<Rule>) -> Self {
        Self { allow, deny, server_names: Vec::new() }
    }

    /// The same, where streams to the names of these rules must begin with a TLS ClientHello for the name that was asked for.
    /// Rules that are no rules by name cover nothing here. The policy only says so: whoever relays the stream sees to it, which the
    /// bridge does.
    #[must_use]
    pub fn with_server_names(self, server_names: Vec<Rule>) -> Self {
        Self { server_names, ..self }
    }

    /// The rule by which a stream to this name must begin with a TLS ClientHello whose server name is
    /// [`NameGrant::name`]; `None` if it may begin as it likes.
    pub fn server_name_rule(&self, name: &NameGrant) -> Option<&Rule> {
        named(&self.server_names, &name.name, name.port).next()
    }

    /// Judges a target before anything is resolved.
    ///
    /// # Errors
    /// `BadTarget` for a name that is none (an IPv4 address in another spelling than four decimal numbers, too), `Denied`
    /// with the deciding rule or with "no rule allows".
    pub fn judge(&self, target: &Target, own: &OwnAddresses) -> Result<Judged, Refusal> {
        let port = target.port;
        if port == 0 {
            return Err(Refusal::bad_target("port 0 cannot be connected to"));
        }
        let raw = match &target.host {
            Host::Ip(address) => return self.judge_ip(None, *address, port, own).map(Judged::Address),
            Host::Name(raw) => raw,
        };
        let name = normalise(raw).map_err(|reason| Refusal::bad_target(format!("{:?}: {reason}", clipped(raw))))?;
        if let Some(rule) = named(&self.deny, &name, port).next() {
            return Err(denied_by(rule));
        }
        let by_name = named(&self.allow, &name, port).next().is_some();
        let by_address = || self.allow.iter().any(|rule| rule.name().is_none() && rule.covers_port(port));
        if by_name || by_address() {
            Ok(Judged::Resolve(NameGrant { name, port, by_name }))
        } else {
            Err(Refusal::denied(format!("no rule allows {name}:{port}")))
        }
    }

    /// Judges one address that a name resolved to. The name is judged again: the policy may be a newer one.
    ///
    /// # Errors
    /// `Denied` with the deciding rule, the class of the address, or "no rule allows".
    pub fn judge_address(
        &self,
        name: &NameGrant,
        address: IpAddr,
        own: &OwnAddresses,
    ) -> Result<JudgedAddress, Refusal> {
        if let Some(rule) = named(&self.deny, &name.name, name.port).next() {
            return Err(denied_by(rule));
        }
        self.judge_ip(Some(&name.name), address, name.port, own)
    }

    /// What decides about the addresses of a name, in words and in the order of the decision; for whoever wants to know why
    /// before anything is resolved.
    pub fn explain(&self, name: &NameGrant) -> Vec<String> {
        let port = name.port;
        let by_address = |rules: &[Rule]| -> Vec<Rule> {
            rules.iter().filter(|rule| rule.name().is_none() && rule.covers_port(port)).cloned().collect()
        };
        let mut lines = Vec::new();
        for rule in by_address(&self.deny) {
            let what = match rule.scope() {
                Scope::Any | Scope::Name(_) => "every address".to_owned(),
                Scope::Public => "public addresses".to_owned(),
                Scope::Private => "private addresses".to_owned(),
                Scope::Net(net) => format!("addresses in {net}"),
            };
            lines.push(format!("{what}: denied by rule {rule}"));
        }
        for rule in named(&self.allow, &name.name, port) {
            let wildcard = rule.name().is_some_and(crate::name::NamePattern::is_wildcard);
            let what = if wildcard { "public addresses" } else { "public and private addresses" };
            lines.push(format!("{what}: allowed by rule {rule}"));
        }
        for rule in by_address(&self.allow) {
            let what = match rule.scope() {
                Scope::Any | Scope::Name(_) => "public and private addresses".to_owned(),
                Scope::Public => "public addresses".to_owned(),
                Scope::Private => "private addresses".to_owned(),
                Scope::Net(net) => format!("addresses in {net}"),
            };
            lines.push(format!("{what}: allowed by rule {rule}"));
        }
        if let Some(rule) = self.server_name_rule(name) {
            lines.push(format!("the stream must begin with a TLS ClientHello for {}: rule {rule}", name.name));
        }
        lines.push(
            "all others, and the metadata service, loopback, link-local, multicast and the host's own unless a rule names the address: denied"
                .to_owned(),
        );
        lines
    }

    fn judge_ip(
        &self,
        name: Option<&str>,
        address: IpAddr,
        port: u16,
        own: &OwnAddresses,
    ) -> Result<JudgedAddress, Refusal> {
        let address = address.to_canonical();
        if facets(address).any(|facet| own.listens_at(facet, port)) {
            return Err(Refusal::denied(format!(
                "{} is the bridge's own listener, open to no rule",
                Endpoint(address, port)
            )));
        }
        for facet in facets(address) {
            if let Some(rule) = self.deny.iter().find(|rule| rule.covers_port(port) && denies(rule, facet)) {
                return Err(denied_by(rule));
            }
        }
        let mut deciding = None;
        for facet in facets(address) {
            let opening =
                self.opening(name, facet, port, own).ok_or_else(|| not_open(address, facet, name, port, own))?;
            // The rule that the log names is the one for the address that is dialled, not for what it embeds.
            deciding.get_or_insert(opening);
        }
        match deciding {
            Some(rule) => Ok(JudgedAddress { address: SocketAddr::new(address, port), rule: rule.text().to_owned() }),
            None => Err(not_open(address, address, name, port, own)),
        }
    }

    /// The first rule that opens an address by itself, rules by name first.
    fn opening(&self, name: Option<&str>, facet: IpAddr, port: u16, own: &OwnAddresses) -> Option<&Rule> {
        let class = own_class(facet);
        let closed = class.is_special() || own.holds(facet);
        let by_name = name.into_iter().flat_map(|name| named(&self.allow, name, port)).find(|rule| {
            let wildcard = rule.name().is_some_and(crate::name::NamePattern::is_wildcard);
            !closed && (class == AddressClass::Public || (class == AddressClass::Private && !wildcard))
        });
        by_name.or_else(|| {
            self.allow.iter().find(|rule| {
                rule.covers_port(port)
                    && match rule.scope() {
                        Scope::Public => !closed && class == AddressClass::Public,
                        Scope::Private => !closed && class == AddressClass::Private,
                        Scope::Any => !closed && matches!(class, AddressClass::Public | AddressClass::Private),
                        Scope::Net(net) => net.contains(&facet) && (!closed || own.key(facet, class).contains(net)),
                        Scope::Name(_) => false,
                    }
            })
        })
    }
}

impl OwnAddresses {
    fn holds(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|own| own.to_canonical() == address)
    }

    /// The network that a rule must lie inside to open a closed address.
    fn key(&self, address: IpAddr, class: AddressClass) -> IpNet {
        // The loopback addresses are the host's own as well, and listed by whoever lists interfaces.
        if self.holds(address) && class != AddressClass::Loopback {
            IpNet::from(address)
        } else {
            class_network(address, class)
        }
    }

    /// Whether connecting there would reach one of the bridge's own listeners.
    fn listens_at(&self, address: IpAddr, port: u16) -> bool {
        self.listeners.iter().filter(|listener| listener.port() == port).any(|listener| {
            let bound = listener.ip().to_canonical();
            let class = own_class(address);
            let own = class == AddressClass::Loopback || class == AddressClass::Unspecified || self.holds(address);
            match (bound.is_unspecified(), bound) {
                // `::` may take IPv4 too; 0.0.0.0 takes nothing else.
                (true, IpAddr::V6(_)) => own,
                (true, IpAddr::V4(_)) => own && address.is_ipv4(),
                // Connecting to the unspecified address arrives at loopback.
                (false, _) => bound == address || (bound.is_loopback() && class == AddressClass::Unspecified),
            }
        })
    }
}

fn named<'r>(rules: &'r [Rule], name: &str, port: u16) -> impl Iterator<Item = &'r Rule> {
    rules.iter().filter(move |rule| rule.covers_port(port) && rule.name().is_some_and(|pattern| pattern.matches(name)))
}

/// Whether a denying rule covers an address. A metadata service is denied as what its range is, besides.
fn denies(rule: &Rule, facet: IpAddr) -> bool {
    match rule.scope() {
        Scope::Public => range_class(facet) == AddressClass::Public,
        Scope::Private => range_class(facet) == AddressClass::Private,
        Scope::Any => true,
        Scope::Net(net) => net.contains(&facet),
        Scope::Name(_) => false,
    }
}

fn denied_by(rule: &Rule) -> Refusal {
    Refusal::denied(format!("denied by rule {rule}"))
}

fn not_open(address: IpAddr, facet: IpAddr, name: Option<&str>, port: u16, own: &OwnAddresses) -> Refusal {
    let class = own_class(facet);
    let embeds = if facet == address { String::new() } else { format!(" (inside {address})") };
    if own.holds(facet) && class != AddressClass::Loopback {
        return Refusal::denied(format!(
            "{facet}{embeds} is the host's own address, open only to a rule that names the address"
        ));
    }
    if class.is_special() {
        let key = match class {
            AddressClass::Metadata | AddressClass::Unspecified | AddressClass::Broadcast => "the address",
            AddressClass::Public
            | AddressClass::Private
            | AddressClass::Reserved
            | AddressClass::Multicast
            | AddressClass::LinkLocal
            | AddressClass::Loopback => "the address or its network",
        };
        return Refusal::denied(format!("{facet}{embeds} is {}, open only to a rule that names {key}", class.noun()));
    }
    match name {
        Some(name) => Refusal::denied(format!("no rule allows {facet}{embeds} for {name}:{port}")),
        None => Refusal::denied(format!("no rule allows {}{embeds}", Endpoint(facet, port))),
    }
}

/// An address and a port as people write them.
struct Endpoint(IpAddr, u16);

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::new(self.0, self.1).fmt(f)
    }
}

/// The peer's text in a refusal, short enough that the reason behind it still fits into a NAK of 256 bytes.
fn clipped(raw: &str) -> String {
    const SHOWN_CHARACTERS: usize = 64;
    let mut shown: String = raw.chars().take(SHOWN_CHARACTERS).collect();
    if shown.len() < raw.len() {
        shown.push('…');
    }
    shown
}
