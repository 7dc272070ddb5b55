//! Many connections: how fast they are taken, what each costs while idle, after use, and while its reader stalls.

use super::{Subject, Values, in_threads, wait_until};
use crate::error::BenchError;
use crate::procfs;
use crate::service::{BLOCK_BYTES, REQUEST_BYTES, Request, flood};
use crate::socket::Stream;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io::{Read, Write};
use std::time::{Duration, Instant};

/// Threads that open connections.
const OPENING_THREADS: usize = 4;

/// Of descriptors that are for something else: listeners, the runtime, pipes, what the bridge keeps in reserve.
const RESERVE: u64 = 1000;

/// Allocators give memory back some time after it is free; the bench waits for that, as an operator would.
const SETTLE: Duration = Duration::from_secs(1);

/// Buffers of each client's socket: with the kernel's own a thousand stalled ones would take it gigabytes.
const CLIENT_BUFFER_BYTES: usize = 64 * 1024;

/// Raises the soft limit of descriptors to the hard one, which children inherit; `wanted`, or as many connections as fit
/// under it: this process holds both ends of each, a relay likewise.
pub(crate) fn most_connections(wanted: usize) -> Result<usize, BenchError> {
    let named = |error: nix::Error| BenchError::Io { what: "limit of descriptors".to_owned(), source: error.into() };
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(named)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(named)?;
    let fit = usize::try_from(hard.saturating_sub(RESERVE) / 2).unwrap_or(usize::MAX);
    Ok(wanted.min(fit).max(1))
}

/// Opens `count` connections, sends `bytes` through each there and back, and weighs the relay; closes them, and weighs
/// what it still holds. The relay should be a fresh one.
pub(crate) fn idle(subject: &Subject<'_>, count: usize, bytes: u64) -> Result<Values, BenchError> {
    let before = settled(subject)?;
    let start = Instant::now();
    let open = open_many(subject, count, |front_stream| hold(&front_stream, bytes).map(|()| front_stream))?;
    let opening = start.elapsed().as_secs_f64();
    std::thread::sleep(SETTLE);
    let during = procfs::memory(subject.roots);
    drop(open);
    subject.held.let_go();
    let after = settled(subject)?;
    Ok(Values::from([
        ("conn_s", count as f64 / opening),
        ("kib_conn", each_kib(during, before, count)),
        ("held_kib_conn", each_kib(after, before, count)),
        ("connections", count as f64),
    ]))
}

/// `count` connections with one direction each that moves until its reader's buffers are full. `down`: who connected does
/// not read; else the server does not. Then how much the relay's memory changes while nothing moves for `lasting`.
pub(crate) fn stalled(
    subject: &Subject<'_>,
    count: usize,
    down: bool,
    lasting: Duration,
) -> Result<Values, BenchError> {
    let before = settled(subject)?;
    let open = open_many(subject, count, |stream| {
        let request = if down { Request::Flood } else { Request::Stall };
        (&stream).write_all(&request.encode()).map_err(BenchError::io("ask for a stall"))?;
        let mut first = [0];
        (&stream).read_exact(&mut first).map_err(BenchError::io("read the first byte before a stall"))?;
        Ok(stream)
    })?;
    if !down {
        // Several at once: each waits for the moment at which nothing goes out any more.
        let block = vec![0x5a; BLOCK_BYTES];
        let mut groups: Vec<Vec<&Stream>> = vec![Vec::new(); 64];
        for (number, stream) in open.iter().enumerate() {
            if let Some(group) = groups.get_mut(number % 64) {
                group.push(stream);
            }
        }
        in_threads(groups, |group| {
            group.into_iter().try_for_each(|stream| {
                subject.stop.check()?;
                flood(stream, &block).map(drop).map_err(BenchError::io("flood"))
            })
        })?;
    }
    std::thread::sleep(SETTLE);
    wait_until("the last reader to stall", subject.stop, || quiet(subject.roots))?;
    let during = procfs::memory(subject.roots);
    let until = Instant::now() + lasting;
    while Instant::now() < until {
        subject.stop.check()?;
        std::thread::sleep(Duration::from_millis(50));
    }
    let later = procfs::memory(subject.roots);
    drop(open);
    subject.held.let_go();
    let after = settled(subject)?;
    Ok(Values::from([
        ("kib_direction", each_kib(during, before, count)),
        ("growth_kib", each_kib(later, during, count)),
        ("held_kib_conn", each_kib(after, before, count)),
        ("connections", count as f64),
    ]))
}

fn open_many(
    subject: &Subject<'_>,
    count: usize,
    then: impl Fn(Stream) -> Result<Stream, BenchError> + Sync,
) -> Result<Vec<Stream>, BenchError> {
    let shares: Vec<usize> = (0..OPENING_THREADS).map(|number| (count + number) / OPENING_THREADS).collect();
    let opened = in_threads(shares, |share| {
        let mut streams = Vec::with_capacity(share);
        for _ in 0..share {
            subject.stop.check()?;
            streams.push(then(subject.front.address.dial_with_buffers(CLIENT_BUFFER_BYTES)?)?);
        }
        Ok(streams)
    })?;
    Ok(opened.into_iter().flatten().collect())
}

/// `bytes` there, as many back, and the byte that says that the server holds on.
fn hold(mut stream: &Stream, bytes: u64) -> Result<(), BenchError> {
    let named = || BenchError::io("use a connection before it idles");
    let block = vec![0x5a; BLOCK_BYTES.min(usize::try_from(bytes).unwrap_or(BLOCK_BYTES))];
    let mut first = Vec::with_capacity(REQUEST_BYTES + block.len());
    first.extend_from_slice(&Request::Hold(bytes).encode());
    first.extend_from_slice(&block);
    stream.write_all(&first).map_err(named())?;
    let mut sent = block.len() as u64;
    while sent < bytes {
        stream.write_all(&block).map_err(named())?;
        sent += block.len() as u64;
    }
    let mut missing = bytes + 1;
    let mut buffer = vec![0; BLOCK_BYTES];
    while missing > 0 {
        let count = stream.read(&mut buffer).map_err(named())? as u64;
        if count == 0 || count > missing {
            return Err(BenchError::Mismatch {
                what: "a connection before it idles",
                expected: bytes + 1,
                got: bytes + 1 - missing + count,
            });
        }
        missing -= count;
    }
    Ok(())
}

/// Memory once the relay has closed everything and has had time to give back what it will.
fn settled(subject: &Subject<'_>) -> Result<u64, BenchError> {
    let mut last = usize::MAX;
    wait_until("the relay to close its connections", subject.stop, || {
        let now = procfs::descriptors(subject.roots);
        let stands = now == last;
        last = now;
        std::thread::sleep(Duration::from_millis(100));
        stands
    })?;
    std::thread::sleep(SETTLE);
    Ok(procfs::memory(subject.roots))
}

/// Whether the relay used next to no processor time for a tenth of a second.
fn quiet(roots: &[u32]) -> bool {
    let before = procfs::cpu_ns(roots);
    std::thread::sleep(Duration::from_millis(100));
    procfs::cpu_ns(roots).saturating_sub(before) < 3_000_000
}

fn each_kib(now: u64, before: u64, count: usize) -> f64 {
    (now as f64 - before as f64) / 1024.0 / count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_was_given_back_is_negative_and_not_an_overflow() {
        assert!((each_kib(1024, 3072, 2) + 1.0).abs() < 1e-9);
        assert!((each_kib(8192, 0, 4) - 2.0).abs() < 1e-9);
    }
}
