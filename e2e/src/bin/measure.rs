//! Figures for the documents, taken from the real programs: `cargo xtask measure WHAT`.
//!
//! What is printed was measured on the machine that prints it. Nothing about speed is asserted, but `faults` and `sequence` fail
//! where something is lost, and `descriptors` where service is not back within the second that is promised.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a program of the tests: what does not hold is a failed measurement"
)]

#[path = "measure/descriptors.rs"]
mod descriptors;
#[path = "measure/log_queue.rs"]
mod log_queue;
#[path = "measure/recovery.rs"]
mod recovery;
#[path = "measure/stdout_blocked.rs"]
mod stdout_blocked;

use enclave_bridge_e2e::bridge::Bridge;
use enclave_bridge_e2e::enclave::SimpleEnclave;
use enclave_bridge_e2e::faults::Way;
use enclave_bridge_e2e::v1::{Enclave, Settings, handshake};
use enclave_bridge_e2e::wait::{self, SOON};
use enclave_bridge_e2e::{faults, ports, sequence, tunnels};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const CALM: Duration = Duration::from_secs(30);

/// What a sequence of connections may leave in resident memory after its first tenth: two mebibytes.
const GROWTH_KIB_MOST: u64 = 2048;

/// Bridges beside each other while streams are struck: most of the time is spent waiting.
const LANES: u64 = 8;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |default: usize| arguments.get(1).map_or(default, |number| number.parse().expect("a number"));
    match arguments.first().map(String::as_str) {
        Some("idle") => idle(number(10_000)),
        Some("ready") => ready(number(1000)),
        Some("restart") => restart(number(50)),
        Some("sigterm") => sigterm(number(20)),
        Some("faults") => return faulty(number(200) as u64),
        Some("sequence") => return sequence(number(1_000_000) as u64),
        Some("log-queue") => log_queue::run(number(5)),
        Some("descriptors") => return descriptors::run(number(60) as u64),
        Some("stdout-blocked") => stdout_blocked::run(number(60) as u64),
        _ => {
            println!(
                "usage: measure idle|ready|restart|sigterm|faults|sequence|descriptors|log-queue|stdout-blocked [NUMBER]"
            );
            return ExitCode::from(64);
        }
    }
    ExitCode::SUCCESS
}

/// As many connections as the descriptors allow: two each here, and two in the bridge, which inherits the limit.
fn within_the_descriptors(connections: usize) -> usize {
    const OTHERS: u64 = 1000;
    let wanted = connections as u64 * 2 + OTHERS;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit of descriptors");
    if setrlimit(Resource::RLIMIT_NOFILE, wanted.max(hard), wanted.max(hard)).is_ok() {
        return connections;
    }
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("a limit may be raised to the hard one");
    let fitting = usize::try_from(hard.saturating_sub(OTHERS) / 2).unwrap_or(usize::MAX);
    println!("{connections} connections do not fit under {hard} descriptors: {fitting} it is");
    fitting
}

/// Resident memory of the bridge per idle ingress connection.
fn idle(connections: usize) {
    let connections = within_the_descriptors(connections);
    let bridge = Bridge::builder().arguments(["--max-streams".to_owned(), (connections + 10).to_string()]).start();
    let port = ports::free();
    let held = Arc::new(Mutex::new(Vec::new()));
    let keep = held.clone();
    let settings = Settings::new(CALM).server(5001, port);
    let _enclave = Enclave::start_with(&bridge.meeting, &settings, |guest| {
        guest.hand_over(5001, move |wire| keep.lock().expect("no panic").push(wire));
    });
    // One connection first, so that what is made once is not counted.
    let first = tunnels::tcp(Bridge::tcp(port));
    wait::until("the first connection", SOON, || held.lock().expect("no panic").len() == 1);
    let tasks = || bridge.metric("enclave_bridge_tasks").expect("a metric of the bridge");
    let tasks_before = tasks();
    let (memory, descriptors) = (bridge.resident_kib(), bridge.descriptors());
    let start = Instant::now();
    let mut clients = Vec::with_capacity(connections);
    while clients.len() < connections {
        // No more than an enclave's backlog holds.
        let some = (connections - clients.len()).min(100);
        clients.extend((0..some).map(|_| tunnels::tcp(Bridge::tcp(port))));
        wait::until("every connection at the enclave", CALM, || {
            held.lock().expect("no panic").len() == clients.len() + 1
        });
    }
    let took = start.elapsed();
    let grown = bridge.resident_kib().saturating_sub(memory);
    println!("{connections} idle connections in {took:?}: {memory} KiB before, {grown} KiB more");
    println!("{:.2} KiB of resident memory per idle connection", grown as f64 / connections as f64);
    let busy = bridge.processor_time();
    std::thread::sleep(Duration::from_secs(10));
    println!("{:?} of processor time in 10 s of idleness", bridge.processor_time() - busy);
    drop(clients);
    let start = Instant::now();
    held.lock().expect("no panic").truncate(1);
    wait::until("the descriptors of before", CALM, || bridge.descriptors() <= descriptors);
    wait::until("the tasks of before", CALM, || tasks() <= tasks_before);
    println!("descriptors and tasks back after {:?}; {} KiB resident then", start.elapsed(), bridge.resident_kib());
    drop(first);
}

/// From the first byte of a handshake to its ACK.
fn ready(rounds: usize) {
    let bridge = Bridge::builder().start();
    let port = ports::free();
    let times = (0..rounds).map(|_| {
        let settings = Settings::new(CALM).server(5001, port).client(5002);
        let start = Instant::now();
        handshake(&bridge.meeting, &settings.json()).expect("a handshake");
        start.elapsed()
    });
    report("handshake, each replacing the session before", times.collect());
}

/// From the bridge's return to the first answer of the enclave that outlived it.
fn restart(rounds: usize) {
    let mut bridge = Bridge::builder().start();
    let mut enclave = SimpleEnclave::start(&bridge.meeting, &[]);
    let times = (0..rounds).map(|round| {
        bridge.kill();
        std::thread::sleep(Duration::from_millis(20 * (round as u64 % 50)));
        bridge = Bridge::builder().in_folder_of(&bridge).start();
        let start = Instant::now();
        enclave.wait_answers(CALM);
        start.elapsed()
    });
    report("bridge killed and started again, until the enclave answers", times.collect());
}

/// From SIGTERM to the end of a bridge that waits.
fn sigterm(rounds: usize) {
    let times = (0..rounds).map(|_| Bridge::builder().start().end_with(Signal::SIGTERM, CALM).1);
    report("SIGTERM to exit, waiting", times.collect());
}

/// Every kind of fault, so many streams each way, with the seed that `ENCLAVE_BRIDGE_E2E_SEED` says.
fn faulty(runs: u64) -> ExitCode {
    let seed = std::env::var("ENCLAVE_BRIDGE_E2E_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    println!("seed {seed}");
    println!("{:<18} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7}", "kind", "ingress", "egress", "whole", "cut", "own", "wrong");
    let mut wrong = Vec::new();
    let (mut streams, mut directions) = (0, 0);
    for kind in &faults::KINDS {
        let start = Instant::now();
        let tally = faults::run(kind, runs, LANES, seed);
        let [ingress, egress] = tally.runs;
        let faults::Tally { whole, cut, own, .. } = tally;
        let bad = tally.violations.len();
        println!(
            "{:<18} {ingress:>7} {egress:>7} {whole:>7} {cut:>7} {own:>7} {bad:>7}   {:.1?}",
            kind.name,
            start.elapsed()
        );
        streams += ingress + egress;
        directions += whole + cut + own;
        wrong.extend(tally.violations);
    }
    println!("{streams} streams, {directions} directions judged, {} wrong", wrong.len());
    for line in &wrong {
        println!("{line}");
    }
    if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Connections in sequence: the number itself in raw ingress streams, a fifth in raw egress ones, a tenth of each framed.
fn sequence(count: u64) -> ExitCode {
    let parts = [
        (Way::Ingress, false, count),
        (Way::Egress, false, count / 5),
        (Way::Ingress, true, count / 10),
        (Way::Egress, true, count / 10),
    ];
    let mut clean = true;
    for (way, framed, count) in parts {
        let warm = count / 10;
        let found = sequence::run(way, framed, count, warm);
        let form = if framed { "framed" } else { "raw" };
        let [first, after, last] = found.resident_kib;
        let rate = count as f64 / found.took.as_secs_f64();
        println!(
            "{count} connections, {way:?}, {form}: {:.0?}, {rate:.0} a second, {} streams ended",
            found.took, found.streams
        );
        println!("  resident: {first} KiB before, {after} KiB after {warm}, {last} KiB at the end");
        let sequence::Found { descriptors, sockets, tasks, .. } = found;
        println!("  before and after: descriptors {descriptors:?}, sockets {sockets:?}, tasks {tasks:?}");
        let grown = last.saturating_sub(after);
        let held = grown <= GROWTH_KIB_MOST && descriptors[1] <= descriptors[0] && tasks[1] <= tasks[0];
        println!("  {} KiB more between: {}", grown, if held { "held" } else { "NOT HELD" });
        clean &= held;
    }
    if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: usize| {
        times.get((times.len() * share / 100).min(times.len().saturating_sub(1))).copied().unwrap_or_default()
    };
    println!("{what}: {} times, median {:?}, 99 of 100 within {:?}, worst {:?}", times.len(), at(50), at(99), at(100));
}
