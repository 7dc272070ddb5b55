//! Connections one after the other, as many as are wanted: what is left of them in the bridge, which is to be nothing.
//!
//! A lane opens, says a few bytes, hears them again, ends in order, and opens the next. Destinations are spread over 127.0.0.0/8,
//! for a local port that has just been closed is not free for the same destination for a while.

use crate::bridge::Bridge;
use crate::faults::Way;
use crate::framed::Framed;
use crate::ports;
use crate::tunnels::{Leg as _, STALL};
use crate::v1::{self, Answer, Enclave, Settings};
use crate::wait;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Beats so rare that none is lost on a busy machine.
const CALM: Duration = Duration::from_secs(30);

/// Lanes beside each other: two, so that neither side waits for the other all the time.
const LANES: u64 = 2;

/// Destinations: with 28,000 local ports for each, and a minute until one is free again.
const DESTINATIONS: u64 = 100;

/// What every connection carries each way.
const MESSAGE: [u8; 16] = *b"sixteen bytes...";

/// What was found.
#[derive(Debug)]
pub struct Found {
    /// How long it took.
    pub took: Duration,
    /// Resident memory in KiB: before, after the first part, at the end.
    pub resident_kib: [u64; 3],
    /// Descriptors before and after.
    pub descriptors: [usize; 2],
    /// Of these sockets.
    pub sockets: [usize; 2],
    /// Tasks before and after.
    pub tasks: [f64; 2],
    /// Streams that the bridge counted.
    pub streams: f64,
}

/// `count` connections, with a look at the memory after the first `warm` of them.
///
/// # Panics
/// Where one of them does not carry its bytes, or ends otherwise than in order.
#[must_use]
pub fn run(way: Way, framed: bool, count: u64, warm: u64) -> Found {
    let bridge = Bridge::builder().loopback_egress().start();
    let port = ports::free();
    let settings = Settings { framed, ..Settings::new(CALM).server(5001, port).client(5002) };
    // A thread for each connection that is open, and no more: they are few.
    let enclave = Enclave::start_with(&bridge.meeting, &settings, |guest| guest.serve(5001, v1::echo));
    let servers = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a local port");
    let world = servers.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        while let Ok((stream, _)) = servers.accept() {
            std::thread::spawn(move || crate::peers::echo(&stream));
        }
    });
    let one = |number: u64| {
        let last = u8::try_from(1 + number % DESTINATIONS).expect("below 255");
        let to = Ipv4Addr::new(127, 0, 0, last);
        match way {
            Way::Ingress => ingress(SocketAddr::from((to, port))),
            Way::Egress => egress(&enclave, &format!("{to}:{world}"), framed),
        }
    };
    // What is made once is made by the first ones.
    for number in 0..10 {
        one(number).unwrap_or_else(|error| panic!("connection {number}: {error}"));
    }
    let tasks = || bridge.metric("enclave_bridge_tasks").expect("a metric of the bridge");
    let rest = || bridge.metric("enclave_bridge_streams") == Some(0.0);
    wait::until("the first streams' end", CALM, rest);
    let (descriptors, open) = fewest(&bridge);
    let before = (bridge.resident_kib(), descriptors, open, tasks());
    let start = Instant::now();
    let part = |from: u64, to: u64| {
        let next = AtomicU64::new(from);
        std::thread::scope(|scope| {
            for _ in 0..LANES {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::SeqCst);
                        if number >= to {
                            return;
                        }
                        one(number).unwrap_or_else(|error| panic!("connection {number}: {error}"));
                    }
                });
            }
        });
        wait::until("the last streams' end", CALM, rest);
    };
    part(0, warm);
    let warm_kib = bridge.resident_kib();
    part(warm, count);
    let took = start.elapsed();
    let deadline = Instant::now() + CALM;
    let (descriptors, open, tasks) = loop {
        let (descriptors, open) = fewest(&bridge);
        let found = (descriptors, open, tasks());
        if (found.0 <= before.1 && found.1 <= before.2 && found.2 <= before.3) || Instant::now() > deadline {
            break found;
        }
    };
    Found {
        took,
        resident_kib: [before.0, warm_kib, bridge.resident_kib()],
        descriptors: [before.1, descriptors],
        sockets: [before.2, open],
        tasks: [before.3, tasks],
        streams: bridge.metric("enclave_bridge_streams_ended_total").unwrap_or(-1.0),
    }
}

/// Descriptors and sockets, the fewest of some looks: the connection of a question to the monitoring is one more until the bridge
/// has closed it.
fn fewest(bridge: &Bridge) -> (usize, usize) {
    let look = || {
        std::thread::sleep(Duration::from_millis(20));
        (bridge.descriptors(), sockets(bridge))
    };
    (0..5).fold(look(), |least, _| {
        let found = look();
        (least.0.min(found.0), least.1.min(found.1))
    })
}

fn ingress(to: SocketAddr) -> io::Result<()> {
    let mut tcp = TcpStream::connect(to)?;
    tcp.set_read_timeout(Some(STALL))?;
    tcp.write_all(&MESSAGE)?;
    tcp.shutdown(Shutdown::Write)?;
    hear(&mut tcp)
}

fn egress(enclave: &Enclave, target: &str, framed: bool) -> io::Result<()> {
    let (mut wire, answer) = enclave.dial(5002, target);
    if answer != Answer::Ack {
        return Err(io::Error::other(format!("{answer:?}")));
    }
    if !framed {
        wire.write_all(&MESSAGE)?;
        wire.end_writing();
        return hear(&mut wire);
    }
    let mut wire = Framed::new(wire);
    wire.write_all(&MESSAGE)?;
    wire.end_writing();
    hear(&mut wire)
}

/// The same bytes, then the end.
fn hear(from: &mut impl Read) -> io::Result<()> {
    let mut back = [0; MESSAGE.len()];
    from.read_exact(&mut back)?;
    let end = from.read(&mut [0])?;
    if back == MESSAGE && end == 0 { Ok(()) } else { Err(io::Error::other("other bytes than were said")) }
}

fn sockets(bridge: &Bridge) -> usize {
    let folder = std::fs::read_dir(format!("/proc/{}/fd", bridge.pid())).expect("the process runs");
    let links = folder.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    links.filter(|link| link.to_string_lossy().starts_with("socket:")).count()
}
