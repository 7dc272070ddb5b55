//! The relay's own numbers: budget, write cap, what is kept, time limits, the size of the future.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test program: a panic is how it fails"
)]

mod common;
#[path = "common/script.rs"]
mod script;

use std::future::{Future, pending, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use common::{bytes, connected, drain, until};
use enclave_bridge_net::{
    BUDGET_BYTES, End, Leg, Meter, Outcome, RelayConfig, RelayStream, SCRATCH_BYTES, Scope, Side, Stream, StreamKind,
    UNIX_READ_MAX_BYTES, VSOCK_WRITE_MAX_BYTES, relay,
};
use script::{ReadStep, Script, State, WriteStep};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex};
use tokio::time::Instant;

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// One poll, and whether it asked for another: at once, or after the runtime has looked for events.
async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> (Poll<F::Output>, bool) {
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(Arc::clone(&wakes));
    let polled = poll_fn(|_| Poll::Ready(future.as_mut().poll(&mut Context::from_waker(&waker)))).await;
    // Behind the wake that a relay leaves with the runtime.
    tokio::task::yield_now().await;
    (polled, wakes.0.load(Ordering::Relaxed) > 0)
}

fn script(kind: StreamKind, state: State) -> (Script, Arc<Mutex<State>>) {
    Script::new(kind, state)
}

#[tokio::test]
async fn a_poll_moves_no_more_than_the_budget_and_asks_for_the_next() {
    let (a, state_a) = script(StreamKind::Tcp, State { input: bytes(1, 4 << 20), ..State::default() });
    let (b, state_b) = script(StreamKind::Tcp, State { input: bytes(2, 4 << 20), ..State::default() });
    let (config, meter) = (RelayConfig::default(), Meter::new());
    let mut relaying = pin!(relay(a, b, &config, &meter, pending()));
    // The first to read is alone, until there is another.
    let (polled, again) = poll_once(relaying.as_mut()).await;
    assert!(polled.is_pending() && again);
    let first = [&state_a, &state_b].map(|state| state.lock().unwrap().read);
    assert_eq!(first, [BUDGET_BYTES, BUDGET_BYTES / 2]);
    for round in 1..=5 {
        let (polled, again) = poll_once(relaying.as_mut()).await;
        assert!(polled.is_pending() && again, "round {round}");
        // Neither direction starves the other, and both together do not exceed the budget.
        let read = [&state_a, &state_b].map(|state| state.lock().unwrap().read);
        assert_eq!(read, first.map(|first| first + round * BUDGET_BYTES / 2), "round {round}");
    }
    let mut polled = Poll::Pending;
    for _ in 0..4 {
        if polled.is_pending() {
            polled = poll_once(relaying.as_mut()).await.0;
        }
    }
    assert!(matches!(polled, Poll::Ready(Outcome { end: End::Orderly, .. })));
}

/// Whoever waits beside them waits for a turn of them all.
#[tokio::test]
async fn a_hundred_busy_streams_have_a_scratch_buffer_each_in_a_turn_and_the_last_has_the_whole_budget() {
    let (config, meter) = (RelayConfig::default(), Meter::new());
    let mut states = Vec::new();
    let mut relays: Vec<_> = (0..100)
        .map(|seed| {
            let length = if seed == 0 { 8 << 20 } else { 2 << 20 };
            let (a, state) = script(StreamKind::Tcp, State { input: bytes(seed, length), ..State::default() });
            let (b, _) = script(StreamKind::Tcp, State { reads: [ReadStep::Stall].into(), ..State::default() });
            states.push(state);
            Box::pin(relay(a, b, &config, &meter, pending()))
        })
        .collect();
    let read = |number: usize| states[number].lock().unwrap().read;
    for round in 0..3 {
        for (number, relaying) in relays.iter_mut().enumerate() {
            let before = read(number);
            assert!(poll_once(relaying.as_mut()).await.0.is_pending());
            if round > 0 {
                assert_eq!(read(number) - before, SCRATCH_BYTES, "stream {number} in round {round}");
            }
        }
    }
    relays.truncate(1);
    let mut moved = 0;
    for _ in 0..3 {
        let before = read(0);
        assert!(poll_once(relays[0].as_mut()).await.0.is_pending());
        moved = read(0) - before;
    }
    assert_eq!(moved, BUDGET_BYTES);
}

/// A relay whose upstream takes nothing, polled ten times; how much it has read.
async fn read_while_stalled(from: StreamKind, to: StreamKind) -> usize {
    let (a, state) = script(from, State { input: bytes(1, 1 << 20), ..State::default() });
    let stalled = State { writes: [WriteStep::Stall].into(), reads: [ReadStep::Stall].into(), ..State::default() };
    let (b, _) = script(to, stalled);
    let (config, meter) = (RelayConfig::default(), Meter::new());
    let mut relaying = pin!(relay(a, b, &config, &meter, pending()));
    for _ in 0..10 {
        let (polled, again) = poll_once(relaying.as_mut()).await;
        assert!(polled.is_pending() && !again, "a stalled relay spins");
    }
    state.lock().unwrap().read
}

#[tokio::test]
async fn t6_a_stalled_direction_keeps_one_read_and_reads_no_more() {
    for kind in [StreamKind::Tcp, StreamKind::Unix, StreamKind::Vsock] {
        assert_eq!(read_while_stalled(StreamKind::Tcp, kind).await, SCRATCH_BYTES, "towards {kind:?}");
    }
    // A Unix socket gives all that it has at once; what a client that stalls keeps is to be less.
    assert_eq!(read_while_stalled(StreamKind::Unix, StreamKind::Tcp).await, UNIX_READ_MAX_BYTES);
}

/// Five bytes are left over towards a full vsock; when it takes more, they leave together with what has come since.
#[tokio::test]
async fn a_small_rest_towards_vsock_is_joined_with_what_follows() {
    for (kind, expected) in [(StreamKind::Vsock, vec![5, 45]), (StreamKind::Tcp, vec![5, 5, 40])] {
        let reads = [ReadStep::Some(10), ReadStep::Pending, ReadStep::Some(40), ReadStep::Stall];
        let (a, _) = script(StreamKind::Tcp, State { input: bytes(1, 90), reads: reads.into(), ..State::default() });
        let writes = [WriteStep::Accept(5), WriteStep::Pending, WriteStep::Pending];
        let reads = [ReadStep::Stall];
        let (b, state_b) = script(kind, State { writes: writes.into(), reads: reads.into(), ..State::default() });
        let (config, meter) = (RelayConfig::default(), Meter::new());
        let mut relaying = pin!(relay(a, b, &config, &meter, pending()));
        for _ in 0..6 {
            assert!(poll_once(relaying.as_mut()).await.0.is_pending());
        }
        let state = state_b.lock().unwrap();
        assert_eq!(state.write_sizes, expected, "{kind:?}");
        assert_eq!(state.output, bytes(1, 90)[..50]);
    }
}

/// A stream may buffer what it is given; while nothing more comes it must be told to send.
#[tokio::test]
async fn what_was_written_is_flushed_when_the_input_pauses() {
    let reads = [ReadStep::Some(30), ReadStep::Stall];
    let (a, _) = script(StreamKind::Tcp, State { input: bytes(1, 90), reads: reads.into(), ..State::default() });
    let buffering = State { late_flushes: 3, reads: [ReadStep::Stall].into(), ..State::default() };
    let (b, state_b) = script(StreamKind::Unix, buffering);
    let (config, meter) = (RelayConfig::default(), Meter::new());
    let mut relaying = pin!(relay(a, b, &config, &meter, pending()));
    for _ in 0..3 {
        let (polled, again) = poll_once(relaying.as_mut()).await;
        assert!(polled.is_pending() && again);
        assert_eq!(state_b.lock().unwrap().flushed, 0);
    }
    let (polled, again) = poll_once(relaying.as_mut()).await;
    assert!(polled.is_pending() && !again);
    assert_eq!(state_b.lock().unwrap().flushed, 30);
}

/// A trickle into a stalled vsock direction: what is kept stays within the scratch buffer's size.
#[tokio::test]
async fn joining_is_bounded() {
    let (a, state_a) = script(
        StreamKind::Tcp,
        State { input: bytes(1, 1 << 20), reads: vec![ReadStep::Some(700); 5000].into(), ..State::default() },
    );
    let stalled = State { writes: [WriteStep::Stall].into(), reads: [ReadStep::Stall].into(), ..State::default() };
    let (b, _) = script(StreamKind::Vsock, stalled);
    let (config, meter) = (RelayConfig::default(), Meter::new());
    let mut relaying = pin!(relay(a, b, &config, &meter, pending()));
    for _ in 0..500 {
        assert!(poll_once(relaying.as_mut()).await.0.is_pending());
    }
    let read = state_a.lock().unwrap().read;
    assert!((VSOCK_WRITE_MAX_BYTES..=SCRATCH_BYTES).contains(&read), "{read}");
}

/// A real socket that counts its writes and says it is vsock.
struct Counting {
    inner: Stream,
    sizes: Arc<Mutex<Vec<usize>>>,
}

impl AsyncRead for Counting {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counting {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.sizes.lock().unwrap().push(buf.len());
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl RelayStream for Counting {
    fn kind(&self) -> StreamKind {
        StreamKind::Vsock
    }

    fn take_error(&self) -> Option<io::Error> {
        self.inner.take_error()
    }

    fn arm_reset(&self) {
        self.inner.arm_reset();
    }

    fn disarm_reset(&self) {
        self.inner.disarm_reset();
    }
}

#[tokio::test]
async fn writes_to_vsock_are_capped() {
    for cap in [VSOCK_WRITE_MAX_BYTES, 1000] {
        let data = bytes(3, 4 << 20);
        let (mut a, near_a) = connected(StreamKind::Tcp).await;
        let (mut b, inner) = connected(StreamKind::Unix).await;
        let sizes = Arc::new(Mutex::new(Vec::new()));
        let near_b = Counting { inner, sizes: Arc::clone(&sizes) };
        let config = RelayConfig { vsock_write_max_bytes: cap, ..RelayConfig::default() };
        let meter = Meter::new();
        let sending = async {
            a.write_all(&data).await.unwrap();
            a.shutdown().await.unwrap();
        };
        let receiving = async {
            let seen = drain(&mut b).await;
            b.shutdown().await.unwrap();
            seen
        };
        let relaying = relay(near_a, near_b, &config, &meter, pending());
        let ((), seen, outcome) = tokio::join!(sending, receiving, relaying);
        assert_eq!(seen, common::Seen::whole(&data));
        assert_eq!(outcome.end, End::Orderly);
        let largest = sizes.lock().unwrap().iter().copied().max().unwrap();
        assert_eq!(largest, cap, "the cap is used in full and not exceeded");
    }
}

/// A pipe in memory, so that the virtual clock is moved by nothing but the test.
struct Memory(DuplexStream);

impl AsyncRead for Memory {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Memory {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl RelayStream for Memory {
    fn kind(&self) -> StreamKind {
        StreamKind::Unix
    }

    fn take_error(&self) -> Option<io::Error> {
        None
    }

    fn arm_reset(&self) {}

    fn disarm_reset(&self) {}
}

fn config() -> RelayConfig {
    RelayConfig { idle: Duration::from_secs(100), linger: Duration::from_secs(20), ..RelayConfig::default() }
}

fn within_a_second(start: Instant, expected: u64) {
    let off = start.elapsed().abs_diff(Duration::from_secs(expected));
    assert!(off <= Duration::from_secs(1), "{:?} instead of {expected} s", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn t18_a_byte_either_way_puts_the_idle_limit_off() {
    let ((mut a, near_a), (mut b, near_b)) = (duplex(64), duplex(64));
    let (config, meter, start) = (config(), Meter::new(), Instant::now());
    let moving = async {
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_secs(90)).await;
            a.write_all(b"x").await.unwrap();
            b.read_exact(&mut [0]).await.unwrap();
            tokio::time::sleep(Duration::from_secs(90)).await;
            b.write_all(b"y").await.unwrap();
            a.read_exact(&mut [0]).await.unwrap();
        }
        pending::<()>().await
    };
    let outcome = tokio::select! {
        () = moving => None,
        outcome = relay(Memory(near_a), Memory(near_b), &config, &meter, pending()) => Some(outcome),
    };
    assert_eq!(outcome, Some(Outcome { a_to_b: 5, b_to_a: 5, end: End::Idle }));
    within_a_second(start, 900 + 100);
}

#[tokio::test(start_paused = true)]
async fn t4_after_a_half_close_the_other_direction_goes_on_as_long_as_it_moves() {
    let ((mut a, near_a), (mut b, near_b)) = (duplex(64), duplex(64));
    let (config, meter, start) = (config(), Meter::new(), Instant::now());
    let moving = async {
        tokio::time::sleep(Duration::from_secs(50)).await;
        a.shutdown().await.unwrap();
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_secs(15)).await;
            b.write_all(b"y").await.unwrap();
            a.read_exact(&mut [0]).await.unwrap();
        }
        pending::<()>().await
    };
    let outcome = tokio::select! {
        () = moving => None,
        outcome = relay(Memory(near_a), Memory(near_b), &config, &meter, pending()) => Some(outcome),
    };
    assert_eq!(outcome, Some(Outcome { a_to_b: 0, b_to_a: 20, end: End::Linger }));
    within_a_second(start, 50 + 300 + 20);
}

#[tokio::test(start_paused = true)]
async fn a_stalled_direction_counts_as_idle() {
    let ((mut a, near_a), (_b, near_b)) = (duplex(1 << 20), duplex(64));
    let (config, meter, start) = (config(), Meter::new(), Instant::now());
    a.write_all(&bytes(1, 1 << 20)).await.unwrap();
    let outcome = relay(Memory(near_a), Memory(near_b), &config, &meter, pending()).await;
    assert_eq!(outcome, Outcome { a_to_b: 64, b_to_a: 0, end: End::Idle });
    within_a_second(start, 100);
}

#[tokio::test(start_paused = true)]
async fn limits_beyond_the_clock_are_no_limits() {
    let (a, near_a) = duplex(64);
    let (b, near_b) = duplex(64);
    let config = RelayConfig { idle: Duration::MAX, linger: Duration::MAX, ..RelayConfig::default() };
    let meter = Meter::new();
    let day = Duration::from_secs(24 * 3600);
    let relaying = relay(Memory(near_a), Memory(near_b), &config, &meter, pending());
    assert!(tokio::time::timeout(day, relaying).await.is_err());
    drop((a, b));
}

/// vsock answers a shutdown with ENOTCONN once the peer has gone; TCP answers so after a reset.
#[tokio::test]
async fn not_connected_at_the_end_is_an_end_only_without_an_error() {
    let gone = || State { shutdowns: [Err(io::ErrorKind::NotConnected)].into(), ..State::default() };
    for (error, expected) in [
        (None, End::Orderly),
        (Some(io::ErrorKind::BrokenPipe), End::Reset { by: Side::B, kind: io::ErrorKind::BrokenPipe }),
    ] {
        let (a, _) = script(StreamKind::Tcp, State { input: bytes(1, 100), ..State::default() });
        let (b, state_b) = script(StreamKind::Vsock, State { error, ..gone() });
        let (config, meter) = (RelayConfig::default(), Meter::new());
        let outcome = relay(a, b, &config, &meter, pending()).await;
        assert_eq!(outcome, Outcome { a_to_b: 100, b_to_a: 0, end: expected });
        assert_eq!(state_b.lock().unwrap().output, bytes(1, 100));
    }
}

/// In silence nobody asks the sockets; while stalled the relay does, at most a watch interval later.
#[tokio::test(start_paused = true)]
async fn an_error_is_noticed_while_stalled() {
    let (a, state_a) = script(StreamKind::Tcp, State { input: bytes(1, 1 << 20), ..State::default() });
    let stalled = State { writes: [WriteStep::Stall].into(), reads: [ReadStep::Stall].into(), ..State::default() };
    let (b, _) = script(StreamKind::Tcp, stalled);
    let (config, meter, start) = (RelayConfig::default(), Meter::new(), Instant::now());
    let failing = async {
        tokio::time::sleep(Duration::from_secs(30)).await;
        state_a.lock().unwrap().error = Some(io::ErrorKind::ConnectionReset);
    };
    let relaying = relay(a, b, &config, &meter, pending());
    let (outcome, ()) = tokio::join!(relaying, failing);
    assert_eq!(outcome.end, End::Reset { by: Side::A, kind: io::ErrorKind::ConnectionReset });
    within_a_second(start, 30);
}

#[tokio::test]
async fn bulk_beside_small_messages_on_one_thread_leaves_them_moving() {
    let (mut bulk_a, near_a) = connected(StreamKind::Tcp).await;
    let (mut bulk_b, near_b) = connected(StreamKind::Unix).await;
    let (mut small_a, small_near_a) = connected(StreamKind::Tcp).await;
    let (mut small_b, small_near_b) = connected(StreamKind::Unix).await;
    let (config, meter, small_meter) = (RelayConfig::default(), Meter::new(), Meter::new());
    let data = bytes(1, 1 << 20);
    let flood = async { while bulk_a.write_all(&data).await.is_ok() {} };
    let sink = async {
        let mut buffer = vec![0; 1 << 20];
        while bulk_b.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
    };
    let pings = async {
        until("bulk moves", || meter.a_to_b() > 8 << 20).await;
        for _ in 0..200 {
            let before = meter.a_to_b();
            small_a.write_all(b"ping").await.unwrap();
            small_b.read_exact(&mut [0; 4]).await.unwrap();
            // Between a ping and its arrival each task has had its turn a few times, and no more than its budget each.
            let beside = meter.a_to_b() - before;
            assert!(beside <= 256 * BUDGET_BYTES as u64, "{beside} bytes of bulk beside one ping");
        }
    };
    tokio::select! {
        () = pings => {}
        () = flood => panic!("bulk writer ended"),
        () = sink => panic!("bulk reader ended"),
        outcome = relay(near_a, near_b, &config, &meter, pending()) => panic!("{outcome:?}"),
        outcome = relay(small_near_a, small_near_b, &config, &small_meter, pending()) => panic!("{outcome:?}"),
    }
}

/// What an idle stream costs is what its future costs. A raw leg does not pay for records, nor an idle one for what only
/// a busy one needs.
#[tokio::test]
async fn the_future_is_small() {
    let (_a, near_a) = connected(StreamKind::Tcp).await;
    let (_b, near_b) = connected(StreamKind::Unix).await;
    let (config, meter) = (RelayConfig::default(), Meter::new());
    let scope = Scope::root("size");
    let relaying = relay(near_a, Leg::new(near_b, false), &config, &meter, scope.cancelled());
    let size = size_of_val(&relaying);
    println!("relay future: {size} bytes, stream: {} bytes", size_of::<Stream>());
    // A socket knows its poller in debug builds.
    let most = 344 + if cfg!(debug_assertions) { 16 } else { 0 };
    assert!(size <= most, "{size}");
}
