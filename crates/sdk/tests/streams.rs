//! Streams in and out.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::large_futures,
    reason = "a test ends by panicking, and holds each future once"
)]

mod common;

use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{Place, V1, V1_1, granted, line, soon};
use enclave_bridge_sdk::{
    Bridge, ClientAddr, Connector, Dialer, EgressPolicy, Error, Listener, NakCode, Rule, Session,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tower_service::Service as _;

async fn egress(place: &Place) -> (Session, Dialer, UnixListener) {
    let init = place.host(5000);
    let out = place.host(5002);
    let enclave = async {
        let mut bridge = Bridge::connect(place.options()).await.unwrap();
        let dialer = bridge.client(5002);
        (bridge.start().await.unwrap(), dialer)
    };
    let ((session, dialer), _) = soon(async { tokio::join!(enclave, granted(&init, V1)) }).await;
    (session, dialer, out)
}

async fn ingress(place: &Place, proxy_v2: bool) -> (Session, Listener) {
    let init = place.host(5000);
    let enclave = async {
        let mut bridge = Bridge::connect(place.options()).await.unwrap();
        let server = bridge.server(5001, 8080);
        let listener = if proxy_v2 { server.proxy_v2().listen() } else { server.listen() }.unwrap();
        (bridge.start().await.unwrap(), listener)
    };
    soon(async { tokio::join!(enclave, granted(&init, V1_1)) }).await.0
}

#[tokio::test]
async fn the_enclaves_own_policy_refuses_before_the_bridge_is_asked() {
    let place = Place::new();
    let (_session, dialer, out) = egress(&place).await;
    let rules = ["public:443", "*.example.org:443", "10.1.2.3:80"].map(|rule| rule.parse::<Rule>().unwrap());
    let deny = "evil.example.org".parse().unwrap();
    let dialer = dialer.with_policy(EgressPolicy::new(rules.to_vec(), vec![deny]));
    for (host, port) in [
        ("example.org", 443),
        ("elsewhere.example", 443),
        ("a.example.org", 80),
        ("EVIL.example.org.", 443),
        ("10.1.2.4", 80),
        ("169.254.169.254", 443),
        ("::ffff:169.254.169.254", 443),
        ("64:ff9b::a9fe:a9fe", 443),
        ("2130706433", 443),
    ] {
        let Err(error) = soon(dialer.connect(host, port)).await else { panic!("{host}:{port} was allowed") };
        assert!(matches!(&error, Error::OwnPolicy { .. }), "{host}:{port}: {error}");
    }
    // Nobody was asked until now: the first that knocks is the first that is allowed.
    for (host, port, wanted) in [("a.example.org", 443, "a.example.org:443"), ("8.8.8.8", 443, "8.8.8.8:443")] {
        let host_side = async {
            let (mut stream, _) = out.accept().await.unwrap();
            assert_eq!(line(&mut stream).await, format!("{wanted}\n").as_bytes());
            stream.write_all(&[0x06, 0x0A]).await.unwrap();
        };
        let (conn, ()) = soon(async { tokio::join!(dialer.connect(host, port), host_side) }).await;
        conn.unwrap();
    }
}

#[tokio::test]
async fn a_banner_in_the_same_segment_as_the_ack_arrives_whole() {
    let place = Place::new();
    let (_session, dialer, out) = egress(&place).await;
    for run in 0..10_000_usize {
        let banner = format!("220 number {run} {}\r\n", "x".repeat(run * 7 % 6000));
        let host = async {
            let (mut stream, _) = out.accept().await.unwrap();
            assert_eq!(line(&mut stream).await, b"[2001:db8::1]:25\n");
            let mut answer = vec![0x06, 0x0A];
            answer.extend_from_slice(banner.as_bytes());
            stream.write_all(&answer).await.unwrap();
        };
        let enclave = async {
            let mut conn = dialer.connect("2001:db8::1", 25).await.unwrap();
            let mut read = vec![0; banner.len() + 1];
            let mut count = 0;
            loop {
                match conn.read(&mut read[count..]).await.unwrap() {
                    0 => break,
                    more => count += more,
                }
            }
            read.truncate(count);
            read
        };
        let (read, ()) = soon(async { tokio::join!(enclave, host) }).await;
        assert_eq!(read, banner.as_bytes(), "run {run}");
    }
}

#[tokio::test]
async fn what_the_bridge_answers_is_what_the_error_says() {
    let place = Place::new();
    let (_session, dialer, out) = egress(&place).await;
    for (answer, code, shown) in [
        (&b"\x15DENIED rule 7\n"[..], Some(NakCode::Denied), "egress to example.org:443: DENIED: rule 7"),
        (b"\x15LIMIT\n", Some(NakCode::Limit), "LIMIT"),
        (b"\x15NOVEL x\n", None, "egress to example.org:443: NOVEL: x"),
        (b"", None, "egress to example.org:443: the bridge closed the connection without a reason"),
        (b"\x06", None, "without a reason"),
        (b"HTTP/1.1 400\n", None, "neither ACK nor NAK"),
        (b"\x06\x06\n", None, "neither ACK nor NAK"),
        (&[0x15; 4000], None, "neither ACK nor NAK"),
    ] {
        let host = async {
            let (mut stream, _) = out.accept().await.unwrap();
            line(&mut stream).await;
            stream.write_all(answer).await.unwrap();
        };
        let (result, ()) = soon(async { tokio::join!(dialer.connect("example.org", 443), host) }).await;
        let error = result.unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().contains(shown), "{error}");
    }
}

#[tokio::test]
async fn an_answer_that_does_not_come_has_its_limit_and_a_bridge_that_is_gone_is_said_at_once() {
    let place = Place::new();
    let (_session, dialer, out) = egress(&place).await;
    let result = soon(dialer.with_limit(Duration::from_millis(50)).connect("example.org", 443)).await;
    assert!(matches!(result, Err(Error::EgressTimeout { .. })), "{result:?}");
    drop(out);
    let result = soon(dialer.connect("example.org", 443)).await;
    assert!(matches!(result, Err(Error::Dial(_))), "{result:?}");
}

#[tokio::test]
async fn a_server_that_answers_before_it_is_asked_waits_for_the_connectors_first_write() {
    let place = Place::new();
    let (_session, dialer, out) = egress(&place).await;
    let host = async {
        let (mut stream, _) = out.accept().await.unwrap();
        assert_eq!(line(&mut stream).await, b"example.org:80\n");
        stream.write_all(b"\x06\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nearly").await.unwrap();
        stream
    };
    let connected = Connector::new(dialer).call("http://example.org/".parse().unwrap());
    let (conn, _stream) = soon(async { tokio::join!(connected, host) }).await;
    let mut conn = conn.unwrap().into_inner();
    let mut answer = [0; 43];
    assert!(tokio::time::timeout(Duration::from_millis(20), conn.read(&mut answer)).await.is_err());
    conn.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    soon(conn.read_exact(&mut answer)).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200") && answer.ends_with(b"early"));
}

#[tokio::test]
async fn a_connection_that_dies_before_its_first_write_is_seen_to_be_dead() {
    let place = Place::new();
    let (_session, dialer, out) = egress(&place).await;
    let host = async {
        let (mut stream, _) = out.accept().await.unwrap();
        line(&mut stream).await;
        stream.write_all(b"\x06\n").await.unwrap();
    };
    let connected = Connector::new(dialer).call("http://example.org/".parse().unwrap());
    let (conn, ()) = soon(async { tokio::join!(connected, host) }).await;
    assert_eq!(soon(conn.unwrap().into_inner().read(&mut [0; 1])).await.unwrap(), 0);
}

#[tokio::test]
async fn an_ingress_stream_carries_both_directions_and_half_closes() {
    let place = Place::new();
    let (session, mut listener) = ingress(&place, false).await;
    let mut client = place.ingress(5001).await;
    let (mut conn, from) = soon(listener.accept()).await.unwrap();
    assert_eq!(from, ClientAddr::Unknown);
    client.write_all(b"ping").await.unwrap();
    client.shutdown().await.unwrap();
    let mut read = [0; 5];
    assert_eq!(soon(conn.read(&mut read)).await.unwrap(), 4);
    assert_eq!(soon(conn.read(&mut read)).await.unwrap(), 0);
    conn.write_all(b"pong").await.unwrap();
    drop(conn);
    let mut answer = Vec::new();
    soon(tokio::io::copy(&mut client, &mut answer)).await.unwrap();
    assert_eq!(answer, b"pong");
    session.shutdown().await;
    assert!(matches!(listener.accept().await, Err(Error::Closed)));
}

/// TCP over IPv4 from 192.0.2.7:4660 to 192.0.2.1:8080.
fn proxy_header() -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([0x21, 0x11, 0, 12, 192, 0, 2, 7, 192, 0, 2, 1, 0x12, 0x34, 0x1F, 0x90]);
    header
}

#[tokio::test]
async fn the_client_is_told_and_a_silent_connection_holds_up_nobody() {
    let place = Place::new();
    let (_session, mut listener) = ingress(&place, true).await;
    let _silent = place.ingress(5001).await;
    let mut slow = place.ingress(5001).await;
    slow.write_all(&proxy_header()[..9]).await.unwrap();
    let mut client = place.ingress(5001).await;
    let mut bytes = proxy_header();
    bytes.extend(b"with the header");
    client.write_all(&bytes).await.unwrap();
    let (mut conn, from) = soon(listener.accept()).await.unwrap();
    assert_eq!(from, ClientAddr::Known("192.0.2.7:4660".parse().unwrap()));
    let mut read = [0; 15];
    soon(conn.read_exact(&mut read)).await.unwrap();
    assert_eq!(&read, b"with the header");
    slow.write_all(&proxy_header()[9..]).await.unwrap();
    assert_eq!(soon(listener.accept()).await.unwrap().1.to_string(), "192.0.2.7:4660");
}

#[tokio::test]
async fn what_is_no_header_is_turned_away_and_unfinished_headers_are_bounded() {
    let place = Place::new();
    let (_session, mut listener) = ingress(&place, true).await;
    let turned_away = listener.turned_away();
    let mut bad = place.ingress(5001).await;
    bad.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    // More silent ones than are kept: the oldest are closed.
    let mut silent = Vec::new();
    for _ in 0..140 {
        silent.push(place.ingress(5001).await);
    }
    let mut client = place.ingress(5001).await;
    client.write_all(&proxy_header()).await.unwrap();
    soon(listener.accept()).await.unwrap();
    assert!(turned_away.load(Ordering::Relaxed) >= 12, "{turned_away:?}");
    let mut gone = [0; 1];
    assert_eq!(soon(bad.read(&mut gone)).await.unwrap_or(0), 0);
    assert_eq!(soon(silent[0].read(&mut gone)).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_header_has_five_seconds() {
    let place = Place::new();
    let (_session, mut listener) = ingress(&place, true).await;
    let mut silent = place.ingress(5001).await;
    let start = tokio::time::Instant::now();
    let mut gone = [0; 1];
    tokio::select! {
        _ = listener.accept() => panic!("there is no client"),
        read = silent.read(&mut gone) => assert_eq!(read.unwrap(), 0),
    }
    assert!(start.elapsed() >= Duration::from_secs(5), "{:?}", start.elapsed());
}
