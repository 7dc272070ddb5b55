//! The two version-1 peers of the harness facing each other: what they agree on is what the other suites build on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use enclave_bridge_e2e::bridge::Bridge;
use enclave_bridge_e2e::peers::Server;
use enclave_bridge_e2e::ports;
use enclave_bridge_e2e::tunnels::{self, Heard};
use enclave_bridge_e2e::v1::{Answer, Enclave, Settings};
use enclave_bridge_e2e::v1_bridge::{Egress, V1Bridge};
use enclave_bridge_e2e::wait::{self, SOON};
use enclave_bridge_e2e::wire::{Endpoint, Meeting};
use std::io::Read;
use std::time::Duration;

#[test]
fn a_version_one_enclave_and_a_version_one_bridge_agree() {
    let folder = tempfile::tempdir().unwrap();
    let meeting = Meeting::new(Endpoint::Hybrid, folder.path());
    let bridge = V1Bridge::start(&meeting, r#"{"KEY":"value"}"#, Egress::AckAtOnce);
    let port = ports::free();
    let settings = Settings::new(Duration::from_secs(1)).server(5001, port).client(5002);
    let enclave = Enclave::echo(&meeting, &settings, 5001);
    assert_eq!(enclave.environment, "{\"KEY\":\"value\"}\n");
    let mut tcp = tunnels::tcp(Bridge::tcp(port));
    std::io::Write::write_all(&mut tcp, b"there and back").unwrap();
    let mut back = [0; 14];
    tcp.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"there and back");
    let server = Server::banner(b"220 ready".to_vec());
    let (mut wire, answer) = enclave.dial(5002, &server.target());
    assert_eq!(answer, Answer::Ack);
    let mut banner = [0; 9];
    wire.read_exact(&mut banner).unwrap();
    assert_eq!(&banner, b"220 ready");
    wait::until("beats", SOON, || enclave.beats() >= 3 && bridge.beats() >= 3);
    assert_eq!((enclave.complaint(), bridge.complaint()), (None, None));
    drop(bridge);
    wait::until("the enclave's complaint", SOON, || enclave.complaint().is_some());
}

#[test]
fn a_resetting_server_resets() {
    let server = Server::start(enclave_bridge_e2e::peers::reset);
    let mut tcp = tunnels::tcp(server.address);
    assert_eq!(tunnels::read_out(&mut tcp), (0, Some(std::io::ErrorKind::ConnectionReset)));
}

#[test]
fn a_half_close_through_an_echo_returns_everything() {
    let server = Server::echo();
    let mut tcp = tunnels::tcp(server.address);
    // No more than the kernel buffers take: this echo has one thread.
    assert_eq!(tunnels::speak_then_listen(&mut tcp, 5, 50_000).unwrap(), Heard::pattern(5, 50_000));
}
