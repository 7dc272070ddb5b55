//! A host that means harm, and the real enclave: what it sends is bytes of an adversary.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

use enclave_bridge_e2e::bridge::Bridge;
use enclave_bridge_e2e::enclave::SimpleEnclave;
use enclave_bridge_e2e::v1::{ACK, INIT_PORT};
use enclave_bridge_e2e::wait;
use enclave_bridge_e2e::wire::{Accepting, Wire};
use std::io::{Read, Write};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// What the enclave may grow by while it is fed what it must not keep: the cap of an environment is 1 MiB, and the
/// allocator has its slack.
const FLAT_KIB: u64 = 4 * 1024;

/// The next connection of the enclave, behind its ACK.
fn asked(init: &Accepting) -> Wire {
    let mut wire = init.accept_until(&AtomicBool::new(false)).expect("the enclave dials");
    wire.read_within(wait::SOON);
    wire.write_within(wait::SOON);
    let mut ack = [0; 2];
    wire.read_exact(&mut ack).unwrap();
    assert_eq!(ack, ACK);
    wire
}

#[test]
fn h17_a_gibibyte_for_an_environment_ends_the_start_and_costs_no_memory() {
    let mut bridge = Bridge::builder().start();
    bridge.kill();
    let init = bridge.meeting.listen_host(INIT_PORT).unwrap();
    let mut enclave = SimpleEnclave::launch(&bridge.meeting, &[]);
    let mut wire = asked(&init);
    let before = enclave.anonymous_kib();
    let block = vec![b'x'; 1 << 20];
    let mut largest = before;
    for sent in 0..=1024_u64 {
        assert!(sent < 1024, "a gibibyte of environment was taken");
        if wire.write_all(&block).is_err() {
            println!("ended within {} MiB", sent + 1);
            break;
        }
        if enclave.ended().is_none() {
            largest = largest.max(enclave.anonymous_kib());
        }
    }
    assert!(largest - before < FLAT_KIB, "grown by {} KiB", largest - before);
    // The program decides what a refusal means to it; this one ends, and says why without a byte of it.
    let code = enclave.wait(Duration::from_secs(20)).code();
    assert!(code.is_some_and(|code| code != 0), "ended with {code:?}");
    let said = enclave.stderr.text();
    assert!(said.contains("environment") && !said.contains("xxxx"), "{said}");
}
