//! What nobody gets past: closed addresses in ten thousand spellings, a name server that changes its answers, peers that are
//! nobody, and where secrets must not turn up. Connections are counted at the receiving end.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::print_stdout,
    reason = "tests"
)]
#![allow(clippy::print_stderr, reason = "what is left out is said aloud")]

use enclave_bridge_e2e::bridge::Bridge;
use enclave_bridge_e2e::http;
use enclave_bridge_e2e::peers::Server;
use enclave_bridge_e2e::ports;
use enclave_bridge_e2e::tunnels;
use enclave_bridge_e2e::v1::{Answer, Enclave, INIT_PORT, Settings, handshake};
use enclave_bridge_e2e::wait::{self, SOON};
use nix::sys::resource::{UsageWho, getrusage};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const CALM: Duration = Duration::from_secs(30);

/// A small generator (xorshift): the same cases each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: u64) -> u64 {
        self.roll() % n
    }
}

/// One way of writing an address of this machine's loopback or unspecified address that some program takes for it.
fn spelling(dice: &mut Dice) -> String {
    let address = match dice.below(4) {
        0 => Ipv4Addr::UNSPECIFIED,
        1 => Ipv4Addr::LOCALHOST,
        _ => Ipv4Addr::from(0x7f00_0000 | u32::try_from(dice.below(1 << 24)).unwrap()),
    };
    let bits = u32::from(address);
    let [a, b, c, d] = address.octets();
    let (high, low) = (bits >> 16, bits & 0xffff);
    let text = match dice.below(20) {
        0 => address.to_string(),
        1 => format!("{bits}"),
        2 => format!("0x{bits:x}"),
        3 => format!("0{bits:o}"),
        4 => format!("{a}.{}", bits & 0xff_ffff),
        5 => format!("0{a:o}.0{b:o}.0{c:o}.0{d:o}"),
        6 => format!("0x{a:X}.{b}.0{c:o}.{d}"),
        7 => format!("{address}."),
        8 => format!("{a:03}.{b:03}.{c:03}.{d:03}"),
        9 => format!("[::ffff:{address}]"),
        10 => format!("[::ffff:{high:x}:{low:x}]"),
        11 => format!("[0:0:0:0:0:FFFF:{high:X}:{low:X}]"),
        12 => format!("[::{address}]"),
        13 => format!("[64:ff9b::{address}]"),
        14 => format!("[64:ff9b:1::{high:x}:{low:x}]"),
        15 => format!("[2002:{high:x}:{low:x}::1]"),
        16 => format!("[2001:0:{high:x}:{low:x}::1]"),
        17 => "[::1]".to_owned(),
        18 => format!("[::1%{}]", ["lo", "1", "eth0"][usize::try_from(dice.below(3)).unwrap()]),
        _ => ["localhost", "LOCALHOST.", "LocalHost", "ip6-localhost"][usize::try_from(dice.below(4)).unwrap()]
            .to_owned(),
    };
    let fullwidth = |text: &str| -> String {
        let wide = |c: char| char::from_u32(u32::from(c) - 0x30 + 0xff10).unwrap();
        text.chars().map(|c| if c.is_ascii_digit() { wide(c) } else { c }).collect()
    };
    if !text.starts_with('[') && dice.below(10) == 0 { fullwidth(&text) } else { text }
}

/// So many dials on each lane, under rules as wide as they can be; connections are counted where they would arrive.
fn nothing_arrives(lanes: u64, dials: usize) {
    let bridge = Bridge::builder().arguments(["--egress-allow", "any", "--egress-allow", "**"]).start();
    let enclave = Enclave::start(&bridge.meeting, &Settings::new(CALM).client(5002));
    // The same port on both families, with every address of the machine.
    let v4 = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = v4.local_addr().unwrap().port();
    let v6 = TcpListener::bind(("::1", port));
    std::thread::scope(|scope| {
        for lane in 1..=lanes {
            let enclave = &enclave;
            scope.spawn(move || {
                let mut dice = Dice(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(lane));
                for _ in 0..dials {
                    let target = format!("{}:{port}", spelling(&mut dice));
                    let answer = enclave.dial(5002, &target).1;
                    assert!(["DENIED", "BAD_TARGET", "DNS"].contains(&answer.code()), "{target}: {answer:?}");
                }
            });
        }
    });
    v4.set_nonblocking(true).unwrap();
    assert!(v4.accept().is_err(), "a connection arrived");
    if let Ok(v6) = v6 {
        v6.set_nonblocking(true).unwrap();
        assert!(v6.accept().is_err(), "a connection arrived");
    }
}

#[test]
fn e2_ten_thousand_spellings_of_this_machine_and_no_connection() {
    nothing_arrives(1, 10_000);
}

#[test]
#[ignore = "minutes: cargo nextest run -p enclave-bridge-e2e --run-ignored only e2_slow"]
fn e2_slow_a_million_spellings_of_this_machine_and_no_connection() {
    nothing_arrives(4, 250_000);
}

/// What a trial's name resolves to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Zone {
    Good,
    Closed,
    GoodThenClosed,
    ClosedThenGood,
    /// Each question gets the other answer, with a life of zero seconds.
    Turning,
}

const GOOD: Ipv4Addr = Ipv4Addr::new(127, 83, 10, 1);

fn zone_of(trial: usize) -> Zone {
    [Zone::Good, Zone::Closed, Zone::GoodThenClosed, Zone::ClosedThenGood, Zone::Turning][trial % 5]
}

/// Answers questions about `tN.rebind.example`: A as the zone has it, AAAA with the mapped form of the closed address.
fn name_server(socket: UdpSocket, questions: Arc<AtomicU64>) {
    let mut buffer = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        let question = &buffer[..length];
        let Some(end) = question.get(12..).and_then(|name| name.iter().position(|b| *b == 0)).map(|at| 12 + at + 5)
        else {
            return;
        };
        let turn = questions.fetch_add(1, Ordering::SeqCst);
        let label = String::from_utf8_lossy(&question[13..13 + usize::from(question[12])]).into_owned();
        let trial: usize = label[1..].parse().unwrap();
        let wants_v6 = question[end - 3] == 28;
        let closed = Ipv4Addr::LOCALHOST;
        let addresses = match (zone_of(trial), wants_v6) {
            (Zone::Good, true) => vec![],
            (_, true) => vec![closed],
            (Zone::Good, false) => vec![GOOD],
            (Zone::Closed, false) => vec![closed],
            (Zone::GoodThenClosed, false) => vec![GOOD, closed],
            (Zone::ClosedThenGood, false) => vec![closed, GOOD],
            (Zone::Turning, false) => vec![if turn.is_multiple_of(2) { GOOD } else { closed }],
        };
        let mut answer = question[..2].to_vec();
        answer.extend([0x81, 0x80, 0, 1, 0, u8::try_from(addresses.len()).unwrap(), 0, 0, 0, 0]);
        answer.extend(&question[12..end]);
        for address in addresses {
            let mapped = address.to_ipv6_mapped().octets();
            let data: &[u8] = if wants_v6 { &mapped } else { &address.octets() };
            answer.extend([
                0xc0,
                12,
                0,
                if wants_v6 { 28 } else { 1 },
                0,
                1,
                0,
                0,
                0,
                0,
                0,
                u8::try_from(data.len()).unwrap(),
            ]);
            answer.extend(data);
        }
        let _sent = socket.send_to(&answer, from);
    }
}

#[test]
fn e3_a_thousand_rebinding_trials_reach_only_what_was_judged() {
    let Ok(socket) = UdpSocket::bind("127.83.53.53:53") else {
        return eprintln!("SKIPPED: a name server needs port 53, and so root");
    };
    let questions = Arc::new(AtomicU64::new(0));
    let counted = questions.clone();
    std::thread::spawn(move || name_server(socket, counted));
    // The closed address first, so that the same port is free at the other one.
    let closed = Server::echo();
    let port = closed.address.port();
    let good = TcpListener::bind((GOOD, port)).unwrap();
    let reached = Arc::new(AtomicU64::new(0));
    let counted = reached.clone();
    std::thread::spawn(move || {
        while let Ok((_stream, _)) = good.accept() {
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let resolv_conf = folder.path().join("resolv.conf");
    std::fs::write(&resolv_conf, "nameserver 127.83.53.53\n").unwrap();
    let arguments =
        ["--egress-allow".into(), "127.83.10.0/24".into(), "--resolv-conf".into(), resolv_conf.into_os_string()];
    let bridge = Bridge::builder().arguments(arguments).start();
    let enclave = Enclave::start(&bridge.meeting, &Settings::new(CALM).client(5002));
    let mut acknowledged = 0;
    for trial in 0..1000 {
        // A name that turns is asked for twice: a second look must not be judged by the first.
        for _ in 0..if zone_of(trial) == Zone::Turning { 2 } else { 1 } {
            let (_stream, answer) = enclave.dial(5002, &format!("t{trial}.rebind.example:{port}"));
            acknowledged += u64::from(answer == Answer::Ack);
            match zone_of(trial) {
                Zone::Good | Zone::GoodThenClosed | Zone::ClosedThenGood => assert_eq!(answer, Answer::Ack, "{trial}"),
                Zone::Closed => assert_eq!(answer.code(), "DENIED", "{trial}"),
                Zone::Turning => assert!(answer == Answer::Ack || answer.code() == "DENIED", "{trial}: {answer:?}"),
            }
        }
    }
    assert_eq!(closed.accepted(), 0, "a closed address was dialled");
    wait::until("every acknowledged stream at the judged address", SOON, || {
        reached.load(Ordering::SeqCst) == acknowledged
    });
    assert!(questions.load(Ordering::SeqCst) >= 2000, "the name server was asked");
}

#[test]
fn strangers_get_less_than_ten_times_what_they_send() {
    let mut bridge = Bridge::builder().start();
    let port = ports::free();
    let settings = Settings::new(CALM).server(5001, port);
    let _enclave = Enclave::echo(&bridge.meeting, &settings, 5001);
    let (busy_before, own_before) = (bridge.processor_time(), own_processor_time());
    let tries: [&[u8]; 8] = [
        b"",
        b"\x00",
        // Guesses of the session's id, of which only the whole beat that they begin is answered.
        &settings.id[..1],
        &settings.id,
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc],
        &[7; 17],
        b"\x06\r\n\x06\r\n",
    ];
    let (mut sent, mut got) = (0, 0);
    for round in 0..1000 {
        let bytes = tries[round % tries.len()];
        let mut wire = bridge.meeting.dial_host(INIT_PORT).unwrap();
        wire.read_within(CALM);
        let _met = wire.write_all(bytes);
        wire.shutdown(std::net::Shutdown::Write);
        let (count, _) = tunnels::read_out(&mut wire);
        assert!(count <= 10 * bytes.len() as u64, "{count} bytes for {bytes:?}");
        sent += bytes.len() as u64;
        got += count;
    }
    assert!(got < 10 * sent, "{got} bytes for {sent}");
    // In processor time too, and on a machine of whatever speed.
    let (busy, own) = (bridge.processor_time() - busy_before, own_processor_time() - own_before);
    println!("1,000 strangers spent {own:?} of processor time and cost {busy:?}");
    assert!(busy < 10 * own, "{busy:?} of processor time for 1,000 strangers that spent {own:?}");
    bridge.assert_alive();
}

/// What this thread has used.
fn own_processor_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).unwrap();
    [usage.user_time(), usage.system_time()]
        .iter()
        .map(|time| Duration::new(time.tv_sec().try_into().unwrap(), u32::try_from(time.tv_usec()).unwrap() * 1000))
        .sum()
}

/// A text that cannot come about by chance.
fn canary(number: usize) -> String {
    format!("canary{number:03}x{:016x}", Dice(0x1234_5678_9abc_def1 + number as u64 * 0x1_0001).roll())
}

#[test]
fn r9_two_hundred_secrets_are_found_nowhere() {
    let mut builder = Bridge::builder().loopback_egress().arguments(["--log-level", "trace", "--env-deny", "DENIED_*"]);
    for number in 0..100 {
        let name = if number % 4 == 0 { format!("DENIED_{number}") } else { format!("SECRET_{number}") };
        builder = builder.variable(name, canary(number));
    }
    let mut bridge = builder.start();
    let port = ports::free();
    let enclave = Enclave::echo(&bridge.meeting, &Settings::new(CALM).server(5001, port).client(5002), 5001);
    for number in 0..100 {
        assert_eq!(enclave.environment.contains(&canary(number)), number % 4 != 0, "the environment as it goes out");
    }
    let server = Server::echo();
    let mut told = String::new();
    for number in 100..200 {
        let secret = canary(number);
        match number % 5 {
            // A payload and a query, inwards and outwards.
            0 => {
                let mut stream = TcpStream::connect(Bridge::tcp(port)).unwrap();
                let request = format!("GET /x?token={secret} HTTP/1.1\r\nAuthorization: {secret}\r\n\r\n");
                there_and_back(&mut stream, request.as_bytes());
            }
            1 => {
                let (mut stream, answer) = enclave.dial(5002, &server.target());
                assert_eq!(answer, Answer::Ack);
                there_and_back(&mut stream, secret.as_bytes());
            }
            // An URL with a password and a query where an address line belongs.
            2 => told.push_str(&format!(
                "{:?}",
                enclave.dial(5002, &format!("https://u:{secret}@127.0.0.1:1/?k={secret}")).1
            )),
            // No handshake at all, and settings that are none.
            3 => {
                let mut wire = bridge.meeting.dial_host(INIT_PORT).unwrap();
                wire.write_all(format!("{secret}\n").as_bytes()).unwrap();
                wire.read_within(CALM);
                let _end = tunnels::read_out(&mut wire);
            }
            _ => {
                let settings = format!(
                    r#"{{"watchdog":{{"interval":"{secret}","enclaveId":["{secret}"]}},"clients":"{secret}"}}"#
                );
                told.push_str(&format!("{:?}", handshake(&bridge.meeting, &settings).unwrap().1));
            }
        }
    }
    for path in ["/", "/health/live", "/health/ready", "/metrics", "/status", "/nowhere?token=secret"] {
        told.push_str(&http::get(bridge.monitor, path).unwrap().text());
    }
    let debug = http::get(bridge.monitor, "/status").unwrap();
    told.push_str(&format!("{debug:?}"));
    drop(enclave);
    assert_eq!(bridge.end_with(nix::sys::signal::Signal::SIGTERM, SOON * 4).0, Some(0));
    told.push_str(&bridge.stdout.text());
    told.push_str(&bridge.stderr.text());
    assert!(told.contains("TRACE") || told.contains("DEBUG"), "the log said all that it can");
    for number in 0..200 {
        let found =
            told.find(&canary(number)).map(|at| told[at.saturating_sub(200)..].chars().take(300).collect::<String>());
        assert_eq!(found, None, "secret {number}");
    }
}

/// Sends and gets the same back, then ends in order.
fn there_and_back(stream: &mut (impl Read + Write), bytes: &[u8]) {
    stream.write_all(bytes).unwrap();
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(back, bytes);
}

#[test]
fn a_value_that_is_not_utf8_is_named_and_not_shown() {
    use std::os::unix::ffi::OsStringExt as _;
    let secret = canary(7);
    let mut value = secret.clone().into_bytes();
    value.push(0xff);
    let mut bridge = Bridge::builder().variable("BROKEN", std::ffi::OsString::from_vec(value)).launch();
    assert_eq!(bridge.wait(SOON).code(), Some(78));
    let text = bridge.stderr.text();
    assert!(text.contains("BROKEN") && !text.contains(&secret), "{text}");
}

#[test]
fn a_stranger_to_the_session_has_no_beat_and_no_tunnel() {
    let bridge = Bridge::builder().start();
    // Before any session: no egress listener, and a beat is nobody's.
    assert!(bridge.meeting.dial_host(5002).is_err());
    let mut wire = bridge.meeting.dial_host(INIT_PORT).unwrap();
    wire.read_within(CALM);
    wire.write_all(&[7; 17]).unwrap();
    assert_eq!(tunnels::read_out(&mut wire).0, 0);
    let enclave = Enclave::start(&bridge.meeting, &Settings::new(CALM).client(5002));
    let received = bridge.metric("enclave_bridge_beats_received_total").unwrap();
    let mut wire = bridge.meeting.dial_host(INIT_PORT).unwrap();
    wire.read_within(CALM);
    wire.write_all(&[8; 17]).unwrap();
    assert_eq!(tunnels::read_out(&mut wire).0, 0, "a wrong id gets no beat");
    assert!(bridge.metric("enclave_bridge_beats_received_total").unwrap() <= received + 10.0);
    assert_eq!(enclave.dial(5002, "127.0.0.1:1").1.code(), "DENIED");
}
