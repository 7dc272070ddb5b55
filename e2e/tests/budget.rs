//! The budget of descriptors and the limits that the operator sets, as the program keeps to them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use enclave_bridge_e2e::bridge::Bridge;
use enclave_bridge_e2e::v1::{INIT_PORT, Settings, handshake};
use enclave_bridge_e2e::wait::SOON;
use std::io::Write;
use std::time::{Duration, Instant};

const CALM: Duration = Duration::from_secs(30);

#[test]
fn a_number_of_streams_that_does_not_fit_is_no_start() {
    let mut bridge = Bridge::builder().descriptor_limit(256).arguments(["--max-streams", "2000"]).launch();
    assert_eq!(bridge.wait(SOON).code(), Some(78));
    let text = bridge.stderr.text();
    assert!(text.contains("max_streams: 2000 do not fit under 256 descriptors, 64 do"), "{text}");
}

#[test]
fn the_default_yields_and_what_fits_serves() {
    let mut bridge = Bridge::builder().descriptor_limit(256).start();
    assert_eq!(bridge.metric("enclave_bridge_streams_limit"), Some(64.0));
    bridge.assert_serves();
    // Over AF_VSOCK the next one takes the same ports.
    drop(bridge);
    let mut bridge = Bridge::builder().descriptor_limit(256).arguments(["--max-streams", "64"]).start();
    bridge.assert_serves();
}

#[test]
fn too_few_descriptors_for_anything_are_no_start() {
    let mut bridge = Bridge::builder().descriptor_limit(40).launch();
    let code = bridge.wait(SOON).code();
    assert_eq!(code, Some(78), "{}", bridge.stderr.text());
}

#[test]
fn tunnels_and_the_time_of_a_handshake_are_as_the_operator_says() {
    let limits = ["--max-clients", "1", "--max-servers", "0", "--handshake-timeout", "1s"];
    let bridge = Bridge::builder().arguments(limits).start();
    for settings in [Settings::new(CALM).client(5002).client(5003), Settings::new(CALM).server(5001, 8080)] {
        assert_eq!(handshake(&bridge.meeting, &settings.json()).unwrap().1.code(), "TOO_MANY");
    }
    let mut wire = bridge.meeting.dial_host(INIT_PORT).unwrap();
    let start = Instant::now();
    wire.read_within(CALM);
    wire.write_all(b"\x06\n").unwrap();
    while wire.read_line_exactly(4096).is_ok_and(|line| !line.is_empty()) {}
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
}
