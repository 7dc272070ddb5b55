//! Framed tunnels over a device that has no half-close: the bridge on this machine, an enclave of the SDK in a guest, and
//! 64 MiB after the end of the other direction, whoever ends first; and an enclave's death is no end.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test program: a panic is how it fails"
)]

mod machine;

use enclave_bridge_e2e::bridge::Bridge;
use enclave_bridge_e2e::bytes::{self, MIB, Pattern};
use enclave_bridge_e2e::peers::Server;
use enclave_bridge_e2e::tunnels::{self, Heard, Leg as _};
use enclave_bridge_e2e::wire::Endpoint;
use enclave_bridge_e2e::{bridge, ports, wait};
use machine::{BOOT, Machine};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::sync_channel;

/// As the enclave has it.
const LENGTH: u64 = 64 * MIB;

fn start() -> (Bridge, Machine, u16) {
    let bridge = bridge::Builder::new(Endpoint::Hybrid).loopback_egress().start();
    let port = ports::free();
    // The guest outlives its program.
    let machine = Machine::boot(&bridge.meeting, &format!("ends {port}\nsleep 600\n"));
    machine.wait_for_line("ready", BOOT);
    (bridge, machine, port)
}

fn order(port: u16, what: &[u8]) -> TcpStream {
    let mut stream = tunnels::tcp(Bridge::tcp(port));
    stream.write_all(what).unwrap();
    stream
}

/// A server that meets one stream, and what it heard.
fn server(habit: impl Fn(&mut TcpStream) -> Heard + Send + Sync + 'static) -> (u16, std::sync::mpsc::Receiver<Heard>) {
    let (heard, is_heard) = sync_channel(1);
    let server = Server::start(move |mut stream| heard.send(habit(&mut stream)).unwrap());
    let port = server.target().rsplit_once(':').unwrap().1.parse().unwrap();
    // It serves for as long as the test's process lives.
    std::mem::forget(server);
    (port, is_heard)
}

#[test]
#[ignore = "boots a guest: cargo xtask lab --mode hybrid"]
fn hybrid_t1_t2_64_mib_after_a_half_close_in_each_direction() {
    let (mut bridge, machine, port) = start();

    // Ingress, the client ends first: 64 MiB come down after it.
    let mut stream = order(port, b"d");
    stream.write_all(b"last words").unwrap();
    stream.end_writing();
    let mut hash = [0; 32];
    stream.read_exact(&mut hash).unwrap();
    assert_eq!(hash, bytes::hash_of(&mut &b"last words"[..]).unwrap().0);
    let (hash, length) = bytes::hash_of(&mut stream).unwrap();
    assert_eq!(Heard { hash, length }, Heard::pattern(1, LENGTH));

    // Ingress, the enclave ends first: 64 MiB go up after it.
    let mut stream = order(port, b"u");
    let (hash, length) = bytes::hash_of(&mut stream).unwrap();
    assert_eq!(Heard { hash, length }, Heard::pattern(2, LENGTH));
    bytes::copy(&mut Pattern::new(4, LENGTH), &mut stream).unwrap();
    stream.end_writing();
    let hex: String = Pattern::hash(4, LENGTH).iter().map(|byte| format!("{byte:02x}")).collect();
    machine.wait_for_line(&format!("heard {hex}"), BOOT);

    // Egress, the enclave ends first.
    let (target, heard) = server(|stream| {
        let (hash, length) = bytes::hash_of(stream).unwrap();
        bytes::copy(&mut Pattern::new(5, LENGTH), stream).unwrap();
        stream.end_writing();
        Heard { hash, length }
    });
    let mut stream = order(port, &[&b"e"[..], &target.to_be_bytes()].concat());
    let mut hash = [0; 32];
    stream.read_exact(&mut hash).unwrap();
    assert_eq!(hash, Pattern::hash(5, LENGTH));
    assert_eq!(heard.recv().unwrap().length, 4);

    // Egress, the server ends first.
    let (target, heard) = server(|stream| {
        stream.write_all(b"over here").unwrap();
        stream.end_writing();
        let (hash, length) = bytes::hash_of(stream).unwrap();
        Heard { hash, length }
    });
    let mut stream = order(port, &[&b"f"[..], &target.to_be_bytes()].concat());
    let mut hash = [0; 32];
    stream.read_exact(&mut hash).unwrap();
    assert_eq!(hash, bytes::hash_of(&mut &b"over here"[..]).unwrap().0);
    assert_eq!(heard.recv().unwrap(), Heard::pattern(3, LENGTH));

    machine.wait_for_line("served, framed: true", BOOT);
    bridge.assert_alive();
}

#[test]
#[ignore = "boots a guest: cargo xtask lab --mode hybrid"]
fn hybrid_t3_an_enclave_killed_amid_downloads_is_a_reset_for_each_client() {
    let (mut bridge, machine, port) = start();
    let downloads: Vec<TcpStream> = (0..20)
        .map(|_| {
            let mut stream = order(port, b"k");
            stream.read_exact(&mut [0; 100_000]).unwrap();
            stream
        })
        .collect();
    let _last = order(port, b"x");
    for mut stream in downloads {
        let (_, error) = tunnels::read_out(&mut stream);
        assert_eq!(error, Some(ErrorKind::ConnectionReset), "a download that was cut off ended well");
    }
    wait::until("the end of the session", BOOT, || bridge.ready_status() != 200);
    bridge.assert_alive();
    machine.assert_alive();
}
