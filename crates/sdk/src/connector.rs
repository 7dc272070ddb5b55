//! The dialer as hyper's clients and hyper-rustls take it.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{Conn, Dialer, Error};

const HTTP_PORT: u16 = 80;
const HTTPS_PORT: u16 = 443;

/// What a server may say before the client has spoken; more stays in the sockets until then. A banner or the head of
/// an early response is smaller.
const HELD_MAX_BYTES: usize = 16 * 1024;

/// A `tower_service::Service<Uri>` whose connections go through the bridge. Cheap to clone.
///
/// It connects plainly for every scheme; `hyper_rustls::HttpsConnectorBuilder::wrap_connector` puts TLS on top.
#[derive(Clone, Debug)]
pub struct Connector {
    dialer: Dialer,
}

impl Connector {
    /// A connector that uses this dialer.
    #[must_use]
    pub fn new(dialer: Dialer) -> Self {
        Self { dialer }
    }
}

impl From<Dialer> for Connector {
    fn from(dialer: Dialer) -> Self {
        Self::new(dialer)
    }
}

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<HttpConn>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Error>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let dialer = self.dialer.clone();
        Box::pin(async move {
            let (host, port) = host_and_port(&uri)?;
            Ok(TokioIo::new(HttpConn::new(dialer.connect(host, port).await?)))
        })
    }
}

fn host_and_port(uri: &Uri) -> Result<(&str, u16), Error> {
    let host = uri.host().ok_or(Error::Uri { reason: "without a host" })?;
    let port = match (uri.port_u16(), uri.scheme_str()) {
        (Some(port), _) => port,
        (None, Some("https" | "wss")) => HTTPS_PORT,
        (None, Some("http" | "ws") | None) => HTTP_PORT,
        (None, Some(_)) => return Err(Error::Uri { reason: "without a port, and the scheme has none that is known" }),
    };
    Ok((host, port))
}

/// A connection for an HTTP client: what the server says before the client has spoken waits until it has.
///
/// In HTTP and TLS the client speaks first, and hyper takes bytes that arrive before its request for a broken
/// connection. A server that answers on connecting is heard this way. An end of the stream is reported at once, so that
/// a pool notices a connection that died before its use.
pub struct HttpConn {
    conn: Conn,
    spoken: bool,
    held: Vec<u8>,
    waiting: Option<Waker>,
}

/// Shows how many bytes are held, never which.
impl std::fmt::Debug for HttpConn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let held = self.held.len();
        f.debug_struct("HttpConn").field("conn", &self.conn).field("held_bytes", &held).finish_non_exhaustive()
    }
}

impl HttpConn {
    fn new(conn: Conn) -> Self {
        Self { conn, spoken: false, held: Vec::new(), waiting: None }
    }

    /// Reads ahead until the client has spoken; ready only at an end without a byte before it, or an error.
    fn poll_hold(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.waiting = Some(cx.waker().clone());
        while self.held.len() < HELD_MAX_BYTES {
            let mut chunk = [0; 1024];
            let mut buf = ReadBuf::new(&mut chunk);
            match Pin::new(&mut self.conn).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if buf.filled().is_empty() => {
                    return if self.held.is_empty() { Poll::Ready(Ok(())) } else { Poll::Pending };
                }
                Poll::Ready(Ok(())) => self.held.extend_from_slice(buf.filled()),
                Poll::Ready(Err(error)) if self.held.is_empty() => return Poll::Ready(Err(error)),
                // What was said before the failure is told first; the failure is met again by the next read.
                Poll::Ready(Err(_)) | Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Pending
    }
}

impl AsyncRead for HttpConn {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.spoken {
            return self.poll_hold(cx);
        }
        if self.held.is_empty() {
            return Pin::new(&mut self.conn).poll_read(cx, buf);
        }
        let count = self.held.len().min(buf.remaining());
        let rest = self.held.split_off(count);
        buf.put_slice(&self.held);
        self.held = rest;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for HttpConn {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.conn).poll_write(cx, bytes);
        // A failed write counts too: the reason may be among what the server has said.
        if written.is_ready() && !self.spoken {
            self.spoken = true;
            if let Some(waiting) = self.waiting.take() {
                waiting.wake();
            }
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.conn).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.conn).poll_shutdown(cx)
    }
}

impl Connection for HttpConn {
    fn connected(&self) -> Connected {
        self.conn.connected()
    }
}

#[cfg(test)]
mod tests {
    use enclave_bridge_net::Stream;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::UnixStream;

    use super::*;

    #[test]
    fn ports_come_from_the_scheme_where_the_uri_has_none() {
        for (uri, expected) in [
            ("http://example.org/x", ("example.org", 80)),
            ("https://example.org/x", ("example.org", 443)),
            ("https://example.org:8443/", ("example.org", 8443)),
            ("http://[::1]/", ("[::1]", 80)),
        ] {
            assert_eq!(host_and_port(&uri.parse().unwrap()).unwrap(), expected);
        }
        assert!(host_and_port(&"/only/a/path".parse().unwrap()).is_err());
        assert!(host_and_port(&"gopher://example.org/".parse().unwrap()).is_err());
    }

    #[tokio::test]
    async fn bytes_that_are_held_are_not_shown() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut conn = HttpConn::new(Conn::new(b"canary".to_vec(), Stream::from_unix(ours), false));
        theirs.write_all(b"canary").await.unwrap();
        let mut buffer = [0; 16];
        let mut buffer = ReadBuf::new(&mut buffer);
        let held = std::future::poll_fn(|cx| {
            _ = Pin::new(&mut conn).poll_read(cx, &mut buffer);
            if conn.held.len() == 12 { Poll::Ready(()) } else { Poll::Pending }
        });
        held.await;
        let text = format!("{conn:?} {conn:#?}");
        assert!(text.contains("held_bytes: 12") && !text.contains("canary") && !text.contains("99, 97"), "{text}");
    }
}
