//! Listening: places, origins, stale and live socket files, connections that die in the queue.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test program: a panic is how it fails"
)]

mod common;

use std::io;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::{LONG, Seen, drain};
use enclave_bridge_net::{Listen, Listener, Origin, Peer, StreamKind, hybrid_path};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

fn tcp(address: &str) -> Listen {
    Listen::Tcp(address.parse().unwrap())
}

#[tokio::test]
async fn tcp_listeners_tell_their_address_and_the_clients() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let mut listener = Listener::bind(&tcp(address)).unwrap();
        let local = listener.local_addr().unwrap();
        assert_ne!(local.port(), 0);
        let client = TcpStream::connect(local).await.unwrap();
        let (stream, origin) = timeout(LONG, listener.accept()).await.unwrap().unwrap();
        assert_eq!(origin, Origin::Tcp(client.local_addr().unwrap()));
        assert_eq!(stream.peer_addr_tcp(), client.local_addr().ok());
        assert_eq!(stream.local_addr_tcp(), Some(local));
        assert_eq!(stream.kind(), StreamKind::Tcp);
    }
}

#[tokio::test]
async fn an_ipv6_listener_is_ipv6_only() {
    let any6 = Listener::bind(&tcp("[::]:0")).unwrap();
    let port = any6.local_addr().unwrap().port();
    let refused = TcpStream::connect(("127.0.0.1", port)).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn a_port_in_use_is_an_error_that_names_it() {
    let first = Listener::bind(&tcp("127.0.0.1:0")).unwrap();
    let address = first.local_addr().unwrap();
    let error = Listener::bind(&Listen::Tcp(address)).unwrap_err();
    assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
    assert!(error.to_string().starts_with(&format!("listen on {address}: ")), "{error}");
}

#[tokio::test]
async fn accepted_tcp_streams_do_not_delay() {
    let mut listener = Listener::bind(&tcp("127.0.0.1:0")).unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    assert!(SockRef::from(&stream).tcp_nodelay().unwrap());
}

#[tokio::test]
async fn what_an_armed_listener_accepts_is_armed() {
    let mut listener = Listener::bind(&tcp("127.0.0.1:0")).unwrap().arm_accepted();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = timeout(LONG, listener.accept()).await.unwrap().unwrap();
    assert_eq!(SockRef::from(&stream).linger().unwrap(), Some(Duration::ZERO));
    drop(stream);
    let error = timeout(LONG, client.read_u8()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn connections_that_died_in_the_queue_do_not_stop_accepting() {
    let mut listener = Listener::bind(&tcp("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    for _ in 0..50 {
        let client = TcpStream::connect(address).await.unwrap();
        client.set_zero_linger().unwrap();
    }
    let mut last = TcpStream::connect(address).await.unwrap();
    last.write_all(b"alive").await.unwrap();
    last.shutdown().await.unwrap();
    let accepting = async {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            if drain(&mut stream).await == Seen::whole(b"alive") {
                return;
            }
        }
    };
    timeout(LONG, accepting).await.unwrap();
}

#[tokio::test]
async fn a_hybrid_listener_is_a_file_whose_peer_is_the_path() {
    let directory = tempfile::tempdir().unwrap();
    let uds_path = directory.path().join("guest.sock");
    let mut listener = Listener::bind(&Listen::Hybrid { uds_path: uds_path.clone(), port: 5000 }).unwrap();
    let file = directory.path().join("guest.sock_5000");
    assert_eq!(hybrid_path(&uds_path, 5000), file);
    let _client = UnixStream::connect(&file).await.unwrap();
    let (stream, origin) = timeout(LONG, listener.accept()).await.unwrap().unwrap();
    assert_eq!(origin, Origin::Peer(Peer::Path(Arc::from(uds_path.as_path()))));
    assert_eq!(stream.kind(), StreamKind::Unix);
    drop(listener);
    assert!(!file.exists(), "the file goes with the listener");
}

/// A socket file that nobody listens at, as a killed process leaves it.
fn stale(path: &Path) {
    drop(StdUnixListener::bind(path).unwrap());
    assert!(path.exists());
}

#[tokio::test]
async fn a_stale_file_is_replaced_and_a_live_one_is_in_use() {
    let directory = tempfile::tempdir().unwrap();
    let listen = Listen::Unix(directory.path().join("s"));
    stale(&directory.path().join("s"));
    let live = Listener::bind(&listen).unwrap();
    let error = Listener::bind(&listen).unwrap_err();
    assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
    // The refused one has not taken the live one's file with it.
    UnixStream::connect(directory.path().join("s")).await.unwrap();
    drop(live);
    Listener::bind(&listen).unwrap();
}

#[tokio::test]
async fn a_live_listener_with_a_full_backlog_is_in_use() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let live = StdUnixListener::bind(&path).unwrap();
    SockRef::from(&live).listen(0).unwrap();
    let _filling = UnixStream::connect(&path).await.unwrap();
    assert_eq!(UnixStream::connect(&path).await.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    let error = Listener::bind(&Listen::Unix(path)).unwrap_err();
    assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("precious");
    std::fs::write(&path, "text").unwrap();
    let error = Listener::bind(&Listen::Unix(path.clone())).unwrap_err();
    assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "text");
    // Nor a link to one.
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    Listener::bind(&Listen::Unix(link.clone())).unwrap_err();
    assert!(link.is_symlink() && path.exists());
}

#[tokio::test]
async fn a_dropped_listener_leaves_a_successors_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let old = Listener::bind(&Listen::Unix(path.clone())).unwrap();
    std::fs::remove_file(&path).unwrap();
    let _new = Listener::bind(&Listen::Unix(path.clone())).unwrap();
    drop(old);
    UnixStream::connect(&path).await.unwrap();
}

#[tokio::test]
async fn a_path_too_long_or_absent_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    Listener::bind(&Listen::Unix(directory.path().join("x".repeat(200)))).unwrap_err();
    let error = Listener::bind(&Listen::Unix(directory.path().join("no/such"))).unwrap_err();
    assert_eq!(error.source.kind(), io::ErrorKind::NotFound);
}
