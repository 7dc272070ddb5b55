//! Several peers in one daemon: sessions side by side, ports that belong to the first, replacement in place.
//!
//! The enclaves here are raw bytes on Unix sockets.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, its setup too"
)]

mod ports;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use enclave_bridge::app::{App, BoundSockets, Ending, Means};
use enclave_bridge::config::{Command, EndpointConfig, from_process_with};
use enclave_bridge_net::Workers;
use tokio_util::sync::CancellationToken;

const ACK: &[u8] = b"\x06\n";

/// A daemon in this process, with one endpoint for each name.
struct Daemon {
    folder: tempfile::TempDir,
    stop: CancellationToken,
    thread: std::thread::JoinHandle<Ending>,
}

impl Daemon {
    fn start(names: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let arguments = ["enclave-bridge", "--monitor", "127.0.0.1:1", "--ingress-address", "127.0.0.1", "--uds-path"];
        let mut arguments: Vec<_> = arguments.iter().map(std::ffi::OsString::from).collect();
        arguments.push(folder.path().join(names[0]).into());
        let none = folder.path().join("none.toml");
        let Ok(Command::Run(mut config, _)) = from_process_with(arguments, Vec::new(), &none) else {
            panic!("the configuration is in order")
        };
        for name in &names[1..] {
            config.endpoints.push(EndpointConfig::Hybrid { uds_path: folder.path().join(name) });
        }
        let stop = CancellationToken::new();
        let (tell, bound) = std::sync::mpsc::sync_channel(1);
        let drain = stop.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async {
                let monitor = SocketAddr::from(([127, 0, 0, 1], 1));
                let means = Means { descriptors: 1024, workers: Workers::none() };
                let (app, listeners) =
                    App::over(BoundSockets::bind(&config).unwrap(), &config, &[], means, monitor).unwrap();
                tell.send(()).unwrap();
                app.run(listeners, drain.cancelled(), std::future::pending()).await
            })
        });
        bound.recv_timeout(Duration::from_secs(10)).unwrap();
        Self { folder, stop, thread }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn end(self) -> Ending {
        self.stop.cancel();
        self.thread.join().unwrap()
    }
}

fn connect(uds_path: &Path, port: u32) -> UnixStream {
    let stream = UnixStream::connect(format!("{}_{port}", uds_path.display())).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// A handshake with one server; the answer as it came.
fn shake_hands(uds_path: &Path, id: u8, tcp_port: u16) -> Vec<u8> {
    let mut stream = BufReader::new(connect(uds_path, 5000));
    stream.get_mut().write_all(ACK).unwrap();
    let mut environment = String::new();
    stream.read_line(&mut environment).unwrap();
    assert!(environment.starts_with('{'), "{environment}");
    let settings = format!(
        "{{\"appName\":\"{id}\",\"watchdog\":{{\"enclaveId\":\"{id:02x}000000-0000-4000-8000-000000000001\",\
         \"interval\":30000000000}},\"servers\":[{{\"enclaveCid\":16,\"enclaveListenPort\":5001,\
         \"bridgeTcpPort\":{tcp_port}}}],\"clients\":null}}\n"
    );
    stream.get_mut().write_all(settings.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_until(b'\n', &mut answer).unwrap();
    answer
}

#[test]
fn h9_a_port_belongs_to_the_first_peer_that_was_granted_it() {
    let daemon = Daemon::start(&["a", "b"]);
    let port = ports::free();
    assert_eq!(shake_hands(&daemon.path("a"), 1, port), ACK);
    let refusal = String::from_utf8(shake_hands(&daemon.path("b"), 2, port)).unwrap();
    assert!(refusal.starts_with("\x15PORT_IN_USE "), "{refusal:?}");
    // The first is untouched: it accepts, and replaces itself on the same port.
    TcpStream::connect(("127.0.0.1", port)).unwrap();
    assert_eq!(shake_hands(&daemon.path("a"), 3, port), ACK);
    // The second may have another, beside the first.
    let other = ports::free();
    assert_eq!(shake_hands(&daemon.path("b"), 4, other), ACK);
    for port in [port, other] {
        TcpStream::connect(("127.0.0.1", port)).unwrap();
    }
    assert!(matches!(daemon.end(), Ending::Drained { .. }));
    for port in [port, other] {
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "{port} is free again");
    }
}

/// An enclave that sends back what comes on any of its ports.
fn echo_at(uds_path: &Path) {
    let listener = UnixListener::bind(uds_path).unwrap();
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let mut stream = BufReader::new(stream);
            let mut request = String::new();
            stream.read_line(&mut request).unwrap();
            stream.get_mut().write_all(b"OK 1073741824\n").unwrap();
            std::thread::spawn(move || {
                let mut writing = stream.get_ref().try_clone().unwrap();
                let _sent = std::io::copy(&mut stream, &mut writing);
                writing.shutdown(Shutdown::Write)
            });
        }
    });
}

/// Bytes that differ at every offset of a MiB.
fn piece(seed: u32) -> Vec<u8> {
    (0..1 << 18).flat_map(|n: u32| n.wrapping_mul(0x9e37_79b9).wrapping_add(seed).to_le_bytes()).collect()
}

#[test]
fn h9_a_second_enclave_at_any_step_of_its_handshake_leaves_the_firsts_streams_alone() {
    let daemon = Daemon::start(&["a", "b"]);
    echo_at(&daemon.path("a"));
    let port = ports::free();
    assert_eq!(shake_hands(&daemon.path("a"), 1, port), ACK);
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut echoes = |seed: u32| {
        let sent = piece(seed);
        let mut writing = stream.try_clone().unwrap();
        let bytes = sent.clone();
        let writer = std::thread::spawn(move || writing.write_all(&bytes));
        let mut back = vec![0; sent.len()];
        stream.read_exact(&mut back).unwrap();
        writer.join().unwrap().unwrap();
        assert!(back == sent, "piece {seed} came back otherwise");
    };
    echoes(0);
    // The other enclave stops after each step of its handshake, and then asks for the first one's port.
    let mut other = BufReader::new(connect(&daemon.path("b"), 5000));
    echoes(1);
    other.get_mut().write_all(ACK).unwrap();
    echoes(2);
    let mut environment = String::new();
    other.read_line(&mut environment).unwrap();
    echoes(3);
    other.get_mut().write_all(b"{\"watchdog\":").unwrap();
    echoes(4);
    drop(other);
    echoes(5);
    let refusal = shake_hands(&daemon.path("b"), 2, port);
    assert!(refusal.starts_with(b"\x15PORT_IN_USE "), "{refusal:02x?}");
    echoes(6);
    assert_eq!(shake_hands(&daemon.path("b"), 3, ports::free()), ACK);
    echoes(7);
    drop(stream);
    daemon.end();
}

#[test]
fn w3_beats_of_one_peer_do_not_count_for_another() {
    let daemon = Daemon::start(&["a", "b"]);
    assert_eq!(shake_hands(&daemon.path("a"), 1, ports::free()), ACK);
    assert_eq!(shake_hands(&daemon.path("b"), 2, ports::free()), ACK);
    let beat = |id: u8| [&[id, 0, 0, 0, 0, 0, 0x40, 0, 0x80, 0, 0, 0, 0, 0, 0, 1][..], b"\n"].concat();
    let mut own = connect(&daemon.path("a"), 5000);
    own.write_all(&beat(1)).unwrap();
    let mut answer = [0; 17];
    own.read_exact(&mut answer).unwrap();
    assert_eq!(answer, *beat(1));
    let mut foreign = connect(&daemon.path("a"), 5000);
    foreign.write_all(&beat(2)).unwrap();
    assert_eq!(foreign.read(&mut answer).unwrap_or(0), 0, "closed without a word");
    // The session whose id was used wrongly lives on.
    let mut right = connect(&daemon.path("b"), 5000);
    right.write_all(&beat(2)).unwrap();
    right.read_exact(&mut answer).unwrap();
    assert_eq!(answer, *beat(2));
    assert_eq!(daemon.end(), Ending::Drained { cut: 0 });
}
