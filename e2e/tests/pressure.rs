//! Too much of everything: half-closed pairs that stand still, slow readers, floods, connections by the million, a destination
//! that is stopped, a policy that changes under streams.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![allow(clippy::print_stdout, reason = "figures beside the assertion")]

use enclave_bridge_e2e::bridge::Bridge;
use enclave_bridge_e2e::bytes::{self, MIB, Pattern};
use enclave_bridge_e2e::peers::Server;
use enclave_bridge_e2e::ports;
use enclave_bridge_e2e::process::{Output, Process};
use enclave_bridge_e2e::skip::skipped;
use enclave_bridge_e2e::steady::Steady;
use enclave_bridge_e2e::tunnels::{self, Heard};
use enclave_bridge_e2e::v1::{self, Answer, Enclave, Settings};
use enclave_bridge_e2e::wait::{self, SOON};
use enclave_bridge_e2e::wire::Endpoint;
use nix::sys::signal::Signal;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const CALM: Duration = Duration::from_secs(30);

/// A bridge with one server that echoes.
fn echoing(arguments: &[&str]) -> (Bridge, Enclave, u16) {
    let bridge = Bridge::builder().loopback_egress().arguments(arguments.iter().copied()).start();
    let port = ports::free();
    let enclave = Enclave::echo(&bridge.meeting, &Settings::new(CALM).server(5001, port).client(5002), 5001);
    (bridge, enclave, port)
}

fn ended(bridge: &Bridge, result: &str) -> bool {
    let wanted = format!("result=\"{result}\"");
    bridge.metrics().lines().any(|line| {
        line.starts_with("enclave_bridge_streams_ended_total") && line.contains(&wanted) && !line.ends_with(" 0")
    })
}

#[test]
fn t4_a_half_closed_pair_that_stands_still_is_reset_and_counted() {
    let bridge = Bridge::builder().arguments(["--linger-timeout", "500ms"]).start();
    let port = ports::free();
    let held = Arc::new(Mutex::new(Vec::new()));
    let keep = held.clone();
    let _enclave = Enclave::start_with(&bridge.meeting, &Settings::new(CALM).server(5001, port), |guest| {
        guest.hand_over(5001, move |wire| keep.lock().unwrap().push(wire));
    });
    let before = bridge.descriptors();
    let mut stream = tunnels::tcp(Bridge::tcp(port));
    stream.write_all(b"the last of it").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let (heard, error) = tunnels::read_out(&mut stream);
    assert_eq!((heard, error), (0, Some(std::io::ErrorKind::ConnectionReset)));
    wait::until("its count", SOON, || ended(&bridge, "linger_expired"));
    wait::until("its descriptors", SOON, || bridge.descriptors() <= before + v1::BEATS);
}

#[test]
fn t18_an_idle_pair_is_reset_and_counted_and_a_moving_one_is_not() {
    let (bridge, _enclave, port) = echoing(&["--idle-timeout", "1s"]);
    let (mut idle, mut moving) = (tunnels::tcp(Bridge::tcp(port)), tunnels::tcp(Bridge::tcp(port)));
    idle.write_all(b"x").unwrap();
    let resting = std::thread::spawn(move || tunnels::read_out(&mut idle));
    let start = Instant::now();
    while !resting.is_finished() || start.elapsed() < Duration::from_secs(3) {
        moving.write_all(b"y").unwrap();
        moving.read_exact(&mut [0]).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        assert!(start.elapsed() < CALM, "an idle stream stays");
    }
    assert_eq!(resting.join().unwrap(), (1, Some(std::io::ErrorKind::ConnectionReset)));
    wait::until("its count", SOON, || ended(&bridge, "idle_expired"));
}

#[test]
fn t7_a_slow_reader_holds_up_nobody() {
    let (bridge, _enclave, port) = echoing(&[]);
    // It sends without end and reads a byte now and then: full in both directions.
    let mut slow = tunnels::tcp(Bridge::tcp(port));
    let mut pushing = slow.try_clone().unwrap();
    let pushing = std::thread::spawn(move || while pushing.write_all(&[b's'; 64 * 1024]).is_ok() {});
    slow.read_exact(&mut [0; 1024]).unwrap();
    std::thread::scope(|scope| {
        for seed in 0..20 {
            scope.spawn(move || {
                let mut reading = tunnels::tcp(Bridge::tcp(port));
                let mut writing = reading.try_clone().unwrap();
                let speaking = std::thread::spawn(move || {
                    bytes::copy(&mut Pattern::new(seed, 4 * MIB), &mut writing).unwrap();
                    writing.shutdown(Shutdown::Write).unwrap();
                });
                let (hash, length) = bytes::hash_of(&mut reading).unwrap();
                speaking.join().unwrap();
                assert_eq!(Heard { hash, length }, Heard::pattern(seed, 4 * MIB));
            });
        }
    });
    // All of them went past it, and it goes on.
    slow.read_exact(&mut [0; 1024]).unwrap();
    assert!(!pushing.is_finished());
    slow.shutdown(Shutdown::Both).unwrap();
    pushing.join().unwrap();
    assert_eq!(bridge.ready_status(), 200);
}

/// Says stop when it goes.
struct Raised<'a>(&'a AtomicBool);

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Connections as fast as they go, more than a hundred and for so long at least, at a bridge that is full: those that are there go on.
fn flood(window: Duration) {
    let (bridge, _enclave, port) = echoing(&["--max-streams", "50"]);
    let steady = Steady::start(Bridge::tcp(port), 10, 64 * 1024);
    let kept: Vec<TcpStream> = (0..40).map(|_| tunnels::tcp(Bridge::tcp(port))).collect();
    wait::until("a full bridge", SOON, || bridge.metric("enclave_bridge_streams") == Some(50.0));
    let (before, stop, tries) = (bridge.descriptors(), AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    // A reset may come before the connecting call has returned.
                    if let Ok(mut stream) = TcpStream::connect(Bridge::tcp(port)) {
                        stream.set_read_timeout(Some(SOON)).unwrap();
                        let (heard, error) = tunnels::read_out(&mut stream);
                        assert_eq!((heard, error), (0, Some(std::io::ErrorKind::ConnectionReset)));
                    }
                    tries.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        // Also where an assertion fails: the scope waits for its threads.
        let _stop = Raised(&stop);
        let start = Instant::now();
        // A translated guest may take more than the window for a hundred.
        while start.elapsed() < window || tries.load(Ordering::SeqCst) <= 100 {
            assert!(
                start.elapsed() < window + SOON,
                "{} connections in {:?}",
                tries.load(Ordering::SeqCst),
                start.elapsed()
            );
            assert!(bridge.metric("enclave_bridge_streams").unwrap() <= 50.0);
            assert!(bridge.descriptors() < before + 100, "{} descriptors", bridge.descriptors());
            std::thread::sleep(Duration::from_millis(50));
        }
        println!("{} connections turned away in {:?}", tries.load(Ordering::SeqCst), start.elapsed());
    });
    assert_eq!(steady.broken(), 0);
    assert!(steady.rate_over(Duration::from_millis(500)) > 0);
    drop((steady, kept));
    wait::until("room again", SOON, || bridge.metric("enclave_bridge_streams") == Some(0.0));
    let mut stream = tunnels::tcp(Bridge::tcp(port));
    assert_eq!(tunnels::speak_then_listen(&mut stream, 9, MIB).unwrap(), Heard::pattern(9, MIB));
}

#[test]
fn t9_a_flood_above_the_cap_leaves_the_streams_that_are_there() {
    flood(Duration::from_secs(2));
}

#[test]
#[ignore = "a minute: cargo nextest run -p enclave-bridge-e2e --run-ignored only t9"]
fn slow_t9_a_flood_above_the_cap_for_a_minute() {
    flood(Duration::from_secs(60));
}

/// So many connections, each closed as soon as it is made, one way or the other.
fn connect_and_close(connections: u64) {
    let (mut bridge, _enclave, port) = echoing(&[]);
    let lane = |lane: u64, connections: u64| {
        // Addresses of its own, so that ports that wait out their time do not run out.
        for number in 0..connections {
            let source = Ipv4Addr::from(0x7f01_0001 + u32::try_from((lane << 12) | (number / 20_000)).unwrap());
            let socket = nix::sys::socket::socket(
                nix::sys::socket::AddressFamily::Inet,
                nix::sys::socket::SockType::Stream,
                nix::sys::socket::SockFlag::SOCK_CLOEXEC,
                None,
            );
            let socket = socket.unwrap();
            use nix::sys::socket::{SockaddrIn, bind, connect, setsockopt, sockopt};
            use std::os::fd::AsRawFd;
            setsockopt(&socket, sockopt::ReuseAddr, &true).unwrap();
            setsockopt(&socket, sockopt::IpBindAddressNoPort, &true).unwrap();
            bind(socket.as_raw_fd(), &SockaddrIn::from(std::net::SocketAddrV4::new(source, 0))).unwrap();
            let to = SockaddrIn::from(std::net::SocketAddrV4::new(Ipv4Addr::LOCALHOST, port));
            if connect(socket.as_raw_fd(), &to).is_err() {
                // The backlog is full for a moment, or there is no port left: neither is the bridge's.
                std::thread::sleep(Duration::from_millis(5));
                continue;
            }
            let stream = TcpStream::from(socket);
            if number.is_multiple_of(2) {
                enclave_bridge_e2e::peers::reset(stream);
            }
        }
    };
    // What is made once is made by then, and so is the allocator's high mark where there are many.
    let tenth = connections / 10;
    let slack = if connections < 100_000 { 32 * 1024 } else { 2048 };
    std::thread::scope(|scope| {
        for number in 0..4 {
            scope.spawn(move || lane(number, tenth / 4));
        }
    });
    let settled = |bridge: &Bridge| {
        // Between two connections of those that wait to be accepted there may be no stream either.
        let mut started = None;
        wait::until("no stream and none to come", CALM * 2, || {
            let now = bridge.metric("enclave_bridge_streams_started_total");
            let still = started == now && bridge.metric("enclave_bridge_streams") == Some(0.0);
            started = now;
            still
        });
        (bridge.descriptors(), bridge.anonymous_kib(), bridge.metric("enclave_bridge_tasks").unwrap())
    };
    let before = settled(&bridge);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for number in 0..4 {
            scope.spawn(move || lane(number, (connections - tenth) / 4));
        }
    });
    // A stream is no longer counted a moment before its task and its sockets are gone.
    let mut after = settled(&bridge);
    wait::until("the descriptors and tasks of before", SOON, || {
        after = settled(&bridge);
        after.0 <= before.0 + 4 && after.2 <= before.2 + 2.0
    });
    let started = bridge.metric("enclave_bridge_streams_started_total").unwrap();
    println!("{started} streams in {:?}: descriptors, KiB, tasks {before:?} then {after:?}", start.elapsed());
    assert!(after.1 <= before.1 + slack, "{} KiB, {} before", after.1, before.1);
    assert!(started > connections as f64 / 2.0, "only {started} streams were made");
    bridge.assert_alive();
}

#[test]
fn t10_ten_thousand_connections_that_close_at_once_leave_nothing() {
    connect_and_close(10_000);
}

#[test]
#[ignore = "minutes: cargo nextest run -p enclave-bridge-e2e --run-ignored only t10"]
fn slow_t10_a_million_connections_that_close_at_once_leave_nothing() {
    connect_and_close(1_000_000);
}

/// A server that is stopped while it is sent to, for so long.
fn stopped(pause: Duration) {
    if Endpoint::under_test() == Endpoint::Vsock {
        return skipped("t23", "the server's program is not in the guest");
    }
    let (bridge, enclave, _) = echoing(&[]);
    let server = Process::start(Command::new(env!("CARGO_BIN_EXE_e2e-echo")), "the echoing server", Output::Kept);
    let line = server.stdout.wait_for_line("port ", SOON);
    let (wire, answer) = enclave.dial(5002, &format!("127.0.0.1:{}", line.trim_start_matches("port ")));
    assert_eq!(answer, Answer::Ack);
    wire.read_limit(Some(CALM * 5));
    wire.write_within(CALM * 5);
    let (mut reading, mut writing) = (wire.again(), wire);
    let hearing = std::thread::spawn(move || bytes::hash_of(&mut reading));
    let half = 32 * MIB;
    let mut pattern = Pattern::new(5, 2 * half);
    bytes::copy(&mut (&mut pattern).take(half), &mut writing).unwrap();
    server.signal(Signal::SIGSTOP);
    let before = bridge.anonymous_kib();
    let speaking = std::thread::spawn(move || {
        bytes::copy(&mut pattern, &mut writing).unwrap();
        writing.shutdown(Shutdown::Write);
    });
    std::thread::sleep(pause);
    assert!(!speaking.is_finished(), "32 MiB went into a server that is stopped");
    let grown = bridge.anonymous_kib().saturating_sub(before);
    assert!(grown < 4096, "grown by {grown} KiB");
    server.signal(Signal::SIGCONT);
    let (hash, length) = hearing.join().unwrap().unwrap();
    speaking.join().unwrap();
    assert_eq!(Heard { hash, length }, Heard::pattern(5, 2 * half));
}

#[test]
fn t23_a_destination_that_is_stopped_and_continued_gets_everything() {
    stopped(Duration::from_secs(2));
}

#[test]
#[ignore = "a minute: cargo nextest run -p enclave-bridge-e2e --run-ignored only t23"]
fn slow_t23_a_destination_that_is_stopped_for_a_minute() {
    stopped(Duration::from_secs(60));
}

/// Rules that change while streams run: new dials are judged by the new ones, and what runs goes on.
fn reload(streams: usize) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    let server = Server::echo();
    std::fs::write(&path, "egress_allow = [\"127.0.0.0/8\"]\n").unwrap();
    let bridge = Bridge::builder().arguments(["--config".into(), path.clone().into_os_string()]).start();
    let enclave = Enclave::start(&bridge.meeting, &Settings::new(CALM).client(5002));
    let mut held: Vec<_> = (0..streams)
        .map(|_| {
            let (wire, answer) = enclave.dial(5002, &server.target());
            assert_eq!(answer, Answer::Ack);
            wire
        })
        .collect();
    wait::until("every stream at the server", SOON, || server.accepted() == streams as u64);
    std::fs::write(&path, "egress_allow = [\"127.0.0.0/8\"]\negress_deny = [\"127.0.0.1\"]\n").unwrap();
    bridge.signal(Signal::SIGHUP);
    let _reloaded = bridge.stderr.wait_for_line("reloaded", SOON);
    for _ in 0..10 {
        let (_, answer) = enclave.dial(5002, &server.target());
        assert_eq!(answer.code(), "DENIED", "{answer:?}");
    }
    assert_eq!(server.accepted(), streams as u64);
    for wire in &mut held {
        wire.write_all(b"as before").unwrap();
        let mut back = [0; 9];
        wire.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"as before");
    }
    std::fs::write(&path, "egress_allow = [\"127.0.0.0/8\"]\n").unwrap();
    bridge.signal(Signal::SIGHUP);
    wait::until("the first rules again", SOON, || enclave.dial(5002, &server.target()).1 == Answer::Ack);
}

#[test]
fn e6_new_dials_obey_a_new_policy_and_old_streams_go_on() {
    // A translated processor has its fill with fewer.
    reload(if Endpoint::under_test() == Endpoint::Vsock { 100 } else { 1000 });
}

/// Settings name what an enclave wants; there is no word in them by which it could have more than the operator's file says.
#[test]
fn e5_settings_widen_nothing() {
    let server = Server::echo();
    let bridge = Bridge::builder().start();
    let json = Settings::new(CALM).client(5002).json();
    let wider = [
        r#""egress":{"allow":["any","127.0.0.0/8"]},"#,
        r#""egress_allow":["127.0.0.0/8"],"#,
        r#""policy":{"strict":false,"egressAllow":["127.0.0.1"]},"#,
    ];
    for words in wider {
        let line = json.replacen('{', &format!("{{{words}"), 1);
        let answer = enclave_bridge_e2e::v1::handshake_within(&bridge.meeting, &line, SOON).1;
        assert!(matches!(answer, Answer::Ack | Answer::Nak(..)), "{words}: {answer:?}");
        if answer == Answer::Ack {
            let mut wire = bridge.meeting.dial_host(5002).unwrap();
            wire.read_within(CALM);
            wire.write_all(format!("{}\n", server.target()).as_bytes()).unwrap();
            assert_eq!(Answer::of(&wire.read_line_exactly(300).unwrap()).code(), "DENIED", "{words}");
        }
    }
    // Another's CID is a claim that the bridge does not believe: over AF_VSOCK it is a refusal, over a socket path it is not asked.
    assert_eq!(server.accepted(), 0);
}
