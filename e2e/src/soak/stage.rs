//! Who plays in a soak: the bridge, the enclave's process, the server of the world, and what is written down about streams.

use super::delays::Delays;
use super::logs::Logs;
use super::strikes::Strike;
use super::traffic;
use crate::bridge::{Bridge, companion};
use crate::dice::Dice;
use crate::ports;
use crate::process::{Output, Process};
use crate::talker::{Plan, Told, talk};
use crate::tunnels::STALL;
use crate::wire::Meeting;
use nix::sys::signal::Signal;
use std::collections::HashMap;
use std::io::{PipeReader, Read as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Descriptors of the bridge: enough for the traffic, and few enough to run out of.
const DESCRIPTORS: u32 = 1024;

/// How long an enclave may take to be ready on a busy machine.
const READY: Duration = Duration::from_secs(30);

/// The most violations that are kept in words; all are counted.
const KEPT: usize = 100;

/// What a fault may do to streams that live while it lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Allowed {
    /// Nothing: they are whole.
    Nothing,
    /// Those that begin during it may be refused before their first byte.
    Refusing,
    /// They may be cut, visibly.
    Cutting,
}

struct Window {
    from: Instant,
    to: Option<Instant>,
    allowed: Allowed,
}

/// What came of all streams.
#[derive(Default)]
pub(super) struct Account {
    whole: AtomicU64,
    cut: AtomicU64,
    refused: AtomicU64,
    bytes: AtomicU64,
    wrong: AtomicU64,
    violations: Mutex<Vec<String>>,
    weather: Mutex<Vec<Window>>,
}

impl Account {
    pub(super) fn whole(&self, bytes: u64) {
        self.whole.fetch_add(1, Ordering::SeqCst);
        self.bytes.fetch_add(bytes, Ordering::SeqCst);
    }

    /// A stream that ended early: permitted by a fault, or wrong.
    pub(super) fn ended_early(&self, what: &str, begun: Instant, heard: u64, how: &str) {
        self.bytes.fetch_add(heard, Ordering::SeqCst);
        let weather = self.weather.lock().expect("no panic");
        let overlapping = || weather.iter().filter(|window| window.to.is_none_or(|to| begun <= to));
        if overlapping().any(|window| window.allowed == Allowed::Cutting) {
            let counter = if heard == 0 { &self.refused } else { &self.cut };
            counter.fetch_add(1, Ordering::SeqCst);
        } else if heard == 0 && overlapping().any(|window| begun >= window.from && window.allowed == Allowed::Refusing)
        {
            self.refused.fetch_add(1, Ordering::SeqCst);
        } else {
            let nearest = overlapping().next_back().or(weather.last()).map_or("no fault so far".to_owned(), |window| {
                let ago = begun.saturating_duration_since(window.from);
                let ahead = window.from.saturating_duration_since(begun);
                format!("begun {ago:?} after and {ahead:?} before a fault began, which was {:?}", window.allowed)
            });
            drop(weather);
            self.wrong(format!("{what}: {how} after {heard} bytes, though no fault explains it; {nearest}"));
        }
    }

    pub(super) fn wrong(&self, what: String) {
        self.wrong.fetch_add(1, Ordering::SeqCst);
        let mut violations = self.violations.lock().expect("no panic");
        if violations.len() < KEPT {
            violations.push(what);
        }
    }

    pub(super) fn totals(&self) -> [u64; 4] {
        [&self.whole, &self.cut, &self.refused, &self.bytes].map(|counter| counter.load(Ordering::SeqCst))
    }

    pub(super) fn violations(&self) -> Vec<String> {
        self.violations.lock().expect("no panic").clone()
    }

    fn open_window(&self, allowed: Allowed) {
        self.weather.lock().expect("no panic").push(Window { from: Instant::now(), to: None, allowed });
    }

    fn close_window(&self) {
        if let Some(window) = self.weather.lock().expect("no panic").last_mut() {
            window.to = Some(Instant::now());
        }
    }
}

/// The server's side of an egress stream.
pub(super) enum Part {
    Waiting(Box<Plan>),
    Playing,
    Done(Box<Told>),
}

/// What everybody shares.
pub(super) struct Ground {
    pub(super) meeting: Meeting,
    /// Where the bridge serves the enclave's echo.
    pub(super) echo: SocketAddr,
    /// Where it serves what the enclave passes on to the server of the world.
    pub(super) chain: SocketAddr,
    pub(super) account: Account,
    /// The server's parts of egress streams, by the number that their first eight bytes are.
    pub(super) parts: Mutex<HashMap<u64, Part>>,
    pub(super) stop: AtomicBool,
}

/// The bridge and the enclave.
pub(super) struct Stage {
    pub(super) bridge: Bridge,
    enclave: Option<Process>,
    pub(super) ground: Arc<Ground>,
    world: SocketAddr,
    pub(super) delays: Arc<Delays>,
}

impl Stage {
    /// With an enclave that has its session.
    pub(super) fn set(seed: u64) -> Stage {
        let _ = seed;
        let mut bridge = Bridge::builder()
            .loopback_egress()
            .arguments(["--log-format", "raw"])
            .descriptor_limit(DESCRIPTORS)
            .output(Output::Held)
            .in_a_group_of_its_own()
            .start();
        bridge.assert_alive();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a local port");
        let world = listener.local_addr().expect("bound");
        let ground = Arc::new(Ground {
            meeting: bridge.meeting.clone(),
            echo: Bridge::tcp(ports::free()),
            chain: Bridge::tcp(ports::free()),
            account: Account::default(),
            parts: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        serve_the_world(listener, &ground);
        let mut stage = Stage { bridge, enclave: None, ground, world, delays: Delays::start() };
        stage.start_enclave().expect("the first enclave");
        stage
    }

    pub(super) fn take_stdout(&mut self) -> PipeReader {
        self.bridge.take_held_pipe()
    }

    pub(super) fn enclave(&mut self) -> &mut Process {
        self.enclave.as_mut().expect("an enclave between faults")
    }

    pub(super) fn kill_enclave(&mut self) {
        if let Some(mut enclave) = self.enclave.take() {
            enclave.kill();
        }
    }

    /// Starts the enclave's process and waits for its session.
    pub(super) fn start_enclave(&mut self) -> Result<(), String> {
        let mut command = Command::new(companion("e2e-v1-enclave"));
        command.arg(self.ground.meeting.uds_path()).arg(self.ground.echo.port().to_string()).arg("soak");
        command.arg(self.ground.chain.port().to_string()).arg(self.world.to_string()).process_group(0);
        let mut enclave = Process::start(command, "the version-1 enclave", Output::Kept);
        let deadline = Instant::now() + READY;
        while !enclave.stdout.text().contains("ready") {
            if let Some(status) = enclave.ended() {
                return Err(format!("the enclave ended with {status}: {}", enclave.stderr.text()));
            }
            if Instant::now() > deadline {
                return Err(format!("the enclave was not ready within {READY:?}"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.enclave = Some(enclave);
        Ok(())
    }

    /// One fault from its beginning to its healing, and a stream after it.
    pub(super) fn strike(&mut self, strike: &Strike, dice: &mut Dice, logs: &Logs) -> Result<(), String> {
        self.ground.account.open_window(strike.allowed);
        let _before = self.delays.lately();
        let struck = (strike.deed)(self, dice, logs);
        // Whatever went wrong: the enclave of the next fault has to be there.
        let healed = if self.enclave.is_none() { self.start_enclave() } else { Ok(()) };
        let serves = self.probe().or_else(|error| self.find_session().and(Err(error)));
        self.ground.account.close_window();
        struck?;
        healed?;
        serves
    }

    /// No fault ends without a session. One that was lost is told with what the bridge said of it and what the machine was like,
    /// and its enclave is replaced: it does not come back by itself, and what follows would be told of instead.
    fn find_session(&mut self) -> Result<(), String> {
        if self.bridge.ended().is_some() || self.bridge.metric("enclave_bridge_sessions") != Some(0.0) {
            return Ok(());
        }
        let told = self.bridge.stderr.text();
        let told = told.lines().rfind(|line| line.contains("lost: no beat")).unwrap_or("nothing of it in its log");
        let ended = self.enclave.as_mut().and_then(Process::ended);
        let delay = self.delays.lately();
        self.kill_enclave();
        let again = self.start_enclave();
        Err(format!(
            "the session was lost: {told}; the enclave's process ended: {ended:?}; the longest delay of a thread: {delay:?}; \
             another enclave: {again:?}"
        ))
    }

    /// A stream through the bridge works within ten seconds.
    fn probe(&self) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match traffic::probe(self.ground.echo) {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(format!("no stream after it: {error}")),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// Ends the bridge in order, and says how it was.
    pub(super) fn finish(&mut self, pid: u32) -> String {
        self.ground.stop.store(true, Ordering::SeqCst);
        // Wakes the server of the world.
        drop(TcpStream::connect(self.world));
        if let Some(status) = self.bridge.ended() {
            return format!("the bridge ended with {status}");
        }
        let same = self.bridge.pid() == pid;
        let panics = self.bridge.metric("enclave_bridge_task_panics_total").unwrap_or(0.0);
        let sessions = self.bridge.metric("enclave_bridge_sessions_started_total").unwrap_or(0.0);
        let busy = self.bridge.processor_time();
        if panics > 0.0 {
            self.ground.account.wrong(format!("{panics} tasks of the bridge panicked"));
        }
        let (code, took) = self.bridge.end_with(Signal::SIGTERM, Duration::from_secs(60));
        if code != Some(0) {
            self.ground.account.wrong(format!("the bridge's exit code was {code:?}"));
        }
        self.kill_enclave();
        format!(
            "bridge: the same process {}, {sessions} sessions, {panics} panics, {busy:.1?} of processor time, exit {code:?} \
             {took:.1?} after SIGTERM; the longest delay of a thread beside it: {:.1?}",
            if same { "throughout" } else { "NOT throughout" },
            self.delays.ever()
        )
    }
}

/// Every connection says which stream it is with its first eight bytes, and plays its part.
fn serve_the_world(listener: TcpListener, ground: &Arc<Ground>) {
    let ground = ground.clone();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            if ground.stop.load(Ordering::SeqCst) {
                return;
            }
            let ground = ground.clone();
            std::thread::spawn(move || {
                stream.set_read_timeout(Some(STALL)).expect("a socket");
                let mut number = [0; 8];
                if stream.read_exact(&mut number).is_err() {
                    return;
                }
                let number = u64::from_le_bytes(number);
                let part = ground.parts.lock().expect("no panic").insert(number, Part::Playing);
                let Some(Part::Waiting(plan)) = part else {
                    // Nobody's stream: garbage that came through.
                    ground.parts.lock().expect("no panic").remove(&number);
                    return;
                };
                let told = talk(crate::talker::Socket::Tcp(stream), *plan);
                // Gone where the client has given up waiting, which it says itself.
                if let Some(part) = ground.parts.lock().expect("no panic").get_mut(&number) {
                    *part = Part::Done(Box::new(told));
                }
            });
        }
    });
}
