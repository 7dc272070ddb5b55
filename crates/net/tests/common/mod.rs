//! Peers for the tests: connected pairs of every kind, bytes by seed, and how a stream looked to who read it.
#![allow(dead_code, reason = "each test program uses its own part")]

use std::io;
use std::time::Duration;

use enclave_bridge_net::{Leg, Meter, RelayStream as _, Stream, StreamKind};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

/// Far above anything a passing test takes.
pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) const KINDS: [StreamKind; 2] = [StreamKind::Tcp, StreamKind::Unix];

/// A kind of socket, and what its bytes are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Form {
    Tcp,
    Unix,
    /// A Unix socket in records.
    Framed,
}

pub(crate) const FORMS: [Form; 3] = [Form::Tcp, Form::Unix, Form::Framed];

/// Every pair of forms.
pub(crate) fn pairs() -> Vec<(Form, Form)> {
    FORMS.iter().flat_map(|a| FORMS.iter().map(|b| (*a, *b))).collect()
}

/// The peer's end and the relay's end of one connection.
pub(crate) async fn legs(form: Form) -> (Leg<Stream>, Leg<Stream>) {
    let kind = if form == Form::Tcp { StreamKind::Tcp } else { StreamKind::Unix };
    let (peer, ours) = connected(kind).await;
    (Leg::new(peer, form == Form::Framed), Leg::new(ours, form == Form::Framed))
}

/// The peer's end and the relay's end of one connection.
pub(crate) async fn connected(kind: StreamKind) -> (Stream, Stream) {
    match kind {
        StreamKind::Tcp => {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (ours, _) = listener.accept().await.unwrap();
            peer.set_nodelay(true).unwrap();
            ours.set_nodelay(true).unwrap();
            (Stream::from_tcp(peer), Stream::from_tcp(ours))
        }
        StreamKind::Unix => {
            let (peer, ours) = UnixStream::pair().unwrap();
            (Stream::from_unix(peer), Stream::from_unix(ours))
        }
        StreamKind::Vsock => panic!("no AF_VSOCK in tests"),
    }
}

/// Bytes that differ at every offset and for every seed; no period that a buffer size divides.
pub(crate) fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out
}

pub(crate) fn sha(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// What a reader saw: the hash and number of the bytes, and then an end of stream or an error.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) len: usize,
    pub(crate) sha: [u8; 32],
    pub(crate) end: Result<(), io::ErrorKind>,
}

impl Seen {
    pub(crate) fn whole(bytes: &[u8]) -> Seen {
        Seen { len: bytes.len(), sha: sha(bytes), end: Ok(()) }
    }
}

pub(crate) async fn drain(stream: &mut (impl AsyncRead + Unpin)) -> Seen {
    let mut hash = Sha256::new();
    let mut len = 0;
    let mut buffer = vec![0; 256 * 1024];
    let end = loop {
        match stream.read(&mut buffer).await {
            Ok(0) => break Ok(()),
            Ok(n) => {
                hash.update(&buffer[..n]);
                len += n;
            }
            Err(error) => break Err(error.kind()),
        }
    };
    Seen { len, sha: hash.finalize().into(), end }
}

/// Writes until the peer takes no more; the number of bytes written, or `None` if all went.
pub(crate) async fn write_until_stalled(stream: &mut Leg<Stream>, data: &[u8], meter: &Meter) -> usize {
    let mut written = 0;
    loop {
        let before = meter.a_to_b() + meter.b_to_a();
        match tokio::time::timeout(Duration::from_millis(100), stream.write(&data[written..])).await {
            Ok(Ok(n)) => written += n,
            Ok(Err(error)) => panic!("write: {error}"),
            // Nothing moved either: the relay has taken what it will.
            Err(_) if meter.a_to_b() + meter.b_to_a() == before => return written,
            Err(_) => {}
        }
        assert!(written < data.len(), "never stalled");
    }
}

/// Resets the connection: TCP with linger 0; a Unix socket by closing with unread bytes, which the caller has sent; a
/// framed one by the record for it.
pub(crate) fn reset(stream: Leg<Stream>) {
    stream.arm_reset();
}

/// How an aborted connection must look: TCP peers see a reset; a Unix peer finds both directions closed (ECONNRESET
/// where it had sent something that nobody read, else an end of stream and a refused write); a framed peer a reset.
pub(crate) async fn assert_torn(stream: &mut Leg<Stream>, what: &str) {
    let seen = drain(stream).await;
    match (stream.kind(), &stream) {
        (StreamKind::Tcp, _) | (_, Leg::Framed(_)) => {
            assert_eq!(seen.end, Err(io::ErrorKind::ConnectionReset), "{what}")
        }
        (StreamKind::Unix, Leg::Raw(_)) => {
            assert!(matches!(seen.end, Ok(()) | Err(io::ErrorKind::ConnectionReset)), "{what}: {seen:?}");
            let write = stream.write_all(b"x").await.map_err(|error| error.kind());
            assert_eq!(write, Err(io::ErrorKind::BrokenPipe), "{what}: still open for writing");
        }
        (StreamKind::Vsock, _) => panic!("no AF_VSOCK in tests"),
    }
}

/// Waits for a condition that another task brings about.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(tokio::time::timeout(LONG, waiting).await.is_ok(), "waited in vain: {what}");
}
