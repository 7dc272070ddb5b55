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
    wait::until("two lines", SOON, || bridge.stdout.lines() == 2);
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
    interleaved(500);
}

#[test]
#[ignore = "a minute: cargo nextest run -p enclave-bridge-e2e --run-ignored only l6"]
fn slow_l6_a_hundred_thousand_lines_of_many_connections_mix_nowhere() {
    interleaved(6250);
}

/// As many connections as one enclave may have, so many lines each.
fn interleaved(each: usize) {
    let bridge = Bridge::builder().variable("ENCLAVE_BRIDGE_LOG_RATE", "1024MiB").start();
    std::thread::scope(|scope| {
        for writer in 0..16_usize {
            let meeting = &bridge.meeting;
            scope.spawn(move || {
                let mut log = meeting.dial_host(LOG_PORT).unwrap();
                let mut all = Vec::new();
                for number in 0..each {
                    let fill = "abcdefghij".repeat(1 + (number * 7 + writer) % 20);
                    writeln!(all, "<{writer}/{number}/{fill}>").unwrap();
                }
                for piece in all.chunks(1 + writer * 13 % 97) {
                    log.write_all(piece).unwrap();
                }
            });
        }
    });
    wait::until("every line", CALM * 2, || {
        bridge.metric("enclave_bridge_log_lines_printed_total").is_some_and(|printed| printed >= 16.0 * each as f64)
    });
    wait::until("every line here", CALM, || bridge.stdout.lines() >= 16 * each);
    let mut next = [0; 16];
    for line in bridge.stdout.text().lines() {
        let inner = line.strip_prefix('<').and_then(|line| line.strip_suffix('>')).unwrap_or_else(|| panic!("{line}"));
        let fields: Vec<&str> = inner.split('/').collect();
        let (writer, number): (usize, usize) = (fields[0].parse().unwrap(), fields[1].parse().unwrap());
        assert_eq!(number, next[writer], "lines of {writer} out of order");
        assert_eq!(fields[2], "abcdefghij".repeat(1 + (number * 7 + writer) % 20));
        next[writer] += 1;
    }
    assert_eq!(next, [each; 16]);
}

#[test]
fn l4_a_gibibyte_without_a_newline_is_cut_and_costs_no_memory() {
    let mut bridge = Bridge::builder().start();
    let before = bridge.anonymous_kib();
    let mut log = bridge.meeting.dial_host(LOG_PORT).unwrap();
    log.write_within(CALM);
    let block = vec![b'x'; 1 << 20];
    for _ in 0..1024 {
        // A rate limit may hold this back or end it; a bridge that keeps it all may not.
        if log.write_all(&block).is_err() {
            break;
        }
        let grown = bridge.anonymous_kib().saturating_sub(before);
        assert!(grown < 64 * 1024, "grown by {grown} KiB");
        if bridge.stdout.bytes().len() > 4 << 20 {
            break;
        }
    }
    let longest = bridge.stdout.text().lines().map(str::len).max().unwrap_or(0);
    assert!(longest < 1 << 20, "a line of {longest} bytes");
    bridge.assert_serves();
}

/// What a line takes beside its bytes is counted nowhere: a queue may not be filled with little but that.
#[test]
fn l4_a_full_queue_of_empty_lines_takes_what_its_bytes_do() {
    const QUEUE_BYTES: usize = 1 << 20;
    let arguments = ["--log-rate", "1024MiB", "--log-queue", "1MiB"];
    let bridge = Bridge::builder().output(Output::Held).arguments(arguments).start();
    let before = bridge.anonymous_kib();
    let mut log = bridge.meeting.dial_host(LOG_PORT).unwrap();
    log.write_within(CALM);
    log.write_all(&vec![b'\n'; QUEUE_BYTES * 3 / 2]).unwrap();
    let count = |name: &str| bridge.metric(&format!("enclave_bridge_log_lines_{name}_total")).unwrap();
    wait::until("more lines than there is room for", CALM, || count("dropped") > 0.0);
    let grown = bridge.anonymous_kib().saturating_sub(before);
    assert!(grown < 6 * 1024, "grown by {grown} KiB");
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

    // Printed is what the bridge has written; here it is a moment later.
    wait::until("every line here", CALM, || bridge.stdout.lines() as f64 == count("printed"));
    let printed = bridge.stdout.text();
    let lines: Vec<&str> = printed.lines().collect();
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

/// Every line is either in the output or in the count of those that are not.
#[test]
fn l2_printed_and_dropped_are_what_was_sent() {
    const LINES: usize = 30_000;
    let mut bridge = Bridge::builder().output(Output::Held).variable("ENCLAVE_BRIDGE_LOG_RATE", "1024MiB").start();
    let mut pipe = bridge.take_held_pipe();
    let port = ports::free();
    let _enclave = Enclave::echo(&bridge.meeting, &Settings::new(CALM).server(5001, port), 5001);
    let count = |name: &str| bridge.metric(&format!("enclave_bridge_log_lines_{name}_total")).unwrap();
    let send = |lines: usize| {
        let mut log = bridge.meeting.dial_host(LOG_PORT).unwrap();
        log.write_within(CALM);
        for number in 0..lines {
            log.write_all(format!("{number:0>399}\n").as_bytes()).unwrap();
        }
    };
    // More than the queue and the pipe hold: what has no place is dropped, after it has waited for one.
    send(LINES);
    wait::until("every line", CALM, || count("received") >= LINES as f64);
    // Tunnels do not know of it.
    let mut stream = tunnels::tcp(Bridge::tcp(port));
    assert_eq!(tunnels::speak_then_listen(&mut stream, 1, MIB / 16).unwrap(), Heard::pattern(1, MIB / 16));
    assert!(count("dropped") > 0.0, "all {LINES} lines had a place");

    let reading = std::thread::spawn(move || {
        let (mut lines, mut text) = (0_u64, String::new());
        let mut pipe = std::io::BufReader::new(&mut pipe);
        while std::io::BufRead::read_line(&mut pipe, &mut text).unwrap() > 0 {
            assert_eq!(text.len(), 400, "{text:?}");
            lines += 1;
            text.clear();
        }
        lines
    });
    send(100);
    let sent = (LINES + 100) as f64;
    wait::until("every line to be accounted for", CALM, || count("printed") + count("dropped") >= sent);
    let (printed, dropped) = (count("printed"), count("dropped"));
    assert_eq!(printed + dropped, sent, "{printed} printed, {dropped} dropped");
    assert_eq!(bridge.end_with(nix::sys::signal::Signal::SIGTERM, CALM).0, Some(0));
    assert_eq!(reading.join().unwrap() as f64, printed);
}

/// So many lines over two connections to an output that is read: all of them come out, each connection's in order.
fn burst(lines: u64) {
    let mut bridge = Bridge::builder().output(Output::Held).variable("ENCLAVE_BRIDGE_LOG_RATE", "1024MiB").start();
    let pipe = bridge.take_held_pipe();
    let reading = std::thread::spawn(move || {
        let (mut next, mut text) = ([0_u64; 2], Vec::new());
        let mut pipe = std::io::BufReader::with_capacity(256 * 1024, pipe);
        while next.iter().sum::<u64>() < lines {
            text.clear();
            assert!(std::io::BufRead::read_until(&mut pipe, b'\n', &mut text).unwrap() > 0, "the output ended");
            let line = std::str::from_utf8(&text).unwrap();
            let (who, number) = line.trim_end().split_once(' ').unwrap();
            let who: usize = who.parse().unwrap();
            assert_eq!(number.parse::<u64>().unwrap(), next[who], "a line of {who} is missing or out of order");
            next[who] += 1;
        }
        pipe
    });
    std::thread::scope(|scope| {
        for who in 0..2 {
            let meeting = &bridge.meeting;
            scope.spawn(move || {
                let log = meeting.dial_host(LOG_PORT).unwrap();
                let mut log = std::io::BufWriter::with_capacity(64 * 1024, log);
                for number in 0..lines / 2 {
                    writeln!(log, "{who} {number}").unwrap();
                }
            });
        }
    });
    let _pipe = reading.join().unwrap();
    wait::until("the count", SOON, || bridge.metric("enclave_bridge_log_lines_printed_total") == Some(lines as f64));
    assert_eq!(bridge.metric("enclave_bridge_log_lines_dropped_total").unwrap_or_default(), 0.0);
}

#[test]
fn l1_a_burst_to_an_output_that_is_read_loses_nothing() {
    burst(200_000);
}

#[test]
#[ignore = "a minute: cargo nextest run -p enclave-bridge-e2e --release --run-ignored only l1"]
fn slow_l1_ten_million_lines_to_an_output_that_is_read() {
    burst(10_000_000);
}

/// A collector behind a named pipe goes away and comes back.
#[test]
fn l3_a_collector_that_comes_back_finds_lines_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("collector");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let opening = path.clone();
    let collector = std::thread::spawn(move || std::fs::File::open(opening).unwrap());
    let mut bridge = Bridge::builder().stdout_to(path.clone()).start();
    let first = std::io::BufReader::new(collector.join().unwrap());
    let mut log = bridge.meeting.dial_host(LOG_PORT).unwrap();
    log.write_all(b"one\n").unwrap();
    let mut lines = std::io::BufRead::lines(first);
    assert_eq!(lines.next().unwrap().unwrap(), "one");
    drop(lines);
    log.write_all(b"lost\n").unwrap();
    let count = |name: &str| bridge.metric(&format!("enclave_bridge_log_lines_{name}_total")).unwrap();
    wait::until("the count of what nobody took", SOON, || count("dropped") == 1.0);
    let mut again = std::io::BufRead::lines(std::io::BufReader::new(std::fs::File::open(&path).unwrap()));
    log.write_all(b"two\n").unwrap();
    assert_eq!(again.next().unwrap().unwrap(), "two");
    // A line is read before whoever has written it can count it.
    wait::until("the count of both lines", SOON, || count("printed") == 2.0);
    assert_eq!(count("dropped"), 1.0);
    bridge.assert_serves();
}

/// Bytes of every kind, in lines and out of them: what comes out is UTF-8 without control characters, line by line.
#[test]
fn l5_random_bytes_come_out_as_harmless_lines() {
    for format in ["raw", "json"] {
        let bridge = Bridge::builder().arguments(["--log-format", format]).start();
        let mut log = bridge.meeting.dial_host(LOG_PORT).unwrap();
        let mut bytes = vec![0; 512 * 1024];
        std::io::Read::read_exact(&mut enclave_bridge_e2e::bytes::Pattern::new(9, bytes.len() as u64), &mut bytes)
            .unwrap();
        log.write_all(&bytes).unwrap();
        log.write_all(b"\n{\"timestamp\":\"2026\",\"level\":\"ERROR\",\"message\":\"forged\"}\nend\n").unwrap();
        let sent = bytes.iter().filter(|byte| **byte == b'\n').count() + 3;
        wait::until("every line", CALM, || bridge.stdout.lines() >= sent);
        let text = String::from_utf8(bridge.stdout.bytes()).expect("UTF-8 whatever came");
        assert_eq!(text.lines().count(), sent);
        assert!(!text.chars().any(|c| c.is_control() && !['\n', '\t'].contains(&c)));
        if format == "json" {
            for line in text.lines() {
                let line: serde_json::Value = serde_json::from_str(line).unwrap();
                let place = if Endpoint::under_test() == Endpoint::Hybrid { "guest.sock" } else { "1" };
                assert!(line["enclave"].as_str().unwrap().ends_with(place), "{line}");
            }
        }
        // What looks like the bridge's own is in the enclaves' output, never in the bridge's.
        assert!(!bridge.stderr.text().contains("forged"));
    }
}
