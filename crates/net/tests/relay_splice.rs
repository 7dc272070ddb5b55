//! Copying and moving pages are one relay: what the peers see is the same, script by script.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test program: a panic is how it fails"
)]

mod common;

use std::future::pending;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{LONG, Seen, bytes, connected, drain, in_the_lab, until};
use enclave_bridge_net::{
    End, Leg, Meter, Outcome, PIPES_IDLE_MAX, Pipes, RelayConfig, Scope, Side, Stream, StreamKind, relay,
};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// Scripts in all, each played twice: once copied, once with pipes.
const SCRIPTS: u64 = 10_000;

/// So many reads a reader rests between; one that takes half a mebibyte in pieces of twenty bytes is slow enough without.
const RESTING_READS: usize = 512;

/// Of so many bytes everybody sends a part.
const SOURCE_BYTES: usize = 2 << 20;

/// A peer of a relay: what it writes and how, and how it reads.
#[derive(Clone, Debug)]
struct Part {
    kind: StreamKind,
    /// Where in the source its bytes begin.
    at: usize,
    writes: Vec<Write>,
    ending: Ending,
    read_bytes: usize,
    /// After every so many reads it lets others run so often.
    rest_every: usize,
    rests: usize,
    receive_buffer: Option<usize>,
}

#[derive(Clone, Debug)]
enum Write {
    Bytes(usize),
    Rest(usize),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ending {
    /// Shuts its writing down and reads to the end.
    Shutdown,
    /// The same, but not before it has read to the end.
    ShutdownLast,
    /// Resets after its writes.
    Reset,
}

struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound
    }

    fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }

    fn script(&mut self) -> (Part, Part) {
        let mut parts = (self.part(), self.part());
        // Somebody has to end first.
        if parts.0.ending == Ending::ShutdownLast && parts.1.ending == Ending::ShutdownLast {
            parts.1.ending = Ending::Shutdown;
        }
        parts
    }

    fn part(&mut self) -> Part {
        let kind = if self.one_in(2) { StreamKind::Tcp } else { StreamKind::Unix };
        let mut writes = Vec::new();
        let mut left = match self.below(8) {
            0 => 0,
            1 | 2 => self.below(4096),
            3 | 4 => self.below(128 << 10),
            _ => self.below(700 << 10),
        };
        // Bulk, or anything at all.
        let large = self.one_in(2);
        while left > 0 {
            let most = if large || self.one_in(4) { 256 << 10 } else { 20_000 };
            let piece = (1 + self.below(most)).min(left);
            left -= piece;
            writes.push(Write::Bytes(piece));
            if self.one_in(4) {
                writes.push(Write::Rest(self.below(12)));
            }
        }
        let ending = match self.below(16) {
            // A Unix socket that closes with nothing unread ends in order.
            0 if kind == StreamKind::Tcp => Ending::Reset,
            1..=5 => Ending::ShutdownLast,
            _ => Ending::Shutdown,
        };
        Part {
            kind,
            at: self.below(SOURCE_BYTES / 2),
            writes,
            ending,
            read_bytes: if self.one_in(4) { 1 + self.below(4096) } else { 4096 + self.below(256 << 10) },
            rest_every: 1 + self.below(16),
            rests: if self.one_in(2) { 0 } else { self.below(24) },
            // A TCP window that is smaller than what loopback carries in a segment opens by timer only.
            receive_buffer: (kind == StreamKind::Unix && self.one_in(3)).then(|| 4096 + self.below(64 << 10)),
        }
    }
}

/// What a peer saw: so many bytes, all of them the right ones, and then an end or an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Saw {
    bytes: usize,
    end: Option<Result<(), io::ErrorKind>>,
    /// Reading or writing has met an error.
    torn: bool,
}

async fn rest(times: usize) {
    for _ in 0..times {
        tokio::task::yield_now().await;
    }
}

async fn read(mut stream: ReadHalf<Stream>, part: &Part, expected: &[u8], saw: &mut Saw) -> ReadHalf<Stream> {
    let mut buffer = vec![0; part.read_bytes];
    for round in 1.. {
        match stream.read(&mut buffer).await {
            Ok(0) => {
                saw.end = Some(Ok(()));
                break;
            }
            Ok(count) => {
                assert!(expected.get(saw.bytes..saw.bytes + count) == Some(&buffer[..count]), "other bytes: {part:?}");
                saw.bytes += count;
            }
            Err(error) => {
                saw.end = Some(Err(error.kind()));
                saw.torn = true;
                break;
            }
        }
        if round <= RESTING_READS && round % part.rest_every == 0 {
            rest(part.rests).await;
        }
    }
    stream
}

/// The stream again, as an error if writing has met one.
async fn write(
    mut stream: WriteHalf<Stream>,
    part: &Part,
    source: &[u8],
) -> Result<WriteHalf<Stream>, WriteHalf<Stream>> {
    let mut at = part.at;
    for step in &part.writes {
        match step {
            Write::Rest(times) => rest(*times).await,
            Write::Bytes(count) => {
                // The other side may have reset; then the kernel shows the reading half an end.
                if stream.write_all(&source[at..at + count]).await.is_err() {
                    return Err(stream);
                }
                at += count;
            }
        }
    }
    Ok(stream)
}

async fn shut_down(written: Result<WriteHalf<Stream>, WriteHalf<Stream>>) -> (bool, WriteHalf<Stream>) {
    match written {
        Ok(mut stream) => (stream.shutdown().await.is_err(), stream),
        Err(stream) => (true, stream),
    }
}

async fn play(stream: Stream, part: Part, source: &[u8], expected: &[u8]) -> Saw {
    if let Some(bytes) = part.receive_buffer {
        SockRef::from(&stream).set_recv_buffer_size(bytes).unwrap();
    }
    if part.ending == Ending::Reset {
        stream.arm_reset();
    }
    let (reading, writing) = split(stream);
    let mut saw = Saw { bytes: 0, end: None, torn: false };
    match part.ending {
        Ending::Reset => {
            tokio::select! {
                biased;
                _ = write(writing, &part, source) => {}
                // The other side may be first.
                _ = read(reading, &part, expected, &mut saw) => {}
            }
        }
        Ending::Shutdown => {
            let writing = async {
                let written = write(writing, &part, source).await;
                shut_down(written).await
            };
            let (_, (torn, _writing)) = tokio::join!(read(reading, &part, expected, &mut saw), writing);
            saw.torn |= torn;
        }
        Ending::ShutdownLast => {
            let (_, written) = tokio::join!(read(reading, &part, expected, &mut saw), write(writing, &part, source));
            saw.torn |= shut_down(written).await.0;
        }
    }
    saw
}

async fn run(script: &(Part, Part), source: &Arc<Vec<u8>>, pipes: Option<Pipes>) -> (Saw, Saw, Outcome) {
    let (a, near_a) = connected(script.0.kind).await;
    let (b, near_b) = connected(script.1.kind).await;
    let (done, outcome) = oneshot::channel();
    let scope = Scope::root("script");
    scope.spawn("relay", async move {
        let (config, meter) = (RelayConfig { pipes, ..RelayConfig::default() }, Meter::new());
        let outcome = relay(near_a, near_b, &config, &meter, pending()).await;
        done.send(outcome).unwrap();
    });
    let peers = async {
        let (from_b, from_a) = (&source[script.1.at..], &source[script.0.at..]);
        tokio::join!(play(a, script.0.clone(), source, from_b), play(b, script.1.clone(), source, from_a))
    };
    let (at_a, at_b) = timeout(LONG, peers).await.unwrap_or_else(|_| panic!("stands still: {script:?}"));
    let outcome = timeout(LONG, outcome).await.unwrap_or_else(|_| panic!("relay stands still: {script:?}")).unwrap();
    (at_a, at_b, outcome)
}

fn sent(part: &Part) -> usize {
    part.writes.iter().map(|step| if let Write::Bytes(count) = step { *count } else { 0 }).sum()
}

fn check(script: &(Part, Part), seen: &(Saw, Saw, Outcome)) {
    let (a, b) = script;
    let (at_a, at_b, outcome) = seen;
    if a.ending != Ending::Reset && b.ending != Ending::Reset {
        let (end, torn) = (Some(Ok(())), false);
        let whole = (Saw { bytes: sent(b), end, torn }, Saw { bytes: sent(a), end, torn });
        assert_eq!((*at_a, *at_b), whole, "{script:?}");
        let (a_to_b, b_to_a) = (sent(a) as u64, sent(b) as u64);
        assert_eq!(*outcome, Outcome { a_to_b, b_to_a, end: End::Orderly }, "{script:?}");
        return;
    }
    // What was seen is a beginning of what was sent, which reading has checked; and it is not taken for the whole.
    assert_ne!(outcome.end, End::Orderly, "{script:?}");
    for (resetting, other, saw) in [(a, b, at_b), (b, a, at_a)] {
        if resetting.ending == Ending::Reset && other.ending != Ending::Reset && other.kind == StreamKind::Tcp {
            assert!(saw.torn, "{saw:?} {script:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t26_ten_thousand_scripts_look_the_same_copied_and_moved() {
    const AT_ONCE: usize = 64;
    if in_the_lab() {
        println!("not tried in a guest: there is nothing of AF_VSOCK in it");
        return;
    }
    let source = Arc::new(bytes(1, SOURCE_BYTES));
    let moved = Arc::new(AtomicUsize::new(0));
    let scope = Scope::root("scripts");
    for lane in 0..AT_ONCE as u64 {
        let (source, moved) = (Arc::clone(&source), Arc::clone(&moved));
        scope.spawn("lane", async move {
            for seed in (lane..SCRIPTS).step_by(AT_ONCE) {
                let script = Chance(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1).script();
                check(&script, &run(&script, &source, None).await);
                let pipes = Pipes::new(2);
                check(&script, &run(&script, &source, Some(pipes.clone())).await);
                // Whatever was left in a pipe has been closed with it.
                assert!(pipes.open() <= 2);
                moved.fetch_add(pipes.open().min(1), Ordering::Relaxed);
            }
        });
    }
    scope.join().await;
    assert_eq!(scope.panics(), 0, "see above");
    let moved = moved.load(Ordering::Relaxed);
    println!("{moved} of {SCRIPTS} scripts went through pipes");
    assert!(moved as u64 > SCRIPTS / 4, "{moved}");
}

/// A relay with pipes, and the peers of it.
async fn rig(
    kinds: (StreamKind, StreamKind),
    pipes: &Pipes,
) -> (Stream, Stream, Arc<Meter>, oneshot::Receiver<Outcome>) {
    let (a, near_a) = connected(kinds.0).await;
    let (b, near_b) = connected(kinds.1).await;
    let (done, outcome) = oneshot::channel();
    let meter = Arc::new(Meter::new());
    let (shared, config) = (Arc::clone(&meter), RelayConfig { pipes: Some(pipes.clone()), ..RelayConfig::default() });
    Scope::root("rig").spawn("relay", async move {
        let outcome = relay(near_a, near_b, &config, &shared, pending()).await;
        done.send(outcome).unwrap_or_default();
    });
    (a, b, meter, outcome)
}

const KINDS: [StreamKind; 2] = [StreamKind::Tcp, StreamKind::Unix];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_engages_a_pipe_and_idleness_holds_none() {
    let data = bytes(2, 8 << 20);
    for kinds in KINDS.into_iter().flat_map(|a| KINDS.map(|b| (a, b))) {
        let pipes = Pipes::new(4);
        let (mut a, mut b, meter, outcome) = rig(kinds, &pipes).await;
        for round in 1..=2 {
            let mut got = vec![0; data.len()];
            let (wrote, read) = tokio::join!(a.write_all(&data), b.read_exact(&mut got));
            wrote.unwrap();
            read.unwrap();
            assert!(got == data, "{kinds:?}");
            until("counted", || meter.a_to_b() == (round * data.len()) as u64).await;
        }
        // One was enough for all of it, and it is back.
        assert_eq!(pipes.open(), 1, "{kinds:?}");
        // Small messages pass both ways, before and after pages are no longer moved.
        for round in 0..32_u8 {
            let mut byte = [0];
            a.write_all(&[round]).await.unwrap();
            b.read_exact(&mut byte).await.unwrap();
            b.write_all(&byte).await.unwrap();
            a.read_exact(&mut byte).await.unwrap();
            assert_eq!(byte, [round]);
        }
        a.shutdown().await.unwrap();
        b.shutdown().await.unwrap();
        assert_eq!(timeout(LONG, outcome).await.unwrap().unwrap().end, End::Orderly);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_directions_hold_pipes_up_to_the_limit_and_nothing_is_lost() {
    const MOST: usize = 3;
    let data = Arc::new(bytes(3, 24 << 20));
    let pipes = Pipes::new(MOST);
    let scope = Scope::root("senders");
    let mut readers = Vec::new();
    for _ in 0..8 {
        let (mut a, mut b, meter, outcome) = rig((StreamKind::Tcp, StreamKind::Unix), &pipes).await;
        // Some go ahead, so that pages are being moved when the reader stops.
        let mut head = vec![0; 4 << 20];
        let data = Arc::clone(&data);
        let sending = Arc::clone(&data);
        scope.spawn("sender", async move {
            a.write_all(&sending).await.unwrap();
            a.shutdown().await.unwrap();
            assert_eq!(a.read(&mut [0]).await.unwrap(), 0);
        });
        b.read_exact(&mut head).await.unwrap();
        assert!(head == data[..head.len()]);
        readers.push((b, head.len(), meter, outcome));
    }
    // They stand: what is counted no longer changes.
    for (_, _, meter, _) in &readers {
        let mut last = 0;
        until("stalled", || std::mem::replace(&mut last, meter.a_to_b()) == meter.a_to_b()).await;
    }
    assert!((1..=MOST).contains(&pipes.open()), "{pipes:?}");
    for (mut b, head, _, outcome) in readers {
        let seen = drain(&mut b).await;
        assert_eq!(seen, Seen::whole(&data[head..]));
        b.shutdown().await.unwrap();
        assert_eq!(timeout(LONG, outcome).await.unwrap().unwrap().end, End::Orderly);
    }
    timeout(LONG, scope.join()).await.unwrap();
    assert_eq!(scope.panics(), 0);
    assert!(pipes.open() <= MOST.min(PIPES_IDLE_MAX));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_while_pages_are_moved_is_never_an_end() {
    let data = bytes(4, 64 << 20);
    for to in KINDS {
        let pipes = Pipes::new(1);
        let (mut a, mut b, meter, outcome) = rig((StreamKind::Tcp, to), &pipes).await;
        let mut head = vec![0; 8 << 20];
        // The reader stops after a part; then nothing moves any more, and there are bytes in the pipe.
        let stalling = async {
            b.read_exact(&mut head).await.unwrap();
            let mut last = 0;
            until("stalled", || std::mem::replace(&mut last, meter.a_to_b()) == meter.a_to_b()).await;
        };
        tokio::select! {
            written = a.write_all(&data) => panic!("all was taken: {written:?}"),
            stalled = timeout(LONG, stalling) => stalled.unwrap(),
        }
        assert_eq!(pipes.open(), 1);
        a.arm_reset();
        drop(a);
        let outcome = timeout(LONG, outcome).await.unwrap().unwrap();
        assert!(matches!(outcome.end, End::Reset { by: Side::A, .. }), "{outcome:?}");
        let mut b = Leg::new(b, false);
        common::assert_torn(&mut b, "b").await;
        // Its pipe had bytes in it. The next stream that has one does not see them.
        let (mut a, mut b, _, _outcome) = rig((StreamKind::Tcp, to), &pipes).await;
        let mut got = vec![0; 4 << 20];
        let (_, read) = tokio::join!(a.write_all(&data[1 << 20..5 << 20]), b.read_exact(&mut got));
        read.unwrap();
        assert!(got == data[1 << 20..5 << 20]);
        assert_eq!(pipes.open(), 1);
    }
}

#[tokio::test]
async fn without_pipes_to_be_had_bytes_are_copied() {
    let data = bytes(5, 8 << 20);
    let pipes = Pipes::new(0);
    let (mut a, mut b, _, _) = rig((StreamKind::Tcp, StreamKind::Unix), &pipes).await;
    let mut got = vec![0; data.len()];
    let (wrote, read) = tokio::join!(a.write_all(&data), b.read_exact(&mut got));
    wrote.unwrap();
    read.unwrap();
    assert!(got == data);
    assert_eq!(pipes.open(), 0);
}
