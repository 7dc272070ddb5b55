//! Numbered log lines on the way through the bridge, and the reader of its standard output, which can be told to stand still.

use super::stage::{Ground, Stage};
use crate::v1::LOG_PORT;
use std::io::{PipeReader, Read as _, Write as _};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What our lines begin with; whatever garbage and other enclaves log does not.
const MARK: &[u8] = b"soak line ";

/// Lines a second, in bursts of ten.
const BURST: u64 = 10;
const EVERY: Duration = Duration::from_millis(100);

/// The most that is kept of one line while it is read: longer than any of ours.
const LINE_MOST: usize = 256;

#[derive(Default)]
struct Counts {
    sent: AtomicU64,
    /// Ours that came out.
    printed: AtomicU64,
    /// All that came out.
    lines: AtomicU64,
    blocked: AtomicBool,
    ended: AtomicBool,
}

/// The writer and the reader.
pub(super) struct Logs {
    counts: Arc<Counts>,
    writer: Mutex<Option<JoinHandle<()>>>,
    verdict: Mutex<String>,
}

/// Starts both.
pub(super) fn start(ground: &Arc<Ground>, stdout: PipeReader) -> Logs {
    let counts = Arc::new(Counts::default());
    let writer = std::thread::spawn({
        let (ground, counts) = (ground.clone(), counts.clone());
        move || write(&ground, &counts)
    });
    std::thread::spawn({
        let (ground, counts) = (ground.clone(), counts.clone());
        move || read(stdout, &ground, &counts)
    });
    Logs { counts, writer: Mutex::new(Some(writer)), verdict: Mutex::default() }
}

impl Logs {
    /// Nobody reads the bridge's standard output for so long.
    pub(super) fn block(&self, length: Duration) {
        self.counts.blocked.store(true, Ordering::SeqCst);
        // As much as fills the pipe, so that the bridge's writer really stands.
        std::thread::sleep(length);
        self.counts.blocked.store(false, Ordering::SeqCst);
    }

    /// Ends the writer, waits until everything has come out, and compares.
    pub(super) fn finish(&self, stage: &Stage) {
        self.counts.ended.store(true, Ordering::SeqCst);
        let writer = self.writer.lock().expect("no panic").take();
        if writer.is_some_and(|writer| writer.join().is_err()) {
            stage.ground.account.wrong("the writer of the log panicked".to_owned());
        }
        let metric =
            |name: &str| stage.bridge.metric(&format!("enclave_bridge_log_lines_{name}_total")).unwrap_or(-1.0);
        let deadline = Instant::now() + Duration::from_secs(20);
        let (mut received, mut printed, mut dropped, mut read);
        loop {
            (received, printed, dropped) = (metric("received"), metric("printed"), metric("dropped"));
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52 lines")]
            {
                read = self.counts.lines.load(Ordering::SeqCst) as f64;
            }
            let settled = received == printed + dropped && read == printed;
            if settled || Instant::now() > deadline {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let (sent, ours) = (self.counts.sent.load(Ordering::SeqCst), self.counts.printed.load(Ordering::SeqCst));
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52 lines")]
        let missing = (sent - ours.min(sent)) as f64;
        let account = &stage.ground.account;
        if received != printed + dropped {
            account.wrong(format!("log: {received} lines received, {printed} printed and {dropped} dropped"));
        }
        if read != printed {
            account.wrong(format!("log: {printed} lines printed, {read} came out"));
        }
        if missing > dropped {
            account.wrong(format!(
                "log: {missing} of {sent} numbered lines are missing, {dropped} were counted as dropped"
            ));
        }
        *self.verdict.lock().expect("no panic") = format!(
            "log: {sent} numbered lines sent, {ours} came out in order; {received} received in all = {printed} printed + {dropped} dropped"
        );
    }

    /// The verdict in a line.
    pub(super) fn line(&self) -> String {
        self.verdict.lock().expect("no panic").clone()
    }
}

fn write(ground: &Ground, counts: &Counts) {
    while !counts.ended.load(Ordering::SeqCst) {
        let Ok(mut wire) = ground.meeting.dial_host(LOG_PORT) else {
            ground.account.wrong("log: the bridge does not take a log connection".to_owned());
            std::thread::sleep(Duration::from_secs(1));
            continue;
        };
        wire.write_within(Duration::from_secs(30));
        while !counts.ended.load(Ordering::SeqCst) {
            let mut lines = Vec::new();
            let first = counts.sent.load(Ordering::SeqCst);
            for number in first..first + BURST {
                writeln!(lines, "soak line {number} {:x<60}", "").expect("a vector");
            }
            counts.sent.store(first + BURST, Ordering::SeqCst);
            if let Err(error) = wire.write_all(&lines) {
                ground.account.wrong(format!("log: the bridge ended a log connection: {error}"));
                break;
            }
            std::thread::sleep(EVERY);
        }
    }
}

fn read(mut stdout: PipeReader, ground: &Ground, counts: &Counts) {
    let mut scratch = vec![0; 64 * 1024];
    let mut line: Vec<u8> = Vec::new();
    let mut next = 0;
    loop {
        while counts.blocked.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let n = match stdout.read(&mut scratch) {
            Ok(0) | Err(_) => return,
            Ok(n) => n,
        };
        for &byte in &scratch[..n] {
            if byte != b'\n' {
                if line.len() < LINE_MOST {
                    line.push(byte);
                }
                continue;
            }
            if let Some(rest) = line.strip_prefix(MARK) {
                let number =
                    std::str::from_utf8(rest).ok().and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok());
                match number {
                    Some(number) if number >= next => next = number + 1,
                    other => {
                        ground.account.wrong(format!("log: line {other:?} came where {next} or a later one was due"))
                    }
                }
                counts.printed.fetch_add(1, Ordering::SeqCst);
            }
            counts.lines.fetch_add(1, Ordering::SeqCst);
            line.clear();
        }
    }
}
