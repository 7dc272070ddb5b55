//! A stream that is judged first: nothing passes before the verdict, everything after it, and a refusal is a reset.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests: bounded peers of their own, tasks that are joined"
)]

use std::io::ErrorKind;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use enclave_bridge_net::{End, Judge, Meter, RelayConfig, Screened, Side, Stream, Verdict, relay};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::time::Instant;

const CALM: Duration = Duration::from_secs(30);

/// Passes a stream that begins with `TLS`, and keeps what it was told.
struct Begins(Vec<u8>, Arc<Mutex<Vec<&'static str>>>);

impl Judge for Begins {
    fn judge(&mut self, bytes: &[u8]) -> Verdict {
        self.0.extend_from_slice(bytes);
        let known = self.0.len().min(3);
        if self.0.get(..known) != b"TLS".get(..known) {
            self.1.lock().unwrap().push("refused");
            return Verdict::Refuse;
        }
        if known < 3 { Verdict::More } else { Verdict::Pass }
    }

    fn ended(&mut self) {
        self.1.lock().unwrap().push("ended");
    }

    fn late(&mut self) {
        self.1.lock().unwrap().push("late");
    }
}

struct Scene {
    enclave: UnixStream,
    server: TcpStream,
    told: Arc<Mutex<Vec<&'static str>>>,
    end: tokio::task::JoinHandle<End>,
}

/// enclave ⇄ screened relay ⇄ server.
async fn scene(time: Duration) -> Scene {
    let (enclave, ours) = UnixStream::pair().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (upstream, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    let told = Arc::default();
    let judge = Box::new(Begins(Vec::new(), Arc::clone(&told)));
    let screened = Screened::new(Stream::from_unix(ours), judge, Instant::now() + time);
    let upstream = Stream::from_tcp(upstream.unwrap());
    let end = tokio::spawn(async move {
        let (config, meter) = (RelayConfig::default(), Meter::new());
        relay(screened, upstream, &config, &meter, std::future::pending()).await.end
    });
    Scene { enclave, server: accepted.unwrap().0, told, end }
}

const REFUSED: End = End::Reset { by: Side::A, kind: ErrorKind::PermissionDenied };

#[tokio::test]
async fn what_passes_is_replayed_to_the_byte_and_goes_on() {
    let mut scene = scene(CALM).await;
    // The server speaks first, and is heard.
    scene.server.write_all(b"220 ready").await.unwrap();
    let mut greeting = [0; 9];
    scene.enclave.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"220 ready");
    // Undecided bytes do not pass.
    scene.enclave.write_all(b"TL").await.unwrap();
    let mut buffer = [0; 16];
    assert!(tokio::time::timeout(Duration::from_millis(100), scene.server.read(&mut buffer)).await.is_err());
    let body: Vec<u8> = (0..1_000_000u32).map(|n| n.to_le_bytes()[1]).collect();
    scene.enclave.write_all(b"S").await.unwrap();
    let mut server = scene.server;
    let (sent, received) = tokio::join!(
        async {
            scene.enclave.write_all(&body).await.unwrap();
            scene.enclave.shutdown().await
        },
        async {
            let mut all = Vec::new();
            server.read_to_end(&mut all).await.unwrap();
            all
        }
    );
    sent.unwrap();
    assert!(received == [b"TLS", &body[..]].concat());
    server.shutdown().await.unwrap();
    assert_eq!(scene.end.await.unwrap(), End::Orderly);
    assert!(scene.told.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_refused_stream_is_reset_and_no_byte_of_it_arrives() {
    let mut scene = scene(CALM).await;
    scene.enclave.write_all(b"TLX and more").await.unwrap();
    assert_eq!(scene.end.await.unwrap(), REFUSED);
    let mut buffer = Vec::new();
    let read = scene.server.read_to_end(&mut buffer).await;
    assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(buffer.is_empty());
    assert_eq!(*scene.told.lock().unwrap(), ["refused"]);
}

#[tokio::test]
async fn an_end_before_the_verdict_is_a_refusal() {
    let mut scene = scene(CALM).await;
    scene.enclave.write_all(b"TL").await.unwrap();
    scene.enclave.shutdown().await.unwrap();
    assert_eq!(scene.end.await.unwrap(), REFUSED);
    assert_eq!(scene.server.read(&mut [0; 8]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(*scene.told.lock().unwrap(), ["ended"]);
}

#[tokio::test]
async fn silence_is_a_refusal_when_its_time_is_over() {
    let mut scene = scene(Duration::from_millis(50)).await;
    scene.server.write_all(b"220 ready").await.unwrap();
    assert_eq!(scene.end.await.unwrap(), REFUSED);
    assert_eq!(*scene.told.lock().unwrap(), ["late"]);
    let mut heard = Vec::new();
    _ = scene.enclave.read_to_end(&mut heard).await;
    assert!(heard.is_empty() || heard == b"220 ready");
}
