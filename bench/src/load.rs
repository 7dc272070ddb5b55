//! The load: what is done to a target in one round, and what is read off it. Every transfer is counted at both ends.

mod bulk;
mod many;
mod message;
mod trace;

use crate::error::BenchError;
use crate::process::Stop;
use crate::procfs;
use crate::service::Held;
use crate::socket::{Address, PATIENCE, Stream};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

pub(crate) use bulk::{Direction, bulk, tiny_writes};
pub(crate) use many::{idle, most_connections, stalled};
pub(crate) use message::{mixed, one_connection, request_response, short};
pub(crate) use trace::system_calls;

/// Values by the name of their metric.
pub(crate) type Values = BTreeMap<&'static str, f64>;

/// One GiB.
const GIB: f64 = 1024.0 * 1024.0 * 1024.0;

/// How a relay is entered.
#[derive(Debug, Clone)]
pub(crate) struct Front {
    /// Where it listens.
    pub(crate) address: Address,
    /// What egress through the bridge begins with: the target's line, which it answers with an ACK.
    pub(crate) line: Option<String>,
}

impl Front {
    /// A stream to the server behind the relay.
    pub(crate) fn open(&self) -> Result<Stream, BenchError> {
        let stream = self.address.dial()?;
        if let Some(line) = &self.line {
            let mut answer = [0; 2];
            (&stream).write_all(line.as_bytes()).map_err(BenchError::io("send the target's line"))?;
            (&stream).read_exact(&mut answer).map_err(BenchError::io("read the ACK"))?;
            if answer != *b"\x06\n" {
                return Err(BenchError::Process { name: "egress".to_owned(), reason: "refused".to_owned() });
            }
        }
        Ok(stream)
    }
}

/// What a test needs of a target.
#[derive(Debug)]
pub(crate) struct Subject<'a> {
    /// Where it is entered.
    pub(crate) front: &'a Front,
    /// The relay's processes; none where there is no relay.
    pub(crate) roots: &'a [u32],
    /// What the servers hold open.
    pub(crate) held: &'a Held,
    /// How long a timed test lasts.
    pub(crate) lasting: Duration,
    /// Ends everything early.
    pub(crate) stop: &'a Stop,
}

/// Processor time of a relay from here on.
struct Cpu<'a> {
    roots: &'a [u32],
    before_ns: u64,
    processes: usize,
}

impl<'a> Cpu<'a> {
    fn start(roots: &'a [u32]) -> Cpu<'a> {
        Cpu { roots, before_ns: procfs::cpu_ns(roots), processes: procfs::tree(roots).len() }
    }

    /// Seconds so far, once no more processes live than before: what a child used is its parent's when it is reaped.
    fn seconds(&self) -> f64 {
        let until = Instant::now() + Duration::from_secs(1);
        while procfs::tree(self.roots).len() > self.processes && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(2));
        }
        procfs::cpu_ns(self.roots).saturating_sub(self.before_ns) as f64 / 1e9
    }
}

/// Runs `each` in a thread for every item and gives what they all gave, or the first fault.
fn in_threads<T: Send, U: Send>(
    items: Vec<T>,
    each: impl Fn(T) -> Result<U, BenchError> + Sync,
) -> Result<Vec<U>, BenchError> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = items.into_iter().map(|item| scope.spawn(|| each(item))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or(Err(BenchError::Interrupted))).collect()
    })
}

/// Reads to the end of the stream.
fn expect_end(stream: &Stream, what: &'static str) -> Result<(), BenchError> {
    let mut rest = [0; 64];
    let mut reading = stream;
    match reading.read(&mut rest).map_err(BenchError::io(what))? {
        0 => Ok(()),
        more => Err(BenchError::Mismatch { what, expected: 0, got: more as u64 }),
    }
}

/// Waits until `met`; an error that names what was waited for after [`PATIENCE`].
pub(crate) fn wait_until(what: &str, stop: &Stop, mut met: impl FnMut() -> bool) -> Result<(), BenchError> {
    let until = Instant::now() + PATIENCE;
    while !met() {
        stop.check()?;
        if Instant::now() > until {
            return Err(BenchError::Process { name: what.to_owned(), reason: format!("not within {PATIENCE:?}") });
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
