//! A bug in the task of one stream: that stream is reset, and nothing else notices.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test program: a panic is how it fails"
)]

mod common;

use std::sync::Arc;

use common::{Form, LONG, Seen, assert_torn, bytes, drain, legs, pairs, until};
use enclave_bridge_net::{Leg, Meter, RelayConfig, Scope, Stream, relay};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// A relay in a task of `scope` that panics when it is told to; the peers' ends, and what tells it.
async fn relayed(scope: &Scope, (a, b): (Form, Form)) -> (Leg<Stream>, Leg<Stream>, oneshot::Sender<()>) {
    let (a, near_a) = legs(a).await;
    let (b, near_b) = legs(b).await;
    let (panic, told) = oneshot::channel::<()>();
    scope.child("session").spawn("stream", async move {
        let bug = async {
            match told.await {
                Ok(()) => panic!("secret"),
                Err(_kept) => std::future::pending::<()>().await,
            }
        };
        relay(near_a, near_b, &RelayConfig::default(), &Arc::new(Meter::new()), bug).await;
    });
    (a, b, panic)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s6_a_panic_amid_a_stream_resets_that_stream_only_and_is_counted() {
    for kinds in pairs() {
        let what = format!("{kinds:?}");
        let root = Scope::root("root");
        let (mut a, mut b, bug) = relayed(&root, kinds).await;
        let (mut other_a, mut other_b, _no_bug) = relayed(&root, kinds).await;
        // Both are amid their streams.
        for (from, to) in [(&mut a, &mut b), (&mut other_a, &mut other_b)] {
            from.write_all(b"hello").await.unwrap();
            to.read_exact(&mut [0; 5]).await.unwrap();
        }
        bug.send(()).unwrap();
        until("the panic is counted", || root.panics() == 1).await;
        timeout(LONG, assert_torn(&mut a, &what)).await.expect(&what);
        timeout(LONG, assert_torn(&mut b, &what)).await.expect(&what);
        // The other one is whole, to its orderly end.
        let data = bytes(6, 1 << 20);
        let sending = async {
            other_a.write_all(&data).await.unwrap();
            other_a.shutdown().await.unwrap();
            drain(&mut other_a).await
        };
        let receiving = async {
            let seen = drain(&mut other_b).await;
            other_b.shutdown().await.unwrap();
            seen
        };
        let (back, seen) = timeout(LONG, async { tokio::join!(sending, receiving) }).await.expect(&what);
        assert_eq!((seen, back), (Seen::whole(&data), Seen::whole(b"")), "{what}");
        timeout(LONG, root.join()).await.expect(&what);
        assert_eq!(root.panics(), 1, "{what}");
    }
}
