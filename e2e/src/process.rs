//! A program under test: started, listened to, signalled by its id, looked at through `/proc`, and gone when dropped.

use crate::wait;
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use std::io::{PipeReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What is kept of one output. More is read and counted, not kept: no test looks further.
const KEPT_BYTES: usize = 64 * 1024 * 1024;

/// How long the last words of a program that has ended are waited for.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// Where a program's standard output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Read and kept.
    Kept,
    /// Into a pipe that nobody reads until [`Process::take_held_stdout`].
    Held,
    /// Into a pipe whose reading end is closed.
    Closed,
}

/// What a program wrote so far.
#[derive(Debug, Clone, Default)]
pub struct Written {
    bytes: Arc<Mutex<Vec<u8>>>,
    /// Whether there may be more.
    open: Arc<AtomicBool>,
}

impl Written {
    /// As text, whatever it is.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    /// As it came.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.bytes.lock().expect("the reader does not panic").clone()
    }

    /// Lines with their ends.
    #[must_use]
    pub fn lines(&self) -> usize {
        self.bytes.lock().expect("the reader does not panic").iter().filter(|byte| **byte == b'\n').count()
    }

    /// Waits for a line that contains `needle`, and gives it.
    #[must_use]
    pub fn wait_for_line(&self, needle: &str, within: Duration) -> String {
        wait::until_some(&format!("a line with {needle:?}"), within, || {
            self.text().lines().find(|line| line.contains(needle)).map(str::to_owned)
        })
    }

    fn follow(mut from: impl Read + Send + 'static) -> Written {
        let written = Written { bytes: Arc::default(), open: Arc::new(AtomicBool::new(true)) };
        let into = written.clone();
        std::thread::spawn(move || {
            let mut scratch = vec![0; 64 * 1024];
            while let Ok(n @ 1..) = from.read(&mut scratch) {
                let mut kept = into.bytes.lock().expect("no reader panics");
                let room = KEPT_BYTES - kept.len();
                kept.extend_from_slice(&scratch[..n.min(room)]);
            }
            into.open.store(false, Ordering::SeqCst);
        });
        written
    }

    /// Waits for the end, which comes late where what the program started still holds the pipe.
    fn drain(&self) {
        let deadline = Instant::now() + DRAIN_LIMIT;
        while self.open.load(Ordering::SeqCst) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A running program.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    /// Its standard output, when it is kept.
    pub stdout: Written,
    /// Its standard error.
    pub stderr: Written,
    held: Option<PipeReader>,
    exited: Option<ExitStatus>,
}

impl Process {
    /// Starts `command`; its standard error is kept, its standard input empty.
    #[must_use]
    pub fn start(mut command: Command, name: &str, output: Output) -> Process {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let (error_reader, error_writer) = std::io::pipe().expect("a pipe");
        command.stdin(Stdio::null()).stdout(writer).stderr(error_writer);
        let child = command.spawn().unwrap_or_else(|error| panic!("start {name}: {error}"));
        // The command holds the writing ends; without them gone no reader would ever see an end.
        drop(command);
        let (stdout, held) = match output {
            Output::Kept => (Written::follow(reader), None),
            Output::Held => (Written::default(), Some(reader)),
            Output::Closed => (Written::default(), None),
        };
        Process { child, name: name.to_owned(), stdout, stderr: Written::follow(error_reader), held, exited: None }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// From now on the held standard output is read.
    pub fn take_held_stdout(&mut self) -> Written {
        self.stdout = Written::follow(self.held.take().expect("started with Output::Held"));
        self.stdout.clone()
    }

    /// The reading end of the held standard output, for who reads more than is to be kept.
    pub fn take_held_pipe(&mut self) -> PipeReader {
        self.held.take().expect("started with Output::Held")
    }

    /// Closes the reading end of the held standard output.
    pub fn close_held_stdout(&mut self) {
        drop(self.held.take().expect("started with Output::Held"));
    }

    /// Sends `signal` to this process only.
    pub fn signal(&self, signal: Signal) {
        assert!(self.exited.is_none(), "{} has ended: its id may be another's", self.name);
        signal::kill(Pid::from_raw(self.pid().cast_signed()), signal).expect("signal a child that was not reaped");
    }

    /// Whether it has ended. If so, all that it wrote is here.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.exited.is_none() {
            self.exited = self.child.try_wait().expect("wait for a child");
            if self.exited.is_some() {
                self.stdout.drain();
                self.stderr.drain();
            }
        }
        self.exited
    }

    /// Waits for its end.
    pub fn wait(&mut self, within: Duration) -> ExitStatus {
        let what = format!("the end of {} (its last words: {})", self.name, tail(&self.stderr.text()));
        wait::until_some(&what, within, || self.ended())
    }

    /// Signals, waits, and gives the exit code and how long it took.
    pub fn end_with(&mut self, signal: Signal, within: Duration) -> (Option<i32>, Duration) {
        let start = Instant::now();
        self.signal(signal);
        let status = self.wait(within);
        (status.code(), start.elapsed())
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        if self.ended().is_none() {
            self.signal(Signal::SIGKILL);
            self.wait(wait::SOON);
        }
    }

    /// Fails the test unless it is running.
    pub fn assert_alive(&mut self) {
        if let Some(status) = self.ended() {
            panic!("{} ended with {status}: {}", self.name, tail(&self.stderr.text()));
        }
    }

    /// Resident memory in KiB.
    #[must_use]
    pub fn resident_kib(&self) -> u64 {
        self.status_kib("VmRSS:")
    }

    /// Resident memory in KiB that is the program's own. What is not: pages of its file, which come the first time that
    /// some code runs and would look like growth.
    #[must_use]
    pub fn anonymous_kib(&self) -> u64 {
        self.status_kib("RssAnon:")
    }

    fn status_kib(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the process runs");
        let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}"));
        line.split_ascii_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or_else(|| panic!("{line}"))
    }

    /// Open descriptors.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("the process runs").count()
    }

    /// What each open descriptor is, for the message of a test that finds too many. One that closes meanwhile is left out.
    #[must_use]
    pub fn descriptor_names(&self) -> Vec<String> {
        let directory = std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("the process runs");
        let entries = directory.filter_map(Result::ok);
        let mut names: Vec<_> = entries
            .filter_map(|entry| {
                let name = std::fs::read_link(entry.path()).ok()?;
                Some(format!("{} {}", entry.file_name().display(), name.display()))
            })
            .collect();
        names.sort_unstable();
        names
    }

    /// Processor time used so far, user and system.
    #[must_use]
    pub fn processor_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("the process runs");
        // Fields follow the last parenthesis, since the name may hold anything; utime and stime are the 14th and 15th.
        let after = stat.rsplit(')').next().expect("a stat line");
        let fields: Vec<&str> = after.split_ascii_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime");
        // USER_HZ is 100 on every Linux architecture that Rust builds for.
        Duration::from_millis(ticks * 10)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln_of_a_failure(&self.name, &self.stderr.text());
        }
    }
}

#[expect(clippy::print_stderr, reason = "the words of the program under test, beside the failure they explain")]
fn eprintln_of_a_failure(name: &str, stderr: &str) {
    eprintln!("--- last words of {name} ---\n{}\n---", tail(stderr));
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}
