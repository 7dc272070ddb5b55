//! Many idle connections: what they hold comes back when they go. What they cost is measured by `cargo xtask measure idle`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use enclave_bridge_e2e::bridge::Bridge;
use enclave_bridge_e2e::v1::{self, Enclave, Settings};
use enclave_bridge_e2e::wait::{self, SOON};
use enclave_bridge_e2e::{ports, tunnels};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[test]
fn t5_descriptors_and_streams_return_when_two_thousand_idle_connections_leave() {
    let mut bridge = Bridge::builder().start();
    let port = ports::free();
    let held = Arc::new(Mutex::new(Vec::new()));
    let keep = held.clone();
    let settings = Settings::new(Duration::from_secs(30)).server(5001, port);
    let enclave = Enclave::start_with(&bridge.meeting, &settings, |guest| {
        guest.hand_over(5001, move |wire| keep.lock().unwrap().push(wire));
    });
    // The handshake's connection may still be among them.
    let before = bridge.descriptors();
    let clients: Vec<TcpStream> = (0..2000).map(|_| tunnels::tcp(Bridge::tcp(port))).collect();
    wait::until("every connection at the enclave", SOON * 3, || held.lock().unwrap().len() == clients.len());
    assert!(bridge.descriptors() >= 2 * clients.len());
    drop(clients);
    held.lock().unwrap().clear();
    wait::until("the descriptors of before", SOON * 2, || bridge.descriptors() <= before + v1::BEATS);
    drop(enclave);
    bridge.assert_serves();
}

#[test]
fn t9_over_max_streams_a_new_connection_is_reset_at_once() {
    let mut bridge = Bridge::builder().arguments(["--max-streams", "10"]).start();
    let port = ports::free();
    let settings = Settings::new(Duration::from_secs(30)).server(5001, port).client(5002);
    let enclave = Enclave::echo(&bridge.meeting, &settings, 5001);
    let mut kept: Vec<TcpStream> = (0..10).map(|_| tunnels::tcp(Bridge::tcp(port))).collect();
    for stream in &mut kept {
        use std::io::{Read, Write};
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
    }
    // The reset may come before the connecting call has returned.
    match TcpStream::connect(Bridge::tcp(port)) {
        Ok(mut eleventh) => {
            assert_eq!(tunnels::read_out(&mut eleventh), (0, Some(std::io::ErrorKind::ConnectionReset)));
        }
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
    assert_eq!(enclave.dial(5002, "203.0.113.1:80").1.code(), "LIMIT");
    drop(kept);
    wait::until("room again", SOON, || {
        let heard =
            TcpStream::connect(Bridge::tcp(port)).and_then(|mut stream| tunnels::speak_then_listen(&mut stream, 1, 10));
        heard.is_ok_and(|heard| heard == tunnels::Heard::pattern(1, 10))
    });
    drop(enclave);
    bridge.assert_serves();
}
