//! Reading one line from a Unix socket without taking a byte beyond it: the stream then still holds what follows, and no
//! prefix has to travel with it. Only for the two short lines of the hybrid transport.

use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{MsgFlags, recv};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Why there is no line.
#[derive(Debug)]
pub(crate) enum NoLine {
    /// The stream ended first.
    Ended,
    /// The cap came first.
    TooLong,
    Io(io::Error),
}

/// The next line without its 0A, of at most `max` bytes. Looks first (`MSG_PEEK`), then takes exactly the line.
/// The caller sets the deadline.
pub(crate) async fn read_line(stream: &UnixStream, max: usize) -> Result<Vec<u8>, NoLine> {
    let mut line = Vec::new();
    loop {
        let mut seen = [0_u8; 64];
        let peeked = take(stream, &mut seen, MsgFlags::MSG_PEEK).await?;
        let seen = seen.get_mut(..peeked).unwrap_or_default();
        if seen.is_empty() {
            return Err(NoLine::Ended);
        }
        let newline = seen.iter().position(|byte| *byte == b'\n');
        let ours = newline.map_or(seen.len(), |at| at + 1);
        // The bytes are there, and nobody else reads: this takes what was seen.
        let taken = take(stream, seen.get_mut(..ours).unwrap_or_default(), MsgFlags::empty()).await?;
        line.extend_from_slice(seen.get(..taken).unwrap_or_default());
        if line.last() == Some(&b'\n') {
            line.pop();
            return if line.len() > max { Err(NoLine::TooLong) } else { Ok(line) };
        }
        if line.len() > max {
            return Err(NoLine::TooLong);
        }
    }
}

async fn take(stream: &UnixStream, buffer: &mut [u8], flags: MsgFlags) -> Result<usize, NoLine> {
    stream.async_io(Interest::READABLE, || Ok(recv(stream.as_raw_fd(), buffer, flags)?)).await.map_err(NoLine::Io)
}

/// Longest `CONNECT <port>` or `OK <number>` without its 0A: ten digits and the longer word.
pub(crate) const HYBRID_LINE_MAX_BYTES: usize = 18;

pub(crate) fn encode_connect(port: u32) -> Vec<u8> {
    format!("CONNECT {port}\n").into_bytes()
}

pub(crate) fn encode_ok(number: u32) -> Vec<u8> {
    format!("OK {number}\n").into_bytes()
}

pub(crate) fn parse_connect(line: &[u8]) -> Option<u32> {
    parse(line, b"CONNECT ")
}

pub(crate) fn parse_ok(line: &[u8]) -> Option<u32> {
    parse(line, b"OK ")
}

fn parse(line: &[u8], word: &[u8]) -> Option<u32> {
    let digits = line.strip_prefix(word)?;
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}
