//! An imitation of the original's relay: for every connection two tasks, each with a buffer of its own, that copy one way.
//!
//! Kinder than the original in one thing, or half of the tests could not be run: the end of one direction is passed on.

use super::{Doors, Ground, Running};
use crate::error::BenchError;
use crate::process::Process;
use crate::socket::Address;
use enclave_bridge_net::Scope;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_vsock::{VMADDR_CID_LOCAL, VsockAddr, VsockStream};

/// Where the enclave is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Upstream {
    /// A Unix socket.
    Unix(PathBuf),
    /// A port of this guest.
    Vsock(u32),
}

pub(super) fn run(buffer: u32, doors: &Doors, ground: &Ground) -> Result<Running, BenchError> {
    let own = std::env::current_exe().map_err(BenchError::io("find this program"))?;
    let mut command = Command::new(own);
    command.args(["relay", "--buffer", &buffer.to_string(), "--listen", &doors.ingress.to_string()]);
    match &ground.enclave {
        Address::Unix(path) => command.arg("--unix").arg(path),
        Address::Vsock(port) => command.args(["--vsock", &port.to_string()]),
        Address::Tcp(_) => return Err(BenchError::Usage("an enclave has no TCP port".to_owned())),
    };
    if let Address::Unix(path) = &doors.egress {
        command.arg("--egress").arg(path).args(["--world", &ground.world.to_string()]);
    }
    Ok(Running { enclave: None, processes: vec![Process::start(&mut command, "relay")?] })
}

/// Relays until the process is ended: TCP to the enclave, and the other way from a Unix socket to the world.
pub(crate) fn relay(
    buffer: usize,
    listen: u16,
    upstream: &Upstream,
    egress: Option<(PathBuf, u16)>,
) -> Result<(), BenchError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(BenchError::io("start a runtime"))?;
    let scope = Scope::root("relay");
    runtime.block_on(async {
        if let Some((path, world)) = egress {
            // Nothing there is the usual case.
            drop(std::fs::remove_file(&path));
            let listener = UnixListener::bind(&path).map_err(BenchError::io("listen for egress"))?;
            let streams = scope.clone();
            scope.spawn("egress", async move {
                loop {
                    let Ok((near, _)) = listener.accept().await else { continue };
                    let tasks = streams.clone();
                    streams.spawn("stream", async move {
                        if let Ok(far) = tcp(world).await {
                            copy_both(&tasks, buffer, near.into_split(), far.into_split());
                        }
                    });
                }
            });
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, listen)).await;
        let listener = listener.map_err(BenchError::io("listen for ingress"))?;
        loop {
            let Ok((near, _)) = listener.accept().await else { continue };
            let (tasks, upstream) = (scope.clone(), upstream.clone());
            scope.spawn("stream", async move {
                if near.set_nodelay(true).is_err() {
                    return;
                }
                match upstream {
                    Upstream::Unix(path) => {
                        if let Ok(far) = UnixStream::connect(path).await {
                            copy_both(&tasks, buffer, near.into_split(), far.into_split());
                        }
                    }
                    Upstream::Vsock(port) => {
                        if let Ok(far) = VsockStream::connect(VsockAddr::new(VMADDR_CID_LOCAL, port)).await {
                            copy_both(&tasks, buffer, near.into_split(), far.into_split());
                        }
                    }
                }
            });
        }
    })
}

async fn tcp(port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

type Halves<R, W> = (R, W);

fn copy_both<A, B, C, D>(scope: &Scope, buffer: usize, near: Halves<A, B>, far: Halves<C, D>)
where
    A: AsyncRead + Unpin + Send + 'static,
    B: AsyncWrite + Unpin + Send + 'static,
    C: AsyncRead + Unpin + Send + 'static,
    D: AsyncWrite + Unpin + Send + 'static,
{
    scope.spawn("up", copy(buffer, near.0, far.1));
    scope.spawn("down", copy(buffer, far.0, near.1));
}

async fn copy(buffer: usize, mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
    let mut buffer = vec![0; buffer];
    while let Ok(count) = from.read(&mut buffer).await {
        if count == 0 {
            break;
        }
        if to.write_all(buffer.get(..count).unwrap_or_default()).await.is_err() {
            return;
        }
    }
    // The other end may be gone: its own direction says so.
    drop(to.shutdown().await);
}
