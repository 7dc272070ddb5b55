//! Listening that no peer can end and that survives a lack of descriptors. Who may connect is not decided here.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::errno::Errno;
use socket2::SockRef;
use tokio::net::{TcpListener, UnixListener};
use tokio::time::{Instant, sleep_until};
use tokio_vsock::VsockListener;

use crate::address::{Listen, Origin, Peer, hybrid_path};
use crate::bound;
use crate::socket_file::{SocketFile, listen_at};
use crate::stream::Stream;
use crate::vsock;
use crate::workers::Worker;

/// Connections that the kernel may hold before they are accepted: Linux' default limit (`net.core.somaxconn`) since
/// 5.4, so that a burst waits instead of failing. The kernel lowers it to its own limit.
pub const BACKLOG: i32 = 4096;

/// First pause after a failure of the machine's means (descriptors, memory); doubles up to [`ACCEPT_PAUSE_MAX`].
pub const ACCEPT_PAUSE_MIN: Duration = Duration::from_millis(10);

/// Longest pause between two attempts to accept: how late a freed descriptor is noticed at worst. Service is to be back
/// within a second, of which this leaves half to those that have waited.
pub const ACCEPT_PAUSE_MAX: Duration = Duration::from_millis(500);

/// Failures in a row that cost one connection each and are passed over without a pause. More than a peer can cause in
/// a row by chance; beyond it the listener pauses, so that no kernel answer can make it spin.
const PASSED_OVER_MAX: u32 = 128;

/// A warning at most this often per listener.
const WARN_INTERVAL: Duration = Duration::from_secs(1);

/// Listening failed at the start.
#[derive(Debug, thiserror::Error)]
#[error("listen on {listen}: {source}")]
pub struct BindError {
    /// Where.
    pub listen: Listen,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// The listener is dead: its socket is not one that accepts. Never the doing of a peer or of a lack of descriptors.
#[derive(Debug, thiserror::Error)]
#[error("accept on {listen}: {source}")]
pub struct AcceptError {
    /// Where.
    pub listen: Listen,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// A listening socket. [`bind`](Listener::bind), then [`accept`](Listener::accept) again and again; dropping it closes
/// the socket, refuses what was not accepted, and removes the file of a Unix socket.
#[derive(Debug)]
pub struct Listener {
    listen: Listen,
    socket: Accepting,
    pauses: Arc<AtomicU64>,
    // The state of a trouble is kept here and not in the future of `accept`, so that dropping that loses nothing.
    resume_at: Option<Instant>,
    pause: Duration,
    passed_over: u32,
    warned_at: Option<Instant>,
}

#[derive(Debug)]
pub(crate) enum Accepting {
    Tcp(TcpListener),
    // The file goes after the socket (declaration order): a dialler finds a refusal, never a file without meaning.
    Unix { socket: UnixListener, peer: Arc<Path>, _file: Arc<SocketFile> },
    Vsock(VsockListener),
}

impl Listener {
    /// Binds and listens; connections are taken by the kernel from here on. Stale Unix socket files (nobody listens) are
    /// replaced, live ones are [`io::ErrorKind::AddrInUse`]. TCP: `SO_REUSEADDR`, and an IPv6 address is IPv6 only.
    ///
    /// # Errors
    /// What the system says, with the place.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O.
    pub fn bind(listen: &Listen) -> Result<Listener, BindError> {
        let socket = match listen {
            Listen::Tcp(address) => bind_tcp(*address),
            Listen::Hybrid { uds_path, port } => bind_unix(&hybrid_path(uds_path, *port), uds_path),
            Listen::Unix(path) => bind_unix(path, path),
            Listen::Vsock { port, window } => vsock::listen(*port, BACKLOG, *window).map(Accepting::Vsock),
        };
        match socket {
            Ok(socket) => Ok(Listener::over(listen.clone(), socket)),
            Err(source) => Err(BindError { listen: listen.clone(), source }),
        }
    }

    /// A listener over a socket that listens.
    pub(crate) fn over(listen: Listen, socket: Accepting) -> Listener {
        Listener {
            listen,
            socket,
            pauses: Arc::new(AtomicU64::new(0)),
            resume_at: None,
            pause: ACCEPT_PAUSE_MIN,
            passed_over: 0,
            warned_at: None,
        }
    }

    /// Where this listens, as it was asked for.
    pub fn listen(&self) -> &Listen {
        &self.listen
    }

    /// The TCP address, with the port that the kernel chose; `None` for other kinds.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.socket {
            Accepting::Tcp(socket) => socket.local_addr().ok(),
            Accepting::Unix { .. } | Accepting::Vsock(_) => None,
        }
    }

    /// Counts this listener's pauses in `counter`, which listeners may share.
    #[must_use]
    pub fn count_pauses(mut self, counter: Arc<AtomicU64>) -> Listener {
        self.pauses = counter;
        self
    }

    /// From now on what is accepted is armed as by [`Stream::arm_reset`] from its first moment, also while it still
    /// waits to be accepted.
    #[must_use]
    pub fn arm_accepted(self) -> Listener {
        if let Accepting::Tcp(socket) = &self.socket
            && let Err(error) = SockRef::from(socket).set_linger(Some(Duration::ZERO))
        {
            tracing::warn!(listen = %self.listen, %error, "tcp listener: set linger");
        }
        self
    }

    /// Counts the pauses made for a lack of descriptors or memory.
    pub fn pauses(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.pauses)
    }

    /// The next connection and where it came from, as the kernel says. TCP streams have `TCP_NODELAY` set.
    ///
    /// Connections that died in the queue are passed over; when descriptors or memory are lacking the listener pauses
    /// (counted, warned of at most once a second) and goes on by itself. Cancel-safe: no connection is lost.
    ///
    /// # Errors
    /// Only when the listening socket itself is dead.
    pub async fn accept(&mut self) -> Result<(Stream, Origin), AcceptError> {
        let (stream, origin, _here) = self.accept_for(Worker::here).await?;
        Ok((stream, origin))
    }

    /// As [`accept`](Listener::accept), for a stream that will run on the worker that `choose` names at the moment of
    /// accepting: its socket is with that worker's poller from the beginning.
    ///
    /// # Errors
    /// As [`accept`](Listener::accept).
    pub async fn accept_for(&mut self, choose: impl Fn() -> Worker) -> Result<(Stream, Origin, Worker), AcceptError> {
        loop {
            if let Some(resume_at) = self.resume_at {
                sleep_until(resume_at).await;
                self.resume_at = None;
            }
            match poll_fn(|cx| self.socket.poll_accept(cx, &choose)).await {
                Ok(accepted) => {
                    self.pause = ACCEPT_PAUSE_MIN;
                    self.passed_over = 0;
                    return Ok(accepted);
                }
                Err(source) => self.judge(source)?,
            }
        }
    }

    fn judge(&mut self, source: io::Error) -> Result<(), AcceptError> {
        match Trouble::of(&source) {
            Trouble::Connection if self.passed_over < PASSED_OVER_MAX => {
                self.passed_over += 1;
                tracing::debug!(listen = %self.listen, error = %source, "accept: connection passed over");
                Ok(())
            }
            Trouble::Connection | Trouble::Means => {
                self.pause_for(&source);
                Ok(())
            }
            Trouble::Listener => Err(AcceptError { listen: self.listen.clone(), source }),
        }
    }

    fn pause_for(&mut self, source: &io::Error) {
        let now = Instant::now();
        self.resume_at = Some(now + self.pause);
        let count = self.pauses.fetch_add(1, Ordering::Relaxed) + 1;
        if self.warned_at.is_none_or(|at| now.duration_since(at) >= WARN_INTERVAL) {
            self.warned_at = Some(now);
            tracing::warn!(listen = %self.listen, error = %source, pauses = count, "accept pauses");
        }
        self.pause = (self.pause * 2).min(ACCEPT_PAUSE_MAX);
    }
}

/// Whose trouble an accept error is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Trouble {
    /// This one connection's: Linux hands out pending network errors of the new socket, or a filter refused it.
    Connection,
    /// The machine lacks descriptors or memory, or the error is one that nobody has thought of.
    Means,
    /// The listening socket's.
    Listener,
}

impl Trouble {
    fn of(error: &io::Error) -> Trouble {
        let errno = error.raw_os_error().map(Errno::from_raw);
        match errno {
            Some(
                Errno::ECONNABORTED
                | Errno::ECONNRESET
                | Errno::EINTR
                | Errno::EPROTO
                | Errno::EPERM
                | Errno::ENETDOWN
                | Errno::ENOPROTOOPT
                | Errno::EHOSTDOWN
                | Errno::ENONET
                | Errno::EHOSTUNREACH
                | Errno::ENETUNREACH
                | Errno::ETIMEDOUT,
            ) => Trouble::Connection,
            Some(Errno::EBADF | Errno::EINVAL | Errno::ENOTSOCK | Errno::EOPNOTSUPP | Errno::EFAULT) => {
                Trouble::Listener
            }
            _ => Trouble::Means,
        }
    }
}

impl Accepting {
    fn poll_accept(
        &self,
        cx: &mut Context<'_>,
        choose: impl Fn() -> Worker,
    ) -> Poll<io::Result<(Stream, Origin, Worker)>> {
        let worker = choose();
        let inside = worker.enter();
        let (stream, origin) = match self {
            Accepting::Tcp(socket) => {
                let (stream, address) = ready!(socket.poll_accept(cx))?;
                (Stream::from_tcp(stream), Origin::Tcp(address))
            }
            Accepting::Unix { socket, peer, .. } => {
                let (stream, _) = ready!(socket.poll_accept(cx))?;
                (Stream::from_unix(stream), Origin::Peer(Peer::Path(Arc::clone(peer))))
            }
            Accepting::Vsock(socket) => {
                let (socket, address) = ready!(socket.poll_accept_std(cx))?;
                (Stream::from_vsock(socket.into())?, Origin::Peer(Peer::Cid(address.cid())))
            }
        };
        drop(inside);
        Poll::Ready(Ok((stream, origin, worker)))
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<Accepting> {
    Ok(Accepting::Tcp(TcpListener::from_std(bound::tcp(address)?.into())?))
}

fn bind_unix(path: &Path, peer: &Path) -> io::Result<Accepting> {
    let (socket, file) = listen_at(path, BACKLOG)?;
    Ok(Accepting::Unix { socket: UnixListener::from_std(socket.into())?, peer: Arc::from(peer), _file: Arc::new(file) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errnos_are_sorted_by_whose_trouble_they_are() {
        let of = |errno: Errno| Trouble::of(&io::Error::from_raw_os_error(errno as i32));
        assert_eq!(of(Errno::ECONNABORTED), Trouble::Connection);
        assert_eq!(of(Errno::EPERM), Trouble::Connection);
        for errno in [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM, Errno::ENOSPC] {
            assert_eq!(of(errno), Trouble::Means);
        }
        assert_eq!(of(Errno::EINVAL), Trouble::Listener);
        assert_eq!(of(Errno::EBADF), Trouble::Listener);
        assert_eq!(Trouble::of(&io::Error::other("no number")), Trouble::Means);
    }
}
