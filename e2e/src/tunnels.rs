//! What every tunnel's test does with a stream, whatever kind of socket it is.

use crate::bytes::{self, Hash, Pattern};
use crate::wire::Wire;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// How long a read or a write of a test's stream may stand still: longer than any machine is slow, shorter than for ever.
pub const STALL: Duration = Duration::from_secs(60);

/// One end of a tunnel.
pub trait Leg: Read + Write + Send {
    /// Ends the direction away from here.
    fn end_writing(&self);
}

impl Leg for TcpStream {
    fn end_writing(&self) {
        let _ = self.shutdown(Shutdown::Write);
    }
}

impl Leg for Wire {
    fn end_writing(&self) {
        self.shutdown(Shutdown::Write);
    }
}

/// Connects with time limits set.
#[must_use]
pub fn tcp(address: SocketAddr) -> TcpStream {
    let stream =
        TcpStream::connect_timeout(&address, STALL).unwrap_or_else(|error| panic!("connect to {address}: {error}"));
    stream.set_read_timeout(Some(STALL)).expect("a time limit");
    stream.set_write_timeout(Some(STALL)).expect("a time limit");
    stream.set_nodelay(true).expect("a TCP stream");
    stream
}

/// What one end found at the end of its reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// Of everything that came.
    pub hash: Hash,
    /// How much came.
    pub length: u64,
}

impl Heard {
    /// What must be heard of a pattern.
    #[must_use]
    pub fn pattern(seed: u64, length: u64) -> Heard {
        Heard { hash: Pattern::hash(seed, length), length }
    }
}

/// Speaks the whole pattern, ends its own direction, and only then listens until the end.
///
/// # Errors
/// What writing or reading met.
pub fn speak_then_listen(leg: &mut impl Leg, seed: u64, length: u64) -> io::Result<Heard> {
    bytes::copy(&mut Pattern::new(seed, length), leg)?;
    leg.end_writing();
    let (hash, length) = bytes::hash_of(leg)?;
    Ok(Heard { hash, length })
}

/// Listens until the end, then speaks the whole pattern and ends its own direction.
///
/// # Errors
/// What writing or reading met.
pub fn listen_then_speak(leg: &mut impl Leg, seed: u64, length: u64) -> io::Result<Heard> {
    let (hash, heard) = bytes::hash_of(leg)?;
    bytes::copy(&mut Pattern::new(seed, length), leg)?;
    leg.end_writing();
    Ok(Heard { hash, length: heard })
}

/// Reads until something ends the stream: how many bytes, and the error where it was one.
pub fn read_out(leg: &mut impl Read) -> (u64, Option<io::ErrorKind>) {
    let mut scratch = vec![0; 64 * 1024];
    let mut total = 0;
    loop {
        match leg.read(&mut scratch) {
            Ok(0) => return (total, None),
            Ok(n) => total += n as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (total, Some(error.kind())),
        }
    }
}
