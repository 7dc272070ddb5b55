//! The host's side by hand: raw bytes as the wire's description has them, nothing of the project's own encoders.
#![allow(dead_code, missing_docs, unreachable_pub, reason = "each test file uses a part of it")]

use std::path::PathBuf;
use std::time::Duration;

use enclave_bridge_sdk::{Options, Scope};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

pub const ACK: [u8; 2] = [0x06, 0x0A];
pub const V1: &str = r#"{"PLANET":"earth"}"#;
pub const V1_1: &str = r#"{"PLANET":"earth","ENCLAVE_BRIDGE_PROTOCOL":"1.1 proxy-v2,bind"}"#;

/// A generous bound on whatever must happen.
pub const SOON: Duration = Duration::from_secs(20);

pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, what).await.expect("within the bound")
}

/// The directory of a hybrid transport.
pub struct Place(tempfile::TempDir);

impl Place {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self) -> PathBuf {
        self.0.path().join("p")
    }

    pub fn options(&self) -> Options {
        Options::new("test").uds_path(self.path()).interval(Duration::from_secs(2))
    }

    /// The host listens at `P_<port>`; what stood there is replaced.
    pub fn host(&self, port: u32) -> UnixListener {
        let path = self.0.path().join(format!("p_{port}"));
        drop(std::fs::remove_file(&path));
        UnixListener::bind(path).unwrap()
    }

    /// What a bridge does for an ingress connection.
    pub async fn ingress(&self, port: u32) -> UnixStream {
        let mut stream = UnixStream::connect(self.path()).await.unwrap();
        stream.write_all(format!("CONNECT {port}\n").as_bytes()).await.unwrap();
        assert!(line(&mut stream).await.starts_with(b"OK "));
        stream
    }
}

pub async fn line(stream: &mut UnixStream) -> Vec<u8> {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        line.push(stream.read_u8().await.unwrap());
    }
    line
}

/// Accepts a handshake as far as the settings.
pub async fn asked(init: &UnixListener, environment: &str) -> (UnixStream, Value) {
    let (mut stream, _) = init.accept().await.unwrap();
    let mut ack = [0; 2];
    stream.read_exact(&mut ack).await.unwrap();
    assert_eq!(ack, ACK);
    stream.write_all(format!("{environment}\n").as_bytes()).await.unwrap();
    let settings = line(&mut stream).await;
    let settings = serde_json::from_slice(&settings).unwrap();
    (stream, settings)
}

/// A whole handshake; the id that the enclave will beat with.
pub async fn granted(init: &UnixListener, environment: &str) -> [u8; 16] {
    let (mut stream, settings) = asked(init, environment).await;
    stream.write_all(&ACK).await.unwrap();
    id(&settings)
}

pub fn id(settings: &Value) -> [u8; 16] {
    let text: String =
        settings["watchdog"]["enclaveId"].as_str().unwrap().chars().filter(|letter| *letter != '-').collect();
    u128::from_str_radix(&text, 16).unwrap().to_be_bytes()
}

pub fn beat(id: [u8; 16]) -> [u8; 17] {
    let mut beat = [0x0A; 17];
    beat[..16].copy_from_slice(&id);
    beat
}

/// Accepts the connection of the beats and reads the first one.
pub async fn beating(init: &UnixListener, id: [u8; 16]) -> UnixStream {
    let (mut stream, _) = init.accept().await.unwrap();
    let mut first = [0; 17];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(first, beat(id));
    stream
}

pub async fn no_tasks(scope: &Scope) {
    soon(async {
        while scope.tasks() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
