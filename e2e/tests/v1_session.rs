//! A version-1 enclave and the bridge: the dialogue, the beats, the streams, the end of a session.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use enclave_bridge_e2e::bridge::Bridge;
use enclave_bridge_e2e::guest::Guest;
use enclave_bridge_e2e::peers::Server;
use enclave_bridge_e2e::tunnels::{self, Heard};
use enclave_bridge_e2e::v1::{self, ACK, Answer, Enclave, INIT_PORT, Settings, beat, fresh_id, handshake};
use enclave_bridge_e2e::wait::{self, SOON};
use enclave_bridge_e2e::{ports, wire::Wire};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_version_one_enclave_is_served() {
    let mut bridge = Bridge::builder().loopback_egress().variable("COLOUR", "grün \"und\" \\ \n\t<&>").start();
    let port = ports::free();
    // A version-1 enclave dies of one late beat: three seconds are enough for a translated guest on a busy machine.
    let settings = Settings::new(SECOND * 3).server(5001, port).client(5002);
    let enclave = Enclave::echo(&bridge.meeting, &settings, 5001);

    let environment: serde_json::Value = serde_json::from_str(&enclave.environment).unwrap();
    assert_eq!(environment["COLOUR"], "grün \"und\" \\ \n\t<&>");
    assert!(environment["ENCLAVE_BRIDGE_PROTOCOL"].as_str().unwrap().starts_with("1.1"));
    assert!(environment.as_object().unwrap().values().all(serde_json::Value::is_string));

    let mut stream = tunnels::tcp(Bridge::tcp(port));
    assert_eq!(tunnels::speak_then_listen(&mut stream, 3, 100_000).unwrap(), Heard::pattern(3, 100_000));
    let server = Server::echo();
    let (mut wire, answer) = enclave.dial(5002, &server.target());
    assert_eq!(answer, Answer::Ack);
    assert_eq!(tunnels::speak_then_listen(&mut wire, 4, 100_000).unwrap(), Heard::pattern(4, 100_000));

    // Two beats each half interval apart, and one to spare: the original dies when one is later than its interval.
    wait::until("five beats from the bridge", SOON, || enclave.beats() >= 5);
    assert_eq!(enclave.complaint(), None);
    bridge.wait_ready();
    bridge.assert_alive();
}

/// Half an interval is longer here than a stranger may be silent on the init port.
#[test]
fn a_first_beat_after_half_of_a_long_interval_is_in_time() {
    let bridge = Bridge::builder().start();
    let enclave = Enclave::start(&bridge.meeting, &Settings::new(14 * SECOND));
    wait::until("the first beat, each way", 2 * SOON, || {
        bridge.metric("enclave_bridge_beats_received_total") == Some(1.0) && enclave.beats() >= 1
    });
    assert_eq!(bridge.metric("enclave_bridge_beats_bad_total"), Some(0.0));
    assert_eq!(enclave.complaint(), None);
}

#[test]
fn the_bridge_closes_the_handshake_after_the_ack_and_says_nothing_more() {
    let bridge = Bridge::builder().start();
    let mut wire = bridge.meeting.dial_host(INIT_PORT).unwrap();
    wire.read_within(SOON);
    wire.write_all(ACK).unwrap();
    let environment = wire.read_line_exactly(1 << 20).unwrap();
    assert_eq!(environment.last(), Some(&b'\n'));
    wire.write_all(Settings::new(SECOND * 30).json().as_bytes()).unwrap();
    wire.write_all(b"\n").unwrap();
    let mut rest = Vec::new();
    wire.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, ACK);
}

#[test]
fn c2_settings_are_taken_as_version_one_peers_send_them() {
    let bridge = Bridge::builder().start();
    let id = v1::spelled(&fresh_id());
    let with_level = |level: &str| {
        format!(r#"{{"watchdog":{{"enclaveId":"{id}","interval":1000000000}},"logger":{{"level":"{level}"}}}}"#)
    };
    let mut lines: Vec<String> =
        ["trace", "debug", "info", "warn", "error", "fatal", "panic", "disabled", ""].map(with_level).to_vec();
    lines.extend([
        format!(r#"{{"APPNAME":"x","WatchDog":{{"ENCLAVEID":"{id}","Interval":1000000000}},"LOGGER":{{"Level":"info"}},"Servers":null,"CLIENTS":null}}"#),
        format!(r#"{{"watchdog":{{"enclaveId":"{id}","interval":1000000000,"more":[1,{{"x":null}}]}},"unheard-of":{{"a":[1,2,3]}},"servers":[],"clients":[]}}"#),
        format!(" \t{{ \"watchdog\" : {{ \"interval\" : 1000000000 , \"enclaveId\" : \"{}\" }} }} \r", id.to_uppercase()),
    ]);
    for line in lines {
        assert_eq!(v1::handshake_within(&bridge.meeting, &line, SOON).1, Answer::Ack, "{line}");
    }
    // What the bridge did not know it has named.
    for key in ["watchdog.more", "unheard-of"] {
        let _line = bridge.stderr.wait_for_line(&format!("unknown key {key}"), SOON);
    }
}

#[test]
fn h2_ack_and_settings_in_one_write() {
    let bridge = Bridge::builder().start();
    let port = ports::free();
    let mut wire = bridge.meeting.dial_host(INIT_PORT).unwrap();
    wire.read_within(SOON);
    wire.write_all(
        format!("\x06\n{}\nwhat follows is ignored", Settings::new(SECOND * 30).server(5001, port).json()).as_bytes(),
    )
    .unwrap();
    let mut whole = Vec::new();
    // The bytes nobody reads may turn the end into a reset; the ACK stands before it either way.
    let _end = wire.read_to_end(&mut whole);
    let line = whole.iter().position(|byte| *byte == b'\n').unwrap();
    assert_eq!(whole[line + 1..], *ACK, "{}", String::from_utf8_lossy(&whole));
    TcpStream::connect(Bridge::tcp(port)).unwrap();
}

#[test]
fn w1_an_id_with_a_newline_is_refused_to_a_version_one_peer() {
    let bridge = Bridge::builder().start();
    for place in 0..16 {
        let mut settings = Settings::new(SECOND * 30);
        settings.id[place] = b'\n';
        let answer = v1::handshake_within(&bridge.meeting, &settings.json(), SOON).1;
        assert_eq!(answer.code(), "BAD_ID", "0a at {place}: {answer:?}");
    }
}

#[test]
fn w1_an_id_with_newlines_beats_with_a_peer_of_version_one_point_one() {
    let mut bridge = Bridge::builder().start();
    for id in [*b"\x06\n\x06\n\n\n\n\n\n\n\n\n\n\n\n\n", *b"\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n", *b"abcdefgh\nijklmn\n"] {
        let settings =
            format!(r#"{{"protocol":"1.1","watchdog":{{"enclaveId":"{}","interval":1000000000}}}}"#, v1::spelled(&id));
        assert_eq!(v1::handshake_within(&bridge.meeting, &settings, SOON).1, Answer::Ack);
        let mut wire = bridge.meeting.dial_host(INIT_PORT).unwrap();
        wire.read_within(SOON);
        // Far longer than 1.5 intervals: a bridge that framed by newline would have ended the session.
        for _ in 0..8 {
            wire.write_all(&beat(&id)).unwrap();
            let mut heard = [0; 17];
            wire.read_exact(&mut heard).unwrap();
            assert_eq!(heard, beat(&id));
        }
        assert_eq!(bridge.ready_status(), 200);
    }
    bridge.assert_alive();
}

#[test]
fn w2_beats_split_and_joined_are_all_counted() {
    let mut bridge = Bridge::builder().start();
    let port = ports::free();
    let settings = Settings::new(SECOND).server(5001, port);
    let _guest = Guest::bind(&bridge.meeting);
    assert_eq!(v1::handshake_within(&bridge.meeting, &settings.json(), SOON).1, Answer::Ack);
    let mut wire = bridge.meeting.dial_host(INIT_PORT).unwrap();
    let beat = beat(&settings.id);
    let start = Instant::now();
    let mut sent = 0;
    // Pieces that end nowhere near a beat's end; the session lives only if every whole beat among them counts.
    for cut in (1..17).cycle() {
        wire.write_all(&beat[..cut]).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        wire.write_all(&[&beat[cut..], &beat[..], &beat[..cut]].concat()).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        wire.write_all(&beat[cut..]).unwrap();
        sent += 3;
        if start.elapsed() > SECOND * 4 {
            break;
        }
    }
    assert_eq!(bridge.ready_status(), 200);
    let counted = || bridge.metric("enclave_bridge_beats_received_total");
    wait::until("every beat to be counted, and none twice", SOON, || counted() == Some(f64::from(sent)));
    bridge.assert_alive();
}

#[test]
fn w3_wrong_ids_end_their_connection_and_nothing_else() {
    let mut bridge = Bridge::builder().start();
    let port = ports::free();
    let enclave = Enclave::echo(&bridge.meeting, &Settings::new(SECOND).server(5001, port), 5001);
    let mut stream = tunnels::tcp(Bridge::tcp(port));
    let bad = || bridge.metric("enclave_bridge_beats_bad_total").unwrap();
    let before = bad();
    for bytes in [beat(&fresh_id()).to_vec(), b"short\n".to_vec(), vec![b'x'; 1 << 20], vec![b'\n'; 100]] {
        let mut wire = bridge.meeting.dial_host(INIT_PORT).unwrap();
        wire.read_within(SOON);
        wire.write_within(SOON);
        // The bridge may close before all of it is written.
        let _met = wire.write_all(&bytes);
        let _end = tunnels::read_out(&mut wire);
    }
    assert_eq!(bad() - before, 4.0, "each counts once");
    stream.write_all(b"still here").unwrap();
    let mut back = [0; 10];
    stream.read_exact(&mut back).unwrap();
    let beats = enclave.beats();
    wait::until("beats as before", SOON, || enclave.beats() > beats + 2);
    assert_eq!(enclave.complaint(), None);
    assert_eq!(bridge.ready_status(), 200);
    bridge.assert_alive();
}

#[test]
fn h10_a_new_handshake_replaces_the_session_and_a_refused_one_does_not() {
    let mut bridge = Bridge::builder().start();
    let port = ports::free();
    let first = Enclave::echo(&bridge.meeting, &Settings::new(SECOND * 30).server(5001, port), 5001);
    let mut stream = tunnels::tcp(Bridge::tcp(port));
    echo_once(&mut stream);

    let refused = handshake(&bridge.meeting, "no settings").unwrap().1;
    assert_eq!(refused.code(), "BAD_CONFIG");
    echo_once(&mut stream);

    // The same ports: the old session has to give them back before the new one is granted them.
    let second = handshake(&bridge.meeting, &Settings::new(SECOND * 30).server(5001, port).json()).unwrap().1;
    assert_eq!(second, Answer::Ack);
    assert_eq!(tunnels::read_out(&mut stream), (0, Some(ErrorKind::ConnectionReset)));
    echo_once(&mut tunnels::tcp(Bridge::tcp(port)));
    drop(first);
    bridge.assert_serves();
}

#[test]
fn h12_a_handshake_that_is_replayed_is_a_new_one() {
    let mut bridge = Bridge::builder().start();
    let port = ports::free();
    let recorded = Settings::new(SECOND * 30).server(5001, port);
    let first = Enclave::echo(&bridge.meeting, &recorded, 5001);
    let second = Settings::new(SECOND * 30).server(5001, port);
    assert_eq!(handshake(&bridge.meeting, &second.json()).unwrap().1, Answer::Ack);
    let mut stream = tunnels::tcp(Bridge::tcp(port));
    echo_once(&mut stream);
    // The first session is over: its beats are nobody's, and change nothing.
    let mut late = bridge.meeting.dial_host(INIT_PORT).unwrap();
    late.read_within(SOON);
    late.write_all(&beat(&recorded.id)).unwrap();
    assert_eq!(tunnels::read_out(&mut late).0, 0, "an answer to a beat of a session that is over");
    echo_once(&mut stream);
    // Its handshake once more, byte for byte: one takeover, no more and no less.
    let count = |name: &str| bridge.metric(name).unwrap();
    let (started, ended) = ("enclave_bridge_sessions_started_total", "enclave_bridge_sessions_ended_total");
    let before = (count(started), count(ended));
    assert_eq!(handshake(&bridge.meeting, &recorded.json()).unwrap().1, Answer::Ack);
    assert_eq!((count(started) - before.0, count(ended) - before.1), (1.0, 1.0));
    assert_eq!(count("enclave_bridge_sessions"), 1.0);
    assert_eq!(tunnels::read_out(&mut stream), (0, Some(ErrorKind::ConnectionReset)));
    echo_once(&mut tunnels::tcp(Bridge::tcp(port)));
    drop(first);
    bridge.assert_serves();
}

#[test]
fn losing_the_beat_ends_the_session_in_place() {
    let mut bridge = Bridge::builder().start();
    let port = ports::free();
    let enclave = Enclave::echo(&bridge.meeting, &Settings::new(SECOND).server(5001, port).client(5002), 5001);
    let mut stream = tunnels::tcp(Bridge::tcp(port));
    echo_once(&mut stream);
    enclave.fall_silent();
    assert_eq!(tunnels::read_out(&mut stream), (0, Some(ErrorKind::ConnectionReset)));
    wait::until("the listeners' end", SOON, || {
        TcpStream::connect(Bridge::tcp(port)).is_err() && bridge.meeting.dial_host(5002).is_err()
    });
    assert_eq!(bridge.ready_status(), 503);
    drop(enclave);
    bridge.assert_serves();
}

#[test]
fn an_enclave_that_never_beats_is_lost() {
    let mut bridge = Bridge::builder().start();
    let port = ports::free();
    let settings = Settings::new(SECOND).server(5001, port);
    assert_eq!(handshake(&bridge.meeting, &settings.json()).unwrap().1, Answer::Ack);
    wait::until("the listener's end", SOON, || TcpStream::connect(Bridge::tcp(port)).is_err());
    bridge.assert_serves();
}

#[test]
fn on_loss_exit_ends_the_bridge() {
    let mut bridge = Bridge::builder().arguments(["--on-loss", "exit"]).start();
    let settings = Settings::new(SECOND);
    assert_eq!(handshake(&bridge.meeting, &settings.json()).unwrap().1, Answer::Ack);
    bridge.wait(SOON);
}

fn echo_once(stream: &mut (impl Read + Write)) {
    stream.write_all(b"to and fro").unwrap();
    let mut back = [0; 10];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"to and fro");
}

#[test]
fn several_beat_connections_and_a_lost_one_are_borne() {
    let mut bridge = Bridge::builder().start();
    let settings = Settings::new(SECOND);
    assert_eq!(handshake(&bridge.meeting, &settings.json()).unwrap().1, Answer::Ack);
    let start = Instant::now();
    // An enclave that dials again for every beat, and leaves the older connections lying about.
    let mut old: Vec<Wire> = Vec::new();
    while start.elapsed() < SECOND * 3 {
        let mut wire = bridge.meeting.dial_host(INIT_PORT).unwrap();
        wire.write_all(&beat(&settings.id)).unwrap();
        wire.read_within(SOON);
        let mut heard = [0; 17];
        wire.read_exact(&mut heard).unwrap();
        old.push(wire);
        if old.len() > 2 {
            old.remove(0);
        }
    }
    assert_eq!(bridge.ready_status(), 200);
    bridge.assert_alive();
}

/// A beat connection is silent for half an interval first, which may be longer than a handshake's first byte may take.
#[test]
fn a_first_beat_after_half_a_long_interval_is_waited_for() {
    let bridge = Bridge::builder().start();
    let enclave = Enclave::start(&bridge.meeting, &Settings::new(Duration::from_secs(14)));
    wait::until("the first beat", SOON, || bridge.metric("enclave_bridge_beats_received_total") == Some(1.0));
    wait::until("a beat in return", SOON, || enclave.beats() > 0);
    assert_eq!(enclave.complaint(), None);
}
