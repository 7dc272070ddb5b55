//! Egress: what is no target, what is denied, what connecting meets, and how long anything may take.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use enclave_bridge_e2e::bridge::{Bridge, Builder};
use enclave_bridge_e2e::peers::Server;
use enclave_bridge_e2e::ports;
use enclave_bridge_e2e::tunnels;
use enclave_bridge_e2e::v1::{ACK, Answer, Client, Enclave, Settings};
use enclave_bridge_e2e::wait::{self, SOON};
use std::io::{Read, Write};
use std::time::{Duration, Instant};

const CALM: Duration = Duration::from_secs(30);

struct World {
    bridge: Bridge,
    enclave: Enclave,
}

impl World {
    fn start(builder: Builder) -> World {
        let folder = tempfile::tempdir().unwrap();
        // A resolver that nobody runs: no test's name may leave this machine.
        let resolv_conf = folder.path().join("resolv.conf");
        std::fs::write(&resolv_conf, "nameserver 127.0.0.83\noptions timeout:1 attempts:1\n").unwrap();
        let bridge = builder.arguments(["--resolv-conf".into(), resolv_conf.into_os_string()]).start();
        let enclave = Enclave::start(&bridge.meeting, &Settings::new(CALM).client(5002));
        World { bridge, enclave }
    }

    fn answer(&self, line: &[u8]) -> Answer {
        let mut wire = self.enclave.meeting.dial_host(5002).unwrap();
        wire.read_within(CALM);
        // A bridge that has seen enough refuses before the rest is written; its answer stands all the same.
        let _met = wire.write_all(line).and_then(|()| wire.write_all(b"\n"));
        let answer = Answer::of(&wire.read_line_exactly(300).unwrap_or_default());
        if answer != Answer::Ack {
            assert_eq!(tunnels::read_out(&mut wire).0, 0, "bytes after a refusal");
        }
        answer
    }
}

#[test]
fn t13_what_is_no_target() {
    let mut world = World::start(Bridge::builder().arguments(["--egress-allow", "any"]));
    let server = Server::echo();
    let port = server.address.port();
    let long = format!("{}:80", "a".repeat(400));
    let mut lines: Vec<Vec<u8>> =
        ["", ":", ":80", "localhost", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:http"]
            .map(|line| line.as_bytes().to_vec())
            .to_vec();
    lines.extend(
        ["127.0.0.1:80:90", "[::1:80", "::1:80", "[::1]", "[::1]80", "127.0.0.1:-1", "127.0.0.1:+80", "127.0.0.1: 80"]
            .map(|line| line.as_bytes().to_vec()),
    );
    lines.extend([
        format!("127.0.0.1:{port}\r").into_bytes(),
        format!("127.0.0.1\0:{port}").into_bytes(),
        format!(" 127.0.0.1:{port}").into_bytes(),
        format!("user@127.0.0.1:{port}").into_bytes(),
        format!("http://127.0.0.1:{port}").into_bytes(),
        format!("127.0.0.1:{port}/x").into_bytes(),
        format!("[fe80::1%lo]:{port}").into_bytes(),
        b"\xff\xfe:80".to_vec(),
        long.into_bytes(),
    ]);
    for line in lines {
        let answer = world.answer(&line);
        assert_eq!(answer.code(), "BAD_TARGET", "{:?}: {answer:?}", String::from_utf8_lossy(&line));
    }
    assert_eq!(server.accepted(), 0, "a malformed line was dialled");
    world.bridge.assert_alive();
}

#[test]
fn e1_e2_closed_addresses_in_every_spelling() {
    let world = World::start(Bridge::builder());
    let server = Server::echo();
    let port = server.address.port();
    for host in [
        "169.254.169.254",
        "[fd00:ec2::254]",
        "127.0.0.1",
        "127.9.9.9",
        "[::1]",
        "0.0.0.0",
        "[::]",
        "10.0.0.1",
        "192.168.1.1",
        "172.16.0.1",
        "100.64.0.1",
        "[fc00::1]",
        "[fe80::1]",
        "224.0.0.1",
        "[ff02::1]",
        "255.255.255.255",
        "[::ffff:127.0.0.1]",
        "[::ffff:a9fe:a9fe]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:7f00:1::]",
        "[2002:a9fe:a9fe::1]",
    ] {
        let answer = world.answer(format!("{host}:{port}").as_bytes());
        assert_eq!(answer.code(), "DENIED", "{host}: {answer:?}");
        assert!(matches!(answer, Answer::Nak(_, sentence) if !sentence.is_empty()), "{host}: no sentence");
    }
    // Spellings that only some resolvers take for an address: never an ACK, whatever the reason.
    for host in ["0x7f.1", "2130706433", "127.1", "0177.0.0.1", "localhost", "LOCALHOST.", "localhost.localdomain", "0"]
    {
        let answer = world.answer(format!("{host}:{port}").as_bytes());
        assert!(["DENIED", "BAD_TARGET", "DNS"].contains(&answer.code()), "{host}: {answer:?}");
    }
    assert_eq!(server.accepted(), 0);
}

#[test]
fn t24_the_bridges_own_listeners_are_closed_to_every_rule() {
    let builder = Bridge::builder().arguments([
        "--egress-allow",
        "any",
        "--egress-allow",
        "127.0.0.0/8",
        "--egress-allow",
        "::1",
    ]);
    let bridge = builder.start();
    let port = ports::free();
    let enclave = Enclave::echo(&bridge.meeting, &Settings::new(CALM).server(5001, port).client(5002), 5001);
    for own in [port, bridge.monitor.port()] {
        let answer = enclave.dial(5002, &format!("127.0.0.1:{own}")).1;
        assert_eq!(answer.code(), "DENIED", "{answer:?}");
    }
    // The server's listener is on every address of the host.
    assert_eq!(enclave.dial(5002, &format!("127.3.2.1:{port}")).1.code(), "DENIED");
    let server = Server::echo();
    assert_eq!(enclave.dial(5002, &server.target()).1, Answer::Ack);
}

#[test]
fn deny_wins_and_the_sentence_names_the_rule() {
    let server = Server::echo();
    let port = server.address.port();
    let deny = format!("127.0.0.1:{port}");
    let world = World::start(Bridge::builder().loopback_egress().arguments(["--egress-deny", deny.as_str()]));
    let Answer::Nak(code, sentence) = world.answer(deny.as_bytes()) else { panic!("no refusal") };
    assert_eq!(code, "DENIED");
    assert!(sentence.contains(&deny), "{sentence}");
    assert_eq!(server.accepted(), 0);
}

#[test]
fn t14_what_connecting_meets() {
    let world = World::start(Bridge::builder().loopback_egress());
    let closed = ports::free();
    let answer = world.answer(format!("127.0.0.1:{closed}").as_bytes());
    assert_eq!(answer.code(), "REFUSED", "{answer:?}");
}

#[test]
fn t15_a_name_that_nobody_resolves_is_a_dns_refusal_within_its_time() {
    let world = World::start(Bridge::builder());
    let start = Instant::now();
    let answer = world.answer(b"no-such-host.example:80");
    assert_eq!(answer.code(), "DNS", "{answer:?}");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[test]
fn t13_a_line_that_never_ends_is_ended() {
    let mut world = World::start(Bridge::builder());
    let mut wire = world.enclave.meeting.dial_host(5002).unwrap();
    wire.read_within(CALM);
    wire.write_all(b"example.org:4").unwrap();
    let mut answer = Vec::new();
    wire.read_to_end(&mut answer).unwrap();
    assert_ne!(answer, ACK);
    world.bridge.assert_alive();
}

#[test]
fn t13_a_line_that_stops_short_is_never_dialled() {
    let world = World::start(Bridge::builder().loopback_egress());
    let server = Server::echo();
    let target = server.target();
    for length in 0..=target.len() {
        let mut wire = world.enclave.meeting.dial_host(5002).unwrap();
        wire.read_within(CALM);
        wire.write_all(&target.as_bytes()[..length]).unwrap();
        wire.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _end = wire.read_to_end(&mut answer);
        assert_ne!(answer.first(), Some(&ACK[0]), "{length} bytes");
    }
    assert_eq!(server.accepted(), 0);
}

#[test]
fn the_request_timeout_bounds_what_comes_before_the_ack_and_nothing_after() {
    let bridge = Bridge::builder().loopback_egress().start();
    let mut settings = Settings::new(CALM);
    settings.clients = Some(vec![Client { dial_port: 5002, request_timeout: 1_000_000_000 }]);
    let enclave = Enclave::start(&bridge.meeting, &settings);
    let server = Server::echo();
    let (mut stream, answer) = enclave.dial(5002, &server.target());
    assert_eq!(answer, Answer::Ack);
    std::thread::sleep(Duration::from_secs(2));
    stream.write_all(b"after").unwrap();
    let mut back = [0; 5];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"after");
}

#[test]
fn a_session_that_ends_takes_its_egress_listeners_and_streams_with_it() {
    let bridge = Bridge::builder().loopback_egress().start();
    let enclave = Enclave::start(&bridge.meeting, &Settings::new(Duration::from_secs(1)).client(5002));
    let (sender, ended) = std::sync::mpsc::sync_channel(1);
    let server = Server::start(move |mut stream| sender.send(tunnels::read_out(&mut stream).1).unwrap());
    let (mut stream, answer) = enclave.dial(5002, &server.target());
    assert_eq!(answer, Answer::Ack);
    enclave.fall_silent();
    assert_eq!(tunnels::read_out(&mut stream).0, 0);
    assert_eq!(ended.recv_timeout(SOON).unwrap(), Some(std::io::ErrorKind::ConnectionReset));
    wait::until("the listener's end", SOON, || bridge.meeting.dial_host(5002).is_err());
}
