//! Reading one line from a Unix socket, for the two short lines of the hybrid transport. What comes behind the line in the
//! same read is handed over with it, to travel with the stream.

use std::io;
use std::os::fd::AsRawFd;

use enclave_bridge_proto::{HYBRID_LINE_MAX_BYTES, LineProgress, LineReader};
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

/// The next line without its 0A, of at most [`HYBRID_LINE_MAX_BYTES`], and what came behind it: the stream's first bytes. The
/// caller sets the deadline.
pub(crate) async fn read_line(stream: &UnixStream) -> Result<(Vec<u8>, Vec<u8>), NoLine> {
    let mut reader = LineReader::new(HYBRID_LINE_MAX_BYTES);
    loop {
        let mut buffer = [0_u8; HYBRID_LINE_MAX_BYTES + 1];
        let read =
            stream.async_io(Interest::READABLE, || Ok(recv(stream.as_raw_fd(), &mut buffer, MsgFlags::empty())?));
        let read = match read.await.map_err(NoLine::Io)? {
            0 => return Err(NoLine::Ended),
            count => buffer.get(..count).unwrap_or_default(),
        };
        match reader.push(read) {
            LineProgress::NeedMore => {}
            LineProgress::Line { consumed } => {
                return Ok((reader.take_line(), read.get(consumed..).unwrap_or_default().to_vec()));
            }
            LineProgress::TooLong => return Err(NoLine::TooLong),
        }
    }
}
