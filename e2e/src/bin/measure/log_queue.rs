//! A queue of log lines that is filled and drained again and again: what it takes when it is full, and what is left of it.

use super::CALM;
use enclave_bridge_e2e::bridge::Bridge;
use enclave_bridge_e2e::process::Output;
use enclave_bridge_e2e::v1::LOG_PORT;
use enclave_bridge_e2e::wait;
use std::io::{PipeReader, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// What is sent to fill it: half as much again as it holds by default.
const SENT_BYTES: usize = 6 << 20;
/// Lines come on as many connections at once, so that every thread of the bridge brings some.
const CONNECTIONS: usize = 4;

/// `rounds` for lines of each length, their newline included, with a fresh bridge for each.
pub(crate) fn run(rounds: usize) {
    for length in [1, 60, 400, 40_000] {
        filled_and_drained(length, rounds);
    }
}

fn filled_and_drained(length: usize, rounds: usize) {
    let mut bridge = Bridge::builder().output(Output::Held).variable("ENCLAVE_BRIDGE_LOG_RATE", "1024MiB").start();
    let blocked = Arc::new(AtomicBool::new(true));
    let reading = read(bridge.take_held_pipe(), blocked.clone());
    let count = |name: &str| bridge.metric(&format!("enclave_bridge_log_lines_{name}_total")).expect("a metric");
    let lines = SENT_BYTES / length / CONNECTIONS;
    let some = [vec![b'l'; length - 1], vec![b'\n']].concat().repeat(lines);
    let mut sent = 0.0;
    print!("lines of {length} bytes, KiB full/drained: before {}", bridge.resident_kib());
    for _ in 0..rounds {
        std::thread::scope(|scope| {
            for _ in 0..CONNECTIONS {
                scope.spawn(|| {
                    let mut log = bridge.meeting.dial_host(LOG_PORT).expect("the log port");
                    log.write_all(&some).expect("the log port takes lines");
                });
            }
        });
        sent += (lines * CONNECTIONS) as f64;
        wait::until("every line", CALM, || count("received") >= sent);
        // Those that wait for a place do so for a second.
        std::thread::sleep(Duration::from_millis(1500));
        let full = bridge.resident_kib();
        blocked.store(false, Ordering::SeqCst);
        wait::until("every line to be accounted for", CALM, || count("printed") + count("dropped") >= sent);
        std::thread::sleep(Duration::from_millis(200));
        print!(", {full}/{}", bridge.resident_kib());
        blocked.store(true, Ordering::SeqCst);
    }
    let (printed, dropped) = (count("printed"), count("dropped"));
    println!("; printed + dropped - sent = {}, {dropped} dropped", printed + dropped - sent);
    blocked.store(false, Ordering::SeqCst);
    bridge.kill();
    reading.join().expect("no panic");
}

/// Reads while it may, to the end of the bridge.
fn read(mut pipe: PipeReader, blocked: Arc<AtomicBool>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut scratch = vec![0; 64 * 1024];
        loop {
            while blocked.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(1));
            }
            if matches!(pipe.read(&mut scratch), Ok(0) | Err(_)) {
                return;
            }
        }
    })
}
