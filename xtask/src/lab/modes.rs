//! The three modes: what is packed, what is booted, what runs where.

use super::arguments::Mode;
use super::build::Programs;
use crate::run::cargo;
use crate::tally::Tally;
use enclave_bridge_lab::guest::{MEMORY_MIB, MEMORY_OF_MANY_CONNECTIONS_MIB, Sink};
use enclave_bridge_lab::{Boot, Device, Initramfs, Kernel, LabError, device, told};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A whole suite in one guest, translated on a loaded machine.
const LOOPBACK_LIMIT: Duration = Duration::from_secs(20 * 60);

/// One measurement in a guest.
const MEASURE_LIMIT: Duration = Duration::from_secs(10 * 60);

/// The end-to-end suites in which the socket matters most; the others try the daemon, and take longer in a guest.
const QUICK: &[&str] = &["ready", "refusals", "requests", "restart", "streams", "v1_session"];

/// Four tests, each of which boots a guest or two, one of them twenty.
const HYBRID_LIMIT: Duration = Duration::from_secs(20 * 60);

/// One test between two guests.
const PAIR_LIMIT: Duration = Duration::from_secs(4 * 60);

/// Rounds of the bench in a guest where no number is given: a round is some twenty seconds of a translated processor.
const BENCH_ROUNDS: &str = "7";

/// All rounds of the bench in a guest.
const BENCH_LIMIT: Duration = Duration::from_secs(60 * 60);

/// Descriptors of each process in a guest that measures: twice 10,000 connections, and as many again.
const MEASURE_DESCRIPTORS: u32 = 40_000;

/// What the suite in the parent says once the enclave may speak.
const BRIDGE_IS_UP: &str = "lab: the bridge is up";

/// Nitro's.
const PARENT_CID: u32 = 3;

/// The first that Nitro gives out.
const ENCLAVE_CID: u32 = 16;

/// Streams of hundreds of mebibytes, hundreds of processes: what a translated processor does not do in a sensible time.
const TOO_MUCH_FOR_A_GUEST: &[&str] = &["slow_", "gibibyte", "thousand"];

/// What every guest with the project's programs in it is told.
const PROGRAMS: &str = "export ENCLAVE_BRIDGE_BIN=/bin/enclave-bridge SIMPLE_ENCLAVE_BIN=/bin/simple-enclave\n\
     export ENCLAVE_BRIDGE_E2E_ENDPOINT=vsock RUST_TEST_THREADS=1\n";

/// One run of the lab.
pub(crate) struct Lab<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) kernel: &'a Kernel,
    pub(crate) programs: &'a Programs,
    pub(crate) tests: &'a [String],
    pub(crate) quick: bool,
    pub(crate) stop: &'a AtomicBool,
}

/// What a mode's suites said.
pub(crate) struct Outcome {
    pub(crate) status: u8,
    pub(crate) tally: Tally,
    pub(crate) output: String,
}

impl Lab<'_> {
    pub(crate) fn run(&self, mode: Mode) -> Result<Outcome, LabError> {
        match mode {
            Mode::Loopback => self.loopback(),
            Mode::Hybrid => self.hybrid(),
            Mode::Pair => self.pair(),
        }
    }

    /// The socket suite and the end-to-end suites, one after the other, in one guest.
    fn loopback(&self) -> Result<Outcome, LabError> {
        let sockets = self.programs.suite("sockets").map_err(other)?;
        let wanted = |suite: &&PathBuf| {
            !self.quick || QUICK.iter().any(|name| suite.file_name().is_some_and(|file| file == *name))
        };
        let e2e = self.programs.e2e.iter().filter(wanted);
        let suites: Vec<&PathBuf> = std::iter::once(sockets).chain(&self.programs.net).chain(e2e).collect();
        let packed: Vec<PathBuf> = self.programs.products.iter().chain(suites.iter().copied()).cloned().collect();
        let mut command = format!("{PROGRAMS}result=0\n");
        for suite in suites {
            let name = suite.file_name().unwrap_or_default().to_string_lossy();
            let own = if suite == sockets { " --ignored --nocapture" } else { "" };
            let skips: String = TOO_MUCH_FOR_A_GUEST.iter().map(|name| format!(" --skip {name}")).collect();
            let tests: String = self.tests.iter().map(|test| format!(" {test}")).collect();
            command.push_str(&format!("echo \"== {name} at $(cut -d' ' -f1 /proc/uptime) s\"\n"));
            command.push_str(&format!("{name}{own}{skips}{tests} || result=1\n"));
        }
        command.push_str("exit $result\n");
        self.one_guest("loopback", &packed, &command, MEMORY_MIB, LOOPBACK_LIMIT)
    }

    /// A measurement of `cargo xtask measure` as it runs elsewhere, in a guest whose limit of descriptors is its own. Over Unix
    /// sockets: the kernel looks for a vsock connection in a list of all that go to its port, and 10,000 of them stall a
    /// translated processor.
    pub(crate) fn measure(&self, words: &[String]) -> Result<Outcome, LabError> {
        if let Some(("bench", rest)) = words.split_first().map(|(what, rest)| (what.as_str(), rest)) {
            return self.bench(rest.first().map_or(BENCH_ROUNDS, String::as_str));
        }
        let measure = self.programs.measure.clone().ok_or_else(|| other("no program measure in e2e".to_owned()))?;
        let packed: Vec<PathBuf> = self.programs.products.iter().cloned().chain([measure]).collect();
        let command = format!(
            "{PROGRAMS}export ENCLAVE_BRIDGE_E2E_ENDPOINT=hybrid\nulimit -n {MEASURE_DESCRIPTORS}\nexec measure {}\n",
            words.join(" ")
        );
        self.one_guest("measure", &packed, &command, MEMORY_OF_MANY_CONNECTIONS_MIB, MEASURE_LIMIT)
    }

    /// `bench-bridge vsock` in a guest: its table, and its rows in a file for `cargo bench-bridge report`.
    fn bench(&self, rounds: &str) -> Result<Outcome, LabError> {
        let bench = self.programs.bench.clone().ok_or_else(|| other("no program bench-bridge in bench".to_owned()))?;
        let packed: Vec<PathBuf> = self.programs.products.iter().cloned().chain([bench]).collect();
        let command =
            format!("ulimit -n {MEASURE_DESCRIPTORS}\nexec bench-bridge vsock --rounds {rounds} --seconds 1\n");
        let outcome = self.one_guest("bench", &packed, &command, MEMORY_MIB, BENCH_LIMIT)?;
        let file = self.folder.join(format!("bench-{}.log", self.kernel.series));
        std::fs::write(&file, &outcome.output).map_err(LabError::file(&file))?;
        println!("wrote {0}: cargo bench-bridge report {0} [--write-spec --note TEXT]", file.display());
        Ok(outcome)
    }

    fn one_guest(
        &self,
        name: &str,
        packed: &[PathBuf],
        command: &str,
        memory_mib: u32,
        limit: Duration,
    ) -> Result<Outcome, LabError> {
        let work = self.work()?;
        let initramfs = Initramfs::build(self.kernel, packed, work.path().join(format!("{name}.base")))?;
        let (sink, kept) = shown();
        let boot = Boot {
            name,
            kernel: self.kernel,
            initramfs: &initramfs,
            command,
            memory_mib,
            device: None,
            limit,
            folder: work.path(),
        };
        let ended = boot.run(&sink, self.stop)?;
        let output = kept.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(Outcome { status: ended.status, tally: Tally::of(&output), output })
    }

    /// The suites run on this machine and boot guests themselves.
    fn hybrid(&self) -> Result<Outcome, LabError> {
        let device = device_program(self.folder)?;
        let mut all = Outcome { status: 0, tally: Tally::default(), output: String::new() };
        for suite in ["hybrid", "hybrid_ends"] {
            let outcome = self.hybrid_suite(suite, &device)?;
            all.status = all.status.max(outcome.status);
            all.tally = all.tally.and(outcome.tally);
            all.output.push_str(&outcome.output);
        }
        Ok(all)
    }

    fn hybrid_suite(&self, suite: &str, device: &Path) -> Result<Outcome, LabError> {
        let work = self.work()?;
        let initramfs = Initramfs::build(self.kernel, &self.programs.products, work.path().join("hybrid.base"))?;
        let suite = self.programs.suite(suite).map_err(other)?;
        let mut command = Command::new(suite);
        command.args(["--ignored", "--nocapture", "--test-threads", "1"]).args(self.tests);
        if self.quick {
            command.args(["--skip", "slow_"]);
        }
        command.env("ENCLAVE_BRIDGE_BIN", self.programs.folder.join("enclave-bridge"));
        command.env("SIMPLE_ENCLAVE_BIN", self.programs.folder.join("simple-enclave"));
        command.env(told::KERNEL, self.kernel.folder()).env(told::INITRAMFS, initramfs.path());
        command.env(told::DEVICE, device);
        // Whatever it leaves when it is ended in the middle goes with this folder.
        command.env("TMPDIR", work.path());
        self.suite_on_this_machine(command)
    }

    /// Runs a suite in a process group of its own, which goes with everything in it when the lab is told to stop.
    fn suite_on_this_machine(&self, mut command: Command) -> Result<Outcome, LabError> {
        let failed = |error: std::io::Error| other(format!("the suite on this machine: {error}"));
        let (reader, writer) = std::io::pipe().map_err(failed)?;
        command.stdin(Stdio::null()).stdout(writer.try_clone().map_err(failed)?).stderr(writer).process_group(0);
        let mut suite = command.spawn().map_err(failed)?;
        drop(command);
        let (sink, kept) = shown();
        let reading = std::thread::spawn(move || {
            BufReader::new(reader)
                .split(b'\n')
                .map_while(Result::ok)
                .for_each(|line| sink(&String::from_utf8_lossy(&line)));
        });
        let deadline = Instant::now() + HYBRID_LIMIT;
        let status = loop {
            if let Some(status) = suite.try_wait().map_err(failed)? {
                break Ok(status);
            }
            if self.stop.load(Ordering::SeqCst) {
                break Err(LabError::Interrupted);
            }
            if Instant::now() > deadline {
                break Err(other(format!("the suite on this machine: stopped after {} s", HYBRID_LIMIT.as_secs())));
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        // The group outlives its first process where a suite has failed in the middle.
        end_group(suite.id());
        suite.wait().map_err(failed)?;
        if reading.join().is_err() {
            return Err(other("reading the suite's output".to_owned()));
        }
        let status = status?;
        let output = kept.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let status = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX);
        Ok(Outcome { status, tally: Tally::of(&output), output })
    }

    /// Two guests at one device, which is stalled by a packet for a guest that is not there yet: both are up, and the
    /// bridge has bound its ports, before the enclave speaks.
    fn pair(&self) -> Result<Outcome, LabError> {
        let program = device_program(self.folder)?;
        let work = self.work()?;
        let port = |name: &str, cid| device::Port {
            cid,
            socket: work.path().join(format!("{name}.vhost")),
            uds_path: work.path().join(format!("{name}.uds")),
        };
        let (parent, enclave) = (port("parent", PARENT_CID), port("enclave", ENCLAVE_CID));
        let suite = self.programs.suite("pair").map_err(other)?.clone();
        let packed: Vec<PathBuf> = self.programs.products.iter().cloned().chain([suite]).collect();
        let initramfs = Initramfs::build(self.kernel, &packed, work.path().join("pair.base"))?;
        let _device = Device::start(&program, vec![parent.clone(), enclave.clone()], &work.path().join("device.log"))?;
        let boot = |name, command, device| Boot {
            name,
            kernel: self.kernel,
            initramfs: &initramfs,
            command,
            memory_mib: MEMORY_MIB,
            device: Some(device),
            limit: PAIR_LIMIT,
            folder: work.path(),
        };
        let prefixed: Sink = Arc::new(|line| println!("[enclave] {line}"));
        let command = format!(
            "export ENCLAVE_BRIDGE_HOST_CID={PARENT_CID}\nread go </dev/ttyS1\nexec simple-enclave --interval 5\n"
        );
        let guest = boot("enclave", &command, &enclave.socket).start_and_begin(&prefixed, self.stop)?;
        let guest = Mutex::new(guest);
        let tests: String = self.tests.iter().map(|test| format!(" {test}")).collect();
        let command = format!(
            "export ENCLAVE_BRIDGE_BIN=/bin/enclave-bridge SIMPLE_ENCLAVE_BIN=/bin/simple-enclave RUST_TEST_THREADS=1\n\
             exec pair --ignored --nocapture{tests}\n"
        );
        let (shown, kept) = shown();
        let (up, is_up) = std::sync::mpsc::sync_channel(1);
        let sink: Sink = Arc::new(move |line| {
            shown(line);
            if line.contains(BRIDGE_IS_UP) {
                // Said more than once: the first counts, and nobody waits for the others.
                let _first = up.try_send(());
            }
        });
        let ended = std::thread::scope(|scope| {
            let guest = &guest;
            scope.spawn(move || {
                if is_up.recv().is_ok()
                    && let Err(error) = guest.lock().unwrap_or_else(PoisonError::into_inner).say("go")
                {
                    eprintln!("lab: {error}");
                }
            });
            let ended = boot("parent", &command, &parent.socket).run(&sink, self.stop);
            // Its other end is in it: without it the waiting ends.
            drop(sink);
            ended
        })?;
        let output = kept.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(Outcome { status: ended.status, tally: Tally::of(&output), output })
    }

    /// A folder for one mode's files, gone with it.
    fn work(&self) -> Result<tempfile::TempDir, LabError> {
        tempfile::Builder::new().prefix("eb-lab-").tempdir().map_err(LabError::file(std::env::temp_dir()))
    }
}

/// Ends what is left of a process group that was started here.
fn end_group(leader: u32) {
    // Nothing is left of most groups, and then there is nothing to end.
    let group = Pid::from_raw(leader.cast_signed());
    if let Err(error) = killpg(group, Signal::SIGKILL)
        && error != nix::errno::Errno::ESRCH
    {
        eprintln!("lab: process group {leader}: {error}");
    }
}

/// Shows every line and keeps it.
fn shown() -> (Sink, Arc<Mutex<String>>) {
    let kept = Arc::new(Mutex::new(String::new()));
    let into = Arc::clone(&kept);
    let sink: Sink = Arc::new(move |line| {
        println!("{line}");
        let mut kept = into.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_str(line);
        kept.push('\n');
    });
    (sink, kept)
}

fn other(reason: String) -> LabError {
    LabError::Command { command: "lab".to_owned(), reason }
}

/// The device for guests that are reached from outside, built from its crate once.
pub(super) fn device_program(folder: &Path) -> Result<PathBuf, LabError> {
    let root = folder.join(format!("vhost-device-vsock-{}", device::VERSION));
    let program = root.join("bin/vhost-device-vsock");
    if program.is_file() {
        return Ok(program);
    }
    let line = cargo(["install", "--locked", "--quiet", "--version", device::VERSION, "--root"]);
    let line = line
        .args([root.as_os_str(), "vhost-device-vsock".as_ref()])
        .variable("CARGO_TARGET_DIR", folder.join("device-build"));
    line.run().map_err(|error| LabError::Missing { what: "vhost-device-vsock".to_owned(), remedy: error })?;
    Ok(program)
}
