//! Every pair of socket kinds, every way a stream can end, over real sockets.
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

use common::{
    Form, LONG, Seen, assert_torn, bulk_bytes, bytes, drain, forms, legs, pairs, refusal, reset, shows_resets, until,
    write_until_stalled,
};
use enclave_bridge_net::{End, Leg, Meter, Outcome, RelayConfig, Scope, Side, Stream, relay};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// Two peers and the relay between them, running.
struct Rig {
    a: Leg<Stream>,
    b: Leg<Stream>,
    meter: Arc<Meter>,
    outcome: oneshot::Receiver<Outcome>,
    cut: Option<oneshot::Sender<()>>,
    what: String,
}

impl Rig {
    async fn new((a, b): (Form, Form)) -> Rig {
        Rig::with((a, b), RelayConfig::default()).await
    }

    async fn with((kind_a, kind_b): (Form, Form), config: RelayConfig) -> Rig {
        let (a, near_a) = legs(kind_a).await;
        let (b, near_b) = legs(kind_b).await;
        let meter = Arc::new(Meter::new());
        let (done, outcome) = oneshot::channel();
        let (cut, cut_here) = oneshot::channel::<()>();
        let shared = Arc::clone(&meter);
        Scope::root("rig").spawn("relay", async move {
            let reset = async {
                if cut_here.await.is_err() {
                    pending::<()>().await;
                }
            };
            let outcome = relay(near_a, near_b, &config, &shared, reset).await;
            done.send(outcome).unwrap_or_default();
        });
        Rig { a, b, meter, outcome, cut: Some(cut), what: format!("{kind_a:?} to {kind_b:?}") }
    }

    async fn outcome(&mut self) -> Outcome {
        timeout(LONG, &mut self.outcome).await.expect(&self.what).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orderly_ends_pass_every_byte_both_ways() {
    for kinds in pairs() {
        let mut rig = Rig::new(kinds).await;
        let (up, down) = (bytes(1, 3 << 20), bytes(2, (3 << 20) + 17));
        let (a, b) = (&mut rig.a, &mut rig.b);
        let client = async {
            a.write_all(&up).await.unwrap();
            a.shutdown().await.unwrap();
            drain(a).await
        };
        let server = async {
            let seen = drain(b).await;
            b.write_all(&down).await.unwrap();
            b.shutdown().await.unwrap();
            seen
        };
        let (at_a, at_b) = timeout(LONG, async { tokio::join!(client, server) }).await.unwrap();
        assert_eq!(at_b, Seen::whole(&up), "{}", rig.what);
        assert_eq!(at_a, Seen::whole(&down), "{}", rig.what);
        let outcome = rig.outcome().await;
        assert_eq!(outcome.end, End::Orderly, "{}", rig.what);
        assert_eq!((outcome.a_to_b, outcome.b_to_a), (up.len() as u64, down.len() as u64));
        assert_eq!((rig.meter.a_to_b(), rig.meter.b_to_a()), (outcome.a_to_b, outcome.b_to_a));
    }
}

/// One side ends first and then receives 64 MiB (less on a translated processor).
async fn half_close_first(first: Side) {
    let bulk = bytes(3, bulk_bytes());
    let expected = Seen::whole(&bulk);
    for kinds in pairs() {
        let mut rig = Rig::new(kinds).await;
        let (ender, sender) = match first {
            Side::A => (&mut rig.a, &mut rig.b),
            Side::B => (&mut rig.b, &mut rig.a),
        };
        let ending = async {
            ender.write_all(b"all I have to say").await.unwrap();
            ender.shutdown().await.unwrap();
            drain(ender).await
        };
        let sending = async {
            // The end arrives as an end before anything is sent the other way.
            assert_eq!(drain(sender).await, Seen::whole(b"all I have to say"));
            sender.write_all(&bulk).await.unwrap();
            sender.shutdown().await.unwrap();
        };
        let (seen, ()) = timeout(LONG, async { tokio::join!(ending, sending) }).await.unwrap();
        assert_eq!(seen, expected, "{}", rig.what);
        assert_eq!(rig.outcome().await.end, End::Orderly, "{}", rig.what);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t1_downstream_half_closes_first_and_receives_64_mib() {
    half_close_first(Side::A).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t2_upstream_half_closes_first_and_receives_64_mib() {
    half_close_first(Side::B).await;
}

/// One side resets after both have spoken; the other must see that it was no end.
async fn reset_by(side: Side) {
    for kinds in pairs() {
        if !shows_resets(if side == Side::A { kinds.0 } else { kinds.1 }) {
            continue;
        }
        let mut rig = Rig::new(kinds).await;
        let what = rig.what.clone();
        rig.a.write_all(b"from a").await.unwrap();
        rig.b.write_all(b"from b").await.unwrap();
        until("both delivered", || rig.meter.a_to_b() == 6 && rig.meter.b_to_a() == 6).await;
        let outcome = &mut rig.outcome;
        // The resetting side leaves six bytes unread: that makes a Unix close a reset as well.
        let mut other = match side {
            Side::A => {
                reset(rig.a);
                rig.b
            }
            Side::B => {
                reset(rig.b);
                rig.a
            }
        };
        let outcome = timeout(LONG, outcome).await.unwrap().unwrap();
        assert_eq!(outcome.end, End::Reset { by: side, kind: io::ErrorKind::ConnectionReset }, "{what}");
        let mut six = [0; 6];
        other.read_exact(&mut six).await.unwrap();
        assert_torn(&mut other, &what).await;
    }
}

#[tokio::test]
async fn t3_a_reset_downstream_is_a_reset_upstream() {
    reset_by(Side::A).await;
}

#[tokio::test]
async fn t3_a_reset_upstream_is_a_reset_downstream() {
    reset_by(Side::B).await;
}

#[tokio::test]
async fn t3_a_reset_amid_bulk_is_never_an_end() {
    let data = bytes(4, 64 << 20);
    for kinds in pairs().into_iter().filter(|(a, _)| shows_resets(*a)) {
        let mut rig = Rig::new(kinds).await;
        // Something unread, so that a Unix close is a reset.
        rig.b.write_all(b"unread").await.unwrap();
        until("delivered", || rig.meter.b_to_a() == 6).await;
        let sent = write_until_stalled(&mut rig.a, &data, &rig.meter).await;
        reset(rig.a);
        // Nothing is read from or written to either socket now: only the watch can see it. A full vsock has no room for the
        // record that resets and shows no error: there it is the missing end that tells, after what the socket still holds.
        let silent = kinds.0 == Form::FramedVsock;
        if silent {
            assert_torn(&mut rig.b, &rig.what).await;
        }
        let outcome = timeout(LONG, &mut rig.outcome).await.unwrap().unwrap();
        assert!(matches!(outcome.end, End::Reset { by: Side::A, .. }), "{}: {outcome:?}", rig.what);
        assert!(outcome.a_to_b < sent as u64 || silent && outcome.a_to_b == sent as u64, "{}: {outcome:?}", rig.what);
        if !silent {
            assert_torn(&mut rig.b, &rig.what).await;
        }
    }
}

#[tokio::test]
async fn t3_a_reset_by_the_reader_of_a_stalled_direction_reaches_the_writer() {
    let data = bytes(5, 64 << 20);
    for kinds in pairs().into_iter().filter(|(_, b)| shows_resets(*b)) {
        let mut rig = Rig::new(kinds).await;
        write_until_stalled(&mut rig.a, &data, &rig.meter).await;
        reset(rig.b);
        let outcome = timeout(LONG, &mut rig.outcome).await.unwrap().unwrap();
        assert!(matches!(outcome.end, End::Reset { by: Side::B, .. }), "{}: {outcome:?}", rig.what);
        assert_torn(&mut rig.a, &rig.what).await;
    }
}

/// What cannot be told from an end is passed on as one; the direction that is left is torn by the first byte into it.
#[tokio::test]
async fn the_death_of_a_peer_that_shows_no_reset_is_an_end_and_then_a_reset() {
    for kinds in pairs().into_iter().filter(|(a, _)| !shows_resets(*a)) {
        let mut rig = Rig::new(kinds).await;
        rig.b.write_all(b"unread").await.unwrap();
        until("delivered", || rig.meter.b_to_a() == 6).await;
        reset(rig.a);
        assert_eq!(drain(&mut rig.b).await, Seen::whole(b""), "{}", rig.what);
        rig.b.write_all(b"to nobody").await.unwrap();
        let outcome = timeout(LONG, &mut rig.outcome).await.unwrap().unwrap();
        assert!(matches!(outcome.end, End::Reset { by: Side::A, .. }), "{}: {outcome:?}", rig.what);
        let torn = refusal(&mut rig.b).await;
        let closed = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset, io::ErrorKind::NotConnected];
        assert!(closed.contains(&torn), "{}: {torn:?}", rig.what);
    }
}

#[tokio::test]
async fn t3_a_reset_after_the_half_close_is_noticed_in_silence() {
    let ways = forms().into_iter().map(|other| (Form::Tcp, other));
    for forms in ways.chain(forms().into_iter().map(|other| (Form::Framed, other))) {
        let mut rig = Rig::new(forms).await;
        rig.a.shutdown().await.unwrap();
        assert_eq!(drain(&mut rig.b).await, Seen::whole(b""));
        reset(rig.a);
        let outcome = timeout(LONG, &mut rig.outcome).await.unwrap().unwrap();
        assert!(matches!(outcome.end, End::Reset { by: Side::A, .. }), "{}: {outcome:?}", rig.what);
        // The end that B saw was real; what B sends from here on goes nowhere, and B is told.
        let error = refusal(&mut rig.b).await;
        assert!(matches!(error, io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset), "{error:?}");
    }
}

#[tokio::test]
async fn a_stalled_direction_leaves_the_other_moving_and_loses_nothing() {
    const MORE: usize = 4 << 20;
    let data = bytes(6, 32 << 20);
    for kinds in pairs() {
        let mut rig = Rig::new(kinds).await;
        let sent = write_until_stalled(&mut rig.a, &data, &rig.meter).await;
        for round in 0..100_u8 {
            rig.b.write_all(&[round; 1000]).await.unwrap();
            let mut back = [0; 1000];
            timeout(LONG, rig.a.read_exact(&mut back)).await.expect("the free direction stands").unwrap();
            assert_eq!(back, [round; 1000]);
        }
        // Enough beyond what was kept for the direction to move as it did before.
        let all = &data[..data.len().min(sent + MORE)];
        let (a, b) = (&mut rig.a, &mut rig.b);
        let writing = async {
            a.write_all(&all[sent..]).await.unwrap();
            a.shutdown().await.unwrap();
        };
        let (seen, ()) = tokio::join!(drain(b), writing);
        assert_eq!(seen, Seen::whole(all), "{}", rig.what);
        rig.b.shutdown().await.unwrap();
        assert_eq!(rig.outcome().await.end, End::Orderly);
    }
}

#[tokio::test]
async fn t21_one_byte_writes_arrive_in_order_both_ways() {
    for kinds in pairs() {
        let mut rig = Rig::new(kinds).await;
        let (up, down) = (bytes(7, 3000), bytes(8, 3000));
        let (mut read_a, mut write_a) = tokio::io::split(rig.a);
        let (mut read_b, mut write_b) = tokio::io::split(rig.b);
        let send_up = async {
            for byte in &up {
                write_a.write_all(&[*byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
            write_a.shutdown().await.unwrap();
        };
        let send_down = async {
            for byte in &down {
                write_b.write_all(&[*byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
            write_b.shutdown().await.unwrap();
        };
        let (mut at_a, mut at_b) = (vec![0; 3000], vec![0; 3000]);
        let receive = async { tokio::join!(read_a.read_exact(&mut at_a), read_b.read_exact(&mut at_b)) };
        let ((), (), (left, right)) = tokio::join!(send_up, send_down, receive);
        left.unwrap();
        right.unwrap();
        assert_eq!(at_b, up, "{}", rig.what);
        assert_eq!(at_a, down, "{}", rig.what);
        assert_eq!(read_a.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(timeout(LONG, &mut rig.outcome).await.unwrap().unwrap().end, End::Orderly);
    }
}

/// The relay is over while the kernel still holds bytes for a peer that has not read yet: they must arrive.
#[tokio::test]
async fn after_an_orderly_end_the_kernel_still_delivers() {
    let data = bytes(9, 150_000);
    for (kind_a, kind_b) in pairs() {
        // One way at a time: a TCP peer that reads nothing may throw away the acknowledgements of what it sends.
        for a_speaks in [true, false] {
            let what = format!("{kind_a:?} to {kind_b:?}, a speaks: {a_speaks}");
            let (mut a, near_a) = legs(kind_a).await;
            let (mut b, near_b) = legs(kind_b).await;
            let (speaker, listener, near) =
                if a_speaks { (&mut a, &mut b, &near_b) } else { (&mut b, &mut a, &near_a) };
            // The kernel takes all at once, and the TCP peer's window does not: the end finds bytes unsent.
            SockRef::from(listener.get_ref()).set_recv_buffer_size(32 * 1024).unwrap();
            SockRef::from(near.get_ref()).set_send_buffer_size(1 << 20).unwrap();
            let (config, meter) = (RelayConfig::default(), Meter::new());
            let relaying = relay(near_a, near_b, &config, &meter, pending());
            let speaking = async {
                speaker.write_all(&data).await.unwrap();
                speaker.shutdown().await.unwrap();
                listener.shutdown().await.unwrap();
            };
            let (outcome, ()) = timeout(LONG, async { tokio::join!(relaying, speaking) }).await.unwrap();
            assert_eq!(outcome.end, End::Orderly, "{what}");
            assert_eq!(drain(listener).await, Seen::whole(&data), "{what}");
            assert_eq!(drain(speaker).await, Seen::whole(&[]), "{what}");
        }
    }
}

#[tokio::test]
async fn the_reset_future_tears_both_sides_at_once() {
    let data = bytes(10, 64 << 20);
    for stalled in [false, true] {
        for kinds in pairs() {
            let mut rig = Rig::new(kinds).await;
            if stalled {
                write_until_stalled(&mut rig.a, &data, &rig.meter).await;
            }
            rig.cut.take().unwrap().send(()).unwrap();
            assert_eq!(rig.outcome().await.end, End::Cut, "{}", rig.what);
            assert_torn(&mut rig.a, &rig.what).await;
            assert_torn(&mut rig.b, &rig.what).await;
        }
    }
}

#[tokio::test]
async fn dropping_the_relay_is_a_reset() {
    for kinds in pairs() {
        let (mut a, near_a) = legs(kinds.0).await;
        let (mut b, near_b) = legs(kinds.1).await;
        let (config, meter) = (RelayConfig::default(), Meter::new());
        // Not polled once: armed all the same.
        drop(relay(near_a, near_b, &config, &meter, pending()));
        assert_torn(&mut a, "a").await;
        assert_torn(&mut b, "b").await;
    }
}

/// No byte moves from the start on: the virtual clock stands still for everything but the limit.
#[tokio::test(start_paused = true)]
async fn t18_idle_pairs_are_reset_at_the_limit() {
    for kinds in pairs() {
        let (mut a, near_a) = legs(kinds.0).await;
        let (mut b, near_b) = legs(kinds.1).await;
        let (config, meter) = (RelayConfig::default(), Meter::new());
        let start = tokio::time::Instant::now();
        let outcome = relay(near_a, near_b, &config, &meter, pending()).await;
        assert_eq!(outcome, Outcome { a_to_b: 0, b_to_a: 0, end: End::Idle });
        assert!(start.elapsed().abs_diff(config.idle).as_secs_f64() <= 1.0, "{:?}", start.elapsed());
        assert_torn(&mut a, "a").await;
        assert_torn(&mut b, "b").await;
    }
}

#[tokio::test]
async fn t4_half_closed_pairs_that_stand_still_are_reset_at_the_linger_limit() {
    for kinds in pairs() {
        let (mut a, near_a) = legs(kinds.0).await;
        let (mut b, near_b) = legs(kinds.1).await;
        a.write_all(b"last words").await.unwrap();
        a.shutdown().await.unwrap();
        let (config, meter) = (RelayConfig::default(), Meter::new());
        let start = tokio::time::Instant::now();
        // The clock is the machine's until B has its end and all before it: a clock that jumps does not wait for a kernel that
        // delivers in a task of its own, as for AF_VSOCK. Then it is virtual.
        let ended = async {
            assert_eq!(drain(&mut b).await, Seen::whole(b"last words"));
            tokio::time::pause();
        };
        let (outcome, ()) = tokio::join!(relay(near_a, near_b, &config, &meter, pending()), ended);
        assert_eq!(outcome, Outcome { a_to_b: 10, b_to_a: 0, end: End::Linger });
        assert!(start.elapsed().abs_diff(config.linger).as_secs_f64() <= 5.0, "{:?}", start.elapsed());
        tokio::time::resume();
        // The direction that was cut off is a reset.
        refusal(&mut b).await;
        assert_torn(&mut a, "a").await;
    }
}
