//! Bytes read ahead are replayed, once, before the stream, also through the relay.
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

use common::{Seen, bytes, connected, drain, kinds};
use enclave_bridge_net::{End, Meter, Prefixed, RelayConfig, RelayStream, StreamKind, relay};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn the_prefix_comes_first_at_every_read_size() {
    for size in [1, 3, 7, 64] {
        let (mut peer, ours) = connected(StreamKind::Unix).await;
        peer.write_all(b" and the stream").await.unwrap();
        peer.shutdown().await.unwrap();
        let mut stream = Prefixed::new(b"the prefix".to_vec(), ours);
        let mut all = Vec::new();
        loop {
            let mut buffer = vec![0; size];
            match stream.read(&mut buffer).await.unwrap() {
                0 => break,
                n => all.extend_from_slice(&buffer[..n]),
            }
        }
        assert_eq!(all, b"the prefix and the stream");
    }
}

#[tokio::test]
async fn parts_hold_what_was_not_read() {
    // Not TCP: its `Debug` has the numbers of two ports in it.
    let (_peer, ours) = connected(StreamKind::Unix).await;
    let mut stream = Prefixed::new(b"abcdef".to_vec(), ours);
    stream.read_exact(&mut [0; 2]).await.unwrap();
    let shown = format!("{stream:?}");
    assert!(shown.contains("prefix_bytes: 4") && !shown.contains("cdef") && !shown.contains("99, 100"), "{shown}");
    let (rest, _) = stream.into_parts();
    assert_eq!(rest, b"cdef");
}

#[tokio::test]
async fn a_relay_replays_prefixes_of_both_sides() {
    for kind in kinds() {
        let (mut a, near_a) = connected(kind).await;
        let (mut b, near_b) = connected(kind).await;
        let (up, down) = (bytes(1, 200_000), bytes(2, 70_000));
        let near_a = Prefixed::new(up[..150_000].to_vec(), near_a);
        let near_b = Prefixed::new(down[..69_999].to_vec(), near_b);
        assert_eq!(RelayStream::kind(&near_a), kind);
        let (config, meter) = (RelayConfig::default(), Meter::new());
        let client = async {
            a.write_all(&up[150_000..]).await.unwrap();
            a.shutdown().await.unwrap();
            drain(&mut a).await
        };
        let server = async {
            b.write_all(&down[69_999..]).await.unwrap();
            b.shutdown().await.unwrap();
            drain(&mut b).await
        };
        let (at_a, at_b, outcome) = tokio::join!(client, server, relay(near_a, near_b, &config, &meter, pending()));
        assert_eq!(at_b, Seen::whole(&up));
        assert_eq!(at_a, Seen::whole(&down));
        assert_eq!(outcome.end, End::Orderly);
    }
}
