//! After the ACK everything that was asked for accepts, at once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use enclave_bridge_e2e::bridge::Bridge;
use enclave_bridge_e2e::ports;
use enclave_bridge_e2e::v1::{Answer, Settings, handshake};
use std::net::TcpStream;
use std::time::{Duration, Instant};

#[test]
fn h16_every_port_accepts_at_once_after_the_ack_a_thousand_times() {
    let mut bridge = Bridge::builder().start();
    let tcp_ports: Vec<u16> = (0..8).map(|_| ports::free()).collect();
    let start = Instant::now();
    for round in 0..1000 {
        // Each handshake takes the session, and the same ports, from the one before.
        let mut settings = Settings::new(Duration::from_secs(30)).client(5002).client(5003);
        for port in &tcp_ports {
            settings = settings.server(5001, *port);
        }
        let answer = handshake(&bridge.meeting, &settings.json()).unwrap().1;
        assert_eq!(answer, Answer::Ack, "round {round}");
        for port in &tcp_ports {
            match TcpStream::connect(Bridge::tcp(*port)) {
                // Accepted, and reset before connecting had returned: nobody listens behind these ports.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
                met => drop(met.unwrap_or_else(|error| panic!("round {round}, TCP {port}: {error}"))),
            }
        }
        for port in [5002, 5003] {
            bridge.meeting.dial_host(port).unwrap_or_else(|error| panic!("round {round}, vsock {port}: {error}"));
        }
    }
    println!("1,000 handshakes with 10 listeners each: {:?}", start.elapsed());
    bridge.assert_alive();
}
