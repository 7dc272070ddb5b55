//! Bulk: streams that carry as much as they can for a time, up or down, and a stream of tiny writes.

use super::{Cpu, GIB, Subject, Values, expect_end, in_threads};
use crate::error::BenchError;
use crate::process::Stop;
use crate::service::{BLOCK_BYTES, Request, TRAILER_BYTES, trailer_count};
use crate::socket::Stream;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

/// Which way bulk goes, as seen from whoever connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From who connects to who accepts.
    Up,
    /// The other way.
    Down,
}

/// How long a server leaves tiny writes lying, so that the relay has a backlog.
const BACKLOG_MS: u64 = 200;

/// `streams` of bulk at once: throughput up to the last confirmed byte, processor time per GiB.
pub(crate) fn bulk(subject: &Subject<'_>, direction: Direction, streams: usize) -> Result<Values, BenchError> {
    let opened: Vec<Stream> = (0..streams).map(|_| subject.front.open()).collect::<Result<_, _>>()?;
    let cpu = Cpu::start(subject.roots);
    let start = Instant::now();
    let sums = in_threads(opened, |stream| carry(&stream, direction, subject.lasting, subject.stop))?;
    let seconds = start.elapsed().as_secs_f64();
    let bytes = sums.iter().sum::<u64>() as f64;
    let mut values = Values::from([("gbit_s", bytes * 8.0 / 1e9 / seconds), ("gib", bytes / GIB)]);
    if !subject.roots.is_empty() {
        values.insert("cpu_s_gib", cpu.seconds() / (bytes / GIB));
    }
    Ok(values)
}

/// One stream of bulk from its request to its confirmed end; the bytes it carried.
pub(super) fn carry(stream: &Stream, direction: Direction, lasting: Duration, stop: &Stop) -> Result<u64, BenchError> {
    match direction {
        Direction::Up => up(stream, 0, BLOCK_BYTES, lasting, stop),
        Direction::Down => down(stream, lasting, stop),
    }
}

/// Writes of 64 bytes, each by itself, into a relay whose far side does not read at first.
pub(crate) fn tiny_writes(subject: &Subject<'_>) -> Result<Values, BenchError> {
    let stream = subject.front.open()?;
    let cpu = Cpu::start(subject.roots);
    let start = Instant::now();
    let bytes = up(&stream, BACKLOG_MS, 64, subject.lasting, subject.stop)? as f64;
    let seconds = start.elapsed().as_secs_f64();
    Ok(Values::from([
        ("writes_s", bytes / 64.0 / seconds),
        ("cpu_us_write", cpu.seconds() * 1e6 / (bytes / 64.0)),
        ("gib", bytes / GIB),
    ]))
}

fn up(stream: &Stream, wait_ms: u64, write_bytes: usize, lasting: Duration, stop: &Stop) -> Result<u64, BenchError> {
    let block = vec![0x5a; write_bytes];
    let mut writing = stream;
    writing.write_all(&Request::Sink(wait_ms).encode()).map_err(BenchError::io("ask for a sink"))?;
    let until = Instant::now() + lasting;
    let mut sum = 0;
    while Instant::now() < until && !stop.is_set() {
        writing.write_all(&block).map_err(BenchError::io("send bulk"))?;
        sum += block.len() as u64;
    }
    stream.end_writing().map_err(BenchError::io("end bulk"))?;
    let mut counted = [0; 8];
    let mut reading = stream;
    reading.read_exact(&mut counted).map_err(BenchError::io("read the count of bulk"))?;
    expect_end(stream, "bulk up")?;
    stop.check()?;
    match u64::from_le_bytes(counted) {
        counted if counted == sum => Ok(sum),
        got => Err(BenchError::Mismatch { what: "bulk up", expected: sum, got }),
    }
}

fn down(stream: &Stream, lasting: Duration, stop: &Stop) -> Result<u64, BenchError> {
    let for_ms = u64::try_from(lasting.as_millis()).unwrap_or(u64::MAX);
    let mut writing = stream;
    writing.write_all(&Request::Source(for_ms).encode()).map_err(BenchError::io("ask for a source"))?;
    let mut buffer = vec![0; 4 * BLOCK_BYTES];
    let mut tail = [0; TRAILER_BYTES];
    let mut sum = 0_u64;
    let mut reading = stream;
    loop {
        let count = reading.read(&mut buffer).map_err(BenchError::io("receive bulk"))?;
        if count == 0 {
            break;
        }
        sum += count as u64;
        keep_tail(&mut tail, buffer.get(..count).unwrap_or_default());
    }
    stream.end_writing().map_err(BenchError::io("end bulk"))?;
    stop.check()?;
    let got = sum.saturating_sub(TRAILER_BYTES as u64);
    match trailer_count(tail) {
        Some(expected) if expected == got => Ok(got),
        expected => Err(BenchError::Mismatch { what: "bulk down", expected: expected.unwrap_or(0), got }),
    }
}

/// Keeps the last bytes of everything that came.
fn keep_tail(tail: &mut [u8; TRAILER_BYTES], came: &[u8]) {
    if let Some(last) = came.last_chunk::<TRAILER_BYTES>() {
        *tail = *last;
        return;
    }
    tail.rotate_left(came.len());
    for (kept, byte) in tail.iter_mut().rev().zip(came.iter().rev()) {
        *kept = *byte;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_the_last_bytes_however_they_came() {
        let all: Vec<u8> = (0..100).collect();
        for step in 1..40 {
            let mut tail = [0; TRAILER_BYTES];
            all.chunks(step).for_each(|came| keep_tail(&mut tail, came));
            assert_eq!(tail, all[100 - TRAILER_BYTES..], "in steps of {step}");
        }
    }
}
