//! The room `net` over AF_VSOCK: listening, dialling and the relay's cap. Its own tests of pairs run here as well.

use crate::family::{in_a_guest, window_of};
use enclave_bridge_e2e::bytes::{Hash, Pattern, hash_of};
use enclave_bridge_net::{
    DialStage, End, Listen, Listener, Meter, Origin, Peer, RelayConfig, RelayStream, Route, Stream, StreamKind,
    VSOCK_WRITE_MAX_BYTES, dial, relay,
};
use std::future::pending;
use std::io::{self, Read as _};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

const LONG: Duration = Duration::from_secs(60);
const LOOPBACK: Route = Route::Vsock { cid: 1, window: None };

fn on_a_runtime(test: impl Future<Output = ()>) {
    in_a_guest();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test);
}

#[test]
#[ignore = "opens AF_VSOCK: runs in a guest by cargo xtask lab"]
fn net_a_listener_tells_the_peers_cid() {
    on_a_runtime(async {
        let mut listener = Listener::bind(&Listen::Vsock { port: 6001, window: None }).unwrap();
        let dialled = dial(&LOOPBACK, 6001, Instant::now() + LONG).await.unwrap();
        let (accepted, origin) = listener.accept().await.unwrap();
        assert_eq!(origin, Origin::Peer(Peer::Cid(1)));
        assert_eq!((dialled.kind(), accepted.kind()), (StreamKind::Vsock, StreamKind::Vsock));
    });
}

#[test]
#[ignore = "opens AF_VSOCK: runs in a guest by cargo xtask lab"]
fn net_a_burst_waits_in_the_backlog() {
    on_a_runtime(async {
        let mut listener = Listener::bind(&Listen::Vsock { port: 6002, window: None }).unwrap();
        let mut held = Vec::new();
        for _ in 0..400 {
            held.push(dial(&LOOPBACK, 6002, Instant::now() + LONG).await.unwrap());
        }
        for _ in 0..400 {
            timeout(LONG, listener.accept()).await.unwrap().unwrap();
        }
    });
}

/// What a writer gets rid of while nobody reads, and the windows of both ends as the kernel tells them.
async fn unread(window: Option<u32>, port: u32) -> (usize, u64, u64) {
    let mut listener = Listener::bind(&Listen::Vsock { port, window }).unwrap();
    let route = Route::Vsock { cid: 1, window };
    let mut dialled = dial(&route, port, Instant::now() + LONG).await.unwrap();
    let (accepted, _) = timeout(LONG, listener.accept()).await.unwrap().unwrap();
    let bytes = vec![7; 16 * 1024];
    let mut written = 0;
    while let Ok(count) = timeout(Duration::from_secs(2), dialled.write(&bytes)).await {
        written += count.unwrap();
    }
    (written, window_of(&dialled), window_of(&accepted))
}

#[test]
#[ignore = "opens AF_VSOCK: runs in a guest by cargo xtask lab"]
fn net_the_window_is_raised_on_both_ends() {
    const RAISED: u32 = 2 * 1024 * 1024;
    on_a_runtime(async {
        let (written, near, far) = unread(None, 6011).await;
        println!("lab: fact: unread at the default window: {written} bytes, windows {near} and {far}");
        assert!((near, far) == (256 * 1024, 256 * 1024) && written <= 1024 * 1024, "{written} {near} {far}");
        let (written, near, far) = unread(Some(RAISED), 6012).await;
        println!("lab: fact: unread at a window of 2 MiB: {written} bytes");
        assert_eq!((near, far), (RAISED.into(), RAISED.into()));
        assert!(written >= RAISED as usize * 3 / 4, "{written}");
    });
}

#[test]
#[ignore = "opens AF_VSOCK: runs in a guest by cargo xtask lab"]
fn net_a_second_listener_is_refused_and_the_port_is_free_after_the_first() {
    on_a_runtime(async {
        let listen = Listen::Vsock { port: 6003, window: None };
        let first = Listener::bind(&listen).unwrap();
        let error = Listener::bind(&listen).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().starts_with("listen on vsock port 6003: "), "{error}");
        drop(first);
        Listener::bind(&listen).unwrap();
    });
}

#[test]
#[ignore = "opens AF_VSOCK: runs in a guest by cargo xtask lab"]
fn net_a_refused_dial_says_so_at_once() {
    on_a_runtime(async {
        let start = Instant::now();
        let error = dial(&LOOPBACK, 6004, Instant::now() + LONG).await.unwrap_err();
        println!("refused: {error}");
        assert_eq!(error.stage, DialStage::Connect);
        assert!(start.elapsed() < Duration::from_secs(10));
        assert!(error.to_string().starts_with("dial cid 1 port 6004: connect: "), "{error}");
    });
}

#[test]
#[ignore = "opens AF_VSOCK: runs in a guest by cargo xtask lab"]
fn net_a_silent_host_ends_at_the_deadline_at_the_latest() {
    on_a_runtime(async {
        for cid in [2, 3] {
            let start = Instant::now();
            let route = Route::Vsock { cid, window: None };
            let error = dial(&route, 5000, Instant::now() + Duration::from_secs(5)).await.unwrap_err();
            println!("silent: {error}");
            assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
        }
    });
}

/// 1 MiB written at once by a TCP client, read into the relay's scratch of 64 KiB: no write above the cap reaches the vsock.
#[test]
#[ignore = "opens AF_VSOCK: runs in a guest by cargo xtask lab"]
fn net_no_write_of_the_relay_exceeds_the_cap() {
    const LENGTH: u64 = 32 << 20;
    on_a_runtime(async {
        let (mut far, near) = vsock_pair(6005).await;
        let (mut client, near_client) = tcp_pair().await;
        let largest = Arc::new(AtomicUsize::new(0));
        let writes = Arc::new(AtomicU64::new(0));
        let counting = Counting { inner: near, largest: Arc::clone(&largest), writes: Arc::clone(&writes) };
        let (config, meter) = (RelayConfig::default(), Meter::new());
        let client = async {
            let mut pattern = Pattern::new(4, LENGTH);
            let mut piece = vec![0; 1 << 20];
            while pattern.read(&mut piece).unwrap() > 0 {
                client.write_all(&piece).await.unwrap();
            }
            client.shutdown().await.unwrap();
            hash(&mut client).await
        };
        let server = async {
            let heard = hash(&mut far).await;
            far.shutdown().await.unwrap();
            heard
        };
        let relayed = relay(near_client, counting, &config, &meter, pending());
        let (outcome, heard, back) = timeout(LONG, async { tokio::join!(relayed, server, client) }).await.unwrap();
        assert_eq!(outcome.end, End::Orderly);
        assert_eq!(heard, (Pattern::hash(4, LENGTH), LENGTH));
        assert_eq!(back.1, 0);
        let largest = largest.load(Ordering::SeqCst);
        println!("{} writes, the largest {largest} bytes", writes.load(Ordering::SeqCst));
        assert!(largest <= VSOCK_WRITE_MAX_BYTES, "{largest}");
        // Not by writing little: the scratch is larger than the cap and is used.
        assert_eq!(largest, VSOCK_WRITE_MAX_BYTES);
    });
}

async fn vsock_pair(port: u32) -> (Stream, Stream) {
    let mut listener = Listener::bind(&Listen::Vsock { port, window: None }).unwrap();
    let far = dial(&LOOPBACK, port, Instant::now() + LONG).await.unwrap();
    (far, listener.accept().await.unwrap().0)
}

async fn tcp_pair() -> (Stream, Stream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (Stream::from_tcp(far), Stream::from_tcp(listener.accept().await.unwrap().0))
}

async fn hash(stream: &mut Stream) -> (Hash, u64) {
    let mut whole = Vec::new();
    let mut scratch = vec![0; 256 * 1024];
    loop {
        match stream.read(&mut scratch).await.unwrap() {
            0 => return hash_of(&mut whole.as_slice()).unwrap(),
            n => whole.extend_from_slice(&scratch[..n]),
        }
    }
}

/// Notes the size of every write.
struct Counting {
    inner: Stream,
    largest: Arc<AtomicUsize>,
    writes: Arc<AtomicU64>,
}

impl AsyncRead for Counting {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counting {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.largest.fetch_max(bytes.len(), Ordering::SeqCst);
        self.writes.fetch_add(1, Ordering::SeqCst);
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl RelayStream for Counting {
    fn kind(&self) -> StreamKind {
        RelayStream::kind(&self.inner)
    }

    fn take_error(&self) -> Option<io::Error> {
        self.inner.take_error()
    }

    fn arm_reset(&self) {
        self.inner.arm_reset();
    }

    fn disarm_reset(&self) {
        self.inner.disarm_reset();
    }
}
