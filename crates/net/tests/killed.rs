//! A relay whose process is killed: TCP peers must see a reset, never an end.
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
use enclave_bridge_net::{Meter, RelayConfig, Stream, relay};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// The child: dials both addresses that it is told and relays between them until it is killed.
#[tokio::test]
#[ignore = "the child of the test below"]
async fn child() {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    let (a, b) = line.trim().split_once(' ').unwrap();
    let a = Stream::from_tcp(TcpStream::connect(a).await.unwrap());
    let b = Stream::from_tcp(TcpStream::connect(b).await.unwrap());
    relay(a, b, &RelayConfig::default(), &Meter::new(), pending()).await;
}

#[tokio::test]
async fn a_killed_process_resets_its_tcp_peers() {
    for half_closed in [false, true] {
        let listeners =
            (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--ignored", "--quiet"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let addresses = format!("{} {}\n", listeners.0.local_addr().unwrap(), listeners.1.local_addr().unwrap());
        process.stdin.take().unwrap().write_all(addresses.as_bytes()).unwrap();
        let (a, _) = timeout(LONG, listeners.0.accept()).await.unwrap().unwrap();
        let (b, _) = timeout(LONG, listeners.1.accept()).await.unwrap().unwrap();
        let (mut a, mut b) = (Stream::from_tcp(a), Stream::from_tcp(b));
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
        if half_closed {
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
