//! The example enclave behind the real bridge: its five requests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use enclave_bridge_e2e::bridge::Bridge;
use enclave_bridge_e2e::bytes::{MIB, Pattern};
use enclave_bridge_e2e::enclave::SimpleEnclave;
use enclave_bridge_e2e::http;
use enclave_bridge_e2e::peers::{self, Server};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::io::{Read, Write};
use std::sync::{Arc, Mutex};

#[test]
fn the_five_requests_answer() {
    let bridge = Bridge::builder().loopback_egress().variable("GREETING", "hello, wörld").start();
    let enclave = SimpleEnclave::start(&bridge.meeting, &[]);

    let greeting = enclave.get("/");
    assert_eq!((greeting.status, greeting.text().trim_end()), (200, "Hello from the enclave!"));

    let variable = enclave.get("/env/GREETING");
    assert_eq!((variable.status, variable.text().trim_end_matches('\n')), (200, "hello, wörld"));
    assert_eq!(enclave.get("/env/NO_SUCH_VARIABLE").status, 404);

    let server = Server::http(b"from afar".to_vec());
    let fetched = enclave.get(&format!("/fetch?target={}&path=/x", server.target()));
    assert_eq!((fetched.status, fetched.text().as_str()), (200, "from afar"));

    let client = enclave.get("/client");
    assert_eq!(client.status, 200);
    assert!(client.text().contains("127.0.0.1"), "{}", client.text());

    let (status, hash, length) = http::post_and_hash(enclave.address, "/echo", Pattern::new(1, MIB), MIB).unwrap();
    assert_eq!((status, length), (200, MIB));
    assert_eq!(hash, Pattern::hash(1, MIB));
}

#[test]
fn slow_an_echo_of_256_mib_comes_back_with_the_same_hash() {
    let bridge = Bridge::builder().start();
    let enclave = SimpleEnclave::start(&bridge.meeting, &[]);
    let length = 256 * MIB;
    let start = std::time::Instant::now();
    let (status, hash, back) = http::post_and_hash(enclave.address, "/echo", Pattern::new(5, length), length).unwrap();
    println!("256 MiB there and back in {:?}", start.elapsed());
    assert_eq!((status, back), (200, length));
    assert_eq!(hash, Pattern::hash(5, length));
    // Streamed: neither of the two may have held it.
    assert!(bridge.resident_kib() < 64 * 1024, "the bridge holds {} KiB", bridge.resident_kib());
    assert!(enclave.resident_kib() < 128 * 1024, "the enclave holds {} KiB", enclave.resident_kib());
}

#[test]
fn fetch_passes_the_path_on_and_the_answer_back_whole() {
    let bridge = Bridge::builder().loopback_egress().start();
    let enclave = SimpleEnclave::start(&bridge.meeting, &[]);
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = heads.clone();
    let mut body = vec![0; 3_000_000];
    Pattern::new(9, body.len() as u64).read_exact(&mut body).unwrap();
    let whole = body.clone();
    let server = Server::start(move |mut stream| {
        seen.lock().unwrap().push(peers::read_head(&mut stream));
        stream.write_all(&peers::http_answer(&whole)).unwrap();
    });
    let fetched = enclave.get(&format!("/fetch?target={}&path=/a/b", server.target()));
    assert_eq!(fetched.status, 200);
    assert!(fetched.body == body, "{} of {} bytes", fetched.body.len(), body.len());
    assert!(heads.lock().unwrap()[0].starts_with("GET /a/b HTTP/1.1\r\n"), "{:?}", heads.lock().unwrap());
}

#[test]
fn t12_fetch_from_a_server_that_speaks_first_gets_its_banner_whole() {
    let bridge = Bridge::builder().loopback_egress().start();
    let enclave = SimpleEnclave::start(&bridge.meeting, &[]);
    let mut body = vec![0; 20_000];
    Pattern::new(6, body.len() as u64).read_exact(&mut body).unwrap();
    let server = Server::http_that_speaks_first(body.clone());
    for round in 0..100 {
        let fetched = enclave.get(&format!("/fetch?target={}&path=/", server.target()));
        assert_eq!(fetched.status, 200, "round {round}: {}", fetched.text());
        assert!(fetched.body == body, "round {round}: {} of {} bytes", fetched.body.len(), body.len());
    }
}

#[test]
fn fetch_over_https_ends_its_tls_in_the_enclave() {
    let bridge = Bridge::builder().loopback_egress().start();
    let (certificate, server) = https_server(b"sealed until here".to_vec());
    let roots = bridge.folder().join("roots.pem");
    std::fs::write(&roots, certificate).unwrap();
    let trusting = SimpleEnclave::start(&bridge.meeting, &[("SSL_CERT_FILE", roots.to_str().unwrap())]);
    let fetched = trusting.get(&format!("/fetch?target={}&path=/x&scheme=https", server.target()));
    assert_eq!((fetched.status, fetched.text().as_str()), (200, "sealed until here"));
    drop(trusting);

    // Without the root the same server is not believed.
    let doubting = SimpleEnclave::start(&bridge.meeting, &[]);
    let refused = doubting.get(&format!("/fetch?target={}&path=/x&scheme=https", server.target()));
    assert_eq!(refused.status, 502, "{}", refused.text());
}

#[test]
fn a_fetch_that_the_policy_denies_is_a_502_with_the_code_and_the_rule() {
    let bridge = Bridge::builder().start();
    let enclave = SimpleEnclave::start(&bridge.meeting, &[]);
    let denied = enclave.get("/fetch?target=169.254.169.254:80&path=/latest/meta-data");
    assert_eq!(denied.status, 502);
    assert!(denied.text().contains("DENIED"), "{}", denied.text());
    // Beyond the code there is a sentence that says why.
    assert!(denied.text().contains("rule"), "{}", denied.text());

    for target in ["127.0.0.1:80", "[::1]:80", "10.1.2.3:80", "localhost:80"] {
        let denied = enclave.get(&format!("/fetch?target={target}&path=/"));
        assert_eq!(denied.status, 502, "{target}: {}", denied.text());
        assert!(denied.text().contains("DENIED"), "{target}: {}", denied.text());
    }
    let nonsense = enclave.get("/fetch?target=nonsense&path=/");
    assert!(nonsense.status == 502 || nonsense.status == 400, "{}", nonsense.status);
}

#[test]
fn the_enclaves_log_lines_reach_the_bridges_output() {
    let bridge = Bridge::builder().start();
    let enclave = SimpleEnclave::start(&bridge.meeting, &[]);
    let _greeting = enclave.get("/");
    let line = bridge.stdout.wait_for_line("{", enclave_bridge_e2e::wait::SOON);
    serde_json::from_str::<serde_json::Value>(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
}

#[test]
fn many_clients_at_once() {
    let bridge = Bridge::builder().start();
    let enclave = SimpleEnclave::start(&bridge.meeting, &[]);
    std::thread::scope(|scope| {
        for seed in 0..32 {
            let address = enclave.address;
            scope.spawn(move || {
                for _ in 0..5 {
                    let (status, hash, _) =
                        http::post_and_hash(address, "/echo", Pattern::new(seed, MIB), MIB).unwrap();
                    assert_eq!(status, 200);
                    assert_eq!(hash, Pattern::hash(seed, MIB));
                }
            });
        }
    });
    assert_eq!(bridge.ready_status(), 200);
}

/// A server with a certificate for 127.0.0.1 that nobody signed but itself; the certificate as PEM.
fn https_server(body: Vec<u8>) -> (String, Server) {
    let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
    let pem = certified.cert.pem();
    let chain = vec![CertificateDer::from(certified.cert.der().to_vec())];
    let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let config = Arc::new(config);
    let server = Server::start(move |stream| {
        let connection = rustls::ServerConnection::new(config.clone()).unwrap();
        let mut tls = rustls::StreamOwned::new(connection, stream);
        // A client that does not believe the certificate ends here.
        if peers::read_head(&mut tls).is_empty() {
            return;
        }
        let _met = tls.write_all(&peers::http_answer(&body));
        tls.conn.send_close_notify();
        let _met = tls.flush();
    });
    (pem, server)
}
