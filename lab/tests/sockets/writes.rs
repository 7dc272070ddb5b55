//! The kernel's own view of every packet: its tracepoint for them, while the real programs move bytes.

use crate::family::{Family, in_a_guest};
use enclave_bridge_e2e::bridge::Bridge;
use enclave_bridge_e2e::bytes::Pattern;
use enclave_bridge_e2e::enclave::SimpleEnclave;
use enclave_bridge_e2e::{http, peers};
use std::io::Write as _;
use std::path::{Path, PathBuf};

const TRACING: &str = "/sys/kernel/tracing";
const EVENT: &str = "events/vsock/virtio_transport_alloc_pkt";
const CAP: usize = 32 * 1024;

/// Counts packets longer than `above`.
struct Trace;

impl Trace {
    fn start(above: usize) -> Trace {
        set("tracing_on", "0");
        set("trace", "");
        set(&format!("{EVENT}/filter"), &format!("len > {above}"));
        set(&format!("{EVENT}/enable"), "1");
        set("tracing_on", "1");
        Trace
    }

    fn stop(self) -> Vec<String> {
        set("tracing_on", "0");
        set(&format!("{EVENT}/enable"), "0");
        let trace = std::fs::read_to_string(place("trace")).unwrap();
        trace.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }
}

fn place(name: &str) -> PathBuf {
    Path::new(TRACING).join(name)
}

fn set(name: &str, value: &str) {
    std::fs::write(place(name), value).unwrap_or_else(|error| panic!("{}: {error}", place(name).display()));
}

#[test]
#[ignore = "opens AF_VSOCK: runs in a guest by cargo xtask lab"]
fn no_packet_above_the_cap_leaves_the_programs() {
    in_a_guest();
    // The measure measures: a write above the cap is seen.
    let trace = Trace::start(CAP);
    let (mut a, _b) = Family::Vsock.pair();
    a.write_all(&[0; 64 * 1024]).unwrap();
    let seen = trace.stop();
    assert!(!seen.is_empty(), "the kernel's tracepoint does not show a packet of 64 KiB");

    let bridge = Bridge::builder().loopback_egress().start();
    let enclave = SimpleEnclave::start(&bridge.meeting, &[]);
    let body = vec![b'x'; 4 << 20];
    let server = peers::Server::http(body.clone());
    let trace = Trace::start(CAP);
    let length = 8 << 20;
    let (status, hash, back) = http::post_and_hash(enclave.address, "/echo", Pattern::new(5, length), length).unwrap();
    assert_eq!((status, back, hash), (200, length, Pattern::hash(5, length)));
    let fetched = enclave.get(&format!("/fetch?target={}&path=/", server.target()));
    assert_eq!((fetched.status, fetched.body.len()), (200, body.len()));
    let seen = trace.stop();
    assert!(seen.is_empty(), "{} packets above {CAP} bytes: {}", seen.len(), seen.first().map_or("", String::as_str));

    // And not because nothing was sent.
    let trace = Trace::start(CAP / 2);
    http::post_and_hash(enclave.address, "/echo", Pattern::new(6, length), length).unwrap();
    let seen = trace.stop();
    assert!(!seen.is_empty(), "no packet above {} bytes in {length}", CAP / 2);
}
