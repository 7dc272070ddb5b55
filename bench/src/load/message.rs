//! Small messages: one at a time, beside bulk, and each on a connection of its own.

use super::bulk::{Direction, carry};
use super::{Cpu, Front, GIB, Subject, Values, expect_end, in_threads};
use crate::error::BenchError;
use crate::process::Stop;
use crate::service::{REQUEST_BYTES, Request};
use crate::socket::Stream;
use crate::stats::percentile;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

/// One message.
pub(super) const MESSAGE: [u8; 64] = [0x42; 64];

/// Connections that carry bulk in the mixed test, half of them up, half down.
const BULK_STREAMS: usize = 8;

/// Connections that carry small messages beside them.
const MESSAGE_STREAMS: usize = 4;

/// Threads that open short connections.
const SHORT_THREADS: usize = 4;

/// Messages before the measured ones.
const WARM_UP: usize = 20;

/// 64 bytes there and back on one connection, over and over.
pub(crate) fn request_response(subject: &Subject<'_>) -> Result<Values, BenchError> {
    let stream = echoing(subject.front)?;
    for _ in 0..WARM_UP {
        there_and_back(&stream)?;
    }
    let cpu = Cpu::start(subject.roots);
    let mut took = messages(&stream, subject.lasting, subject.stop)?;
    let mut values = latencies(&mut took);
    if !subject.roots.is_empty() {
        // The close comes after: a forking relay is charged for its exchanges, not for its end.
        values.insert("cpu_us_op", cpu.seconds() * 1e6 / took.len() as f64);
    }
    finish(&stream)?;
    Ok(values)
}

/// The same on a few connections while others carry bulk.
pub(crate) fn mixed(subject: &Subject<'_>) -> Result<Values, BenchError> {
    enum Part {
        Bulk(Stream, Direction),
        Messages(Stream),
    }
    enum Done {
        Bytes(u64),
        Took(Vec<u32>),
    }
    let mut parts = Vec::new();
    for number in 0..BULK_STREAMS {
        let direction = if number % 2 == 0 { Direction::Up } else { Direction::Down };
        parts.push(Part::Bulk(subject.front.open()?, direction));
    }
    for _ in 0..MESSAGE_STREAMS {
        let stream = echoing(subject.front)?;
        there_and_back(&stream)?;
        parts.push(Part::Messages(stream));
    }
    let cpu = Cpu::start(subject.roots);
    let start = Instant::now();
    let done = in_threads(parts, |part| match part {
        Part::Bulk(stream, direction) => carry(&stream, direction, subject.lasting, subject.stop).map(Done::Bytes),
        Part::Messages(stream) => {
            let took = messages(&stream, subject.lasting, subject.stop)?;
            finish(&stream)?;
            Ok(Done::Took(took))
        }
    })?;
    let seconds = start.elapsed().as_secs_f64();
    let (mut bytes, mut took) = (0, Vec::new());
    for part in done {
        match part {
            Done::Bytes(sum) => bytes += sum,
            Done::Took(times) => took.extend(times),
        }
    }
    let mut values = latencies(&mut took);
    values.insert("gbit_s", bytes as f64 * 8.0 / 1e9 / seconds);
    if !subject.roots.is_empty() {
        values.insert("cpu_s_gib", cpu.seconds() / (bytes as f64 / GIB));
    }
    Ok(values)
}

/// Connect, 64 bytes there and back, half-close, end; over and over on a few threads.
pub(crate) fn short(subject: &Subject<'_>) -> Result<Values, BenchError> {
    let cpu = Cpu::start(subject.roots);
    let start = Instant::now();
    let counts = in_threads(vec![(); SHORT_THREADS], |()| {
        let mut count = 0_u32;
        while start.elapsed() < subject.lasting {
            subject.stop.check()?;
            one_connection(subject.front)?;
            count += 1;
        }
        Ok(count)
    })?;
    let seconds = start.elapsed().as_secs_f64();
    let connections = f64::from(counts.iter().sum::<u32>());
    let mut values = Values::from([("conn_s", connections / seconds)]);
    if !subject.roots.is_empty() {
        values.insert("cpu_us_conn", cpu.seconds() * 1e6 / connections);
    }
    Ok(values)
}

/// One connection with one message, to its orderly end.
pub(crate) fn one_connection(front: &Front) -> Result<(), BenchError> {
    let stream = front.open()?;
    let mut both = [0; REQUEST_BYTES + MESSAGE.len()];
    for (place, byte) in both.iter_mut().zip(Request::Echo.encode().iter().chain(&MESSAGE)) {
        *place = *byte;
    }
    (&stream).write_all(&both).map_err(BenchError::io("send a message"))?;
    receive(&stream)?;
    finish(&stream)
}

/// A stream whose server echoes.
pub(super) fn echoing(front: &Front) -> Result<Stream, BenchError> {
    let stream = front.open()?;
    (&stream).write_all(&Request::Echo.encode()).map_err(BenchError::io("ask for an echo"))?;
    Ok(stream)
}

/// One message there and back.
pub(super) fn there_and_back(mut stream: &Stream) -> Result<(), BenchError> {
    stream.write_all(&MESSAGE).map_err(BenchError::io("send a message"))?;
    receive(stream)
}

/// Ends the stream, and sees the other end's end.
pub(super) fn finish(stream: &Stream) -> Result<(), BenchError> {
    stream.end_writing().map_err(BenchError::io("end a stream of messages"))?;
    expect_end(stream, "messages")
}

fn receive(mut stream: &Stream) -> Result<(), BenchError> {
    let mut answer = [0; MESSAGE.len()];
    stream.read_exact(&mut answer).map_err(BenchError::io("receive a message"))?;
    if answer == MESSAGE {
        return Ok(());
    }
    let same = answer.iter().zip(&MESSAGE).filter(|(got, sent)| got == sent).count() as u64;
    Err(BenchError::Mismatch { what: "a message", expected: MESSAGE.len() as u64, got: same })
}

/// Nanoseconds of each exchange.
fn messages(stream: &Stream, lasting: Duration, stop: &Stop) -> Result<Vec<u32>, BenchError> {
    let until = Instant::now() + lasting;
    let mut took = Vec::with_capacity(1 << 15);
    let mut last = Instant::now();
    while last < until {
        stop.check()?;
        there_and_back(stream)?;
        let now = Instant::now();
        took.push(u32::try_from(now.duration_since(last).as_nanos()).unwrap_or(u32::MAX));
        last = now;
    }
    Ok(took)
}

fn latencies(took: &mut [u32]) -> Values {
    let mut values = Values::new();
    for (name, per_mille) in [("p50_us", 500), ("p99_us", 990)] {
        values.extend(percentile(took, per_mille).map(|ns| (name, f64::from(ns) / 1000.0)));
    }
    values
}
