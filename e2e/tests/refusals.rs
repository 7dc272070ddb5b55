//! Settings that are refused: the code, the sentence, and nothing left bound.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::wildcard_enum_match_arm,
    reason = "tests"
)]

use enclave_bridge_e2e::bridge::Bridge;
use enclave_bridge_e2e::ports;
use enclave_bridge_e2e::v1::{self, ACK, Answer, Client, INIT_PORT, Server, Settings, handshake, handshake_within};
use enclave_bridge_e2e::wait::{self, SOON};
use enclave_bridge_e2e::wire::Endpoint;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

const CALM: Duration = Duration::from_secs(30);

fn own_cid() -> u64 {
    Endpoint::under_test().enclave_cid().into()
}

/// Settings that would be granted: what a case changes is what is refused.
fn good(port: u16) -> Settings {
    Settings::new(CALM).server(5001, port).client(5002)
}

fn assert_refused(bridge: &mut Bridge, port: u16, line: &str, code: &str, named: &str) {
    let shown = &line[..line.len().min(300)];
    match handshake_within(&bridge.meeting, line, SOON).1 {
        Answer::Nak(met, sentence) => {
            assert_eq!(met, code, "{sentence} for {shown}");
            assert!(sentence.contains(named), "{sentence:?} does not name {named:?} for {shown}");
        }
        other => panic!("{other:?} instead of {code} for {shown}"),
    }
    // The other ports of the same request.
    wait::until("the TCP port to be free", SOON, || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok());
    assert!(bridge.meeting.dial_host(5002).is_err(), "the client's port is bound after {shown}");
    assert_eq!(bridge.ready_status(), 503);
    bridge.assert_alive();
}

#[test]
fn w8_intervals() {
    let mut bridge = Bridge::builder().start();
    let port = ports::free();
    for interval in [0, -1, 1, 999_999_999, 3_600_000_000_001, i128::from(i64::MAX), -i128::from(i64::MAX)] {
        let settings = Settings { interval, ..good(port) };
        assert_refused(&mut bridge, port, &settings.json(), "BAD_INTERVAL", "");
    }
    for interval in ["\"30s\"", "null", "1e9", "1000000000.5", "{}"] {
        let line = good(port).json().replace("30000000000", interval);
        let answer = handshake_within(&bridge.meeting, &line, SOON).1;
        assert!(["BAD_CONFIG", "BAD_INTERVAL"].contains(&answer.code()), "{interval}: {answer:?}");
    }
    for interval in [1_000_000_000, 3_600_000_000_000] {
        let settings = Settings { interval, ..good(port) };
        assert_eq!(handshake_within(&bridge.meeting, &settings.json(), SOON).1, Answer::Ack);
    }
}

#[test]
fn ids() {
    let mut bridge = Bridge::builder().start();
    let port = ports::free();
    let mut settings = good(port);
    settings.id = [0; 16];
    assert_refused(&mut bridge, port, &settings.json(), "BAD_ID", "");
    settings.id[3] = b'\n';
    assert_refused(&mut bridge, port, &settings.json(), "BAD_ID", "");
    let spelled = v1::spelled(&good(port).id);
    let with = |text: &str| {
        let mut settings = good(port);
        settings.id = *b"0123456789abcdef";
        settings.json().replace(&v1::spelled(b"0123456789abcdef"), text)
    };
    for id in ["", "no-uuid", &spelled[1..]] {
        let answer = handshake_within(&bridge.meeting, &with(id), SOON).1;
        assert!(["BAD_CONFIG", "BAD_ID"].contains(&answer.code()), "{id:?}: {answer:?}");
    }
    // The spellings that the original's UUID library takes.
    let plain = spelled.replace('-', "");
    for id in [spelled.clone(), plain.clone(), format!("{{{spelled}}}"), format!("urn:uuid:{spelled}")] {
        assert_eq!(handshake_within(&bridge.meeting, &with(&id), SOON).1, Answer::Ack, "{id}");
    }
}

#[test]
fn c3_tcp_ports() {
    let mut bridge = Bridge::builder().start();
    let port = ports::free();
    let monitor = u64::from(bridge.monitor.port());
    let with = |tcp_port: u64| {
        let mut settings = good(port);
        settings.servers.as_mut().unwrap().push(Server { cid: own_cid(), listen_port: 5003, tcp_port });
        settings.json()
    };
    for tcp_port in [0, 80, 1023, 65_536, 70_000, u64::from(u32::MAX), monitor] {
        assert_refused(&mut bridge, port, &with(tcp_port), "PORT_NOT_ALLOWED", "");
    }
    assert_refused(&mut bridge, port, &with(port.into()), "DUPLICATE_PORT", "");
    let taken = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let taken_port = taken.local_addr().unwrap().port();
    assert_refused(&mut bridge, port, &with(taken_port.into()), "PORT_IN_USE", &taken_port.to_string());
    drop(taken);
}

#[test]
fn c3_vsock_ports() {
    let mut bridge = Bridge::builder().start();
    let port = ports::free();
    let with = |dial_port: u64| {
        let mut settings = good(port);
        settings.clients.as_mut().unwrap().push(Client { dial_port, request_timeout: 0 });
        settings.json()
    };
    for dial_port in [0, 4999, 5000, 65_536, 1 << 40] {
        assert_refused(&mut bridge, port, &with(dial_port), "PORT_NOT_ALLOWED", "");
    }
    assert_refused(&mut bridge, port, &with(5002), "DUPLICATE_PORT", "");
    let mut settings = good(port);
    settings.servers.as_mut().unwrap()[0].listen_port = 0;
    assert_refused(&mut bridge, port, &settings.json(), "PORT_NOT_ALLOWED", "");
}

#[test]
fn c5_too_many_tunnels() {
    let mut bridge = Bridge::builder().start();
    let port = ports::free();
    let before = bridge.anonymous_kib();
    for count in [65, 1000] {
        let mut settings = good(port);
        settings.clients = Some((0..count).map(|n| Client { dial_port: 6000 + n, request_timeout: 0 }).collect());
        assert_refused(&mut bridge, port, &settings.json(), "TOO_MANY", "clients");
        let mut settings = good(port);
        settings.servers =
            Some((0..count).map(|n| Server { cid: own_cid(), listen_port: 5001, tcp_port: 20_000 + n }).collect());
        assert_refused(&mut bridge, port, &settings.json(), "TOO_MANY", "servers");
    }
    // A million of them do not fit into the line: nothing answers, and nothing is kept.
    let mut settings = good(port);
    settings.clients = Some((0..1_000_000).map(|_| Client { dial_port: 6000, request_timeout: 0 }).collect());
    assert!(!matches!(handshake(&bridge.meeting, &settings.json()), Ok((_, Answer::Ack | Answer::Nak(..)))));
    let grown = bridge.anonymous_kib().saturating_sub(before);
    println!("grown by {grown} KiB");
    assert!(grown < 1024, "grown by {grown} KiB");
    // As many as are allowed.
    let mut settings = good(port);
    settings.servers = Some(
        (0..64).map(|_| Server { cid: own_cid(), listen_port: 5001, tcp_port: u64::from(ports::free()) }).collect(),
    );
    settings.clients = Some((0..64).map(|n| Client { dial_port: 6000 + n, request_timeout: 0 }).collect());
    assert_eq!(handshake_within(&bridge.meeting, &settings.json(), SOON).1, Answer::Ack);
}

#[test]
fn c4_the_cid_of_somebody_else() {
    let mut bridge = Bridge::builder().start();
    let port = ports::free();
    for cid in [0, 2, 3, 17, u64::from(u32::MAX)] {
        let mut settings = good(port);
        settings.servers.as_mut().unwrap()[0].cid = cid;
        match bridge.meeting.endpoint() {
            Endpoint::Vsock => assert_refused(&mut bridge, port, &settings.json(), "CID_MISMATCH", "enclaveCid"),
            // The peer is known by its socket path; whatever it says of itself changes nothing.
            Endpoint::Hybrid => assert_eq!(handshake_within(&bridge.meeting, &settings.json(), SOON).1, Answer::Ack),
        }
    }
}

#[test]
fn c6_the_enclaves_level_is_not_the_hosts() {
    let bridge = Bridge::builder().start();
    let granted = |name: &str, level: &str| {
        let settings = Settings { app_name: name.into(), level: level.into(), ..Settings::new(CALM) };
        assert_eq!(handshake_within(&bridge.meeting, &settings.json(), SOON).1, Answer::Ack);
        // The bridge's own words at its own level, whatever the enclave's is.
        let _line = bridge.stderr.wait_for_line(name, SOON);
    };
    granted("quiet-one", "disabled");
    granted("loud-one", "trace");
    granted("quiet-again", "panic");
    let said = bridge.stderr.text();
    assert!(!said.contains("DEBUG") && !said.contains("TRACE"), "{said}");
    for level in ["loud", "infos", "0", "none"] {
        let settings = Settings { level: level.into(), ..Settings::new(CALM) };
        let answer = handshake_within(&bridge.meeting, &settings.json(), SOON).1;
        assert_eq!(answer.code(), "BAD_CONFIG", "{level}: {answer:?}");
    }
}

#[test]
fn h15_a_port_in_use_is_named_in_place_of_the_ack() {
    let mut bridge = Bridge::builder().start();
    let port = ports::free();
    let taken = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let taken_port = taken.local_addr().unwrap().port();
    let held = bridge.meeting.listen_host(6100).unwrap();
    let tcp = good(port).server(5003, taken_port);
    let vsock = good(port).client(6100);
    for (settings, named) in [(tcp, taken_port.to_string()), (vsock, "6100".to_owned())] {
        let mut wire = bridge.meeting.dial_host(INIT_PORT).unwrap();
        wire.read_within(SOON);
        wire.write_all(ACK).unwrap();
        wire.read_line_exactly(1 << 20).unwrap();
        wire.write_all(format!("{}\n", settings.json()).as_bytes()).unwrap();
        let mut answer = Vec::new();
        let _end = wire.read_to_end(&mut answer);
        let text = String::from_utf8_lossy(&answer);
        assert!(text.starts_with("\x15PORT_IN_USE ") && text.contains(&named), "{text:?}");
        assert_eq!(text.matches('\n').count(), 1, "nothing follows the refusal: {text:?}");
        wait::until("the TCP port to be free", SOON, || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok());
        assert!(bridge.meeting.dial_host(5002).is_err(), "the client's port is bound");
    }
    drop((taken, held));
    bridge.assert_serves();
}

#[test]
fn c1_what_is_no_settings_object() {
    let mut bridge = Bridge::builder().start();
    let port = ports::free();
    let json = good(port).json();
    let deep = format!(r#"{{"x":{}{}}}"#, "[".repeat(50_000), "]".repeat(50_000));
    let cases: Vec<(String, &str)> = vec![
        (String::new(), ""),
        ("null".into(), ""),
        ("[]".into(), ""),
        ("\"settings\"".into(), ""),
        ("{".into(), ""),
        (json.clone() + "}", ""),
        (json.replace('"', "'"), ""),
        (deep, ""),
        (r#"{"watchdog":7}"#.into(), "watchdog"),
        (json.replace(r#""level":"debug""#, r#""level":"loud""#), "logger.level"),
        (json.replace(r#""level":"debug""#, r#""level":7"#), "logger.level"),
        (json.replace(&port.to_string(), r#""8080""#), "servers[0].bridgeTcpPort"),
        (json.replace(&port.to_string(), "-1"), "servers[0]"),
        (json.replace("300000000000", "-5"), "clients[0].requestTimeout"),
        (json.replace(r#""appName":"#, r#""watchdog":{},"appName":"#), "watchdog"),
        (json.replace("[", "{").replace("]", "}"), ""),
        (format!("\u{feff}{json}"), ""),
        (json.replace("30000000000", "NaN"), "watchdog.interval"),
        (json.replace("30000000000", "1e999"), "watchdog.interval"),
        (json.replace("version-one", "\\ud800"), "appName"),
        (json.replace(r#""logger":"#, r#""Watchdog":{},"logger":"#), "watchdog"),
    ];
    for (line, named) in cases {
        assert_ne!(line, json, "a case that changes nothing");
        assert_refused(&mut bridge, port, &line, "BAD_CONFIG", named);
    }
}

#[test]
fn c1_a_missing_field_is_named() {
    let mut bridge = Bridge::builder().start();
    let port = ports::free();
    let json = good(port).json();
    let id = v1::spelled(&good(port).id);
    let cases: Vec<(String, &str)> = vec![
        ("{}".into(), "watchdog"),
        (r#"{"watchdog":{}}"#.into(), "watchdog."),
        (format!(r#"{{"watchdog":{{"enclaveId":"{id}"}}}}"#), "watchdog.interval"),
        (r#"{"watchdog":{"interval":30000000000}}"#.into(), "watchdog.enclaveId"),
        (json.replace(r#""enclaveListenPort":5001,"#, ""), "servers[0].enclaveListenPort"),
        (json.replace(r#""enclaveDialPort":5002,"#, ""), "clients[0].enclaveDialPort"),
        (json.replace(r#""enclaveDialPort":5002"#, r#""enclaveDialPort":null"#), "clients[0].enclaveDialPort"),
    ];
    for (line, named) in cases {
        assert_ne!(line, json, "a case that changes nothing");
        assert_refused(&mut bridge, port, &line, "BAD_CONFIG", named);
    }
}

#[test]
fn what_was_not_announced_is_refused_with_its_path() {
    let mut bridge = Bridge::builder().start();
    let port = ports::free();
    let json = good(port).json();
    // No bridge of this protocol's versions announces this one.
    let line = json.replace(r#"{"appName""#, r#"{"protocol":"9.9","appName""#);
    let answer = handshake_within(&bridge.meeting, &line, SOON).1;
    assert_eq!(answer.code(), "BAD_CONFIG", "{answer:?}");
    bridge.assert_alive();
}

#[test]
fn a_nak_is_one_line_of_256_bytes_at_most() {
    let bridge = Bridge::builder().start();
    for level in ["x".repeat(10_000), "\\u0000\\n\\u001b[31m".into(), "ü€🦀".repeat(200)] {
        let mut wire = bridge.meeting.dial_host(v1::INIT_PORT).unwrap();
        wire.read_within(SOON);
        wire.write_all(v1::ACK).unwrap();
        wire.read_line_exactly(1 << 20).unwrap();
        let line = Settings { level: level.clone(), ..good(1024) }.json();
        wire.write_all(line.as_bytes()).unwrap();
        wire.write_all(b"\n").unwrap();
        let mut answer = Vec::new();
        wire.read_to_end(&mut answer).unwrap();
        assert!(
            answer.len() <= 256 && answer.starts_with(b"\x15BAD_CONFIG") && answer.ends_with(b"\n"),
            "{answer:02x?}"
        );
        let text = std::str::from_utf8(&answer[1..answer.len() - 1]).unwrap();
        assert!(!text.contains(char::is_control), "{text:?}");
    }
}

#[test]
fn strict_mode_and_narrow_port_ranges() {
    let port = ports::free();
    let mut bridge = Bridge::builder().arguments(["--ingress-ports", "1024-1030"]).start();
    assert_refused(&mut bridge, port, &good(port).json(), "PORT_NOT_ALLOWED", &port.to_string());
}
