//! The bridge dies under a running enclave: the enclave's process lives on and serves again when the bridge is back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use enclave_bridge_e2e::bridge::Bridge;
use enclave_bridge_e2e::enclave::SimpleEnclave;
use enclave_bridge_e2e::http;
use enclave_bridge_e2e::wait;
use std::time::{Duration, Instant};

/// The promise is two seconds, measured and noted; this bound only tells "again" from "never".
const BACK: Duration = Duration::from_secs(10);

#[test]
fn slow_h13_w10_killed_fifty_times_and_served_again_each_time() {
    let mut bridge = Bridge::builder().start();
    let mut enclave = SimpleEnclave::start(&bridge.meeting, &[]);
    let mut worst = Duration::ZERO;
    for round in 0..50 {
        bridge.kill();
        // Some absences are short, some let the enclave's pauses between attempts grow.
        std::thread::sleep(Duration::from_millis(20 * (round % 25)));
        bridge = Bridge::builder().in_folder_of(&bridge).start();
        let returned = Instant::now();
        enclave.wait_answers(BACK);
        worst = worst.max(returned.elapsed());
    }
    println!("served again after at most {worst:?}, 50 of 50 times");
    enclave.assert_alive();
}

#[test]
fn w10_a_bridge_that_was_away_for_long_finds_its_enclave_again() {
    let mut bridge = Bridge::builder().start();
    let mut enclave = SimpleEnclave::start(&bridge.meeting, &[]);
    bridge.kill();
    // Longer than the longest pause between two attempts of the enclave.
    std::thread::sleep(Duration::from_secs(8));
    enclave.assert_alive();
    let _bridge = Bridge::builder().in_folder_of(&bridge).start();
    let returned = Instant::now();
    enclave.wait_answers(BACK);
    println!("served again {:?} after eight seconds without a bridge", returned.elapsed());
}

#[test]
#[ignore = "five minutes: cargo nextest run -p enclave-bridge-e2e --test restart --run-ignored only w10_ --no-capture"]
fn slow_w10_five_minutes_without_a_bridge() {
    let mut bridge = Bridge::builder().start();
    let mut enclave = SimpleEnclave::start(&bridge.meeting, &[]);
    let pid = enclave.pid();
    bridge.kill();
    let busy = enclave.processor_time();
    std::thread::sleep(Duration::from_secs(300));
    enclave.assert_alive();
    let busy = enclave.processor_time() - busy;
    let _bridge = Bridge::builder().in_folder_of(&bridge).start();
    let returned = Instant::now();
    enclave.wait_answers(BACK);
    println!("served again {:?} after five minutes without a bridge, in which it used {busy:?}", returned.elapsed());
    assert_eq!(enclave.pid(), pid);
    assert!(busy < Duration::from_secs(15), "{busy:?} of processor time without a bridge");
}

#[test]
fn an_orderly_restart_of_the_bridge_is_followed() {
    let mut bridge = Bridge::builder().start();
    let mut enclave = SimpleEnclave::start(&bridge.meeting, &[]);
    for _ in 0..3 {
        let (code, _) = bridge.end_with(nix::sys::signal::Signal::SIGTERM, Duration::from_secs(40));
        assert_eq!(code, Some(0));
        bridge = Bridge::builder().in_folder_of(&bridge).start();
        enclave.wait_answers(BACK);
    }
}

#[test]
fn an_enclave_that_was_there_first_finds_its_bridge() {
    let bridge = Bridge::builder().start();
    let mut stopped = bridge;
    stopped.kill();
    let mut enclave = SimpleEnclave::launch(&stopped.meeting, &[]);
    std::thread::sleep(Duration::from_millis(500));
    enclave.assert_alive();
    let bridge = Bridge::builder().in_folder_of(&stopped).start();
    enclave.wait_answers(BACK);
    assert_eq!(bridge.ready_status(), 200);
}

#[test]
fn an_enclave_ends_orderly_on_sigterm_and_its_successor_is_served() {
    let bridge = Bridge::builder().start();
    for _ in 0..3 {
        let mut enclave = SimpleEnclave::start(&bridge.meeting, &[]);
        let address = enclave.address;
        let (code, _) = enclave.end_with(nix::sys::signal::Signal::SIGTERM, wait::SOON);
        assert_eq!(code, Some(0), "{}", enclave.stderr.text());
        assert!(http::get(address, "/").is_err(), "an enclave that has ended answers");
    }
}
