//! The way to a session: the environment first, then what is asked for, then the grant.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use enclave_bridge_net::{HybridGuest, Listen, Scope};
use enclave_bridge_proto::{
    ClientRequest, DEFAULT_REQUEST_TIMEOUT, EnclaveId, Environment, Feature, Protocol, ServerRequest, Settings,
};
use serde::de::DeserializeOwned;
use tokio::time::sleep;

use crate::form::Form;
use crate::handshake::{Failure, Opened, open};
use crate::listener::Source;
use crate::options::Transport;
use crate::pace::Pace;
use crate::{Dialer, Error, Listener, Options, Session, id, values};

/// What is told as the enclave's CID on the hybrid transport, where the bridge knows the peer by its path and compares
/// nothing: the first CID that a hypervisor gives to a guest.
const HYBRID_CID: u32 = 3;

/// A bridge that has sent the host's environment and waits for what the program asks for.
///
/// Order of calls: [`connect`](Self::connect), then [`server`](Self::server) and [`client`](Self::client) for each
/// tunnel, then [`start`](Self::start). Dropping it (or a future of it) ends everything that it has begun.
pub struct Bridge {
    terms: Terms,
    environment: Environment,
    opened: Opened,
    guest: Option<HybridGuest>,
    scope: OwnedScope,
}

/// What is asked for, and all that asking again takes.
pub(crate) struct Terms {
    pub(crate) options: Options,
    pub(crate) pace: Pace,
    form: Form,
    servers: Vec<ServerRequest>,
    clients: Vec<ClientRequest>,
}

/// A session that the bridge has granted.
pub(crate) struct Granted {
    pub(crate) id: EnclaveId,
    pub(crate) environment: Environment,
}

/// The scope of everything that one [`Bridge`] and its session run. Dropping it ends them.
pub(crate) struct OwnedScope(pub(crate) Scope);

impl Drop for OwnedScope {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Bridge {
    /// Connects to the bridge and receives the host's environment. A bridge that is not there, or breaks the
    /// connection, is waited for: it is asked again after 10 ms to 250 ms where nobody listens, and at most once a
    /// second (after a burst) where somebody accepts and breaks off.
    ///
    /// # Errors
    /// [`Error::Refused`] where the bridge takes no session of this enclave; [`Error::Environment`] where what it sends
    /// is none; [`Error::Interval`].
    pub async fn connect(options: Options) -> Result<Self, Error> {
        options.check()?;
        let parent = options.scope.as_ref();
        let scope = OwnedScope(parent.map_or_else(|| Scope::root("sdk"), |parent| parent.child("sdk")));
        let mut terms =
            Terms { options, pace: Pace::new(), form: Form::default(), servers: Vec::new(), clients: Vec::new() };
        let mut said = Said::default();
        loop {
            match open(&terms.options).await {
                Ok(opened) => {
                    let environment = opened.environment.clone();
                    return Ok(Self { terms, environment, opened, guest: None, scope });
                }
                Err(Failure::Refused(error)) => return Err(error),
                Err(failure) => {
                    said.once(failure.error());
                    sleep(failure.pause(&mut terms.pace)).await;
                }
            }
        }
    }

    /// What the host sent. It is the host's word: nothing in it is attested.
    #[must_use]
    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// The host's environment as a structure of the program's. Variables are looked up by the field's name as serde
    /// sees it (`#[serde(rename_all = "SCREAMING_SNAKE_CASE")]`); numbers, booleans, options and enums of plain
    /// variants are read from their text.
    ///
    /// # Errors
    /// [`Error::MissingVariable`], [`Error::Value`]: they name the variable and what was expected, never its value.
    pub fn environment_as<T: DeserializeOwned>(&self) -> Result<T, Error> {
        values::from_environment(&self.environment)
    }

    /// Whether the bridge has announced this. A version-1 bridge announces nothing.
    #[must_use]
    pub fn offers(&self, feature: Feature) -> bool {
        offers(&self.environment, feature)
    }

    /// Asks for ingress: TCP connections to the host's `bridge_tcp_port` arrive at this enclave's `enclave_port`.
    /// Nothing happens before [`ServerBuilder::listen`].
    pub fn server(&mut self, enclave_port: u32, bridge_tcp_port: u16) -> ServerBuilder<'_> {
        ServerBuilder { bridge: self, request: ServerRequest::new(0, enclave_port, bridge_tcp_port) }
    }

    /// Asks for egress by way of the host's vsock port `enclave_dial_port`, with five minutes for each connection to
    /// be made.
    pub fn client(&mut self, enclave_dial_port: u32) -> Dialer {
        self.client_with_limit(enclave_dial_port, DEFAULT_REQUEST_TIMEOUT)
    }

    /// The same with another `requestTimeout`, which bounds everything up to the connected target, on both sides.
    pub fn client_with_limit(&mut self, enclave_dial_port: u32, request_timeout: Duration) -> Dialer {
        self.terms.clients.push(ClientRequest { request_timeout, ..ClientRequest::new(enclave_dial_port) });
        Dialer::new(self.terms.options.route(), enclave_dial_port, request_timeout, self.terms.form.clone())
    }

    /// Sends what was asked for and waits for the grant: when it returns, every port accepts. A bridge that goes away
    /// meanwhile is waited for.
    ///
    /// A version-1 bridge refuses by closing the connection, which looks like a bridge that went away: it is asked
    /// again, and each new reason is logged.
    ///
    /// # Errors
    /// [`Error::Refused`] with the bridge's reason; [`Error::NotOffered`] where a bridge that came in its place no
    /// longer offers what was asked for; [`Error::Handshake`] where its answer is none.
    pub async fn start(self) -> Result<Session, Error> {
        let Self { mut terms, environment: _, opened, guest, scope } = self;
        let mut first = Some(opened);
        let mut said = Said::default();
        let granted = loop {
            match terms.attempt(first.take()).await {
                Ok(granted) => break granted,
                Err(Failure::Refused(error)) => return Err(error),
                Err(failure) => {
                    said.once(failure.error());
                    sleep(failure.pause(&mut terms.pace)).await;
                }
            }
        };
        Ok(Session::begin(terms, granted, guest, scope))
    }
}

impl std::fmt::Debug for Bridge {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Bridge").field("options", &self.terms.options).finish_non_exhaustive()
    }
}

/// One server before it listens.
#[derive(Debug)]
pub struct ServerBuilder<'a> {
    bridge: &'a mut Bridge,
    request: ServerRequest,
}

impl ServerBuilder<'_> {
    /// Asks the bridge to say who the client is ([`ClientAddr`](crate::ClientAddr)).
    #[must_use]
    pub fn proxy_v2(mut self) -> Self {
        self.request.proxy_v2 = true;
        self
    }

    /// Asks the bridge to listen on this address instead of the operator's default one.
    #[must_use]
    pub fn bind_address(mut self, address: IpAddr) -> Self {
        self.request.bind_address = Some(address);
        self
    }

    /// Listens on the enclave's port. Connections arrive once the session has started.
    ///
    /// # Errors
    /// [`Error::NotOffered`]; [`Error::Listen`] and [`Error::PortTaken`] where the port cannot be had.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn listen(mut self) -> Result<Listener, Error> {
        offered(&self.request, &self.bridge.environment)?;
        let port = self.request.enclave_listen_port;
        let scope = self.bridge.scope.0.clone();
        let window = self.bridge.terms.options.vsock_window;
        let source = match self.bridge.terms.options.transport.clone() {
            Transport::Vsock { host_cid } => {
                self.request.enclave_cid = vsock::get_local_cid().map_err(Error::OwnCid)?;
                let listener = enclave_bridge_net::Listener::bind(&Listen::Vsock { port, window })?;
                Source::Vsock { listener, host_cid }
            }
            Transport::Hybrid { uds_path } => {
                self.request.enclave_cid = HYBRID_CID;
                Source::Hybrid(self.bridge.guest(uds_path)?.register(port)?)
            }
        };
        let listener = Listener::new(source, self.request.proxy_v2, self.bridge.terms.form.clone(), scope);
        self.bridge.terms.servers.push(self.request);
        Ok(listener)
    }
}

impl Bridge {
    fn guest(&mut self, uds_path: PathBuf) -> Result<&HybridGuest, Error> {
        let guest = match self.guest.take() {
            Some(guest) => guest,
            None => HybridGuest::bind(&uds_path, &self.scope.0)?,
        };
        Ok(self.guest.insert(guest))
    }
}

impl Terms {
    /// One handshake; `first` is one that has come as far as the environment.
    pub(crate) async fn attempt(&mut self, first: Option<Opened>) -> Result<Granted, Failure> {
        let opened = match first {
            Some(opened) => opened,
            None => open(&self.options).await?,
        };
        // Each session has an id of its own, so that a late beat of the last one cannot be taken for this one's.
        let id = id::draw().map_err(Failure::Refused)?;
        let framed = self.options.framed && offers(&opened.environment, Feature::Framed);
        let settings = self.settings(id, &opened.environment, framed).map_err(Failure::Refused)?;
        self.form.set_framed(framed);
        let environment = opened.request(&settings).await?;
        self.pace.granted();
        Ok(Granted { id, environment })
    }

    fn settings(&self, id: EnclaveId, environment: &Environment, framed: bool) -> Result<Settings, Error> {
        for server in &self.servers {
            offered(server, environment)?;
        }
        let protocol = if environment.announcement().is_some() { Protocol::V1_1 } else { Protocol::V1 };
        Ok(Settings {
            app_name: self.options.app_name.clone(),
            protocol,
            id,
            interval: self.options.interval,
            log_level: self.options.log_level,
            servers: self.servers.iter().map(|server| ServerRequest { framed, ..server.clone() }).collect(),
            clients: self.clients.iter().map(|client| ClientRequest { framed, ..client.clone() }).collect(),
        })
    }
}

fn offers(environment: &Environment, feature: Feature) -> bool {
    environment.announcement().is_some_and(|announced| announced.offers(feature))
}

fn offered(server: &ServerRequest, environment: &Environment) -> Result<(), Error> {
    for (wanted, feature) in [(server.proxy_v2, Feature::ProxyV2), (server.bind_address.is_some(), Feature::Bind)] {
        if wanted && !offers(environment, feature) {
            return Err(Error::NotOffered { port: server.enclave_listen_port, feature });
        }
    }
    Ok(())
}

/// Logs a reason once for as long as it stays the same.
#[derive(Default)]
pub(crate) struct Said {
    last: String,
}

impl Said {
    pub(crate) fn once(&mut self, error: &Error) {
        let reason = error.to_string();
        if reason != self.last {
            tracing::warn!("waiting for the bridge: {reason}");
            self.last = reason;
        }
    }
}
