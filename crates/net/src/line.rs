//! Reading one line from a Unix socket without taking a byte beyond it: the stream then still holds what follows, and no
//! prefix has to travel with it. Only for the two short lines of the hybrid transport.

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

/// The next line without its 0A, of at most [`HYBRID_LINE_MAX_BYTES`]. Looks first (`MSG_PEEK`), then takes exactly what
/// belongs to the line. The caller sets the deadline.
pub(crate) async fn read_line(stream: &UnixStream) -> Result<Vec<u8>, NoLine> {
    let mut reader = LineReader::new(HYBRID_LINE_MAX_BYTES);
    loop {
        let mut buffer = [0_u8; HYBRID_LINE_MAX_BYTES + 1];
        let seen = receive(stream, &mut buffer, MsgFlags::MSG_PEEK).await?;
        if seen == 0 {
            return Err(NoLine::Ended);
        }
        let progress = reader.push(buffer.get(..seen).unwrap_or_default());
        let mut ours = match progress {
            LineProgress::NeedMore => seen,
            LineProgress::Line { consumed } => consumed,
            LineProgress::TooLong => return Err(NoLine::TooLong),
        };
        // What was seen is there, and nobody else reads.
        while let Some(rest) = buffer.get_mut(..ours).filter(|rest| !rest.is_empty()) {
            ours -= match receive(stream, rest, MsgFlags::empty()).await? {
                0 => return Err(NoLine::Ended),
                taken => taken.min(ours),
            };
        }
        if let LineProgress::Line { .. } = progress {
            return Ok(reader.take_line());
        }
    }
}

async fn receive(stream: &UnixStream, buffer: &mut [u8], flags: MsgFlags) -> Result<usize, NoLine> {
    stream.async_io(Interest::READABLE, || Ok(recv(stream.as_raw_fd(), buffer, flags)?)).await.map_err(NoLine::Io)
}
