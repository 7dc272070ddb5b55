//! No descriptors to be had: what it costs, what the streams that exist lose, and how soon it is over.

use super::CALM;
use super::recovery::Recovery;
use enclave_bridge_e2e::bridge::Bridge;
use enclave_bridge_e2e::steady::Steady;
use enclave_bridge_e2e::tunnels::{self, Heard};
use enclave_bridge_e2e::v1::{self, Enclave, Settings};
use enclave_bridge_e2e::{ports, wait};
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const LIMIT: u32 = 256;
const FLOOD: usize = 2000;
const STREAMS: usize = 8;
/// Of each stream, each way.
const BYTES_PER_SECOND: usize = 2 << 20;

/// Short exhaustions, whose ends are looked at.
const SHORT_ONES: u64 = 20;

/// Twice `seconds`: once with nothing left to open, and once at the limit of streams, with clients that come again. Fails where
/// a stream was without an answer for too long after the end.
pub(crate) fn run(seconds: u64) -> ExitCode {
    let window = Duration::from_secs(seconds);
    let mut bridge = Bridge::builder().loopback_egress().descriptor_limit(LIMIT).start();
    let (port, flooded) = (ports::free(), ports::free());
    let settings = Settings::new(CALM).server(5001, port).server(5003, flooded).client(5002);
    let _enclave = Enclave::start_with(&bridge.meeting, &settings, |guest| {
        guest.serve(5001, v1::echo);
        guest.serve(5003, v1::echo);
    });
    let streams = Steady::start(Bridge::tcp(port), STREAMS, BYTES_PER_SECOND);
    std::thread::sleep(Duration::from_secs(1));
    let calm = observe(&bridge, &streams, window);
    println!("calm, {STREAMS} streams: {calm}");

    let mut recovery = Recovery::of(&bridge, LIMIT, 5002, window + CALM);
    recovery.after(flooded, true, || {
        let flood: Vec<TcpStream> = (0..FLOOD).filter_map(|_| TcpStream::connect(Bridge::tcp(flooded)).ok()).collect();
        let exhausted = observe(&bridge, &streams, window);
        println!("{} of {FLOOD} connections wait, and no descriptor is to be had: {exhausted}", flood.len());
        exhausted.beside(&calm);
        flood
    });
    recovery.report("descriptors back and the flood gone");
    recovery.after_short_ones(port, SHORT_ONES);
    recovery.report("descriptors back after a second or two");

    let (stop, tries) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        // A limit of the kernel's is how many wait to be accepted; who is turned away comes again a second later.
        for _ in 0..4 {
            scope.spawn(|| come_again(flooded, FLOOD / 4, &stop, &tries));
        }
        std::thread::sleep(Duration::from_secs(2));
        let before = tries.load(Ordering::SeqCst);
        let full = observe(&bridge, &streams, window);
        let tries = (tries.load(Ordering::SeqCst) - before) as f64 / full.window.as_secs_f64();
        println!("at the limit of streams, {tries:.0} connections a second turned away: {full}");
        full.beside(&calm);
        stop.store(true, Ordering::SeqCst);
    });
    let served = until_served(flooded);
    recovery.also(served);
    println!("clients gone: a new connection echoed after {served:?}");
    let verdict = recovery.verdict();
    println!("directions of streams that broke: {}", streams.broken());
    bridge.assert_alive();
    verdict
}

struct Observed {
    window: Duration,
    /// Of one core.
    share: f64,
    rate: u64,
    lines: usize,
}

impl std::fmt::Display for Observed {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Observed { window, share, rate, lines } = self;
        let rate = *rate as f64 / f64::from(1 << 20);
        write!(out, "{rate:.2} MiB/s, {:.1} % of a core, {lines} lines logged in {window:.0?}", share * 100.0)
    }
}

impl Observed {
    fn beside(&self, calm: &Observed) {
        let rate = self.rate as f64 / calm.rate as f64 * 100.0;
        println!("    {rate:.1} % of the calm rate, {:.1} % of a core more", (self.share - calm.share) * 100.0);
    }
}

fn observe(bridge: &Bridge, streams: &Steady, window: Duration) -> Observed {
    let lines = || bridge.stderr.text().lines().count();
    let (busy, before, start) = (bridge.processor_time(), lines(), Instant::now());
    let rate = streams.rate_over(window);
    let passed = start.elapsed();
    let share = (bridge.processor_time() - busy).as_secs_f64() / passed.as_secs_f64();
    Observed { window: passed, share, rate, lines: lines() - before }
}

fn until_served(port: u16) -> Duration {
    let start = Instant::now();
    wait::until("a new stream", CALM, || {
        let stream = TcpStream::connect(Bridge::tcp(port));
        let heard = stream.and_then(|mut stream| tunnels::speak_then_listen(&mut stream, 1, 100));
        heard.is_ok_and(|heard| heard == Heard::pattern(1, 100))
    });
    start.elapsed()
}

/// Clients that hold their connection, look after it, and make another a second after it was reset.
fn come_again(port: u16, clients: usize, stop: &AtomicBool, tries: &AtomicU64) {
    let mut held: Vec<Option<TcpStream>> = (0..clients).map(|_| None).collect();
    while !stop.load(Ordering::SeqCst) {
        let start = Instant::now();
        for place in &mut held {
            let reset = place.as_ref().is_none_or(|stream| {
                stream.set_nonblocking(true).is_ok()
                    && !stream.peek(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
            });
            if reset {
                *place = TcpStream::connect(Bridge::tcp(port)).ok();
                tries.fetch_add(1, Ordering::SeqCst);
            }
        }
        std::thread::sleep(Duration::from_secs(1).saturating_sub(start.elapsed()));
    }
}
