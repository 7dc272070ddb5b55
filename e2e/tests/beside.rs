//! Peers that are slow or silent, and the others beside them: nobody waits for somebody else.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use enclave_bridge_e2e::bridge::Bridge;
use enclave_bridge_e2e::peers::{Full, Server};
use enclave_bridge_e2e::ports;
use enclave_bridge_e2e::tunnels::{self, Heard};
use enclave_bridge_e2e::v1::{Answer, Enclave, LOG_PORT, Settings, echo};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

const CALM: Duration = Duration::from_secs(30);

/// Connecting to a target is given up after ten seconds; what waited for it would take longer than this.
const AT_ONCE: Duration = Duration::from_secs(5);

#[test]
fn egress_to_targets_that_do_not_answer_holds_nobody_up() {
    let bridge = Bridge::builder().loopback_egress().start();
    let enclave = Enclave::start(&bridge.meeting, &Settings::new(CALM).client(5002));
    let (full, server) = (Full::start(), Server::echo());
    let held: Vec<_> = (0..100)
        .map(|number| {
            let mut wire = bridge.meeting.dial_host(5002).unwrap();
            // Half of them wait for a target that does not answer, half have not said which one they want.
            if number % 2 == 0 {
                wire.write_all(format!("{}\n", full.address).as_bytes()).unwrap();
            }
            wire
        })
        .collect();
    let start = Instant::now();
    for seed in 0..20 {
        let (mut wire, answer) = enclave.dial(5002, &server.target());
        assert_eq!(answer, Answer::Ack);
        assert_eq!(tunnels::speak_then_listen(&mut wire, seed, 10_000).unwrap(), Heard::pattern(seed, 10_000));
    }
    assert!(start.elapsed() < AT_ONCE, "twenty streams took {:?}", start.elapsed());
    drop(held);
}

#[test]
fn clients_that_say_nothing_hold_nobody_up() {
    let bridge = Bridge::builder().start();
    let (port, deaf) = (ports::free(), ports::free());
    let settings = Settings::new(CALM).server(5001, port).server(5003, deaf);
    let _enclave = Enclave::start_with(&bridge.meeting, &settings, |guest| {
        guest.serve(5001, echo);
        // Taken, and never read.
        guest.serve(5003, |_wire| std::thread::sleep(CALM));
    });
    let mut silent: Vec<TcpStream> = (0..100).map(|_| tunnels::tcp(Bridge::tcp(port))).collect();
    silent.extend((0..100).map(|_| tunnels::tcp(Bridge::tcp(deaf))));
    let mut log = bridge.meeting.dial_host(LOG_PORT).unwrap();
    log.write_all(b"half a line").unwrap();
    let start = Instant::now();
    for seed in 0..20 {
        let mut stream = tunnels::tcp(Bridge::tcp(port));
        assert_eq!(tunnels::speak_then_listen(&mut stream, seed, 10_000).unwrap(), Heard::pattern(seed, 10_000));
    }
    assert!(start.elapsed() < AT_ONCE, "twenty streams took {:?}", start.elapsed());
    // Those that were silent so far are served like the others.
    let first = silent.first_mut().unwrap();
    first.write_all(b"now").unwrap();
    let mut back = [0; 3];
    first.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"now");
}
