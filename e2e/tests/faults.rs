//! Every kind of fault, a few streams of each; all of them by
//! `cargo nextest run -p enclave-bridge-e2e --test faults --run-ignored only` or `cargo xtask measure faults 200`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

use enclave_bridge_e2e::faults::{self, KINDS, Tally};

const SEED: u64 = 1;

fn assert_holds(name: &str, tally: &Tally, runs: u64) {
    assert!(tally.violations.is_empty(), "{}", tally.violations.join("\n"));
    assert_eq!(tally.runs, [runs; 2], "{name}");
    assert_eq!(tally.whole + tally.cut + tally.own, runs * 4, "{name}: two directions of each stream");
}

/// Two streams each way, of either form of the enclave's leg where the kind can be judged on both.
fn a_few(name: &str) {
    let tally = faults::run(faults::named(name).unwrap(), 2, 2, SEED);
    assert_holds(name, &tally, 2);
}

macro_rules! kinds {
    ($($test:ident: $name:literal,)*) => {
        const TRIED: &[&str] = &[$($name),*];
        $(#[test]
        fn $test() {
            a_few($name);
        })*
    };
}

kinds! {
    delayed: "delayed",
    single_bytes: "single-bytes",
    fragments: "fragments",
    coalesced: "coalesced",
    half_close_early: "half-close-early",
    half_close_late: "half-close-late",
    tcp_resets: "tcp-resets",
    path_resets: "path-resets",
    enclave_resets: "enclave-resets",
    enclave_cut: "enclave-cut",
    tcp_unread: "tcp-unread",
    enclave_unread: "enclave-unread",
    tcp_slow: "tcp-slow",
    enclave_slow: "enclave-slow",
    tcp_stalls: "tcp-stalls",
    enclave_stalls: "enclave-stalls",
    bridge_stopped: "bridge-stopped",
    enclave_stopped: "enclave-stopped",
    enclave_killed: "enclave-killed",
    bridge_killed: "bridge-killed",
    session_replaced: "session-replaced",
    beats_lost: "beats-lost",
    backlog_full: "backlog-full",
    no_descriptors: "no-descriptors",
}

#[test]
fn every_kind_is_tried() {
    let all: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
    assert_eq!(all, TRIED);
}

#[test]
#[ignore = "minutes: cargo nextest run -p enclave-bridge-e2e --test faults --run-ignored only --no-capture"]
fn slow_every_kind_two_hundred_times_each_way() {
    for kind in &KINDS {
        let tally = faults::run(kind, 200, 8, SEED);
        println!("{}: {} whole, {} cut", kind.name, tally.whole, tally.cut);
        assert_holds(kind.name, &tally, 200);
    }
}
