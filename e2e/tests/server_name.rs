//! The TLS server name of egress streams: what begins with a ClientHello for the name that was asked for passes to the byte, all else is
//! reset before the server has seen any of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use enclave_bridge_e2e::bridge::Bridge;
use enclave_bridge_e2e::peers::Server;
use enclave_bridge_e2e::tunnels;
use enclave_bridge_e2e::v1::{Answer, Enclave, Settings};
use enclave_bridge_e2e::wait::{self, SOON};
use enclave_bridge_e2e::wire::Wire;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const CALM: Duration = Duration::from_secs(30);

/// A bridge that wants the name of every stream that is asked for by name.
fn start(arguments: &[&str]) -> (Bridge, Enclave) {
    let builder = Bridge::builder().loopback_egress().arguments(["--egress-server-name", "**"]);
    let bridge = builder.arguments(arguments.iter().copied()).start();
    let enclave = Enclave::start(&bridge.meeting, &Settings::new(CALM).client(5002));
    (bridge, enclave)
}

/// A server that counts the bytes it sees and echoes them.
fn counting() -> (Server, Arc<AtomicU64>) {
    let seen = Arc::new(AtomicU64::new(0));
    let count = seen.clone();
    let server = Server::start(move |mut stream| {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = stream.read(&mut buffer) {
            count.fetch_add(read as u64, Ordering::SeqCst);
            if stream.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        let _over = stream.shutdown(Shutdown::Write);
    });
    (server, seen)
}

fn dial(enclave: &Enclave, host: &str, server: &Server) -> Wire {
    let (wire, answer) = enclave.dial(5002, &format!("{host}:{}", server.address.port()));
    assert_eq!(answer, Answer::Ack);
    wire
}

fn client(roots: rustls::RootCertStore, name: &'static str) -> rustls::ClientConnection {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    rustls::ClientConnection::new(Arc::new(config), ServerName::try_from(name).unwrap()).unwrap()
}

/// The ClientHello that rustls writes for a name.
fn hello(name: &'static str) -> Vec<u8> {
    let mut hello = Vec::new();
    client(rustls::RootCertStore::empty(), name).write_tls(&mut hello).unwrap();
    hello
}

fn refused(bridge: &Bridge, reason: &str) -> u64 {
    let series = format!("enclave_bridge_server_names_refused_total{{reason=\"{reason}\"}} ");
    bridge.metrics().lines().find_map(|line| line.strip_prefix(&series)?.parse().ok()).unwrap()
}

#[test]
fn tls_for_the_name_that_was_asked_for_passes_and_is_not_ended() {
    let (bridge, enclave) = start(&[]);
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(own.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .unwrap();
    let config = Arc::new(config);
    let server = Server::start(move |stream| {
        let mut tls = rustls::StreamOwned::new(rustls::ServerConnection::new(config.clone()).unwrap(), stream);
        let mut heard = [0; 5];
        tls.read_exact(&mut heard).unwrap();
        tls.write_all(&heard).unwrap();
        let _over = tls.flush();
        let _end = tls.read(&mut [0; 1]);
    });
    let mut roots = rustls::RootCertStore::empty();
    roots.add(own.cert.der().clone()).unwrap();
    // Letter case and a trailing dot of the target make no difference: the name is the same.
    for host in ["localhost", "LocalHost."] {
        let mut tls = rustls::StreamOwned::new(client(roots.clone(), "localhost"), dial(&enclave, host, &server));
        tls.write_all(b"hello").unwrap();
        let mut back = [0; 5];
        tls.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"hello");
    }
    assert_eq!(bridge.metric("enclave_bridge_server_names_refused_total"), Some(0.0));
}

#[test]
fn a_hello_in_odd_pieces_is_replayed_to_the_byte() {
    let (_bridge, enclave) = start(&[]);
    let (server, seen) = counting();
    let all = [hello("localhost"), vec![0x17; 100_000]].concat();
    let mut wire = dial(&enclave, "localhost", &server);
    let mut writing = wire.again();
    let sent = all.clone();
    let writer = std::thread::spawn(move || {
        for (number, piece) in sent.chunks(37).enumerate() {
            writing.write_all(piece).unwrap();
            if number < 5 {
                std::thread::yield_now();
            }
        }
        writing.shutdown(Shutdown::Write);
    });
    let mut heard = Vec::new();
    wire.read_to_end(&mut heard).unwrap();
    writer.join().unwrap();
    assert!(heard == all, "{} of {} bytes", heard.len(), all.len());
    assert_eq!(seen.load(Ordering::SeqCst), all.len() as u64);
    // The first flight behind the address line in one segment.
    let mut wire = enclave.meeting.dial_host(5002).unwrap();
    wire.read_within(CALM);
    let line = format!("localhost:{}\n", server.address.port());
    wire.write_all(&[line.as_bytes(), &all[..600]].concat()).unwrap();
    let mut answer = vec![0; 602];
    wire.read_exact(&mut answer).unwrap_or_else(|error| panic!("{error}"));
    assert!(answer[2..] == all[..600]);
}

#[test]
fn everything_else_is_reset_before_the_server_sees_a_byte() {
    let (bridge, enclave) = start(&["--server-name-timeout", "400ms"]);
    let (server, seen) = counting();
    let nameless = hello("127.0.0.1");
    let long = [vec![22, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc], vec![0; 20_000]].concat();
    let mut malformed = hello("localhost");
    // A byte behind the message in its record.
    let record = u16::from_be_bytes([malformed[3], malformed[4]]) + 1;
    malformed[3..5].copy_from_slice(&record.to_be_bytes());
    malformed.push(0);
    for (first, reason) in [
        (&b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"[..], "not_tls"),
        (&hello("canary.example"), "other"),
        (&nameless, "none"),
        (&malformed, "malformed"),
        (&long, "too_long"),
        // Half of it, and no more.
        (&hello("localhost")[..100], "late"),
    ] {
        let before = refused(&bridge, reason);
        let mut wire = dial(&enclave, "localhost", &server);
        let _taken = wire.write_all(first);
        assert_eq!(tunnels::read_out(&mut wire).0, 0, "{reason}");
        wait::until(reason, SOON, || refused(&bridge, reason) > before);
    }
    // An end before it, and nothing at all.
    let wire = dial(&enclave, "localhost", &server);
    wire.shutdown(Shutdown::Write);
    wait::until("the early end", SOON, || refused(&bridge, "ended") == 1);
    let _silent = dial(&enclave, "localhost", &server);
    wait::until("the silence", SOON, || refused(&bridge, "late") == 2);
    // Connected by the kernel before the server's thread has counted them.
    wait::until("eight connections", SOON, || server.accepted() == 8);
    assert_eq!(seen.load(Ordering::SeqCst), 0, "the server saw bytes that were not judged");
    let ended = "enclave_bridge_streams_ended_total{direction=\"egress\",result=\"server_name\"} 8";
    wait::until("eight streams", SOON, || bridge.metrics().lines().any(|line| line == ended));
    let target =
        format!("egress to localhost:{}: reset: it does not begin with a TLS ClientHello", server.address.port());
    let _told = bridge.stderr.wait_for_line(&target, SOON);
    assert!(!bridge.stderr.text().contains("canary"), "what a stream asked for instead is payload");
}

#[test]
fn a_server_that_speaks_first_is_heard_while_the_client_is_not() {
    let (bridge, enclave) = start(&["--server-name-timeout", "1s"]);
    let server = Server::banner(b"220 ready\r\n".to_vec());
    let mut wire = dial(&enclave, "localhost", &server);
    let mut greeting = [0; 11];
    wire.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"220 ready\r\n");
    wire.write_all(b"STARTTLS\r\n").unwrap();
    assert_eq!(tunnels::read_out(&mut wire).0, 0);
    wait::until("the refusal", SOON, || refused(&bridge, "not_tls") == 1);
}

#[test]
fn targets_by_address_and_names_without_a_rule_begin_as_they_like() {
    let (bridge, enclave) = start(&[]);
    let server = Server::echo();
    let mut wire = dial(&enclave, "127.0.0.1", &server);
    assert_eq!(tunnels::speak_then_listen(&mut wire, 3, 1000).unwrap(), tunnels::Heard::pattern(3, 1000));
    assert_eq!(bridge.metric("enclave_bridge_server_names_refused_total"), Some(0.0));
    // Over AF_VSOCK the next one takes the same ports.
    drop((wire, enclave, bridge));
    let bridge = Bridge::builder().loopback_egress().arguments(["--egress-server-name", "**:443"]).start();
    let enclave = Enclave::start(&bridge.meeting, &Settings::new(CALM).client(5003));
    let (mut wire, answer) = enclave.dial(5003, &format!("localhost:{}", server.address.port()));
    assert_eq!(answer, Answer::Ack);
    assert_eq!(tunnels::speak_then_listen(&mut wire, 4, 1000).unwrap(), tunnels::Heard::pattern(4, 1000));
    assert_eq!(bridge.metric("enclave_bridge_server_names_refused_total"), Some(0.0));
}
