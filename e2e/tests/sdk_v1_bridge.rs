//! The project's SDK, in the example enclave, against a version-1 bridge that knows no NAK and no announcement.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::string_slice, reason = "tests")]

use enclave_bridge_e2e::bytes::{MIB, Pattern};
use enclave_bridge_e2e::enclave::SimpleEnclave;
use enclave_bridge_e2e::http;
use enclave_bridge_e2e::peers::Server;
use enclave_bridge_e2e::v1_bridge::{Egress, V1Bridge};
use enclave_bridge_e2e::wait::{self, SOON};
use enclave_bridge_e2e::wire::{Endpoint, Meeting};
use std::io::Read;
use std::time::Duration;
use tempfile::TempDir;

const ENVIRONMENT: &str = r#"{"GREETING":"from a bridge of version one","HOME":"/"}"#;

fn place() -> (TempDir, Meeting) {
    let folder = tempfile::Builder::new().prefix("eb-").tempdir().unwrap();
    let meeting = Meeting::new(Endpoint::under_test(), folder.path());
    (folder, meeting)
}

#[test]
fn g15_the_sdk_works_with_a_version_one_bridge() {
    let (_folder, meeting) = place();
    let bridge = V1Bridge::start(&meeting, ENVIRONMENT, Egress::AckAtOnce);
    let mut enclave = SimpleEnclave::start(&meeting, &[]);
    wait::until("the end of the handshake", SOON, || bridge.is_ready());

    assert_eq!(enclave.get("/env/GREETING").text().trim_end(), "from a bridge of version one");
    let (status, hash, _) = http::post_and_hash(enclave.address, "/echo", Pattern::new(1, 4 * MIB), 4 * MIB).unwrap();
    assert_eq!((status, hash), (200, Pattern::hash(1, 4 * MIB)));
    let server = Server::http(b"from afar".to_vec());
    assert_eq!(enclave.get(&format!("/fetch?target={}&path=/x", server.target())).text(), "from afar");
    // A silent close is all that this bridge says to a target it cannot reach.
    assert_eq!(enclave.get("/fetch?target=127.0.0.1:1&path=/x").status, 502);

    // Nothing is asked for that was not announced.
    let settings = bridge.settings().unwrap();
    let asked = settings.to_string();
    for extra in ["proxyProtocol", "serverNames", "bindAddress", "framed"] {
        assert!(!asked.contains(extra), "{asked}");
    }
    let id = settings["watchdog"]["enclaveId"].as_str().unwrap().replace('-', "");
    assert!(
        !(0..16).any(|place| &id[2 * place..2 * place + 2] == "0a"),
        "an id that a version-1 bridge breaks on: {id}"
    );
    wait::until("log lines", SOON, || !bridge.logged().is_empty());
    for line in bridge.logged().lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
    enclave.assert_alive();
    assert_eq!(bridge.complaint(), None);
}

#[test]
fn slow_w1_beats_go_both_ways_for_longer_than_an_interval() {
    let (_folder, meeting) = place();
    let bridge = V1Bridge::start(&meeting, ENVIRONMENT, Egress::AckAtOnce);
    let mut enclave = SimpleEnclave::start(&meeting, &[]);
    // The example's interval is 30 s and its beats come every 10: the first one is there well before half of it.
    wait::until("two beats", Duration::from_secs(25), || bridge.beats() >= 2);
    assert_eq!(bridge.complaint(), None);
    enclave.assert_alive();
    assert_eq!(enclave.get("/").status, 200);
}

#[test]
fn slow_t12_a_banner_in_the_write_of_the_ack_reaches_the_program_whole() {
    let (_folder, meeting) = place();
    let bridge = V1Bridge::start(&meeting, ENVIRONMENT, Egress::AckWithBanner);
    let enclave = SimpleEnclave::start(&meeting, &[]);
    let mut body = vec![0; 1500];
    Pattern::new(8, body.len() as u64).read_exact(&mut body).unwrap();
    // The answer is the banner: it stands behind the ACK before the request is written.
    let server = Server::http_that_speaks_first(body.clone());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let (enclave, server, body) = (&enclave, &server, &body);
            scope.spawn(move || {
                for run in 0..500 {
                    let fetched = enclave.get(&format!("/fetch?target={}&path=/", server.target()));
                    assert_eq!(fetched.status, 200, "run {run}: {}", fetched.text());
                    assert!(fetched.body == *body, "run {run}: {} of {} bytes", fetched.body.len(), body.len());
                }
            });
        }
    });
    assert_eq!(bridge.complaint(), None);
}

#[test]
fn d20_the_enclave_outlives_a_version_one_bridge() {
    let (_folder, meeting) = place();
    let first = V1Bridge::start(&meeting, ENVIRONMENT, Egress::AckAtOnce);
    let mut enclave = SimpleEnclave::start(&meeting, &[]);
    // Its beats' connection has to be there, or nothing tells the enclave that the bridge has gone.
    wait::until("a beat", Duration::from_secs(25), || first.beats() >= 1);
    drop(first);
    let _second = V1Bridge::start(&meeting, ENVIRONMENT, Egress::AckAtOnce);
    enclave.wait_answers(Duration::from_secs(20));
}
