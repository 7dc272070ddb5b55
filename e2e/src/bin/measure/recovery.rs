//! How soon streams are served once descriptors are to be had again.

use super::report;
use enclave_bridge_e2e::bridge::Bridge;
use enclave_bridge_e2e::peers::Server;
use enclave_bridge_e2e::v1::Answer;
use enclave_bridge_e2e::wait::{self, SOON};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What is promised of a bridge that had no descriptors.
const WITHIN: Duration = Duration::from_secs(1);

/// Streams that are closed to give their descriptors back: more than the streams that are waited for need.
const HOLDERS: usize = 16;

/// The streams whose answer is waited for: two that wait in the listeners' queues since the descriptors ran out, and two
/// that are made when they are back.
const KINDS: [&str; 4] = ["waiting, ingress", "waiting, egress", "new, ingress", "new, egress"];

/// Exhaustions of one bridge, and how long each stream was without an answer after their end.
pub(crate) struct Recovery<'a> {
    bridge: &'a Bridge,
    limit: u64,
    /// Where the enclave finds the bridge for streams to the world.
    egress: u32,
    server: Server,
    /// How long a stream may wait at all.
    patience: Duration,
    /// Streams that are there all the time.
    resting: Option<f64>,
    times: [Vec<Duration>; KINDS.len()],
    worst: Duration,
    refused: AtomicU64,
}

impl<'a> Recovery<'a> {
    /// Of a bridge that has this limit of descriptors. No exhaustion lasts longer than `patience`.
    pub(crate) fn of(bridge: &'a Bridge, limit: u32, egress: u32, patience: Duration) -> Recovery<'a> {
        Recovery {
            bridge,
            limit: limit.into(),
            egress,
            server: Server::echo(),
            patience,
            resting: bridge.metric("enclave_bridge_streams"),
            times: Default::default(),
            worst: Duration::ZERO,
            refused: AtomicU64::new(0),
        }
    }

    /// Leaves the bridge no descriptor for as long as `meanwhile` takes. Then what that gives is dropped and, where `raise`
    /// says so, the limit raised: the end of the exhaustion, from which the streams' times count.
    pub(crate) fn after<T>(&mut self, ingress: u16, raise: bool, meanwhile: impl FnOnce() -> T) {
        let pauses = self.pauses();
        self.take_all();
        let this = &*self;
        let times = std::thread::scope(|scope| {
            let inwards = || this.answered(|| ingress_stream(ingress, this.patience).map(drop));
            let outwards = || this.answered(|| this.egress_stream());
            let waiting = [scope.spawn(inwards), scope.spawn(outwards)];
            let held = meanwhile();
            assert!(waiting.iter().all(|stream| !stream.is_finished()), "answered without a descriptor");
            let start = Instant::now();
            drop(held);
            if raise {
                this.set_limit(this.limit);
            }
            let [first, second] = waiting;
            let streams = [first, second, scope.spawn(inwards), scope.spawn(outwards)];
            streams.map(|stream| stream.join().expect("an answer").saturating_duration_since(start))
        });
        self.set_limit(self.limit);
        assert!(self.pauses() > pauses, "no listener has paused");
        for (kind, took) in self.times.iter_mut().zip(times) {
            kind.push(took);
            self.worst = self.worst.max(took);
        }
        // Their descriptors are not to come back amid the next exhaustion.
        wait::until("the end of these streams", SOON, || self.bridge.metric("enclave_bridge_streams") == self.resting);
    }

    /// Exhaustions of one to two seconds, so that their ends meet every part of a listener's pause. By turns they end with a
    /// higher limit and with the end of streams.
    pub(crate) fn after_short_ones(&mut self, ingress: u16, times: u64) {
        for number in 0..times {
            let raise = number.is_multiple_of(2);
            let holders = if raise { 0 } else { HOLDERS };
            let held: Vec<TcpStream> = (0..holders)
                .map(|_| ingress_stream(ingress, self.patience).expect("a stream while there are descriptors"))
                .collect();
            self.after(ingress, raise, || {
                std::thread::sleep(Duration::from_millis(1000 + number * 137 % 1000));
                held
            });
        }
    }

    /// Another time that is to be within the promise.
    pub(crate) fn also(&mut self, took: Duration) {
        self.worst = self.worst.max(took);
    }

    /// Prints the times since the last report, and begins anew.
    pub(crate) fn report(&mut self, what: &str) {
        for (kind, times) in KINDS.iter().zip(&mut self.times) {
            report(&format!("{what}, {kind}"), std::mem::take(times));
        }
        println!("    refused at first and made again: {}", self.refused.swap(0, Ordering::SeqCst));
    }

    /// Whether the promise was kept.
    pub(crate) fn verdict(&self) -> ExitCode {
        let kept = self.worst <= WITHIN;
        println!("worst of all {:?}, {WITHIN:?} promised: {}", self.worst, if kept { "held" } else { "NOT HELD" });
        if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    /// When a stream had its answer. One that is refused is made again, as whoever wants it would.
    fn answered(&self, stream: impl Fn() -> io::Result<()>) -> Instant {
        let start = Instant::now();
        while let Err(error) = stream() {
            assert!(start.elapsed() < self.patience, "no answer: {error}");
            self.refused.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(2));
        }
        Instant::now()
    }

    fn egress_stream(&self) -> io::Result<()> {
        let mut wire = self.bridge.meeting.dial_host(self.egress)?;
        wire.read_within(self.patience);
        wire.write_all(format!("{}\n", self.server.target()).as_bytes())?;
        match Answer::of(&wire.read_line_exactly(300)?) {
            Answer::Ack => exchange(&mut wire),
            other @ (Answer::Nak(..) | Answer::End | Answer::Other(_)) => Err(io::Error::other(format!("{other:?}"))),
        }
    }

    /// A limit under which every number is in use: how many are open is not it, for they need not be the lowest.
    fn take_all(&self) {
        let mut taken = None;
        // What was closed a moment ago comes back late.
        wait::until("no free descriptor", SOON, || {
            let lowest = lowest_free(self.bridge.pid());
            self.set_limit(lowest);
            std::thread::sleep(Duration::from_millis(50));
            taken.replace(lowest) == Some(lowest)
        });
    }

    fn set_limit(&self, soft: u64) {
        let limit = Rlimit { current: Some(soft), maximum: Some(self.limit) };
        prlimit(Pid::from_raw(self.bridge.pid().cast_signed()), Resource::Nofile, limit).expect("a limit of a child's");
    }

    fn pauses(&self) -> Option<f64> {
        self.bridge.metric("enclave_bridge_accept_pauses_total")
    }
}

fn ingress_stream(port: u16, patience: Duration) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(Bridge::tcp(port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(patience))?;
    exchange(&mut stream)?;
    Ok(stream)
}

/// Sixteen bytes there and back.
fn exchange(stream: &mut (impl Read + Write)) -> io::Result<()> {
    let (said, mut heard) = (*b"sixteen of bytes", [0; 16]);
    stream.write_all(&said)?;
    stream.read_exact(&mut heard)?;
    if heard == said { Ok(()) } else { Err(io::Error::other(format!("{heard:?} came back"))) }
}

/// The number that the process would be given for the next descriptor.
fn lowest_free(pid: u32) -> u64 {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the process runs");
    let open: HashSet<u64> = open.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    (0..).find(|number| !open.contains(number)).expect("fewer descriptors than numbers")
}
