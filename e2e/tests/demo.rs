//! `cargo demo` as its user has it: the page, the death of the enclave, Ctrl-C.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use enclave_bridge_e2e::bridge::{Bridge, programs};
use enclave_bridge_e2e::process::{Output, Process};
use enclave_bridge_e2e::wait;
use enclave_bridge_e2e::{http, ports};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// It may have to build both programs first.
const BUILT: Duration = Duration::from_secs(300);

#[test]
fn the_demo_greets_survives_its_enclave_and_leaves_nothing_behind() {
    // The two programs are there already; the demo finds them fresh.
    let _programs = programs();
    let (port, monitor_port) = (ports::free(), ports::free());
    let temporary = tempfile::Builder::new().prefix("ed-").tempdir().unwrap();
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap());
    command.args(["run", "--quiet", "--package", "enclave-bridge-demo", "--"]);
    command.args(["--port", &port.to_string(), "--monitor-port", &monitor_port.to_string()]);
    command.env("TMPDIR", temporary.path());
    let mut demo = Process::start(command, "cargo demo", Output::Kept);
    let address = Bridge::tcp(port);
    let greets = || http::get(address, "/").is_ok_and(|answer| answer.text().trim_end() == "Hello from the enclave!");
    wait::until("the greeting", BUILT, || {
        demo.assert_alive();
        greets()
    });
    let ready = http::get(Bridge::tcp(monitor_port), "/health/ready").unwrap();
    assert_eq!(ready.status, 200);
    let denied = http::get(address, "/fetch?target=169.254.169.254:80&path=/").unwrap();
    assert_eq!(denied.status, 502);
    assert!(denied.text().contains("DENIED"), "{}", denied.text());

    // The id that the demo prints is the enclave's: its death is seen, and two seconds later it is back.
    let (output, errors) = (demo.stdout.clone(), demo.stderr.clone());
    let said = || format!("{}{}", output.text(), errors.text());
    let enclave = wait::until_some("the enclave's process id", wait::SOON, || process_id(&said(), "simple-enclave"));
    signal::kill(Pid::from_raw(enclave), Signal::SIGKILL).unwrap();
    wait::until("the enclave's absence", wait::SOON, || !greets());
    wait::until("its return", wait::SOON * 3, greets);

    let bridge = process_id(&said(), "enclave-bridge").expect("the bridge's process id");
    let second = process_id(&said(), "simple-enclave").expect("the second enclave's process id");
    assert_ne!(enclave, second);
    // `cargo run` becomes the program, so the signal reaches the demo itself.
    demo.signal(Signal::SIGINT);
    let status = demo.wait(wait::SOON * 3);
    assert_eq!(status.code(), Some(0), "{}", said());
    for process in [bridge, second] {
        wait::until("no process left", wait::SOON, || name_of(process).is_none());
    }
    let left: Vec<_> = std::fs::read_dir(temporary.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "left lying about: {left:?}");
}

/// The last id said that belongs to a running process of that name.
fn process_id(text: &str, name: &str) -> Option<i32> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse::<i32>().ok());
    numbers.rfind(|id| *id > 1 && name_of(*id).as_deref() == Some(name))
}

fn name_of(process: i32) -> Option<String> {
    // A name is cut at 15 bytes by the kernel; both of ours are shorter.
    let status = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let name = status.split_once('(')?.1.rsplit_once(')')?.0.to_owned();
    let state = status.rsplit_once(')')?.1.trim_start().chars().next()?;
    (state != 'Z').then_some(name)
}
