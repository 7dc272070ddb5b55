//! A standard output that nobody reads for a while, under load: what tunnels lose, and whether the count of lines is exact.

use super::CALM;
use enclave_bridge_e2e::bridge::Bridge;
use enclave_bridge_e2e::process::Output;
use enclave_bridge_e2e::steady::Steady;
use enclave_bridge_e2e::v1::{Enclave, LOG_PORT, Settings};
use enclave_bridge_e2e::{ports, wait};
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const STREAMS: usize = 8;
/// Of each stream, each way.
const BYTES_PER_SECOND: usize = 4 << 20;
/// One enclave's log while it is measured: 10,000 lines of 200 bytes a second.
const LINES_A_BEAT: usize = 100;
const BEAT: Duration = Duration::from_millis(10);
const LINE_BYTES: usize = 200;

/// `seconds` with a standard output that is read, `seconds` with one that is not, and the count afterwards.
pub(crate) fn run(seconds: u64) {
    let window = Duration::from_secs(seconds);
    let mut bridge = Bridge::builder().output(Output::Held).start();
    let mut pipe = bridge.take_held_pipe();
    let port = ports::free();
    let _enclave = Enclave::echo(&bridge.meeting, &Settings::new(CALM).server(5001, port), 5001);
    let streams = Steady::start(Bridge::tcp(port), STREAMS, BYTES_PER_SECOND);

    let (blocked, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (is_blocked, counted) = (blocked.clone(), seen.clone());
    // Ends with the pipe's writing end: when the bridge does.
    let reading = std::thread::spawn(move || {
        let mut scratch = vec![0; 64 * 1024];
        loop {
            while is_blocked.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(1));
            }
            match pipe.read(&mut scratch) {
                Ok(0) | Err(_) => return,
                Ok(n) => {
                    let lines = scratch.iter().take(n).filter(|byte| **byte == b'\n').count();
                    counted.fetch_add(lines as u64, Ordering::SeqCst);
                }
            }
        }
    });

    let stop = Arc::new(AtomicBool::new(false));
    let mut log = bridge.meeting.dial_host(LOG_PORT).expect("the log port");
    let stopped = stop.clone();
    let logging = std::thread::spawn(move || {
        let some = [vec![b'l'; LINE_BYTES - 1], vec![b'\n']].concat().repeat(LINES_A_BEAT);
        let (mut sent, mut longest, mut due) = (0_u64, Duration::ZERO, Instant::now());
        while !stopped.load(Ordering::SeqCst) {
            let start = Instant::now();
            log.write_all(&some).expect("the log port takes lines");
            longest = longest.max(start.elapsed());
            sent += LINES_A_BEAT as u64;
            due += BEAT;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        (sent, longest)
    });

    std::thread::sleep(Duration::from_secs(2));
    let calm = streams.rate_over(window);
    blocked.store(true, Ordering::SeqCst);
    let stalled = streams.rate_over(window);
    blocked.store(false, Ordering::SeqCst);
    stop.store(true, Ordering::SeqCst);
    let (sent, longest) = logging.join().expect("no panic");
    let metric = |name: &str| bridge.metric(name).expect("a metric of the bridge");
    let (printed, dropped) = ("enclave_bridge_log_lines_printed_total", "enclave_bridge_log_lines_dropped_total");
    wait::until("every line to be accounted for", CALM, || metric(printed) + metric(dropped) >= sent as f64);
    let (printed, dropped) = (metric(printed), metric(dropped));
    let (broken, resident) = (streams.broken(), bridge.resident_kib());
    drop(streams);
    bridge.kill();
    reading.join().expect("no panic");

    let mib = |rate: u64| rate as f64 / f64::from(1 << 20);
    println!("standard output read: tunnels {:.2} MiB/s", mib(calm));
    println!(
        "blocked for {window:?}: tunnels {:.2} MiB/s, {:.1} %; {broken} directions broke; {resident} KiB resident",
        mib(stalled),
        stalled as f64 / calm as f64 * 100.0
    );
    println!(
        "lines sent {sent}, printed {printed}, dropped {dropped}, seen by the reader {}",
        seen.load(Ordering::SeqCst)
    );
    println!("printed + dropped - sent = {}", printed + dropped - sent as f64);
    println!("the enclave's longest write of {LINES_A_BEAT} lines: {longest:?}");
}
