//! An enclave for the hybrid suite: streams whose directions end one after the other, by way of the SDK. The first byte of
//! each says what is wanted; see `lab/tests/hybrid_ends.rs`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a program of the tests: a panic is how it fails"
)]

use enclave_bridge_e2e::bytes::{Hash, Pattern};
use enclave_bridge_sdk::{Bridge, Conn, Dialer, Options, Scope};
use sha2::{Digest, Sha256};
use std::io::Read;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What each of the large directions carries; the hybrid suite has the same number.
const LENGTH: u64 = 64 * 1024 * 1024;

/// What enclaves see as written at once, so that the bridge's cap of a vsock write has something to cut.
const WRITE_BYTES: usize = 1024 * 1024;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let port = std::env::args().nth(1).and_then(|port| port.parse().ok()).expect("a TCP port of the bridge");
    let options = Options::from_env().unwrap().app_name("ends").interval(Duration::from_secs(5));
    let mut bridge = Bridge::connect(options).await.unwrap();
    let mut listener = bridge.server(5001, port).listen().unwrap();
    let dialer = bridge.client(5002);
    let _session = Box::pin(bridge.start()).await.unwrap();
    println!("ready");
    let streams = Scope::root("streams");
    loop {
        let (conn, _) = listener.accept().await.unwrap();
        let dialer = dialer.clone();
        streams.spawn("stream", async move {
            let framed = conn.is_framed();
            serve(conn, &dialer).await;
            println!("served, framed: {framed}");
        });
    }
}

async fn serve(mut conn: Conn, dialer: &Dialer) {
    match conn.read_u8().await.unwrap() {
        // The client has ended; what it said is answered by its hash, and then comes the large direction.
        b'd' => {
            let heard = listen(&mut conn).await;
            conn.write_all(&heard).await.unwrap();
            speak(&mut conn, 1).await;
        }
        // This end comes first; what comes after it is told by its hash.
        b'u' => {
            speak(&mut conn, 2).await;
            println!("heard {}", hex(&listen(&mut conn).await));
        }
        // Egress, this end first.
        b'e' => {
            let mut out = dial(&mut conn, dialer).await;
            out.write_all(b"over").await.unwrap();
            out.shutdown().await.unwrap();
            let heard = listen(&mut out).await;
            conn.write_all(&heard).await.unwrap();
            conn.shutdown().await.unwrap();
        }
        // Egress, the server's end first.
        b'f' => {
            let mut out = dial(&mut conn, dialer).await;
            let heard = listen(&mut out).await;
            speak(&mut out, 3).await;
            conn.write_all(&heard).await.unwrap();
            conn.shutdown().await.unwrap();
        }
        // A download without an end.
        b'k' => while conn.write_all(&[b'k'; 64 * 1024]).await.is_ok() {},
        // No destructor runs: the kernel is left to clear up.
        b'x' => std::process::abort(),
        other => panic!("{other}"),
    }
}

/// The rest of the order is the port of a server on the bridge's own machine.
async fn dial(conn: &mut Conn, dialer: &Dialer) -> Conn {
    let port = conn.read_u16().await.unwrap();
    dialer.connect("127.0.0.1", port).await.unwrap()
}

async fn speak(conn: &mut Conn, seed: u64) {
    let mut pattern = Pattern::new(seed, LENGTH);
    let mut piece = vec![0; WRITE_BYTES];
    loop {
        match pattern.read(&mut piece).unwrap() {
            0 => break,
            n => conn.write_all(&piece[..n]).await.unwrap(),
        }
    }
    conn.shutdown().await.unwrap();
}

async fn listen(conn: &mut Conn) -> Hash {
    let mut hash = Sha256::new();
    let mut piece = vec![0; 256 * 1024];
    loop {
        match conn.read(&mut piece).await.unwrap() {
            0 => return hash.finalize().into(),
            n => hash.update(&piece[..n]),
        }
    }
}

fn hex(hash: &Hash) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}
