//! The five requests against the program itself, with a bridge by hand: it grants the session, brings the requests in
//! and plays what is to be fetched.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::large_futures,
    reason = "a test ends by panicking, and holds each future once"
)]

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::PrivateKeyDer;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

const SOON: Duration = Duration::from_secs(30);

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, what).await.expect("within the bound")
}

struct Host {
    directory: tempfile::TempDir,
    /// Kept open: an enclave whose beats are refused would ask for its session again and again.
    init: UnixListener,
    out: UnixListener,
    /// Looked at as text: this program has no JSON of its own.
    settings: String,
    enclave: Child,
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.enclave.kill());
        drop(self.enclave.wait());
    }
}

impl Host {
    /// Starts the program and grants what it asks for.
    async fn start(variables: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = |name: &str| UnixListener::bind(directory.path().join(name)).unwrap();
        let (init, out, log) = (socket("p_5000"), socket("p_5002"), socket("p_4999"));
        let enclave = Command::new(env!("CARGO_BIN_EXE_simple-enclave"))
            .args(["--interval", "3600"])
            .env("ENCLAVE_BRIDGE_UDS_PATH", directory.path().join("p"))
            .envs(variables.iter().copied())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let (mut stream, _) = soon(init.accept()).await.unwrap();
        let mut ack = [0; 2];
        stream.read_exact(&mut ack).await.unwrap();
        stream.write_all(b"{\"PLANET\":\"earth\",\"ENCLAVE_BRIDGE_PROTOCOL\":\"1.1 proxy-v2\"}\n").await.unwrap();
        let settings = line(&mut stream).await;
        stream.write_all(b"\x06\n").await.unwrap();
        // The connection of the beats stays in the backlog, open and silent.
        drop(log);
        Self { directory, init, out, settings, enclave }
    }

    /// A connection as the bridge brings it, from a client at 192.0.2.7:4660.
    async fn connection(&self) -> UnixStream {
        let mut stream = UnixStream::connect(self.directory.path().join("p")).await.unwrap();
        stream.write_all(b"CONNECT 5001\n").await.unwrap();
        assert!(line(&mut stream).await.starts_with("OK "));
        let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
        header.extend([0x21, 0x11, 0, 12, 192, 0, 2, 7, 192, 0, 2, 1, 0x12, 0x34, 0x1F, 0x90]);
        stream.write_all(&header).await.unwrap();
        stream
    }

    /// The whole answer to a GET.
    async fn get(&self, path: &str) -> String {
        let mut stream = self.connection().await;
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        tokio::io::copy(&mut stream, &mut answer).await.unwrap();
        String::from_utf8(answer).unwrap()
    }

    /// A fetch whose target is played by `server`, from the connection right after the address line on.
    async fn fetched(&self, query: &str, server: impl AsyncFnOnce(String, UnixStream)) -> String {
        let played = async {
            let (mut stream, _) = self.out.accept().await.unwrap();
            let target = line(&mut stream).await;
            server(target, stream).await;
        };
        let path = format!("/fetch?{query}");
        soon(async { tokio::join!(self.get(&path), played) }).await.0
    }
}

async fn line(stream: &mut UnixStream) -> String {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        line.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(line).unwrap()
}

/// Reads a request's head.
async fn head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

async fn serve(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), body: &str) -> String {
    let head = head(stream).await;
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-type: text/x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(answer.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    head
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

#[tokio::test]
async fn the_simple_requests() {
    let host = Host::start(&[("SIMPLE_ENCLAVE_PORT", "8099")]).await;
    assert!(host.settings.contains("\"enclaveListenPort\":5001,\"bridgeTcpPort\":8099"), "{}", host.settings);
    assert!(host.settings.contains("\"enclaveDialPort\":5002"), "{}", host.settings);
    assert_eq!(body(&soon(host.get("/")).await), "Hello from the enclave!");
    assert_eq!(body(&soon(host.get("/env/PLANET")).await), "earth");
    assert!(soon(host.get("/env/NOTHING")).await.starts_with("HTTP/1.1 404 "));
    assert_eq!(body(&soon(host.get("/client")).await), "192.0.2.7:4660");
    let _still_bound = &host.init;
}

#[tokio::test]
async fn the_echo_streams_while_the_body_is_still_coming() {
    let host = Host::start(&[]).await;
    let mut stream = host.connection().await;
    stream.write_all(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 400000\r\n\r\n").await.unwrap();
    soon(async {
        let sent: Vec<u8> = (0..4000_u32).flat_map(|number| format!("{number:0100}").into_bytes()).collect();
        stream.write_all(&sent[..1000]).await.unwrap();
        // The answer's head and the first part are here before the rest is sent.
        assert!(head(&mut stream).await.starts_with("HTTP/1.1 200 "));
        let mut back = vec![0; 1000];
        stream.read_exact(&mut back).await.unwrap();
        let (mut reading, mut writing) = tokio::io::split(stream);
        let mut rest = vec![0; sent.len() - 1000];
        let (written, read) = tokio::join!(writing.write_all(&sent[1000..]), reading.read_exact(&mut rest));
        written.unwrap();
        read.unwrap();
        back.extend(rest);
        assert!(back == sent, "the same bytes in the same order");
    })
    .await;
}

#[tokio::test]
async fn a_fetch_hands_on_what_the_server_answers() {
    let host = Host::start(&[]).await;
    let answer = host
        .fetched("target=example.org:80&path=/x%3Fy=1", async |target, mut stream| {
            assert_eq!(target, "example.org:80\n");
            stream.write_all(b"\x06\n").await.unwrap();
            let head = serve(&mut stream, "fetched").await;
            assert!(head.starts_with("GET /x?y=1 HTTP/1.1\r\n"), "{head}");
            assert!(head.to_lowercase().contains("host: example.org"), "{head}");
        })
        .await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("text/x"), "{answer}");
    assert_eq!(body(&answer), "fetched");
}

#[tokio::test]
async fn a_refused_fetch_is_502_with_code_and_sentence() {
    let host = Host::start(&[]).await;
    let answer = host
        .fetched("target=169.254.169.254:80&path=/", async |target, mut stream| {
            assert_eq!(target, "169.254.169.254:80\n");
            stream.write_all(b"\x15DENIED rule 7 says no\n").await.unwrap();
        })
        .await;
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    assert_eq!(body(&answer), "DENIED rule 7 says no");
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_whole() {
    let host = Host::start(&[]).await;
    let banner = format!("220 mail.example {}\r\n", "x".repeat(3000));
    // In the same segment as the bridge's ACK, and the connection stays open until the fetch is over.
    for early in [banner.clone(), format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{banner}", banner.len())] {
        let mut kept = None;
        let answer = host
            .fetched("target=mail.example:25", async |_, mut stream| {
                stream.write_all(format!("\x06\n{early}").as_bytes()).await.unwrap();
                kept = Some(stream);
            })
            .await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.contains(&banner), "{answer}");
    }
}

#[tokio::test]
async fn tls_ends_in_the_enclave() {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(vec!["secret.example".to_owned()]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let roots: PathBuf = directory.path().join("roots.pem");
    std::fs::write(&roots, cert.pem()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], PrivateKeyDer::Pkcs8(signing_key.serialize_der().into()))
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));

    let host = Host::start(&[("SSL_CERT_FILE", roots.to_str().unwrap())]).await;
    let answer = host
        .fetched("target=secret.example:443&path=/&scheme=https", async |target, mut stream| {
            assert_eq!(target, "secret.example:443\n");
            stream.write_all(b"\x06\n").await.unwrap();
            let mut tls = acceptor.accept(stream).await.unwrap();
            serve(&mut tls, "over tls").await;
        })
        .await;
    assert_eq!(body(&answer), "over tls");
    // A name that the certificate does not hold is not believed.
    let answer = host
        .fetched("target=other.example:443&path=/&scheme=https", async |_, mut stream| {
            stream.write_all(b"\x06\n").await.unwrap();
            assert!(acceptor.accept(stream).await.is_err());
        })
        .await;
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
}
