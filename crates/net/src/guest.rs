//! The enclave's end of the hybrid transport without a VM: what a virtual machine monitor does between the path `P` and
//! the guest's listening vsock ports. For development and tests; inside a VM there is AF_VSOCK.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use enclave_bridge_proto::{encode_hybrid_ok, parse_hybrid_connect};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::address::{Listen, Origin, Peer};
use crate::line::read_line;
use crate::listen::{AcceptError, BindError, Listener};
use crate::scope::Scope;
use crate::stream::Stream;

/// A connection has this long to say `CONNECT <port>`: the host's side writes it at once, so this is only a bound.
pub const GUEST_REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections that have not finished their request, at most; further ones wait in the kernel's backlog until one of
/// these finishes or runs into its deadline. A task and a descriptor each.
pub const GUEST_UNFINISHED_MAX: usize = 256;

/// Connections that wait to be accepted per port, at most, as the kernel's backlog would; more are closed. A descriptor
/// each, so far below the usual limit of 1024.
pub const GUEST_QUEUE_MAX: usize = 256;

/// Where the numbers in `OK <number>` start: the range that Firecracker gives out.
const FIRST_NUMBER: u32 = 1 << 30;

/// A port of a [`HybridGuest`] could not be taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// It has a listener already.
    #[error("vsock port {port}: has a listener already")]
    InUse {
        /// Which port.
        port: u32,
    },
    /// The path is served no more: the scope has ended.
    #[error("vsock port {port}: the hybrid socket is no longer served")]
    Ended {
        /// Which port.
        port: u32,
    },
}

/// Serves `P`: reads `CONNECT <port>` of each connection, answers `OK <number>` and hands the stream to the listener of
/// that port; closes it where there is none. Ends when the last clone and the last [`GuestListener`] are dropped, or
/// with the scope.
#[derive(Clone, Debug)]
pub struct HybridGuest {
    served: Arc<Served>,
}

#[derive(Debug)]
struct Served {
    ports: Arc<Ports>,
    listen: Listen,
    origin: Origin,
    _serving: DropGuard,
}

/// `None` once the serving has ended: nobody would hand over anything any more.
type Ports = Mutex<Option<HashMap<u32, mpsc::Sender<Stream>>>>;

/// The listener of one port of a [`HybridGuest`]. Dropping it frees the port.
#[derive(Debug)]
pub struct GuestListener {
    served: Arc<Served>,
    port: u32,
    queue: mpsc::Receiver<Stream>,
}

impl HybridGuest {
    /// Listens at `path` and serves it in a task of `scope`.
    ///
    /// # Errors
    /// As [`Listener::bind`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn bind(path: &Path, scope: &Scope) -> Result<HybridGuest, BindError> {
        let listen = Listen::Unix(path.to_path_buf());
        let listener = Listener::bind(&listen)?;
        let ports = Arc::new(Ports::new(Some(HashMap::new())));
        let stop = CancellationToken::new();
        scope.spawn("hybrid guest", serve(listener, Arc::clone(&ports), stop.clone(), scope.clone()));
        let served =
            Served { ports, listen, origin: Origin::Peer(Peer::Path(Arc::from(path))), _serving: stop.drop_guard() };
        Ok(HybridGuest { served: Arc::new(served) })
    }

    /// Takes `port`. From here on its connections are answered with `OK`.
    ///
    /// # Errors
    /// When the port has a listener, or the serving has ended.
    pub fn register(&self, port: u32) -> Result<GuestListener, RegisterError> {
        let (sender, queue) = mpsc::channel(GUEST_QUEUE_MAX);
        let mut ports = self.served.ports.lock().unwrap_or_else(PoisonError::into_inner);
        match ports.as_mut().map(|ports| ports.entry(port)) {
            None => return Err(RegisterError::Ended { port }),
            Some(Entry::Occupied(_)) => return Err(RegisterError::InUse { port }),
            Some(Entry::Vacant(free)) => free.insert(sender),
        };
        drop(ports);
        Ok(GuestListener { served: Arc::clone(&self.served), port, queue })
    }
}

impl GuestListener {
    /// The vsock port.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// The next connection to this port. Cancel-safe.
    ///
    /// # Errors
    /// When the scope that served the path has ended.
    pub async fn accept(&mut self) -> Result<(Stream, Origin), AcceptError> {
        match self.queue.recv().await {
            Some(stream) => Ok((stream, self.served.origin.clone())),
            None => {
                Err(AcceptError { listen: self.served.listen.clone(), source: std::io::ErrorKind::NotConnected.into() })
            }
        }
    }
}

impl Drop for GuestListener {
    fn drop(&mut self) {
        if let Some(ports) = self.served.ports.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            ports.remove(&self.port);
        }
    }
}

async fn serve(mut listener: Listener, ports: Arc<Ports>, stop: CancellationToken, scope: Scope) {
    let unfinished = Arc::new(Semaphore::new(GUEST_UNFINISHED_MAX));
    let numbers = Arc::new(AtomicU32::new(FIRST_NUMBER));
    let accepting = async {
        loop {
            let Ok(permit) = Arc::clone(&unfinished).acquire_owned().await else { return };
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::error!(%error, "hybrid guest ends");
                    return;
                }
            };
            let ports = Arc::clone(&ports);
            let number = numbers.fetch_add(1, Ordering::Relaxed);
            let (stop, cancelled) = (stop.clone(), scope.token());
            scope.spawn("hybrid guest request", async move {
                let _permit = permit;
                tokio::select! {
                    () = hand_over(stream, &ports, number) => {}
                    () = stop.cancelled() => {}
                    () = cancelled.cancelled() => {}
                }
            });
        }
    };
    tokio::select! {
        () = accepting => {}
        () = stop.cancelled() => {}
        () = scope.cancelled() => {}
    }
    // Without their senders the listeners' accept ends.
    ports.lock().unwrap_or_else(PoisonError::into_inner).take();
}

async fn hand_over(stream: Stream, ports: &Ports, number: u32) {
    let Some(mut stream) = stream.into_unix() else { return };
    let Ok(Some((queue, first))) = timeout(GUEST_REQUEST_TIMEOUT, request(&mut stream, ports, number)).await else {
        return;
    };
    // A full queue closes the connection, as a full backlog would refuse it.
    if queue.try_send(Stream::from_unix_behind(first, stream)).is_err() {
        tracing::debug!("hybrid guest: queue full or listener gone");
    }
}

/// Where the stream goes, and its first bytes.
async fn request(stream: &mut UnixStream, ports: &Ports, number: u32) -> Option<(mpsc::Sender<Stream>, Vec<u8>)> {
    let (line, first) = read_line(stream).await.ok()?;
    let port = parse_hybrid_connect(&line).ok()?;
    let queue = ports.lock().unwrap_or_else(PoisonError::into_inner).as_ref()?.get(&port).cloned()?;
    stream.write_all(&encode_hybrid_ok(number)).await.ok()?;
    Some((queue, first))
}
