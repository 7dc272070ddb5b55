//! One enclave's session: its grant, its listeners, its beats, its end.
//!
//! A session is made in one piece by [`establish`]: every listener that its settings ask for is bound, or none is.
//! It ends in place: its scope is cancelled, its listeners close, its streams are reset, its ports are free, and the
//! daemon goes on.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use enclave_bridge_net::{BindError, BoundSocket, Listen, Listener, Origin, Peer, Scope, Stream, Worker};
use enclave_bridge_policy::{ClientGrant, Grant, ServerGrant, grant};
use enclave_bridge_proto::{BeatReader, EnclaveId, Nak, NakCode, ParsedSettings, encode_beat, loss_after};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::app::{App, Endpoint};
use crate::beats::LastBeat;
use crate::ingress::{self, Upstream};
use crate::metrics::{SessionEnd, count};
use crate::serving::Serving;
use crate::streams::Direction;
use crate::{egress, metrics};

/// Beats are sent every third of the interval: two may be lost on the way before the other side's limit of 1.5.
const BEATS_PER_INTERVAL: u32 = 3;

/// Beats that are read at once: after a pause many may have queued up.
const BEAT_READ_BYTES: usize = 17 * 16;

/// Threads that accept from one listener: a new connection wakes those of them that sleep, so not more than can help each other.
const ACCEPTORS_OF_LISTENER_MAX: usize = 4;

/// The same for all listeners of a session together, beside the one that each has: every one takes a descriptor of those that
/// are kept for what is no stream.
const ACCEPTORS_MAX: usize = 16;

/// A live session.
#[derive(Debug)]
pub(crate) struct Session {
    peer: Peer,
    /// The name of the operator's table for the peer.
    enclave: Option<String>,
    /// The peer as log lines name it.
    called: String,
    grant: Grant,
    scope: Scope,
    started: Instant,
    last_beat: LastBeat,
    beat_connections: Mutex<Vec<(u64, CancellationToken)>>,
    next_connection: AtomicU64,
    ending: AtomicBool,
}

/// What the settings of a session have bound.
struct Bound {
    servers: Vec<(Vec<Accepting>, ServerGrant)>,
    clients: Vec<(Vec<Accepting>, ClientGrant)>,
}

/// A listener on a thread that accepts from it.
struct Accepting {
    listener: Listener,
    worker: Worker,
}

/// Judges a request, ends the peer's old session, binds everything that was granted, and starts the new session.
///
/// # Errors
/// The NAK for the enclave; nothing of the request is bound then. The old session has survived unless the refusal is
/// about binding.
pub(crate) async fn establish(
    app: &Arc<App>,
    endpoint: &Endpoint,
    peer: &Peer,
    request: &ParsedSettings,
) -> Result<Arc<Session>, Nak> {
    let tenant = Arc::clone(app.live().tenants.of(peer));
    let called = tenant.call(peer);
    for key in &request.unknown_keys {
        warn!("settings of {called}: unknown key {key}");
    }
    let granted = grant(&request.settings, endpoint.identity(peer), &tenant.operator)?;
    // Its ports would not accept, and the streams of the peer's old session are what is being waited for.
    if app.draining.is_cancelled() {
        return Err(Nak::new(NakCode::Busy, "the bridge is draining"));
    }
    let busy = || Nak::new(NakCode::Busy, format!("{} sessions live, the most that are allowed", app.limits.sessions));
    let slot = app.sessions.slot(peer).ok_or_else(busy)?;
    let turn = slot.turn().await;
    if let Some(old) = slot.current() {
        old.end(app, SessionEnd::Replaced).await;
    }
    let bound = bind_all(app, endpoint, &granted)?;
    let session = Arc::new(Session {
        peer: peer.clone(),
        enclave: tenant.name.clone(),
        called,
        scope: app.scope.child("session"),
        grant: granted,
        started: Instant::now(),
        last_beat: LastBeat::new(),
        beat_connections: Mutex::default(),
        next_connection: AtomicU64::new(0),
        ending: AtomicBool::new(false),
    });
    session.serve(endpoint, bound, &Serving::new(app, &session.scope, peer, &tenant));
    slot.put(Arc::clone(&session));
    drop(turn);
    count(&app.metrics.sessions_started);
    info!(
        servers = session.grant.servers().len(),
        clients = session.grant.clients().len(),
        "session of {} ({}): granted",
        session.called,
        session.grant.app_name().escape_debug()
    );
    app.scope.spawn("session watch", watch(Arc::clone(app), Arc::clone(&session)));
    Ok(session)
}

fn bind_all(app: &App, endpoint: &Endpoint, granted: &Grant) -> Result<Bound, Nak> {
    let mut bound = Bound { servers: Vec::new(), clients: Vec::new() };
    let listeners = granted.servers().len().saturating_add(granted.clients().len());
    let threads = ACCEPTORS_MAX.checked_div(listeners).unwrap_or(1).min(ACCEPTORS_OF_LISTENER_MAX);
    for server in granted.servers() {
        bound.servers.push((bind(app, &Listen::Tcp(server.listen), threads)?, server.clone()));
    }
    for client in granted.clients() {
        bound.clients.push((bind(app, &endpoint.listen(client.vsock_port), threads)?, client.clone()));
    }
    Ok(bound)
}

fn bind(app: &App, listen: &Listen, threads: usize) -> Result<Vec<Accepting>, Nak> {
    accept_on(app, listen, app.workers.for_listener(threads)).map_err(|error| {
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "a foreign enum that grows: what is not named is treated alike"
        )]
        let code = match error.source.kind() {
            std::io::ErrorKind::AddrInUse | std::io::ErrorKind::AddrNotAvailable => NakCode::PortInUse,
            std::io::ErrorKind::PermissionDenied => NakCode::PortNotAllowed,
            _ => NakCode::Internal,
        };
        Nak::new(code, error.to_string())
    })
}

/// One socket that listens, with the poller of each of the threads. Where descriptors are lacking fewer threads do.
fn accept_on(app: &App, listen: &Listen, workers: Vec<Worker>) -> Result<Vec<Accepting>, BindError> {
    let socket = BoundSocket::bind(listen)?;
    let mut workers = workers.into_iter();
    let register = |socket: BoundSocket, worker: Worker| {
        let inside = worker.enter();
        // A client whose stream does not come to an orderly end is reset, from when it is in the kernel's queue.
        let listener = socket.register()?.count_pauses(Arc::clone(&app.metrics.accept_pauses)).arm_accepted();
        drop(inside);
        Ok(Accepting { listener, worker })
    };
    let last = workers.next().unwrap_or_else(Worker::here);
    let mut accepting = Vec::new();
    for worker in workers {
        match socket.share() {
            Ok(shared) => accepting.push(register(shared, worker)?),
            Err(error) => debug!("listen on {listen}: not on every thread: {error}"),
        }
    }
    accepting.push(register(socket, last)?);
    Ok(accepting)
}

impl Session {
    pub(crate) fn peer(&self) -> &Peer {
        &self.peer
    }

    /// The name of the operator's table for the peer, if there is one.
    pub(crate) fn enclave(&self) -> Option<&str> {
        self.enclave.as_deref()
    }

    pub(crate) fn id(&self) -> EnclaveId {
        self.grant.id()
    }

    pub(crate) fn grant(&self) -> &Grant {
        &self.grant
    }

    pub(crate) fn scope(&self) -> &Scope {
        &self.scope
    }

    pub(crate) fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// How long ago the last beat came (or the session began).
    pub(crate) fn beat_age(&self) -> Duration {
        self.last_beat.age()
    }

    /// The TCP addresses that this session listens on.
    pub(crate) fn listen_addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.grant.servers().iter().map(|server| server.listen)
    }

    /// Ends the session: listeners closed, streams reset, ports free when this returns, whoever else is ending it too.
    /// The first reason counts; whether it was this one.
    pub(crate) async fn end(self: &Arc<Self>, app: &App, reason: SessionEnd) -> bool {
        let first = !self.ending.swap(true, Ordering::AcqRel);
        self.scope.cancel();
        if timeout(app.limits.session_end, self.scope.join()).await.is_err() {
            error!("session of {}: {} tasks did not end in time", self.called, self.scope.tasks());
        }
        app.sessions.forget(self);
        if first {
            app.metrics.sessions_ended.count(reason);
            info!("session of {}: ended: {}", self.called, metrics::Label::text(reason));
        }
        first
    }

    fn serve(&self, endpoint: &Endpoint, bound: Bound, serving: &Arc<Serving>) {
        for (listeners, server) in bound.servers {
            let upstream = Upstream {
                route: endpoint.route(&self.peer),
                port: server.enclave_port,
                proxy_v2: server.proxy_v2,
                framed: server.framed,
            };
            let upstream = Arc::new(upstream);
            for accepting in listeners {
                let worker = accepting.worker.clone();
                let accept = accept_ingress(Arc::clone(serving), accepting, Arc::clone(&upstream));
                self.scope.spawn_on(&worker, "ingress listener", accept);
            }
        }
        for (listeners, client) in bound.clients {
            let client = Arc::new(client);
            for accepting in listeners {
                let worker = accepting.worker.clone();
                let accept = accept_egress(Arc::clone(serving), accepting, Arc::clone(&client));
                self.scope.spawn_on(&worker, "egress listener", accept);
            }
        }
    }

    /// How long it lives without a beat.
    pub(crate) fn loss_after(&self) -> Duration {
        loss_after(self.grant.interval())
    }

    /// Takes over a connection that began with a beat: reads beats and sends our own until it ends.
    pub(crate) fn adopt_beats(self: &Arc<Self>, app: &Arc<App>, stream: Stream, first: Vec<u8>) {
        let (number, replaced) = self.register_beats(app.limits.beat_connections);
        let (session, app) = (Arc::clone(self), Arc::clone(app));
        self.scope.spawn("beats", async move {
            tokio::select! {
                () = session.beat(&app, stream, &first) => {}
                () = replaced.cancelled() => debug!("session of {}: beat connection replaced by a newer one", session.called),
                () = session.scope.cancelled() => {}
            }
            session.lock_beat_connections().retain(|(other, _)| *other != number);
        });
    }

    /// A place among the session's beat connections; the oldest makes room.
    fn register_beats(&self, most: usize) -> (u64, CancellationToken) {
        let number = self.next_connection.fetch_add(1, Ordering::Relaxed);
        let replaced = CancellationToken::new();
        let mut connections = self.lock_beat_connections();
        while connections.len() >= most.max(1) {
            connections.remove(0).1.cancel();
        }
        connections.push((number, replaced.clone()));
        (number, replaced)
    }

    async fn beat(&self, app: &App, mut stream: Stream, first: &[u8]) {
        let mut reader = BeatReader::new(self.id());
        let ours = encode_beat(&self.id());
        let pace = self.grant.interval() / BEATS_PER_INTERVAL;
        let mut ticks = interval_at(Instant::now(), pace);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut buffer = [0; BEAT_READ_BYTES];
        if !self.received(app, &mut reader, first) {
            return;
        }
        loop {
            tokio::select! {
                read = stream.read(&mut buffer) => match read {
                    Ok(0) | Err(_) => return debug!("session of {}: beat connection closed by the enclave", self.called),
                    Ok(n) => if !self.received(app, &mut reader, buffer.get(..n).unwrap_or_default()) { return },
                },
                _ = ticks.tick() => if !matches!(timeout(app.limits.beat_write, stream.write_all(&ours)).await, Ok(Ok(()))) {
                    return debug!("session of {}: beat connection: the enclave does not read", self.called);
                },
            }
        }
    }

    /// Counts the beats in `bytes`; false after a wrong one.
    fn received(&self, app: &App, reader: &mut BeatReader, bytes: &[u8]) -> bool {
        match reader.push(bytes) {
            Ok(0) => true,
            Ok(beats) => {
                app.metrics.beats_received.fetch_add(beats as u64, Ordering::Relaxed);
                self.last_beat.heard();
                true
            }
            Err(wrong) => {
                count(&app.metrics.beats_bad);
                warn!("session of {}: beat connection closed: {wrong}", self.called);
                false
            }
        }
    }

    fn lock_beat_connections(&self) -> MutexGuard<'_, Vec<(u64, CancellationToken)>> {
        self.beat_connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the session when its beats fail to come.
async fn watch(app: Arc<App>, session: Arc<Session>) {
    tokio::select! {
        () = session.last_beat.lost(session.grant.interval()) => {}
        () = session.scope.cancelled() => return,
    }
    warn!("session of {}: lost: no beat for {:?}", session.called, session.beat_age());
    if session.end(&app, SessionEnd::Lost).await {
        app.enclave_lost();
    }
}

async fn accept_ingress(serving: Arc<Serving>, accepting: Accepting, upstream: Arc<Upstream>) {
    let Accepting { mut listener, worker: near } = accepting;
    let (app, scope) = (&serving.app, &serving.scope);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept_for(|| app.workers.for_stream(&near)) => accepted,
            () = scope.cancelled() => return,
            () = app.draining.cancelled() => return,
        };
        let (client, from, worker) = match accepted {
            Ok((client, Origin::Tcp(from), worker)) => (client, Some(from), worker),
            Ok((client, Origin::Peer(_), worker)) => (client, None, worker),
            Err(dead) => return error!("ingress listener of {}: {dead}", serving.called),
        };
        match serving.streams.admit(Direction::Ingress) {
            Some(permit) => {
                let (serving, to) = (Arc::clone(&serving), Arc::clone(&upstream));
                let client = ingress::Client { serving, stream: client, from, to, permit };
                scope.spawn_on(&worker, "ingress stream", ingress::serve(client));
            }
            None => count(&app.metrics.ingress.refused),
        }
    }
}

async fn accept_egress(serving: Arc<Serving>, accepting: Accepting, granted: Arc<ClientGrant>) {
    let Accepting { mut listener, worker: near } = accepting;
    let (app, scope) = (&serving.app, &serving.scope);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept_for(|| app.workers.for_stream(&near)) => accepted,
            () = scope.cancelled() => return,
            () = app.draining.cancelled() => return,
        };
        let (stream, worker) = match accepted {
            Ok((stream, Origin::Peer(from), worker)) if from == serving.peer => (stream, worker),
            Ok((_stranger, from, _)) => {
                count(&app.metrics.peers_refused);
                if app.refusals_logged.allows() {
                    warn!("egress listener of {}: {from} is not the peer of this session", serving.called);
                }
                continue;
            }
            Err(dead) => return error!("egress listener of {}: {dead}", serving.called),
        };
        match serving.streams.admit(Direction::Egress) {
            Some(permit) => {
                let serve = egress::serve(Arc::clone(&serving), stream, Arc::clone(&granted), permit);
                scope.spawn_on(&worker, "egress stream", serve);
            }
            None => {
                count(&app.metrics.egress.refused);
                egress::turn_away(&serving, stream).await;
            }
        }
    }
}
