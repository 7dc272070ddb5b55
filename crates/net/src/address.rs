//! Names of places: who a peer is, where to listen, how to reach the other side. No sockets.

use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An enclave as the transport vouches for it; never what a message says.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Peer {
    /// The context identifier that the kernel reports for an AF_VSOCK peer.
    Cid(u32),
    /// The guest's Unix socket path (`P`) on the hybrid transport.
    Path(Arc<Path>),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Cid(cid) => write!(f, "cid {cid}"),
            Peer::Path(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Where an accepted connection came from, known before a byte of it is read.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Origin {
    /// A TCP client's address.
    Tcp(SocketAddr),
    /// An enclave.
    Peer(Peer),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Tcp(address) => write!(f, "{address}"),
            Origin::Peer(peer) => write!(f, "{peer}"),
        }
    }
}

/// Where to listen.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Listen {
    /// An AF_VSOCK port, for every CID.
    Vsock {
        /// The vsock port.
        port: u32,
        /// The window of what is accepted, in bytes; `None` leaves the kernel's own. See
        /// [`VSOCK_WINDOW_MIN_BYTES`](crate::VSOCK_WINDOW_MIN_BYTES).
        window: Option<u32>,
    },
    /// The host's end of the hybrid transport: the Unix socket `P_<port>` that the guest's connections arrive at.
    Hybrid {
        /// The guest's path `P`.
        uds_path: PathBuf,
        /// The vsock port that the guest dials.
        port: u32,
    },
    /// A Unix socket at exactly this path; connections count as coming from the peer of that path.
    Unix(PathBuf),
    /// A TCP address; port 0 takes any free one.
    Tcp(SocketAddr),
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Vsock { port, .. } => write!(f, "vsock port {port}"),
            Listen::Hybrid { uds_path, port } => write!(f, "{}", hybrid_path(uds_path, *port).display()),
            Listen::Unix(path) => write!(f, "{}", path.display()),
            Listen::Tcp(address) => write!(f, "{address}"),
        }
    }
}

/// How one side reaches the other's vsock ports.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Route {
    /// AF_VSOCK to this CID, either way.
    Vsock {
        /// The far side's context identifier.
        cid: u32,
        /// This side's window, in bytes; `None` leaves the kernel's own. See
        /// [`VSOCK_WINDOW_MIN_BYTES`](crate::VSOCK_WINDOW_MIN_BYTES).
        window: Option<u32>,
    },
    /// Host to guest on the hybrid transport: connect to `P`, write `CONNECT <port>`, read `OK <number>`.
    HybridHost {
        /// The guest's path `P`.
        uds_path: PathBuf,
    },
    /// Guest to host on the hybrid transport without a VM: connect to `P_<port>`.
    HybridGuest {
        /// The guest's path `P`.
        uds_path: PathBuf,
    },
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Route::Vsock { cid, .. } => write!(f, "cid {cid}"),
            Route::HybridHost { uds_path } | Route::HybridGuest { uds_path } => write!(f, "{}", uds_path.display()),
        }
    }
}

/// The path `P_<port>` at which the host of a hybrid transport listens for the guest's connections to `port`.
pub fn hybrid_path(uds_path: &Path, port: u32) -> PathBuf {
    let mut name = OsString::from(uds_path.as_os_str());
    name.push(format!("_{port}"));
    PathBuf::from(name)
}
