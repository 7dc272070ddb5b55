//! Runs in the parent guest (CID 3) beside an enclave guest (CID 16), as on a Nitro host: the bridge here, the example
//! enclave there, and two kernels between them.
//!
//! The device that carries their packets does not split them between two guests of its own, so messages stay small.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test program: a panic is how it fails"
)]

use enclave_bridge_e2e::bridge::{Bridge, programs};
use enclave_bridge_e2e::bytes::Pattern;
use enclave_bridge_e2e::peers::Server;
use enclave_bridge_e2e::process::{Output, Process};
use enclave_bridge_e2e::{http, wait};
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

/// As the enclave guest was told.
const TCP_PORT: u16 = 8080;
const MONITOR: u16 = 8888;
const ENCLAVE_CID: u32 = 16;

/// Two translated guests on one machine, and pauses between the enclave's attempts.
const PATIENCE: Duration = Duration::from_secs(60);

fn start(allow_cid: u32) -> Process {
    #[expect(clippy::disallowed_methods, reason = "set by a guest's init for the tests")]
    let told = std::env::var_os("ENCLAVE_BRIDGE_LAB");
    assert!(told.is_some_and(|value| value == "1"), "AF_VSOCK is opened in a guest only: cargo xtask lab");
    let mut command = Command::new(&programs().bridge);
    command.arg("run").args(["--egress-allow", "127.0.0.0/8", "--allow-cid", &allow_cid.to_string()]);
    command.args(["--monitor", &monitor().to_string()]);
    command.env_clear().env("GREETING", "from the parent");
    let bridge = Process::start(command, "enclave-bridge", Output::Kept);
    wait::until("the bridge's monitoring", wait::SOON, || {
        http::get(monitor(), "/health/live").is_ok_and(|answer| answer.status == 200)
    });
    println!("lab: the bridge is up");
    bridge
}

fn monitor() -> SocketAddr {
    Bridge::tcp(MONITOR)
}

fn address() -> SocketAddr {
    Bridge::tcp(TCP_PORT)
}

#[test]
#[ignore = "runs in a guest beside an enclave's: cargo xtask lab --mode pair"]
fn pair_a_stranger_is_refused_and_the_allowed_cid_is_served() {
    // The enclave has been asking since it booted; here it is not the one that may.
    let mut bridge = start(ENCLAVE_CID + 1);
    let words = wait::until_some("the refusal of the enclave's CID", PATIENCE, || {
        bridge.assert_alive();
        bridge.stderr.text().lines().find(|line| line.contains("CID 16")).map(str::to_owned)
    });
    println!("a stranger: {words}");
    assert_ne!(http::get(monitor(), "/health/ready").unwrap().status, 200);
    bridge.kill();

    let mut bridge = start(ENCLAVE_CID);
    wait::until("the greeting of the enclave in the other guest", PATIENCE, || {
        bridge.assert_alive();
        http::get(address(), "/").is_ok_and(|answer| answer.status == 200)
    });
    let variable = http::get(address(), "/env/GREETING").unwrap();
    assert_eq!((variable.status, variable.text().trim_end()), (200, "from the parent"));
    // Small messages, many of them, both ways.
    for seed in 0..50 {
        let (status, hash, _) = http::post_and_hash(address(), "/echo", Pattern::new(seed, 2000), 2000).unwrap();
        assert_eq!((status, hash), (200, Pattern::hash(seed, 2000)));
    }
    let server = Server::http(b"from afar".to_vec());
    let fetched = http::get(address(), &format!("/fetch?target={}&path=/", server.target())).unwrap();
    assert_eq!((fetched.status, fetched.text().as_str()), (200, "from afar"));
    let denied = http::get(address(), "/fetch?target=169.254.169.254:80&path=/").unwrap();
    assert!(denied.text().contains("DENIED"), "{}", denied.text());
    let line = bridge.stdout.wait_for_line("{", wait::SOON);
    assert!(line.starts_with('{'), "{line}");
    // The bridge goes, the enclave stays.
    bridge.kill();
    let mut bridge = start(ENCLAVE_CID);
    wait::until("the greeting after the bridge's return", PATIENCE, || {
        bridge.assert_alive();
        http::get(address(), "/").is_ok_and(|answer| answer.status == 200)
    });
}
