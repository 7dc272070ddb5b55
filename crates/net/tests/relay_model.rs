//! The relay against random scripts of reads, partial writes, refusals and errors: what comes out is what went in, and an
//! end only where there was one.
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

use std::future::pending;
use std::io;
use std::sync::{Arc, Mutex};

use enclave_bridge_net::{End, Meter, Outcome, RelayConfig, SCRATCH_BYTES, Side, StreamKind, relay};
use proptest::prelude::*;
use script::{ReadStep, Script, State, WriteStep};

const RESET: io::ErrorKind = io::ErrorKind::ConnectionReset;

fn kind() -> impl Strategy<Value = StreamKind> {
    prop_oneof![Just(StreamKind::Tcp), Just(StreamKind::Unix), Just(StreamKind::Vsock)]
}

fn length() -> impl Strategy<Value = usize> {
    prop_oneof![Just(1), 1..40_usize, 1..5_000_usize, 30_000..70_000_usize]
}

fn read_step(faults: bool) -> impl Strategy<Value = ReadStep> {
    prop_oneof![
        6 => length().prop_map(ReadStep::Some),
        4 => Just(ReadStep::Pending),
        u32::from(faults) => Just(ReadStep::Fail(RESET)),
    ]
}

fn write_step(faults: bool) -> impl Strategy<Value = WriteStep> {
    prop_oneof![
        6 => length().prop_map(WriteStep::Accept),
        5 => Just(WriteStep::Pending),
        u32::from(faults) => Just(WriteStep::Fail(io::ErrorKind::BrokenPipe)),
    ]
}

fn state(faults: bool) -> impl Strategy<Value = State> {
    (
        prop_oneof![0..100_usize, 0..300_000_usize],
        any::<u64>(),
        prop::collection::vec(read_step(faults), 0..40),
        prop::collection::vec(write_step(faults), 0..40),
        0..3_usize,
    )
        .prop_map(|(len, seed, reads, writes, late)| State {
            input: common::bytes(seed, len),
            reads: reads.into(),
            writes: writes.into(),
            shutdowns: vec![Ok(()); late].into(),
            ..State::default()
        })
}

fn run(a: (StreamKind, State), b: (StreamKind, State)) -> (Outcome, Arc<Mutex<State>>, Arc<Mutex<State>>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let (near_a, a) = Script::new(a.0, a.1);
    let (near_b, b) = Script::new(b.0, b.1);
    let (config, meter) = (RelayConfig::default(), Meter::new());
    let outcome = runtime.block_on(async { relay(near_a, near_b, &config, &meter, pending()).await });
    assert_eq!((meter.a_to_b(), meter.b_to_a()), (outcome.a_to_b, outcome.b_to_a));
    (outcome, a, b)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn t25_without_faults_output_is_input_and_ends_are_exact(
        kinds in (kind(), kind()), a in state(false), b in state(false),
    ) {
        let (outcome, a, b) = run((kinds.0, a), (kinds.1, b));
        let (a, b) = (a.lock().unwrap(), b.lock().unwrap());
        prop_assert_eq!(outcome.end, End::Orderly);
        prop_assert!(b.output == a.input, "a to b differs");
        prop_assert!(a.output == b.input, "b to a differs");
        prop_assert_eq!((a.shut, b.shut), (1, 1));
        prop_assert!(a.disarmed && b.disarmed);
        prop_assert_eq!((outcome.a_to_b, outcome.b_to_a), (a.input.len() as u64, b.input.len() as u64));
        for (kind, end) in [(kinds.0, &a), (kinds.1, &b)] {
            if kind == StreamKind::Vsock {
                prop_assert!(end.write_sizes.iter().all(|size| *size <= 32 * 1024));
            }
        }
    }

    #[test]
    fn t25_with_faults_an_end_is_never_invented(
        kinds in (kind(), kind()), a in state(true), b in state(true),
    ) {
        let (outcome, a, b) = run((kinds.0, a), (kinds.1, b));
        let (a, b) = (a.lock().unwrap(), b.lock().unwrap());
        prop_assert_eq!(a.failed, matches!(outcome.end, End::Reset { by: Side::A, .. }));
        prop_assert_eq!(b.failed, matches!(outcome.end, End::Reset { by: Side::B, .. }));
        prop_assert_eq!(!a.failed && !b.failed, outcome.end == End::Orderly);
        for (from, to) in [(&a, &b), (&b, &a)] {
            prop_assert!(from.input.starts_with(&to.output), "output is no prefix of input");
            if to.shut == 1 {
                prop_assert!(from.eof_read && to.output.len() == from.input.len(), "an invented end");
            }
            prop_assert!(from.read - to.output.len() <= SCRATCH_BYTES, "more kept than one scratch buffer");
            prop_assert!(from.armed);
            prop_assert_eq!(from.disarmed, outcome.end == End::Orderly);
        }
    }
}
