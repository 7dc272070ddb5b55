//! The log layer against a log port by hand. Its sender is a thread of its own, so the port is read by blocking sockets.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::large_futures,
    reason = "a test ends by panicking, and holds each future once"
)]

mod common;

use std::io::{BufRead as _, BufReader};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use common::Place;
use enclave_bridge_sdk::LogLayer;
use serde_json::Value;
use tracing_subscriber::prelude::*;

const LIMIT: Duration = Duration::from_secs(20);

fn log_port(place: &Place) -> UnixListener {
    let mut path = place.path().into_os_string();
    path.push("_4999");
    drop(std::fs::remove_file(&path));
    UnixListener::bind(path).unwrap()
}

fn read(lines: &mut impl Iterator<Item = std::io::Result<String>>) -> Value {
    serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap()
}

#[test]
fn events_arrive_as_lines_with_fields_and_spans() {
    let place = Place::new();
    let port = log_port(&place);
    let (layer, guard) = LogLayer::new(&place.options()).unwrap();
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
        let span = tracing::info_span!("request", id = 7, peer = tracing::field::Empty);
        span.record("peer", "192.0.2.7");
        let _entered = span.enter();
        tracing::warn!(target: "app", count = 3, ok = true, what = ?Some("x"), "two\nlines \u{1b}[0m");
    });
    let (stream, _) = port.accept().unwrap();
    let mut lines = BufReader::new(stream).lines();
    let line = read(&mut lines);
    assert_eq!(line["level"], "WARN");
    assert_eq!(line["target"], "app");
    assert_eq!(line["message"], "two\nlines \u{1b}[0m");
    assert_eq!(line["fields"], serde_json::json!({"count": 3, "ok": true, "what": "Some(\"x\")"}));
    assert_eq!(line["spans"], serde_json::json!([{"name": "request", "id": 7, "peer": "192.0.2.7"}]));
    assert!(line["time"].as_str().unwrap().ends_with('Z'));
    assert!(guard.flush(LIMIT));
    drop(guard);
    assert!(lines.next().is_none(), "the guard's end is the connection's");
}

#[test]
fn l7_a_stalled_port_costs_lines_that_are_counted_and_never_the_program() {
    const EVENTS: u64 = 20_000;
    let place = Place::new();
    let port = log_port(&place);
    let (layer, guard) = LogLayer::with_buffer(&place.options(), 64 * 1024).unwrap();
    // Nobody reads while all of it is logged: this ends because logging waits for nobody.
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
        for number in 0..EVENTS {
            tracing::info!(number, "{}", "x".repeat(100));
        }
    });
    assert!(guard.dropped() > 0);
    let (stream, _) = port.accept().unwrap();
    let reader = std::thread::spawn(move || {
        let (mut events, mut dropped, mut next) = (0, 0, 0);
        for line in BufReader::new(stream).lines() {
            let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
            match line.get("dropped") {
                Some(count) => {
                    dropped += count.as_u64().unwrap();
                    next += count.as_u64().unwrap();
                }
                None => {
                    // A report stands exactly where its lines are missing.
                    assert_eq!(line["fields"]["number"], next);
                    next += 1;
                    events += 1;
                }
            }
        }
        (events, dropped)
    });
    assert!(guard.flush(LIMIT));
    let counted = guard.dropped();
    drop(guard);
    let (events, dropped) = reader.join().unwrap();
    assert_eq!(events + dropped, EVENTS);
    assert_eq!(dropped, counted);
}

#[test]
fn l7_the_connection_is_made_again_and_what_waited_is_sent() {
    let place = Place::new();
    let (layer, guard) = LogLayer::new(&place.options()).unwrap();
    let _default = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
    // Before there is a bridge.
    tracing::info!("early");
    assert!(!guard.flush(Duration::from_millis(20)), "nobody listens");
    for round in 0..3 {
        let port = log_port(&place);
        port.set_nonblocking(true).unwrap();
        // The connection is made by the next line after the loss was seen, so there have to be lines.
        let start = std::time::Instant::now();
        let stream = loop {
            match port.accept() {
                Ok((stream, _)) => break stream,
                Err(_) => tracing::info!("between"),
            }
            assert!(start.elapsed() < LIMIT, "round {round}: no connection");
            std::thread::sleep(Duration::from_millis(1));
        };
        stream.set_nonblocking(false).unwrap();
        let mut lines = BufReader::new(stream).lines();
        let first = read(&mut lines);
        assert_eq!(first["message"], if round == 0 { "early" } else { "between" });
        tracing::info!(round, "while it is there");
        while read(&mut lines)["message"] != "while it is there" {}
        assert!(guard.flush(LIMIT));
    }
}

#[test]
fn a_guard_without_a_bridge_ends_within_its_bound() {
    let place = Place::new();
    let (layer, guard) = LogLayer::new(&place.options()).unwrap();
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || tracing::info!("lost"));
    let start = std::time::Instant::now();
    drop(guard);
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn lines_that_wait_are_not_shown() {
    // Nobody listens: they wait, all but those that the sender has taken for its first write.
    let place = Place::new();
    let (layer, guard) = LogLayer::new(&place.options()).unwrap();
    let shown = format!("{layer:?}");
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
        for _ in 0..1000 {
            tracing::info!(secret = "canary", "canary");
        }
    });
    let waiting = format!("{guard:?} {guard:#?}");
    assert!(waiting.contains("lines: ") && !waiting.contains("lines: 0"), "{waiting}");
    let text = shown + &waiting;
    assert!(!text.contains("canary") && !text.contains("99, 97"), "{text}");
}
