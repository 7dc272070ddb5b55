//! From a request in an enclave's settings to a grant, within what the operator allows.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use enclave_bridge_proto::{EnclaveId, Nak, NakCode, ServerRequest, Settings};

use crate::ports::PortRanges;
use crate::refusal::Refusal;

/// How many servers an enclave may ask for. Far above what one program serves; each is one listener.
pub const MAX_SERVERS_DEFAULT: usize = 64;
/// How many clients (egress ports) an enclave may ask for; each is one listener.
pub const MAX_CLIENTS_DEFAULT: usize = 64;

/// What the operator allows every enclave. Settings can only narrow it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorPolicy {
    /// TCP ports that enclaves may ask for.
    pub ingress_ports: PortRanges,
    /// Where servers listen unless they ask for another address.
    pub ingress_address: IpAddr,
    /// TCP ports of the bridge itself (monitoring), refused at every address.
    pub own_tcp_ports: Vec<u16>,
    /// Vsock ports of the bridge itself (init, log).
    pub own_vsock_ports: Vec<u32>,
    /// Most servers of one enclave.
    pub max_servers: usize,
    /// Most clients of one enclave.
    pub max_clients: usize,
    /// The shortest and the longest interval of beats that an enclave may ask for; the wire has bounds of its own besides.
    pub intervals: RangeInclusive<Duration>,
    /// The CIDs that may speak to the bridge; `None` is any guest, in strict mode nobody.
    pub allow_cids: Option<Vec<u32>>,
    /// Nothing by default.
    pub strict: bool,
}

/// What the transport vouches for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerIdentity {
    /// The CID that the kernel reports.
    Cid(u32),
    /// A socket path that the operator named; the peer's CID is not known and not compared.
    Path,
}

/// CIDs below this are no guests: 0 is the hypervisor, 1 the machine itself, 2 the host (vsock(7)).
const FIRST_GUEST_CID: u32 = 3;
/// `VMADDR_CID_ANY`, which no peer has.
const ANY_CID: u32 = u32::MAX;

/// Whether this peer may speak to the bridge at all; asked before a byte of it is read.
///
/// A CID below 3 is permitted only where the operator lists it. A socket path that the operator gave counts as listed.
///
/// # Errors
/// `Busy`, with the CID.
pub fn permit_peer(operator: &OperatorPolicy, peer: PeerIdentity) -> Result<(), Refusal> {
    let PeerIdentity::Cid(cid) = peer else { return Ok(()) };
    let refusal = |reason: &str| Err(Refusal::new(NakCode::Busy, format!("CID {cid} {reason}")));
    match &operator.allow_cids {
        Some(listed) if listed.contains(&cid) => Ok(()),
        Some(_) => refusal("is not among the allowed"),
        None if operator.strict => refusal("is not listed, and strict mode allows only listed ones"),
        None if cid < FIRST_GUEST_CID || cid == ANY_CID => refusal("is not a guest's"),
        None => Ok(()),
    }
}

/// What an enclave may have. Made only by [`grant`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    app_name: String,
    id: EnclaveId,
    interval: Duration,
    servers: Vec<ServerGrant>,
    clients: Vec<ClientGrant>,
}

/// One TCP listener for an enclave.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerGrant {
    /// Where the bridge listens.
    pub listen: SocketAddr,
    /// The vsock port that it dials in the enclave.
    pub enclave_port: u32,
    /// Whether a PROXY protocol header goes before the first byte.
    pub proxy_v2: bool,
    /// Whether the enclave's leg is framed.
    pub framed: bool,
}

/// One vsock listener for an enclave's egress.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientGrant {
    /// The vsock port on the host that the enclave dials.
    pub vsock_port: u32,
    /// Bound for everything up to the ACK.
    pub request_timeout: Duration,
    /// Whether the enclave's leg is framed.
    pub framed: bool,
}

impl Grant {
    /// The servers in the order of the settings.
    pub fn servers(&self) -> &[ServerGrant] {
        &self.servers
    }

    /// The clients in the order of the settings.
    pub fn clients(&self) -> &[ClientGrant] {
        &self.clients
    }

    /// The id that the enclave beats with.
    pub fn id(&self) -> EnclaveId {
        self.id
    }

    /// The interval of beats, from which the loss is judged.
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// What the enclave calls itself; its own claim, no identity.
    pub fn app_name(&self) -> &str {
        &self.app_name
    }
}

/// Turns what the settings ask for into what the enclave may have, all of it or nothing.
///
/// # Errors
/// The NAK for the enclave: `TOO_MANY`, `BAD_INTERVAL`, `CID_MISMATCH`, `PORT_NOT_ALLOWED` (also for an address) or `DUPLICATE_PORT`; its
/// sentence begins with the path in the settings.
pub fn grant(settings: &Settings, peer: PeerIdentity, operator: &OperatorPolicy) -> Result<Grant, Nak> {
    within("servers", settings.servers.len(), operator.max_servers)?;
    within("clients", settings.clients.len(), operator.max_clients)?;
    if !operator.intervals.contains(&settings.interval) {
        let (shortest, longest) = (operator.intervals.start(), operator.intervals.end());
        let asked = settings.interval;
        return Err(Nak::new(
            NakCode::BadInterval,
            format!("watchdog.interval: {asked:?} is outside {shortest:?} to {longest:?}, which the operator allows"),
        ));
    }

    let mut servers: Vec<ServerGrant> = Vec::with_capacity(settings.servers.len());
    for (index, request) in settings.servers.iter().enumerate() {
        let listen = listen_address(index, request, peer, operator)?;
        if let Some(first) = servers.iter().position(|server| overlap(server.listen, listen)) {
            return Err(Nak::new(
                NakCode::DuplicatePort,
                format!("servers[{index}].bridgeTcpPort: {} is asked for by servers[{first}] too", listen.port()),
            ));
        }
        servers.push(ServerGrant {
            listen,
            enclave_port: request.enclave_listen_port,
            proxy_v2: request.proxy_v2,
            framed: request.framed,
        });
    }

    let mut clients: Vec<ClientGrant> = Vec::with_capacity(settings.clients.len());
    for (index, request) in settings.clients.iter().enumerate() {
        let port = request.enclave_dial_port;
        if operator.own_vsock_ports.contains(&port) {
            return Err(Nak::new(
                NakCode::PortNotAllowed,
                format!("clients[{index}].enclaveDialPort: {port} is the bridge's own"),
            ));
        }
        if let Some(first) = clients.iter().position(|client| client.vsock_port == port) {
            return Err(Nak::new(
                NakCode::DuplicatePort,
                format!("clients[{index}].enclaveDialPort: {port} is asked for by clients[{first}] too"),
            ));
        }
        clients.push(ClientGrant {
            vsock_port: port,
            request_timeout: request.request_timeout,
            framed: request.framed,
        });
    }

    Ok(Grant { app_name: settings.app_name.clone(), id: settings.id, interval: settings.interval, servers, clients })
}

fn within(what: &str, count: usize, limit: usize) -> Result<(), Nak> {
    if count > limit {
        return Err(Nak::new(NakCode::TooMany, format!("{what}: {count} are asked for, {limit} is the limit")));
    }
    Ok(())
}

fn listen_address(
    index: usize,
    request: &ServerRequest,
    peer: PeerIdentity,
    operator: &OperatorPolicy,
) -> Result<SocketAddr, Nak> {
    if let PeerIdentity::Cid(cid) = peer
        && request.enclave_cid != cid
    {
        let asked = request.enclave_cid;
        return Err(Nak::new(
            NakCode::CidMismatch,
            format!("servers[{index}].enclaveCid: {asked} is not the peer's CID {cid}"),
        ));
    }
    let port = request.bridge_tcp_port;
    let refuse_port = |reason: String| {
        Err(Nak::new(NakCode::PortNotAllowed, format!("servers[{index}].bridgeTcpPort: {port} {reason}")))
    };
    if operator.own_tcp_ports.contains(&port) {
        return refuse_port("is the bridge's own".to_owned());
    }
    if !operator.ingress_ports.contains(port) {
        return refuse_port(format!("is not among the allowed ports {}", operator.ingress_ports));
    }
    let Some(asked) = request.bind_address else {
        return Ok(SocketAddr::new(operator.ingress_address, port));
    };
    let address = asked.to_canonical();
    let ingress = operator.ingress_address;
    let any_of_family = ingress.is_unspecified() && ingress.is_ipv4() == address.is_ipv4();
    // Never a multicast or broadcast address: a TCP listener cannot be there.
    let listenable = !address.is_multicast() && address != IpAddr::V4(std::net::Ipv4Addr::BROADCAST);
    if listenable && (address == ingress || address.is_loopback() || any_of_family) {
        return Ok(SocketAddr::new(address, port));
    }
    Err(Nak::new(
        NakCode::PortNotAllowed,
        format!("servers[{index}].bindAddress: {address} is not allowed; the operator's ingress address is {ingress}"),
    ))
}

/// Whether two listeners cannot be bound together. IPv6 listeners take no IPv4 (they are bound that way).
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let same_family = one.is_ipv4() == other.is_ipv4();
    let same_address = one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port() && same_family && same_address
}
