//! Reaching a vsock port of the other side, with a deadline and an error that names the stage. Retrying a refused
//! connection is the caller's business.

use std::fmt;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use enclave_bridge_proto::{encode_hybrid_connect, parse_hybrid_ok};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect as connect_socket, socket};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout_at};

use crate::address::{Route, hybrid_path};
use crate::line::{NoLine, read_line};
use crate::stream::Stream;
use crate::vsock;

/// Pause before a Unix socket whose backlog is full (EAGAIN; the kernel offers no readiness for it) is tried again:
/// short beside any deadline, long beside the time that accepting a connection takes.
pub const UNIX_BACKLOG_PAUSE: Duration = Duration::from_millis(2);

/// How far a dial came.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DialStage {
    /// Connecting the socket.
    Connect,
    /// Writing the hybrid transport's request.
    Request,
    /// Reading the answer to it.
    Answer,
}

impl fmt::Display for DialStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DialStage::Connect => "connect",
            DialStage::Request => "request",
            DialStage::Answer => "answer",
        })
    }
}

/// Why a dial failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialCause {
    /// The deadline came first.
    #[error("timed out")]
    TimedOut,
    /// The system's error. A hybrid peer that closes instead of answering counts as
    /// [`io::ErrorKind::ConnectionRefused`]: nothing listens at that port. (AF_VSOCK itself says
    /// [`io::ErrorKind::ConnectionReset`] for that.)
    #[error("{0}")]
    Io(io::Error),
    /// The answer was not `OK` and a number.
    #[error("bad answer")]
    BadAnswer,
}

/// A failed dial.
#[derive(Debug, thiserror::Error)]
#[error("dial {route} port {port}: {stage}: {cause}")]
pub struct DialError {
    /// Where to.
    pub route: Route,
    /// Which vsock port.
    pub port: u32,
    /// How far it came.
    pub stage: DialStage,
    /// What stopped it.
    pub cause: DialCause,
}

/// Connects to `port` by `route`, at the latest until `deadline`. The stream stands right behind the transport's own
/// lines: a server that speaks first loses no byte. A full backlog of a Unix socket is waited for.
///
/// # Errors
/// With the stage that failed. Cancel-safe: a dropped dial closes its socket.
pub async fn dial(route: &Route, port: u32, deadline: impl Into<Instant>) -> Result<Stream, DialError> {
    let deadline = deadline.into();
    let mut stage = DialStage::Connect;
    let cause = match timeout_at(deadline, reach(route, port, &mut stage)).await {
        Ok(Ok(stream)) => return Ok(stream),
        Ok(Err(cause)) => cause,
        Err(_) => DialCause::TimedOut,
    };
    Err(DialError { route: route.clone(), port, stage, cause })
}

async fn reach(route: &Route, port: u32, stage: &mut DialStage) -> Result<Stream, DialCause> {
    match route {
        Route::Vsock { cid, window } => vsock::connect(*cid, port, *window).await.map_err(DialCause::Io),
        Route::HybridGuest { uds_path } => {
            let socket = connect(&hybrid_path(uds_path, port)).await?;
            Ok(Stream::from_unix(UnixStream::from_std(socket).map_err(DialCause::Io)?))
        }
        Route::HybridHost { uds_path } => {
            let socket = connect(uds_path).await?;
            *stage = DialStage::Request;
            let stream = request(socket, &encode_hybrid_connect(port)).await.map_err(DialCause::Io)?;
            *stage = DialStage::Answer;
            let (line, first) = read_line(&stream).await.map_err(|no_line| match no_line {
                NoLine::Ended => DialCause::Io(io::ErrorKind::ConnectionRefused.into()),
                NoLine::TooLong => DialCause::BadAnswer,
                NoLine::Io(error) => DialCause::Io(error),
            })?;
            parse_hybrid_ok(&line).map_err(|_| DialCause::BadAnswer)?;
            Ok(Stream::from_unix_behind(first, stream))
        }
    }
}

/// A Unix socket connects at once or not at all: asking for it outside of the runtime spares a turn of the poller, and the
/// question how it went.
async fn connect(path: &Path) -> Result<std::os::unix::net::UnixStream, DialCause> {
    let address = UnixAddr::new(path).map_err(|errno| DialCause::Io(errno.into()))?;
    loop {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None);
        let socket = socket.map_err(|errno| DialCause::Io(errno.into()))?;
        match connect_socket(socket.as_raw_fd(), &address) {
            Ok(()) => return Ok(socket.into()),
            Err(Errno::EAGAIN) => sleep(UNIX_BACKLOG_PAUSE).await,
            Err(errno) => return Err(DialCause::Io(errno.into())),
        }
    }
}

/// Sends the line and hands the socket to the runtime, in this order: a socket that is fresh has room for the line, and what
/// the runtime waits for next is the answer.
async fn request(mut socket: std::os::unix::net::UnixStream, line: &[u8]) -> io::Result<UnixStream> {
    let sent = match socket.write(line) {
        Ok(sent) => sent,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
        Err(error) => return Err(error),
    };
    let mut stream = UnixStream::from_std(socket)?;
    stream.write_all(line.get(sent..).unwrap_or_default()).await?;
    Ok(stream)
}
