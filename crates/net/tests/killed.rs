//! A relay whose process is killed: TCP and framed peers must see a reset, never an end.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test program: a panic is how it fails"
)]

mod common;

use std::future::pending;
use std::io::Write;
use std::process::{Command, Stdio};

use common::{LONG, assert_torn, until};
use enclave_bridge_net::{Leg, Meter, RelayConfig, RelayStream as _, Stream, relay};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::time::timeout;

/// The child: dials both addresses that it is told and relays between them until it is killed. A path is a Unix socket,
/// and framed.
#[tokio::test]
#[ignore = "the child of the test below"]
async fn child() {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    let (a, b) = line.trim().split_once(' ').unwrap();
    let (a, b) = (reach(a).await, reach(b).await);
    relay(a, b, &RelayConfig::default(), &Meter::new(), pending()).await;
}

async fn reach(address: &str) -> Leg<Stream> {
    match address.starts_with('/') {
        true => Leg::new(Stream::from_unix(UnixStream::connect(address).await.unwrap()), true),
        false => Leg::new(Stream::from_tcp(TcpStream::connect(address).await.unwrap()), false),
    }
}

enum Door {
    Tcp(TcpListener),
    Framed(UnixListener, tempfile::TempDir),
}

impl Door {
    async fn open(framed: bool) -> Door {
        if !framed {
            return Door::Tcp(TcpListener::bind("127.0.0.1:0").await.unwrap());
        }
        let folder = tempfile::tempdir().unwrap();
        Door::Framed(UnixListener::bind(folder.path().join("socket")).unwrap(), folder)
    }

    fn address(&self) -> String {
        match self {
            Door::Tcp(listener) => listener.local_addr().unwrap().to_string(),
            Door::Framed(_, folder) => folder.path().join("socket").display().to_string(),
        }
    }

    async fn accept(&self) -> Leg<Stream> {
        match self {
            Door::Tcp(listener) => Leg::new(Stream::from_tcp(listener.accept().await.unwrap().0), false),
            Door::Framed(listener, _) => Leg::new(Stream::from_unix(listener.accept().await.unwrap().0), true),
        }
    }
}

#[tokio::test]
async fn t3_a_killed_process_resets_its_peers() {
    for (half_closed, framed) in [false, true]
        .into_iter()
        .flat_map(|half| [(half, (false, false)), (half, (true, false)), (half, (false, true))])
    {
        let listeners = (Door::open(framed.0).await, Door::open(framed.1).await);
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--ignored", "--quiet"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let addresses = format!("{} {}\n", listeners.0.address(), listeners.1.address());
        process.stdin.take().unwrap().write_all(addresses.as_bytes()).unwrap();
        let mut a = timeout(LONG, listeners.0.accept()).await.unwrap();
        let mut b = timeout(LONG, listeners.1.accept()).await.unwrap();
        // Bytes both ways: the relay runs, and so is armed.
        a.write_all(b"up").await.unwrap();
        timeout(LONG, b.read_exact(&mut [0; 2])).await.unwrap().unwrap();
        b.write_all(b"down").await.unwrap();
        timeout(LONG, a.read_exact(&mut [0; 4])).await.unwrap().unwrap();
        if half_closed {
            b.shutdown().await.unwrap();
            assert_eq!(timeout(LONG, a.read(&mut [0])).await.unwrap().unwrap(), 0);
        }
        process.kill().unwrap();
        process.wait().unwrap();
        // B has heard no end from A in either case.
        assert_torn(&mut b, "b").await;
        if half_closed && framed.0 {
            // It had its end; what it writes from here on is refused.
            assert!(a.write_all(b"x").await.is_err());
        } else if half_closed {
            let mut error = None;
            until("a refused write", || {
                error = a.take_error();
                error.is_some()
            })
            .await;
        } else {
            assert_torn(&mut a, "a").await;
        }
    }
}
