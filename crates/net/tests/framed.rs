//! Framed streams: the relay against random scripts, with records read and written by hand, and a framed stream's own
//! promises as a socket.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    reason = "a test program: a panic is how it fails"
)]

mod common;
#[path = "common/script.rs"]
mod script;

use std::future::pending;
use std::io;
use std::sync::{Arc, Mutex};

use common::{LONG, Seen, bytes, drain, until};
use enclave_bridge_net::{
    End, Framed, Leg, Meter, Outcome, RelayConfig, RelayStream, SCRATCH_BYTES, Scope, Side, Stream, StreamKind,
    WATCH_INTERVAL, relay,
};
use proptest::prelude::*;
use script::{ReadStep, Script, State, WriteStep};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// What a direction's bytes say, read by hand: payload, and how it ends.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Ended,
    Reset,
    /// Neither, between records or within one.
    Open,
    /// `00 00` and then `FF FF`.
    EndedAndReset,
}

fn said(wire: &[u8]) -> (Vec<u8>, Said) {
    let (mut payload, mut at) = (Vec::new(), 0);
    loop {
        let Some(header) = wire.get(at..at + 2) else { return (payload, Said::Open) };
        at += 2;
        match usize::from(header[0]) + 256 * usize::from(header[1]) {
            0 if wire.len() == at => return (payload, Said::Ended),
            0 => {
                assert!([0xFF, 0xFF].starts_with(&wire[at..]), "after the end");
                return (payload, Said::EndedAndReset);
            }
            0xFFFF => {
                assert_eq!(wire.len(), at, "bytes after a reset");
                return (payload, Said::Reset);
            }
            length => {
                assert!(length <= 32766, "a record of {length} bytes");
                let end = (at + length).min(wire.len());
                payload.extend_from_slice(&wire[at..end]);
                if end < at + length {
                    return (payload, Said::Open);
                }
                at = end;
            }
        }
    }
}

/// Records of these lengths, by turns, and the end.
fn records(payload: &[u8], lengths: &[usize]) -> Vec<u8> {
    let (mut out, mut rest, mut turn) = (Vec::new(), payload, 0);
    while !rest.is_empty() {
        let length = lengths[turn % lengths.len()].min(rest.len());
        turn += 1;
        out.extend_from_slice(&(length as u16).to_le_bytes());
        out.extend_from_slice(&rest[..length]);
        rest = &rest[length..];
    }
    out.extend_from_slice(&[0, 0]);
    out
}

fn kind() -> impl Strategy<Value = StreamKind> {
    prop_oneof![Just(StreamKind::Unix), Just(StreamKind::Vsock)]
}

fn length() -> impl Strategy<Value = usize> {
    prop_oneof![Just(1), 1..5_usize, 1..5_000_usize, 30_000..140_000_usize]
}

fn steps(faults: bool) -> impl Strategy<Value = (Vec<ReadStep>, Vec<WriteStep>)> {
    let reset = io::ErrorKind::ConnectionReset;
    let read = prop_oneof![
        6 => length().prop_map(ReadStep::Some),
        4 => Just(ReadStep::Pending),
        u32::from(faults) => Just(ReadStep::Fail(reset)),
    ];
    let write = prop_oneof![
        6 => length().prop_map(WriteStep::Accept),
        5 => Just(WriteStep::Pending),
        u32::from(faults) => Just(WriteStep::Fail(io::ErrorKind::BrokenPipe)),
    ];
    (prop::collection::vec(read, 0..40), prop::collection::vec(write, 0..40))
}

#[derive(Debug)]
struct Way {
    payload: Vec<u8>,
    state: State,
}

fn raw(faults: bool) -> impl Strategy<Value = Way> {
    (prop_oneof![0..100_usize, 0..200_000_usize], any::<u64>(), steps(faults)).prop_map(
        |(len, seed, (reads, writes))| {
            let payload = bytes(seed, len);
            let state =
                State { input: payload.clone(), reads: reads.into(), writes: writes.into(), ..State::default() };
            Way { payload, state }
        },
    )
}

/// With faults the wire may also be cut off anywhere.
fn framed(faults: bool) -> impl Strategy<Value = Way> {
    let sizes = prop::collection::vec(prop_oneof![1..20_usize, 1..=32766_usize], 1..8);
    (raw(faults), sizes, any::<bool>(), any::<prop::sample::Index>(), any::<bool>()).prop_map(
        move |(mut side, sizes, vectored, cut, whole)| {
            let mut wire = records(&side.payload, &sizes);
            if faults && !whole {
                wire.truncate(cut.index(wire.len()));
            }
            side.state.input = wire;
            side.state.vectored = vectored;
            side.state.writes_fail_alone = true;
            side
        },
    )
}

fn run(a: State, kind: StreamKind, b: State) -> (Outcome, Arc<Mutex<State>>, Arc<Mutex<State>>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let (near_a, a) = Script::new(StreamKind::Tcp, a);
    let (near_b, b) = Script::new(kind, b);
    let (config, meter) = (RelayConfig::default(), Meter::new());
    let outcome = runtime.block_on(async { relay(near_a, Framed::new(near_b), &config, &meter, pending()).await });
    assert_eq!((meter.a_to_b(), meter.b_to_a()), (outcome.a_to_b, outcome.b_to_a));
    (outcome, a, b)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn without_faults_payload_is_input_and_ends_are_exact(kind in kind(), a in raw(false), b in framed(false)) {
        let (up, down) = (a.payload, b.payload);
        let (outcome, a, b) = run(a.state, kind, b.state);
        let (a, b) = (a.lock().unwrap(), b.lock().unwrap());
        prop_assert_eq!(outcome.end, End::Orderly);
        prop_assert!(said(&b.output) == (up.clone(), Said::Ended), "a to b differs");
        prop_assert!(a.output == down, "b to a differs");
        prop_assert_eq!((a.shut, b.shut), (1, 0));
        prop_assert!(a.disarmed && b.disarmed);
        prop_assert_eq!((outcome.a_to_b, outcome.b_to_a), (up.len() as u64, down.len() as u64));
        if kind == StreamKind::Vsock {
            prop_assert!(b.write_sizes.iter().all(|size| *size <= 32 * 1024));
        }
    }

    #[test]
    fn with_faults_an_end_is_never_invented(kind in kind(), a in raw(true), b in framed(true)) {
        let (up, down) = (a.payload, b.payload);
        let (outcome, a, b) = run(a.state, kind, b.state);
        let (a, b) = (a.lock().unwrap(), b.lock().unwrap());
        let whole = said(&b.input).1 == Said::Ended;
        if outcome.end == End::Orderly {
            prop_assert!(whole && !a.failed && !b.failed);
        }
        if !whole {
            prop_assert!(outcome.end != End::Orderly, "an end of nothing");
        }
        prop_assert!(down.starts_with(&a.output), "output is no prefix of input");
        if a.shut == 1 {
            prop_assert!(whole && a.output == down, "an invented end");
        }
        let (payload, end) = said(&b.output);
        prop_assert!(up.starts_with(&payload), "payload is no prefix of input");
        if matches!(end, Said::Ended | Said::EndedAndReset) {
            prop_assert!(a.eof_read && payload == up, "an invented end");
        }
        if outcome.end == End::Orderly && !b.write_failed {
            prop_assert!(end == Said::Ended && a.shut == 1, "an end was lost");
        }
        prop_assert!(a.read - payload.len() <= SCRATCH_BYTES + 32766, "more kept than a scratch buffer and a record");
        prop_assert_eq!((a.disarmed, b.disarmed), (outcome.end == End::Orderly, outcome.end == End::Orderly));
    }
}

/// A framed stream and the bytes' end of it.
fn pair() -> (Framed<Stream>, UnixStream) {
    let (ours, peer) = UnixStream::pair().unwrap();
    (Framed::new(Stream::from_unix(ours)), peer)
}

async fn all(peer: &mut UnixStream) -> Vec<u8> {
    let mut out = Vec::new();
    let mut buffer = vec![0; 4096];
    while let Ok(n @ 1..) = timeout(LONG, peer.read(&mut buffer)).await.unwrap() {
        out.extend_from_slice(&buffer[..n]);
    }
    out
}

#[tokio::test]
async fn what_a_drop_says() {
    for (armed, expected) in [(false, b"\x02\0hi\0\0"), (true, b"\x02\0hi\xFF\xFF")] {
        let (mut stream, mut peer) = pair();
        stream.write_all(b"hi").await.unwrap();
        if armed {
            stream.arm_reset();
        }
        drop(stream);
        assert_eq!(all(&mut peer).await, expected, "armed: {armed}");
    }
    // After its end there is nothing left to say, unless it is a reset.
    let (mut stream, mut peer) = pair();
    stream.shutdown().await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(stream.write(b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    drop(stream);
    assert_eq!(all(&mut peer).await, b"\0\0");
    let (mut stream, mut peer) = pair();
    stream.shutdown().await.unwrap();
    stream.arm_reset();
    drop(stream);
    assert_eq!(all(&mut peer).await, b"\0\0\xFF\xFF");
}

/// Whoever panics has not come to the end of what it wanted to say.
#[tokio::test]
async fn a_panic_says_reset() {
    let (mut stream, mut peer) = pair();
    stream.write_all(b"hi").await.unwrap();
    let thread = std::thread::spawn(move || {
        let _held = stream;
        panic!("on purpose");
    });
    assert!(thread.join().is_err());
    assert_eq!(all(&mut peer).await, b"\x02\0hi\xFF\xFF");
}

/// Part of a record is out when the socket is full: what is dropped then is cut off, which is a reset.
#[tokio::test]
async fn a_drop_amid_a_record_is_no_end() {
    let (mut stream, mut peer) = pair();
    let data = bytes(1, 1 << 20);
    while timeout(std::time::Duration::from_millis(50), stream.write(&data)).await.is_ok() {}
    drop(stream);
    let (payload, end) = said(&all(&mut peer).await);
    assert_eq!(end, Said::Open);
    assert!(!payload.is_empty());
}

#[tokio::test]
async fn every_failure_is_a_reset_and_what_stood_before_it_is_read() {
    for wire in
        [&b"\x02\0hi\xFF\xFF"[..], b"\x02\0hi", b"\x05\0hi", b"\x02\0hi\0", b"\x02\0hi\xFF\x7F", b"\x02\0hi\0\x80"]
    {
        let (mut stream, mut peer) = pair();
        peer.write_all(wire).await.unwrap();
        drop(peer);
        let seen = drain(&mut stream).await;
        assert_eq!(seen, Seen { end: Err(io::ErrorKind::ConnectionReset), ..Seen::whole(b"hi") }, "{wire:?}");
        assert_eq!(stream.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset, "{wire:?}");
    }
    let (mut stream, mut peer) = pair();
    peer.write_all(b"\x02\0hi\0\0").await.unwrap();
    assert_eq!(drain(&mut stream).await, Seen::whole(b"hi"));
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    // The other direction is as it was.
    stream.write_all(b"still here").await.unwrap();
    stream.shutdown().await.unwrap();
    drop(stream);
    assert_eq!(said(&all(&mut peer).await), (b"still here".to_vec(), Said::Ended));
}

/// A request whose last record is half out when its writer turns to reading: nobody flushes, and it arrives.
#[tokio::test]
async fn reading_finishes_what_writing_began() {
    let request = bytes(2, 620_000);
    let reads = vec![ReadStep::Pending; 50];
    let writes = vec![WriteStep::Accept(20_000), WriteStep::Pending, WriteStep::Pending];
    let writes = writes.into_iter().cycle().take(111).collect();
    let answer = records(b"answer", &[6]);
    let state = State { input: answer, reads: reads.into(), writes, ..State::default() };
    let (script, state) = Script::new(StreamKind::Vsock, state);
    let mut stream = Framed::new(script);
    stream.write_all(&request).await.unwrap();
    let out = said(&state.lock().unwrap().output).0.len();
    assert!(out < request.len(), "nothing was kept");
    stream.read_exact(&mut [0; 6]).await.unwrap();
    let out = said(&state.lock().unwrap().output).0;
    assert!(out == request, "{} bytes of {}", out.len(), request.len());
}

/// Halves in two tasks: each may be the one that finishes a record, and neither forgets the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn halves_in_two_tasks_move_all_both_ways() {
    let (left, right) = UnixStream::pair().unwrap();
    let (up, down) = (bytes(3, 24 << 20), bytes(4, 24 << 20));
    let scope = Scope::root("halves");
    let (tell, mut told) = tokio::sync::mpsc::channel(4);
    for (stream, data) in [(left, up.clone()), (right, down.clone())] {
        let (mut read, mut write) = tokio::io::split(Framed::new(Stream::from_unix(stream)));
        let expected = if data == up { down.clone() } else { up.clone() };
        let (tell, tell_read) = (tell.clone(), tell.clone());
        scope.spawn("writer", async move {
            write.write_all(&data).await.unwrap();
            write.shutdown().await.unwrap();
            tell.send(true).await.unwrap();
        });
        scope.spawn("reader", async move {
            let seen = drain(&mut read).await;
            tell_read.send(seen == Seen::whole(&expected)).await.unwrap();
        });
    }
    for _ in 0..4 {
        assert_eq!(timeout(LONG, told.recv()).await.unwrap(), Some(true));
    }
}

/// The end of the enclave's direction was real; that it then resets the other one must reach the client, also in
/// silence. A mere close says nothing more than the end did.
#[tokio::test]
async fn after_the_end_a_reset_counts_and_a_close_does_not() {
    for (more, expected) in [
        (&b"\xFF\xFF"[..], Some(io::ErrorKind::ConnectionReset)),
        (b"\x01\0x", Some(io::ErrorKind::ConnectionReset)),
        (b"", None),
    ] {
        let (mut client, near_a) = common::connected(StreamKind::Tcp).await;
        let (near_b, mut enclave) = UnixStream::pair().unwrap();
        let near_b = Leg::new(Stream::from_unix(near_b), true);
        let meter = Arc::new(Meter::new());
        let (done, mut outcome) = tokio::sync::oneshot::channel();
        let counted = Arc::clone(&meter);
        let scope = Scope::root("relay");
        scope.spawn("relay", async move {
            let outcome = relay(near_a, near_b, &RelayConfig::default(), &counted, pending()).await;
            done.send(outcome).unwrap_or_default();
        });
        enclave.write_all(b"\x02\0hi\0\0").await.unwrap();
        assert_eq!(drain(&mut client).await, Seen::whole(b"hi"));
        enclave.write_all(more).await.unwrap();
        drop(enclave);
        match expected {
            Some(kind) => {
                let outcome = timeout(LONG, outcome).await.unwrap().unwrap();
                assert_eq!(outcome.end, End::Reset { by: Side::B, kind });
            }
            None => {
                assert!(timeout(std::time::Duration::from_millis(200), &mut outcome).await.is_err());
                // The client ends as well: nothing was lost, so this is in order.
                client.shutdown().await.unwrap();
                assert_eq!(timeout(LONG, outcome).await.unwrap().unwrap().end, End::Orderly);
            }
        }
    }
}

/// An enclave that has said all and closed, its client's end unread: a slow client gets everything.
#[tokio::test]
async fn an_end_that_the_enclave_did_not_read_costs_a_slow_client_nothing() {
    let (mut client, near_a) = common::connected(StreamKind::Tcp).await;
    let (near_b, mut enclave) = UnixStream::pair().unwrap();
    SockRef::from(&client).set_recv_buffer_size(32 * 1024).unwrap();
    SockRef::from(&near_a).set_send_buffer_size(32 * 1024).unwrap();
    SockRef::from(&enclave).set_send_buffer_size(1 << 20).unwrap();
    let near_b = Leg::new(Stream::from_unix(near_b), true);
    let meter = Arc::new(Meter::new());
    let counted = Arc::clone(&meter);
    let (done, outcome) = tokio::sync::oneshot::channel();
    let scope = Scope::root("relay");
    scope.spawn("relay", async move {
        let outcome = relay(near_a, near_b, &RelayConfig::default(), &counted, pending()).await;
        done.send(outcome).unwrap_or_default();
    });
    client.write_all(b"request").await.unwrap();
    client.shutdown().await.unwrap();
    let mut request = [0; 9];
    enclave.read_exact(&mut request).await.unwrap();
    assert_eq!(request[..], *b"\x07\0request");
    let response = bytes(5, 500_000);
    enclave.write_all(&records(&response, &[32766])).await.unwrap();
    drop(enclave);
    // Longer than the relay looks away from its sockets' errors while it is stalled.
    tokio::time::sleep(WATCH_INTERVAL * 2).await;
    assert!(meter.b_to_a() < response.len() as u64, "the client was not slow");
    assert_eq!(drain(&mut client).await, Seen::whole(&response));
    assert_eq!(timeout(LONG, outcome).await.unwrap().unwrap().end, End::Orderly);
    until("counted", || meter.b_to_a() == response.len() as u64).await;
}
