//! One socket that listens on several threads, each with a runtime of its own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    reason = "a test program: a panic is how it fails"
)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{LONG, in_the_lab};
use enclave_bridge_net::{BoundSocket, Listen, Listener, Route, Scope, Stream, Worker, Workers, dial};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout};

const CLIENTS: usize = 200;

/// Accepts on a worker until the scope ends, and sends each client its first byte back.
async fn echo(mut listener: Listener, near: Worker, workers: Workers, scope: Scope, accepted: Arc<AtomicUsize>) {
    loop {
        let (mut stream, _, worker) = tokio::select! {
            accepted = listener.accept_for(|| workers.for_stream(&near)) => accepted.unwrap(),
            () = scope.cancelled() => return,
        };
        accepted.fetch_add(1, Ordering::Relaxed);
        scope.spawn_on(&worker, "echo", async move {
            let byte = stream.read_u8().await.unwrap();
            stream.write_all(&[byte]).await.unwrap();
        });
    }
}

async fn connect(listen: &Listen) -> Stream {
    match listen {
        Listen::Tcp(address) => Stream::from_tcp(TcpStream::connect(address).await.unwrap()),
        Listen::Unix(path) => Stream::from_unix(UnixStream::connect(path).await.unwrap()),
        Listen::Vsock { port, .. } => {
            dial(&Route::Vsock { cid: 1, window: None }, *port, Instant::now() + LONG).await.unwrap()
        }
        other => panic!("{other}: not one of these tests"),
    }
}

async fn each_connection_is_served_once(listen: Listen) {
    let workers = Workers::start(2).unwrap();
    let socket = BoundSocket::bind(&listen).unwrap();
    let (scope, accepted) = (Scope::root("test"), Arc::new(AtomicUsize::new(0)));
    let mut listen = listen;
    for (worker, socket) in workers.for_listener(2).into_iter().zip([socket.share().unwrap(), socket]) {
        let inside = worker.enter();
        let listener = socket.register().unwrap();
        drop(inside);
        if let Some(address) = listener.local_addr() {
            listen = Listen::Tcp(address);
        }
        let serving = echo(listener, worker.clone(), workers.clone(), scope.clone(), Arc::clone(&accepted));
        scope.spawn_on(&worker, "listener", serving);
    }
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let mut client = connect(&listen).await;
        let byte = u8::try_from(number % 251).unwrap();
        client.write_all(&[byte]).await.unwrap();
        clients.push((client, byte));
    }
    for (mut client, byte) in clients {
        assert_eq!(timeout(LONG, client.read_u8()).await.unwrap().unwrap(), byte);
    }
    assert_eq!(accepted.load(Ordering::Relaxed), CLIENTS, "{listen}");
    // One thread's listener ends with its task, the place is free with the last.
    assert!(BoundSocket::bind(&listen).is_err(), "{listen}");
    scope.cancel();
    timeout(LONG, scope.join()).await.unwrap();
    drop(BoundSocket::bind(&listen).unwrap());
}

#[tokio::test]
async fn a_socket_that_two_threads_accept_from_gives_each_connection_to_one_of_them() {
    let folder = tempfile::tempdir().unwrap();
    each_connection_is_served_once(Listen::Tcp("127.0.0.1:0".parse().unwrap())).await;
    each_connection_is_served_once(Listen::Unix(folder.path().join("socket"))).await;
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the file of the socket is left");
    if in_the_lab() {
        each_connection_is_served_once(Listen::Vsock { port: 6021, window: None }).await;
    }
}
