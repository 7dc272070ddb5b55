//! Monitoring over HTTP: health, metrics, status. GET only, on a thread and runtime of its own, so that it answers
//! when the data plane does not.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use enclave_bridge_net::{BindError, Listen, Listener, Scope, Stream};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus_client::registry::Registry;
use serde::Serialize;
use thiserror::Error;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tracing::{debug, error};

use crate::app::App;
use crate::metrics::{self, GaugeSource};
use crate::session::Session;

/// The media type of the exposition format that is served.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Most bytes of a request's head: probes and scrapers send a few hundred.
const HEAD_BYTES: usize = 8 * 1024;

/// One monitoring connection lives at most this long: a scraper that keeps its connection opens another after it,
/// and one that trickles or does not read gives its place back.
const CONNECTION_TIME: Duration = Duration::from_secs(60);

struct Monitor {
    app: Arc<App>,
    registry: Registry,
}

/// What `/health/ready` says beside its status code.
#[derive(Serialize)]
struct Readiness {
    ready: bool,
    draining: bool,
    sessions: usize,
}

/// What `/status` says.
#[derive(Serialize)]
struct Status {
    version: &'static str,
    uptime_seconds: u64,
    ready: bool,
    draining: bool,
    streams: StreamStatus,
    sessions: Vec<SessionStatus>,
}

#[derive(Serialize)]
struct StreamStatus {
    ingress: usize,
    egress: usize,
    limit: usize,
}

#[derive(Serialize)]
struct SessionStatus {
    peer: String,
    /// The name of the operator's table for it.
    enclave: Option<String>,
    app: String,
    age_seconds: u64,
    beat_age_seconds: f64,
    beat_interval_seconds: f64,
    servers: Vec<ServerStatus>,
    clients: Vec<u32>,
}

#[derive(Serialize)]
struct ServerStatus {
    listen: SocketAddr,
    enclave_port: u32,
}

/// The monitoring port, bound before anything else runs.
#[derive(Debug)]
pub struct Bound {
    runtime: Runtime,
    listener: Listener,
    address: SocketAddr,
}

/// Monitoring could not be set up.
#[derive(Debug, Error)]
pub enum MonitorError {
    /// The port.
    #[error("monitoring: {0}")]
    Bind(#[from] BindError),
    /// Its thread or runtime.
    #[error("monitoring: {0}")]
    Start(#[from] io::Error),
}

/// Binds the monitoring port.
///
/// # Errors
/// If the port or the runtime cannot be had.
pub fn bind(address: SocketAddr) -> Result<Bound, MonitorError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = {
        let _inside = runtime.enter();
        Listener::bind(&Listen::Tcp(address))?
    };
    // With port 0 the kernel has chosen.
    let address = listener.local_addr().unwrap_or(address);
    Ok(Bound { runtime, listener, address })
}

impl Bound {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves in a thread of its own until the process ends.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(self, app: Arc<App>) -> Result<(), MonitorError> {
        let Bound { runtime, listener, .. } = self;
        let work = move || runtime.block_on(accept(app, listener));
        std::thread::Builder::new().name("monitor".into()).spawn(work)?;
        Ok(())
    }
}

async fn accept(app: Arc<App>, mut listener: Listener) {
    let places = Arc::new(Semaphore::new(app.limits.monitor_connections));
    let head = app.limits.monitor_header;
    let scope = Scope::root("monitor");
    let router = router(app);
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(dead) => return error!("monitoring: {dead}"),
        };
        // The newest is turned away: whoever is being answered is answered.
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let router = router.clone();
        scope.spawn("monitoring connection", async move {
            serve(stream, router, head).await;
            drop(place);
        });
    }
}

async fn serve(stream: Stream, router: Router, head: Duration) {
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // What goes wrong here is the client's: it asked badly, or left.
    if let Err(error) = tokio::time::timeout(CONNECTION_TIME, connection).await.unwrap_or(Ok(())) {
        debug!("monitoring: {error}");
    }
}

/// The routes over the daemon's state.
fn router(app: Arc<App>) -> Router {
    let registry = metrics::registry(Arc::clone(&app.metrics), Arc::clone(&app) as Arc<dyn GaugeSource>);
    Router::new()
        .route("/", get(alive))
        .route("/health/live", get(alive))
        .route("/health/ready", get(ready))
        .route("/metrics", get(exposition))
        .route("/status", get(status))
        .with_state(Arc::new(Monitor { app, registry }))
}

async fn alive() -> &'static str {
    "ok\n"
}

async fn ready(State(monitor): State<Arc<Monitor>>) -> Response {
    let app = &monitor.app;
    let readiness =
        Readiness { ready: app.is_ready(), draining: app.draining.is_cancelled(), sessions: app.sessions.all().len() };
    let code = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(readiness)).into_response()
}

async fn exposition(State(monitor): State<Arc<Monitor>>) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &monitor.registry) {
        Ok(()) => ([(header::CONTENT_TYPE, METRICS_TYPE)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn status(State(monitor): State<Arc<Monitor>>) -> Json<Status> {
    let app = &monitor.app;
    let gauges = app.gauges();
    let sessions = app.sessions.all();
    Json(Status {
        version: env!("CARGO_PKG_VERSION"),
        uptime_seconds: app.uptime().as_secs(),
        ready: app.is_ready(),
        draining: app.draining.is_cancelled(),
        streams: StreamStatus {
            ingress: gauges.streams_ingress,
            egress: gauges.streams_egress,
            limit: gauges.streams_limit,
        },
        sessions: sessions.iter().map(|session| SessionStatus::of(session)).collect(),
    })
}

impl SessionStatus {
    fn of(session: &Session) -> Self {
        let grant = session.grant();
        let servers = grant.servers().iter();
        Self {
            peer: session.peer().to_string(),
            enclave: session.enclave().map(str::to_owned),
            app: grant.app_name().to_owned(),
            age_seconds: session.age().as_secs(),
            beat_age_seconds: session.beat_age().as_secs_f64(),
            beat_interval_seconds: grant.interval().as_secs_f64(),
            servers: servers.map(|s| ServerStatus { listen: s.listen, enclave_port: s.enclave_port }).collect(),
            clients: grant.clients().iter().map(|c| c.vsock_port).collect(),
        }
    }
}
