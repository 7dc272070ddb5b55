//! The server behind every relay: a pool of threads that accept and serve, so that no connection costs a thread's start.
//!
//! A stream begins with a request of 16 bytes: what to do, and a number. The answer always lets the client check that no
//! byte was lost.

use crate::error::BenchError;
use crate::records::{Form, Served};
use crate::socket::{Address, Listener, Stream};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Streams that are served at once: 64 of a test, and room for what the test before leaves.
const WORKERS: usize = 96;

/// One read or write of bulk.
pub(crate) const BLOCK_BYTES: usize = 64 * 1024;

/// What a server reads at once: more than any relay writes at once.
const READ_BYTES: usize = 256 * 1024;

/// Length of a request.
pub(crate) const REQUEST_BYTES: usize = 16;

/// The last bytes of a source: these, and the count of what came before.
pub(crate) const TRAILER_BYTES: usize = 16;

const TRAILER_MARK: [u8; 8] = *b"the end\n";

/// "CONNECT 4294967295\n" is 19 bytes; a longer line is no request of the hybrid transport.
const CONNECT_MAX_BYTES: usize = 32;

/// A flood has met a stalled reader once nothing more went out for this long.
const STALLED_AFTER: Duration = Duration::from_millis(150);

/// No more than this is sent to a reader that is supposed to stall.
const FLOOD_MAX_BYTES: usize = 256 * 1024 * 1024;

/// What the server is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    /// Send back whatever comes, then the end.
    Echo,
    /// After so many milliseconds: read to the end, answer with the count in 8 bytes.
    Sink(u64),
    /// Send for so many milliseconds, then a trailer, then the end.
    Source(u64),
    /// Read so many bytes, send as many back, and hold the connection.
    Hold(u64),
    /// Hold the connection and read nothing more.
    Stall,
    /// Send until the reader stalls, and hold the connection.
    Flood,
}

impl Request {
    /// As it stands on the wire.
    pub(crate) fn encode(self) -> [u8; REQUEST_BYTES] {
        let (kind, number) = match self {
            Request::Echo => (1, 0),
            Request::Sink(number) => (2, number),
            Request::Source(number) => (3, number),
            Request::Hold(number) => (4, number),
            Request::Stall => (5, 0),
            Request::Flood => (6, 0),
        };
        let words = (u128::from(number) << 64) | kind;
        words.to_le_bytes()
    }

    fn decode(bytes: [u8; REQUEST_BYTES]) -> Option<Request> {
        let words = u128::from_le_bytes(bytes);
        let number = u64::try_from(words >> 64).ok()?;
        match u64::try_from(words & u128::from(u64::MAX)).ok()? {
            1 => Some(Request::Echo),
            2 => Some(Request::Sink(number)),
            3 => Some(Request::Source(number)),
            4 => Some(Request::Hold(number)),
            5 => Some(Request::Stall),
            6 => Some(Request::Flood),
            _ => None,
        }
    }
}

/// The trailer of a source that sent `count` bytes before it.
pub(crate) fn trailer(count: u64) -> [u8; TRAILER_BYTES] {
    let words = (u128::from(count) << 64) | u128::from(u64::from_le_bytes(TRAILER_MARK));
    words.to_le_bytes()
}

/// The count in a trailer.
pub(crate) fn trailer_count(bytes: [u8; TRAILER_BYTES]) -> Option<u64> {
    let words = u128::from_le_bytes(bytes);
    let mark = u64::try_from(words & u128::from(u64::MAX)).ok()?;
    if mark == u64::from_le_bytes(TRAILER_MARK) { u64::try_from(words >> 64).ok() } else { None }
}

/// What stands before the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Before {
    /// Nothing.
    Nothing,
    /// The two lines of the hybrid transport: the guest's socket. Behind them the stream has this form.
    Connect(Form),
}

/// Connections that stay open until they are let go.
#[derive(Debug, Clone, Default)]
pub(crate) struct Held(Arc<Mutex<Vec<Stream>>>);

impl Held {
    /// Closes all of them.
    pub(crate) fn let_go(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn hold(&self, stream: Stream) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(stream);
    }
}

/// Serves `address` for as long as the process lives.
pub(crate) fn serve(address: &Address, before: Before, held: &Held) -> Result<(), BenchError> {
    let listener = Arc::new(address.listen()?);
    for _ in 0..WORKERS {
        let (listener, held) = (Arc::clone(&listener), held.clone());
        let worker = std::thread::Builder::new().name("service".to_owned()).stack_size(128 * 1024);
        worker.spawn(move || work(&listener, before, &held)).map_err(BenchError::io("start a thread"))?;
    }
    Ok(())
}

fn work(listener: &Listener, before: Before, held: &Held) {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match listener.accept() {
            // A stream that ends badly is the client's to report: it counts.
            Ok(stream) => drop(serve_one(stream, before, held, &mut buffer)),
            // Out of descriptors, most likely: they come back.
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn serve_one(stream: Stream, before: Before, held: &Held, buffer: &mut [u8]) -> io::Result<()> {
    let form = match before {
        Before::Nothing => Form::Raw,
        Before::Connect(form) => {
            answer_connect(&stream)?;
            form
        }
    };
    let mut stream = Served::new(stream, form);
    let mut filled = 0;
    let request = loop {
        filled += some(stream.read(buffer.get_mut(filled..).unwrap_or_default())?)?;
        if let Some(request) = buffer.first_chunk::<REQUEST_BYTES>().filter(|_| filled >= REQUEST_BYTES) {
            break Request::decode(*request).ok_or(ErrorKind::InvalidData)?;
        }
    };
    let early = buffer.get(REQUEST_BYTES..filled).unwrap_or_default();
    match request {
        Request::Echo => {
            if !early.is_empty() {
                stream.write_all(early)?;
            }
            loop {
                let count = stream.read(buffer)?;
                if count == 0 {
                    return stream.end_writing();
                }
                stream.write_all(buffer.get(..count).unwrap_or_default())?;
            }
        }
        Request::Sink(wait_ms) => {
            let mut sum = early.len() as u64;
            if wait_ms > 0 {
                std::thread::sleep(Duration::from_millis(wait_ms));
            }
            loop {
                let count = stream.count(buffer)?;
                if count == 0 {
                    stream.write_all(&sum.to_le_bytes())?;
                    return stream.close();
                }
                sum += count as u64;
            }
        }
        Request::Source(for_ms) => {
            let until = Instant::now() + Duration::from_millis(for_ms);
            let block = stream.block(buffer.get(..BLOCK_BYTES).unwrap_or_default());
            let mut sum = 0;
            while Instant::now() < until {
                stream.write_all(block)?;
                sum += block.len() as u64;
            }
            stream.write_all(&trailer(sum))?;
            stream.end_writing()?;
            // Closing before the other end has read everything could turn the rest into a reset.
            while stream.count(buffer)? > 0 {}
            Ok(())
        }
        Request::Hold(bytes) => {
            let mut missing = bytes.saturating_sub(early.len() as u64);
            while missing > 0 {
                missing = missing.saturating_sub(some(stream.count(buffer)?)? as u64);
            }
            let mut left = bytes;
            while left > 0 {
                let block = buffer.get(..BLOCK_BYTES.min(usize::try_from(left).unwrap_or(BLOCK_BYTES)));
                stream.write_all(block.unwrap_or_default())?;
                left -= block.map_or(left, |block| block.len() as u64);
            }
            stream.write_all(b"h")?;
            held.hold(stream.into_raw()?);
            Ok(())
        }
        Request::Stall => {
            stream.write_all(b"s")?;
            held.hold(stream.into_raw()?);
            Ok(())
        }
        Request::Flood => {
            let stream = stream.into_raw()?;
            flood(&stream, buffer)?;
            held.hold(stream);
            Ok(())
        }
    }
}

/// Writes until nothing has gone out for [`STALLED_AFTER`]; gives what went out.
pub(crate) fn flood(stream: &Stream, block: &[u8]) -> io::Result<usize> {
    stream.set_nonblocking(true)?;
    let (mut sum, mut last) = (0, Instant::now());
    while last.elapsed() < STALLED_AFTER && sum < FLOOD_MAX_BYTES {
        let mut writing = stream;
        match writing.write(block) {
            Ok(count) => {
                sum += count;
                last = Instant::now();
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(5)),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sum)
}

/// The bridge sends nothing behind its line before it has the answer: what was read is the line.
fn answer_connect(mut stream: &Stream) -> io::Result<()> {
    let mut line = [0; CONNECT_MAX_BYTES];
    let mut filled = 0;
    while !line.contains(&b'\n') {
        filled += match stream.read(line.get_mut(filled..).unwrap_or_default()) {
            Err(error) if error.kind() == ErrorKind::Interrupted => 0,
            read => some(read?)?,
        };
    }
    stream.write_all(b"OK 1073741824\n")
}

/// An end is an error.
fn some(count: usize) -> io::Result<usize> {
    if count == 0 { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(count) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_come_out_as_they_went_in() {
        for request in [
            Request::Echo,
            Request::Sink(0),
            Request::Source(250),
            Request::Hold(u64::MAX),
            Request::Stall,
            Request::Flood,
        ] {
            assert_eq!(Request::decode(request.encode()), Some(request));
        }
        assert_eq!(Request::decode([9; REQUEST_BYTES]), None);
    }

    #[test]
    fn a_trailer_is_told_from_bulk() {
        assert_eq!(trailer_count(trailer(7)), Some(7));
        assert_eq!(trailer_count([0; TRAILER_BYTES]), None);
    }
}
