//! The bridge on this machine, the example enclave in a guest: real AF_VSOCK to CID 2 there, Unix sockets here.
//!
//! The device between them knows no half-close, so nothing here depends on one. `cargo xtask lab --mode hybrid` starts this
//! with what it needs in the environment.
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
use enclave_bridge_e2e::bytes::{MIB, Pattern};
use enclave_bridge_e2e::peers::Server;
use enclave_bridge_e2e::wire::Endpoint;
use enclave_bridge_e2e::{bridge, http, ports, wait};
use machine::{BOOT, Machine};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// The promise for an enclave that is there is two seconds; this only tells "again" from "never".
const AGAIN: Duration = Duration::from_secs(30);

struct Rig {
    bridge: Bridge,
    port: u16,
}

impl Rig {
    fn start() -> Rig {
        let bridge =
            bridge::Builder::new(Endpoint::Hybrid).loopback_egress().variable("GREETING", "from the host").start();
        Rig { bridge, port: ports::free() }
    }

    /// A guest that runs the example enclave.
    fn boot(&self) -> Machine {
        Machine::boot(&self.bridge.meeting, &format!("exec simple-enclave --port {} --interval 2\n", self.port))
    }

    fn address(&self) -> SocketAddr {
        Bridge::tcp(self.port)
    }

    fn wait_greets(&mut self, within: Duration) {
        let address = self.address();
        wait::until("the greeting of the enclave in the guest", within, || {
            self.bridge.assert_alive();
            http::get(address, "/").is_ok_and(|answer| answer.status == 200)
        });
    }

    fn get(&self, path: &str) -> http::Answer {
        http::get(self.address(), path).unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }
}

#[test]
#[ignore = "boots a guest: cargo xtask lab --mode hybrid"]
fn hybrid_an_enclave_in_a_guest_is_served() {
    let mut rig = Rig::start();
    let machine = rig.boot();
    rig.wait_greets(BOOT);
    assert_eq!(rig.bridge.ready_status(), 200);

    // Handshake: the host's environment is there.
    let variable = rig.get("/env/GREETING");
    assert_eq!((variable.status, variable.text().trim_end()), (200, "from the host"));
    // Ingress, with the client's address in front of the stream.
    assert!(rig.get("/client").text().contains("127.0.0.1"));
    // Both directions of one stream at once, by hash.
    let length = 4 * MIB;
    let (status, hash, back) = http::post_and_hash(rig.address(), "/echo", Pattern::new(1, length), length).unwrap();
    assert_eq!((status, back), (200, length));
    assert_eq!(hash, Pattern::hash(1, length));
    // Egress: a server of this machine, and the policy.
    let mut body = vec![0; 2 * 1024 * 1024];
    Pattern::new(2, body.len() as u64).read_exact(&mut body).unwrap();
    let server = Server::http(body.clone());
    let fetched = rig.get(&format!("/fetch?target={}&path=/", server.target()));
    assert_eq!(fetched.status, 200, "{}", fetched.text());
    assert!(fetched.body == body, "{} of {} bytes", fetched.body.len(), body.len());
    let denied = rig.get("/fetch?target=169.254.169.254:80&path=/");
    assert_eq!(denied.status, 502);
    assert!(denied.text().contains("DENIED"), "{}", denied.text());
    // Logs come out here.
    let line = rig.bridge.stdout.wait_for_line("{", wait::SOON);
    assert!(line.starts_with('{') && line.ends_with('}'), "{line}");
    // Beats: three intervals later it is the same session.
    let before = rig.bridge.metric("enclave_bridge_handshakes_total");
    std::thread::sleep(Duration::from_secs(7));
    assert_eq!(rig.bridge.ready_status(), 200);
    assert_eq!(rig.bridge.metric("enclave_bridge_handshakes_total"), before, "the session was lost");
    machine.assert_alive();
}

#[test]
#[ignore = "boots a guest: cargo xtask lab --mode hybrid"]
fn hybrid_the_bridge_is_killed_and_the_guest_lives() {
    let mut rig = Rig::start();
    let machine = rig.boot();
    rig.wait_greets(BOOT);
    for _ in 0..3 {
        rig.bridge.kill();
        rig.bridge = bridge::Builder::new(Endpoint::Hybrid)
            .loopback_egress()
            .variable("GREETING", "from the next host")
            .in_folder_of(&rig.bridge)
            .start();
        rig.wait_greets(AGAIN);
    }
    assert_eq!(rig.get("/env/GREETING").status, 200);
    machine.assert_alive();
    assert!(!machine.said.lock().unwrap().contains("panicked"));
}

/// What a power cut must be for each client: an error, and soon.
const RESET_WITHIN: Duration = Duration::from_secs(2);

/// Opens `streams` tunnels that are busy both ways, cuts the guest's power under them, and sees to it that every client is reset.
fn power_cut_under_streams(rig: &mut Rig, machine: Machine, streams: usize) {
    let address = rig.address();
    let streams: Vec<TcpStream> = (0..streams)
        .map(|_| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(AGAIN)).unwrap();
            stream.set_write_timeout(Some(AGAIN)).unwrap();
            write!(stream, "POST /echo HTTP/1.0\r\ncontent-length: 1000000000\r\n\r\n").unwrap();
            stream.write_all(&[b'.'; 4096]).unwrap();
            let mut first = [0; 1024];
            stream.read_exact(&mut first).unwrap();
            stream
        })
        .collect();
    // Each keeps echoing until it is over. One call at a time: a reset is told to the first call that meets it, and to no other.
    let (over, is_over) = std::sync::mpsc::sync_channel(streams.len());
    for mut stream in streams {
        let over = over.clone();
        std::thread::spawn(move || {
            let mut piece = [b'.'; 2048];
            let ending = loop {
                if let Err(error) = stream.write_all(&piece) {
                    break Some(error.kind());
                }
                match stream.read(&mut piece) {
                    Ok(0) => break None,
                    Ok(_) => {}
                    Err(error) => break Some(error.kind()),
                }
            };
            over.send((ending, Instant::now())).unwrap();
        });
    }
    drop(over);
    let cut = Instant::now();
    machine.cut_power();
    let endings: Vec<_> = is_over.iter().collect();
    let latest = endings.iter().map(|(_, at)| at.saturating_duration_since(cut)).max().unwrap_or_default();
    println!("{} streams were reset within {latest:?} of the power cut", endings.len());
    for (ending, at) in endings {
        let told = matches!(ending, Some(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe));
        assert!(told, "a stream of a guest without power ended with {ending:?}");
        assert!(at.saturating_duration_since(cut) < RESET_WITHIN, "a stream was reset after {:?}", at - cut);
    }
    rig.bridge.assert_alive();
}

#[test]
#[ignore = "boots a guest: cargo xtask lab --mode hybrid"]
fn hybrid_a_guest_that_loses_power_is_replaced_by_the_next() {
    let mut rig = Rig::start();
    let machine = rig.boot();
    rig.wait_greets(BOOT);
    let pid = rig.bridge.pid();
    power_cut_under_streams(&mut rig, machine, 20);

    let machine = rig.boot();
    rig.wait_greets(BOOT);
    assert_eq!(rig.bridge.pid(), pid);
    assert_eq!(rig.bridge.ready_status(), 200);
    machine.assert_alive();
}

#[test]
#[ignore = "boots a guest: cargo xtask lab --mode hybrid"]
fn slow_hybrid_t27_twenty_power_cuts_under_a_hundred_streams() {
    let mut rig = Rig::start();
    let pid = rig.bridge.pid();
    let before = rig.bridge.descriptors();
    for _ in 0..20 {
        let machine = rig.boot();
        rig.wait_greets(BOOT);
        power_cut_under_streams(&mut rig, machine, 100);
        // The session may live until its beats are missed; what its streams held is back by then.
        wait::until("the descriptors of before", AGAIN, || rig.bridge.descriptors() <= before);
    }
    let machine = rig.boot();
    rig.wait_greets(BOOT);
    assert_eq!((rig.bridge.pid(), rig.bridge.ready_status()), (pid, 200));
    machine.assert_alive();
}
