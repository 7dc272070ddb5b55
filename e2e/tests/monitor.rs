//! Monitoring: health, readiness, metrics; GET only; reload by SIGHUP.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use enclave_bridge_e2e::bridge::Bridge;
use enclave_bridge_e2e::http;
use enclave_bridge_e2e::ports;
use enclave_bridge_e2e::tunnels::{self, Heard};
use enclave_bridge_e2e::v1::{Enclave, Settings};
use enclave_bridge_e2e::wait::{self, SOON};
use nix::sys::signal::Signal;
use std::net::TcpStream;
use std::time::Duration;

const CALM: Duration = Duration::from_secs(30);

#[test]
fn health_tells_life_from_readiness() {
    let bridge = Bridge::builder().start();
    for path in ["/", "/health/live"] {
        assert_eq!(http::get(bridge.monitor, path).unwrap().status, 200, "{path}");
    }
    let not_ready = http::get(bridge.monitor, "/health/ready").unwrap();
    assert_eq!(not_ready.status, 503);
    serde_json::from_slice::<serde_json::Value>(&not_ready.body).expect("a JSON body");
    let port = ports::free();
    let enclave = Enclave::echo(&bridge.meeting, &Settings::new(Duration::from_secs(1)).server(5001, port), 5001);
    let ready = http::get(bridge.monitor, "/health/ready").unwrap();
    assert_eq!(ready.status, 200);
    serde_json::from_slice::<serde_json::Value>(&ready.body).expect("a JSON body");
    drop(enclave);
    wait::until("the loss", SOON, || bridge.ready_status() == 503);
    assert_eq!(http::get(bridge.monitor, "/health/live").unwrap().status, 200);
}

#[test]
fn get_only() {
    let bridge = Bridge::builder().start();
    for path in ["/", "/health/live", "/health/ready", "/metrics"] {
        for method in ["POST", "PUT", "DELETE"] {
            assert_eq!(http::request(method, bridge.monitor, path).unwrap().status, 405, "{method} {path}");
        }
    }
    assert_eq!(http::get(bridge.monitor, "/no/such/path").unwrap().status, 404);
}

#[test]
fn metrics_are_named_typed_and_move() {
    let bridge = Bridge::builder().start();
    let port = ports::free();
    let _enclave = Enclave::echo(&bridge.meeting, &Settings::new(CALM).server(5001, port), 5001);
    let before = bridge.metrics();
    let mut stream = tunnels::tcp(Bridge::tcp(port));
    assert_eq!(tunnels::speak_then_listen(&mut stream, 1, 123_456).unwrap(), Heard::pattern(1, 123_456));
    drop(stream);
    wait::until("the bytes in the metrics", SOON, || bridge.metrics().contains("123456"));
    let after = bridge.metrics();
    assert_ne!(before, after);
    let mut samples = 0;
    for line in after.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        assert!(line.starts_with("enclave_bridge_") || line.starts_with("process_"), "{line}");
        let value = line.split_whitespace().nth_back(0).unwrap();
        value.parse::<f64>().unwrap_or_else(|_| panic!("no number in {line}"));
        samples += 1;
    }
    assert!(samples > 5, "{after}");
    assert!(after.lines().any(|line| line.starts_with("# TYPE enclave_bridge_")));
    assert!(after.lines().any(|line| line.starts_with("# HELP enclave_bridge_")));
}

#[test]
fn silent_and_slow_readers_do_not_stop_monitoring() {
    let mut bridge = Bridge::builder().start();
    let silent: Vec<TcpStream> = (0..200).filter_map(|_| TcpStream::connect(bridge.monitor).ok()).collect();
    wait::until("health beside silent readers", SOON * 2, || {
        http::get(bridge.monitor, "/health/live").is_ok_and(|answer| answer.status == 200)
    });
    drop(silent);
    bridge.assert_serves();
}

#[test]
fn sighup_reads_the_log_level_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    std::fs::write(&path, "log_level = \"error\"\n").unwrap();
    let mut bridge = Bridge::builder().arguments(["--config".into(), path.clone().into_os_string()]).start();
    bridge.assert_serves();
    let quiet = bridge.stderr.text();
    assert!(quiet.is_empty(), "words below the level: {quiet}");

    std::fs::write(&path, "log_level = \"debug\"\n").unwrap();
    bridge.signal(Signal::SIGHUP);
    wait::until("words at the new level", SOON, || {
        bridge.assert_serves();
        !bridge.stderr.text().is_empty()
    });

    // A file that does not parse any more changes nothing and ends nothing.
    std::fs::write(&path, "log_level = \n").unwrap();
    bridge.signal(Signal::SIGHUP);
    let _complaint = bridge.stderr.wait_for_line("config.toml:1", SOON);
    bridge.assert_serves();
}
