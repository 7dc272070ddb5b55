//! Ingress: the streams that the bridge brings to one of the enclave's ports.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use enclave_bridge_net::{GuestListener, Origin, Peer, Scope, Stream};
use enclave_bridge_proto::{ProxyV2Progress, ProxyV2Reader};
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::form::Form;
use crate::{Conn, Error};

/// How long the bridge may take for the PROXY header, which it sends before anything else.
const HEADER_LIMIT: Duration = Duration::from_secs(5);

/// Connections whose header has not arrived yet. Beyond it the oldest is closed: it had its chance, and a bridge that
/// works sends the header with the connection.
const UNFINISHED_MAX: usize = 128;

/// What one read takes while a header is awaited. What follows the header is kept for the stream.
const HEADER_READ_BYTES: usize = 512;

/// The client of an ingress connection, as far as the bridge says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientAddr {
    /// The client's address, from the bridge's PROXY header. It is the host's word, not a proof.
    Known(SocketAddr),
    /// The bridge does not say: no header was asked for, or it came from the bridge itself.
    Unknown,
}

impl std::fmt::Display for ClientAddr {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Known(address) => address.fmt(out),
            Self::Unknown => out.write_str("unknown"),
        }
    }
}

/// Accepts the connections of one server. It stays bound while the session comes and goes, and ends with
/// [`Session::shutdown`](crate::Session::shutdown) or when the session is dropped.
///
/// It is an `axum::serve::Listener` too, with [`ClientAddr`] as the connection information.
pub struct Listener {
    source: Source,
    headers: Option<Headers>,
    form: Form,
    turned_away: Arc<AtomicU64>,
    scope: Scope,
}

pub(crate) enum Source {
    /// AF_VSOCK; only the host may connect.
    Vsock { listener: enclave_bridge_net::Listener, host_cid: u32 },
    /// The enclave's end of the hybrid transport.
    Hybrid(GuestListener),
}

impl Listener {
    pub(crate) fn new(source: Source, proxy_v2: bool, form: Form, scope: Scope) -> Self {
        let headers = proxy_v2.then(Headers::default);
        Self { source, headers, form, turned_away: Arc::default(), scope }
    }

    /// The next connection. Cancel-safe.
    ///
    /// # Errors
    /// [`Error::Closed`] once the session is shut down; [`Error::Accept`] when the listening socket is dead. What a
    /// single connection does wrong is no error here: see [`Listener::turned_away`].
    pub async fn accept(&mut self) -> Result<(Conn, ClientAddr), Error> {
        loop {
            let headers = &mut self.headers;
            let finished = poll_fn(|cx| match headers {
                Some(headers) => headers.poll_next(cx, &self.turned_away),
                None => Poll::Pending,
            });
            let (stream, origin) = tokio::select! {
                biased;
                () = self.scope.cancelled() => return Err(Error::Closed),
                (conn, client) = finished => return Ok((conn, client)),
                accepted = self.source.accept() => accepted?,
            };
            if !self.source.admits(&origin) {
                self.turned_away.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let framed = self.form.is_framed();
            match &mut self.headers {
                None => return Ok((Conn::new(Vec::new(), stream, framed), ClientAddr::Unknown)),
                Some(headers) => headers.push(stream, framed, &self.turned_away),
            }
        }
    }

    /// How many connections were closed unseen: not from the host, without a PROXY header where one was asked for, or
    /// too slow with it.
    #[must_use]
    pub fn turned_away(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.turned_away)
    }
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Listener").field("proxy_v2", &self.headers.is_some()).finish_non_exhaustive()
    }
}

impl axum::serve::Listener for Listener {
    type Io = Conn;
    type Addr = ClientAddr;

    /// Never resolves once the session is shut down: end the server with `with_graceful_shutdown`.
    async fn accept(&mut self) -> (Conn, ClientAddr) {
        match Listener::accept(self).await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("listener: {error}");
                std::future::pending().await
            }
        }
    }

    fn local_addr(&self) -> io::Result<ClientAddr> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "an enclave's port has no IP address"))
    }
}

impl axum::extract::connect_info::Connected<axum::serve::IncomingStream<'_, Listener>> for ClientAddr {
    fn connect_info(stream: axum::serve::IncomingStream<'_, Listener>) -> Self {
        *stream.remote_addr()
    }
}

impl Source {
    async fn accept(&mut self) -> Result<(Stream, Origin), Error> {
        match self {
            Self::Vsock { listener, .. } => Ok(listener.accept().await?),
            Self::Hybrid(listener) => Ok(listener.accept().await?),
        }
    }

    fn admits(&self, origin: &Origin) -> bool {
        match self {
            Self::Vsock { host_cid, .. } => from_host(origin, *host_cid),
            // Who may connect to the socket's path is decided by the file system.
            Self::Hybrid(_) => true,
        }
    }
}

/// On AF_VSOCK other guests may be able to connect; what they say does not come from the bridge.
fn from_host(origin: &Origin, host_cid: u32) -> bool {
    matches!(origin, Origin::Peer(Peer::Cid(cid)) if *cid == host_cid)
}

/// The connections whose PROXY header is awaited, oldest first: they are read side by side, so a silent one holds up
/// nobody.
#[derive(Default)]
struct Headers {
    unfinished: VecDeque<Unfinished>,
    timer: Option<Pin<Box<Sleep>>>,
}

struct Unfinished {
    stream: Stream,
    framed: bool,
    reader: ProxyV2Reader,
    deadline: Instant,
}

impl Headers {
    fn push(&mut self, stream: Stream, framed: bool, turned_away: &AtomicU64) {
        if self.unfinished.len() >= UNFINISHED_MAX && self.unfinished.pop_front().is_some() {
            turned_away.fetch_add(1, Ordering::Relaxed);
        }
        let deadline = Instant::now() + HEADER_LIMIT;
        self.unfinished.push_back(Unfinished { stream, framed, reader: ProxyV2Reader::new(), deadline });
    }

    fn poll_next(&mut self, cx: &mut Context<'_>, turned_away: &AtomicU64) -> Poll<(Conn, ClientAddr)> {
        let mut position = 0;
        while let Some(unfinished) = self.unfinished.get_mut(position) {
            let Poll::Ready(outcome) = unfinished.poll_header(cx) else {
                position += 1;
                continue;
            };
            let finished = self.unfinished.remove(position);
            if let (Some((client, rest)), Some(finished)) = (outcome, finished) {
                return Poll::Ready((Conn::new(rest, finished.stream, finished.framed), client));
            }
            turned_away.fetch_add(1, Ordering::Relaxed);
        }
        while let Some(oldest) = self.unfinished.front() {
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(oldest.deadline)));
            if timer.deadline() != oldest.deadline {
                timer.as_mut().reset(oldest.deadline);
            }
            ready!(timer.as_mut().poll(cx));
            self.unfinished.pop_front();
            turned_away.fetch_add(1, Ordering::Relaxed);
        }
        Poll::Pending
    }
}

impl Unfinished {
    /// The client and what followed the header; `None` where this is no header.
    fn poll_header(&mut self, cx: &mut Context<'_>) -> Poll<Option<(ClientAddr, Vec<u8>)>> {
        loop {
            let mut chunk = [0; HEADER_READ_BYTES];
            let mut buf = ReadBuf::new(&mut chunk);
            if ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf)).is_err() || buf.filled().is_empty() {
                return Poll::Ready(None);
            }
            match self.reader.push(buf.filled()) {
                ProxyV2Progress::NeedMore => {}
                ProxyV2Progress::Bad(_) => return Poll::Ready(None),
                ProxyV2Progress::Header { source, consumed, .. } => {
                    let rest = buf.filled().get(consumed..).unwrap_or_default().to_vec();
                    return Poll::Ready(Some((source.map_or(ClientAddr::Unknown, ClientAddr::Known), rest)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_host_is_admitted_on_vsock() {
        assert!(from_host(&Origin::Peer(Peer::Cid(3)), 3));
        for origin in [Origin::Peer(Peer::Cid(2)), Origin::Peer(Peer::Cid(16)), Origin::Tcp(([127, 0, 0, 1], 1).into())]
        {
            assert!(!from_host(&origin, 3), "{origin:?}");
        }
    }
}
