//! The faults of a soak, one each 30 s. Each begins, lasts and heals in its function; traffic goes on around it.

use super::logs::Logs;
use super::stage::{Allowed, Stage};
use super::traffic;
use crate::bytes::Pattern;
use crate::dice::Dice;
use crate::enclave::SimpleEnclave;
use crate::http;
use crate::peers;
use crate::tunnels;
use crate::v1::{self, ACK, Answer, INIT_PORT, LOG_PORT, Settings};
use crate::wire::Wire;
use nix::sys::signal::Signal;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Where the enclave dials.
const DIAL_PORT: u32 = 5002;

/// How long one peer of a fault may stand still.
const PATIENT: Duration = Duration::from_secs(20);

/// A kind of fault.
pub(super) struct Strike {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) allowed: Allowed,
    pub(super) deed: fn(&mut Stage, &mut Dice, &Logs) -> Result<(), String>,
}

use Allowed::{Cutting, Nothing, Refusing};

/// Every kind.
#[rustfmt::skip]
pub(super) const STRIKES: [Strike; 15] = [
    strike("enclave-killed", "SIGKILL, up to 3 s of nothing, and a new process", Cutting, enclave_killed),
    strike("enclave-frozen", "SIGSTOP until its session is lost, and a new process", Cutting, enclave_frozen),
    strike("second-enclave", "another handshake takes the session, an SDK enclave follows, then the first again", Cutting, second_enclave),
    strike("enclave-paused", "SIGSTOP for up to 1.5 s, SIGCONT", Nothing, enclave_paused),
    strike("bridge-stopped", "SIGSTOP for 1 to 6 s, SIGCONT", Nothing, bridge_stopped),
    strike("client-resets", "100 clients reset in the middle of their echo", Nothing, client_resets),
    strike("stalled-readers", "20 clients read nothing of their 4 MiB for 5 to 10 s", Nothing, stalled_readers),
    strike("half-closes", "30 streams through the enclave in every order of ends", Nothing, half_closes),
    strike("no-descriptors", "for 3 s the bridge may open nothing, with 50 connections waiting", Refusing, no_descriptors),
    strike("flood", "4,000 connections one after the other on 8 threads, half of them reset", Refusing, flood),
    strike("stdout-blocked", "nobody reads standard output for 8 s, with 100,000 lines more on their way", Nothing, stdout_blocked),
    strike("garbage", "random bytes at the init, log and egress ports, the tunnels and the monitoring", Nothing, garbage),
    strike("unfinished", "200 connections to the init port that say nothing or no more than their ACK, for 3 s", Nothing, unfinished),
    strike("slow-monitor", "100 connections to the monitoring that never finish their request, for 3 s", Nothing, slow_monitor),
    strike("signals", "20 times SIGHUP, SIGPIPE, SIGCHLD and SIGWINCH", Nothing, signals),
];

const fn strike(
    name: &'static str,
    about: &'static str,
    allowed: Allowed,
    deed: fn(&mut Stage, &mut Dice, &Logs) -> Result<(), String>,
) -> Strike {
    Strike { name, about, allowed, deed }
}

fn enclave_killed(stage: &mut Stage, dice: &mut Dice, _: &Logs) -> Result<(), String> {
    stage.kill_enclave();
    pause(dice.below(3000));
    stage.start_enclave()
}

fn enclave_frozen(stage: &mut Stage, _: &mut Dice, _: &Logs) -> Result<(), String> {
    stage.enclave().signal(Signal::SIGSTOP);
    let lost = until("the loss of a frozen enclave's session", PATIENT, || {
        stage.bridge.metric("enclave_bridge_sessions") == Some(0.0)
    });
    stage.kill_enclave();
    stage.start_enclave()?;
    lost
}

fn second_enclave(stage: &mut Stage, dice: &mut Dice, _: &Logs) -> Result<(), String> {
    let meeting = stage.ground.meeting.clone();
    let settings = Settings::new(Duration::from_secs(2)).server(5001, stage.ground.echo.port()).client(DIAL_PORT);
    let (_, answer) = v1::handshake(&meeting, &settings.json()).map_err(|error| format!("handshake: {error}"))?;
    if answer != Answer::Ack {
        return Err(format!("the second handshake: {answer:?}"));
    }
    stage.kill_enclave();
    {
        let mut enclave = SimpleEnclave::launch(&meeting, &[]);
        let address = enclave.address;
        until("an answer of the SDK's enclave", PATIENT, || {
            enclave.ended().is_none() && http::get(address, "/").is_ok_and(|answer| answer.status == 200)
        })?;
        for _ in 0..5 {
            let (seed, length) = (dice.any(), dice.length(1000, 4 * 1024 * 1024));
            let (status, hash, total) = http::post_and_hash(address, "/echo", Pattern::new(seed, length), length)
                .map_err(|error| format!("the SDK's echo: {error}"))?;
            if status != 200 || total != length || hash != Pattern::hash(seed, length) {
                return Err(format!("the SDK's echo: status {status}, {total} of {length} bytes, or another SHA-256"));
            }
        }
        enclave.kill();
    }
    stage.start_enclave()
}

fn enclave_paused(stage: &mut Stage, dice: &mut Dice, _: &Logs) -> Result<(), String> {
    stage.enclave().signal(Signal::SIGSTOP);
    pause(100 + dice.below(1400));
    stage.enclave().signal(Signal::SIGCONT);
    Ok(())
}

fn bridge_stopped(stage: &mut Stage, dice: &mut Dice, _: &Logs) -> Result<(), String> {
    stage.bridge.signal(Signal::SIGSTOP);
    pause(1000 + dice.below(5000));
    stage.bridge.signal(Signal::SIGCONT);
    Ok(())
}

fn client_resets(stage: &mut Stage, dice: &mut Dice, _: &Logs) -> Result<(), String> {
    for _ in 0..100 {
        let mut tcp = tunnels::tcp(stage.ground.echo);
        let length = usize::try_from(1 + dice.below(60_000)).expect("small");
        tcp.write_all(&vec![b'r'; length]).map_err(|error| format!("write: {error}"))?;
        let mut back = vec![0; usize::try_from(dice.below(length as u64)).expect("small")];
        tcp.read_exact(&mut back).map_err(|error| format!("read: {error}"))?;
        peers::reset(tcp);
    }
    Ok(())
}

fn stalled_readers(stage: &mut Stage, dice: &mut Dice, _: &Logs) -> Result<(), String> {
    traffic::stalled(&stage.ground, dice);
    Ok(())
}

fn half_closes(stage: &mut Stage, dice: &mut Dice, _: &Logs) -> Result<(), String> {
    traffic::half_closes(&stage.ground, dice);
    Ok(())
}

fn no_descriptors(stage: &mut Stage, _: &mut Dice, _: &Logs) -> Result<(), String> {
    let id = Pid::from_raw(stage.bridge.pid().cast_signed());
    let now = prlimit_soft(id, Some(stage.bridge.descriptors() as u64))?;
    let waiting: Vec<_> = (0..50).filter_map(|_| TcpStream::connect(stage.ground.echo).ok()).collect();
    let busy = stage.bridge.processor_time();
    pause(3000);
    let busy = stage.bridge.processor_time() - busy;
    let restored = prlimit_soft(id, now.current);
    drop(waiting);
    restored?;
    // Other traffic takes its part; a loop without a pause would take all of it.
    if busy > Duration::from_millis(2000) { Err(format!("{busy:?} of processor time in 3 s")) } else { Ok(()) }
}

/// Sets the soft limit of descriptors of another process; what it was.
fn prlimit_soft(id: Option<Pid>, soft: Option<u64>) -> Result<Rlimit, String> {
    let maximum = Some(1024);
    prlimit(id, Resource::Nofile, Rlimit { current: soft, maximum }).map_err(|error| format!("prlimit: {error}"))
}

fn flood(stage: &mut Stage, _: &mut Dice, _: &Logs) -> Result<(), String> {
    let echo = stage.ground.echo;
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(move || {
                for number in 0..500 {
                    let Ok(tcp) = TcpStream::connect_timeout(&echo, PATIENT) else { continue };
                    if number % 2 == 0 {
                        peers::reset(tcp);
                    }
                }
            });
        }
    });
    Ok(())
}

fn stdout_blocked(stage: &mut Stage, _: &mut Dice, logs: &Logs) -> Result<(), String> {
    let meeting = stage.ground.meeting.clone();
    std::thread::scope(|scope| {
        scope.spawn(|| logs.block(Duration::from_secs(8)));
        let wrote = scope.spawn(move || {
            let mut log = meeting.dial_host(LOG_PORT).map_err(|error| format!("log: {error}"))?;
            log.write_within(PATIENT);
            let lines = "another line, of sixty bytes or so, that has to go somewhere\n".repeat(1000);
            for _ in 0..100 {
                log.write_all(lines.as_bytes()).map_err(|error| format!("log: {error}"))?;
            }
            Ok(())
        });
        wrote.join().map_err(|_| "a writer panicked".to_owned())?
    })
}

fn garbage(stage: &mut Stage, dice: &mut Dice, _: &Logs) -> Result<(), String> {
    for _ in 0..20 {
        let (seed, length) = (dice.any(), dice.length(1, 64 * 1024));
        let mut bytes = Vec::new();
        Pattern::new(seed, length).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        for port in [INIT_PORT, LOG_PORT, DIAL_PORT] {
            let wire = dial(stage, port)?;
            pour(&wire, &bytes);
        }
        for address in [stage.ground.echo, stage.ground.chain, stage.bridge.monitor] {
            pour_tcp(address, &bytes)?;
        }
    }
    Ok(())
}

fn dial(stage: &Stage, port: u32) -> Result<Wire, String> {
    let wire = stage.ground.meeting.dial_host(port).map_err(|error| format!("dial {port}: {error}"))?;
    wire.read_within(PATIENT);
    wire.write_within(PATIENT);
    Ok(wire)
}

/// What the bridge makes of it is its affair; it ends the connection, or takes it all.
fn pour(wire: &Wire, bytes: &[u8]) {
    let mut writing = wire;
    let _met = writing.write_all(bytes);
    wire.shutdown(std::net::Shutdown::Write);
    let _end = tunnels::read_out(&mut wire.again());
}

fn pour_tcp(address: SocketAddr, bytes: &[u8]) -> Result<(), String> {
    let tcp =
        TcpStream::connect_timeout(&address, PATIENT).map_err(|error| format!("connect to {address}: {error}"))?;
    tcp.set_read_timeout(Some(PATIENT)).expect("a socket");
    tcp.set_write_timeout(Some(PATIENT)).expect("a socket");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _met = (&tcp).write_all(bytes);
            let _met = tcp.shutdown(std::net::Shutdown::Write);
        });
        let _end = tunnels::read_out(&mut &tcp);
    });
    Ok(())
}

fn unfinished(stage: &mut Stage, _: &mut Dice, _: &Logs) -> Result<(), String> {
    let mut held = Vec::new();
    for number in 0..200 {
        let mut wire = dial(stage, INIT_PORT)?;
        if number % 2 == 0 {
            // It may have made room for a later one already.
            let _met = wire.write_all(ACK);
        }
        held.push(wire);
    }
    pause(3000);
    Ok(())
}

fn slow_monitor(stage: &mut Stage, _: &mut Dice, _: &Logs) -> Result<(), String> {
    let mut held = Vec::new();
    for _ in 0..100 {
        let mut tcp =
            TcpStream::connect_timeout(&stage.bridge.monitor, PATIENT).map_err(|error| format!("monitor: {error}"))?;
        let _met = tcp.write_all(b"GET /metrics HTTP/1.1\r\nhost: ");
        held.push(tcp);
    }
    pause(3000);
    drop(held);
    until("the monitoring", PATIENT, || http::get(stage.bridge.monitor, "/health/live").is_ok())
}

fn signals(stage: &mut Stage, _: &mut Dice, _: &Logs) -> Result<(), String> {
    for _ in 0..20 {
        for signal in [Signal::SIGHUP, Signal::SIGPIPE, Signal::SIGCHLD, Signal::SIGWINCH] {
            stage.bridge.signal(signal);
        }
        pause(20);
    }
    Ok(())
}

fn pause(milliseconds: u64) {
    std::thread::sleep(Duration::from_millis(milliseconds));
}

fn until(what: &str, within: Duration, mut look: impl FnMut() -> bool) -> Result<(), String> {
    let deadline = Instant::now() + within;
    while !look() {
        if Instant::now() > deadline {
            return Err(format!("waited {within:?} for {what}"));
        }
        pause(20);
    }
    Ok(())
}
