//! Peers for the tests: connected pairs of every kind, bytes by seed, and how a stream looked to who read it.
#![allow(dead_code, reason = "each test program uses its own part")]

use std::io;
use std::time::Duration;

use enclave_bridge_net::{Leg, Meter, RelayStream as _, Stream, StreamKind};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio_vsock::{VMADDR_CID_ANY, VMADDR_CID_LOCAL, VsockAddr, VsockListener, VsockStream};

/// Far above anything a passing test takes.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// Whether this is a guest of the lab, the only place where a test may open AF_VSOCK.
pub(crate) fn in_the_lab() -> bool {
    #[expect(clippy::disallowed_methods, reason = "set by a guest's init for the tests, not for the product")]
    std::env::var_os("ENCLAVE_BRIDGE_LAB").is_some_and(|value| value == "1")
}

/// Far more than any kernel holds. A guest's translated processor takes a second for each of these mebibytes.
pub(crate) fn bulk_bytes() -> usize {
    if in_the_lab() { 4 << 20 } else { 64 << 20 }
}

/// The kinds of socket that there are here.
pub(crate) fn kinds() -> Vec<StreamKind> {
    let mut kinds = vec![StreamKind::Tcp, StreamKind::Unix];
    if in_the_lab() {
        kinds.push(StreamKind::Vsock);
    }
    kinds
}

/// A kind of socket, and what its bytes are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Form {
    Tcp,
    Unix,
    /// A Unix socket in records.
    Framed,
    Vsock,
    /// AF_VSOCK in records.
    FramedVsock,
}

impl Form {
    fn kind(self) -> StreamKind {
        match self {
            Form::Tcp => StreamKind::Tcp,
            Form::Unix | Form::Framed => StreamKind::Unix,
            Form::Vsock | Form::FramedVsock => StreamKind::Vsock,
        }
    }

    fn is_framed(self) -> bool {
        matches!(self, Form::Framed | Form::FramedVsock)
    }
}

/// The forms that there are here.
pub(crate) fn forms() -> Vec<Form> {
    let mut forms = vec![Form::Tcp, Form::Unix, Form::Framed];
    if in_the_lab() {
        forms.extend([Form::Vsock, Form::FramedVsock]);
    }
    forms
}

/// Every pair of forms; in the lab those with AF_VSOCK in them, as the others are tried elsewhere and faster.
pub(crate) fn pairs() -> Vec<(Form, Form)> {
    let forms = forms();
    let all = forms.iter().flat_map(|a| forms.iter().map(|b| (*a, *b)));
    all.filter(|(a, b)| !in_the_lab() || [a.kind(), b.kind()].contains(&StreamKind::Vsock)).collect()
}

/// The peer's end and the relay's end of one connection.
pub(crate) async fn legs(form: Form) -> (Leg<Stream>, Leg<Stream>) {
    let (peer, ours) = connected(form.kind()).await;
    (Leg::new(peer, form.is_framed()), Leg::new(ours, form.is_framed()))
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
        StreamKind::Vsock => {
            assert!(in_the_lab(), "AF_VSOCK is opened in a guest only: cargo xtask lab");
            // Any port that is free: -1 as a number of 32 bits.
            let listener = VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, u32::MAX)).unwrap();
            let port = listener.local_addr().unwrap().port();
            let peer = VsockStream::connect(VsockAddr::new(VMADDR_CID_LOCAL, port)).await.unwrap();
            let (ours, _) = listener.accept().await.unwrap();
            (Stream::from_vsock(peer.into()).unwrap(), Stream::from_vsock(ours.into()).unwrap())
        }
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
        (StreamKind::Vsock, _) => {
            assert!(matches!(seen.end, Ok(()) | Err(io::ErrorKind::ConnectionReset)), "{what}: {seen:?}");
            let write = stream.write_all(b"x").await.map_err(|error| error.kind());
            let closed = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset, io::ErrorKind::NotConnected];
            assert!(write.is_err_and(|kind| closed.contains(&kind)), "{what}: still open for writing");
        }
    }
}

/// Writes until the stream is refused, and says how: AF_VSOCK's close is carried by a task of the kernel's, and a write
/// that comes before it is taken. For when no relay runs any more.
pub(crate) async fn refusal(stream: &mut Leg<Stream>) -> io::ErrorKind {
    // The machine's clock: these tests may have stopped tokio's.
    let start = std::time::Instant::now();
    loop {
        if let Err(error) = stream.write_all(b"x").await {
            return error.kind();
        }
        assert!(start.elapsed() < LONG, "still open for writing");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether the death of a peer of this kind, with bytes of ours unread, can be told from an end. AF_VSOCK closes by ending
/// both directions, whatever is unread; records say it.
pub(crate) fn shows_resets(form: Form) -> bool {
    form != Form::Vsock
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
