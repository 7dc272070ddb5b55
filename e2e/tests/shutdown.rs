//! SIGTERM in every state ends with 0 within the drain time; a second signal ends at once with 75.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "tests"
)]

use enclave_bridge_e2e::bridge::{Bridge, Builder};
use enclave_bridge_e2e::peers::{Full, Server};
use enclave_bridge_e2e::process::Output;
use enclave_bridge_e2e::tunnels::{self, Heard};
use enclave_bridge_e2e::v1::{self, ACK, Answer, Enclave, INIT_PORT, LOG_PORT, Settings};
use enclave_bridge_e2e::wait::{self, SOON};
use enclave_bridge_e2e::wire::Wire;
use enclave_bridge_e2e::{http, ports};
use nix::sys::signal::{SigSet, Signal};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

const CALM: Duration = Duration::from_secs(30);

/// The drain time of these bridges, where streams stay open on purpose.
const DRAIN: Duration = Duration::from_secs(1);

/// What an end may take beyond its drain time on a machine under load. The promise is 250 ms; this is no promise.
const SLACK: Duration = Duration::from_secs(4);

fn short_drain() -> Builder {
    Bridge::builder().loopback_egress().arguments(["--drain-timeout", "1s"])
}

/// Ends it and checks the code and the time; prints the time, which is the figure for the notes.
fn assert_drains(bridge: &mut Bridge, state: &str, within: Duration) {
    let (code, took) = bridge.end_with(Signal::SIGTERM, CALM);
    println!("SIGTERM, {state}: code {code:?} after {took:?}");
    assert_eq!(code, Some(0), "{state}: {}", bridge.stderr.text());
    assert!(took < within, "{state}: took {took:?}");
    for port in [INIT_PORT, LOG_PORT] {
        assert!(!bridge.meeting.host_listens(port), "{state}: port {port} is left behind");
    }
}

#[test]
fn s1_waiting() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut bridge = Bridge::builder().start();
        let (code, took) = bridge.end_with(signal, CALM);
        println!("{signal}, waiting: {took:?}");
        assert_eq!(code, Some(0));
        assert!(took < SLACK, "took {took:?}");
    }
}

#[test]
fn s1_with_signals_that_were_blocked_when_it_was_started() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        // What a thread blocks is blocked in what it starts.
        let starting = std::thread::spawn(|| {
            SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]).thread_block().unwrap();
            Bridge::builder().start()
        });
        let mut bridge = starting.join().unwrap();
        bridge.signal(Signal::SIGHUP);
        let _reloaded = bridge.stderr.wait_for_line("reload", SOON);
        let (code, took) = bridge.end_with(signal, CALM);
        println!("{signal}, blocked at the start: {took:?}");
        assert_eq!(code, Some(0), "{}", bridge.stderr.text());
    }
}

#[test]
fn s1_in_each_step_of_the_handshake() {
    type Step = fn(&mut Wire);
    let steps: [(&str, Step); 5] = [
        ("connected", |_| {}),
        ("half an ack", |wire| wire.write_all(&ACK[..1]).unwrap()),
        ("environment not read", |wire| wire.write_all(ACK).unwrap()),
        ("no settings yet", |wire| {
            wire.write_all(ACK).unwrap();
            wire.read_line_exactly(1 << 20).unwrap();
        }),
        ("half the settings", |wire| {
            wire.write_all(ACK).unwrap();
            wire.read_line_exactly(1 << 20).unwrap();
            wire.write_all(b"{\"watchdog\":").unwrap();
        }),
    ];
    for (state, step) in steps {
        let mut bridge = Bridge::builder().start();
        let mut wire = bridge.meeting.dial_host(INIT_PORT).unwrap();
        wire.read_within(SOON);
        step(&mut wire);
        assert_drains(&mut bridge, state, SLACK);
    }
}

#[test]
fn s1_with_a_session_and_no_stream() {
    let mut bridge = Bridge::builder().start();
    let settings = Settings::new(CALM).server(5001, ports::free()).client(5002);
    let _enclave = Enclave::echo(&bridge.meeting, &settings, 5001);
    let mut log = bridge.meeting.dial_host(LOG_PORT).unwrap();
    log.write_all(b"a line\nhalf a li").unwrap();
    let _written = bridge.stdout.wait_for_line("a line", SOON);
    assert_drains(&mut bridge, "a session, no stream, a log connection", SLACK);
    assert!(bridge.stdout.text().contains("half a li"), "the tail of the log is lost: {:?}", bridge.stdout.text());
}

#[test]
fn s1_with_an_idle_and_a_busy_stream() {
    let mut bridge = short_drain().start();
    let port = ports::free();
    let settings = Settings::new(CALM).server(5001, port);
    let _enclave = Enclave::start_with(&bridge.meeting, &settings, |guest| {
        // What the client says first decides: an echo, or a flood towards the client.
        guest.serve(5001, |mut wire| {
            let mut first = [0];
            if wire.read_exact(&mut first).is_ok() && wire.write_all(&first).is_ok() {
                while first == *b"b" && wire.write_all(&[b'x'; 4096]).is_ok() {}
                v1::echo(wire);
            }
        });
    });
    let open = |first: &[u8; 1]| {
        let mut stream = tunnels::tcp(Bridge::tcp(port));
        stream.write_all(first).unwrap();
        stream.read_exact(&mut [0]).unwrap();
        stream
    };
    let (mut idle, mut busy) = (open(b"i"), open(b"b"));
    // One thread alone on its socket: an error is told once, to whoever asks first.
    let reading = std::thread::spawn(move || tunnels::read_out(&mut busy).1);
    assert_drains(&mut bridge, "an idle and a busy stream", DRAIN + SLACK);
    // What was cut shows it.
    assert_eq!(tunnels::read_out(&mut idle).1, Some(std::io::ErrorKind::ConnectionReset));
    assert_eq!(reading.join().unwrap(), Some(std::io::ErrorKind::ConnectionReset));
    let last = bridge.stderr.text().lines().last().unwrap_or_default().to_owned();
    assert!(last.contains('2'), "the last line does not say how many streams were cut: {last}");
}

#[test]
fn s1_with_egress_that_waits_for_its_line_and_for_its_target() {
    let mut bridge = short_drain().start();
    let enclave = Enclave::start(&bridge.meeting, &Settings::new(CALM).client(5002));
    let _no_line = bridge.meeting.dial_host(5002).unwrap();
    let full = Full::start();
    let mut dialling = bridge.meeting.dial_host(5002).unwrap();
    dialling.write_all(format!("{}\n", full.address).as_bytes()).unwrap();
    let server = Server::silent();
    let (_open, answer) = enclave.dial(5002, &server.target());
    assert_eq!(answer, Answer::Ack);
    assert_drains(&mut bridge, "egress at every step", DRAIN + SLACK);
}

#[test]
fn s1_with_a_standard_output_that_nobody_reads() {
    let mut bridge = short_drain().output(Output::Held).start();
    let mut log = bridge.meeting.dial_host(LOG_PORT).unwrap();
    log.write_within(Duration::from_millis(500));
    let line = [vec![b'l'; 1000], vec![b'\n']].concat();
    for _ in 0..4096 {
        if log.write_all(&line).is_err() {
            break;
        }
    }
    assert_drains(&mut bridge, "the log is blocked", DRAIN + SLACK);
}

#[test]
fn s1_while_the_session_is_lost_and_replaced() {
    let mut bridge = short_drain().start();
    let port = ports::free();
    let enclave = Enclave::echo(&bridge.meeting, &Settings::new(Duration::from_secs(1)).server(5001, port), 5001);
    enclave.fall_silent();
    wait::until("the loss", SOON, || bridge.ready_status() == 503);
    assert_drains(&mut bridge, "after a loss", SLACK);
}

/// SIGTERM amid transfers that go on for as long as `pieces` take: each is finished, and nobody new is let in.
fn transfers_are_finished(transfers: u64, pieces: u64, pause: Duration) {
    const PIECE: usize = 4096;
    let mut bridge = Bridge::builder().arguments(["--drain-timeout", "5m"]).start();
    let port = ports::free();
    let _enclave = Enclave::echo(&bridge.meeting, &Settings::new(CALM).server(5001, port), 5001);
    let length = pieces * PIECE as u64;
    let small = || std::thread::Builder::new().stack_size(128 * 1024);
    let transfers: Vec<_> = (0..transfers)
        .map(|seed| {
            let mut stream = tunnels::tcp(Bridge::tcp(port));
            stream.write_all(b"x").unwrap();
            stream.read_exact(&mut [0]).unwrap();
            let transfer = move || {
                let mut reading = stream.try_clone().unwrap();
                let hear = move || enclave_bridge_e2e::bytes::hash_of(&mut reading).unwrap();
                let heard = small().spawn(hear).unwrap();
                let mut pattern = enclave_bridge_e2e::bytes::Pattern::new(seed, length);
                // In pieces with pauses, so that the signal comes in the middle.
                let mut piece = [0; PIECE];
                loop {
                    let n = pattern.read(&mut piece).unwrap();
                    if n == 0 {
                        break;
                    }
                    stream.write_all(&piece[..n]).unwrap();
                    std::thread::sleep(pause);
                }
                stream.shutdown(std::net::Shutdown::Write).unwrap();
                let (hash, length) = heard.join().unwrap();
                Heard { hash, length }
            };
            (seed, small().spawn(transfer).unwrap())
        })
        .collect();
    bridge.signal(Signal::SIGTERM);
    wait::until("no new connection", SOON, || TcpStream::connect(Bridge::tcp(port)).is_err());
    if let Ok(answer) = http::get(bridge.monitor, "/health/ready") {
        assert_eq!(answer.status, 503);
    }
    for (seed, transfer) in transfers {
        assert_eq!(transfer.join().unwrap(), Heard::pattern(seed, length), "transfer {seed}");
    }
    assert_eq!(bridge.wait(CALM).code(), Some(0));
}

#[test]
fn s2_transfers_under_way_are_finished() {
    transfers_are_finished(50, 16, Duration::from_millis(50));
}

#[test]
#[ignore = "half a minute: cargo nextest run -p enclave-bridge-e2e --test shutdown --run-ignored only s2_"]
fn s2_a_thousand_transfers_of_ten_seconds_are_finished() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    transfers_are_finished(1000, 100, Duration::from_millis(100));
}

#[test]
fn s3_a_second_signal_ends_at_once() {
    for second in [Signal::SIGTERM, Signal::SIGINT] {
        let mut bridge = Bridge::builder().start();
        let port = ports::free();
        let _enclave = Enclave::echo(&bridge.meeting, &Settings::new(CALM).server(5001, port), 5001);
        let mut stream = tunnels::tcp(Bridge::tcp(port));
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
        bridge.signal(Signal::SIGTERM);
        wait::until("the drain", SOON, || TcpStream::connect(Bridge::tcp(port)).is_err());
        bridge.assert_alive();
        let (code, took) = bridge.end_with(second, CALM);
        println!("second signal {second}: code {code:?} after {took:?}");
        assert_eq!(code, Some(75));
        assert!(took < SLACK, "took {took:?}");
        assert_eq!(tunnels::read_out(&mut stream).1, Some(std::io::ErrorKind::ConnectionReset));
    }
}

/// Kills a bridge and starts another in its place, again and again; the longest it took until an enclave was served.
fn killed_and_started_again(times: u32) -> Duration {
    let mut bridge = Bridge::builder().start();
    let mut longest = Duration::ZERO;
    for _ in 0..times {
        bridge.kill();
        let start = Instant::now();
        // The sockets of a killed process lie about: they must not be in the way.
        bridge = Bridge::builder().in_folder_of(&bridge).start();
        bridge.assert_serves();
        longest = longest.max(start.elapsed());
    }
    longest
}

#[test]
fn s4_killed_and_started_again() {
    println!("serving again after at most {:?}, 20 of 20 times", killed_and_started_again(20));
}

#[test]
#[ignore = "half a minute: cargo nextest run -p enclave-bridge-e2e --test shutdown --run-ignored only s4_ --no-capture"]
fn s4_killed_and_started_again_two_hundred_times() {
    println!("serving again after at most {:?}, 200 of 200 times", killed_and_started_again(200));
}
