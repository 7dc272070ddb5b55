//! One run: opens a stream, strikes it, judges both of its directions.
#![allow(clippy::wildcard_enum_match_arm, reason = "each question here is about a few of the 24 kinds")]

use super::world::{Apart, DIAL_PORT, Stream, Way, World};
use super::{Kind, Leg, Outcome, Strike};
use crate::bytes::Pattern;
use crate::dice::Dice;
use crate::talker::{Blob, Deed, End, Pieces, Plan, Reading, Socket, Told, Turn, judge, talk};
use crate::toxic::Toxic;
use crate::v1;
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use std::io::{ErrorKind, Read as _};
use std::net::TcpStream;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Beats so rare that a slow machine loses none.
const CALM: Duration = Duration::from_secs(30);

/// Beats of which one and a half may be missed within a run.
const QUICK: Duration = Duration::from_secs(1);

/// The most of a blob where nothing asks for more or less.
const BLOB_MOST: u64 = 256 * 1024;

/// Of a blob that is to fill the buffers of a stalled reader's sockets, and more.
const LARGE_MOST: u64 = 4 * 1024 * 1024;

/// Of a blob whose every piece waits some milliseconds.
const DELAYED_MOST: u64 = 64 * 1024;

/// Of a blob in single bytes.
const SINGLE_MOST: u64 = 1000;

/// What the bridge gives itself to reach an enclave.
const ENCLAVE_CONNECT: Duration = Duration::from_secs(2);

/// How often a client connects whom a bridge on a slow machine turns away.
const TRIES: u32 = 5;

/// How long a driver waits for a place in a stream.
const PATIENT: Duration = Duration::from_secs(60);

/// Directions of one run by what came of them.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) whole: u64,
    pub(super) cut: u64,
    pub(super) own: u64,
}

/// What is planned for both ends of a stream.
struct Plans {
    tcp: Plan,
    enclave: Plan,
    withheld: Arc<AtomicBool>,
}

/// Runs it once, in a world that later runs may use.
pub(super) fn one(kind: &Kind, way: Way, leg: Leg, seed: u64, kept: &mut Option<World>) -> Result<Counts, String> {
    let mut dice = Dice::new(seed);
    if matches!(kind.strike, Strike::EnclaveStopped | Strike::EnclaveKilled) {
        return apart(kind, way, leg, &mut dice);
    }
    let world = match kept.take() {
        Some(world) if world.leg == leg => world,
        _ => World::start(leg, if kind.strike == Strike::BeatsLost { QUICK } else { CALM }),
    };
    let (counts, world) = in_world(kind, way, &mut dice, world)?;
    *kept = world;
    Ok(counts)
}

fn in_world(kind: &Kind, way: Way, dice: &mut Dice, mut world: World) -> Result<(Counts, Option<World>), String> {
    let mut plans = plans(kind.strike, dice);
    let stream = match kind.strike {
        Strike::BacklogFull => open_through_a_full_backlog(&world, way)?,
        Strike::Coalesced if way == Way::Egress => open_with_first_bytes(&world, &mut plans, dice)?,
        strike => world.open(way, toxic(strike, &plans, dice).map(|toxic| (toxic, dice.any())))?,
    };
    // A place that both directions reach: something has moved each way, and neither has ended.
    let at = 1 + dice.below(plans.tcp.hear.length.min(plans.enclave.hear.length) - 1);
    let (tcp_heard, enclave_heard) = (plans.tcp.progress.clone(), plans.enclave.progress.clone());
    let (tcp_plan, enclave_plan) = (plans.tcp.clone(), plans.enclave.clone());
    let socket = world.socket(stream.enclave);
    let tcp = stream.tcp;
    let (at_tcp, at_enclave) = std::thread::scope(|scope| {
        let tcp = scope.spawn(move || talk(Socket::Tcp(tcp), tcp_plan));
        let enclave = scope.spawn(move || talk(socket, enclave_plan));
        let struck = (|| -> Result<(), String> {
            if needs_a_moment(kind.strike) {
                reached(&tcp_heard, at)?;
                reached(&enclave_heard, at)?;
            }
            strike(kind.strike, &mut world, dice)
        })();
        // Where the path resets by itself, at a place before the last bytes, those never come.
        plans.withheld.store(kind.strike != Strike::PathResets, Ordering::SeqCst);
        let told = (tcp.join().expect("no panic"), enclave.join().expect("no panic"));
        struck.map(|()| told)
    })?;
    if let Some(path) = stream.path {
        path.join().map_err(|_| "the path panicked".to_owned())?;
    }
    let mut counts = Counts::default();
    let ways = [
        ("towards the enclave", &at_tcp, plans.tcp.speak, &at_enclave),
        ("from the enclave", &at_enclave, plans.enclave.speak, &at_tcp),
    ];
    for (name, sender, blob, receiver) in ways {
        judge(sender, blob, receiver).map_err(|wrong| format!("{name}: {wrong}"))?;
        count(kind.outcome, receiver, &mut counts).map_err(|wrong| format!("{name}: {wrong}"))?;
    }
    // What is left of these is not what the next run expects: no bridge, no session, or streams that nobody asked for.
    let spent = [Strike::BridgeKilled, Strike::SessionReplaced, Strike::BeatsLost, Strike::NoDescriptors];
    if spent.contains(&kind.strike) {
        return Ok((counts, None));
    }
    world.bridge.assert_alive();
    world.come_to_rest()?;
    Ok((counts, Some(world)))
}

fn count(outcome: Outcome, receiver: &Told, counts: &mut Counts) -> Result<(), String> {
    match (outcome, receiver.end) {
        (Outcome::Whole, End::Clean) => counts.whole += 1,
        (Outcome::Broken, End::Cut(_)) => counts.cut += 1,
        (Outcome::Broken, End::Own) => counts.own += 1,
        (_, end) => return Err(format!("{end:?} after {} bytes", receiver.heard)),
    }
    Ok(())
}

fn plans(strike: Strike, dice: &mut Dice) -> Plans {
    let most = match strike {
        Strike::SingleBytes => SINGLE_MOST,
        Strike::Delayed => DELAYED_MOST,
        Strike::TcpStalls | Strike::EnclaveStalls => LARGE_MOST,
        _ => BLOB_MOST,
    };
    let mut blob = || Blob { seed: dice.any(), length: dice.length(2, most) };
    let (mut up, mut down) = (blob(), blob());
    let pause = Duration::from_millis(50 + dice.below(100));
    // What stalls must have something to stall.
    match strike {
        Strike::TcpStalls => down.length = most - dice.below(most / 2),
        Strike::EnclaveStalls => up.length = most - dice.below(most / 2),
        _ => {}
    }
    let mut tcp = Plan::new(up, down);
    let mut enclave = Plan::new(down, up);
    let withheld = Arc::new(AtomicBool::new(false));
    if needs_a_moment(strike) || matches!(strike, Strike::PathResets) {
        tcp.withheld = Some(withheld.clone());
        enclave.withheld = Some(withheld.clone());
    }
    let at_tcp = dice.below(up.length);
    let at_enclave = dice.below(down.length);
    let other = dice.below(2) == 0;
    match strike {
        Strike::Delayed => (tcp.pieces, enclave.pieces) = (Pieces::Late, Pieces::Late),
        Strike::SingleBytes => (tcp.pieces, enclave.pieces) = (Pieces::Single, Pieces::Single),
        Strike::Fragments => (tcp.pieces, enclave.pieces) = (Pieces::Uneven, Pieces::Uneven),
        Strike::Coalesced => tcp.pieces = Pieces::Uneven,
        Strike::HalfCloseEarly if other => tcp.turn = Turn::SpeaksLast,
        Strike::HalfCloseEarly => enclave.turn = Turn::SpeaksLast,
        Strike::HalfCloseLate if other => tcp.turn = Turn::EndsLast,
        Strike::HalfCloseLate => enclave.turn = Turn::EndsLast,
        Strike::TcpResets => tcp.deed = Some((Deed::Reset, at_tcp)),
        Strike::EnclaveResets => enclave.deed = Some((Deed::Reset, at_enclave)),
        Strike::EnclaveCutInRecord => enclave.deed = Some((Deed::CutInRecord, at_enclave)),
        Strike::TcpClosesUnread => tcp.deed = Some((Deed::CloseUnread, at_tcp)),
        Strike::EnclaveClosesUnread => enclave.deed = Some((Deed::CloseUnread, at_enclave)),
        Strike::TcpSlow => tcp.reading = Reading::Slow,
        Strike::EnclaveSlow => enclave.reading = Reading::Slow,
        Strike::TcpStalls => tcp.reading = Reading::Stalled { at: dice.below(down.length / 2), pause },
        Strike::EnclaveStalls => enclave.reading = Reading::Stalled { at: dice.below(up.length / 2), pause },
        Strike::PathResets
        | Strike::BridgeStopped
        | Strike::EnclaveStopped
        | Strike::EnclaveKilled
        | Strike::BridgeKilled
        | Strike::SessionReplaced
        | Strike::BeatsLost
        | Strike::BacklogFull
        | Strike::NoDescriptors => {}
    }
    Plans { tcp, enclave, withheld }
}

/// Whether the strike is the driver's and falls in the middle of the stream: last bytes wait for it.
fn needs_a_moment(strike: Strike) -> bool {
    matches!(
        strike,
        Strike::BridgeStopped
            | Strike::BridgeKilled
            | Strike::SessionReplaced
            | Strike::BeatsLost
            | Strike::NoDescriptors
    )
}

fn toxic(strike: Strike, plans: &Plans, dice: &mut Dice) -> Option<Toxic> {
    match strike {
        Strike::Delayed => Some(Toxic::Delay),
        Strike::SingleBytes => Some(Toxic::SingleBytes),
        Strike::Fragments => Some(Toxic::Fragments),
        Strike::Coalesced => Some(Toxic::Coalesce),
        // Before the withheld last bytes of both directions.
        Strike::PathResets => Some(Toxic::ResetAt(dice.below(plans.tcp.speak.length + plans.enclave.speak.length - 2))),
        _ => None,
    }
}

fn strike(strike: Strike, world: &mut World, dice: &mut Dice) -> Result<(), String> {
    match strike {
        Strike::BridgeStopped => stop_and_continue(|signal| world.bridge.signal(signal), dice),
        Strike::BridgeKilled => world.bridge.kill(),
        Strike::SessionReplaced => {
            let next = v1::Settings { id: v1::fresh_id(), ..world.settings.clone() };
            let answer = v1::handshake(&world.bridge.meeting, &next.json()).map_err(|error| error.to_string())?.1;
            if answer != v1::Answer::Ack {
                return Err(format!("the next handshake: {answer:?}"));
            }
        }
        Strike::BeatsLost => {
            world.enclave.fall_silent();
            let deadline = Instant::now() + PATIENT;
            while world.bridge.metric("enclave_bridge_sessions") != Some(0.0) {
                if Instant::now() > deadline {
                    return Err("a silent enclave kept its session".to_owned());
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Strike::NoDescriptors => return without_descriptors(world),
        // The path does it by itself, and the last bytes wait until it has: they would never come.
        _ => {}
    }
    Ok(())
}

fn stop_and_continue(signal: impl Fn(Signal), dice: &mut Dice) {
    signal(Signal::SIGSTOP);
    std::thread::sleep(Duration::from_millis(1 + dice.below(40)));
    signal(Signal::SIGCONT);
}

/// As many descriptors as are open, 20 clients that want more, and a moment later as many as before.
fn without_descriptors(world: &World) -> Result<(), String> {
    let id = Pid::from_raw(world.bridge.pid().cast_signed());
    let set = |soft: Option<u64>| {
        let hard = rustix::process::getrlimit(Resource::Nofile).maximum;
        prlimit(id, Resource::Nofile, Rlimit { current: soft, maximum: hard })
            .map_err(|error| format!("prlimit: {error}"))
    };
    let before = set(Some(world.bridge.descriptors() as u64))?;
    let waiting: Vec<_> = (0..20).filter_map(|_| TcpStream::connect(world.ingress()).ok()).collect();
    std::thread::sleep(Duration::from_millis(20));
    prlimit(id, Resource::Nofile, before).map_err(|error| format!("prlimit: {error}"))?;
    // Some of those that waited come through now.
    drop(world.next_arrival()?);
    drop(waiting);
    Ok(())
}

/// Connections until the kernel says that no more may wait; each is gone at once, but its place is taken until it is accepted.
fn fill(path: &Path) -> Result<(), String> {
    let address = UnixAddr::new(path).map_err(|error| error.to_string())?;
    for _ in 0..10_000 {
        let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_NONBLOCK, None)
            .map_err(|error| format!("socket: {error}"))?;
        match connect(socket.as_raw_fd(), &address) {
            Ok(()) => {}
            Err(Errno::EAGAIN) => return Ok(()),
            Err(error) => return Err(format!("connect: {error}")),
        }
    }
    Err("a backlog of more than 10,000".to_owned())
}

fn open_through_a_full_backlog(world: &World, way: Way) -> Result<Stream, String> {
    match way {
        Way::Ingress => {
            let gate = world.close_gate()?;
            fill(world.bridge.meeting.uds_path())?;
            let mut tcp = TcpStream::connect(world.ingress()).map_err(|error| format!("connect: {error}"))?;
            tcp.set_read_timeout(Some(crate::tunnels::STALL)).expect("a socket");
            // Until the bridge has tried in vain at least once.
            std::thread::sleep(Duration::from_millis(20));
            drop(gate);
            drop(world.next_arrival()?);
            // A machine so slow that the bridge gives up meanwhile: then it has to say so to its client, who tries again.
            for _ in 0..TRIES {
                if let Some(enclave) = world.arrival_within(ENCLAVE_CONNECT * 2) {
                    return Ok(Stream { tcp, enclave, path: None });
                }
                let end = crate::tunnels::read_out(&mut &tcp);
                if end != (0, Some(ErrorKind::ConnectionReset)) {
                    return Err(format!("the bridge did not dial the enclave, and its client saw {end:?}"));
                }
                tcp = TcpStream::connect(world.ingress()).map_err(|error| format!("connect: {error}"))?;
            }
            let last = world.bridge.stderr.text().lines().last().unwrap_or_default().to_owned();
            Err(format!("the bridge did not reach the enclave in {TRIES} tries: {last}"))
        }
        Way::Egress => {
            world.bridge.signal(Signal::SIGSTOP);
            let filled = fill(&world.bridge.meeting.host_socket(DIAL_PORT));
            let (enclave, target) = (&world.enclave, world.target());
            let (wire, answer) = std::thread::scope(|scope| {
                let dialling = scope.spawn(move || enclave.dial(DIAL_PORT, &target));
                std::thread::sleep(Duration::from_millis(20));
                world.bridge.signal(Signal::SIGCONT);
                dialling.join().expect("no panic")
            });
            if answer != v1::Answer::Ack {
                return Err(format!("egress: {answer:?}"));
            }
            filled?;
            Ok(Stream { tcp: world.accept()?, enclave: wire, path: None })
        }
    }
}

/// The enclave's first bytes come in the segment of its address line.
fn open_with_first_bytes(world: &World, plans: &mut Plans, dice: &mut Dice) -> Result<Stream, String> {
    let mut first = Vec::new();
    let length = 1 + dice.below(plans.enclave.speak.length.min(8000) - 1);
    if world.leg == Leg::Framed {
        first.extend_from_slice(&u16::try_from(length).expect("below 8000").to_le_bytes());
    }
    let blob = plans.enclave.speak;
    Pattern::new(blob.seed, blob.length).take(length).read_to_end(&mut first).expect("a pattern");
    let (to, path) = crate::toxic::path(world.target().parse().expect("an address"), Toxic::Coalesce, dice.any());
    let enclave = world.dial_with(&to.to_string(), &first)?;
    plans.enclave.spoken = length;
    Ok(Stream { tcp: world.accept()?, enclave, path: Some(path) })
}

/// The kinds that need the enclave as a process: it echoes, so one end sees both directions.
fn apart(kind: &Kind, way: Way, leg: Leg, dice: &mut Dice) -> Result<Counts, String> {
    let mut world = Apart::start(leg, way)?;
    world.prove()?;
    let blob = Blob { seed: dice.any(), length: dice.length(2, BLOB_MOST) };
    let mut plan = Plan::new(blob, blob);
    let withheld = Arc::new(AtomicBool::new(false));
    plan.withheld = Some(withheld.clone());
    let (heard, at) = (plan.progress.clone(), 1 + dice.below(blob.length - 1));
    let Apart { mut bridge, mut enclave, tcp } = world;
    let told = std::thread::scope(|scope| {
        let talking = scope.spawn(move || talk(Socket::Tcp(tcp), plan));
        let struck = reached(&heard, at);
        if kind.strike == Strike::EnclaveKilled {
            enclave.kill();
        } else {
            stop_and_continue(|signal| enclave.signal(signal), dice);
        }
        withheld.store(true, Ordering::SeqCst);
        let told = talking.join().expect("no panic");
        struck.map(|()| told)
    })?;
    // What echoes says what it heard, and ends when it was told the end.
    judge(&told, blob, &told)?;
    let mut counts = Counts::default();
    count(kind.outcome, &told, &mut counts)?;
    match kind.outcome {
        Outcome::Whole => counts.whole += 1,
        Outcome::Broken => counts.own += 1,
    }
    bridge.assert_alive();
    Ok(counts)
}

fn reached(heard: &AtomicU64, at: u64) -> Result<(), String> {
    let deadline = Instant::now() + PATIENT;
    while heard.load(Ordering::SeqCst) < at {
        if Instant::now() > deadline {
            return Err(format!("{} of {at} bytes before the fault", heard.load(Ordering::SeqCst)));
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}
