//! The bridge itself, in this process and under a virtual clock, with peers that are raw bytes on Unix sockets.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use enclave_bridge::app::{App, BoundSockets, Ending, Means};
use enclave_bridge::config::{Command, Config, EndpointConfig, OnLoss, from_process_with};
use enclave_bridge::metrics::{GaugeSource, HandshakeResult, SessionEnd, StreamResult};
use enclave_bridge_net::{Scope, Workers};
use enclave_bridge_proto::NakCode;
use tokio_util::sync::CancellationToken;

use crate::peers::{Client, End, Socket, Tunnel, differ, read};
use crate::spec::{self, Model, StreamStage};
use crate::steps::{CLIENTS, PEERS, PORTS, Step, Target, Then, stream_count};

/// How long, by the machine's clock, the bridge may take to come to what the model says: a socket of the loopback interface may
/// be late on a busy machine. Only a disagreement takes so long; once there was one, a tenth has to do while its history is shrunk.
const PATIENCE: Duration = Duration::from_secs(3);

/// Turns of the runtime after each step, however soon both agree: what should not happen gets its chance to.
const TURNS: usize = 6;

const NAMES: [&str; PEERS] = ["a", "b", "c"];

pub(crate) struct World {
    pub(crate) ports: [u16; PORTS],
    folder: tempfile::TempDir,
    address: IpAddr,
    app: Arc<App>,
    drain: CancellationToken,
    ending: Arc<OnceLock<Ending>>,
    clients: Vec<Client>,
    tunnels: Vec<Tunnel>,
    logs: Vec<Option<UnixStream>>,
    guests: [Option<UnixListener>; PEERS],
    /// Connections of the bridge to an enclave that have not said what they want.
    asking: Vec<(usize, UnixStream, Vec<u8>)>,
    target: TcpListener,
    nobody: u16,
    _scope: Scope,
}

impl World {
    /// A bridge with an endpoint for each peer. To be called in a runtime whose clock is paused.
    pub(crate) fn new(exit_on_loss: bool) -> Self {
        static WORLDS: AtomicU64 = AtomicU64::new(0);
        // An address of this process's own, so that nobody else's ports are in the way; other ports for each world.
        let [.., high, middle, low] = std::process::id().to_be_bytes();
        let address = IpAddr::V4(Ipv4Addr::new(127, 100 + (high & 0x3f), middle, low.clamp(1, 254)));
        let first = 20_000 + (WORLDS.fetch_add(1, Ordering::Relaxed) % 1000) as u16 * 10;
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(&folder, address);
        if exit_on_loss {
            config.on_loss = OnLoss::Exit;
        }
        let monitor = SocketAddr::from((address, 1));
        let means = Means { descriptors: 1024, workers: Workers::none() };
        let (app, listeners) = App::over(BoundSockets::bind(&config).unwrap(), &config, &[], means, monitor).unwrap();
        let (drain, ending) = (CancellationToken::new(), Arc::new(OnceLock::new()));
        let scope = Scope::root("world");
        let (run, signal, end) = (Arc::clone(&app), drain.clone(), Arc::clone(&ending));
        scope.spawn("bridge", async move {
            let ending = run.run(listeners, signal.cancelled(), std::future::pending()).await;
            _ = end.set(ending);
        });
        let target = TcpListener::bind((address, 0)).unwrap();
        target.set_nonblocking(true).unwrap();
        let nobody = first + 9;
        Self {
            ports: [first, first + 1, first + 2],
            folder,
            address,
            app,
            drain,
            ending,
            clients: Vec::new(),
            tunnels: Vec::new(),
            logs: Vec::new(),
            guests: [const { None }; PEERS],
            asking: Vec::new(),
            target,
            nobody,
            _scope: scope,
        }
    }

    /// Does it; whether a connection that was asked for came about.
    pub(crate) fn step(&mut self, step: &Step) -> bool {
        match step {
            Step::Dial { peer } => {
                let socket = self.dial(*peer, 5000);
                let connected = socket.is_some();
                self.clients.extend(connected.then_some(Client { socket, bytes: Vec::new(), ended: false }));
                connected
            }
            Step::Send { connection, bytes, then } => {
                let client = &mut self.clients[*connection];
                if let Some(socket) = &mut client.socket {
                    // The bridge may have closed it: then that is what the model says too.
                    _ = socket.write_all(bytes);
                    match then {
                        Then::Stay => {}
                        Then::HalfClose => _ = socket.shutdown(Shutdown::Write),
                        Then::Close => client.socket = None,
                    }
                }
                true
            }
            Step::Ingress { port } => {
                let socket = TcpStream::connect((self.address, self.ports[*port])).ok();
                let connected = socket.is_some();
                let down = socket.map(Socket::Tcp);
                self.open(connected, down)
            }
            Step::Egress { peer, port } => {
                let down = self.dial(*peer, *port).map(Socket::Unix);
                self.open(down.is_some(), down)
            }
            Step::Target { stream, target } => {
                let line = match target {
                    Target::Open => self.target.local_addr().unwrap().to_string(),
                    Target::Closed => SocketAddr::from((self.address, self.nobody)).to_string(),
                    Target::Server(port) => SocketAddr::from((self.address, self.ports[*port])).to_string(),
                    Target::Denied => "10.1.2.3:9".to_owned(),
                    Target::Malformed => "no target".to_owned(),
                };
                self.tunnels[*stream].down.write(format!("{line}\n").as_bytes());
                true
            }
            Step::Ping { stream } => {
                let tunnel = &mut self.tunnels[*stream];
                tunnel.down.write(b"d");
                tunnel.up.write(b"u");
                true
            }
            Step::Finish { stream, orderly } => {
                self.tunnels[*stream].finish(*orderly);
                true
            }
            Step::LogDial { peer } => {
                let socket = self.dial(*peer, 4999);
                let connected = socket.is_some();
                self.logs.extend(connected.then_some(socket));
                connected
            }
            Step::LogWrite { log, bytes } => {
                _ = self.logs[*log].as_mut().map(|socket| socket.write_all(bytes));
                true
            }
            Step::LogClose { log } => {
                self.logs[*log] = None;
                true
            }
            Step::Serve { peer, on } => {
                let path = self.folder.path().join(NAMES[*peer]);
                if !on {
                    self.guests[*peer] = None;
                    _ = std::fs::remove_file(path);
                } else if self.guests[*peer].is_none() {
                    let listener = UnixListener::bind(path).unwrap();
                    listener.set_nonblocking(true).unwrap();
                    self.guests[*peer] = Some(listener);
                }
                true
            }
            Step::Drain => {
                self.drain.cancel();
                true
            }
        }
    }

    /// The clock goes on.
    pub(crate) async fn pass(&self, millis: u64) {
        tokio::time::advance(Duration::from_millis(millis)).await;
    }

    /// Lets the bridge work until what is seen of it is what the model says.
    pub(crate) async fn agrees_with(&mut self, model: &Model) -> Result<(), String> {
        for _ in 0..TURNS {
            self.turn(model).await;
        }
        static DISAGREED: AtomicBool = AtomicBool::new(false);
        let begin = Instant::now();
        let patience = if DISAGREED.load(Ordering::Relaxed) { PATIENCE / 10 } else { PATIENCE };
        loop {
            match self.compare(model) {
                Ok(()) => return Ok(()),
                Err(difference) if begin.elapsed() > patience => {
                    DISAGREED.store(true, Ordering::Relaxed);
                    return Err(difference);
                }
                Err(_) => {}
            }
            self.turn(model).await;
            if begin.elapsed() > Duration::from_millis(5) {
                std::thread::sleep(Duration::from_micros(200));
            }
        }
    }

    /// What holds once the bridge has ended: no line of a log is unaccounted for.
    pub(crate) fn accounts(&self) -> Result<(), String> {
        let log = &self.app.metrics().log;
        let [received, printed] = [&log.received, &log.printed].map(|count| count.load(Ordering::Relaxed));
        differ("printed and dropped of received lines", &(printed + log.dropped.sum()), &received)
    }

    /// One turn of the runtime; a `yield_now` comes back when everything that is ready has run and the sockets were asked once.
    /// It never lets the paused clock run on by itself.
    async fn turn(&mut self, model: &Model) {
        tokio::task::yield_now().await;
        for client in &mut self.clients {
            if let Some(socket) = &mut client.socket {
                client.ended |= read(socket, &mut client.bytes);
            }
        }
        for (peer, guest) in self.guests.iter().enumerate() {
            if let Some(Ok((leg, _))) = guest.as_ref().map(UnixListener::accept) {
                leg.set_nonblocking(true).unwrap();
                self.asking.push((peer, leg, Vec::new()));
            }
        }
        for (peer, mut leg, mut request) in std::mem::take(&mut self.asking) {
            let left = read(&mut leg, &mut request);
            if request == b"CONNECT 5001\n" {
                _ = leg.write_all(b"OK 1024\n");
                self.reached(model, Socket::Unix(leg), |stream| !stream.egress && stream.peer == peer);
            } else if !left {
                self.asking.push((peer, leg, request));
            }
        }
        if let Ok((upstream, _)) = self.target.accept() {
            upstream.set_nonblocking(true).unwrap();
            self.reached(model, Socket::Tcp(upstream), |stream| stream.egress);
        }
        for tunnel in &mut self.tunnels {
            tunnel.down.read();
            tunnel.up.read();
        }
    }

    /// The bridge has reached the far end of a stream: of the newest, for there is one dial at a time.
    fn reached(&mut self, model: &Model, by: Socket, which: impl Fn(&spec::Stream) -> bool) {
        let mut newest = model.streams.iter().zip(&mut self.tunnels).rev();
        let relayed = newest.find(|(stream, tunnel)| {
            tunnel.up.socket.is_none() && stream.stage == StreamStage::Relayed && which(stream)
        });
        if let Some((_, tunnel)) = relayed {
            tunnel.up.socket = Some(by);
        }
    }

    fn compare(&self, model: &Model) -> Result<(), String> {
        differ("counts", &self.counts(), &model.counts)?;
        let gauges = self.app.gauges();
        differ("sessions", &gauges.sessions, &model.sessions.iter().filter(|session| session.live).count())?;
        differ("ingress streams", &gauges.streams_ingress, &model.open_streams(false))?;
        differ("egress streams", &gauges.streams_egress, &model.open_streams(true))?;
        differ("panics", &gauges.panics, &0)?;
        let logs = self.app.metrics().log.connections.load(Ordering::Relaxed);
        differ("log connections", &logs, &(model.logs.iter().filter(|log| log.open).count() as u64))?;
        for (port, number) in self.ports.iter().enumerate() {
            // A socket that listens keeps another from it; this one is gone before the bridge runs again.
            let accepts = TcpListener::bind((self.address, *number)).is_err();
            differ(&format!("TCP port {port} accepts"), &accepts, &model.accepts(port).is_some())?;
        }
        for (peer, name) in NAMES.iter().enumerate() {
            for port in [5000, 4999, 5002, 5003] {
                let accepts = match port {
                    5000 => model.draining.is_none(),
                    4999 => model.ended.is_none(),
                    port => model.accepts_from(peer, port).is_some(),
                };
                differ(&format!("vsock port {port} of {name} accepts"), &self.path(peer, port).exists(), &accepts)?;
            }
        }
        for (number, connection) in model.connections.iter().enumerate().filter(|(_, c)| c.held) {
            let id = connection.session().map(|session| model.sessions[session].id);
            let mut seen = self.clients[number].seen(id)?;
            if connection.seen.environment_or_not {
                seen.environment = connection.seen.environment;
            }
            seen.environment_or_not = connection.seen.environment_or_not;
            differ(&format!("connection {number} of {}", NAMES[connection.peer]), &seen, &connection.seen)?;
        }
        for (number, stream) in model.streams.iter().enumerate().filter(|(_, s)| s.held) {
            self.tunnels[number].compare(number, stream)?;
        }
        let ending = model.ended.map(|cut| if model.lost { Ending::EnclaveLost } else { Ending::Drained { cut } });
        differ("ending", &self.ending.get().copied(), &ending)
    }

    /// The metrics under the model's names, without those that are zero.
    fn counts(&self) -> BTreeMap<&'static str, u64> {
        let metrics = self.app.metrics();
        let plain = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut counts = BTreeMap::from([
            ("started", plain(&metrics.sessions_started)),
            ("ended replaced", metrics.sessions_ended.get(SessionEnd::Replaced)),
            ("ended lost", metrics.sessions_ended.get(SessionEnd::Lost)),
            ("ended undelivered", metrics.sessions_ended.get(SessionEnd::Undelivered)),
            ("ended shutdown", metrics.sessions_ended.get(SessionEnd::Shutdown)),
            ("handshakes granted", metrics.handshakes.get(HandshakeResult::Granted)),
            ("handshakes refused", metrics.handshakes.get(HandshakeResult::Refused)),
            ("handshakes failed", metrics.handshakes.get(HandshakeResult::Failed)),
            ("unknown", plain(&metrics.init_unknown)),
            ("evicted", plain(&metrics.init_evicted)),
            ("beats", plain(&metrics.beats_received)),
            ("bad beats", plain(&metrics.beats_bad)),
            ("log lines", plain(&metrics.log.received)),
        ]);
        counts.extend(NakCode::ALL.iter().map(|code| (code.as_str(), metrics.refusals(*code))));
        for (egress, streams) in [(false, &metrics.ingress), (true, &metrics.egress)] {
            let [started, refused] =
                if egress { ["egress started", "egress refused"] } else { ["ingress started", "ingress refused"] };
            counts.extend([(started, plain(&streams.started)), (refused, plain(&streams.refused))]);
            for (result, name) in [
                (StreamResult::Orderly, "orderly"),
                (StreamResult::Reset, "reset"),
                (StreamResult::Cut, "cut"),
                (StreamResult::Unreachable, "unreachable"),
                (StreamResult::Refused, "refused"),
                (StreamResult::Abandoned, "abandoned"),
            ] {
                counts.insert(stream_count(egress, name), streams.ended.get(result));
            }
        }
        counts.retain(|_, count| *count > 0);
        counts
    }

    fn open(&mut self, connected: bool, down: Option<Socket>) -> bool {
        if let Some(Socket::Tcp(socket)) = &down {
            socket.set_nonblocking(true).unwrap();
        }
        let down = End { socket: down, ..End::default() };
        self.tunnels.extend(connected.then(|| Tunnel { down, up: End::default() }));
        connected
    }

    fn dial(&self, peer: usize, port: u32) -> Option<UnixStream> {
        let socket = UnixStream::connect(self.path(peer, port)).ok()?;
        socket.set_nonblocking(true).unwrap();
        Some(socket)
    }

    fn path(&self, peer: usize, port: u32) -> PathBuf {
        self.folder.path().join(format!("{}_{port}", NAMES[peer]))
    }
}

fn config(folder: &tempfile::TempDir, address: IpAddr) -> Config {
    let address = address.to_string();
    let most = [spec::UNFINISHED_PER_PEER, spec::STREAMS, CLIENTS].map(|most| most.to_string());
    let arguments = [
        "enclave-bridge",
        "--monitor",
        "127.0.0.1:1",
        "--ingress-address",
        &address,
        "--egress-allow",
        &address,
        "--max-handshakes",
        &most[0],
        "--max-streams",
        &most[1],
        "--max-clients",
        &most[2],
        "--uds-path",
    ];
    let mut arguments: Vec<_> = arguments.iter().map(std::ffi::OsString::from).collect();
    arguments.push(folder.path().join(NAMES[0]).into());
    let command = from_process_with(arguments, Vec::new(), &folder.path().join("none.toml"));
    let Ok(Command::Run(mut config, _)) = command else { panic!("the configuration is in order: {command:?}") };
    for name in &NAMES[1..] {
        config.endpoints.push(EndpointConfig::Hybrid { uds_path: folder.path().join(name) });
    }
    config.drain_timeout = Duration::from_millis(spec::DRAIN);
    config.limits.sessions = spec::SESSIONS;
    config.limits.unfinished_total = spec::UNFINISHED;
    config.limits.log_connections_per_peer = spec::LOGS_PER_PEER;
    config
}
