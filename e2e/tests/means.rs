//! The machine gives less than is asked for: errors of system calls, little memory, little processor time, few threads.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
#![allow(clippy::print_stdout, reason = "figures beside the assertion")]

use enclave_bridge_e2e::bridge::Bridge;
use enclave_bridge_e2e::cgroup::{Group, Limit};
use enclave_bridge_e2e::skip::skipped;
use enclave_bridge_e2e::steady::Steady;
use enclave_bridge_e2e::tunnels::{self, Heard};
use enclave_bridge_e2e::v1::{Enclave, Settings};
use enclave_bridge_e2e::wait::{self, SOON};
use enclave_bridge_e2e::wire::{Endpoint, Wire};
use enclave_bridge_e2e::{http, ports};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

const CALM: Duration = Duration::from_secs(30);

/// Which calls fail, how, and when first and how often then: not while the program starts.
type Fault = (&'static str, &'static [&'static str], &'static str);

const FAULTS: [Fault; 6] = [
    ("accept4", &["ENFILE", "EMFILE", "ENOBUFS", "ENOMEM", "ECONNABORTED", "EPERM"], "5+2"),
    ("connect", &["ENOBUFS", "ENOMEM", "EADDRNOTAVAIL", "EPERM", "ECONNREFUSED"], "2+3"),
    ("socket", &["ENFILE", "EMFILE", "ENOBUFS", "ENOMEM"], "40+3"),
    ("recvfrom,recvmsg", &["ENOMEM", "ENOBUFS", "EIO", "ECONNRESET"], "60+23"),
    ("sendto,sendmsg,writev", &["ENOBUFS", "ENOMEM", "EPIPE", "EIO"], "40+23"),
    ("epoll_ctl", &["ENOMEM", "ENOSPC"], "80+7"),
];

/// A bridge whose system calls fail now and then: it lives, does not spin, and gives no stream a false end.
fn injected(calls: &str, errno: &str, when: &str) {
    let words = ["-D", "-f", "-qq", "-o", "/dev/null", "-e"].map(str::to_owned);
    let inject = [format!("trace={calls}"), "-e".to_owned(), format!("inject={calls}:error={errno}:when={when}")];
    let mut bridge = Bridge::builder().wrapped(["strace".to_owned()].into_iter().chain(words).chain(inject)).launch();
    // The tracer slows everything down, and what asks may be what is refused.
    wait::until("a bridge that lives", CALM, || {
        http::get(bridge.monitor, "/health/live").is_ok_and(|answer| answer.status == 200)
    });
    let port = ports::free();
    let enclave = Enclave::echo(&bridge.meeting, &Settings::new(CALM).server(5001, port), 5001);
    let (busy, start) = (bridge.processor_time(), Instant::now());
    let (mut whole, mut cut) = (0, 0);
    while whole < 10 {
        assert!(start.elapsed() < CALM * 2, "{calls} {errno}: {whole} streams were whole, {cut} were not");
        match stream(port) {
            Ok(heard) => {
                assert_eq!(heard, Heard::pattern(3, 100_000), "{calls} {errno}: an end that nobody said");
                whole += 1;
            }
            Err(_) => cut += 1,
        }
    }
    let (busy, passed) = (bridge.processor_time() - busy, start.elapsed());
    // Left alone it rests.
    let (resting, rested) = (bridge.processor_time(), Duration::from_millis(500));
    std::thread::sleep(rested);
    let resting = bridge.processor_time() - resting;
    println!("{calls} {errno}: {whole} streams whole, {cut} not; {busy:?} of processor time in {passed:?}");
    assert!(resting < rested / 2, "{calls} {errno}: {resting:?} of processor time in {rested:?}");
    assert_eq!(enclave.complaint(), None);
    bridge.assert_alive();
}

fn stream(port: u16) -> std::io::Result<Heard> {
    let mut stream = TcpStream::connect(Bridge::tcp(port))?;
    stream.set_read_timeout(Some(SOON))?;
    stream.set_write_timeout(Some(SOON))?;
    tunnels::speak_then_listen(&mut stream, 3, 100_000)
}

fn strace_works(test: &str) -> bool {
    if Endpoint::under_test() == Endpoint::Vsock {
        skipped(test, "faults are injected over the hybrid transport");
        return false;
    }
    let tried = Command::new("strace").args(["-D", "-qq", "-o", "/dev/null", "-e", "trace=none", "true"]).status();
    let works = tried.is_ok_and(|status| status.success());
    if !works {
        skipped(test, "no strace, or no right to trace");
    }
    works
}

#[test]
fn r2_system_calls_that_fail_cost_their_stream_at_most() {
    if strace_works("r2") {
        for (calls, errnos, when) in FAULTS {
            injected(calls, errnos.first().unwrap(), when);
        }
    }
}

#[test]
#[ignore = "a minute: cargo nextest run -p enclave-bridge-e2e --run-ignored only r2"]
fn slow_r2_every_error_of_every_call() {
    if strace_works("r2") {
        for (calls, errnos, when) in FAULTS {
            for errno in errnos {
                injected(calls, errno, when);
            }
        }
    }
}

fn group(test: &str, limit: Limit) -> Option<Group> {
    if Endpoint::under_test() == Endpoint::Vsock {
        skipped(test, "a control group is made over the hybrid transport");
        return None;
    }
    match Group::new(test, limit) {
        Ok(group) => Some(group),
        Err(error) => {
            skipped(test, &format!("no control group with {limit:?}: {error}"));
            None
        }
    }
}

/// Sends back what comes, with one descriptor and little memory.
fn small_echo(mut wire: &Wire) {
    let mut piece = vec![0; 16 * 1024];
    while let Ok(n @ 1..) = wire.read(&mut piece) {
        if wire.write_all(piece.get(..n).unwrap_or_default()).is_err() {
            return;
        }
    }
}

/// So many streams, all of them moving, in so little memory.
fn in_little_memory(mebibytes: u64, streams: usize) {
    let Some(group) = group("r3", Limit::Memory(mebibytes << 20)) else { return };
    let mut bridge = Bridge::builder().before(group.enter()).arguments(["--max-streams", &streams.to_string()]).start();
    let port = ports::free();
    let enclave = Enclave::start_with(&bridge.meeting, &Settings::new(CALM).server(5001, port), |guest| {
        guest.hand_over(5001, |wire| {
            let small = std::thread::Builder::new().stack_size(64 * 1024);
            drop(small.spawn(move || small_echo(&wire)).unwrap());
        });
    });
    let mut held: Vec<TcpStream> = Vec::new();
    while held.len() < streams {
        let stream = tunnels::tcp(Bridge::tcp(port));
        held.push(stream);
        if held.len().is_multiple_of(100) {
            wait::until("the streams at the bridge", CALM, || {
                bridge.metric("enclave_bridge_streams").is_some_and(|open| open >= held.len() as f64)
            });
        }
    }
    // Everything waits in the bridge and its sockets at once, then all is read.
    let piece = vec![7; 16 * 1024];
    for stream in &mut held {
        stream.write_all(&piece).unwrap();
    }
    let mut back = vec![0; piece.len()];
    for stream in &mut held {
        stream.read_exact(&mut back).unwrap();
        assert!(back == piece);
    }
    // What is more is shed.
    let mut more = TcpStream::connect(Bridge::tcp(port)).unwrap();
    more.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!(tunnels::read_out(&mut more), (0, Some(std::io::ErrorKind::ConnectionReset)));
    println!("{streams} streams: {} KiB resident of {mebibytes} MiB", bridge.resident_kib());
    assert_eq!(group.killed(), 0);
    drop((held, enclave));
    bridge.assert_serves();
    bridge.kill();
}

#[test]
fn r3_a_thousand_five_hundred_moving_streams_in_64_mib() {
    in_little_memory(64, 1500);
}

#[test]
#[ignore = "18,000 descriptors: cargo nextest run -p enclave-bridge-e2e --run-ignored only r3"]
fn slow_r3_nine_thousand_moving_streams_in_128_mib() {
    in_little_memory(128, 9000);
}

/// A twentieth of a core, and streams that would take all of it.
#[test]
fn r4_beats_come_in_time_on_a_twentieth_of_a_core() {
    let Some(group) = group("r4", Limit::Processor(5)) else { return };
    let mut bridge = Bridge::builder().before(group.enter()).start();
    let port = ports::free();
    let enclave = Enclave::echo(&bridge.meeting, &Settings::new(Duration::from_secs(2)).server(5001, port), 5001);
    let streams = Steady::start(Bridge::tcp(port), 4, 8 << 20);
    let moved = streams.moved();
    std::thread::sleep(Duration::from_secs(8));
    assert!(streams.moved() > moved, "nothing moves");
    assert_eq!((enclave.complaint(), streams.broken()), (None, 0));
    assert!(enclave.beats() >= 6, "{} beats", enclave.beats());
    wait::until("monitoring", SOON, || bridge.ready_status() == 200);
    assert_eq!(bridge.metric("enclave_bridge_sessions_ended_total").unwrap_or_default(), 0.0);
    drop(streams);
    bridge.assert_alive();
    bridge.kill();
}

#[test]
fn r5_with_too_few_threads_it_says_so_or_serves() {
    let (mut refused, mut served) = (0, 0);
    for most in 1..=10 {
        let Some(group) = group("r5", Limit::Tasks(most)) else { return };
        let mut bridge = Bridge::builder().before(group.enter()).launch();
        let mut ended = None;
        wait::until("service or an end", CALM, || {
            ended = bridge.ended();
            ended.is_some() || http::get(bridge.monitor, "/health/live").is_ok_and(|answer| answer.status == 200)
        });
        match ended {
            Some(status) => {
                let text = bridge.stderr.text();
                println!("{most} threads: {status}: {text}");
                assert!([Some(69), Some(71)].contains(&status.code()), "{most} threads: {status}: {text}");
                assert!(text.contains("thread"), "{most} threads: {text}");
                refused += 1;
            }
            None => {
                wait::until("its sockets", SOON, || bridge.meeting.host_listens(5000));
                bridge.assert_serves();
                served += 1;
            }
        }
        bridge.kill();
    }
    assert!(refused > 0 && served > 0, "{refused} refused, {served} served");
}
