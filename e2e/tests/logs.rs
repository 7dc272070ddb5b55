//! Enclaves' log lines: whole, escaped, apart from the tunnels, and nobody's death.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use enclave_bridge_e2e::bridge::Bridge;
use enclave_bridge_e2e::bytes::MIB;
use enclave_bridge_e2e::ports;
use enclave_bridge_e2e::process::Output;
use enclave_bridge_e2e::tunnels::{self, Heard};
use enclave_bridge_e2e::v1::{Enclave, LOG_PORT, Settings};
use enclave_bridge_e2e::wait::{self, SOON};
use enclave_bridge_e2e::wire::Endpoint;
use std::fmt::Write as _;
use std::io::Write;
use std::time::{Duration, Instant};

const CALM: Duration = Duration::from_secs(30);

#[test]
fn lines_come_as_they_were_sent_before_any_handshake() {
    let bridge = Bridge::builder().start();
    let mut log = bridge.meeting.dial_host(LOG_PORT).unwrap();
    log.write_all("{\"level\":\"info\",\"msg\":\"grüß\tdich\"}\nplain\n\nlast\n".as_bytes()).unwrap();
    let _last = bridge.stdout.wait_for_line("last", SOON);
    assert_eq!(bridge.stdout.text(), "{\"level\":\"info\",\"msg\":\"grüß\tdich\"}\nplain\n\nlast\n");
}

#[test]
fn l4_a_tail_without_a_newline_comes_out_when_its_connection_ends() {
    let bridge = Bridge::builder().start();
    let mut log = bridge.meeting.dial_host(LOG_PORT).unwrap();
    log.write_all(b"panic: the last wor").unwrap();
    drop(log);
    let _tail = bridge.stdout.wait_for_line("panic: the last wor", SOON);
    wait::until("a whole line", SOON, || bridge.stdout.text() == "panic: the last wor\n");
}

#[test]
fn l5_control_characters_are_escaped() {
    let bridge = Bridge::builder().start();
    let mut log = bridge.meeting.dial_host(LOG_PORT).unwrap();
    log.write_all(b"\x1b[31mred\x07 \x00 cr\r mid\rdle \xff\xfe \xc2\x9b1m tab\t\x7f\nend\n").unwrap();
    let _end = bridge.stdout.wait_for_line("end", SOON);
    let bytes = bridge.stdout.bytes();
    let text = String::from_utf8(bytes).expect("UTF-8 whatever came");
    let line = text.lines().next().unwrap();
    assert!(line.contains("\\u001b[31mred\\u0007 \\u0000 cr\\"), "{line:?}");
    assert!(line.contains("tab\t"), "{line:?}");
    assert!(!line.chars().any(|c| c.is_control() && c != '\t'), "{line:?}");
}

#[test]
fn l5_json_lines() {
    let bridge = Bridge::builder().arguments(["--log-format", "json"]).start();
    let mut log = bridge.meeting.dial_host(LOG_PORT).unwrap();
    log.write_all(b"one \"quoted\" \x1b[0m \xff\n{\"a\":1}\n").unwrap();
    let _second = bridge.stdout.wait_for_line("a", SOON);
    wait::until("two lines", SOON, || bridge.stdout.text().lines().count() == 2);
    let text = bridge.stdout.text();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in &lines {
        for key in ["time", "enclave", "seq", "line"] {
            assert!(line.get(key).is_some(), "no {key} in {line}");
        }
    }
    assert!(lines[0]["line"].as_str().unwrap().starts_with("one \"quoted\" \u{1b}[0m"));
    assert_eq!(lines[1]["line"], "{\"a\":1}");
    assert!(lines[1]["seq"].as_u64() > lines[0]["seq"].as_u64());
}

#[test]
fn l6_many_connections_in_odd_pieces_mix_no_lines() {
    let bridge = Bridge::builder().start();
    std::thread::scope(|scope| {
        for writer in 0..16_usize {
            let meeting = &bridge.meeting;
            scope.spawn(move || {
                let mut log = meeting.dial_host(LOG_PORT).unwrap();
                let mut all = Vec::new();
                for number in 0..500_usize {
                    let fill = "abcdefghij".repeat(1 + (number * 7 + writer) % 20);
                    writeln!(all, "<{writer}/{number}/{fill}>").unwrap();
                }
                for piece in all.chunks(1 + writer * 13 % 97) {
                    log.write_all(piece).unwrap();
                }
            });
        }
    });
    wait::until("every line", CALM, || bridge.stdout.text().lines().count() >= 16 * 500);
    let mut next = [0; 16];
    for line in bridge.stdout.text().lines() {
        let inner = line.strip_prefix('<').and_then(|line| line.strip_suffix('>')).unwrap_or_else(|| panic!("{line}"));
        let fields: Vec<&str> = inner.split('/').collect();
        let (writer, number): (usize, usize) = (fields[0].parse().unwrap(), fields[1].parse().unwrap());
        assert_eq!(number, next[writer], "lines of {writer} out of order");
        assert_eq!(fields[2], "abcdefghij".repeat(1 + (number * 7 + writer) % 20));
        next[writer] += 1;
    }
    assert_eq!(next, [500; 16]);
}

#[test]
fn l4_a_gibibyte_without_a_newline_is_cut_and_costs_no_memory() {
    let mut bridge = Bridge::builder().start();
    let before = bridge.resident_kib();
    let mut log = bridge.meeting.dial_host(LOG_PORT).unwrap();
    log.write_within(CALM);
    let block = vec![b'x'; 1 << 20];
    for _ in 0..1024 {
        // A rate limit may hold this back or end it; a bridge that keeps it all may not.
        if log.write_all(&block).is_err() {
            break;
        }
        let grown = bridge.resident_kib().saturating_sub(before);
        assert!(grown < 64 * 1024, "grown by {grown} KiB");
        if bridge.stdout.bytes().len() > 4 << 20 {
            break;
        }
    }
    let longest = bridge.stdout.text().lines().map(str::len).max().unwrap_or(0);
    assert!(longest < 1 << 20, "a line of {longest} bytes");
    bridge.assert_serves();
}

#[test]
fn l2_a_stalled_standard_output_stops_no_tunnel() {
    let mut bridge = Bridge::builder().output(Output::Held).start();
    let port = ports::free();
    // A guest's one translated processor does not keep beats of a second beside 32 MiB of lines: rightly a loss.
    let interval = Duration::from_secs(if Endpoint::under_test() == Endpoint::Vsock { 5 } else { 1 });
    let enclave = Enclave::echo(&bridge.meeting, &Settings::new(interval).server(5001, port), 5001);
    let mut log = bridge.meeting.dial_host(LOG_PORT).unwrap();
    log.write_within(Duration::from_secs(1));
    let line = [vec![b'l'; 1000], vec![b'\n']].concat();
    for _ in 0..32 * 1024 {
        // Either it is all taken, and dropped by count, or the enclave is held back; both are an answer.
        if log.write_all(&line).is_err() {
            break;
        }
    }
    let before = enclave.beats();
    for seed in 0..4 {
        let mut stream = tunnels::tcp(Bridge::tcp(port));
        let mut writing = stream.try_clone().unwrap();
        let speaking = std::thread::spawn(move || {
            let mut pattern = enclave_bridge_e2e::bytes::Pattern::new(seed, 8 * MIB);
            enclave_bridge_e2e::bytes::copy(&mut pattern, &mut writing).unwrap();
            writing.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let (hash, length) = enclave_bridge_e2e::bytes::hash_of(&mut stream).unwrap();
        assert_eq!(Heard { hash, length }, Heard::pattern(seed, 8 * MIB));
        speaking.join().unwrap();
    }
    wait::until("beats all the while", CALM, || enclave.beats() > before + 2);
    assert_eq!(bridge.ready_status(), 200);
    assert!(bridge.resident_kib() < 256 * 1024, "{} KiB resident", bridge.resident_kib());

    let written = bridge.take_held_stdout();
    drop(log);
    // What comes after the stall is written again, on a connection of its own.
    wait::until("lines again", CALM, || {
        let mut log = bridge.meeting.dial_host(LOG_PORT).unwrap();
        log.write_all(b"after the stall\n").unwrap();
        written.text().lines().any(|line| line == "after the stall")
    });
    bridge.assert_alive();
}

#[test]
fn l3_a_closed_standard_output_kills_nobody() {
    let mut bridge = Bridge::builder().output(Output::Closed).start();
    let mut log = bridge.meeting.dial_host(LOG_PORT).unwrap();
    for _ in 0..100 {
        log.write_all(b"nobody hears this\n").unwrap();
    }
    drop(log);
    bridge.assert_serves();
    // Over AF_VSOCK the next one takes the same ports.
    drop(bridge);
    let mut bridge = Bridge::builder().output(Output::Held).start();
    bridge.close_held_stdout();
    let mut log = bridge.meeting.dial_host(LOG_PORT).unwrap();
    log.write_all(b"nobody hears this\n").unwrap();
    bridge.assert_serves();
}

#[test]
fn r9_no_secret_in_any_output() {
    let mut builder = Bridge::builder().loopback_egress().arguments(["--log-level", "trace"]);
    for number in 0..200 {
        builder = builder.variable(format!("SECRET_{number}"), format!("canary-{number}-yranac"));
    }
    let bridge = builder.start();
    let port = ports::free();
    let enclave = Enclave::echo(&bridge.meeting, &Settings::new(CALM).server(5001, port).client(5002), 5001);
    assert!(enclave.environment.contains("canary-7-yranac"), "the enclave did not get the environment");
    let mut stream = tunnels::tcp(Bridge::tcp(port));
    stream.write_all(b"canary-payload-yranac").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let _end = tunnels::read_out(&mut stream);
    let _refused = enclave.dial(5002, "169.254.169.254:80");
    let all = format!("{}{}{}", bridge.stdout.text(), bridge.stderr.text(), bridge.metrics());
    assert!(!all.contains("yranac"), "{}", all.lines().find(|line| line.contains("yranac")).unwrap_or_default());
}

#[test]
fn l8_lines_beyond_the_rate_are_dropped_whole_and_counted() {
    const LINES: u32 = 20_000;
    let bridge = Bridge::builder().arguments(["--log-rate", "64KiB", "--log-burst", "128KiB"]).start();
    let started = Instant::now();
    let mut text = String::new();
    for number in 0..LINES {
        writeln!(text, "<{number:06}{}>", "f".repeat(91)).unwrap();
    }
    // Two connections have one rate between them.
    let halves = text.split_at(text.len() / 2);
    std::thread::scope(|scope| {
        for half in [halves.0, halves.1] {
            let mut log = bridge.meeting.dial_host(LOG_PORT).unwrap();
            scope.spawn(move || log.write_all(half.as_bytes()).unwrap());
        }
    });
    let count = |name: &str| bridge.metric(&format!("enclave_bridge_log_lines_{name}_total")).unwrap();
    wait::until("every line received", CALM, || count("received") >= f64::from(LINES));
    wait::until("printed and dropped are what was sent", CALM, || {
        count("printed") + count("dropped") == f64::from(LINES)
    });
    let by_rate = bridge
        .metrics()
        .lines()
        .find_map(|line| line.strip_prefix("enclave_bridge_log_lines_dropped_total{reason=\"rate\"} ")?.parse().ok());
    assert_eq!(by_rate, Some(count("dropped")), "nothing else drops here");

    let printed = bridge.stdout.text();
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines.len() as f64, count("printed"));
    assert!(lines.iter().all(|line| line.len() == 99 && line.starts_with('<') && line.ends_with('>')), "whole lines");
    let most = 128.0 * 1024.0 + started.elapsed().as_secs_f64() * 64.0 * 1024.0;
    assert!(lines.len() >= 128 * 1024 / 100, "the burst of {} lines", lines.len());
    assert!(printed.len() as f64 <= most, "{} bytes in {:?}", printed.len(), started.elapsed());

    // The bridge's own log tells of it: at once, at most once a second, and in the end of all of them.
    let told = || -> Vec<u64> {
        let text = bridge.stderr.text();
        let counts = text
            .lines()
            .filter_map(|line| line.split_once("lines dropped: ")?.1.split(',').next()?.parse::<u64>().ok());
        counts.collect()
    };
    wait::until("the count in the bridge's own log", CALM, || told().iter().sum::<u64>() as f64 == count("dropped"));
    assert!(told().len() as u64 <= started.elapsed().as_secs() + 1, "{:?}", told());
}
