//! Who counts as alive and who does not: enclaves that are stopped, a bridge that is stopped, strangers beside the beats.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use enclave_bridge_e2e::bridge::Bridge;
use enclave_bridge_e2e::enclave::SimpleEnclave;
use enclave_bridge_e2e::process::Process;
use enclave_bridge_e2e::tunnels;
use enclave_bridge_e2e::v1::{self, ACK, Answer, Enclave, INIT_PORT, Settings};
use enclave_bridge_e2e::wait::{self, SOON};
use enclave_bridge_e2e::wire::Wire;
use enclave_bridge_e2e::{ports, wire::Meeting};
use nix::sys::signal::Signal;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// What a machine under load may need for what takes seconds at most.
const PATIENCE: Duration = Duration::from_secs(20);

fn dial(meeting: &Meeting, port: u32) -> Wire {
    let wire = meeting.dial_host(port).unwrap();
    wire.read_within(PATIENCE);
    wire.write_within(PATIENCE);
    wire
}

#[test]
fn w7_a_thousand_connections_beside_the_beats() {
    let mut bridge = Bridge::builder().start();
    let port = ports::free();
    let settings = Settings::new(Duration::from_secs(1)).server(5001, port);
    let enclave = Enclave::echo(&bridge.meeting, &settings, 5001);
    let mut stream = tunnels::tcp(Bridge::tcp(port));
    wait::until("the first beat", SOON, || enclave.beats() > 0);
    let before = bridge.descriptors();
    // Silent ones, ones that stop amid a handshake, and ones that stop amid a beat.
    let beginnings: [&[u8]; 4] = [b"", &ACK[..1], ACK, &settings.id[..15]];
    let idle: Vec<Wire> = (0..1000)
        .map(|number| {
            let mut wire = dial(&bridge.meeting, INIT_PORT);
            // It may have made room for a newer one already.
            let _met = wire.write_all(beginnings[number % beginnings.len()]);
            wire
        })
        .collect();
    // Four unfinished, and what the session itself holds of connections that began like its beats.
    wait::until("four of them at most", PATIENCE, || bridge.descriptors() <= before + 4 + 2);
    let beats = enclave.beats();
    wait::until("beats as before", SOON, || enclave.beats() > beats + 4);
    assert_eq!(enclave.complaint(), None);
    stream.write_all(b"still here").unwrap();
    let mut back = [0; 10];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"still here");
    assert_eq!(bridge.ready_status(), 200);
    drop((idle, stream, enclave));
    bridge.assert_serves();
}

/// Beats of this bridge's session so far.
fn beats_of(bridge: &Bridge) -> f64 {
    bridge.metric("enclave_bridge_beats_received_total").unwrap()
}

/// Stops the enclave right after a beat of it.
fn stop_after_a_beat(bridge: &Bridge, enclave: &Process) {
    let beats = beats_of(bridge);
    wait::until("the next beat", PATIENCE, || beats_of(bridge) > beats);
    enclave.signal(Signal::SIGSTOP);
}

#[test]
fn w4_an_enclave_that_is_stopped_is_lost_and_taken_back() {
    let mut bridge = Bridge::builder().start();
    let mut enclave = SimpleEnclave::start_with(&bridge.meeting, &["--interval", "1s"], &[]);
    for _ in 0..2 {
        let mut stream = tunnels::tcp(enclave.address);
        stop_after_a_beat(&bridge, &enclave);
        let start = Instant::now();
        // The stream is reset with the session; the bridge goes on.
        assert_eq!(tunnels::read_out(&mut stream).1, Some(std::io::ErrorKind::ConnectionReset));
        println!("lost {:?} after the last beat; the limit is 1.5 s", start.elapsed());
        assert!(start.elapsed() > Duration::from_secs(1), "lost after {:?}", start.elapsed());
        wait::until("no session", SOON, || bridge.ready_status() == 503);
        enclave.signal(Signal::SIGCONT);
        enclave.wait_answers(PATIENCE);
        enclave.assert_alive();
    }
    bridge.assert_alive();
}

#[test]
#[ignore = "a minute: cargo nextest run -p enclave-bridge-e2e --test beats --run-ignored only w4_ --no-capture"]
fn slow_w4_stopped_for_nine_tenths_of_the_limit_and_for_more() {
    const LIMIT: Duration = Duration::from_secs(6);
    let mut bridge = Bridge::builder().start();
    let mut enclave = SimpleEnclave::start_with(&bridge.meeting, &["--interval", "4s"], &[]);
    let ended = |bridge: &Bridge| bridge.metric("enclave_bridge_sessions_ended_total").unwrap_or_default();
    for (tenths, lives) in [(9, true), (11, false), (30, false), (9, true)] {
        let before = ended(&bridge);
        stop_after_a_beat(&bridge, &enclave);
        let start = Instant::now();
        let mut lost_after = None;
        while start.elapsed() < LIMIT * tenths / 10 {
            std::thread::sleep(Duration::from_millis(10));
            if lost_after.is_none() && ended(&bridge) > before {
                lost_after = Some(start.elapsed());
            }
        }
        enclave.signal(Signal::SIGCONT);
        println!("stopped for {tenths} tenths of the limit: lost after {lost_after:?}");
        match (lives, lost_after) {
            (true, None) => {}
            (false, Some(after)) => assert!(LIMIT <= after && after <= LIMIT * 11 / 10, "lost after {after:?}"),
            (_, lost_after) => panic!("stopped for {tenths} tenths of the limit: lost after {lost_after:?}"),
        }
        enclave.wait_answers(PATIENCE);
        assert_eq!(ended(&bridge) > before, !lives);
    }
    bridge.assert_alive();
}

#[test]
fn w5_a_bridge_that_was_stopped_reads_the_waiting_beats_first() {
    let bridge = Bridge::builder().start();
    let port = ports::free();
    let settings = Settings::new(Duration::from_secs(1)).server(5001, port);
    assert_eq!(v1::handshake(&bridge.meeting, &settings.json()).unwrap().1, Answer::Ack);
    let mut wire = dial(&bridge.meeting, INIT_PORT);
    wire.write_all(&v1::beat(&settings.id)).unwrap();
    wire.read_exact(&mut [0; 17]).unwrap();
    let idle = TcpStream::connect(Bridge::tcp(port)).unwrap();
    bridge.signal(Signal::SIGSTOP);
    for _ in 0..6 {
        wire.write_all(&v1::beat(&settings.id)).unwrap();
        std::thread::sleep(Duration::from_millis(500));
    }
    bridge.signal(Signal::SIGCONT);
    wire.write_all(&v1::beat(&settings.id)).unwrap();
    wait::until("monitoring again", SOON, || bridge.ready_status() != 0);
    assert_eq!(bridge.ready_status(), 200, "the beats that waited were not looked at before the clock");
    drop(idle);
}
