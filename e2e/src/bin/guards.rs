//! Guards against slow growth, by counts and not by clocks: `cargo xtask guards`, and a step of `cargo xtask ci`.
//!
//! The real daemon runs twice under a program that counts, once with little and once with much to do; the difference is what
//! the work costs, and the start and the end of the process are not in it. Every guard prints a line that begins with
//! `passed:`, `failed:` or `skipped:`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a program of the tests: what does not hold is a failed guard"
)]

use enclave_bridge_e2e::bridge::Bridge;
use enclave_bridge_e2e::v1::{Enclave, Settings, handshake};
use enclave_bridge_e2e::wait;
use enclave_bridge_e2e::{ports, tunnels};
use nix::sys::signal::Signal;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

/// No beat falls into a run.
const CALM: Duration = Duration::from_secs(300);

/// A daemon that is interpreted takes its time.
const LONG: Duration = Duration::from_secs(60);

/// System calls per forwarded message: a read, a write, and the wait for the next. The promise; measured 3.00.
const CALLS_PER_MESSAGE: f64 = 3.05;

/// In user space, by the build of the lab with Rust 1.95 and glibc. Measured 3,377; the bounds leave a tenth for other
/// compilers, C libraries and processors.
const INSTRUCTIONS_PER_MESSAGE: f64 = 3_750.0;

/// Measured 28,979; another 2,500 where its first bytes come after the connection and not with it, which is chance.
const INSTRUCTIONS_PER_CONNECTION: f64 = 35_000.0;

/// Measured 152,567. Some 4,000 of them for listeners that are with a poller of their own thread.
const INSTRUCTIONS_PER_HANDSHAKE: f64 = 168_000.0;

/// What is counted, and how often it is done in the longer run.
struct Guard {
    what: &'static str,
    counter: Counter,
    work: fn(&Stage, u32),
    /// How often in the shorter run: what happens once has happened then.
    few: u32,
    many: u32,
    most: f64,
}

const GUARDS: &[Guard] = &[
    Guard {
        what: "system calls per forwarded message",
        counter: Counter::Strace,
        work: |stage, times| stage.messages(times),
        few: 100,
        many: 2100,
        most: CALLS_PER_MESSAGE,
    },
    Guard {
        what: "instructions per forwarded message",
        counter: Counter::Callgrind,
        work: |stage, times| stage.messages(times),
        few: 200,
        many: 4200,
        most: INSTRUCTIONS_PER_MESSAGE,
    },
    Guard {
        what: "instructions per connection of one message",
        counter: Counter::Callgrind,
        work: |stage, times| stage.connections(times),
        few: 20,
        many: 420,
        most: INSTRUCTIONS_PER_CONNECTION,
    },
    Guard {
        what: "instructions per handshake that replaces a session",
        counter: Counter::Callgrind,
        work: |stage, times| stage.handshakes(times),
        few: 10,
        many: 210,
        most: INSTRUCTIONS_PER_HANDSHAKE,
    },
];

fn main() -> ExitCode {
    let mut result = ExitCode::SUCCESS;
    for guard in GUARDS {
        let what = guard.what;
        let program = match guard.counter.find() {
            Ok(program) => program,
            Err(reason) => {
                println!("skipped: {what}: {reason}");
                continue;
            }
        };
        let each = guard.counted(&program);
        if each > 0.0 && each <= guard.most {
            println!("passed: {what}: {each:.2}, at most {}", guard.most);
        } else {
            println!("failed: {what}: {each:.2}, at most {}", guard.most);
            result = ExitCode::FAILURE;
        }
    }
    result
}

impl Guard {
    /// What one more of it costs.
    fn counted(&self, program: &Path) -> f64 {
        let (few, many) = (self.run(program, self.few), self.run(program, self.many));
        many.saturating_sub(few) as f64 / f64::from(self.many - self.few)
    }

    fn run(&self, program: &Path, times: u32) -> u64 {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let counts = folder.path().join("counts");
        let mut bridge =
            Bridge::builder().arguments(["--log-level", "error"]).wrapped(self.counter.words(program, &counts));
        if self.counter == Counter::Callgrind {
            // One thread, so that none wakes another.
            bridge = bridge.variable("TOKIO_WORKER_THREADS", "1");
        }
        let mut bridge = bridge.start();
        let port = ports::free();
        let settings = Settings::new(CALM).server(5001, port).client(5002);
        let enclave = Enclave::echo(&bridge.meeting, &settings, 5001);
        let stage = Stage { bridge: &bridge, settings, port };
        (self.work)(&stage, times);
        bridge.end_with(Signal::SIGTERM, LONG);
        drop(enclave);
        self.counter.total(&counts)
    }
}

/// Where the work is done.
struct Stage<'a> {
    bridge: &'a Bridge,
    settings: Settings,
    port: u16,
}

impl Stage<'_> {
    /// Messages of 64 bytes on one connection, half of them each way.
    fn messages(&self, times: u32) {
        let mut stream = tunnels::tcp(Bridge::tcp(self.port));
        for _ in 0..times / 2 {
            there_and_back(&mut stream);
        }
        ended(stream);
    }

    /// Connections, each with one message there and back, one after the other.
    fn connections(&self, times: u32) {
        for _ in 0..times {
            let mut stream = tunnels::tcp(Bridge::tcp(self.port));
            there_and_back(&mut stream);
            ended(stream);
        }
    }

    /// Handshakes, each of which replaces the session before it.
    fn handshakes(&self, times: u32) {
        for _ in 0..times {
            handshake(&self.bridge.meeting, &self.settings.json()).expect("a handshake");
        }
    }
}

fn there_and_back(stream: &mut TcpStream) {
    let mut answer = [0; 64];
    stream.write_all(&[0x42; 64]).expect("a message goes out");
    stream.read_exact(&mut answer).expect("a message comes back");
    assert_eq!(answer, [0x42; 64]);
}

fn ended(mut stream: TcpStream) {
    stream.shutdown(Shutdown::Write).expect("an end goes out");
    assert_eq!(stream.read(&mut [0]).expect("an end comes back"), 0);
}

/// Who counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counter {
    Strace,
    /// Instructions in user space, interpreted by valgrind: the same number on a busy machine.
    Callgrind,
}

impl Counter {
    fn program(self) -> &'static str {
        match self {
            Counter::Strace => "strace",
            Counter::Callgrind => "valgrind",
        }
    }

    /// Where it is, once it has counted something: a container may forbid it to trace.
    fn find(self) -> Result<PathBuf, String> {
        let name = self.program();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|place| place.is_file());
        let found = found.ok_or_else(|| format!("no {name} (apt-get install {name})"))?;
        let words = self.words(&found, Path::new("/dev/null"));
        let mut tried = Command::new(&found);
        tried.args(words.iter().skip(1)).arg("true");
        match tried.output() {
            Ok(output) if output.status.success() => Ok(found),
            Ok(output) => Err(format!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim())),
            Err(error) => Err(format!("{name}: {error}")),
        }
    }

    /// What stands before the daemon's own words.
    fn words(self, program: &Path, counts: &Path) -> Vec<OsString> {
        let mut words = vec![program.as_os_str().to_owned()];
        let more: &[&str] = match self {
            // Beside the daemon, which so keeps the id that it is known by.
            Counter::Strace => &["-D", "-f", "-q", "-c", "-o"],
            Counter::Callgrind => &["--tool=callgrind", "--callgrind-out-file=/dev/null", "--log-file"],
        };
        words.extend(more.iter().map(OsString::from));
        match self {
            Counter::Strace => words.push(counts.into()),
            Counter::Callgrind => {
                if let Some(last) = words.last_mut() {
                    last.push("=");
                    last.push(counts);
                }
            }
        }
        words
    }

    /// Everything that was counted, once the daemon has ended: strace writes behind its end.
    fn total(self, counts: &Path) -> u64 {
        wait::until_some("what was counted", LONG, || self.total_in(&std::fs::read_to_string(counts).ok()?))
    }

    fn total_in(self, text: &str) -> Option<u64> {
        match self {
            Counter::Strace => {
                let line = text.lines().find(|line| line.trim_end().ends_with(" total"))?;
                line.split_whitespace().nth(3)?.parse().ok()
            }
            Counter::Callgrind => text.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok()),
        }
    }
}
