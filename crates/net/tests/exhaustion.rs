//! A program of its own, because it lowers its own descriptor limit.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test program: a panic is how it fails"
)]

mod common;

use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{LONG, until};
use enclave_bridge_net::{Listen, Listener, Scope};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_without_descriptors_the_listener_pauses_and_then_goes_on() {
    let mut listener = Listener::bind(&Listen::Tcp("127.0.0.1:0".parse().unwrap())).unwrap();
    let address = listener.local_addr().unwrap();
    let pauses = listener.pauses();
    let (accepted, mut streams) = mpsc::channel(64);
    let scope = Scope::root("exhaustion");
    scope.spawn("accept", async move {
        while let Ok((stream, _)) = listener.accept().await {
            if accepted.send(stream).await.is_err() {
                return;
            }
        }
    });

    let mut client = TcpStream::connect(address).await.unwrap();
    let mut server = timeout(LONG, streams.recv()).await.unwrap().unwrap();

    // Connected by the kernel while descriptors last, never accepted: the client's end takes the last one.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 64, hard).unwrap();
    let mut hoard = Vec::new();
    let full = loop {
        match std::fs::File::open("/dev/null") {
            Ok(file) => hoard.push(file),
            Err(error) => break error,
        }
    };
    assert_eq!(full.raw_os_error(), Some(nix::errno::Errno::EMFILE as i32));
    drop(hoard.pop());
    let _waiting = TcpStream::connect(address).await.unwrap();

    until("the listener pauses", || pauses.load(Ordering::Relaxed) >= 3).await;
    // No spin: pauses double from 10 ms to 500 ms, so that even a second of them is a handful.
    let (start, before) = (Instant::now(), pauses.load(Ordering::Relaxed));
    for round in 0..100_u8 {
        // Streams that exist go on.
        client.write_all(&[round]).await.unwrap();
        let mut byte = [0];
        timeout(LONG, server.read_exact(&mut byte)).await.unwrap().unwrap();
        assert_eq!(byte, [round]);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let attempts = pauses.load(Ordering::Relaxed) - before;
    let most = start.elapsed().as_millis() / 10 + 2;
    assert!(u128::from(attempts) <= most && attempts < 20, "{attempts} attempts in {:?}", start.elapsed());

    drop(hoard);
    let stream = timeout(LONG, streams.recv()).await.expect("accepting resumes").unwrap();
    drop(stream);
    // And is as quick as before.
    let after = pauses.load(Ordering::Relaxed);
    for _ in 0..10 {
        let _client = TcpStream::connect(address).await.unwrap();
        timeout(LONG, streams.recv()).await.unwrap().unwrap();
    }
    assert_eq!(pauses.load(Ordering::Relaxed), after);
}
