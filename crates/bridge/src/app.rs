//! The daemon as a whole: bind everything → run → drain.
//!
//! ```text
//! root scope ── signals: 1st drain, 2nd now, HUP re-reads
//! ├─ monitoring     its own thread and runtime
//! ├─ init port      permit → peer → first bytes → handshake or beat
//! │    └─ session   one per enclave: listeners, streams, beats
//! └─ log port       bounded lines → one writer, apart from the data plane
//! ```

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use enclave_bridge_net::{BindError, BoundSocket, Listen, Listener, Peer, Pipes, RelayConfig, Route, Scope, Workers};
use enclave_bridge_policy::{OwnAddresses, PeerIdentity};
use enclave_bridge_proto::{Announcement, EnvironmentTooLarge, Feature, HandshakeLimits};
use thiserror::Error;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::config::{Config, EXIT_CONFIG, EndpointConfig, OnLoss};
use crate::control::{self, Unfinished};
use crate::egress::Resolve;
pub use crate::egress::ResolverError;
use crate::exit;
use crate::limits::{LEAST_DESCRIPTORS, Limits};
use crate::logs::{self, LogSink, Output, Stdout};
use crate::metrics::{GaugeSource, Gauges, Metrics, SessionEnd};
use crate::own::{self, HostAddresses};
use crate::places::Places;
use crate::quiet::OncePerSecond;
use crate::sessions::Sessions;
use crate::streams::{Direction, Streams};
use crate::tenant::Tenants;

/// What the bridge announces beside the bare version 1.1.
const FEATURES: &[Feature] = &[Feature::ProxyV2, Feature::Bind, Feature::Framed];

/// The state that every part of the daemon shares.
pub struct App {
    pub(crate) limits: Limits,
    pub(crate) handshake: HandshakeLimits,
    /// The relay's limits for an enclave without a table; see [`Tenant::relay`](crate::tenant::Tenant::relay).
    pub(crate) relay: RelayConfig,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) streams: Streams,
    pub(crate) sessions: Sessions,
    pub(crate) unfinished: Unfinished,
    pub(crate) log_places: Places,
    pub(crate) log_sink: LogSink,
    /// Everything that runs; cancelled at the very end.
    pub(crate) scope: Scope,
    /// The threads that streams and their listeners are on.
    pub(crate) workers: Workers,
    /// Cancelled when nothing new is to begin.
    pub(crate) draining: CancellationToken,
    /// Limits what peers can make the log say.
    pub(crate) refusals_logged: OncePerSecond,
    live: RwLock<Arc<Live>>,
    host: HostAddresses,
    monitor: SocketAddr,
    /// The socket paths of the endpoints.
    paths: Vec<PathBuf>,
    started: Instant,
    on_loss: OnLoss,
    drain: Duration,
    failed: AtomicBool,
    lost: AtomicBool,
    ended: CancellationToken,
}

/// What a reload may replace; whoever began with one version finishes with it.
pub(crate) struct Live {
    pub(crate) tenants: Tenants,
    pub(crate) resolve: Resolve,
    pub(crate) offered: Announcement,
}

/// One transport to one enclave or, over AF_VSOCK, to all enclaves of the host.
#[derive(Clone, Debug)]
pub(crate) enum Endpoint {
    Vsock { window: Option<u32> },
    Hybrid { uds_path: PathBuf },
}

/// What ended the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It drained: every stream ended, or the time for it did.
    Drained {
        /// Streams that were cut.
        cut: usize,
    },
    /// A second signal ended it at once.
    AtOnce,
    /// An enclave was lost, and the configuration says to exit then.
    EnclaveLost,
    /// A listener of its own died.
    Failed,
}

/// Why the daemon did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// A listener could not be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The environment of the host cannot go to an enclave.
    #[error("environment variable {name}: {reason}: exclude it with --env-deny {name}")]
    Environment {
        /// Which variable.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// All of it together is too large.
    #[error("{0}: choose with --env-allow and --env-deny")]
    EnvironmentTooLarge(#[from] EnvironmentTooLarge),
    /// The limit of open files is too low for what was asked for.
    #[error(
        "max_streams: {wanted} do not fit under {descriptors} descriptors, {fit} do: raise the limit of open files (ulimit -n, LimitNOFILE) or lower max_streams"
    )]
    Descriptors {
        /// Streams that were asked for.
        wanted: usize,
        /// The limit of open files.
        descriptors: u64,
        /// Streams that fit.
        fit: usize,
    },
    /// The resolver's configuration is of no use.
    #[error(transparent)]
    Resolver(#[from] ResolverError),
    /// The writer of logs could not be started.
    #[error("log writer: {0}")]
    LogWriter(io::Error),
    /// The host's addresses could not be read.
    #[error("addresses of this host: {0}")]
    HostAddresses(io::Error),
}

impl StartError {
    /// The exit code that says what kind of trouble it is.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            StartError::Environment { .. }
            | StartError::EnvironmentTooLarge(_)
            | StartError::Resolver(_)
            | StartError::Descriptors { .. } => EXIT_CONFIG,
            StartError::Bind(_) | StartError::LogWriter(_) | StartError::HostAddresses(_) => exit::UNAVAILABLE,
        }
    }
}

/// The sockets of every listener that does not depend on an enclave, bound before there is a runtime or a second thread.
#[derive(Debug)]
pub struct BoundSockets {
    init: Vec<(Arc<Endpoint>, BoundSocket)>,
    log: Vec<(Arc<Endpoint>, BoundSocket)>,
}

impl BoundSockets {
    /// Binds them all.
    ///
    /// # Errors
    /// The first that cannot be bound; nothing stays bound.
    pub fn bind(config: &Config) -> Result<Self, BindError> {
        let mut sockets = BoundSockets { init: Vec::new(), log: Vec::new() };
        for endpoint in &config.endpoints {
            let endpoint = Arc::new(Endpoint::from(endpoint));
            sockets.init.push((Arc::clone(&endpoint), BoundSocket::bind(&endpoint.listen(config.init_port))?));
            sockets.log.push((Arc::clone(&endpoint), BoundSocket::bind(&endpoint.listen(config.log_port))?));
        }
        Ok(sockets)
    }

    fn register(self, pauses: &Arc<AtomicU64>) -> Result<BoundListeners, BindError> {
        let register = |sockets: Vec<(Arc<Endpoint>, BoundSocket)>| {
            let listeners = sockets
                .into_iter()
                .map(|(endpoint, socket)| Ok((endpoint, socket.register()?.count_pauses(Arc::clone(pauses)))));
            listeners.collect::<Result<Vec<_>, BindError>>()
        };
        Ok(BoundListeners { init: register(self.init)?, log: register(self.log)? })
    }
}

/// The listeners that stand before anything runs.
pub struct BoundListeners {
    init: Vec<(Arc<Endpoint>, Listener)>,
    log: Vec<(Arc<Endpoint>, Listener)>,
}

/// What the machine gives a daemon to work with.
#[derive(Clone, Debug)]
pub struct Means {
    /// The limit of open files.
    pub descriptors: u64,
    /// Threads for streams. Whoever has [none](Workers::none) has the streams in the runtime of everything else.
    pub workers: Workers,
}

/// The variables of the host's environment, as the operating system has them.
pub type HostEnvironment = [(std::ffi::OsString, std::ffi::OsString)];

impl App {
    /// Builds the state over the sockets that were bound. `monitor` is where monitoring was bound. To be called in the runtime that [`run`](Self::run) will be in.
    ///
    /// # Errors
    /// The first thing that does not work; nothing stays bound.
    pub fn over(
        sockets: BoundSockets,
        config: &Config,
        environment: &HostEnvironment,
        means: Means,
        monitor: SocketAddr,
    ) -> Result<(Arc<App>, BoundListeners), StartError> {
        let Means { descriptors, workers } = means;
        let limits = config.limits.clone().within(descriptors, config.splice);
        let metrics = Arc::new(Metrics::default());
        let streams = limits.streams_within(config.max_streams, descriptors);
        if descriptors < LEAST_DESCRIPTORS || (streams < config.max_streams && config.max_streams_is_given) {
            let wanted = config.max_streams;
            return Err(StartError::Descriptors { wanted, descriptors, fit: streams });
        }
        if streams < config.max_streams {
            warn!("max_streams: {} do not fit under {descriptors} descriptors: {streams} it is", config.max_streams);
        }
        let live = Live::new(config, environment, monitor, None)?;
        let host = HostAddresses::default();
        host.get().map_err(StartError::HostAddresses)?;
        let listeners = sockets.register(&metrics.accept_pauses)?;
        let stdout = Stdout::duplicate().map_err(StartError::LogWriter)?;
        let output = Output::start(stdout, limits.log_queue_bytes, limits.log_stall, Arc::clone(&metrics.log))
            .map_err(StartError::LogWriter)?;
        let relay = RelayConfig {
            idle: config.policy.idle_timeout,
            linger: config.policy.linger_timeout,
            vsock_write_max_bytes: config.vsock_write_max,
            pipes: config.splice.then(|| Pipes::new(limits.pipes)),
        };
        let app = App {
            handshake: HandshakeLimits {
                ack: limits.handshake_step,
                environment_write: limits.handshake_step,
                settings: limits.handshake,
                settings_bytes: limits.settings_bytes,
                total: limits.handshake,
                answer_write: limits.handshake_step,
                ..HandshakeLimits::default()
            },
            relay,
            streams: Streams::new(streams),
            sessions: Sessions::new(limits.sessions),
            unfinished: Unfinished::default(),
            log_places: Places::new(limits.log_connections_per_peer),
            log_sink: LogSink::new(output, config.log_format, limits.log_line_bytes, Arc::clone(&metrics.log)),
            scope: Scope::root("bridge"),
            workers,
            draining: CancellationToken::new(),
            refusals_logged: OncePerSecond::default(),
            live: RwLock::new(Arc::new(live)),
            host,
            monitor,
            paths: config.endpoints.iter().filter_map(|endpoint| endpoint.uds_path().map(PathBuf::from)).collect(),
            started: Instant::now(),
            on_loss: config.on_loss,
            drain: config.drain_timeout,
            failed: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            ended: CancellationToken::new(),
            limits,
            metrics,
        };
        Ok((Arc::new(app), listeners))
    }

    /// Serves until `drain` resolves, then lets streams finish, until `now` resolves or the drain's time is over.
    pub async fn run(
        self: &Arc<App>,
        listeners: BoundListeners,
        drain: impl Future<Output = ()>,
        now: impl Future<Output = ()>,
    ) -> Ending {
        for (endpoint, listener) in listeners.log {
            self.scope.spawn("log port", logs::accept(Arc::clone(self), endpoint, listener));
        }
        for (endpoint, listener) in listeners.init {
            info!("waiting for an enclave on {}", listener.listen());
            self.scope.spawn("init port", control::accept(Arc::clone(self), endpoint, listener));
        }
        tokio::select! {
            () = drain => info!("draining: {} streams are open", self.streams.active()),
            () = self.ended.cancelled() => {}
        }
        self.draining.cancel();
        let at_once = tokio::select! {
            _ = timeout(self.drain, self.streams.idle()) => false,
            () = now => true,
        };
        let cut = self.streams.active();
        for session in self.sessions.all() {
            session.end(self, SessionEnd::Shutdown).await;
        }
        self.scope.cancel();
        if timeout(self.limits.cut, self.scope.join()).await.is_err() {
            error!("{} tasks did not end in time", self.scope.tasks());
        }
        self.log_sink.output().finish(self.limits.log_stall);
        if at_once {
            Ending::AtOnce
        } else if self.failed.load(Ordering::Relaxed) {
            Ending::Failed
        } else if self.lost.load(Ordering::Relaxed) {
            Ending::EnclaveLost
        } else {
            Ending::Drained { cut }
        }
    }

    /// Takes over what a reload may change: what enclaves may have, with the tables, and the resolver. Sessions that live keep the
    /// ports, limits and time limits that they began with; egress is judged by the new rules.
    ///
    /// # Errors
    /// What is wrong with the new configuration; the old one stays in force.
    pub fn reload(&self, config: &Config, environment: &HostEnvironment) -> Result<(), StartError> {
        let live = Live::new(config, environment, self.monitor, Some(&self.live()))?;
        for path in live.tenants.paths().filter(|path| !self.paths.iter().any(|bound| bound == path)) {
            warn!("reload: {}: an enclave at a new uds_path is served after a restart", path.display());
        }
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(live);
        Ok(())
    }

    pub(crate) fn live(&self) -> Arc<Live> {
        Arc::clone(&self.live.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The addresses that egress is closed to unless a rule names them, and the listeners that it is always closed to.
    pub(crate) fn own_addresses(&self) -> io::Result<OwnAddresses> {
        let sessions = self.sessions.all();
        let ingress = sessions.iter().flat_map(|session| session.listen_addresses());
        Ok(OwnAddresses { addresses: self.host.get()?, listeners: own::listeners(self.monitor, ingress) })
    }

    /// A session was lost: goes on, or ends the daemon if the operator wants it so.
    pub(crate) fn enclave_lost(&self) {
        match self.on_loss {
            OnLoss::Wait => info!("waiting for the next handshake"),
            OnLoss::Exit => {
                self.lost.store(true, Ordering::Relaxed);
                self.ended.cancel();
            }
        }
    }

    /// A listener of the daemon is dead: it cannot do its work any more.
    pub(crate) fn fail(&self) {
        self.failed.store(true, Ordering::Relaxed);
        self.ended.cancel();
    }

    /// Everything that is counted; what is measured instead is in [`GaugeSource::gauges`].
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// How long the daemon has run.
    pub(crate) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Whether at least one session can serve.
    pub(crate) fn is_ready(&self) -> bool {
        !self.draining.is_cancelled() && self.sessions.all().iter().any(|s| !s.scope().is_cancelled())
    }
}

impl GaugeSource for App {
    fn gauges(&self) -> Gauges {
        Gauges {
            sessions: self.sessions.all().len(),
            streams_ingress: self.streams.active_in(Direction::Ingress),
            streams_egress: self.streams.active_in(Direction::Egress),
            streams_limit: self.streams.limit(),
            tasks: self.scope.tasks(),
            panics: self.scope.panics(),
        }
    }
}

impl Live {
    fn new(
        config: &Config,
        host: &HostEnvironment,
        monitor: SocketAddr,
        before: Option<&Live>,
    ) -> Result<Self, StartError> {
        let offered = Announcement::v1_1(FEATURES);
        Ok(Self {
            tenants: Tenants::new(config, host, &[monitor.port()], &offered)?,
            offered,
            resolve: Resolve::from_file(&config.resolv_conf, before.map(|live| &live.resolve))?,
        })
    }
}

impl From<&EndpointConfig> for Endpoint {
    fn from(config: &EndpointConfig) -> Self {
        match config {
            EndpointConfig::Vsock { window } => Endpoint::Vsock { window: *window },
            EndpointConfig::Hybrid { uds_path } => Endpoint::Hybrid { uds_path: uds_path.clone() },
        }
    }
}

impl Endpoint {
    /// Where the host listens for connections of enclaves.
    pub(crate) fn listen(&self, port: u32) -> Listen {
        match self {
            Endpoint::Vsock { window } => Listen::Vsock { port, window: *window },
            Endpoint::Hybrid { uds_path } => Listen::Hybrid { uds_path: uds_path.clone(), port },
        }
    }

    /// How the host reaches a peer of this endpoint.
    pub(crate) fn route(&self, peer: &Peer) -> Route {
        match (self, peer) {
            (Endpoint::Vsock { window }, Peer::Cid(cid)) => Route::Vsock { cid: *cid, window: *window },
            (Endpoint::Vsock { .. }, Peer::Path(path)) => Route::HybridHost { uds_path: path.to_path_buf() },
            (Endpoint::Hybrid { uds_path }, _) => Route::HybridHost { uds_path: uds_path.clone() },
        }
    }

    /// What the transport vouches for.
    pub(crate) fn identity(&self, peer: &Peer) -> PeerIdentity {
        match peer {
            Peer::Cid(cid) => PeerIdentity::Cid(*cid),
            Peer::Path(_) => PeerIdentity::Path,
        }
    }
}
